# SPDX-License-Identifier: GPL-2.0-or-later
"""Several PVMs of a server that are moved at once, each with packets both ways between its customer
edge and a host in the core; and a customer of the same site who isn't moved.

    with Rig(8, rate=100) as rig:
        seen = rig.observe(rig.drain)       # or rig.back
        assert seen["problems"] == []
"""

import time
from contextlib import ExitStack

from . import controller, corehost, moreedges, probes, sessions
from . import topology as topo

BYSTANDER = topo.ce("red-a")
LIMIT_S = 300
QUIET_NS = 5_000_000_000
AFTERMATH_NS = 2_000_000_000


def _where(flows, from_ns):
    """Where the largest gaps of flows are, as text."""
    return ", ".join(
        f"{name}: {flow['lost']} lost, {flow['gaps'][0]['gap_ms']:.0f} ms without any from "
        f"{(flow['gaps'][0]['at_ns'] - from_ns) / 1e9:.2f} s on"
        for name, flow in flows.items() if flow["gaps"])


class Rig:
    """See the module's text."""

    def __init__(self, count, rate):
        site = next(s for s in topo.SITES if s.name == BYSTANDER.site)
        cvm = controller.query("cvm", "show", site.name)["server"]
        # Away from the CVM: that is moved by moves of its own.
        self.here = next(s.name for s in site.servers if s.name != cvm)
        self.there = cvm
        self._count, self._rate = count, rate
        self._stack = ExitStack()
        self.edges, self._probes, self._bystander = (), None, None

    def __enter__(self):
        with self._stack as stack:
            # Both others of the site stay where they are.
            for edge in (BYSTANDER, topo.ce("green-a")):
                if controller.query("port", "show", edge.name)["server"] != self.there:
                    controller.cli("pvm", "migrate", edge.name, "--to", self.there)
            self.edges = stack.enter_context(moreedges.attached(self._count, self.here))
            far = stack.enter_context(corehost.attached(*self.edges))
            self._probes = stack.enter_context(
                probes.Probes(self.edges, far, self._rate, versions=(4,)))
            self._bystander = stack.enter_context(probes.Probes(
                BYSTANDER, topo.far(BYSTANDER), self._rate, versions=(4,)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def drain(self):
        """Moves all away, and puts the server into service again."""
        controller.cli("server", "drain", self.here, limit_s=LIMIT_S)
        controller.cli("server", "undrain", self.here)
        moreedges.wait_on(self.edges, self.there)

    def back(self):
        """Moves all of them back."""
        moreedges.move(self.edges, self.here, LIMIT_S)

    def _flows(self, from_ns, until_ns):
        """{PVM: its figures} of a window of time."""
        flows = self._probes.window(from_ns, until_ns) | self._bystander.window(from_ns, until_ns)
        found = {}
        for edge in (*self.edges, BYSTANDER):
            mine = {name: flow for name, flow in flows.items()
                    if edge.name in name.split()[0].split(">")}
            total = probes.total(mine)
            found[edge.name] = {"expected": total["expected"], "lost": total["lost"],
                                "duplicated": total["duplicated"], "gap_ms": total["gap_ms"],
                                "p99_ms": total["delay_p99_ms"],
                                "where": _where(mine, from_ns)}
        return found

    def _settled(self, ns):
        self._probes.settled(ns, LIMIT_S)
        self._bystander.settled(ns, LIMIT_S)

    def _sessions(self):
        return {edge.name: sessions.snapshot(edge) for edge in (*self.edges, BYSTANDER)}

    def observe(self, do):
        """Calls `do()` and returns what was noticed of it: {"took_s", "quiet": {PVM: figures before},
        "moved": {PVM: figures meanwhile}, "resets": {PVM: how many}, "problems": [text]}."""
        before = self._sessions()
        quiet_ns = time.time_ns()
        self._settled(quiet_ns + QUIET_NS)
        from_ns = time.time_ns()
        quiet = self._flows(quiet_ns, quiet_ns + QUIET_NS)
        do()
        took_s = (time.time_ns() - from_ns) / 1e9
        until_ns = time.time_ns() + AFTERMATH_NS
        self._settled(until_ns)
        moved = self._flows(from_ns, until_ns)
        after = self._sessions()
        lost = {name: sessions.resets(before[name], after[name]) for name in before}
        problems = [text for texts in lost.values() for text in texts]
        problems += [f"{name}: {figures[what]} packets were {what}; {figures['where']}"
                     for name, figures in moved.items() for what in ("lost", "duplicated")
                     if figures[what]]
        return {"took_s": took_s, "quiet": quiet, "moved": moved, "problems": problems,
                "resets": {name: len(texts) for name, texts in lost.items()}}
