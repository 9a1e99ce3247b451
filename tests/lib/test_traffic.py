# SPDX-License-Identifier: GPL-2.0-or-later
"""What the testbed measures and checks moves with: does it notice what it is there for?"""

import itertools
import json
import os
import signal
import struct
import sys
import time

import pytest

from lib.lab import Lab, wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "testbed"))

from bed import asker, bgpmsg, churn, measure, oldways, speaker, wire  # noqa: E402  pylint: disable=wrong-import-position

PROBE = f"{os.environ.get('EDGEPLEX_BUILD', os.path.join(TOP, 'build'))}/edgeplex-probe"
RIGHT_MAC = "02:00:00:00:00:02"
MS = 1_000_000
S = 1_000 * MS

# ---- probes over a real link -----------------------------------------------------------------


@pytest.fixture(name="stream")
def stream_between_two_hosts():
    """A function that sends 1,000 probes a second, calls another one meanwhile, and returns what
    sender and receiver say."""
    with Lab("probe") as lab:
        left, right = lab.netns("left"), lab.netns("right")
        lab.veth(left, "eth0", right, "eth0", mac2=RIGHT_MAC)
        for ns, number in ((left, 1), (right, 2)):
            lab.run(ns, ["ip", "addr", "add", f"192.0.2.{number}/24", "dev", "eth0"])
            lab.run(ns, ["ip", "addr", "add", f"2001:db8::{number}/64", "dev", "eth0"])

        def stream(meanwhile):
            record = f"{lab.dir}/record"
            with open(f"{lab.dir}/out", "wb") as out:
                receiver = lab.spawn(right, [PROBE, "receive", "--port", 5000, "--file", record,
                                             "--seconds", 60], "receiver", stdout=out)
            wait_until(lambda: os.path.getsize(f"{lab.dir}/out"), 10, "the receiver listens")
            # Else packets would wait for their neighbour's address instead of being lost.
            for address in ("192.0.2.2", "2001:db8::2"):
                lab.run(left, ["ip", "neigh", "replace", address, "lladdr", RIGHT_MAC, "nud",
                               "permanent", "dev", "eth0"])
            with open(f"{lab.dir}/sent", "wb") as out:
                sender = lab.spawn(left, [PROBE, "send", "--port", 5000, "--seconds", 60,
                                          "--flow", "1,192.0.2.1,192.0.2.2",
                                          "--flow", "2,2001:db8::1,2001:db8::2,10"],
                                   "sender", stdout=out)
            wait_until(lambda: os.path.getsize(record) > 100 * 40, 10, "probes arrive")
            meanwhile(lab, right)
            size = os.path.getsize(record)
            wait_until(lambda: os.path.getsize(record) > size + 100 * 40, 10, "probes still arrive")
            sender.send_signal(signal.SIGTERM)
            assert sender.wait(20) == 0
            receiver.send_signal(signal.SIGTERM)
            assert receiver.wait(20) == 0
            with open(f"{lab.dir}/sent", encoding="ascii") as file:
                sent = json.load(file)
            with open(f"{lab.dir}/out", encoding="ascii") as file:
                received = json.loads(file.readlines()[-1])
            return sent, {flow["flow"]: flow for flow in received["flows"]}

        yield stream


def test_nothing_is_lost_on_a_good_link(stream):
    sent, flows = stream(lambda lab, ns: None)
    for said in sent["flows"]:
        flow = flows[said["flow"]]
        assert said["sent"] > 10 and said["failed"] == 0
        assert (flow["received"], flow["lost"]) == (said["sent"], 0)
        assert flow["duplicated"] == flow["reordered"] == 0


def test_an_outage_is_seen_as_a_gap(stream):
    def outage(lab, ns):
        start = time.monotonic()
        lab.run(ns, ["ip", "link", "set", "eth0", "down"])
        wait_until(lambda: time.monotonic() - start > 0.2, 10, "the outage lasted", 0.01)
        lab.run(ns, ["ip", "link", "set", "eth0", "up"])

    _, flows = stream(outage)
    flow = flows[1]
    assert flow["lost"] >= 190
    assert flow["gaps"][0]["gap_ms"] >= 190
    # What is missing in the largest gap is what was lost.
    assert flow["gaps"][0]["sent_gap_ms"] == pytest.approx(flow["lost"] + 1, abs=flow["lost"] / 4)


# ---- BGP ---------------------------------------------------------------------------------------


def attribute(kind, value):
    """An optional path attribute."""
    return struct.pack("!BBH", 0x90, kind, len(value)) + value


def update(withdrawn=b"", attributes=b"", announced=b""):
    """The body of an UPDATE."""
    return (struct.pack("!H", len(withdrawn)) + withdrawn
            + struct.pack("!H", len(attributes)) + attributes + announced)


VPN_PREFIX = b"\x70" + b"\x00\x3e\x91" + struct.pack("!HHI", 0, 65000, 7) + b"\x0a\x01\x02"
VPN6_PREFIX = bytes([24 + 64 + 32]) + b"\x00\x3e\x91" + struct.pack("!HHI", 0, 65000, 7) \
    + bytes.fromhex("20010db8")
HOP4 = b"\0" * 8 + bytes([10, 0, 0, 1])
HOP6 = b"\0" * 8 + b"\0" * 10 + b"\xff\xff" + bytes([10, 0, 0, 1])


@pytest.mark.parametrize("body, wanted", [
    (update(), []),
    (update(announced=b"\x18\x0a\x01\x02",
            attributes=b"\x40\x03\x04\x0a\x00\x00\x01"),
     [bgpmsg.Change(True, "ipv4", "", "10.1.2.0/24", "10.0.0.1")]),
    (update(withdrawn=b"\x08\x0a"), [bgpmsg.Change(False, "ipv4", "", "10.0.0.0/8")]),
    (update(attributes=attribute(14, b"\0\1\x80\x0c" + HOP4 + b"\0" + VPN_PREFIX)),
     [bgpmsg.Change(True, "vpnv4", "65000:7", "10.1.2.0/24", "10.0.0.1")]),
    (update(attributes=attribute(15, b"\0\1\x80" + VPN_PREFIX.replace(b"\x00\x3e\x91",
                                                                      b"\x80\x00\x00"))),
     [bgpmsg.Change(False, "vpnv4", "65000:7", "10.1.2.0/24")]),
    (update(attributes=attribute(14, b"\0\2\x80\x18" + HOP6 + b"\0" + VPN6_PREFIX)),
     [bgpmsg.Change(True, "vpnv6", "65000:7", "2001:db8::/32", "10.0.0.1")]),
])
def test_updates_are_read(body, wanted):
    assert bgpmsg.changes(body) == wanted


def test_broken_updates_are_refused():
    whole = update(attributes=attribute(14, b"\0\1\x80\x0c" + HOP4 + b"\0" + VPN_PREFIX))
    for end in range(len(whole)):
        try:
            assert bgpmsg.changes(whole[:end]) != bgpmsg.changes(whole)
        except bgpmsg.Malformed:
            pass
    with pytest.raises(bgpmsg.Malformed):
        bgpmsg.split(bytearray(b"\0" * 19))


INSIDE_SPEAKER = {"rd": "65000:7", "label": 999001, "rts": ["65000:1"], "next_hop4": "10.0.0.2",
                  "next_hop6": "::ffff:10.0.0.2"}
OUTSIDE_SPEAKER = {"asn": 65101, "next_hop4": "198.18.1.2", "next_hop6": "fd00:a1::3"}


@pytest.mark.parametrize("config, rd, hops", [
    (INSIDE_SPEAKER, "65000:7", {4: "10.0.0.2", 6: "10.0.0.2"}),
    (OUTSIDE_SPEAKER, "", {4: "198.18.1.2", 6: "fd00:a1::3"}),
])
def test_what_a_speaker_says_is_read_as_it_was_meant(config, rd, hops):
    table = churn.Churn("ce")
    kinds = set()
    for _ in range(2000):
        prefix, route = table.step()
        version = 6 if ":" in prefix else 4
        buffer = bytearray(speaker.update(config, prefix, route))
        ((kind, body),) = bgpmsg.split(buffer)
        assert kind == bgpmsg.UPDATE
        assert bgpmsg.changes(body) == [bgpmsg.Change(
            route is not None, f"{'vpn' if rd else 'ip'}v{version}", rd, prefix,
            hops[version] if route else "")]
        kinds.add((version, route is None))
    assert len(kinds) == 4


def test_a_prefix_may_be_of_another_vpn_than_the_rest():
    config = {**INSIDE_SPEAKER, "own": {"10.4.0.0/16": {"rd": "65000:8", "label": 999103, "rts": ["65000:2"]}}}
    table = churn.Churn("ce")
    said = {prefix: speaker.update(config, prefix, table.route(prefix))
            for prefix in ("10.3.0.0/16", "10.4.0.0/16")}
    for prefix, rd, label, rt in (("10.3.0.0/16", "65000:7", 999001, 1), ("10.4.0.0/16", "65000:8", 999103, 2)):
        ((_, body),) = bgpmsg.split(bytearray(said[prefix]))
        assert [(c.prefix, c.rd) for c in bgpmsg.changes(body)] == [(prefix, rd)]
        assert (label << 4 | 1).to_bytes(3, "big") in body
        assert struct.pack("!BBHI", 0, 2, 65000, rt) in body


def test_churn_is_the_same_for_everybody():
    one, other = churn.Churn("ce"), churn.Churn("ce")
    changes = [one.step() for _ in range(3000)]
    for _ in range(3000):
        other.step()
    assert {p: r.attributes() for p, r in one.table.items()} \
        == {p: r.attributes() for p, r in other.table.items()}
    assert any(route is None for _, route in changes)
    # What it says, taken together, is its table.
    table = {}
    for prefix, route in changes:
        table[prefix] = route
    assert {p for p, r in table.items() if r} == set(one.table)
    assert not set(one.prefixes) & set(churn.Churn("core").prefixes)


# ---- the wire ----------------------------------------------------------------------------------

PVM, CE, PE, GATEWAY = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3, 4))
CUST, CORE, INSIDE = 104, 105, 101
PORT = {"name": "green-a", "site": "a", "switch_port": "cust1", "mac": "02:00:00:00:00:01",
        "vlans": {"cust": CUST, "core": CORE}, "addresses": ["192.168.1.1/30", "fd00:a1::1/64"],
        "inside_address": "100.64.1.10"}
CVM = {"server": "a-left", "macs": {"core": "02:00:00:00:00:03", "inside": "02:00:00:00:00:05"},
       "vlans": {"core": 100, "inside": INSIDE}, "inside_address": "100.64.1.1"}


def frame(ns, vlan, raw):
    """A frame with a tag, as it would be captured."""
    return wire.Frame(ns, vlan, raw[:6], raw[6:12], int.from_bytes(raw[12:14], "big"), raw[14:])


def arp(number, reply):
    """An ARP question of the CE for its PVM, or the PVM's answer."""
    from ipaddress import ip_address as ip  # pylint: disable=import-outside-toplevel
    if not reply:
        return asker.arp_request(CE, ip("192.168.1.2"), ip("192.168.1.1"), number)
    return (CE + PVM + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2) + PVM
            + ip("192.168.1.1").packed + CE + ip("192.168.1.2").packed).ljust(60, b"\0")


def udp(source, destination, number):
    """A packet of a customer."""
    from ipaddress import ip_address as ip  # pylint: disable=import-outside-toplevel
    return struct.pack("!BBHHHBBH", 0x45, 0, 48, number & 0xffff, 0, 63, 17, 0) \
        + ip(source).packed + ip(destination).packed + struct.pack("!HHHH", 5, 6, 28, 0) + b"\0" * 20


class Story:
    """Frames of an imagined move from a-left to a-right, as its captures would hold them."""

    def __init__(self):
        self.wire = wire.Wire(PORT, CVM, "a-left", "a-right")
        self.frames = {"cust1": [], "trunk-left": [], "trunk-right": []}

    def comes(self, ns, raw, *trunks):
        """The customer says something, and these trunks get it."""
        self.frames["cust1"].append(frame(ns, 0, raw))
        for trunk in trunks:
            self.frames[trunk].append(frame(ns + 50_000, CUST, raw))

    def leaves(self, ns, raw, trunk, passes=True):
        """A copy of the PVM says something, and it passes the switch or not."""
        self.frames[trunk].append(frame(ns, CUST, raw))
        if passes:
            self.frames["cust1"].append(frame(ns + 50_000, 0, raw))

    def asked(self, number, to, by=None, also=None):
        """The customer asks, and is answered."""
        ns = S + number * 50 * MS
        self.comes(ns, arp(number, False), to, *([also] if also else []))
        self.leaves(ns + MS, arp(number, True), by or to)

    def told(self):
        """What one_speaker() says of it."""
        for frames in self.frames.values():
            frames.sort(key=lambda f: f.ns)
        self.wire._frames = self.frames  # pylint: disable=protected-access
        return self.wire.one_speaker()


def test_a_good_move_has_one_speaker():
    story = Story()
    for number in range(40):
        story.asked(number, "trunk-left" if number < 20 else "trunk-right")
    story.leaves(2 * S + 10 * MS, arp(0, True), "trunk-left", passes=False)  # fenced
    found = story.told()
    assert found["violations"] == []
    counts = found["customer"]
    # The answers are all alike: the fenced one could have been the next one's.
    assert (counts["source"], counts["either"], counts["destination"]) == (20, 1, 19)
    assert found["heard"] == {"source": 20, "destination": 20, "dropped": 0}
    assert found["customer"]["held_back"] == 1


def test_a_second_speaker_is_seen():
    story = Story()
    for number in range(40):
        story.asked(number, "trunk-left" if number < 20 else "trunk-right",
                    by="trunk-left" if number == 30 else None)
    assert any("the source's frame left" in text for text in story.told()["violations"])


def test_a_second_hearer_is_seen():
    story = Story()
    for number in range(40):
        story.asked(number, "trunk-left" if number < 20 else "trunk-right",
                    also="trunk-left" if number == 25 else None)
    assert any("a copy too many" in text for text in story.told()["violations"])


def test_two_answers_are_seen():
    story = Story()
    for number in range(40):
        story.asked(number, "trunk-left" if number < 20 else "trunk-right")
    story.leaves(S + 200 * 50 * MS, arp(0, True), "trunk-right")
    assert any("an answer too many" in text for text in story.told()["violations"])


def test_t_m_is_between_last_and_first_of_a_flow():
    story = Story()
    for number in range(10):
        raw = CE + PVM + b"\x08\0" + udp("10.2.0.1", "10.1.0.1", number)
        story.leaves(S + number * MS, raw, "trunk-left" if number < 5 else "trunk-right")
    # Its own packets don't count: the controller's probe lets the destination say something early.
    story.leaves(S, CE + PVM + b"\x08\0" + udp("192.168.1.1", "192.168.1.2", 1), "trunk-right")
    label = struct.pack("!I", 1001 << 12 | 1 << 8 | 64)
    for number, trunk in ((0, "trunk-left"), (1, "trunk-right"), (2, "trunk-left")):
        story.frames[trunk].append(frame(
            S + number * MS, CORE,
            GATEWAY + PE + b"\x88\x47" + label + udp("10.1.0.1", "10.2.0.1", number)))
    story.told()
    found = story.wire.switched()
    assert found["customer"]["10.2.0.1 > 10.1.0.1"]["t_m_ms"] == 1
    assert found["core"]["10.1.0.1 > 10.2.0.1"]["t_m_ms"] == -1
    assert len(found["customer"]) == len(found["core"]) == 1
    assert wire.t_m_ms(found) == 1


def tcp(seq, payload, sport=50000):
    """A segment from 10.0.0.1 to 10.0.0.100."""
    head = struct.pack("!HHIIBBHHH", sport, 179, seq, 0, 5 << 4, 0x18, 100, 0, 0)
    return struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(payload), 0, 0, 63, 6, 0) \
        + bytes([10, 0, 0, 1, 10, 0, 0, 100]) + head + payload


def test_a_bgp_session_is_read_from_its_segments():
    one = bgpmsg.message(bgpmsg.UPDATE, update(withdrawn=b"\x08\x0a"))
    two = bgpmsg.message(bgpmsg.KEEPALIVE)
    said = one + two + one
    # It begins within a message; a segment is sent twice, another again with more behind it, and
    # the last two come in the wrong order.
    parts = [(90, b"\0" * 10), (100, said[:30]), (100, said[:30]), (160, said[60:]),
             (120, said[20:60])]
    frames = [frame(n, 0, PE + CE + b"\x08\0" + tcp(seq, part))
              for n, (seq, part) in enumerate(parts)]
    found = wire.bgp_messages(frames, "10.0.0.1", "10.0.0.100")
    assert [kind for _, kind, _ in found] == [bgpmsg.UPDATE, bgpmsg.KEEPALIVE, bgpmsg.UPDATE]
    with pytest.raises(Exception, match="missing"):
        wire.bgp_messages(frames[:4], "10.0.0.1", "10.0.0.100")


# ---- rules of the edge switch ------------------------------------------------------------------


@pytest.mark.parametrize("rule, wanted", [
    # from the PVM: found on the other trunk
    ('cookie=0x1, priority=100,ip,in_port="trunk-left",dl_vlan=104 actions=pop_vlan,output:cust1',
     'cookie=0x1, priority=100,ip,in_port="trunk-right",dl_vlan=104 '
     'actions=pop_vlan,output:"cust1"'),
    # to the PVM, beside another VM that stays
    ('priority=150,arp,in_port=core actions=push_vlan:0x8100,set_field:4196->vlan_vid,'
     'output:"trunk-left",set_field:4201->vlan_vid,output:"trunk-left"',
     'priority=150,arp,in_port=core actions=push_vlan:0x8100,set_field:4196->vlan_vid,'
     'output:"trunk-left",set_field:4201->vlan_vid,output:"trunk-right"'),
    # between the PVM and a CVM on the same trunk: not any more
    ('priority=100,tcp,in_port="trunk-left",dl_vlan=105 actions=pop_vlan,push_vlan:0x8100,'
     'set_field:4197->vlan_vid,IN_PORT',
     'priority=100,tcp,in_port="trunk-right",dl_vlan=105 actions=pop_vlan,push_vlan:0x8100,'
     'set_field:4197->vlan_vid,output:"trunk-left"'),
    # a CVM on the trunk that the PVM moves to: now the same
    ('priority=100,tcp,in_port="trunk-right",dl_vlan=101 actions=pop_vlan,push_vlan:0x8100,'
     'set_field:4201->vlan_vid,output:"trunk-left"',
     'priority=100,tcp,in_port="trunk-right",dl_vlan=101 actions=pop_vlan,push_vlan:0x8100,'
     'set_field:4201->vlan_vid,IN_PORT'),
    # another customer's
    ('priority=100,ip,in_port="trunk-left",dl_vlan=102 actions=pop_vlan,output:"cust2"',
     'priority=100,ip,in_port="trunk-left",dl_vlan=102 actions=pop_vlan,output:"cust2"'),
])
def test_rules_follow_the_vm(rule, wanted):
    assert oldways.repointed(rule, {104, 105}, "trunk-left", "trunk-right") == wanted
    back = oldways.repointed(wanted, {104, 105}, "trunk-right", "trunk-left")
    assert back.replace('"', "") == rule.replace('"', "")


# ---- the bystander -----------------------------------------------------------------------------


@pytest.mark.parametrize("moves, others", [(1, 1), (2, 3), (3, 2), (3, 3)])
def test_chance_is_what_all_orders_of_the_windows_say(moves, others):
    orders = list(itertools.permutations(range(moves + others)))
    found = [measure.noise(order[:moves], order[moves:]) for order in orders]
    for each in found:
        as_many = sum(other["above"] >= each["above"] for other in found)
        assert each["chance"] == pytest.approx(as_many / len(orders))


def test_a_move_that_delays_others_is_not_noise():
    quiet = [10.0 + n / 10 for n in range(20)]
    assert measure.noise([11.0] * 10 + [30.0] * 2, quiet)["within_noise"] is True
    assert measure.noise([11.0] * 10 + [30.0] * 10, quiet)["within_noise"] is False
    assert measure.noise([30.0], [10.0])["within_noise"] is None


@pytest.mark.parametrize("what, count, problems", [
    ("lost", 0, 0), ("lost", 3, 1), ("duplicated", 3, 1), ("reordered", 3, 0)])
def test_what_a_bystander_loses_is_a_problem_of_the_move(what, count, problems):
    clean = {"lost": 0, "duplicated": 0, "reordered": 0}
    seen = {"resets": [], "speaker": {"violations": []}, "core_told": [], "probes": clean,
            "bystander": {**clean, what: count}}
    found = measure._problems(seen)  # pylint: disable=protected-access
    assert len(found) == problems and all("bystander" in text for text in found)
