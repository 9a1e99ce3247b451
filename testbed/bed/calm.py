# SPDX-License-Identifier: GPL-2.0-or-later
"""All of the machine's processors are wanted by many at once, and nothing fails: does anybody act as if?

    seen = calm.watch(45)
    assert seen["problems"] == []
"""

import os
import re
import subprocess
import sys
import time

from lib.lab import wait_until

from . import chaos, controller, healing, host, sessions, wholeness
from . import topology as topo

LOOK_S = 2
READY_S = 60  # after it all, for spares that were too slow to answer
PER_CORE = 8
BURN = "while True: pass"
HEALS = re.compile(r'^edgeplex_heals_total\{cause="([^"]+)",way="([^"]+)"\} (\d+)', re.MULTILINE)


class Burners:
    """So many processes that do nothing but use a processor, for the length of a block.

    Where the kernel groups tasks by session, each daemon and each VM of the testbed is a group of its own;
    and so is each of these: they get as much as whoever they take it from.
    """

    def __init__(self, number):
        self._number, self._children = number, []

    def __enter__(self):
        try:
            for _ in range(self._number):
                self._children.append(subprocess.Popen(
                    [sys.executable, "-c", BURN], stdin=subprocess.DEVNULL, start_new_session=True))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc):
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        self._children = []

    def live(self):
        """Do they all still burn?"""
        return all(child.poll() is None for child in self._children)


def picture(thorough=True):
    """All that a reaction would change. `thorough`: also what only the VMs and the routers know."""
    metrics = host.run(None, ["curl", "-s", "--unix-socket", controller.SOCKET,
                              "http://localhost/metrics"])
    seen = {
        "event": {e["id"]: f"{e['severity']} {e['object']}: {e['text']}"
                  for e in controller.query("event", "list", "--limit", 500)["items"]},
        "operation": {o["id"]: f"{o['verb']} {o['object']}: {o['state']}"
                      for o in controller.query("operation", "list")["items"]},
        "VM": {f"{guest} on {where}": f"process {pid}, {uuid}"
               for pid, (where, guest, uuid) in wholeness.vms().items()},
        "place": {who: f"{uuid} on {where}, VLANs {sorted(vlans)}"
                  for where, uuid, who, vlans in wholeness.placements()},
        "server": {s["name"]: s["health"] for s in controller.query("server", "list")["items"]},
        "heals": {f"{cause} {way}": number for cause, way, number in HEALS.findall(metrics)},
    }
    if thorough:
        seen["program"] = {f"{kind} {name}: {p['name']}": f"started {p['restarts']} times again"
                           for kind, name in (*(("pvm", edge.name) for edge in topo.CES),
                                              *(("cvm", site.name) for site in topo.SITES))
                           for p in controller.query(kind, "processes", name)["items"]}
        seen["sessions"] = {edge.name: sessions.snapshot(edge) for edge in topo.CES}
    return seen


def differences(before, after):
    """What changed, as text."""
    found = []
    for what, new in after.items():
        old = before[what]
        if what == "sessions":
            found += [text for edge in old for text in sessions.resets(old[edge], new[edge])]
            continue
        found += [f"{what}: {name} is {new.get(name)}, was {old.get(name)}"
                  for name in sorted(set(old) | set(new), key=str) if old.get(name) != new.get(name)]
    return found


def watch(seconds, site=topo.SITES[0], per_core=PER_CORE, tell=None):
    """Keeps the processors busy for so long, or until somebody reacts. Returns {"problems": what changed, as
    text; "burners", "seconds", "load": the largest of a minute, "spares_missed": in how many looks a
    spare had not answered, "looks"}. `tell` gets a line of text now and then."""
    number = per_core * os.cpu_count()
    seen = {"burners": number, "load": 0.0, "spares_missed": 0, "looks": 0, "problems": []}
    before, start = picture(), time.monotonic()
    told = start
    with Burners(number) as burners:
        while time.monotonic() - start < seconds and not seen["problems"]:
            chaos.pause(LOOK_S)
            seen["problems"] = differences(before, picture(thorough=False))
            seen["looks"] += 1
            seen["spares_missed"] += any(s["state"] != "ready" for s in healing.spares(site))
            seen["load"] = max(seen["load"], os.getloadavg()[0])
            if tell and time.monotonic() - told > 30:
                told = time.monotonic()
                tell(f"{told - start:.0f} s: load {os.getloadavg()[0]:.1f}, {seen['looks']} looks")
        seen["seconds"] = time.monotonic() - start
        if not burners.live():
            seen["problems"].append("a burner has ended: the load wasn't what it should be")
    seen["problems"] = list(dict.fromkeys(seen["problems"] + differences(before, picture())))
    try:
        wait_until(lambda: all(s["state"] == "ready" for s in healing.spares(site)), READY_S,
                   "the spares answer", 0.5)
    except TimeoutError as error:
        seen["problems"].append(str(error))
    return seen
