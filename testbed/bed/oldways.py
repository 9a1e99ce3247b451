# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves of a PVM as one would do without EdgePlex's own, for comparison: stop and start again on
the other server, and libvirt's live migration, each with the edge switch's rules switched
afterwards.

EdgePlex doesn't offer them, so they are done behind the controller's back, while it doesn't run:

    with Detached(edge) as pvm:
        pvm.restart("a-right")
        pvm.start_for_precopy()
        pvm.live_migrate("a-left")

In the end the VM is gone; the controller, started again, makes a new one where it was.
"""

import re
import time
import xml.etree.ElementTree as ET

from lib.lab import wait_until

from . import controller, host, server, switch
from . import topology as topo
from .guestrpc import Guest

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
EDGEPLEX = "https://edgeplex.example/vm/1"
MIGRATION_LIMIT_S = 180
ET.register_namespace("qemu", QEMU)
ET.register_namespace("edgeplex", EDGEPLEX)


def _servers():
    return {s.name: s for s in topo.SERVERS}


# ---- the switch's rules ----------------------------------------------------------------------


def _flows(site):
    out = switch.ofctl(site.dir, "--names", "--no-stats", "dump-flows", "edge")
    return sorted(line.strip() for line in out.splitlines() if " actions=" in line)


def repointed(flow, vlans, old, new):
    """A rule with trunk `new` in the place of `old` where it means NICs with one of these VLANs."""
    match, _, actions = flow.partition(" actions=")
    came = re.search(r'\bin_port="?([\w-]+)"?', match)
    vlan = re.search(r"\bdl_vlan=(\d+)", match)
    before = after = came and came[1]
    if before == old and vlan and int(vlan[1]) in vlans:
        after = new
        match = match.replace(came[0], f'in_port="{new}"')
    parts, current = [], None
    for action in actions.split(","):
        tag = re.fullmatch(r"set_field:(\d+)->vlan_vid", action)
        if tag:
            current = int(tag[1]) & 0xfff  # without the bit that says "tagged"
        port = before if action == "IN_PORT" else action.replace('"', "").removeprefix("output:")
        if action == "IN_PORT" or action.startswith("output:"):
            port = new if port == old and current in vlans else port
            # OpenFlow sends nothing back by the port it came from, unless told to by this name.
            action = "IN_PORT" if port == after else f'output:"{port}"'
        parts.append(action)
    return f"{match} actions={','.join(parts)}"


def repoint(site, vlans, old, new):
    """Makes the edge switch find the NICs with these VLANs on trunk `new`: one atomic bundle."""
    if old == new:
        return 0
    removed, added = [], []
    for flow in _flows(site):
        wanted = repointed(flow, vlans, old, new)
        if wanted.replace('"', "") != flow.replace('"', ""):
            match = re.sub(r"cookie=\w+, ", "", flow.partition(" actions=")[0])
            removed.append(f"flow delete_strict {match}")
            added.append(f"flow add {wanted}")
    switch.ofctl(site.dir, "bundle", "edge", "-", stdin="\n".join(removed + added) + "\n")
    return len(added)


# ---- the VM ----------------------------------------------------------------------------------


def plain_domain(xml, memory_kib=None):
    """The domain without what belongs to one start of it, and without what only EdgePlex's own
    moves need.

    With `memory_kib`, it gets just that much memory, in an object of its own: libvirt rounds to
    MiB, and with a multiple of 256 KiB TCG's record of changed pages is wrong, which breaks
    QEMU's migration silently (docs/notes/memory.md).
    """
    tree = ET.fromstring(xml)
    for parent in tree.iter():
        for name in ("alias", "seclabel", "memoryBacking"):
            for child in parent.findall(name):
                parent.remove(child)
    for channel in tree.iter("channel"):
        channel.find("source").attrib.pop("path", None)
    for old in tree.findall(f"{{{QEMU}}}commandline"):
        tree.remove(old)
    if memory_kib:
        command = ET.SubElement(tree, f"{{{QEMU}}}commandline")
        for word in ("-object", f"memory-backend-ram,id=exact,size={memory_kib}K",
                     "-machine", "memory-backend=exact", "-m", f"{memory_kib}K"):
            ET.SubElement(command, f"{{{QEMU}}}arg").set("value", word)
    return ET.tostring(tree, encoding="unicode")


class Detached:
    """A customer's PVM in our own hands while a `with` block lasts: edgeplexd doesn't run."""

    def __init__(self, edge):
        self.edge, self.domain = edge, f"pvm-{edge.name}"
        self.site = next(s for s in topo.SITES if s.name == edge.site)
        port = controller.query("port", "show", edge.name)
        self.home = self.server = port["server"]
        self._vlans = set(port["vlans"].values())
        self._cvm_server = controller.query("cvm", "show", self.site.name)["server"]
        self._xml = self._config = None
        self._rules = _flows(self.site)

    def __enter__(self):
        where = _servers()[self.home]
        self._xml = plain_domain(server.virsh(where, "dumpxml", "--inactive", self.domain))
        host.ask({"do": "stop", "name": "edgeplexd"})
        wait_until(lambda: host.daemons()["edgeplexd"]["pid"] is None, 30, "edgeplexd has ended")
        try:
            self._config = self.ask("pvm.config")
            if not self._config:
                raise host.TestbedError(f"{self.domain} isn't configured")
        except BaseException:
            controller.start()
            raise
        return self

    def __exit__(self, *_exc):
        try:
            for place in self.site.servers:
                if self._exists(place):
                    server.virsh(place, "destroy", self.domain)
            self._point_to(self.home)
            left = _flows(self.site)
            if left != self._rules:
                raise host.TestbedError("the edge switch's rules aren't as they were")
        finally:
            controller.start()
        wait_until(self._is_up, 120, f"PVM {self.edge.name} is up again", interval_s=0.5)

    def _is_up(self):
        return controller.query("pvm", "show", self.edge.name)["state"] == "up"

    def _exists(self, place):
        return self.domain in server.virsh(place, "list", "--all", "--name").split()

    def ask(self, method, **params):
        """Calls a method of the VM where it is now."""
        with Guest(_servers()[self.server], self.domain) as guest:
            return guest.call(method, **params)

    def ask_vms(self, _edge=None):
        """{"PVM …": its neighbours, "CVM …": …}, as sessions.snapshot() takes it, from the VMs
        themselves."""
        with Guest(_servers()[self._cvm_server], f"cvm-{self.site.name}") as cvm:
            return {f"PVM {self.edge.name}": self.ask("pvm.status")["neighbors"],
                    f"CVM {self.site.name}": cvm.call("cvm.status")["neighbors"]}

    def _point_to(self, name):
        trunks = {s.name: s.trunk for s in self.site.servers}
        repoint(self.site, self._vlans, trunks[self.server], trunks[name])
        self.server = name

    def _start(self, name, xml):
        path = f"{topo.RUN}/traffic/{self.domain}.xml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(xml)
        server.virsh(_servers()[name], "create", path)

    def configure(self, limit_s=120):
        """Gives a VM that has just begun its configuration, as soon as it can take it."""
        wait_until(lambda: self.ask("pvm.configure", **self._config) is not None, limit_s,
                   f"{self.domain} is configured")

    def restart(self, to, xml=None):
        """Stops the VM and starts it on server `to`, and configures it. Returns {"total_s"}: until
        it is configured; its routes come later."""
        start = time.monotonic()
        server.virsh(_servers()[self.server], "destroy", self.domain)
        self._point_to(to)
        self._start(to, xml or self._xml)
        self.configure()
        return {"total_s": time.monotonic() - start, "bytes": 0}

    def start_for_precopy(self, memory_kib):
        """Starts the VM anew where it is, with memory that QEMU's own migration can be trusted
        with."""
        if memory_kib % 256 == 0:
            raise ValueError("a multiple of 256 KiB breaks migration under TCG")
        self.restart(self.server, plain_domain(self._xml, memory_kib))

    def live_migrate(self, to):
        """libvirt's live migration, peer to peer; the switch's rules follow when it has ended.

        Returns {"total_s", "bytes", "downtime_ms"}: downtime as libvirt tells it. Raises
        TestbedError when libvirt failed, or when the VM doesn't answer afterwards.
        """
        source, destination = _servers()[self.server], _servers()[to]
        path = f"{topo.RUN}/traffic/migration.sock"
        start = time.monotonic()
        host.run(None, ["virsh", "-q", "-c", source.uri, "migrate", "--live", "--p2p",
                        self.domain, destination.uri.replace("qemu:", "qemu+unix:"),
                        "--migrateuri", f"unix://{path}"], limit_s=MIGRATION_LIMIT_S)
        migrated = time.monotonic()
        self._point_to(to)
        total = time.monotonic() - start
        stats = dict(re.findall(r"^(\S+): *(\d+)$", server.virsh(
            destination, "domjobinfo", self.domain, "--completed", "--rawstats"), re.M))
        self.ask("guest.info")
        return {"total_s": total, "migrate_s": migrated - start,
                "bytes": int(stats.get("data_processed", 0)),
                "downtime_ms": int(stats.get("downtime", 0))}
