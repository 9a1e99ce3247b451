# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames that nobody should send: the forwarder survives them and goes on."""

import random

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6NDOptSrcLLAddr, IPv6,
    IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether

from fwdlab import CE_MAC, CORE_MAC, CUST_MAC, PE_MAC, Wire, pop, route

SEED = 20231
ROUNDS = 6000


def corpus():
    """Well-formed payloads of every kind that the forwarder looks into."""
    inside = [
        IP(src="192.168.1.2", dst="10.2.0.1") / UDP(sport=1, dport=2) / (b"x" * 32),
        IP(src="192.168.1.2", dst="10.2.0.1", ttl=1) / TCP() / b"x",
        IP(src="192.168.1.2", dst="192.168.1.1") / ICMP() / (b"x" * 32),
        IP(src="192.168.1.2", dst="10.2.0.1", options=b"\x07\x07\x04\x00\x00\x00\x00\x00") / UDP(),
        IP(src="192.168.1.2", dst="10.2.0.1", flags="MF", frag=0) / (b"x" * 64),
        IPv6(src="fd00:a1::2", dst="fd00:2::1") / UDP() / (b"x" * 32),
        IPv6(src="fd00:a1::2", dst="fd00:a1::1") / ICMPv6EchoRequest() / (b"x" * 32),
        IPv6(src="fd00:a1::2", dst="fd00:2::1", hlim=1) / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / UDP(),
        IPv6(src="fd00:a1::2", dst="fd00:2::1", hlim=1) / IPv6ExtHdrFragment() / UDP(),
        IPv6(src="fd00:a1::2", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt="fd00:a1::1")
        / ICMPv6NDOptSrcLLAddr(lladdr=CE_MAC),
        IPv6(src="fd00:a1::2", dst="fd00:a1::1", hlim=255) / ICMPv6ND_NA(tgt="fd00:a1::2")
        / ICMPv6NDOptSrcLLAddr(lladdr=CE_MAC),
        IPv6(src="fe80::2", dst="ff02::1", hlim=255) / ICMPv6ND_RA(),
    ]
    frames = [Ether(src=CE_MAC, dst=CUST_MAC) / p for p in inside]
    frames += [Ether(src=CE_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=op, hwsrc=CE_MAC, psrc="192.168.1.2", pdst="192.168.1.1") for op in (1, 2)]
    frames += [Ether(src=CE_MAC, dst=CUST_MAC) / Dot1Q(vlan=5) / inside[0]]
    frames += [Ether(src=PE_MAC, dst=CORE_MAC, type=0x8847) / MPLS(label=label, s=s, ttl=64) / p
               for p in inside for label, s in ((1000, 1), (1000, 0), (2000, 1), (2000, 0))]
    return [bytes(f) for f in frames]


def mutate(rng, frame):
    """Flips, cuts, grows or overwrites; the Ethernet header mostly stays."""
    data = bytearray(frame)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(12 if rng.random() < 0.9 else 0, max(len(data), 13))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7f, 0x80, 0xff))
        elif kind == 2:
            del data[max(at, 14):]
        elif kind == 3:
            data += rng.randbytes(rng.randrange(64))
        elif at + 2 <= len(data):
            data[at:at + 2] = rng.choice((b"\xff\xff", b"\x00\x00", b"\x80\x00"))
    return bytes(data[:1514]).ljust(14, b"\0")


@pytest.mark.parametrize("fixture", ["router", "vpn"])
def test_mutated_frames(request, fixture):
    f = request.getfixturevalue(fixture)
    hold = f.feed(route("10.2.0.0/16", {"via": "192.0.2.1", "labels": [5]}),
                  route("fd00:2::/32", {"via": "fd00:c0::1"}),
                  route(2000, {"via": "192.0.2.1", "labels": [9]}), pop(1000))
    wires = {"cust": Wire(f.ce, "eth0"), "core": Wire(f.pe, "eth0")}
    f.ping(f.ce, "192.168.1.1", 1)
    rng = random.Random(SEED)
    frames = corpus()
    for i in range(ROUNDS):
        frame = rng.choice(frames)
        port = "core" if frame[0:6] == bytes.fromhex(CORE_MAC.replace(":", "")) else "cust"
        wires[port].send(mutate(rng, frame) if i % 8 else frame)
        if i % 1000 == 999:
            assert f.status()["fib"]["connected"]
    assert f.process.poll() is None
    # All of it is accounted for: nothing that came in is unexplained.
    f.ping(f.ce, "192.168.1.1", 3)
    f.ping(f.ce, "fd00:a1::1", 3)
    assert sum(sum(p["drops"].values()) for p in f.status()["ports"]) > ROUNDS / 10
    hold.close()


def test_frames_of_odd_sizes(router):
    """From the shortest that the link carries to longer than the MTU."""
    wire = Wire(router.ce, "eth0")
    for size in list(range(14, 80)) + [1499, 1500, 1513, 1514]:
        wire.send(bytes.fromhex((CUST_MAC + CE_MAC).replace(":", "")) + b"\x08\x00"
                  + b"\x45" * (size - 14))
    router.ping(router.ce, "192.168.1.1", 1)
    assert router.drops("cust", "malformed") > 0


def test_vlan_tagged_frames_are_not_for_us(router):
    before = router.port("cust")["counters"]["echo_replies"]
    wire = Wire(router.ce, "eth0")
    for vlan in (0, 5, 4095):
        wire.send(Ether(src=CE_MAC, dst=CUST_MAC) / Dot1Q(vlan=vlan)
                  / IP(src="192.168.1.2", dst="192.168.1.1") / ICMP())
    router.ping(router.ce, "192.168.1.1", 1)
    assert router.port("cust")["counters"]["echo_replies"] == before + 1
