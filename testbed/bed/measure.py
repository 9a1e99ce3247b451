# SPDX-License-Identifier: GPL-2.0-or-later
"""A customer's traffic around a move of its PVM, and everything that can be noticed of the move.

    with Rig(edge, load="bgp") as rig:
        seen = rig.observe(lambda: migrate(edge, "a-left"), source="a-right", destination="a-left")
        assert seen["problems"] == []
        rig.end()               # raises when tables aren't right, route by route

Loads, each with what the ones before it have: "idle" (nothing), "probes" (numbered UDP packets,
1 kHz in each direction), "tcp" (a TCP flow), "bgp" (200 updates/s from the customer, 200 from the
core; the other site is away meanwhile). With any but the first, ARP and ND questions are asked all the time as well. Packets go to and
come from a host in the core (corehost.py).
"""

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

from lib.lab import wait_until

from . import bgpload, bgpmsg, checks, churn, controller, core, corehost, host, probes, sessions
from . import tcpflow, watcher, wire
from . import topology as topo

LOADS = ("idle", "probes", "tcp", "bgp")
QUESTIONS_PER_S = 20
UPDATES_PER_S = 200
AFTERMATH_NS = 2_000_000_000  # a window goes on so long after the move
BACK_S = 180  # until traffic flows again, however long the way of moving broke it


def migrate(edge, to):
    """EdgePlex's own move. Returns {"total_s", "bytes", "paused_ms", "steps"}."""
    operation = controller.query("pvm", "migrate", edge.name, "--to", to, limit_s=180)
    details = " ".join(step["detail"] for step in operation["steps"])
    copied = re.search(r"([\d.]+) MB", details)
    still = re.search(r"stood still ([\d.]+) ms", details)
    return {"total_s": sum(step["took_ms"] for step in operation["steps"]) / 1000,
            "bytes": int(float(copied[1]) * 1e6) if copied else None,
            "paused_ms": float(still[1]) if still else None,
            "steps": {step["name"]: step["took_ms"] for step in operation["steps"]}}


@contextmanager
def questions(edge):
    """ARP requests and neighbour solicitations for the PVM's addresses, all the time."""
    with subprocess.Popen(
            ["ip", "netns", "exec", edge.ns, sys.executable, "-B", "-m", "bed.asker", "pe",
             str(QUESTIONS_PER_S), f"{edge.link4}.2,{edge.link4}.1",
             f"{edge.link6}:2,{edge.link6}:1"], stdin=subprocess.PIPE,
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) as asker:
        try:
            yield
        finally:
            asker.stdin.close()
            asker.wait(10)


@contextmanager
def sites_away(sites):
    """The route reflector has no session with these sites for the length of a block. Their VMs would have all of a
    churn, too, and under TCG that is half of a processor each."""
    where = ("configure terminal", f"router bgp {topo.PROVIDER_ASN}")
    core.vtysh(*where, *(f"neighbor {site.pe_address} shutdown" for site in sites))
    try:
        yield
    finally:
        core.vtysh(*where, *(f"no neighbor {site.pe_address} shutdown" for site in sites))


@contextmanager
def far_site_away(edge):
    """The other site is away for the length of a block, or until what it gives is called; once it is back, the far
    customer edge has to get everything."""
    with ExitStack() as stack:
        stack.enter_context(sites_away([s for s in topo.SITES if s.name == topo.far(edge).site]))

        def back():
            stack.close()
            checks.wait_established([topo.far(edge)])

        try:
            yield back
        finally:
            back()


class Rig:
    """See the module's text."""

    def __init__(self, edge, load="bgp", rate=1000, updates=UPDATES_PER_S):
        self.edge, self.far = edge, topo.CORE_HOST
        self._level = LOADS.index(load)
        self._rate, self._updates = rate, updates
        self._stack = ExitStack()
        self.probes = self.tcp = self.load = self.watch = self._far_site = None
        self._port = self._cvm = None
        self._began_ns = self._churning_ns = 0

    def __enter__(self):
        with self._stack as stack:
            self.watch = stack.enter_context(watcher.watching())
            if self._level >= LOADS.index("bgp"):
                self._far_site = stack.enter_context(far_site_away(self.edge))
                self.load = stack.enter_context(bgpload.Load(self.edge, self._updates))
            if self._level >= LOADS.index("probes"):
                stack.enter_context(corehost.attached(self.edge))
                stack.enter_context(questions(self.edge))
                self.probes = stack.enter_context(
                    probes.Probes(self.edge, self.far, self._rate))
                self.probes.settled(time.time_ns())
            if self._level >= LOADS.index("tcp"):
                self.tcp = stack.enter_context(tcpflow.TcpFlow(self.edge, self.far))
            if self.load:
                self._churning_ns = time.time_ns()
                self.load.run()
            # Not earlier: the load gives the port further addresses.
            self._port = controller.query("port", "show", self.edge.name)
            self._cvm = controller.query("cvm", "show", self.edge.site)
            self.flowing()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def served(self, vms=None, limit_s=BACK_S):
        """Waits until the customer has all sessions and routes that it should have."""
        away = None
        far = topo.far(self.edge)
        if self.load:
            away = next(s.pe_address for s in topo.SITES if s.name == far.site)
        wait_until(lambda: sessions.established(self.edge, vms, away), limit_s,
                   "all sessions are Established", interval_s=0.3)
        if not away:
            checks.wait_routes([self.edge, far], limit_s)
        if self.probes:
            for prefix in (self.far.prefix4, self.far.prefix6):
                checks.wait_route(self.edge, prefix, limit_s=limit_s)

    def flowing(self, limit_s=BACK_S):
        """Waits until all that there is of traffic arrives, and counts end()'s losses from here."""
        if self.probes:
            self.probes.settled(time.time_ns(), limit_s)
        if self.tcp:
            wait_until(self.tcp.flowing, limit_s, "TCP's data arrives", interval_s=0.5)
        self._began_ns = time.time_ns()

    # ---- observing -------------------------------------------------------------------------

    def observe(self, do, source, destination, vms=None):
        """Calls `do()`, the move of the PVM from one server to the other, and returns what was
        noticed, and `problems`: what of that a hitless move wouldn't have caused.

        `vms` asks the VMs for their sessions, as sessions.snapshot() takes it.
        """
        before = sessions.snapshot(self.edge, vms)
        rto_ms = self.tcp.rto_ms() if self.tcp else None
        if self.probes:
            self.probes.settled(time.time_ns(), BACK_S)
        core_link = wire.Tcpdump(topo.CORE_NS, f"pe-{self.edge.site}",
                                 f"{wire.DIR}/core-bgp.pcap", "tcp port 179", snap=0)
        with wire.Wire(self._port, self._cvm, source, destination) as captured:
            core_link.start()
            try:
                from_ns = time.time_ns()
                moved = do()
                until_ns = time.time_ns()
                if self.probes:
                    self.probes.settled(until_ns, BACK_S)
                    until_ns = time.time_ns() + AFTERMATH_NS
                    self.probes.settled(until_ns, BACK_S)
                core_link.stop()
            finally:
                core_link.kill()
        seen = {"from_ns": from_ns, "until_ns": until_ns, "moved": moved or {}}
        seen["switched"] = captured.switched()
        seen["t_m_ms"] = wire.t_m_ms(seen["switched"])
        seen["speaker"] = captured.one_speaker()
        self._add_traffic(seen)
        if self.tcp:
            seen["tcp"]["rto_ms"] = rto_ms
        seen["resets"] = sessions.resets(before, sessions.snapshot(self.edge, vms))
        seen["reset_sessions"] = sessions.count(self.edge, seen["resets"])
        seen["core_told"] = self._core_told(from_ns, until_ns)
        seen["problems"] = _problems(seen)
        return seen

    def quiet(self, seconds):
        """The same streams, for so long, without a move."""
        if not self.probes:
            return {}
        seen = {"from_ns": time.time_ns()}
        seen["until_ns"] = seen["from_ns"] + int(seconds * 1e9)
        self.probes.settled(seen["until_ns"], seconds + BACK_S)
        self._add_traffic(seen)
        return seen

    def _add_traffic(self, seen):
        window = seen["from_ns"], seen["until_ns"]
        if self.probes:
            flows = self.probes.window(*window)
            seen["flows"], seen["probes"] = flows, probes.total(flows)
        if self.tcp:
            silence = self.tcp.silence(*window)
            seen["tcp"] = {"alive": self.tcp.alive(),
                           "stall_ms": max((s[0] for s in silence.values() if s), default=None)}

    def _core_told(self, from_ns, until_ns):
        """What the core was told about routes that don't churn, as text: by the CVM on the wire,
        and by the route reflector to its other clients."""
        site = next(s for s in topo.SITES if s.name == self.edge.site)
        mine = set(churn.Churn("ce").prefixes)
        said = [(ns, change) for ns, kind, body in wire.bgp_messages(
                    wire.read(f"{wire.DIR}/core-bgp.pcap"), site.pe_address, topo.RR_ADDRESS)
                if kind == bgpmsg.UPDATE and from_ns <= ns for change in bgpmsg.changes(body)]
        said += self.watch.changes(from_ns, until_ns)
        return [f"{'announced' if c.announced else 'withdrawn'}: {c.rd} {c.prefix} via "
                f"{c.next_hop}" for _, c in said if c.rd != bgpload.RD and c.prefix not in mine]

    def _update_rates(self, until_ns):
        """{"ce": changes per second that reached the core's other clients, "core": …}."""
        mine = set(churn.Churn("ce").prefixes)
        told = [change for _, change in self.watch.changes(self._churning_ns, until_ns)]
        seconds = (until_ns - self._churning_ns) / 1e9
        return {"ce": sum(c.prefix in mine for c in told) / seconds,
                "core": sum(c.rd == bgpload.RD for c in told) / seconds}

    # ---- the end ---------------------------------------------------------------------------

    def end(self, with_fib=True, limit_s=180):
        """Ends the traffic, and returns {"probes": totals of the whole run, "updates": how many were
        sent, "converged_s"}. Raises TimeoutError when the tables don't become right."""
        found = {}
        if self.load:
            found["updates"] = self.load.stop()
            stopped_ns = time.time_ns()
            found["updates_per_s"] = self._update_rates(stopped_ns)
            self._far_site()
            self.load.wait_right(limit_s, with_fib)
            found["converged_s"] = (time.time_ns() - stopped_ns) / 1e9
        if self.probes:
            found["probes"] = probes.total(self.probes.end(self._began_ns))
        if self.watch.sessions() != 1:
            raise host.TestbedError("the watcher itself lost its session with the core")
        return found


def _problems(seen):
    """What a hitless move doesn't cause, as text."""
    found = list(seen["resets"]) + list(seen["speaker"]["violations"])
    found += [f"the core was told: {text}" for text in seen["core_told"]]
    for key in ("lost", "duplicated"):
        if seen.get("probes", {}).get(key):
            found.append(f"{seen['probes'][key]} probes were {key}")
    tcp = seen.get("tcp")
    if tcp and not tcp["alive"]:
        found.append("the TCP connection ended")
    return found
