# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that fail and are replaced: their processes, the spares, and what the controller tells."""

import os
import re
import time
from datetime import datetime

from lib import lab

from . import controller, customer, host, moves, server
from . import topology as topo

STORY = re.compile(r": (taken over by (?P<spare>spare-\d+)|placed anew|started again) on server "
                   r"(?P<server>[a-z0-9-]+), .*serving after (?P<serving>[0-9.]+) ms")
STAGES = re.compile(r"noticed after (?P<noticed>[0-9.]+) ms, chosen (?P<chosen>[0-9.]+), switch confirmed "
                    r"(?P<fenced>[0-9.]+), configured (?P<configured>[0-9.]+), "
                    r"serving after (?P<serving>[0-9.]+) ms")


def qemu(uuid):
    """{pid: server} of the QEMUs of a VM; mostly one."""
    namespaces = {os.stat(f"{lab.NETNS_DIR}/{where.ns}").st_ino: where for where in topo.SERVERS}
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                argv = file.read().split(b"\0")
            where = namespaces.get(os.stat(f"/proc/{entry}/ns/net").st_ino)
        except OSError:
            continue
        if where and b"qemu-system" in argv[0] and uuid.encode() in argv:
            found[int(entry)] = where
    return found


def pvm(name):
    """(uuid, pid, server) of a port's PVM."""
    uuid = controller.query("pvm", "show", name)["vm"]["uuid"]
    (pid, where), = qemu(uuid).items()
    return uuid, pid, where


def spares(site):
    """The site's spares as the controller shows them."""
    return [s for s in controller.query("spare", "list")["items"] if s["site"] == site.name]


def want(site, number, limit_s=120):
    """Has the site so many spares, all of them ready."""
    controller.cli("site", "set", site.name, "--spares", number)
    wait_ready(site, number, limit_s)


def wait_ready(site, number, limit_s=120):
    """Waits until that many are there, and ready."""
    lab.wait_until(lambda: [s["state"] for s in spares(site)] == ["ready"] * number, limit_s,
                   f"{number} spares of site {site.name} are ready", 0.3)


def newest_event():
    """To be given to events_since()."""
    return controller.query("event", "list", "--limit", 1)["items"][0]["id"]


def events_since(newest, name):
    """Texts of an object's events."""
    return [e["text"] for e in controller.query("event", "list", "--after", newest)["items"]
            if e["object"] == name]


def wait_story(name, since, limit_s=150, kind="port"):
    """Waits until the port's VM, or the site's CVM (`kind` "cvm"), was replaced and gives service. Returns
    the text that tells of it."""
    def told():
        try:
            texts = events_since(since, f"{kind}/{name}")
        except controller.CliError:
            return None  # edgeplexd was killed
        return next((text for text in reversed(texts) if STORY.search(text)), None)
    return lab.wait_until(told, limit_s, f"the VM of {kind} {name} was replaced and serves", 0.2)


def ns_of(text):
    """A time as the controller writes it, in ns since the epoch."""
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round(at.timestamp() * 1000) * 1_000_000


def wait_stories(names, since, limit_s=150):
    """The same of several ports at once: {port: (the text, when it was told, in ns since the epoch)}. Asks
    seldom: who asks takes processor from those who are waited for."""
    found = {}

    def told():
        for event in controller.query("event", "list", "--after", since)["items"]:
            name = event["object"].removeprefix("port/")
            if name in names and STORY.search(event["text"]):
                found[name] = event["text"], ns_of(event["time"])
        return len(found) == len(names)

    lab.wait_until(told, limit_s, f"the VMs of {', '.join(names)} were replaced and serve", 1)
    return found


def voids():
    """UUIDs of VMs that are void and not ended yet."""
    return [uuid for uuid, in moves.database("SELECT uuid FROM pvm_voids")]


class Kept:
    """Looks whether a customer edge keeps its routes while it is asked to."""

    def __init__(self, edge, prefixes):
        self.edge, self.prefixes, self.missed = edge, prefixes, []

    def look(self):
        """Once; what isn't there goes to `missed`."""
        self.missed += [(time.time(), p) for p in self.prefixes
                        if not customer.bgp_route(self.edge, p)]


def neighbor_mac(edge):
    """The MAC address that a customer edge has for its PE, as the kernel learned it."""
    address = f"{edge.link4}.1"
    out = host.run(edge.ns, ["ip", "neigh", "show", address])
    found = re.search(r"lladdr (\S+)", out)
    return found.group(1) if found else None


def domains_by_uuid(where):
    """{UUID: name} of what runs on a server."""
    return dict(line.split() for line in
                server.virsh(where, "list", "--all", "--uuid", "--name").splitlines() if line.strip())
