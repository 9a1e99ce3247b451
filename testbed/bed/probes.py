# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams of numbered UDP packets between two customer edges, and what became of them.

    with Probes(near, far) as probes:
        start = clock.now_ns()
        ...
        lost = total(probes.window(start, clock.now_ns()))["lost"]

Both directions, IPv4 and IPv6, by edgeplex-probe.
"""

import json
import os
import signal
import subprocess
import time

from lib.lab import wait_until

from . import controller, host
from . import topology as topo

PROGRAM = f"{controller.BUILD}/edgeplex-probe"
DIR = f"{topo.RUN}/traffic"
PORT = 47100
EVERY = {4: 1, 6: 10}  # a flow sends in each so many ticks


def _start(ns, argv, name):
    os.makedirs(DIR, exist_ok=True)
    with open(f"{DIR}/{name}.log", "ab") as log:
        return subprocess.Popen(
            host.at(ns, argv), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=log, text=True)


def _end(child, limit_s=20):
    """Ends a process by TERM and returns what it printed, parsed line by line."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=limit_s)
    if child.returncode != 0:
        raise host.TestbedError(f"{child.args}: exit {child.returncode}, see {DIR}")
    return [json.loads(line) for line in out.splitlines()]


class Probes:
    """Probes between a customer edge, or several, and a far one while a `with` block lasts.

    IPv4 at `rate` per second in each direction, IPv6 at a tenth of that: two cores that emulate
    six VMs have no more to give. `limit_s` bounds it should nobody end it. Flows are called like
    "green-a>green-b v4"; `sparse` has those that send less often: {flow's name: in each so many
    ticks}.
    """

    def __init__(self, near, far_edge, rate=1000, versions=(4, 6), limit_s=3600, sparse=None):
        self.rate, self.limit_s = rate, limit_s
        self.flows = {}  # {number: (name, from, to, version)}
        nears = near if isinstance(near, (list, tuple)) else [near]
        pairs = [(a, b, v) for edge in nears for a, b in ((edge, far_edge), (far_edge, edge))
                 for v in versions]
        for number, (a, b, version) in enumerate(pairs, 1):
            self.flows[number] = (f"{a.name}>{b.name} v{version}", a, b, version)
        self._every = {name: (sparse or {}).get(name, EVERY[version])
                       for name, _, _, version in self.flows.values()}
        self._edges = (*nears, far_edge)
        self._receivers, self._senders = {}, {}
        # {flow's name: how many}, once ended. Unsent ones (there was no route) are among the sent,
        # and so among the lost.
        self.sent, self.unsent = {}, {}

    def _file(self, edge):
        return f"{DIR}/probes-{edge.name}.rec"

    def __enter__(self):
        try:
            for edge in self._edges:
                child = _start(edge.ns, [PROGRAM, "receive", "--port", PORT, "--file",
                                         self._file(edge), "--seconds", self.limit_s],
                               f"receive-{edge.name}")
                self._receivers[edge.name] = child
                if "listening" not in child.stdout.readline():
                    raise host.TestbedError(f"{child.args} doesn't listen, see {DIR}")
            for edge in self._edges:
                argv = [PROGRAM, "send", "--port", PORT, "--rate", self.rate, "--seconds",
                        self.limit_s]
                for number, (name, a, b, version) in self.flows.items():
                    if a == edge:
                        ends = (a.host4, b.host4) if version == 4 else (a.host6, b.host6)
                        argv += ["--flow", f"{number},{','.join(ends)},{self._every[name]}"]
                self._senders[edge.name] = _start(edge.ns, argv, f"send-{edge.name}")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind, *_exc):
        if kind is not None:
            self.kill()
        elif self._senders:
            self.end()

    def kill(self):
        """Ends all, whatever state it is in."""
        for child in (*self._senders.values(), *self._receivers.values()):
            if child.poll() is None:
                child.kill()
            child.communicate()
        self._senders, self._receivers = {}, {}

    def end(self, from_ns=0):
        """Ends sending, lets what is under way arrive, and returns window(from_ns): of the whole
        run, or of what was due since then.

        Here also what was lost after the last packet that arrived counts.
        """
        try:
            for child in self._senders.values():
                result = _end(child)[-1]
                for flow in result["flows"]:
                    name = self.flows[flow["flow"]][0]
                    self.sent[name], self.unsent[name] = flow["sent"], flow["failed"]
            for child in self._receivers.values():
                result = _end(child)[-1]
                if result["overrun"]:
                    raise host.TestbedError(
                        f"the receiver was too slow for {result['overrun']} probes: measure again "
                        "with less load on the machine")
        except BaseException:
            self.kill()
            raise
        self._senders, self._receivers = {}, {}
        flows = self.window(from_ns)
        for name, flow in flows.items():
            tail = self.sent[name] - 1 - flow["last_seq"]
            flow["expected"] += tail
            flow["lost"] += tail
        return flows

    def window(self, from_ns=0, until_ns=None, largest=10):
        """{flow's name: what edgeplex-probe reports of it} for a window of time.

        A probe belongs to the window in which it was due, a gap to the one in which it begins; so
        look a little later than the window ends (see settled()).
        """
        flows = {name: {"expected": 0, "received": 0, "lost": 0, "duplicated": 0, "reordered": 0,
                        "last_seq": -1, "gaps": [], "gap_ms": {"max": 0}, "delay_ms": {"p99": 0, "max": 0},
                        "sent_gap_max_ms": 0} for name, *_ in self.flows.values()}
        for edge in self._edges:
            argv = [PROGRAM, "report", self._file(edge), "--from", int(from_ns), "--largest",
                    largest]
            if until_ns is not None:
                argv += ["--until", int(until_ns)]
            for flow in json.loads(host.run(None, argv))["flows"]:
                if flow["flow"] in self.flows:
                    flows[self.flows[flow["flow"]][0]] = flow
        return flows

    def settled(self, after_ns, limit_s=30):
        """Waits until every flow has received a probe that was due after `after_ns`."""
        # Reports cost time that the probes need: none before there can be something in it.
        wait_until(lambda: time.time_ns() > after_ns, (after_ns - time.time_ns()) / 1e9 + 1,
                   "the time has come", interval_s=0.1)
        wait_until(lambda: all(flow["received"] for flow in self.window(after_ns).values()),
                   limit_s, "probes arrive in every direction", interval_s=0.2)


def total(flows):
    """Flows taken together: sums of what was lost and so on, and the worst gap of those that have a
    packet in each tick (the others' are longer by nature)."""
    dense = [flow for name, flow in flows.items() if EVERY[int(name[-1])] == 1]
    flows = list(flows.values())
    return {
        **{key: sum(flow[key] for flow in flows)
           for key in ("expected", "received", "lost", "duplicated", "reordered")},
        "gap_ms": max((flow["gap_ms"]["max"] for flow in dense), default=0),
        "delay_p99_ms": max((flow["delay_ms"]["p99"] for flow in flows), default=0),
        "sent_gap_ms": max((flow["sent_gap_max_ms"] for flow in dense), default=0),
    }
