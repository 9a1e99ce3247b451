#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints how long it takes a real switch to confirm each phase of a PVM's move: by fabric_change(),
and beside it by fabric_apply(), which reads the switch's table. Usage: bench_fabric.py [MOVES]"""

import os
import statistics
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
from drivers import Drivers, Switch  # noqa: E402  pylint: disable=wrong-import-position
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


def main():
    """Prints a table for each size."""
    moves = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with Lab("bench-fabric") as lab:
        ns, ends = lab.netns("sw"), lab.netns("ends")
        for name in WIRES:
            lab.veth(ns, name, ends, name)
        drivers = Drivers(lab)
        drivers("fabric_open", target=Switch(lab, ns, "edge").add_bridge("edge", WIRES))
        for ports in SIZES:
            times, flows, changed = measure(drivers, ports, moves)
            print(f"\n{ports} ports, {flows} flows; {moves} moves; ms until confirmed: "
                  "median (largest)")
            print(f"  {'phase':16}{'flows changed':>14}{'fabric_change':>20}{'fabric_apply':>20}")
            for name in PHASES:
                cells = [f"{statistics.median(ms):.2f} ({max(ms):.2f})"
                         for ms in (times[name][True], times[name][False])]
                print(f"  {name:16}{changed[name]:>14}{cells[0]:>20}{cells[1]:>20}")
        drivers.close()


if __name__ == "__main__":
    main()
