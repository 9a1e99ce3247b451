# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv4 and IPv6 forwarding of a plain router, seen on the wire."""

import collections
import socket
import threading

import pytest
from scapy.layers.inet import ICMP, IP, IPerror, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6DestUnreach, IPv6
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether

from fwdlab import (
    CE_MAC, CORE_MAC, CUST_MAC, END, PE_MAC, RTN_BLACKHOLE, RTN_UNREACHABLE, Wire, in_netns, route,
)
from lib.lab import wait_until

CE4, CE6 = "192.168.1.2", "fd00:a1::2"
PE4, PE6 = "192.0.2.1", "fd00:c0::1"


@pytest.fixture(scope="module")
def net(router):
    """The router with routes; `ce` and `pe` are wires on both sides."""
    router.ce_wire, router.pe_wire = Wire(router.ce, "eth0"), Wire(router.pe, "eth0")
    router.hold = router.feed(
        route("10.2.0.0/16", {"via": PE4}),
        route("10.2.8.0/24", kind=RTN_BLACKHOLE),
        route("10.2.9.0/24", kind=RTN_UNREACHABLE),
        route("10.2.9.9/32", {"via": PE4}),
        route("10.3.0.0/16", {"via": "203.0.113.1"}),
        route("10.4.0.0/16", {"via": PE6, "oif": router.ifindex("core")}),
        route("fd00:2::/32", {"via": PE6}),
        route("fd00:2:8::/48", kind=RTN_BLACKHOLE),
        route("fd00:2:9::/48", kind=RTN_UNREACHABLE),
        route("fd00:2:9::9/128", {"via": PE6}),
    )
    # Neighbours are known from here on: tests look at their own packets.
    router.ping(router.ce, PE4)
    router.ping(router.ce, PE6)
    return router


def frame4(dst, payload=None, src=CE4, **fields):
    """A packet from the CE to the forwarder."""
    payload = UDP(sport=1000, dport=2000) / b"data" if payload is None else payload
    return Ether(src=CE_MAC, dst=CUST_MAC) / IP(src=src, dst=dst, **fields) / payload


def frame6(dst, payload=None, src=CE6, **fields):
    """The same for IPv6."""
    payload = UDP(sport=1000, dport=2000) / b"data" if payload is None else payload
    return Ether(src=CE_MAC, dst=CUST_MAC) / IPv6(src=src, dst=dst, **fields) / payload


def assert_checksums_right(packet):
    """Building the packet anew must give the same bytes."""
    again = packet.copy()
    layer = again
    while layer:
        if "chksum" in layer.fields:
            del layer.chksum
        layer = layer.payload
    assert bytes(again.__class__(bytes(again))) == bytes(packet)


def sent4(net, packet, match=None):
    """Sends from the CE, returns what leaves towards the core."""
    net.pe_wire.drain()
    net.ce_wire.send(packet)
    match = match or (lambda p: IP in p and p[IP].dst == packet[IP].dst)
    return net.pe_wire.expect(Ether, match, what="the forwarded packet")


def answered(net, packet, match, limit_s=5):
    """Sends from the CE, returns what comes back to it."""
    net.ce_wire.drain()
    net.ce_wire.send(packet)
    return net.ce_wire.expect(Ether, match, limit_s, what="the answer")


def dropped(net, port, reason, send):
    """`send()` makes the counter of `reason` grow."""
    before = net.drops(port, reason)
    send()
    wait_until(lambda: net.drops(port, reason) > before, 5, f"{reason} is counted")


def test_ipv4_ttl_checksum_and_macs(net):
    for ttl in (2, 64, 129, 255):
        out = sent4(net, frame4("10.2.0.1", ttl=ttl, id=ttl), lambda p, t=ttl: IP in p and p.id == t)
        assert (out.src, out.dst) == (CORE_MAC, PE_MAC)
        assert out[IP].ttl == ttl - 1
        assert bytes(out[UDP].payload) == b"data"
        assert_checksums_right(out)


def test_ipv6_hop_limit_and_macs(net):
    net.pe_wire.drain()
    net.ce_wire.send(frame6("fd00:2::1", hlim=9))
    out = net.pe_wire.expect(Ether, lambda p: IPv6 in p and p[IPv6].dst == "fd00:2::1")
    assert (out.src, out.dst) == (CORE_MAC, PE_MAC)
    assert out[IPv6].hlim == 8
    assert bytes(out[UDP].payload) == b"data"


def test_padding_is_not_forwarded(net):
    out = sent4(net, frame4("10.2.0.1", UDP() / b"x") / b"")
    assert len(out) <= 60
    packet = frame4("10.2.0.1", UDP(dport=77) / b"")
    net.pe_wire.drain()
    net.ce_wire.send(bytes(packet) + b"\xee" * 100)
    data = net.pe_wire.expect(bytes, lambda b: Ether(b).haslayer(UDP) and Ether(b)[UDP].dport == 77)
    assert b"\xee" not in data


def test_gateway_of_other_family(net):
    out = sent4(net, frame4("10.4.0.1"))
    assert out.dst == PE_MAC


def test_options_are_kept_and_source_routes_dropped(net):
    record = b"\x07\x07\x04\x00\x00\x00\x00\x00"
    out = sent4(net, frame4("10.2.0.7", options=record))
    assert bytes(out[IP])[20:28] == record
    assert_checksums_right(out)
    for option in (b"\x83", b"\x89"):
        dropped(net, "cust", "source_route", lambda o=option: net.ce_wire.send(
            frame4("10.2.0.7", options=o + b"\x07\x04\x0a\x02\x00\x01\x00")))
    # Behind an option whose number only looks like that of a source route.
    dropped(net, "cust", "source_route", lambda: net.ce_wire.send(
        frame4("10.2.0.7", options=b"\x03\x02\x01\x83\x07\x04\x0a\x02\x00\x01\x00\x00")))


def test_longest_prefix_wins(net):
    dropped(net, "cust", "blackhole", lambda: net.ce_wire.send(frame4("10.2.8.1")))
    dropped(net, "cust", "blackhole", lambda: net.ce_wire.send(frame6("fd00:2:8::1")))
    sent4(net, frame4("10.2.9.9"))
    out = answered(net, frame4("10.2.9.8"), lambda p: ICMP in p)
    assert (out[ICMP].type, out[ICMP].code) == (3, 1)
    net.pe_wire.drain()
    net.ce_wire.send(frame6("fd00:2:9::9"))
    net.pe_wire.expect(Ether, lambda p: IPv6 in p and p[IPv6].dst == "fd00:2:9::9")


def test_no_route_is_told(net):
    out = answered(net, frame4("172.16.0.1", id=4711), lambda p: ICMP in p)
    assert (out[ICMP].type, out[ICMP].code) == (3, 0)
    assert (out[IP].src, out[IP].dst) == ("192.168.1.1", CE4)
    assert out[ICMP].payload.id == 4711
    out = answered(net, frame6("2001:db8::1"), lambda p: ICMPv6DestUnreach in p)
    assert out[ICMPv6DestUnreach].code == 0
    assert out[IPv6].src == "fd00:a1::1"


def test_unresolved_gateway(net):
    dropped(net, "cust", "unresolved_route", lambda: net.ce_wire.send(frame4("10.3.0.1")))
    shown = net.rpc("fwd.fib", family="ipv4", prefix="10.3.0.0/16")["routes"][0]
    assert shown["nexthops"][0]["resolved"] is False
    # With an address in the gateway's subnet it resolves; without, it is kept unresolved again.
    net.address(net.fwd, "core", "203.0.113.2/24")
    wait_until(lambda: net.rpc("fwd.fib", family="ipv4", prefix="10.3.0.0/16")["routes"][0]
               ["nexthops"][0] == {"port": "core", "via": "203.0.113.1", "labels": [],
                                   "weight": 1, "resolved": True}, 5, "the route resolves")
    net.lab.run(net.fwd, ["ip", "address", "del", "203.0.113.2/24", "dev", "core"])
    wait_until(lambda: not net.rpc("fwd.fib", family="ipv4", prefix="10.3.0.0/16")["routes"][0]
               ["nexthops"][0]["resolved"], 5, "the route is unresolved again")


def test_time_exceeded(net):
    out = answered(net, frame4("10.2.0.1", ttl=1, id=99), lambda p: ICMP in p)
    assert (out[ICMP].type, out[ICMP].code) == (11, 0)
    assert out[IP].src == "192.168.1.1"
    assert out[ICMP].payload.id == 99
    assert_checksums_right(out)
    out = answered(net, frame6("fd00:2::1", hlim=1), lambda p: ICMPv6TimeExceeded in p)
    assert out[IPv6].src == "fd00:a1::1"


def test_no_error_about_errors_fragments_and_groups(net):
    """RFC 1812 4.3.2.7, RFC 4443 2.4: the packet is dropped, nobody is told."""
    inner = IP(src="10.2.0.1", dst=CE4) / UDP()
    silent = [
        frame4("10.2.0.1", ICMP(type=3, code=1) / inner, ttl=1),
        frame4("10.2.0.1", UDP() / (b"x" * 64), ttl=1, frag=10),
        frame6("fd00:2::1", ICMPv6DestUnreach() / IPv6() / UDP(), hlim=1),
        frame6("fd00:2::1", IPv6ExtHdrFragment(offset=10, nh=17) / (b"x" * 64), hlim=1),
    ]
    before = net.port("cust")["counters"]["icmp_errors"]
    for packet in silent:
        dropped(net, "cust", "ttl_expired", lambda p=packet: net.ce_wire.send(p))
    assert net.port("cust")["counters"]["icmp_errors"] == before
    # The same packet as a query is answered.
    answered(net, frame4("10.2.0.1", ICMP(type=8), ttl=1), lambda p: ICMP in p and p[ICMP].type == 11)


def test_errors_are_rate_limited(own):
    """Sooner or later errors stop; forwarding doesn't. Later they come again."""
    own.ce_wire, own.pe_wire = Wire(own.ce, "eth0"), Wire(own.pe, "eth0")
    hold = own.feed(route("10.2.0.0/16", {"via": PE4}))
    own.ping(own.ce, PE4)
    expired = bytes(frame4("10.2.0.1", ttl=1))

    def flood():
        for _ in range(150):
            own.ce_wire.send(expired)
        return own.drops("cust", "icmp_rate_limited") > 0

    wait_until(flood, 20, "errors are limited")
    sent4(own, frame4("10.2.0.1"))
    # The bucket fills again.
    again = frame4("10.2.0.1", ttl=1, id=4711)
    wait_until(
        lambda: answered(own, again, lambda p: ICMP in p and p[IPerror].id == 4711, limit_s=0.2),
        10, "errors come again",
    )
    hold.close()


def test_martians_are_dropped(net):
    for src in ("127.0.0.1", "0.0.0.0", "224.0.0.5", "240.0.0.1", "255.255.255.255"):
        dropped(net, "cust", "martian_source", lambda s=src: net.ce_wire.send(
            frame4("10.2.0.1", src=s)))
    for dst in ("127.0.0.1", "0.0.0.1", "240.0.0.1"):
        dropped(net, "cust", "martian_destination", lambda d=dst: net.ce_wire.send(frame4(d)))
    for src in ("::1", "ff02::1", "::ffff:10.0.0.1"):
        dropped(net, "cust", "martian_source", lambda s=src: net.ce_wire.send(
            frame6("fd00:2::1", src=s)))
    dropped(net, "cust", "spoofed_source", lambda: net.ce_wire.send(
        frame4("10.2.0.1", src="192.168.1.1")))
    dropped(net, "cust", "spoofed_source", lambda: net.ce_wire.send(
        frame6("fd00:2::1", src="fd00:a1::1")))


def test_link_local_is_not_forwarded(net):
    dropped(net, "cust", "martian_source", lambda: net.ce_wire.send(
        frame6("fd00:2::1", src="fe80::1234")))
    dropped(net, "cust", "martian_destination", lambda: net.ce_wire.send(frame6("fe80::1234")))
    dropped(net, "cust", "martian_destination", lambda: net.ce_wire.send(
        frame4("10.2.0.1", src="169.254.1.1")))


def test_multicast_and_broadcast_stay(net):
    dropped(net, "cust", "multicast", lambda: net.ce_wire.send(frame4("239.1.1.1")))
    dropped(net, "cust", "multicast", lambda: net.ce_wire.send(frame6("ff0e::1")))
    dropped(net, "cust", "broadcast", lambda: net.ce_wire.send(frame4("255.255.255.255")))
    dropped(net, "cust", "broadcast", lambda: net.ce_wire.send(frame4("192.0.2.3")))
    everybody = frame4("10.2.0.1")
    everybody.dst = "ff:ff:ff:ff:ff:ff"
    dropped(net, "cust", "broadcast", lambda: net.ce_wire.send(everybody))


def test_only_frames_for_us(net):
    other = frame4("10.2.0.1")
    other.dst = "02:aa:aa:aa:aa:aa"
    dropped(net, "cust", "not_for_us", lambda: net.ce_wire.send(other))
    unknown = Ether(src=CE_MAC, dst=CUST_MAC, type=0x88cc) / (b"x" * 46)
    dropped(net, "cust", "unknown_ethertype", lambda: net.ce_wire.send(unknown))


@pytest.mark.parametrize("break_it", [
    lambda p: p.__setitem__(14, 0x44),            # header shorter than a header
    lambda p: p.__setitem__(14, 0x65),            # version 6
    lambda p: p.__setitem__(24, p[24] ^ 1),       # checksum
    lambda p: p.__setitem__(16, 0xff),            # longer than the frame
    lambda p: p.__delitem__(slice(30, None)),     # cut off
])
def test_broken_ipv4_headers(net, break_it):
    packet = bytearray(bytes(frame4("10.2.0.1")))
    break_it(packet)
    dropped(net, "cust", "malformed", lambda: net.ce_wire.send(bytes(packet)))


def test_fragmentation_needed(net):
    net.lab.run(net.fwd, ["ip", "link", "set", "core", "mtu", "1280"])
    wait_until(lambda: net.port("core")["mtu"] == 1280, 5, "the MTU is seen")
    try:
        big = UDP(sport=1, dport=2) / (b"x" * 1300)
        out = answered(net, frame4("10.2.0.1", big, flags="DF"), lambda p: ICMP in p)
        assert (out[ICMP].type, out[ICMP].code, out[ICMP].nexthopmtu) == (3, 4, 1280)
        out = answered(net, frame6("fd00:2::1", big), lambda p: ICMPv6PacketTooBig in p)
        assert out[ICMPv6PacketTooBig].mtu == 1280

        # Without DF it is cut: the pieces fit and make the whole.
        net.pe_wire.drain()
        packet = frame4("10.2.0.1", big, id=1234)
        net.ce_wire.send(packet)
        parts = {}
        for _ in range(2):
            part = net.pe_wire.expect(Ether, lambda p: IP in p and p.id == 1234)
            assert part[IP].len <= 1280
            assert_checksums_right(Ether(bytes(part)[:34]))
            parts[part.frag * 8] = (bytes(part[IP].payload), bool(part[IP].flags.MF))
        first, second = sorted(parts)
        assert (first, parts[first][1], parts[second][1]) == (0, True, False)
        assert second == len(parts[0][0])
        assert parts[first][0] + parts[second][0] == bytes(packet[IP].payload)

        # A piece of which no whole can be made isn't cut: its offsets would run over.
        last = b"y" * 1304
        dropped(net, "core", "malformed",
                lambda: net.ce_wire.send(frame4("10.2.0.1", last, id=1235, frag=0x1fff)))
        fits = 0x2000 - len(last) // 8
        net.ce_wire.send(frame4("10.2.0.1", last, id=1236, frag=fits))
        for _ in range(2):
            part = net.pe_wire.expect(Ether, lambda p: IP in p and p.id in (1235, 1236))
            assert part.id == 1236 and part.frag >= fits and not part[IP].flags.evil
    finally:
        net.lab.run(net.fwd, ["ip", "link", "set", "core", "mtu", "1500"])
        wait_until(lambda: net.port("core")["mtu"] == 1500, 5, "the MTU is back")


def test_ecmp_spreads_flows_and_keeps_each(net):
    """Two gateways, weights 1 and 3: flows spread so, and no flow changes sides."""
    second = "02:be:00:00:00:02"
    net.hold.send(route("10.5.0.0/16", {"via": PE4, "weight": 1},
                        {"via": "192.0.2.130", "weight": 3}), END)
    net.address(net.fwd, "core", "192.0.2.129/29")
    wait_until(lambda: all(h["resolved"] for r in
                           net.rpc("fwd.fib", family="ipv4", prefix="10.5.0.0/16")["routes"]
                           for h in r["nexthops"]), 5, "both gateways are resolved")
    # The second gateway answers ARP only here.
    net.ce_wire.send(frame4("192.0.2.130"))
    net.pe_wire.expect(Ether, lambda p: ARP in p and p.pdst == "192.0.2.130")
    net.pe_wire.send(Ether(src=second, dst=CORE_MAC) / ARP(
        op=2, hwsrc=second, psrc="192.0.2.130", hwdst=CORE_MAC, pdst="192.0.2.129"))
    wait_until(lambda: any(n["address"] == "192.0.2.130" and n["mac"] == second
                           for n in net.rpc("fwd.neighbors")), 5, "the second gateway is known")
    net.pe_wire.drain()
    sides = {}
    for again in range(2):
        for sport in range(400):
            packet = frame4("10.5.0.1", TCP(sport=sport, dport=80), src="10.1.0.1")
            net.ce_wire.send(packet)
            out = net.pe_wire.expect(Ether, lambda p: TCP in p)
            if again:
                assert sides[out[TCP].sport] == out.dst
            sides[out[TCP].sport] = out.dst
    counts = collections.Counter(sides.values())
    assert 200 < counts[second] < 380 and counts[PE_MAC] > 20
    # Fragments follow each other, whatever lies where ports would be.
    gateways = set()
    for ident in range(20):
        net.ce_wire.send(frame4("10.5.0.1", bytes([ident]) * 16, src="10.1.0.1", proto=17,
                                frag=100 + ident, id=7))
        gateways.add(net.pe_wire.expect(Ether, lambda p: IP in p and p.id == 7).dst)
    assert len(gateways) == 1


def test_punt_to_the_kernel_and_back(net):
    """A real TCP connection to the interface's address ends in the kernel behind the TAP."""
    with in_netns(net.fwd):
        listener = socket.create_server(("192.168.1.1", 179))
    listener.settimeout(10)
    with in_netns(net.ce):
        client = socket.create_connection(("192.168.1.1", 179), timeout=10)
    server, _ = listener.accept()
    server.settimeout(10)
    blob = bytes(range(256)) * 2000
    # At the same time: how much fits on the way without a reader is TCP's affair.
    sender = threading.Thread(target=client.sendall, args=(blob,))
    sender.start()
    got = b""
    while len(got) < len(blob):
        got += server.recv(65536)
    sender.join()
    assert got == blob
    server.sendall(b"done")
    assert client.recv(4) == b"done"
    for sock in (client, server, listener):
        sock.close()


def test_kernel_behind_the_device_keeps_quiet(net):
    """Nothing is answered twice: neither ARP, nor echo, nor TCP."""
    net.ce_wire.drain()
    asker = "02:00:00:00:00:99"
    net.ce_wire.send(Ether(src=asker, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=asker, psrc="0.0.0.0", pdst="192.168.1.1"))
    net.ping(net.ce, "192.168.1.1", 1)
    with in_netns(net.ce):
        probe = socket.socket()
        probe.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            probe.connect(("192.168.1.1", 9))
    seen = [Ether(data) for data in net.ce_wire.frames(0.5)]
    assert sum(ARP in p and p[ARP].op == 2 and p[ARP].hwdst == asker for p in seen) == 1
    assert sum(ICMP in p and p[ICMP].type == 0 for p in seen) == 1
    assert sum(TCP in p and "R" in p[TCP].flags for p in seen) == 1


def test_echo_of_every_size(net):
    for size in (0, 1, 55, 56, 1400, 1472):
        net.ping(net.ce, "192.168.1.1", 1, "-s", str(size))
        net.ping(net.ce, "fd00:a1::1", 1, "-s", str(min(size, 1452)))
    net.ping(net.ce, "192.0.2.2", 1)
    net.ping(net.ce, "fd00:c0::2", 1)


def test_echo_with_wrong_checksum_is_dropped(net):
    dropped(net, "cust", "malformed", lambda: net.ce_wire.send(
        frame4("192.168.1.1", ICMP(type=8, chksum=1) / b"x")))


def test_counters_count(net):
    before = net.port("core")["counters"]
    packet = frame4("10.2.0.1", UDP() / (b"x" * 100))
    for _ in range(50):
        net.ce_wire.send(packet)
    wait_until(lambda: net.port("core")["counters"]["tx_packets"] >= before["tx_packets"] + 50, 5,
               "the packets are counted")
    after = net.port("core")["counters"]
    assert after["tx_bytes"] - before["tx_bytes"] >= 50 * len(packet)
    wait_until(lambda: net.port("cust")["counters"]["rx_empty"] > 0, 5, "all of them were taken")
