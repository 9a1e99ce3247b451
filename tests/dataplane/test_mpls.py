# SPDX-License-Identifier: GPL-2.0-or-later
"""MPLS and the separation of the ports in VPN mode, as in a PVM."""

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import ARP, Ether

from fwdlab import CE_MAC, CORE_MAC, CUST_MAC, PE_MAC, Wire, pop, route
from lib.lab import wait_until

CE4, CE6, PE4 = "192.168.1.2", "fd00:a1::2", "192.0.2.1"
LABEL = 1000  # ours
FAR4, FAR6 = "10.2.0.1", "fd00:2::1"


@pytest.fixture(scope="module")
def net(vpn):
    """A PVM's forwarder: the far site lies behind one or two labels."""
    vpn.ce_wire, vpn.pe_wire = Wire(vpn.ce, "eth0"), Wire(vpn.pe, "eth0")
    vpn.hold = vpn.feed(
        pop(LABEL),
        route("10.2.0.0/16", {"via": PE4, "labels": [1001]}),
        route("10.3.0.0/16", {"via": PE4, "labels": [16002, 1001]}),
        route("10.4.0.0/16", {"via": PE4, "labels": [1, 2, 3, 4]}),
        route("10.5.0.0/16", {"via": "192.0.2.3", "labels": [1001]}),
        route("fd00:2::/32", {"via": PE4, "labels": [1001]}),
        route(2000, {"via": PE4, "labels": [2001]}),
        route(2002, {"via": PE4}),
        route("10.1.0.0/16", {"via": CE4}),
        route("10.6.0.0/16", {"via": PE4}),
    )
    vpn.ping(vpn.ce, "192.168.1.1", 1)
    vpn.ping(vpn.ce, "fd00:a1::1", 1)
    vpn.ping(vpn.pe, "192.0.2.2", 1)
    return vpn


def from_ce(packet):
    """A frame of the customer."""
    return Ether(src=CE_MAC, dst=CUST_MAC) / packet


def from_core(*labels, payload, ttl=64):
    """A labelled frame from the core, outermost label first."""
    out = Ether(src=PE_MAC, dst=CORE_MAC, type=0x8847)
    for i, label in enumerate(labels):
        out = out / MPLS(label=label, s=int(i == len(labels) - 1), ttl=ttl)
    return Ether(bytes(out / payload))


def stack(packet):
    """[(label, bottom, ttl, exp), …] of a frame."""
    out, layer = [], packet.payload
    while isinstance(layer, MPLS):
        out.append((layer.label, layer.s, layer.ttl, layer.cos))
        layer = layer.payload
    return out


def dropped(net, port, reason, send):
    """`send()` makes the counter of `reason` grow."""
    before = net.drops(port, reason)
    send()
    wait_until(lambda: net.drops(port, reason) > before, 5, f"{reason} is counted")


@pytest.mark.parametrize("dst,labels", [
    ("10.2.0.1", [1001]),
    ("10.3.0.1", [16002, 1001]),
    ("10.4.0.1", [1, 2, 3, 4]),
])
def test_push(net, dst, labels):
    net.pe_wire.drain()
    net.ce_wire.send(from_ce(IP(src="10.1.0.1", dst=dst, ttl=50) / UDP() / b"hello"))
    out = net.pe_wire.expect(Ether, lambda p: MPLS in p)
    assert (out.src, out.dst) == (CORE_MAC, PE_MAC)
    last = len(labels) - 1
    assert stack(out) == [(label, int(i == last), 49, 0) for i, label in enumerate(labels)]
    assert out[IP].ttl == 49 and bytes(out[UDP].payload) == b"hello"


def test_push_on_ipv6(net):
    net.pe_wire.drain()
    net.ce_wire.send(from_ce(IPv6(src="fd00:1::1", dst=FAR6, hlim=50) / UDP() / b"hello"))
    out = net.pe_wire.expect(Ether, lambda p: MPLS in p)
    assert stack(out) == [(1001, 1, 49, 0)]
    inner = IPv6(bytes(out[MPLS].payload))
    assert (inner.dst, inner.hlim) == (FAR6, 49)


@pytest.mark.parametrize("ip,label_ttl,want", [(64, 30, 29), (20, 255, 19)])
def test_pop_and_forward(net, ip, label_ttl, want):
    """Uniform model: the lower of both TTLs counts on."""
    net.ce_wire.drain()
    net.pe_wire.send(from_core(LABEL, ttl=label_ttl,
                               payload=IP(src=FAR4, dst="10.1.0.9", ttl=ip) / UDP() / b"hello"))
    out = net.ce_wire.expect(Ether, lambda p: UDP in p)
    assert (out.src, out.dst) == (CUST_MAC, CE_MAC)
    assert out[IP].ttl == want
    again = out.copy()
    del again[IP].chksum
    assert Ether(bytes(again))[IP].chksum == out[IP].chksum
    net.pe_wire.send(from_core(LABEL, payload=IPv6(src=FAR6, dst=CE6, hlim=9) / UDP() / b"six"))
    out = net.ce_wire.expect(Ether, lambda p: UDP in p and IPv6 in p)
    assert out[IPv6].hlim == 8


def test_swap_and_penultimate_hop(net):
    net.pe_wire.drain()
    net.pe_wire.send(from_core(2000, ttl=9, payload=IP(src=FAR4, dst="10.1.0.9") / UDP()))
    out = net.pe_wire.expect(Ether, lambda p: MPLS in p)
    assert stack(out) == [(2001, 1, 8, 0)]
    net.pe_wire.send(from_core(2002, 77, ttl=9, payload=IP(src=FAR4, dst="10.1.0.9") / UDP()))
    out = net.pe_wire.expect(Ether, lambda p: MPLS in p and p[MPLS].label == 77)
    assert len(stack(out)) == 1


def test_labels_that_are_not_ours(net):
    payload = IP(src=FAR4, dst="10.1.0.9") / UDP()
    dropped(net, "core", "mpls_unknown_label",
            lambda: net.pe_wire.send(from_core(1234, payload=payload)))
    dropped(net, "core", "mpls_not_bottom",
            lambda: net.pe_wire.send(from_core(LABEL, 5, payload=payload)))
    dropped(net, "core", "mpls_malformed",
            lambda: net.pe_wire.send(from_core(LABEL, payload=b"\x00" * 40)))
    dropped(net, "core", "mpls_malformed",
            lambda: net.pe_wire.send(bytes(from_core(LABEL, payload=b""))[:16]))


def test_customer_must_not_send_labels(net):
    """Also not those that would lead into another VPN."""
    for label in (LABEL, 1001, 2000):
        frame = from_core(label, payload=IP(src="10.1.0.1", dst=FAR4) / UDP())
        frame.src, frame.dst = CE_MAC, CUST_MAC
        dropped(net, "cust", "mpls_not_allowed", lambda f=frame: net.ce_wire.send(f))


def test_time_exceeded_goes_back_by_the_core(net):
    """A traceroute from the far site: the answer comes from the customer-facing address."""
    net.pe_wire.drain()
    net.pe_wire.send(from_core(LABEL, payload=IP(src=FAR4, dst="10.1.0.9", ttl=1) / UDP()))
    out = net.pe_wire.expect(Ether, lambda p: ICMP in p)
    assert stack(out)[0][0] == 1001
    assert (out[IP].src, out[IP].dst) == ("192.168.1.1", FAR4)
    assert (out[ICMP].type, out[ICMP].code) == (11, 0)
    net.pe_wire.send(from_core(LABEL, ttl=1, payload=IPv6(src=FAR6, dst="fd00:1::1") / UDP()))
    out = net.pe_wire.expect(Ether, lambda p: MPLS in p)
    inner = IPv6(bytes(out[MPLS].payload))
    assert ICMPv6TimeExceeded in inner and inner.src == "fd00:a1::1"


def test_echo_from_the_far_site(net):
    net.pe_wire.drain()
    net.pe_wire.send(from_core(LABEL, payload=IP(src=FAR4, dst="192.168.1.1") / ICMP(id=7) / b"x"))
    out = net.pe_wire.expect(Ether, lambda p: ICMP in p)
    assert out[ICMP].type == 0 and out[ICMP].id == 7 and stack(out)[0][0] == 1001
    net.pe_wire.send(from_core(LABEL, payload=IPv6(src=FAR6, dst="fd00:a1::1")
                               / ICMPv6EchoRequest(id=8)))
    out = net.pe_wire.expect(Ether, lambda p: MPLS in p)
    assert ICMPv6EchoReply in IPv6(bytes(out[MPLS].payload))


def test_labels_count_against_the_mtu(net):
    """1600 on the link: 1592 remain below two labels."""
    net.ce_wire.drain()
    fits, big = (IP(src=CE4, dst="10.3.0.1", flags="DF", id=i) / UDP() / (b"x" * (size - 28))
                 for i, size in ((1, 1592), (2, 1593)))
    net.pe_wire.drain()
    net.ce_wire.send(from_ce(fits))
    net.pe_wire.expect(Ether, lambda p: IP in p and p[IP].id == 1)
    net.ce_wire.send(from_ce(big))
    out = net.ce_wire.expect(Ether, lambda p: ICMP in p)
    assert (out[ICMP].type, out[ICMP].code, out[ICMP].nexthopmtu) == (3, 4, 1592)


def test_host_unreachable_when_the_gateway_is_silent(net):
    """10.5/16's gateway is the subnet's broadcast: nobody answers its ARP."""
    net.ce_wire.drain()
    net.ce_wire.send(from_ce(IP(src=CE4, dst="10.5.0.1", id=55) / UDP()))
    out = net.ce_wire.expect(Ether, lambda p: ICMP in p, limit_s=10)
    assert (out[ICMP].type, out[ICMP].code) == (3, 1)
    assert out[ICMP].payload.id == 55


def test_customer_reaches_nothing_of_the_core(net):
    """Neither the core port's addresses nor its subnet: they don't exist in the customer's VPN."""
    net.pe_wire.drain()
    for dst in ("192.0.2.2", "192.0.2.1"):
        dropped(net, "cust", "no_route",
                lambda d=dst: net.ce_wire.send(from_ce(IP(src=CE4, dst=d) / TCP(dport=179))))
        dropped(net, "core", "no_route", lambda d=dst: net.pe_wire.send(
            from_core(LABEL, payload=IP(src=FAR4, dst=d) / TCP(dport=179))))
    for data in net.pe_wire.frames(0.5):
        packet = Ether(data)
        assert not (IP in packet and packet[IP].dst in ("192.0.2.1", "192.0.2.2")
                    and TCP in packet), packet.summary()


def test_customer_leaves_by_the_core_only_with_a_label(net):
    """A customer can name any next hop by BGP, also one on the core's link."""
    dropped(net, "cust", "unresolved_route",
            lambda: net.ce_wire.send(from_ce(IP(src=CE4, dst="10.6.0.1") / TCP(dport=179))))


def test_core_without_a_label_is_not_forwarded(net):
    net.ce_wire.drain()
    for dst in (CE4, "10.1.0.9", "192.168.1.1"):
        dropped(net, "core", "not_forwarding", lambda d=dst: net.pe_wire.send(
            Ether(src=PE_MAC, dst=CORE_MAC) / IP(src=FAR4, dst=d) / UDP()))
    dropped(net, "core", "not_forwarding", lambda: net.pe_wire.send(
        Ether(src=PE_MAC, dst=CORE_MAC) / IPv6(src=FAR6, dst=CE6) / UDP()))
    # What is for the core port itself still works.
    net.ping(net.pe, "192.0.2.2", 1)
    net.ping(net.pe, "fd00:c0::2", 1)


def test_same_addresses_on_both_sides(net):
    """The customer may use the core link's addresses: its route wins, the core's ARP is untouched."""
    before = [n for n in net.rpc("fwd.neighbors") if n["port"] == "core"]
    net.hold.send(route("192.0.2.0/24", {"via": CE4}))
    wait_until(lambda: net.rpc("fwd.fib", family="ipv4", prefix="192.0.2.0/24")["routes"], 5,
               "the route is in")
    net.ce_wire.drain()
    net.pe_wire.send(from_core(LABEL, payload=IP(src=FAR4, dst="192.0.2.1") / UDP() / b"mine"))
    out = net.ce_wire.expect(Ether, lambda p: UDP in p)
    assert out[IP].dst == "192.0.2.1" and out.dst == CE_MAC
    net.ce_wire.send(Ether(src=CE_MAC, dst=CUST_MAC) / ARP(
        op=2, hwsrc=CE_MAC, psrc="192.0.2.1", hwdst=CUST_MAC, pdst="192.0.2.2"))
    wait_until(lambda: net.drops("cust", "arp_invalid") > 0, 5, "the foreign ARP is dropped")
    after = [n for n in net.rpc("fwd.neighbors") if n["port"] == "core"]
    assert {(n["address"], n["mac"]) for n in before} <= {(n["address"], n["mac"]) for n in after}
