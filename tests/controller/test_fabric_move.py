# SPDX-License-Identifier: GPL-2.0-or-later
"""A PVM's move, on a real Open vSwitch: in each phase, for every kind of frame, which copy hears it
and which copy's are let through ("While a PVM is moved" in docs/protocols.md); that traffic loses
and duplicates nothing while the phases change; and how fabric_change() goes about it."""

import copy
import errno
import os
import struct
import sys
import threading
import time

import pytest
from scapy.all import (ARP, Ether, ICMP, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLReport2,
                       ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS, IP,
                       IPv6, TCP, UDP)
from scapy.contrib.mpls import MPLS

from lib.lab import Lab, wait_until

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from drivers import Drivers  # noqa: E402  pylint: disable=wrong-import-position
from test_fabric import (  # noqa: E402  pylint: disable=wrong-import-position
    ALL, CE1, CE2, GATEWAY, GREEN, GREEN2, GREEN3, INSIDE, PE, PORTS, RED, SENTINELS, SITE, Bench,
    _durations, _essence, mpls, tagged)

CE4 = "02:ce:00:00:00:04"
# Untagged on the customer's port; leaves the CVM's server.
AWAY = {
    "id": 21, "customer": 1, "switch_port": "cust4", "vlan": 0, "mac": "02:ed:00:00:02:21",
    "addresses": ["192.168.9.1/30", "fd00:a9::1/64"], "trunk": "left", "to_trunk": "right",
    "cust_vlan": 121, "core_vlan": 122, "inside_address": "100.64.1.21", "label": 1021}
# Tagged, with a fixed CE; comes to the CVM's server, and to that of other ports of its customer.
NEAR = dict(AWAY, switch_port="cust2", vlan=17, ce_mac="02:ce:00:00:00:04", trunk="right",
            to_trunk="left")
# Beside it: what doesn't move.
STAYS = {
    "id": 22, "customer": 3, "switch_port": "cust4", "vlan": 9, "mac": "02:ed:00:00:02:22",
    "addresses": ["192.168.1.1/30"], "trunk": "left", "cust_vlan": 123, "core_vlan": 124,
    "inside_address": "100.64.1.22", "label": 1022}
MOVE_PORTS = sorted(PORTS + ["cust4"])
AT_SOURCE, CONTROL_IN, CONTROL_MOVED, DATA_MOVED, AT_DESTINATION = range(5)
# phase: (copies that hear control, say control, hear data, say data, get the gateway's answers)
TABLE = {
    AT_SOURCE: ("S", "S", "S", "S", "S"),
    CONTROL_IN: ("D", "S", "S", "S", "SD"),
    CONTROL_MOVED: ("D", "D", "S", "S", "SD"),
    DATA_MOVED: ("D", "D", "D", "SD", "SD"),
    AT_DESTINATION: ("D", "D", "D", "D", "D"),
}


def _sentinels():
    ip = IP(src="192.168.1.2", dst="192.168.1.1") / UDP() / b"sentinel"
    return dict(SENTINELS, cust4=tagged(9, Ether(src=CE4, dst=STAYS["mac"]) / ip))


def site_in(port, phase):
    """The site with `port`, in this phase of its move."""
    return dict(SITE, ports=[GREEN, dict(port, phase=phase), RED, GREEN2, GREEN3, STAYS])


def switch_to(bench, port, phase):
    """Changes the phase, by fabric_change()."""
    result = bench.drivers("fabric_apply", site=site_in(port, phase), quick=True)
    bench.switch.forget_decisions()
    return result


@pytest.fixture(scope="module")
def bench():
    """A switch; every test says what rules it should have."""
    with Lab("fabmove") as lab:
        made = Bench(lab, MOVE_PORTS, _sentinels())
        try:
            yield made
        finally:
            made.wires.close()
        made.drivers.close()


# ---- frames ----------------------------------------------------------------------------------


def from_customer(port):
    """(control, data, never): frames that the CE sends; the last kind is dropped in every phase."""
    pvm, v4, v6 = port["mac"], "192.168.9.1", "fd00:a9::1"
    me = Ether(src=CE4, dst=pvm)
    ip, ipv6 = IP(src="192.168.9.2", dst=v4), IPv6(src="fd00:a9::2", dst=v6)
    far, far6 = IP(src="10.1.0.1", dst="10.2.0.1"), IPv6(src="fd01::1", dst="fd02::1")
    group = Ether(src=CE4, dst="33:33:ff:00:00:01") / IPv6(src="fd00:a9::2", dst="ff02::1:ff00:1")
    control = [
        Ether(src=CE4, dst=ALL) / ARP(op=1, hwsrc=CE4, psrc="192.168.9.2", pdst=v4),
        me / ARP(op=2, hwsrc=CE4, psrc="192.168.9.2", hwdst=pvm, pdst=v4),
        group / ICMPv6ND_NS(tgt=v6), me / ipv6 / ICMPv6ND_NS(tgt=v6),
        me / ipv6 / ICMPv6ND_NA(tgt="fd00:a9::2"),
        Ether(src=CE4, dst="33:33:00:00:00:02") / IPv6(src="fe80::2", dst="ff02::2") /
        ICMPv6ND_RS(),
        # a router of the customer further away
        me / IP(src="10.1.0.1", dst=v4) / TCP(sport=179, dport=40000),
        Ether(src=CE4, dst=ALL) / ip / UDP(dport=3784)]
    data = [
        me / far / UDP(), me / far / TCP(sport=40000, dport=179), me / far / TCP(sport=179),
        me / far / UDP(dport=3784), me / far / ICMP(), me / far6 / UDP(),
        me / far6 / TCP(dport=179), me / far6 / TCP(sport=179), me / far6 / UDP(dport=4784),
        me / ip / ICMP(), me / ipv6 / ICMPv6EchoRequest(), me / ip / TCP(dport=22),
        me / ip / UDP(sport=3784, dport=33434), me / ip / TCP(dport=1179),
        me / IP(src=v4, dst="192.168.9.2") / UDP(dport=3785),  # the CE's BFD echo: goes round
        Ether(src=CE4, dst=ALL) / far / UDP(),
        Ether(src=CE4, dst="33:33:00:00:00:16") / IPv6(src="fe80::2", dst="ff02::16") /
        ICMPv6MLReport2()]
    for network in (ip, ipv6):
        control += [me / network / TCP(sport=40000, dport=179),
                    me / network / TCP(sport=179, dport=40000)]
        control += [me / network / UDP(sport=49152, dport=bfd) for bfd in (3784, 3785, 4784)]
    never = [
        Ether(src=CE4, dst=ALL) / ARP(op=1, hwsrc=CE4, psrc=v4, pdst=v4),
        me / ipv6 / ICMPv6ND_NA(tgt=v6), me / ipv6 / ICMPv6ND_RA(), me / ipv6 / ICMPv6ND_Redirect(),
        Ether(src=CE4, dst=PE) / ip / TCP(dport=179),
        Ether(src=CE4, dst=GREEN["mac"]) / ip / TCP(dport=179),
        Ether(src=pvm, dst=pvm) / ip / TCP(dport=179), Ether(src=PE, dst=pvm) / far / UDP(),
        mpls(1021, pvm, src=CE4), mpls(1004, GATEWAY, src=CE4)]
    if "ce_mac" in port:
        never.append(Ether(src=CE1, dst=pvm) / ip / TCP(dport=179))
    vlan = port["vlan"]
    return [[tagged(vlan, frame) if vlan else frame for frame in kind]
            for kind in (control, data, never)]


def to_customer(port):
    """(control, data, never): frames of a copy, without its VLAN."""
    pvm, v4, v6 = port["mac"], "192.168.9.1", "fd00:a9::1"
    me = Ether(src=pvm, dst=CE4)
    ip, ipv6 = IP(src=v4, dst="192.168.9.2"), IPv6(src=v6, dst="fd00:a9::2")
    far, far6 = IP(src="10.2.0.1", dst="10.1.0.1"), IPv6(src="fd02::1", dst="fd01::1")
    control = [
        Ether(src=pvm, dst=ALL) / ARP(op=1, hwsrc=pvm, psrc=v4, pdst="192.168.9.2"),
        me / ARP(op=2, hwsrc=pvm, psrc=v4, hwdst=CE4, pdst="192.168.9.2"),
        me / ipv6 / ICMPv6ND_NS(tgt="fd00:a9::2"), me / ipv6 / ICMPv6ND_NA(tgt=v6),
        Ether(src=pvm, dst="33:33:00:00:00:01") / IPv6(src="fe80::1", dst="ff02::1") /
        ICMPv6ND_RA(),
        Ether(src=pvm, dst="33:33:00:00:00:02") / IPv6(src="fe80::1", dst="ff02::2") /
        ICMPv6ND_RS(),
        me / IPv6(src="fe80::1", dst="fd00:a9::2") / ICMPv6ND_Redirect()]
    data = [
        me / far / UDP(), me / far / TCP(sport=40000, dport=179), me / far / TCP(sport=179),
        me / far / UDP(dport=3784), me / far6 / UDP(), me / far6 / TCP(dport=179),
        me / ip / ICMP(type=0), me / ipv6 / ICMPv6EchoReply(), me / ip / ICMP(type=11),
        me / ip / TCP(sport=22)]
    for network in (ip, ipv6):
        control += [me / network / TCP(sport=40000, dport=179),
                    me / network / TCP(sport=179, dport=40000)]
        control += [me / network / UDP(sport=49152, dport=bfd) for bfd in (3784, 3785, 4784)]
    never = [Ether(src=PE, dst=CE4) / far / UDP(), Ether(src=GREEN["mac"], dst=CE4) / far / UDP(),
             Ether(src=RED["mac"], dst=CE4) / ip / TCP(sport=179), mpls(1021, CE4, src=pvm)]
    return control, data, never


def to_core(port):
    """(control, data, never) of a copy's core NIC: [(frame, where it should come out)]."""
    own, gateway_mac = port["inside_address"], Ether(src=PE, dst=GATEWAY)
    inside = IP(src=own, dst="100.64.1.1")
    below = MPLS(label=1002, s=1, ttl=9) / IP() / UDP()
    control = [
        (Ether(src=PE, dst=ALL) / ARP(op=1, hwsrc=PE, psrc="192.0.2.2", pdst="192.0.2.1"),
         ("core", 0)),
        (Ether(src=PE, dst=ALL) / ARP(op=1, hwsrc=PE, psrc=own, pdst="100.64.1.1"), ("left", 111)),
        (Ether(src=PE, dst=INSIDE) / inside / TCP(sport=40000, dport=179), ("left", 111)),
        (Ether(src=PE, dst=INSIDE) / inside / TCP(sport=179, dport=40000), ("left", 111)),
        (Ether(src=PE, dst=INSIDE) / inside / ICMP(), ("left", 111))]
    data = [
        (mpls(2001, GATEWAY), ("core", 0)),
        (mpls(16002, GATEWAY, bos=0, below=below), ("core", 0)),
        (mpls(GREEN3["label"], GATEWAY), ("left", GREEN3["core_vlan"])),
        (mpls(GREEN2["label"], GATEWAY), ("right", GREEN2["core_vlan"])),
        (mpls(RED["label"], GATEWAY), ("core", 0))]
    never = [
        mpls(port["label"], GATEWAY), mpls(2001, GATEWAY, src=port["mac"]),
        mpls(16001, GATEWAY, bos=0, below=below), mpls(3, GATEWAY, bos=0, below=below),
        Ether(src=PE, dst=INSIDE) / inside / UDP(dport=179),
        Ether(src=PE, dst=INSIDE) / IP(src="100.64.1.10", dst="100.64.1.1") / TCP(dport=179),
        Ether(src=PE, dst=INSIDE) / IP(src=own, dst="100.64.1.10") / TCP(dport=179),
        Ether(src=PE, dst=ALL) / ARP(op=1, hwsrc=PE, psrc=own, pdst="100.64.1.10"),
        Ether(src=PE, dst=ALL) / ARP(op=1, hwsrc=PE, psrc="192.0.2.2", pdst="192.0.2.3"),
        gateway_mac / ARP(op=2, hwsrc=PE, psrc="192.0.2.2", pdst="192.0.2.1"),
        gateway_mac / IP(src="192.0.2.2", dst="10.0.0.100") / TCP(dport=179)]
    return control, data, never


# ---- who hears and says what ------------------------------------------------------------------


class Copies:
    """Where the copies of a port's PVM are."""

    def __init__(self, port):
        self.port, self.trunks = port, {"S": port["trunk"], "D": port["to_trunk"]}

    def at(self, copies, nic):
        """Places (wire, vlan) of a NIC ("cust" or "core") of these copies."""
        return [(self.trunks[copy], self.port[f"{nic}_vlan"]) for copy in copies]

    def check_said(self, bench, copies, nic, frame, place):
        """Let through from these copies, from the other one not."""
        for one in "SD":
            wire, vlan = self.at(one, nic)[0]
            if one in copies and place:
                bench.passes(wire, tagged(vlan, frame), place)
            else:
                bench.dropped(wire, tagged(vlan, frame))


@pytest.mark.parametrize("phase", TABLE)
@pytest.mark.parametrize("port", (AWAY, NEAR), ids=("away", "near"))
def test_customer_link(bench, port, phase):
    switch_to(bench, port, phase)
    control_in, control_out, data_in, data_out, _ = TABLE[phase]
    copies, wire = Copies(port), port["switch_port"]
    control, data, never = from_customer(port)
    for frame in control:
        bench.passes(wire, frame, *copies.at(control_in, "cust"))
    for frame in data:
        bench.passes(wire, frame, *copies.at(data_in, "cust"))
    for frame in never:
        bench.dropped(wire, frame)

    control, data, never = to_customer(port)
    for frame in control:
        copies.check_said(bench, control_out, "cust", frame, (wire, port["vlan"]))
    for frame in data:
        copies.check_said(bench, data_out, "cust", frame, (wire, port["vlan"]))
    for frame in never:
        copies.check_said(bench, "", "cust", frame, None)


@pytest.mark.parametrize("phase", TABLE)
@pytest.mark.parametrize("port", (AWAY, NEAR), ids=("away", "near"))
def test_core_side(bench, port, phase):
    switch_to(bench, port, phase)
    control_in, control_out, data_in, data_out, answers = TABLE[phase]
    copies, own = Copies(port), port["inside_address"]
    control, data, never = to_core(port)
    for frame, place in control:
        copies.check_said(bench, control_out, "core", frame, place)
    for frame, place in data:
        copies.check_said(bench, data_out, "core", frame, place)
    for frame in never:
        copies.check_said(bench, "", "core", frame, None)

    # from the core and from other ports of the customer
    frame = mpls(port["label"], PE, src=GATEWAY)
    assert bytes(bench.passes("core", frame, *copies.at(data_in, "core"))) == bytes(frame)
    for neighbour in (GREEN, GREEN2):
        got = bench.passes(neighbour["trunk"], tagged(neighbour["core_vlan"], mpls(
            port["label"], GATEWAY)), *copies.at(data_in, "core"))
        assert (got.src, got.dst, got[MPLS].label) == (GATEWAY, PE, port["label"])
    bench.passes("left", tagged(RED["core_vlan"], mpls(port["label"], GATEWAY)), ("core", 0))
    bench.dropped("core", mpls(port["label"], PE, src=PE))
    bench.dropped("core", mpls(port["label"], PE, src=GATEWAY, bos=0, below=MPLS(label=5) / IP()))

    # from the CVM
    for payload in (TCP(sport=40000, dport=179), TCP(sport=179, dport=40000), ICMP()):
        bench.passes("left", tagged(111, Ether(src=INSIDE, dst=PE) /
                                    IP(src="100.64.1.1", dst=own) / payload),
                     *copies.at(control_in, "core"))
    bench.passes("left", tagged(111, Ether(src=INSIDE, dst=PE) / ARP(
        op=2, hwsrc=INSIDE, psrc="100.64.1.1", hwdst=PE, pdst=own)), *copies.at(control_in, "core"))
    bench.dropped("left", tagged(111, Ether(src=INSIDE, dst=PE) /
                                 IP(src="100.64.1.1", dst=own) / TCP(dport=22)))
    bench.passes("core", Ether(src=GATEWAY, dst=PE) / ARP(
        op=2, hwsrc=GATEWAY, psrc="192.0.2.1", hwdst=PE, pdst="192.0.2.2"),
        ("left", 110), *(p for stays in (GREEN, RED, GREEN2, GREEN3, STAYS)
                         for p in ((stays["trunk"], stays["core_vlan"]),)),
        *copies.at(answers, "core"))


@pytest.mark.parametrize("phase", TABLE)
def test_others_are_as_before(bench, phase):
    """The moved PVM's VLANs are no way to anybody else, and who doesn't move is untouched."""
    before = bench.switch.flows("edge")
    switch_to(bench, AWAY, phase)
    ip = IP(src="10.1.0.1", dst="10.2.0.1") / UDP() / b"data"
    for trunk in ("left", "right"):
        for vlan in (AWAY["cust_vlan"], AWAY["core_vlan"]):
            bench.dropped(trunk, tagged(vlan, Ether(src=RED["mac"], dst=CE2) / ip))
            bench.dropped(trunk, tagged(vlan, Ether(src=CE4, dst=AWAY["mac"]) / ip))
            bench.dropped(trunk, tagged(vlan, Ether(src=INSIDE, dst=PE) / IP(
                src="100.64.1.1", dst=AWAY["inside_address"]) / TCP(dport=179)))
    bench.dropped("right", tagged(RED["cust_vlan"], Ether(src=RED["mac"], dst=CE2) / ip))
    bench.dropped("cust4", tagged(AWAY["cust_vlan"], Ether(src=CE4, dst=AWAY["mac"]) / ip))
    bench.passes("left", tagged(RED["cust_vlan"], Ether(src=RED["mac"], dst=CE2) / ip),
                 ("cust2", 7))
    if before:
        own = f"{AWAY['id']:08x}"
        old, new = ({flow: age for flow, age in _durations(flows).items()
                     if f"{own}," not in flow and "arp_tpa=192.0.2.2" not in flow}
                    for flows in (before, bench.switch.flows("edge")))
        assert old.keys() == new.keys()
        assert all(new[flow] >= old[flow] for flow in old), "a flow that is right was sent again"


# ---- while traffic flows ----------------------------------------------------------------------


class Stream:
    """Numbered frames of one kind."""

    def __init__(self, name, wire, frame):
        self.name, self.wire, self.mark = name, wire, f"<{name}>".encode()
        self.frame = bytes(frame / (self.mark + b"\0\0\0\0"))
        self.sent, self.got, self.on = 0, [], True  # got: [((wire, vlan), number)]

    def send(self, wires):
        """The next one."""
        wires.send(self.wire, self.frame[:-4] + struct.pack(">I", self.sent))
        self.sent += 1


class Traffic:
    """Streams that run all the time, on a thread: never more under way than queues surely hold, so
    that whatever doesn't arrive was dropped by a rule."""

    WINDOW = 60

    def __init__(self, wires, streams, on_new_place):
        self.wires, self.streams = wires, {s.name: s for s in streams}
        self.on_new_place = on_new_place
        self.lock, self.stop, self.error = threading.Lock(), False, None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def __getitem__(self, name):
        return self.streams[name]

    def _under_way(self):
        return sum(s.sent - len(s.got) for s in self.streams.values())

    def _take(self, wire, vlan, data):
        for stream in self.streams.values():
            if stream.mark in data:
                at = data.index(stream.mark) + len(stream.mark)
                stream.got.append(((wire, vlan), struct.unpack_from(">I", data, at)[0]))
                if stream.got[-1][0] != stream.got[max(len(stream.got) - 2, 0)][0]:
                    self.on_new_place(self, stream, wire)

    def _run(self):
        try:
            while not self.stop:
                with self.lock:
                    on = [s for s in self.streams.values() if s.on]
                    if self._under_way() + len(on) <= self.WINDOW:
                        for stream in on:
                            stream.send(self.wires)
                frames = self.wires.receive(0.002)
                while frames:
                    for frame in frames:
                        self._take(*frame)
                    frames = self.wires.receive(0)
        except Exception as exc:  # pylint: disable=broad-except
            self.error = exc

    def turn(self, on=(), off=()):
        """Switches streams on and off: after this no frame of the latter will be sent."""
        with self.lock:
            for name in off:
                self.streams[name].on = False
            for name in on:
                self.streams[name].on = True

    def more(self, frames):
        """Waits until every stream that is on has sent that many more, or says why it can't."""
        goal = {s: s.sent + frames for s in self.streams.values() if s.on}

        def look():
            return self.error or all(not s.on or s.sent >= n for s, n in goal.items())
        try:
            wait_until(look, 20, "frames go through", interval_s=0.005)
        except TimeoutError as exc:
            lost = {name: s.sent - len(s.got) for name, s in self.streams.items()
                    if s.sent > len(s.got)}
            raise AssertionError(f"frames don't arrive: {lost}") from exc
        assert not self.error, self.error

    def finish(self):
        """Stops; all that was sent must arrive."""
        self.turn(off=self.streams)
        try:
            wait_until(lambda: self._under_way() <= 0, 10, "all frames arrive")
        finally:
            self.stop = True
            self.thread.join()


def _streams(port):
    pvm, data = port["mac"], IP(src="10.1.0.1", dst="10.2.0.1") / UDP()
    bgp = IP(src="192.168.9.2", dst="192.168.9.1") / TCP(sport=179, dport=40000)
    back = IP(src="192.168.9.1", dst="192.168.9.2") / TCP(sport=40000, dport=179)
    inside = IP(src=port["inside_address"], dst="100.64.1.1") / TCP(dport=179)
    wire, source, target = port["switch_port"], port["trunk"], port["to_trunk"]
    to_pvm, to_ce = Ether(src=CE4, dst=pvm), Ether(src=pvm, dst=CE4)
    label = MPLS(label=port["label"], s=1, ttl=60)
    remote = MPLS(label=2001, s=1, ttl=60)

    def of_copy(name, trunk):
        return [Stream(f"{name}-data", trunk, tagged(port["cust_vlan"], to_ce / data)),
                Stream(f"{name}-mpls", trunk, tagged(
                    port["core_vlan"], Ether(src=PE, dst=GATEWAY, type=0x8847) / remote / data)),
                Stream(f"{name}-bgp", trunk, tagged(port["cust_vlan"], to_ce / back)),
                Stream(f"{name}-inside", trunk, tagged(
                    port["core_vlan"], Ether(src=PE, dst=INSIDE) / inside))]
    streams = [
        Stream("ce-data", wire, to_pvm / data), Stream("ce-bgp", wire, to_pvm / bgp),
        Stream("core-mpls", "core", Ether(src=GATEWAY, dst=PE, type=0x8847) / label / data),
        Stream("near-mpls", "left", tagged(GREEN["core_vlan"], Ether(
            src=PE, dst=GATEWAY, type=0x8847) / label / data)),
        Stream("cvm-bgp", "left", tagged(111, Ether(src=INSIDE, dst=PE) / IP(
            src="100.64.1.1", dst=port["inside_address"]) / TCP(sport=179))),
        Stream("other-in", "cust2", tagged(7, Ether(src=CE2, dst=RED["mac"]) / data)),
        Stream("other-out", "left", tagged(RED["cust_vlan"], Ether(
            src=RED["mac"], dst=CE2) / data))]
    streams += of_copy("s", source) + of_copy("d", target)
    for stream in streams:
        stream.on = not stream.name.startswith("d-")
    return streams


def _answer_from_destination(traffic, stream, wire):
    """The destination answers from the moment when it is spoken to."""
    answers = {"ce-data": "d-mpls", "core-mpls": "d-data"}
    if stream.name in answers and wire == AWAY["to_trunk"]:
        traffic[answers[stream.name]].on = True


def test_nothing_is_lost_while_phases_change(bench):
    """The copies do as in a move: the source is stopped while control moves, and falls silent
    before the end; the destination says control when that moved, and answers the first data."""
    switch_to(bench, AWAY, AT_SOURCE)
    traffic = Traffic(bench.wires, _streams(AWAY), _answer_from_destination)
    both = ["data", "mpls", "bgp", "inside"]

    def change(phase):
        return bench.drivers("fabric_apply", site=site_in(AWAY, phase), quick=True)
    try:
        traffic.more(100)
        change(CONTROL_IN)
        traffic.more(30)
        traffic.turn(off=[f"s-{kind}" for kind in both])
        change(CONTROL_MOVED)
        traffic.turn(on=["s-data", "s-mpls", "d-bgp", "d-inside"])
        traffic.more(100)
        change(DATA_MOVED)
        traffic.more(100)
        wait_until(lambda: traffic["d-data"].on and traffic["d-mpls"].on, 10,
                   "the destination answers")
        traffic.turn(off=["s-data", "s-mpls"])
        traffic.more(30)
        change(AT_DESTINATION)
        traffic.more(100)
    finally:
        traffic.finish()

    copies = Copies(AWAY)
    expected = {"ce-data": "cust", "ce-bgp": "cust", "core-mpls": "core", "near-mpls": "core",
                "cvm-bgp": "core"}
    for stream in traffic.streams.values():
        assert stream.sent > 50, stream.name
        assert [number for _, number in stream.got] == list(range(stream.sent)), \
            f"{stream.name}: lost, duplicated or reordered"
        places = [place for place, _ in stream.got]
        if stream.name in expected:
            source, target = copies.at("SD", expected[stream.name])
            first = places.index(target)
            assert places == [source] * first + [target] * (len(places) - first)
            assert first >= 100
        else:
            assert len(set(places)) == 1, f"{stream.name} came out at {set(places)}"
    assert traffic["s-data"].got[0][0] == traffic["d-data"].got[0][0] == ("cust4", 0)
    assert traffic["s-mpls"].got[0][0] == traffic["d-mpls"].got[0][0] == ("core", 0)
    assert traffic["d-inside"].got[0][0] == ("left", 111)


# ---- how fabric_change() does it --------------------------------------------------------------


STRAY = "priority=999,in_port=cust3,dl_type=0x88cc,actions=drop"


def _stray(bench):
    return any("priority=999" in flow for flow in bench.switch.flows("edge"))


def _flows_of(bench, site):
    """The flows of a site as a full apply makes them."""
    bench.drivers("fabric_apply", site=site)
    return _essence(bench.switch.flows("edge"))


def test_change_leads_to_what_apply_does(bench):
    wanted = {phase: _flows_of(bench, site_in(AWAY, phase)) for phase in TABLE}
    for phase in (*TABLE, *reversed(TABLE), 3, 1, 4, 2, 0):  # also back, and past some
        result = bench.drivers("fabric_apply", site=site_in(AWAY, phase), quick=True)
        flows = _essence(bench.switch.flows("edge"))
        assert flows == wanted[phase]
        assert result["added"] + result["modified"] + result["unchanged"] == len(flows)
    result = bench.drivers("fabric_apply", site=site_in(AWAY, AT_SOURCE), quick=True)
    assert (result["added"], result["modified"], result["deleted"]) == (0, 0, 0)


def test_change_does_not_read_the_table(bench):
    """So it doesn't see what somebody else did to it; the next full comparison does."""
    good = _flows_of(bench, site_in(AWAY, AT_SOURCE))
    bench.switch.ofctl("add-flow", "edge", STRAY)
    bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_IN), quick=True)
    assert _stray(bench)
    # a link that goes down and up makes no difference
    bench.drivers.forget_events()
    for state in ("down", "up"):
        bench.lab.run(bench.ends, ["ip", "link", "set", "cust1", state])
        bench.drivers.wait_event("ports")
    bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_MOVED), quick=True)
    assert _stray(bench)
    bench.drivers("fabric_apply", site=site_in(AWAY, AT_SOURCE))
    assert _essence(bench.switch.flows("edge")) == good


def test_refused_change_reads_the_table(bench):
    good = _flows_of(bench, site_in(AWAY, CONTROL_IN))
    bench.switch.ofctl("add-flow", "edge", STRAY)
    error = bench.drivers.error("fabric_apply_wrong", edit="group:77", quick=True)
    assert error.errno == errno.EPROTO and "priority=8" in error.why
    assert len(bench.switch.flows("edge")) == len(good) + 1, "a bundle is atomic"
    bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_IN), quick=True)
    assert _essence(bench.switch.flows("edge")) == good, "after an error the table is read"


def test_change_by_a_new_controller_reads_the_table(bench):
    good = _flows_of(bench, site_in(AWAY, DATA_MOVED))
    bench.switch.ofctl("add-flow", "edge", STRAY)
    second = Drivers(bench.lab)
    second("fabric_open", target=bench.target)
    result = second("fabric_apply", site=site_in(AWAY, DATA_MOVED), quick=True)
    assert (result["added"], result["modified"], result["deleted"]) == (0, 0, 1)
    second.close()
    assert _essence(bench.switch.flows("edge")) == good


def test_change_after_a_restart_of_the_switch(bench):
    good = _flows_of(bench, site_in(AWAY, CONTROL_MOVED))
    bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_IN))
    bench.drivers.forget_events()
    bench.switch.kill()
    bench.drivers.wait_event("disconnected")
    error = bench.drivers.error(
        "fabric_apply", site=site_in(AWAY, CONTROL_IN), quick=True, timeout_ms=200)
    assert error.errno == errno.EHOSTUNREACH
    bench.switch.start()
    bench.drivers.wait_event("connected")
    bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_MOVED), quick=True, timeout_ms=20000)
    assert _essence(bench.switch.flows("edge")) == good


def test_change_when_a_port_gets_another_number(bench):
    bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_IN))
    bench.drivers.forget_events()
    bench.switch.vsctl("del-port", "edge", "right", "--", "add-port", "edge", "right", "--", "set",
                       "interface", "right", "ofport_request=77")
    wait_until(lambda: "77(right)" in bench.switch.ofctl("show", "edge"), 20, "it has the number")
    bench.drivers.wait_event("ports")
    result = bench.drivers("fabric_apply", site=site_in(AWAY, CONTROL_MOVED), quick=True)
    assert result["left_out"] == 0
    bench.switch.forget_decisions()
    bgp = IP(src="192.168.9.2", dst="192.168.9.1") / TCP(dport=179)
    bench.passes("cust4", Ether(src=CE4, dst=AWAY["mac"]) / bgp, ("right", 121))


def test_change_beside_a_missing_port(bench):
    """One customer port that isn't there is told, and delays nobody's move."""
    def site(phase):
        made = copy.deepcopy(site_in(AWAY, phase))
        made["ports"].append(dict(STAYS, id=30, switch_port="cust9", mac="02:ed:00:00:02:30",
                                  cust_vlan=130, core_vlan=131, label=1030,
                                  inside_address="100.64.1.30"))
        return made
    first = bench.drivers.error("fabric_apply", site=site(AT_SOURCE))
    assert first.errno == errno.ENODEV
    bench.switch.ofctl("add-flow", "edge", STRAY)
    for phase in TABLE:
        error = bench.drivers.error("fabric_apply", site=site(phase), quick=True)
        assert error.errno == errno.ENODEV and "cust9" in error.why
        assert error.answer["left_out"] == first.answer["left_out"]
    assert _stray(bench), "it need not read the table"
    error = bench.drivers.error("fabric_apply", site=site(AT_DESTINATION))
    assert (error.answer["added"], error.answer["modified"], error.answer["deleted"]) == (0, 0, 1)
    result = bench.drivers("fabric_apply", site=site_in(AWAY, AT_DESTINATION), quick=True)
    assert result["left_out"] == 0 and result["deleted"] > 5


def test_contradictory_moves_are_refused(bench):
    before = _flows_of(bench, SITE)
    for change, words in (({"to_trunk": "left"}, "to itself"), ({"to_trunk": "cust1"}, "cust1"),
                          ({"phase": 7}, "phase 7"), ({"cust_vlan": 101}, "VLAN 101 on trunk"),
                          ({"core_vlan": 111}, "VLAN 111 on trunk left")):
        error = bench.drivers.error("fabric_apply", quick=True,
                                    site=site_in(dict(AWAY, **change), change.get("phase", 1)))
        assert error.errno == errno.EINVAL and words in error.why, error
    assert _essence(bench.switch.flows("edge")) == before
