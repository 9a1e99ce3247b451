#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints how long it takes a real switch to confirm each phase of a PVM's move: by fabric_change(),
and beside it by fabric_apply(), which reads the switch's table; and for how long afterwards the
switch's cache of decisions lets BGP go the old way; before that, how long a switch that restarts
without rules takes to have all of them. Usage: bench_fabric.py [MOVES]"""

import os
import re
import statistics
import struct
import sys
import threading
import time

from scapy.all import Dot1Q, Ether, IP, TCP

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
from drivers import Drivers, Switch, Wires  # noqa: E402  pylint: disable=wrong-import-position
from lib.lab import Lab  # noqa: E402  pylint: disable=wrong-import-position

PHASES = ["control in", "control moved", "data moved", "at destination"]
SIZES = (20, 1000)
WIRES = ["core", "cust", "left", "right"]


def port(i):
    """A customer's port, with an IPv4 and an IPv6 address."""
    high, low = divmod(i, 250)
    return {
        "id": 100 + i, "customer": 1 + i // 2, "switch_port": "cust", "vlan": 1 + i,
        "mac": f"02:ed:00:01:{high:02x}:{low:02x}", "label": 2000 + i, "trunk": "left",
        "addresses": ["192.168.1.1/30", "fd00:a1::1/64"], "cust_vlan": 200 + 2 * i,
        "core_vlan": 201 + 2 * i, "inside_address": f"100.64.{8 + high}.{low}"}


def site(ports):
    """A site with this many ports, all on one server."""
    return {
        "id": 1, "core_port": "core", "pe_mac": "02:ed:00:00:00:01", "pe_address": "10.0.0.1",
        "core_address": "192.0.2.2/30", "gateway": "192.0.2.1", "transport_label": 16001,
        "cvm": {"trunk": "left", "core_vlan": 110, "inside_vlan": 111,
                "inside_mac": "02:ed:00:00:01:01", "inside_address": "100.64.1.1"},
        "ports": [port(i) for i in range(ports)]}


def measure(drivers, ports, moves):
    """({phase: {quick: [ms]}}, flows in the table, {phase: flows changed})."""
    facts, times, changed = site(ports), {}, {}
    moved = facts["ports"][ports // 2]
    moved["to_trunk"] = "right"
    for quick in (True, False):
        for _ in range(moves):
            moved["phase"] = 0
            flows = drivers("fabric_apply", site=facts, timeout_ms=60000, limit_s=90)
            for phase, name in enumerate(PHASES, 1):
                moved["phase"] = phase
                result = drivers("fabric_apply", site=facts, quick=quick, timeout_ms=60000)
                times.setdefault(name, {}).setdefault(quick, []).append(result["us"] / 1000)
                changed[name] = result["added"] + result["modified"] + result["deleted"]
    return times, flows["added"] + flows["modified"] + flows["unchanged"], changed


def measure_restart(drivers, switch, ports, times):
    """Prints how soon after its connection an empty switch is whole."""
    drivers("fabric_apply", site=site(ports), timeout_ms=60000, limit_s=90)
    took = []
    for _ in range(times):
        drivers.forget_events()
        switch.kill()
        drivers.wait_event("disconnected")
        switch.start()
        text = drivers.wait_event("whole", limit_s=90)
        took.append(int(re.search(r"(\d+) ms after", text).group(1)))
    print(f"\n{ports} ports: whole {statistics.median(took):.0f} ms after its connection, "
          f"{max(took)} ms at most, of {times} restarts ({text})")


class Bgp:
    """Segments at 1 kHz from the CE to the PVM, from its source, and from its destination."""

    def __init__(self, wires, moved):
        ce, pvm = "02:ce:00:00:00:01", moved["mac"]

        def frame(vlan, source, target, segment):
            return bytes(Ether(src=source, dst=target) / Dot1Q(vlan=vlan) / segment / b"mark")
        out = frame(moved["cust_vlan"], pvm, ce, IP(src="192.168.1.1") / TCP(sport=179, dport=4000))
        self.wires, self.stop, self.seen = wires, False, []
        self.frames = {"to": ("cust", frame(moved["vlan"], ce, pvm, IP(dst="192.168.1.1") /
                                            TCP(sport=4000, dport=179))),
                       "S": ("left", out), "D": ("right", out)}
        self.threads = [threading.Thread(target=target) for target in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _send(self):
        while not self.stop:
            for name, (wire, frame) in self.frames.items():
                self.wires.send(wire, frame + struct.pack(">2sd", name.encode(), time.monotonic()))
            time.sleep(0.001)  # the rate

    def _receive(self):
        while not self.stop:
            for wire, _, data in self.wires.receive(0.1):
                at = data.find(b"mark")
                if at > 0:
                    name, sent = struct.unpack_from(">2sd", data, at + 4)
                    self.seen.append((name.rstrip(b"\0").decode(), wire, sent))

    def late(self, phase, confirmed):
        """ms after `confirmed` at which the last segment was sent that still went the old way."""
        seen, self.seen = self.seen, []
        wrong = [sent for name, wire, sent in seen
                 if (name == "to" and (wire == "right") != (phase >= 1)) or
                 (name == "S" and phase >= 2) or (name == "D" and phase < 2)]
        return max([(sent - confirmed) * 1000 for sent in wrong if sent > confirmed], default=0.0)

    def close(self):
        """Stops."""
        self.stop = True
        for thread in self.threads:
            thread.join()


def measure_cache(drivers, wires, moves):
    """Prints how late the switch's cache follows."""
    facts, late = site(SIZES[0]), {}
    moved = facts["ports"][SIZES[0] // 2]
    moved["to_trunk"] = "right"
    drivers("fabric_apply", site=facts)
    bgp = Bgp(wires, moved)
    for _ in range(moves):
        for phase in (1, 2, 3, 4, 0):
            moved["phase"] = phase
            drivers("fabric_apply", site=facts, quick=True)
            confirmed, count = time.monotonic(), len(bgp.seen)
            while len(bgp.seen) < count + 500 and time.monotonic() < confirmed + 5:
                time.sleep(0.01)
            late.setdefault(phase, []).append(bgp.late(phase, confirmed))
    bgp.close()
    print("\nBGP that still goes the old way, ms after the confirmation: median (largest)")
    for phase, name in enumerate(PHASES[:2], 1):
        print(f"  {name:16}{statistics.median(late[phase]):>14.2f} ({max(late[phase]):.2f})")


def main():
    """Prints a table for each size."""
    moves = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with Lab("bench-fabric") as lab:
        ns, ends = lab.netns("sw"), lab.netns("ends")
        for name in WIRES:
            lab.veth(ns, name, ends, name)
        drivers = Drivers(lab)
        switch = Switch(lab, ns, "edge")
        drivers("fabric_open", target=switch.add_bridge("edge", WIRES))
        for ports in SIZES:
            measure_restart(drivers, switch, ports, min(moves, 5))
            times, flows, changed = measure(drivers, ports, moves)
            print(f"\n{ports} ports, {flows} flows; {moves} moves; ms until confirmed: "
                  "median (largest)")
            print(f"  {'phase':16}{'flows changed':>14}{'fabric_change':>20}{'fabric_apply':>20}")
            for name in PHASES:
                cells = [f"{statistics.median(ms):.2f} ({max(ms):.2f})"
                         for ms in (times[name][True], times[name][False])]
                print(f"  {name:16}{changed[name]:>14}{cells[0]:>20}{cells[1]:>20}")
        wires = Wires(ends, WIRES)
        measure_cache(drivers, wires, moves)
        wires.close()
        drivers.close()


if __name__ == "__main__":
    main()
