# SPDX-License-Identifier: GPL-2.0-or-later
"""Customers' packets cross the VPN, and nobody else's."""

import os

import pytest

from bed import checks, controller, customer, host
from bed import topology as topo
from bed.parallel import together
from lib.lab import wait_until

PES = {site.pe_address for site in topo.SITES}


@pytest.mark.parametrize("version", [4, 6])
def test_core_sees_one_router_per_site(version):
    assert checks.core_sessions(version) == {pe: "Established" for pe in PES}
    routes = checks.core_routes(version)
    assert {hop for _, _, hop, _ in routes} == PES
    labels = {}
    for rd, _, hop, label in routes:
        labels.setdefault((hop, rd), set()).add(label)
    assert len(labels) == len(topo.CES)
    assert all(len(found) == 1 and None not in found for found in labels.values())
    assert len({(hop, *found) for (hop, _), found in labels.items()}) == len(topo.CES)


@pytest.mark.parametrize("version", [4, 6])
def test_ping_both_ways(version):
    def one(edge):
        far = topo.far(edge)
        source, target = (edge.host4, far.host4) if version == 4 else (edge.host6, far.host6)
        return edge.name, checks.ping(edge.ns, source, target)[0]

    assert together(*(lambda e=e: one(e) for e in topo.CES)) == [(e.name, 5) for e in topo.CES]


@pytest.mark.parametrize("version", [4, 6])
def test_full_size_packets_cross_unfragmented(version):
    near = topo.ce("green-a")
    far = topo.far(near)
    source, target, size = ((near.host4, far.host4, 1472) if version == 4
                            else (near.host6, far.host6, 1452))
    out = host.run(near.ns, ["ping", "-n", "-M", "do", "-s", size, "-c", 3, "-i", 0.2, "-w", 5,
                             "-I", source, target], check=False)
    assert " 3 received" in out


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_both_ways(version):
    near = topo.ce("red-a")
    there, back = checks.iperf(near, topo.far(near), version, 5, 5201)
    assert there > 0 and back > 0


def test_rib_and_fib_have_the_far_side():
    near = topo.ce("green-a")
    far = topo.far(near)
    for family, prefix in (("ipv4", far.prefix4), ("ipv6", far.prefix6)):
        rib = {r["prefix"]: r for r in checks.table(near.name, "rib", family)}
        fib = {r["prefix"]: r for r in checks.table(near.name, "fib", family)}
        assert any(path["best"] and path["imported"] for path in rib[prefix]["paths"])
        labels = fib[prefix]["nexthops"][0]["labels"]
        assert labels[0] == topo.SITES[1].transport_label and len(labels) == 2


@pytest.mark.parametrize("version", [4, 6])
def test_green_cannot_reach_what_only_red_has(version):
    green, red_a, red_b = topo.ce("green-a"), topo.ce("red-a"), topo.ce("red-b")
    prefix = next(p for p in red_b.only_here if (":" in p) == (version == 6))
    target = red_b.only_here[prefix]
    gateway, source, family, protocol = (
        (f"{green.link4}.1", green.host4, "-4", "icmp") if version == 4
        else (f"{green.link6}:1", green.host6, "-6", "icmp6 and ip6[40] == 128"))
    assert not customer.bgp_route(green, prefix)
    assert customer.bgp_route(red_a, prefix)
    # Without a route of its own, green couldn't even try.
    host.run(green.ns, ["ip", family, "route", "replace", prefix, "via", gateway])
    try:
        with checks.capture(red_b.ns, f"{protocol} and dst {target}") as seen:
            assert checks.ping(green.ns, source, target, limit_s=2)[0] == 0
            assert seen() == 0
    finally:
        host.run(green.ns, ["ip", family, "route", "del", prefix, "via", gateway])
    with checks.capture(red_b.ns, f"{protocol} and dst {target}") as seen:
        assert checks.ping(red_a.ns, red_a.host4 if version == 4 else red_a.host6, target)[0] == 5
        assert seen() == 5


def test_customer_cannot_choose_route_targets():
    """A route that green marks as red's stays green's."""
    green, red = topo.ce("green-a"), topo.ce("red-b")
    red_id, green_id = (controller.query("customer", "show", c)["vpn_id"] for c in ("red", "green"))
    conf, prefix, control = f"{green.dir}/extra-rt.conf", "10.77.0.0/16", "10.78.0.0/16"
    with open(conf, "w", encoding="utf-8") as file:
        file.write("protocol static foreign { ipv4; route " + prefix + " unreachable {"
                   f" bgp_ext_community.add((rt,{topo.PROVIDER_ASN},{red_id})); }}; }}\n"
                   "protocol static control { ipv4; route " + control + " unreachable {"
                   f" bgp_ext_community.add((rt,{topo.PROVIDER_ASN},{green_id})); }}; }}\n")
    try:
        customer.birdc(green, "configure")
        for wanted in (prefix, control):
            checks.wait_route(topo.far(green), wanted)
        assert prefix not in {r["prefix"] for r in checks.table(red.name, "rib", "ipv4")}
        assert not customer.bgp_route(red, prefix)
    finally:
        os.unlink(conf)
        customer.birdc(green, "configure")
    checks.wait_route(topo.far(green), prefix, present=False)


# Frames that a customer's router could make up; PVM is replaced by its MAC, OTHER by red's PVM.
FRAMES = {
    "MPLS with red's label": 'Ether(dst=PVM)/MPLS(label=LABEL,s=1,ttl=9)/IP(src="10.1.0.1",'
                             'dst="10.1.0.1",proto=253)/b"x"',
    "to red's PVM": 'Ether(dst=OTHER)/IP(src="10.1.0.1",dst="10.1.0.1",proto=253)/b"x"',
    "with the PVM's own MAC": 'Ether(dst=PVM,src=PVM)/IP(src="10.1.0.1",dst="10.2.0.1",'
                              'proto=253)/b"x"',
    "tagged with red's VLAN": 'Ether(dst=PVM)/Dot1Q(vlan=VLAN)/IP(src="10.1.0.1",dst="10.1.0.1",'
                     'proto=253)/b"x"',
    "broadcast": 'Ether(dst="ff:ff:ff:ff:ff:ff")/IP(src="10.1.0.1",dst="10.1.0.1",proto=253)/b"x"',
}


@pytest.mark.parametrize("what", FRAMES)
def test_made_up_frames_reach_nobody(what):
    green, red = topo.ce("green-a"), topo.ce("red-a")
    port, other = (controller.query("port", "show", e.name) for e in (green, red))
    vlan = other["vlans"]["cust"] if isinstance(other["vlans"], dict) else other["vlans"][0]
    values = (f'PVM,OTHER,LABEL,VLAN="{port["mac"]}","{other["mac"]}",{other["label"]},{vlan}\n')
    send = ("from scapy.all import *\nfrom scapy.contrib.mpls import MPLS\n" + values
            + f'sendp({FRAMES[what]},iface="pe",count=5,verbose=0)\n')
    strange = "ip proto 253 or ether proto 0x8847 or ether proto 0x8100"
    with checks.capture(red.ns, strange) as at_red, \
            checks.capture(topo.ce("green-b").ns, strange) as at_green_b, \
            checks.capture(topo.ce("red-b").ns, strange) as at_red_b, \
            checks.capture(topo.P_NS, "mpls", "link-a") as at_core:
        host.run(green.ns, ["/usr/bin/python3", "-c", send])
        # Whatever was let through is there when packets that were sent later are back.
        assert checks.ping(green.ns, green.host4, topo.far(green).host4, count=2)[0] == 2
        assert [at_red(), at_green_b(), at_red_b()] == [0, 0, 0]
        assert at_core() <= 4  # those two pings, there and back


@pytest.mark.parametrize("version", [4, 6])
def test_withdrawn_route_is_gone_at_the_far_edge(version):
    near = topo.ce("green-a")
    assert checks.withdrawal_ms(near, topo.far(near), version) > 0


def test_idle_pvm_costs_little():
    def calm():
        costs = checks.idle_cost([e.name for e in topo.CES], 5)
        assert all(rss <= 256 for _cpu, _pss, rss in costs.values())
        # One that polls takes a whole core. How little it is depends on the machine: `make demo` prints it.
        return all(cpu <= 5 for cpu, _pss, _rss in costs.values())

    wait_until(calm, 60, "each PVM, left alone, sleeps, and takes at most 256 MiB")
