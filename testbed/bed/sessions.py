# SPDX-License-Identifier: GPL-2.0-or-later
"""The BGP sessions around a customer's port, as every end of them has them: does any of them know
of a reset?

    before = sessions.snapshot(edge)
    ...
    assert sessions.resets(before, sessions.snapshot(edge)) == []
"""

import json
import re
import time
from datetime import datetime, timedelta

from . import controller, core, customer
from . import topology as topo

ESTABLISHED = "Established"


def _bird(edge):
    """{protocol: (state, since)}; BIRD's own times, to the millisecond."""
    found = {}
    for line in customer.birdc(edge, "show protocols").splitlines():
        match = re.match(r"(\w+)\s+BGP\s+\S+\s+(\w+)\s+(\S+ \S+)\s+(\w+)", line)
        if match:
            found[match[1]] = (match[4], match[3])
    return found


def _frr(edge):
    out = json.loads(customer.vtysh(edge, "show bgp summary json"))
    return {address: (peer["state"], peer["connectionsEstablished"], peer["connectionsDropped"])
            for family in out.values() if isinstance(family, dict)
            for address, peer in family.get("peers", {}).items()}


def edge_sessions(edge):
    """{session: (state, since, or how often established and dropped)} at a customer edge."""
    return (_frr if edge.daemon == "frr" else _bird)(edge)


def core_sessions():
    """{neighbour: (state, established how often, dropped how often)} at the route reflector."""
    found = {}
    for version in (4, 6):
        out = json.loads(core.vtysh(f"show bgp ipv{version} vpn summary json"))
        for address, peer in out.get("peers", {}).items():
            found[f"{address} vpnv{version}"] = (
                peer["state"], peer["connectionsEstablished"], peer["connectionsDropped"])
    return found


def _vm_sessions(neighbors):
    """{neighbour: (state, resets, when it was established, about)} from the `status` of a VM."""
    now = time.time()
    return {n.get("name") or n["address"]: (n["state"], n["resets"], now - n["uptime_ms"] / 1000)
            for n in neighbors}


def ask_controller(edge):
    """{"PVM …": its neighbours, "CVM …": …} as the controller knows them."""
    return {f"PVM {edge.name}": controller.query("pvm", "show", edge.name)["bgp"],
            f"CVM {edge.site}": controller.query("cvm", "show", edge.site)["bgp"]}


def snapshot(edge, vms=None):
    """All sessions that a move of this edge's PVM could break. `vms` asks the VMs in another way
    than ask_controller() does."""
    found = {f"CE {edge.name}: {name}": state for name, state in edge_sessions(edge).items()}
    found |= {f"core: {name}": state for name, state in core_sessions().items()}
    for vm, neighbors in (vms or ask_controller)(edge).items():
        found |= {f"{vm}: {name}": state for name, state in _vm_sessions(neighbors).items()}
    return found


def established(edge, vms=None, without=None):
    """Are all sessions up, at every end? `without`: but for those with this neighbour."""
    return all(state[0] == ESTABLISHED for name, state in snapshot(edge, vms).items()
               if without is None or f": {without}" not in name)


def resets(before, after):
    """What happened between two snapshots, as text; [] when every session lived on."""
    lost = []
    for name, old in before.items():
        new = after.get(name)
        if old[0] != ESTABLISHED:
            continue
        if new is None or new[0] != ESTABLISHED:
            lost.append(f"{name} is {new[0] if new else 'gone'}")
        elif len(old) == 3 and isinstance(old[2], float):
            # The VMs count seconds, and their clocks need not agree with ours.
            if new[1] != old[1] or new[2] > old[2] + 5:
                lost.append(f"{name} was reset: {new[1] - old[1]} times")
        elif new[1:] != old[1:] and not _same_moment(old[1], new[1]):
            lost.append(f"{name} was reset: {new[1:]} after {old[1:]}")
    return lost


def _same_moment(old, new):
    """BIRD tells a session's age, so to speak: its beginning differs by a millisecond at times."""
    try:
        return abs(datetime.fromisoformat(old) - datetime.fromisoformat(new)) < timedelta(seconds=0.5)
    except TypeError:
        return False


def count(edge, lost):
    """How many sessions there are behind what resets() found: each has two ends that tell."""
    known = {}
    for address in (f"{edge.link4}.2", f"{edge.link6}:2"):
        known[f"PVM {edge.name}: {address}"] = f"CE {edge.name}: pe{6 if ':' in address else 4}"
    names = set()
    for text in lost:
        end = re.match(r"(\w+ ?\S*: \S+)", text)[1]
        owner = end.split()[0].rstrip(":")
        if owner == "core":  # one session, two families
            end = end.split()[1]
        elif owner == "CVM" and end.endswith(f": {edge.name}"):
            end = "PVM and CVM"
        elif owner == "PVM" and end.split(": ")[1].startswith("100.64."):
            end = "PVM and CVM"
        elif owner == "CVM" and end.split(": ")[1].count(".") == 3:
            end = next(s.pe_address for s in topo.SITES if s.name == edge.site)
        names.add(known.get(end, end))
    return len(names)
