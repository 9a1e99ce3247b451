# SPDX-License-Identifier: GPL-2.0-or-later
"""ARP and neighbour discovery, both ways."""

import socket

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6,
)
from scapy.layers.l2 import ARP, Ether

from fwdlab import CE_MAC, CORE_MAC, CUST_MAC, PE_MAC, RpcError, Wire, in_netns, route
from lib.lab import wait_until

BROADCAST = "ff:ff:ff:ff:ff:ff"
CE4, CE6 = "192.168.1.2", "fd00:a1::2"


@pytest.fixture(scope="module")
def net(router):
    """The core link is wide here, so that there are many neighbours to ask for."""
    router.ce_wire, router.pe_wire = Wire(router.ce, "eth0"), Wire(router.pe, "eth0")
    router.address(router.fwd, "core", "198.51.100.1/24", "2001:db8::1/64")
    wait_until(lambda: router.has_address("core", "2001:db8::1/64"), 5, "the addresses are seen")
    router.ping(router.ce, "192.168.1.1", 1)
    router.ping(router.ce, "fd00:a1::1", 1)
    return router


def neighbor(net, address):
    """One entry of fwd.neighbors, or None."""
    return next((n for n in net.rpc("fwd.neighbors") if n["address"] == address), None)


def towards(net, dst, count=1):
    """The CE sends to a host on the core link."""
    for i in range(count):
        ip = IPv6(src=CE6, dst=dst) if ":" in dst else IP(src=CE4, dst=dst)
        net.ce_wire.send(Ether(src=CE_MAC, dst=CUST_MAC) / ip / UDP(dport=i + 1) / b"wait")


def test_arp_request_and_waiting_packets(net):
    """Packets wait for the answer, the newest four of them, and then go in order."""
    net.pe_wire.drain()
    towards(net, "198.51.100.7", 6)
    ask = net.pe_wire.expect(Ether, lambda p: ARP in p)
    assert (ask.src, ask.dst) == (CORE_MAC, BROADCAST)
    assert (ask[ARP].op, ask[ARP].hwsrc, ask[ARP].psrc) == (1, CORE_MAC, "198.51.100.1")
    wait_until(lambda: net.drops("core", "neighbor_queue_full") >= 2, 5, "two gave way")
    assert neighbor(net, "198.51.100.7")["state"] == "incomplete"
    net.pe_wire.send(Ether(src=PE_MAC, dst=CORE_MAC) / ARP(
        op=2, hwsrc=PE_MAC, psrc="198.51.100.7", hwdst=CORE_MAC, pdst="198.51.100.1"))
    ports = [net.pe_wire.expect(Ether, lambda p: UDP in p)[UDP].dport for _ in range(4)]
    assert ports == [3, 4, 5, 6]
    assert neighbor(net, "198.51.100.7")["state"] == "reachable"
    assert neighbor(net, "198.51.100.7")["mac"] == PE_MAC


def test_arp_gives_up_after_three(net):
    net.pe_wire.drain()
    net.ce_wire.drain()
    towards(net, "198.51.100.8")
    out = net.ce_wire.expect(Ether, lambda p: ICMP in p, limit_s=10)
    assert (out[ICMP].type, out[ICMP].code) == (3, 1)
    asked = [Ether(d) for d in net.pe_wire.frames(0.1)]
    assert sum(ARP in p and p[ARP].pdst == "198.51.100.8" for p in asked) == 3
    assert neighbor(net, "198.51.100.8") is None


def test_nd_solicitation_and_waiting_packets(net):
    net.pe_wire.drain()
    towards(net, "2001:db8::77:1234", 2)
    ask = net.pe_wire.expect(Ether, lambda p: ICMPv6ND_NS in p)
    assert ask.dst == "33:33:ff:77:12:34"
    assert ask[IPv6].dst == "ff02::1:ff77:1234" and ask[IPv6].hlim == 255
    assert ask[IPv6].src == "2001:db8::1"
    assert ask[ICMPv6NDOptSrcLLAddr].lladdr == CORE_MAC
    net.pe_wire.send(Ether(src=PE_MAC, dst=CORE_MAC)
                     / IPv6(src="2001:db8::77:1234", dst="2001:db8::1", hlim=255)
                     / ICMPv6ND_NA(R=0, S=1, O=1, tgt="2001:db8::77:1234")
                     / ICMPv6NDOptDstLLAddr(lladdr=PE_MAC))
    for _ in range(2):
        net.pe_wire.expect(Ether, lambda p: UDP in p and p[IPv6].dst == "2001:db8::77:1234")
    assert neighbor(net, "2001:db8::77:1234")["state"] == "reachable"


def test_nd_gives_up_after_three(net):
    net.ce_wire.drain()
    towards(net, "2001:db8::dead")
    out = net.ce_wire.expect(Ether, lambda p: ICMPv6DestUnreach in p, limit_s=10)
    assert out[ICMPv6DestUnreach].code == 3


def test_arp_request_is_answered_for_own_addresses_only(net):
    net.ce_wire.drain()

    def ask(address):
        net.ce_wire.send(Ether(src=CE_MAC, dst=BROADCAST) / ARP(
            op=1, hwsrc=CE_MAC, psrc=CE4, pdst=address))

    ask("192.168.1.1")
    answer = net.ce_wire.expect(Ether, lambda p: ARP in p and p[ARP].op == 2)
    assert (answer.src, answer.dst) == (CUST_MAC, CE_MAC)
    assert (answer[ARP].hwsrc, answer[ARP].psrc) == (CUST_MAC, "192.168.1.1")
    for other in ("192.168.1.3", "192.0.2.2", "10.9.9.9"):
        ask(other)
    ask("192.168.1.1")
    net.ce_wire.expect(Ether, lambda p: ARP in p and p[ARP].op == 2)
    for data in net.ce_wire.frames(0.3):
        assert not (ARP in Ether(data) and Ether(data)[ARP].op == 2), Ether(data).summary()


def test_arp_probe_is_answered(net):
    """RFC 5227: somebody asks whether our address is free. It isn't."""
    net.ce_wire.drain()
    net.ce_wire.send(Ether(src="02:00:00:00:00:99", dst=BROADCAST) / ARP(
        op=1, hwsrc="02:00:00:00:00:99", psrc="0.0.0.0", pdst="192.168.1.1"))
    net.ce_wire.expect(Ether, lambda p: ARP in p and p[ARP].op == 2)
    assert neighbor(net, "0.0.0.0") is None


def test_solicitation_is_answered(net):
    net.ce_wire.drain()
    for target in ("fd00:a1::1", "fe80::ed:ff:fe00:1"):
        net.ce_wire.send(Ether(src=CE_MAC, dst="33:33:ff:00:00:01")
                         / IPv6(src=CE6, dst="ff02::1:ff00:1", hlim=255)
                         / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=CE_MAC))
        answer = net.ce_wire.expect(Ether, lambda p, t=target: ICMPv6ND_NA in p
                                    and p[ICMPv6ND_NA].tgt == t)
        advert = answer[ICMPv6ND_NA]
        assert (advert.R, advert.S, advert.O) == (1, 1, 1)
        assert (answer[IPv6].dst, answer[IPv6].hlim) == (CE6, 255)
        assert answer[ICMPv6NDOptDstLLAddr].lladdr == CUST_MAC


def test_duplicate_address_detection_is_answered_to_all(net):
    net.ce_wire.drain()
    net.ce_wire.send(Ether(src=CE_MAC, dst="33:33:ff:00:00:01")
                     / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
                     / ICMPv6ND_NS(tgt="fd00:a1::1"))
    answer = net.ce_wire.expect(Ether, lambda p: ICMPv6ND_NA in p)
    assert (answer.dst, answer[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert answer[ICMPv6ND_NA].S == 0


@pytest.mark.parametrize("change", [
    {"hlim": 254}, {"src": "2001:db8:bad::1"}, {"code": 1}, {"option": b"\x01\x00" + b"x" * 6},
    {"option": b"\x01\x02" + b"x" * 6}, {"tgt": "ff02::1"},
])
def test_bad_solicitations_are_dropped(net, change):
    """RFC 4861, 7.1.1."""
    before = net.drops("cust", "nd_invalid")
    option = change.get("option")
    net.ce_wire.send(Ether(src=CE_MAC, dst="33:33:ff:00:00:01")
                     / IPv6(src=change.get("src", CE6), dst="ff02::1:ff00:1",
                            hlim=change.get("hlim", 255))
                     / ICMPv6ND_NS(tgt=change.get("tgt", "fd00:a1::1"), code=change.get("code", 0))
                     / (option or ICMPv6NDOptSrcLLAddr(lladdr=CE_MAC)))
    wait_until(lambda: net.drops("cust", "nd_invalid") > before, 5, "it is counted")


def test_gratuitous_arp_only_for_known_neighbours(net):
    moved = "02:be:00:00:00:77"
    towards(net, "198.51.100.9")
    net.pe_wire.send(Ether(src=PE_MAC, dst=CORE_MAC) / ARP(
        op=2, hwsrc=PE_MAC, psrc="198.51.100.9", hwdst=CORE_MAC, pdst="198.51.100.1"))
    wait_until(lambda: (neighbor(net, "198.51.100.9") or {}).get("mac") == PE_MAC, 5, "known")
    for op in (1, 2):
        for address in ("198.51.100.9", "198.51.100.10"):
            net.pe_wire.send(Ether(src=moved, dst=BROADCAST) / ARP(
                op=op, hwsrc=moved, psrc=address, hwdst=BROADCAST, pdst=address))
    wait_until(lambda: neighbor(net, "198.51.100.9")["mac"] == moved, 5, "the move is taken")
    assert neighbor(net, "198.51.100.10") is None


def test_unsolicited_advertisement_without_override(net):
    """RFC 4861, 7.2.5: a different address without the override flag only casts doubt."""
    address = "2001:db8::88"
    towards(net, address)
    net.pe_wire.expect(Ether, lambda p: ICMPv6ND_NS in p and p[ICMPv6ND_NS].tgt == address)

    def advertise(mac, solicited, override, dst="2001:db8::1"):
        net.pe_wire.send(Ether(src=mac, dst=CORE_MAC) / IPv6(src=address, dst=dst, hlim=255)
                         / ICMPv6ND_NA(R=0, S=solicited, O=override, tgt=address)
                         / ICMPv6NDOptDstLLAddr(lladdr=mac))

    advertise(PE_MAC, 1, 1)
    wait_until(lambda: neighbor(net, address)["state"] == "reachable", 5, "reachable")
    advertise("02:be:00:00:00:88", 0, 0)
    wait_until(lambda: neighbor(net, address)["state"] == "stale", 5, "stale")
    assert neighbor(net, address)["mac"] == PE_MAC
    advertise("02:be:00:00:00:88", 0, 1)
    wait_until(lambda: neighbor(net, address)["mac"] == "02:be:00:00:00:88", 5, "overridden")


def test_stale_neighbour_is_probed_by_unicast_when_used(net):
    """Stale, used: after the delay a unicast probe; with no answer it is forgotten."""
    address = "198.51.100.20"
    net.pe_wire.send(Ether(src=PE_MAC, dst=BROADCAST) / ARP(
        op=1, hwsrc=PE_MAC, psrc=address, pdst="198.51.100.1"))
    wait_until(lambda: (neighbor(net, address) or {}).get("state") == "stale", 5, "stale")
    net.pe_wire.drain()
    towards(net, address)
    net.pe_wire.expect(Ether, lambda p: UDP in p and p[IP].dst == address)
    assert neighbor(net, address)["state"] == "delay"
    probe = net.pe_wire.expect(Ether, lambda p: ARP in p and p[ARP].pdst == address, limit_s=15)
    assert probe.dst == PE_MAC
    net.pe_wire.send(Ether(src=PE_MAC, dst=CORE_MAC) / ARP(
        op=2, hwsrc=PE_MAC, psrc=address, hwdst=CORE_MAC, pdst="198.51.100.1"))
    wait_until(lambda: neighbor(net, address)["state"] == "reachable", 5, "confirmed")


def test_strangers_are_not_learnt(net):
    """ARP of another subnet, of a group address, or with our own address."""
    before = net.drops("cust", "arp_invalid")
    bad = [
        {"psrc": "10.9.9.9"}, {"hwsrc": "01:00:5e:00:00:01"}, {"psrc": "192.168.1.1"},
        {"hwsrc": "00:00:00:00:00:00"}, {"hwlen": 8}, {"ptype": 0x86dd}, {"hwtype": 6},
    ]
    for fields in bad:
        arp = {"op": 1, "hwsrc": "02:00:00:00:00:98", "psrc": CE4, "pdst": "192.168.1.1", **fields}
        net.ce_wire.send(Ether(src="02:00:00:00:00:98", dst=BROADCAST) / ARP(**arp))
    wait_until(lambda: net.drops("cust", "arp_invalid") >= before + len(bad), 5, "all are counted")
    assert neighbor(net, CE4)["mac"] == CE_MAC


def test_scan_does_not_fill_the_table(net):
    """Packets to 2000 unused addresses leave room: known neighbours stay, new ones can come."""
    net.ping(net.ce, "192.0.2.1", 1)
    for i in range(2000):
        ip = IPv6(src=CE6, dst=f"2001:db8::5:{i:x}") / UDP()
        net.ce_wire.send(bytes(Ether(src=CE_MAC, dst=CUST_MAC) / ip))
    wait_until(lambda: net.drops("core", "neighbor_table_full") > 0, 10, "the limit is reached")
    assert neighbor(net, CE4) and neighbor(net, "192.0.2.1")
    net.ping(net.ce, "192.0.2.1", 1)
    wait_until(lambda: not [n for n in net.rpc("fwd.neighbors") if n["state"] == "incomplete"], 15,
               "they are forgotten")


def test_a_mute_forwarder_only_forwards(net):
    """Another copy of the VM speaks for it: no ARP, no ND, nothing of the kernel; packets go on."""
    net.pe_wire.send(Ether(src=PE_MAC, dst=BROADCAST) / ARP(
        op=1, hwsrc=PE_MAC, psrc="198.51.100.77", pdst="198.51.100.1"))
    wait_until(lambda: neighbor(net, "198.51.100.77"), 5, "the next hop is known")
    ask4 = Ether(src=CE_MAC, dst=BROADCAST) / ARP(
        op=1, hwsrc=CE_MAC, psrc=CE4, pdst="192.168.1.1")
    ask6 = Ether(src=CE_MAC, dst="33:33:ff:00:00:01") / IPv6(src=CE6, dst="ff02::1:ff00:1") / \
        ICMPv6ND_NS(tgt="fd00:a1::1") / ICMPv6NDOptSrcLLAddr(lladdr=CE_MAC)
    hold = net.feed(route("10.9.0.0/16", {"via": "198.51.100.77", "oif": net.ifindex("core")}))
    try:
        net.rpc("fwd.mute", ms=60000)
        net.ce_wire.drain()
        net.pe_wire.drain()
        before = net.drops("cust", "mute"), net.drops("core", "mute")
        net.ce_wire.send(ask4)
        net.ce_wire.send(ask6)
        with in_netns(net.fwd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
            kernel.sendto(b"from the kernel", ("198.51.100.2", 4711))
        wait_until(lambda: net.drops("cust", "mute") >= before[0] + 2 and
                   net.drops("core", "mute") > before[1], 5, "all three were dropped")
        net.ce_wire.send(Ether(src=CE_MAC, dst=CUST_MAC) / IP(src=CE4, dst="10.9.0.1") /
                         UDP(dport=9) / b"on")
        assert net.pe_wire.expect(Ether, lambda p: UDP in p)[UDP].dport == 9
        assert not any(ARP in Ether(frame) or ICMPv6ND_NA in Ether(frame)
                       for frame in net.ce_wire.frames(0.3))
    finally:
        net.rpc("fwd.mute", ms=0)
        hold.close()
    net.ce_wire.send(ask4)
    assert net.ce_wire.expect(Ether, lambda p: ARP in p and p[ARP].op == 2)[ARP].hwsrc == CUST_MAC


def test_who_speaks_again_rehearses_unheard(net):
    """What was forwarded lately is forwarded once more when a copy begins to speak: nobody hears or counts it,
    not even when the neighbour isn't known any more."""
    net.pe_wire.send(Ether(src=PE_MAC, dst=BROADCAST) / ARP(
        op=1, hwsrc=PE_MAC, psrc="198.51.100.79", pdst="198.51.100.1"))
    wait_until(lambda: neighbor(net, "198.51.100.79"), 5, "the next hop is known")
    packet = Ether(src=CE_MAC, dst=CUST_MAC) / IP(src=CE4, dst="10.9.1.1") / UDP(dport=9) / b"once"
    hold = net.feed(route("10.9.1.0/24", {"via": "198.51.100.79", "oif": net.ifindex("core")}))
    try:
        def is_kept():
            net.ce_wire.send(packet)
            net.rpc("fwd.mute", ms=60000)
            net.rpc("fwd.mute", ms=0)
            return net.status()["rehearsed"] > 0

        wait_until(is_kept, 10, "the packet is kept and rehearsed", 0.3)
        wait_until(lambda: net.status()["sleeping"], 5, "nothing is under way")
        net.pe_wire.drain()
        before = net.port("core")["counters"], net.port("cust")["counters"]
        net.rpc("fwd.mute", ms=0)
        assert net.status()["rehearsed"] > 0
        assert not any(UDP in Ether(frame) for frame in net.pe_wire.frames(0.3))
        for was, now in zip(before, (net.port("core")["counters"], net.port("cust")["counters"])):
            assert {k: v for k, v in was.items() if k != "rx_empty"} == \
                   {k: v for k, v in now.items() if k != "rx_empty"}
    finally:
        hold.close()
    hold = net.feed(route("10.9.1.0/24", {"via": "198.51.100.80", "oif": net.ifindex("core")}))
    try:
        net.rpc("fwd.mute", ms=0)
        assert not neighbor(net, "198.51.100.80")
        assert not any(ARP in Ether(frame) and Ether(frame)[ARP].pdst == "198.51.100.80"
                       for frame in net.pe_wire.frames(0.3))
    finally:
        hold.close()


def test_who_cant_be_asked_does_not_fail(net):
    net.pe_wire.drain()
    failed = net.drops("core", "neighbor_failed")
    net.rpc("fwd.mute", ms=60000)
    try:
        towards(net, "198.51.100.88")
        wait_until(lambda: neighbor(net, "198.51.100.88"), 5, "it is to be asked for")
        began = net.status()["uptime_ms"]
        wait_until(lambda: net.status()["uptime_ms"] > began + 4500, 20, "three questions' time")
        assert neighbor(net, "198.51.100.88")["state"] == "incomplete"
        assert net.drops("core", "neighbor_failed") == failed
    finally:
        net.rpc("fwd.mute", ms=0)
    ask = net.pe_wire.expect(Ether, lambda p: ARP in p and p[ARP].pdst == "198.51.100.88")
    net.pe_wire.send(Ether(src=PE_MAC, dst=CORE_MAC) / ARP(
        op=2, hwsrc=PE_MAC, psrc="198.51.100.88", hwdst=CORE_MAC, pdst=ask[ARP].psrc))
    assert net.pe_wire.expect(Ether, lambda p: UDP in p)[IP].dst == "198.51.100.88"


@pytest.mark.parametrize("params", [{}, {"ms": -1}, {"ms": 60001}, {"ms": "1"}])
def test_how_long_it_is_mute(net, params):
    with pytest.raises(RpcError) as refused:
        net.rpc("fwd.mute", **params)
    assert refused.value.error["data"]["field"] == "/ms"
