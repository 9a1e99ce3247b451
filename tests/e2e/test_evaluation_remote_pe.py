# SPDX-License-Identifier: GPL-2.0-or-later
"""A provider edge router that isn't ours (Debian's kernel and FRR in a VM) on the same core."""

import pytest

from bed import checks, customer, host, remotepe
from bed import topology as topo


@pytest.fixture(scope="module")
def pe():
    with remotepe.attached() as vm:
        remotepe.wait_routes()
        yield vm


def test_green_edges_reach_each_other_both_ways(pe):
    found = remotepe.pings()
    assert len(found) == 8 and set(found.values()) == {3}


def test_it_pushes_our_labels_and_pops_its_own(pe):
    """So packets go through the core, and not another way."""
    far = topo.ce("green-a")
    site = next(s for s in topo.SITES if s.name == far.site)
    for family, prefix in (("", far.prefix4), ("-6 ", far.prefix6)):
        route = pe.ask(f"ip {family}route show table {remotepe.TABLE} {prefix}")
        assert f"encap mpls  {site.transport_label}/" in route
    labels = pe.ask("ip -f mpls route")
    assert all(f"{label} dev green" in labels for label in remotepe.LABELS.values())


def test_ours_pushes_its_labels(pe):
    for family, prefix, label in (("ipv4", remotepe.CE.prefix4, remotepe.LABELS[4]),
                                  ("ipv6", remotepe.CE.prefix6, remotepe.LABELS[6])):
        fib = {r["prefix"]: r for r in checks.table("green-a", "fib", family)}
        assert fib[prefix]["nexthops"][0]["labels"] == [remotepe.PE.transport_label, label]


def test_full_size_packets_cross_unfragmented(pe):
    near, far = topo.ce("green-b"), remotepe.CE
    for source, target, size in ((near.host4, far.host4, 1472), (near.host6, far.host6, 1452)):
        out = host.run(near.ns, ["ping", "-n", "-M", "do", "-s", size, "-c", 2, "-i", 0.2, "-w", 5,
                                 "-I", source, target], check=False)
        assert " 2 received" in out


def test_red_has_nothing_of_it(pe):
    red = topo.ce("red-a")
    assert customer.bgp_route(topo.ce("green-a"), remotepe.CE.prefix4)
    assert not customer.bgp_route(red, remotepe.CE.prefix4)
    assert checks.ping(red.ns, red.host4, remotepe.CE.host4, 2, limit_s=3)[0] == 0
