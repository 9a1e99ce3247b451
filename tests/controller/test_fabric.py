# SPDX-License-Identifier: GPL-2.0-or-later
"""The edge switch's rules on a real Open vSwitch: for each rule frames that must pass, to the right
place and with the right tag, and frames that must not.

A frame that must not pass is followed, on the same wire, by one that must: the switch keeps their
order, so when the second has arrived the first would have."""

import copy
import errno
import os
import re
import sys

import pytest
from scapy.all import (ARP, Dot1Q, Ether, ICMP, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA,
                       ICMPv6ND_Redirect, IP, IPv6, Raw, TCP, UDP)
from scapy.contrib.mpls import MPLS

from lib.lab import Lab, wait_until

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from drivers import Drivers, Switch, Wires  # noqa: E402  pylint: disable=wrong-import-position

PE = "02:ed:00:00:00:01"
GATEWAY = "02:aa:00:00:00:01"
INSIDE = "02:ed:00:00:01:01"
ALL = "ff:ff:ff:ff:ff:ff"

GREEN = {
    "id": 11, "customer": 1, "switch_port": "cust1", "vlan": 0, "mac": "02:ed:00:00:02:01",
    "addresses": ["192.168.1.1/30", "fd00:a1::1/64"], "trunk": "left", "cust_vlan": 101,
    "core_vlan": 102, "inside_address": "100.64.1.10", "label": 1001}
RED = {
    "id": 12, "customer": 2, "switch_port": "cust2", "vlan": 7, "mac": "02:ed:00:00:02:02",
    "addresses": ["192.168.1.1/30"], "trunk": "left", "cust_vlan": 103, "core_vlan": 104,
    "inside_address": "100.64.1.11", "label": 1002, "ce_mac": "02:ce:00:00:00:02"}
GREEN2 = {
    "id": 13, "customer": 1, "switch_port": "cust3", "vlan": 0, "mac": "02:ed:00:00:02:03",
    "addresses": ["192.168.3.1/30"], "trunk": "right", "cust_vlan": 101, "core_vlan": 102,
    "inside_address": "100.64.1.12", "label": 1003}
GREEN3 = {
    "id": 14, "customer": 1, "switch_port": "cust2", "vlan": 8, "mac": "02:ed:00:00:02:04",
    "addresses": ["192.168.4.1/30"], "trunk": "left", "cust_vlan": 105, "core_vlan": 106,
    "inside_address": "100.64.1.13", "label": 1004}
SITE = {
    "id": 1, "core_port": "core", "pe_mac": PE, "pe_address": "10.0.0.1",
    "core_address": "192.0.2.2/30", "gateway": "192.0.2.1", "transport_label": 16001,
    "cvm": {"trunk": "left", "core_vlan": 110, "inside_vlan": 111, "inside_mac": INSIDE,
            "inside_address": "100.64.1.1"},
    "ports": [GREEN, RED, GREEN2, GREEN3]}
PORTS = ["core", "cust1", "cust2", "cust3", "left", "right"]
CE1, CE2, CE3 = "02:ce:00:00:00:01", "02:ce:00:00:00:02", "02:ce:00:00:00:03"

SENTINEL = b"sentinel"


def tagged(vlan, frame):
    """The frame with a VLAN tag."""
    return Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=vlan, type=frame.type) / frame.payload


def mpls(label, dst, src=PE, bos=1, below=None):
    """An MPLS frame with one or two labels."""
    inner = below or IP(src="10.1.0.1", dst="10.2.0.1") / UDP() / b"payload"
    return Ether(src=src, dst=dst, type=0x8847) / MPLS(label=label, s=bos, ttl=60) / inner


# A frame for each wire that must pass, to know that those before it have been dealt with.
def _sentinels():
    ip = IP(src="192.168.1.2", dst="192.168.1.1") / UDP() / SENTINEL
    out = IP(src="192.168.1.1", dst="192.168.1.2") / UDP() / SENTINEL
    return {
        "cust1": Ether(src=CE1, dst=GREEN["mac"]) / ip,
        "cust2": tagged(7, Ether(src=CE2, dst=RED["mac"]) / ip),
        "cust3": Ether(src=CE3, dst=GREEN2["mac"]) / ip,
        "left": tagged(101, Ether(src=GREEN["mac"], dst=CE1) / out),
        "right": tagged(101, Ether(src=GREEN2["mac"], dst=CE3) / out),
        "core": mpls(1001, PE, src=GATEWAY, below=out),
    }


SENTINELS = _sentinels()


class Bench:
    """The switch, the wires at its ports, and the controller's driver."""

    def __init__(self, lab, ports=None, sentinels=None):
        ports = ports or PORTS
        self.sentinels = sentinels or SENTINELS
        self.ns, self.ends = lab.netns("sw"), lab.netns("ends")
        for name in ports:
            lab.veth(self.ns, name, self.ends, name, mtu=1700)
        for namespace in (self.ns, self.ends):
            lab.run(namespace, ["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
        self.lab = lab
        self.switch = Switch(lab, self.ns, "edge")
        self.target = self.switch.add_bridge("edge", ports)
        self.drivers = Drivers(lab)
        self.drivers("fabric_open", target=self.target)
        self.wires = Wires(self.ends, ports)

    def send(self, wire, frame):
        """Sends a frame; returns what came out of it: [(wire, vlan, scapy frame)].

        The switch keeps the order of frames only for each of its ports: those that it took in at
        once may leave by different ports in another order. So a second sentinel follows when the
        first has arrived, and when that has, all that came before it has left."""
        out, done = [], []

        def take(limit_s):
            frames = self.wires.receive(limit_s)
            for interface, vlan, data in frames:
                if SENTINEL in data:
                    done.append(interface)
                else:
                    out.append((interface, vlan, Ether(data)))
            return frames

        self.wires.send(wire, bytes(frame))
        for number in (1, 2):
            self.wires.send(wire, bytes(self.sentinels[wire]))
            wait_until(lambda n=number: take(0.2) and len(done) >= n, 10,
                       f"the sentinel after a frame on {wire} arrives", interval_s=0)
        while take(0):
            pass
        return out

    def passes(self, wire, frame, *places):
        """The frame arrives at these (wire, vlan) and nowhere else; returns the first."""
        out = self.send(wire, frame)
        assert sorted((w, v) for w, v, _ in out) == sorted(places), \
            f"{frame.summary()} came out at {[(w, v, f.summary()) for w, v, f in out]}"
        return out[0][2]

    def dropped(self, wire, frame):
        """The frame arrives nowhere."""
        out = self.send(wire, frame)
        assert not out, f"{frame.summary()} came out at {[(w, v) for w, v, _ in out]}"


@pytest.fixture(scope="module")
def bench():
    """A switch with the rules of SITE."""
    with Lab("fab") as lab:
        made = Bench(lab)
        result = made.drivers("fabric_apply", site=SITE)
        assert result["added"] > 50 and result["left_out"] == 0
        try:
            yield made
        finally:
            made.wires.close()
        made.drivers.close()


# ---- customers -------------------------------------------------------------------------------


def test_customer_reaches_its_pvm(bench):
    ce, pvm = CE1, GREEN["mac"]
    ip = IP(src="10.1.0.1", dst="10.2.0.1") / UDP() / b"data"
    for frame in (
            Ether(src=ce, dst=pvm) / ip,
            Ether(src=ce, dst=ALL) / ip,
            Ether(src=ce, dst=pvm) / IPv6(src="fd00:a1::2", dst="fd00:a1::1") / UDP(),
            Ether(src=ce, dst=ALL) / ARP(op=1, hwsrc=ce, psrc="192.168.1.2", pdst="192.168.1.1"),
            Ether(src=ce, dst=pvm) / ARP(op=2, hwsrc=ce, psrc="192.168.1.2", hwdst=pvm,
                                         pdst="192.168.1.1"),
            Ether(src=ce, dst="33:33:ff:00:00:01") / IPv6(src="fd00:a1::2", dst="ff02::1:ff00:1") /
            ICMPv6ND_NS(tgt="fd00:a1::1"),
            Ether(src=ce, dst=pvm) / IPv6(src="fd00:a1::2", dst="fd00:a1::1") /
            ICMPv6ND_NA(tgt="fd00:a1::2")):
        got = bench.passes("cust1", frame, ("left", 101))
        assert bytes(got) == bytes(Ether(bytes(frame)))


def test_customer_vlan(bench):
    ip = IP(src="10.1.0.1", dst="10.2.0.1") / UDP() / b"data"
    red, green3 = Ether(src=CE2, dst=RED["mac"]) / ip, Ether(src=CE2, dst=GREEN3["mac"]) / ip
    bench.passes("cust2", tagged(7, red), ("left", 103))
    bench.passes("cust2", tagged(8, green3), ("left", 105))
    bench.dropped("cust2", red)
    bench.dropped("cust2", tagged(9, red))
    bench.dropped("cust2", tagged(8, red))
    bench.dropped("cust2", tagged(103, red))
    green = Ether(src=CE1, dst=GREEN["mac"]) / ip
    bench.dropped("cust1", tagged(101, green))
    bench.dropped("cust1", tagged(7, green))
    bench.dropped("cust2", tagged(7, tagged(7, red)))
    priority = Ether(src=CE1, dst=GREEN["mac"]) / Dot1Q(vlan=0, prio=5) / ip
    out = bench.send("cust1", priority)
    assert not out


def test_customer_cannot_use_our_addresses(bench):
    ip = IP(src="10.1.0.1", dst="10.2.0.1") / UDP() / b"data"
    for source in (PE, INSIDE, GREEN["mac"], RED["mac"], GREEN2["mac"], "01:00:5e:00:00:01", ALL):
        bench.dropped("cust1", Ether(src=source, dst=GREEN["mac"]) / ip)
    # red's port lets only its CE's MAC in
    bench.dropped("cust2", tagged(7, Ether(src=CE1, dst=RED["mac"]) / ip))
    # the PVM's own address as a sender
    bench.dropped("cust1", Ether(src=CE1, dst=ALL) /
                  ARP(op=1, hwsrc=CE1, psrc="192.168.1.1", pdst="192.168.1.1"))
    bench.dropped("cust1", Ether(src=CE1, dst=GREEN["mac"]) /
                  ARP(op=2, hwsrc=CE1, psrc="192.168.1.1", pdst="192.168.1.2"))
    bench.dropped("cust1", Ether(src=CE1, dst=GREEN["mac"]) /
                  ARP(op=2, hwsrc=CE1, psrc="192.0.2.2", pdst="192.0.2.1"))
    bench.dropped("cust1", Ether(src=CE1, dst="33:33:00:00:00:01") /
                  IPv6(src="fd00:a1::1", dst="ff02::1") / ICMPv6ND_NA(tgt="fd00:a1::1"))
    # red's ARP must carry the CE's MAC inside, too
    bench.dropped("cust2", tagged(7, Ether(src=CE2, dst=ALL) /
                  ARP(op=1, hwsrc=CE1, psrc="192.168.1.2", pdst="192.168.1.1")))
    bench.passes("cust2", tagged(7, Ether(src=CE2, dst=ALL) /
                 ARP(op=1, hwsrc=CE2, psrc="192.168.1.2", pdst="192.168.1.1")), ("left", 103))


def test_customer_speaks_with_nobody_else(bench):
    ip = IP(src="10.1.0.1", dst="10.2.0.1") / UDP() / b"data"
    for target in (RED["mac"], GREEN2["mac"], PE, INSIDE, GATEWAY, CE2, CE3,
                   "01:00:5e:00:00:05", "01:80:c2:00:00:00"):
        bench.dropped("cust1", Ether(src=CE1, dst=target) / ip)


def test_customer_may_send_only_ip_and_arp(bench):
    pvm = GREEN["mac"]
    bench.dropped("cust1", mpls(1001, pvm, src=CE1))
    bench.dropped("cust1", mpls(1002, PE, src=CE1))
    bench.dropped("cust1", mpls(1003, GATEWAY, src=CE1))
    for ethertype in (0x8848, 0x88cc, 0x8863, 0x22f0, 0x88e5, 0x0802):
        bench.dropped("cust1", Ether(src=CE1, dst=pvm, type=ethertype) / Raw(b"x" * 50))
    bench.dropped("cust1", Ether(src=CE1, dst="33:33:00:00:00:01") /
                  IPv6(src="fe80::2", dst="ff02::1", hlim=255) / ICMPv6ND_RA())
    bench.dropped("cust1", Ether(src=CE1, dst=pvm) /
                  IPv6(src="fe80::2", dst="fd00:a1::1", hlim=255) / ICMPv6ND_Redirect())


def test_pvm_reaches_its_customer(bench):
    pvm = GREEN["mac"]
    for payload in (IP(src="10.2.0.1", dst="10.1.0.1") / UDP() / b"data",
                    IPv6(src="fd00:a1::1", dst="fd00:a1::2") / UDP(),
                    ARP(op=2, hwsrc=pvm, psrc="192.168.1.1", pdst="192.168.1.2")):
        bench.passes("left", tagged(101, Ether(src=pvm, dst=CE1) / payload), ("cust1", 0))
    bench.passes("left", tagged(103, Ether(src=RED["mac"], dst=CE2) / IP() / UDP()), ("cust2", 7))
    bench.passes("left", tagged(105, Ether(src=GREEN3["mac"], dst=CE2) / IP() / UDP()),
                 ("cust2", 8))
    bench.passes("right", tagged(101, Ether(src=GREEN2["mac"], dst=CE3) / IP() / UDP()),
                 ("cust3", 0))


def test_pvm_cannot_spoof_towards_customers(bench):
    ip = IP(src="10.2.0.1", dst="10.1.0.1") / UDP() / b"data"
    bench.dropped("left", tagged(101, Ether(src=RED["mac"], dst=CE1) / ip))
    bench.dropped("left", tagged(101, Ether(src=PE, dst=CE1) / ip))
    bench.dropped("left", tagged(101, mpls(1001, CE1, src=GREEN["mac"])))
    bench.dropped("left", tagged(101, Ether(src=GREEN["mac"], dst=CE1, type=0x88cc) / Raw(b"x")))
    bench.dropped("left", Ether(src=GREEN["mac"], dst=CE1) / ip)          # untagged on a trunk
    bench.dropped("left", tagged(199, Ether(src=GREEN["mac"], dst=CE1) / ip))  # nobody's VLAN
    bench.dropped("right", tagged(103, Ether(src=RED["mac"], dst=CE2) / ip))  # another server


# ---- the core --------------------------------------------------------------------------------


def test_pvm_sends_mpls_to_the_core(bench):
    below = MPLS(label=2001, s=1, ttl=60) / IP(src="10.1.0.1", dst="10.2.0.1") / UDP()
    bench.passes("left", tagged(102, mpls(16002, GATEWAY, bos=0, below=below)), ("core", 0))
    frame = mpls(2001, GATEWAY)
    got = bench.passes("left", tagged(102, frame), ("core", 0))
    assert bytes(got) == bytes(frame)
    # a label of another customer at this site means nothing here: the core may have a use for it
    bench.passes("left", tagged(102, mpls(1002, GATEWAY)), ("core", 0))
    bench.dropped("left", tagged(102, mpls(2001, GATEWAY, src=GREEN["mac"])))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=GATEWAY) / IP(dst="10.9.9.9") / UDP()))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=GATEWAY) /
                                 IP(src="192.0.2.2", dst="10.0.0.100") / TCP(dport=179)))
    bench.dropped("left", tagged(102, mpls(1001, GATEWAY)))  # its own label


def test_pvm_cannot_have_the_core_bring_it_to_another_customer(bench):
    """Red's label below the one that leads back to this site, or below one that the core pops."""
    red = MPLS(label=1002, s=1, ttl=60) / IP(src="10.1.0.1", dst="10.2.0.1") / UDP()
    bench.passes("left", tagged(102, mpls(16002, GATEWAY, bos=0, below=red)), ("core", 0))
    bench.dropped("left", tagged(102, mpls(16001, GATEWAY, bos=0, below=red)))
    bench.dropped("left", tagged(102, mpls(16001, GATEWAY)))
    for label in (0, 1, 3, 15):
        bench.dropped("left", tagged(102, mpls(label, GATEWAY, bos=0, below=red)))


def test_ports_of_one_customer_reach_each_other(bench):
    # right to left, and left to left: out of the trunk that it came in by
    for wire, source, port in (("right", GREEN2, GREEN), ("left", GREEN, GREEN3),
                               ("left", GREEN3, GREEN), ("left", GREEN, GREEN2)):
        got = bench.passes(wire, tagged(source["core_vlan"], mpls(port["label"], GATEWAY)),
                           (port["trunk"], port["core_vlan"]))
        assert got.dst == PE, "the PVM takes only what is for its MAC"
        assert got.src == GATEWAY, "a bridge that saw the PE's MAC come from the trunk would learn it"
        assert got[MPLS].label == port["label"] and got[MPLS].ttl == 60
    # two labels are not for here
    below = MPLS(label=1001, s=1, ttl=9) / IP() / UDP()
    bench.passes("right", tagged(102, mpls(1001, GATEWAY, bos=0, below=below)), ("core", 0))
    # red's label from green, and green's from red: never delivered here
    bench.passes("right", tagged(102, mpls(1002, GATEWAY)), ("core", 0))
    bench.passes("left", tagged(104, mpls(1001, GATEWAY)), ("core", 0))


def test_pvm_cannot_speak_with_another_pvm(bench):
    for target, address in ((RED["mac"], "100.64.1.11"), (PE, "100.64.1.12")):
        bench.dropped("left", tagged(102, Ether(src=PE, dst=target) /
                                     IP(src="100.64.1.10", dst=address) / TCP(dport=179)))
        bench.dropped("left", tagged(102, Ether(src=PE, dst=ALL) /
                                     ARP(op=1, hwsrc=PE, psrc="100.64.1.10", pdst=address)))


def test_core_delivers_by_label(bench):
    for port in (GREEN, RED, GREEN2, GREEN3):
        frame = mpls(port["label"], PE, src=GATEWAY)
        got = bench.passes("core", frame, (port["trunk"], port["core_vlan"]))
        assert bytes(got) == bytes(frame)
    bench.dropped("core", mpls(1999, PE, src=GATEWAY))
    bench.dropped("core", mpls(1001, "02:12:34:56:78:9a", src=GATEWAY))
    bench.dropped("core", mpls(1001, PE, src=GATEWAY, bos=0,
                               below=MPLS(label=1002, s=1) / IP() / UDP()))
    bench.dropped("core", mpls(1001, PE, src=PE))  # a loop
    bench.dropped("core", tagged(102, mpls(1001, PE, src=GATEWAY)))
    bench.dropped("core", Ether(src=GATEWAY, dst=GREEN["mac"]) / IP(dst="192.168.1.1") / UDP())
    bench.dropped("core", Ether(src=GATEWAY, dst=PE) / IP(dst="100.64.1.10") / UDP())


def test_gateway_arp(bench):
    ask = Ether(src=PE, dst=ALL) / ARP(op=1, hwsrc=PE, psrc="192.0.2.2", pdst="192.0.2.1")
    bench.passes("left", tagged(102, ask), ("core", 0))
    bench.passes("left", tagged(110, ask), ("core", 0))
    answer = Ether(src=GATEWAY, dst=PE) / ARP(op=2, hwsrc=GATEWAY, psrc="192.0.2.1", hwdst=PE,
                                              pdst="192.0.2.2")
    got = bench.passes("core", answer, ("left", 110), ("left", 102), ("left", 104), ("right", 102),
                       ("left", 106))
    assert bytes(got)[:42] == bytes(answer)
    # only for the gateway, only as the PE, and a PVM answers nobody
    bench.dropped("left", tagged(102, Ether(src=PE, dst=ALL) /
                                 ARP(op=1, hwsrc=PE, psrc="192.0.2.2", pdst="192.0.2.3")))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=ALL) /
                                 ARP(op=1, hwsrc=PE, psrc="10.0.0.1", pdst="192.0.2.1")))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=ALL) /
                                 ARP(op=1, hwsrc=RED["mac"], psrc="192.0.2.2", pdst="192.0.2.1")))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=GATEWAY) /
                                 ARP(op=2, hwsrc=PE, psrc="192.0.2.2", pdst="192.0.2.1")))
    question = Ether(src=GATEWAY, dst=ALL) / ARP(op=1, hwsrc=GATEWAY, psrc="192.0.2.1",
                                                 pdst="192.0.2.2")
    bench.passes("core", question, ("left", 110))
    bench.dropped("core", Ether(src=GATEWAY, dst=ALL) /
                  ARP(op=1, hwsrc=GATEWAY, psrc="192.0.2.1", pdst="100.64.1.10"))


# ---- the inside ------------------------------------------------------------------------------


def test_pvm_and_cvm(bench):
    for port in (GREEN, GREEN2):
        own, wire, vlan = port["inside_address"], port["trunk"], port["core_vlan"]
        for payload in (TCP(sport=40000, dport=179), TCP(sport=179, dport=40000), ICMP()):
            bench.passes(wire, tagged(vlan, Ether(src=PE, dst=INSIDE) /
                                      IP(src=own, dst="100.64.1.1") / payload), ("left", 111))
            bench.passes("left", tagged(111, Ether(src=INSIDE, dst=PE) /
                                        IP(src="100.64.1.1", dst=own) / payload), (wire, vlan))
        bench.passes(wire, tagged(vlan, Ether(src=PE, dst=ALL) / ARP(
            op=1, hwsrc=PE, psrc=own, pdst="100.64.1.1")), ("left", 111))
        bench.passes("left", tagged(111, Ether(src=INSIDE, dst=PE) / ARP(
            op=2, hwsrc=INSIDE, psrc="100.64.1.1", hwdst=PE, pdst=own)), (wire, vlan))


def test_inside_is_for_bgp_only(bench):
    own = GREEN["inside_address"]
    for payload in (TCP(dport=22), UDP(dport=179), TCP(dport=2179)):
        bench.dropped("left", tagged(102, Ether(src=PE, dst=INSIDE) /
                                     IP(src=own, dst="100.64.1.1") / payload))
        bench.dropped("left", tagged(111, Ether(src=INSIDE, dst=PE) /
                                     IP(src="100.64.1.1", dst=own) / payload))
    bgp = TCP(sport=40000, dport=179)
    # with another PVM's address, from another MAC, to somebody else
    bench.dropped("left", tagged(102, Ether(src=PE, dst=INSIDE) /
                                 IP(src="100.64.1.11", dst="100.64.1.1") / bgp))
    bench.dropped("left", tagged(102, Ether(src=GREEN["mac"], dst=INSIDE) /
                                 IP(src=own, dst="100.64.1.1") / bgp))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=ALL) /
                                 ARP(op=1, hwsrc=PE, psrc="100.64.1.11", pdst="100.64.1.1")))
    bench.dropped("left", tagged(102, Ether(src=PE, dst=ALL) /
                                 ARP(op=1, hwsrc=INSIDE, psrc=own, pdst="100.64.1.1")))
    bench.dropped("left", tagged(111, Ether(src=INSIDE, dst=PE) /
                                 IP(src="100.64.1.2", dst=own) / bgp))
    bench.dropped("left", tagged(111, Ether(src=INSIDE, dst=PE) /
                                 IP(src="100.64.1.1", dst="100.64.1.99") / bgp))
    bench.dropped("right", tagged(111, Ether(src=INSIDE, dst=PE) /
                                  IP(src="100.64.1.1", dst=own) / bgp))


def test_cvm_and_core(bench):
    bgp = TCP(sport=179, dport=40000)
    for address in ("10.0.0.1", "192.0.2.2"):
        bench.passes("left", tagged(110, Ether(src=PE, dst=GATEWAY) /
                                    IP(src=address, dst="10.0.0.100") / bgp), ("core", 0))
        bench.passes("core", Ether(src=GATEWAY, dst=PE) / IP(src="10.0.0.100", dst=address) / bgp,
                     ("left", 110))
    bench.passes("left", tagged(110, Ether(src=PE, dst=GATEWAY) / ARP(
        op=2, hwsrc=PE, psrc="192.0.2.2", hwdst=GATEWAY, pdst="192.0.2.1")), ("core", 0))
    bench.dropped("left", tagged(110, Ether(src=PE, dst=GATEWAY) /
                                 IP(src="100.64.1.1", dst="10.0.0.100") / bgp))
    bench.dropped("left", tagged(110, Ether(src=INSIDE, dst=GATEWAY) /
                                 IP(src="10.0.0.1", dst="10.0.0.100") / bgp))
    bench.dropped("left", tagged(110, mpls(1001, GATEWAY)))
    bench.dropped("left", tagged(110, Ether(src=PE, dst=ALL) /
                                 ARP(op=1, hwsrc=PE, psrc="192.0.2.1", pdst="192.0.2.1")))


# ---- how they are programmed ------------------------------------------------------------------


def _essence(flows):
    """Flows without what changes while time goes by."""
    return sorted(re.sub(r"duration=[^,]*, |(n_packets|n_bytes|idle_age|hard_age)=\d+, ", "", flow)
                  for flow in flows)


def _durations(flows):
    """How long each flow has been there, in seconds, by its essence."""
    return {_essence([flow])[0]: float(re.search(r"duration=([\d.]+)s", flow)[1]) for flow in flows}


def test_second_apply_touches_nothing(bench):
    counters = bench.drivers("fabric_counters", owner=2, id=11)
    before = bench.switch.flows("edge")
    result = bench.drivers("fabric_apply", site=SITE)
    after = bench.switch.flows("edge")
    assert (result["added"], result["modified"], result["deleted"]) == (0, 0, 0)
    assert result["unchanged"] == len(before)
    old, new = _durations(before), _durations(after)
    assert old.keys() == new.keys()
    assert all(new[flow] >= old[flow] for flow in old), "a flow that is right was sent again"
    assert counters["packets"] > 0
    again = bench.drivers("fabric_counters", owner=2, id=11)
    assert again["packets"] >= counters["packets"]


def test_cookies_name_the_owner(bench):
    cookies = {int(re.search(r"cookie=(0x[0-9a-f]+)", flow)[1], 16)
               for flow in bench.switch.flows("edge")}
    assert cookies == {0xed9e << 48 | 1 << 32 | 1} | {0xed9e << 48 | 2 << 32 | i
                                                      for i in (11, 12, 13, 14)}


def test_a_port_goes_and_comes(bench):
    site = copy.deepcopy(SITE)
    site["ports"].remove(RED)
    red = tagged(7, Ether(src=CE2, dst=RED["mac"]) / IP(src="10.1.0.1", dst="10.2.0.1") / UDP())
    before = _durations(bench.switch.flows("edge"))
    result = bench.drivers("fabric_apply", site=site)
    assert result["deleted"] > 10 and result["added"] == 0
    assert result["modified"] == 1, "only the gateway's answer goes to one VLAN less"
    # the switch's own cache of decisions follows its flow table a little later
    wait_until(lambda: not bench.send("core", mpls(RED["label"], PE, src=GATEWAY)), 10,
               "frames for red are dropped")
    answer = Ether(src=GATEWAY, dst=PE) / ARP(op=2, hwsrc=GATEWAY, psrc="192.0.2.1", hwdst=PE,
                                              pdst="192.0.2.2")
    assert len(bench.send("core", answer)) == 4
    after = _durations(bench.switch.flows("edge"))
    kept = before.keys() & after.keys()
    assert len(kept) > 40 and all(after[flow] >= before[flow] for flow in kept)
    result = bench.drivers("fabric_apply", site=SITE)
    assert result["added"] > 10 and result["modified"] == 1 and result["deleted"] == 0
    wait_until(lambda: bench.send("core", mpls(RED["label"], PE, src=GATEWAY)), 10,
               "frames for red pass again")
    bench.passes("cust2", red, ("left", 103))


def test_foreign_and_changed_flows_are_put_right(bench):
    good = _essence(bench.switch.flows("edge"))
    bench.switch.ofctl("add-flow", "edge", "priority=999,in_port=cust1,actions=output:cust3")
    bench.switch.ofctl("del-flows", "--strict", "edge", "table=1,priority=0")
    bench.switch.ofctl("mod-flows", "edge", "table=2,ip,in_port=cust1,actions=output:core")
    result = bench.drivers("fabric_apply", site=SITE)
    assert result["deleted"] == 1 and result["added"] == 1 and result["modified"] == 2
    assert _essence(bench.switch.flows("edge")) == good


def test_switch_restart_is_reconciled(bench):
    good = _essence(bench.switch.flows("edge"))
    bench.drivers.forget_events()
    bench.switch.kill()
    bench.drivers.wait_event("disconnected")
    error = bench.drivers.error("fabric_apply", site=SITE, timeout_ms=200)
    assert error.errno == errno.EHOSTUNREACH and "not connected" in error.why
    assert bench.drivers.error("fabric_check_port", port="core").errno == errno.EHOSTUNREACH
    bench.switch.start()
    bench.drivers.wait_event("connected")
    assert f"{len(good)} of them added" in bench.drivers.wait_event("whole")
    assert _essence(bench.switch.flows("edge")) == good
    bench.passes("cust1", Ether(src=CE1, dst=GREEN["mac"]) /
                 IP(src="10.1.0.1", dst="10.2.0.1") / UDP(), ("left", 101))


def test_restarted_controller_touches_nothing(bench):
    before = _durations(bench.switch.flows("edge"))
    second = Drivers(bench.lab)
    second("fabric_open", target=bench.target)
    assert _durations(bench.switch.flows("edge")).keys() == before.keys()
    result = second("fabric_apply", site=SITE)
    assert (result["added"], result["modified"], result["deleted"]) == (0, 0, 0)
    second.close()
    after = _durations(bench.switch.flows("edge"))
    assert after.keys() == before.keys() and all(after[f] >= before[f] for f in after)


def test_missing_port(bench):
    site = copy.deepcopy(SITE)
    site["ports"].append(dict(GREEN, id=20, switch_port="cust9", mac="02:ed:00:00:02:20",
                              cust_vlan=120, core_vlan=121, label=1020,
                              inside_address="100.64.1.20"))
    error = bench.drivers.error("fabric_check_port", port="cust9")
    assert error.errno == errno.ENOENT
    assert "cust9" in error.why and "core, cust1, cust2, cust3, edge, left, right" in error.why
    error = bench.drivers.error("fabric_apply", site=site)
    assert error.errno == errno.ENODEV and "cust9" in error.why and "cust1" in error.why
    assert error.answer["added"] > 5 and error.answer["left_out"] > 5
    bench.passes("core", mpls(1020, PE, src=GATEWAY), ("left", 121))
    # the port comes: its rules follow by themselves
    bench.drivers.forget_events()
    bench.lab.veth(bench.ns, "cust9", bench.ends, "cust9")
    bench.switch.vsctl("add-port", "edge", "cust9")
    bench.drivers.wait_event("ports")
    bench.drivers.wait_event("reconciled")
    assert bench.drivers("fabric_apply", site=site)["left_out"] == 0
    bench.switch.vsctl("del-port", "edge", "cust9")
    bench.drivers.wait_event("ports")
    bench.drivers("fabric_apply", site=SITE)


def test_bundle_is_atomic(bench):
    before = bench.switch.flows("edge")
    # a group that doesn't exist: the switch refuses the rule, and with it the whole bundle
    error = bench.drivers.error("fabric_apply_wrong", edit="group:77")
    assert error.errno == errno.EPROTO and "priority=8" in error.why
    after = bench.switch.flows("edge")
    assert _essence(after) == _essence(before)
    old, new = _durations(before), _durations(after)
    assert all(new[flow] >= old[flow] for flow in old)
    bench.drivers("fabric_apply", site=SITE)


def test_frozen_switch_hangs_nobody(bench):
    bench.switch.process.send_signal(19)  # SIGSTOP
    try:
        error = bench.drivers.error("fabric_apply", site=dict(SITE, ports=[]), timeout_ms=500)
        assert error.errno == errno.ETIMEDOUT
        error = bench.drivers.error("fabric_counters", owner=2, id=11)
        assert error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
    finally:
        bench.switch.process.send_signal(18)
    wait_until(lambda: len(bench.switch.flows("edge")) < 40, 40, "what was wanted is applied")
    result = bench.drivers("fabric_apply", site=SITE, timeout_ms=20000)
    assert result["added"] > 50


def test_contradictions_are_refused(bench):
    before = _essence(bench.switch.flows("edge"))
    for change, words in (({"label": 1002}, "label 1002"), ({"core_vlan": 104}, "VLAN 104"),
                          ({"switch_port": "core"}, "switch port core"),
                          ({"mac": PE}, PE), ({"trunk": "cust2"}, "cust2"),
                          ({"switch_port": "cust2", "vlan": 7}, "VLAN 7"),
                          ({"label": 3}, "label 3"), ({"cust_vlan": 4095}, "4095")):
        error = bench.drivers.error(
            "fabric_apply", site=dict(SITE, ports=[dict(GREEN, **change), RED]))
        assert error.errno == errno.EINVAL and words in error.why, error
    assert _essence(bench.switch.flows("edge")) == before
