# SPDX-License-Identifier: GPL-2.0-or-later
"""Who said what on the wire while a PVM was moved: captures at the site's edge switch, where every
frame passes with the port that it came from, and what follows from them.

    with Wire(port, source="a-left", destination="a-right") as wire:
        ... the move ...
    wire.switched()       # T_M
    wire.one_speaker()    # never two control planes
"""

import ipaddress
import json
import os
import signal
import struct
import subprocess
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass

from . import bgpmsg, host
from . import topology as topo

DIR = f"{topo.RUN}/traffic"
SNAP = 192
BUFFER_KIB = 16384
BGP = 179
BFD = {3784, 3785, 4784}
ETH_ARP, ETH_IP, ETH_IPV6, ETH_VLAN, ETH_MPLS = 0x0806, 0x0800, 0x86dd, 0x8100, 0x8847
# A frame leaves the switch at most so long after it came in, and a question is answered at most so
# long after it was asked, on a machine that is too busy.
PASSAGE_NS = 3_000_000_000
# A capture hands over its frames in heaps, and the last one may be missing when it ends.
HEAP_NS = 1_100_000_000
ANSWER_NS = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """A captured frame; `rest` is what follows the type, cut off at SNAP."""

    ns: int
    vlan: int  # 0: untagged
    dst: bytes
    src: bytes
    type: int
    rest: bytes

    def key(self):
        """The same for a frame and its copy behind the switch, which changes the tag only."""
        return (self.dst, self.src, self.type, self.rest[:SNAP - 18])

    def arp(self):
        """(operation, sender's address, target's address) of an ARP frame for IPv4."""
        operation, = struct.unpack("!H", self.rest[6:8])
        return (operation, str(ipaddress.IPv4Address(self.rest[14:18])),
                str(ipaddress.IPv4Address(self.rest[24:28])))

    def ip(self):
        """(protocol, source, destination, transport header and on) of an IP packet."""
        if self.type == ETH_IP:
            start = 4 * (self.rest[0] & 15)
            return (self.rest[9], str(ipaddress.IPv4Address(self.rest[12:16])),
                    str(ipaddress.IPv4Address(self.rest[16:20])), self.rest[start:])
        return (self.rest[6], str(ipaddress.IPv6Address(self.rest[8:24])),
                str(ipaddress.IPv6Address(self.rest[24:40])), self.rest[40:])


def read(path, from_ns=0):
    """All frames of a file of tcpdump's since a time; a last one that isn't whole yet is left
    out."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < 24:
        return []
    if struct.unpack_from("=I", data)[0] != 0xa1b23c4d or struct.unpack_from("=I", data, 20)[0] != 1:
        raise host.TestbedError(f"{path} isn't a capture of Ethernet frames with nanoseconds")
    frames, at, head = [], 24, struct.Struct("=IIII")
    while at + 16 <= len(data):
        seconds, nanoseconds, size, _ = head.unpack_from(data, at)
        at += 16 + size
        if at > len(data):
            break
        if seconds * 1_000_000_000 + nanoseconds < from_ns:
            continue
        raw = data[at - size:at]
        kind, vlan, start = int.from_bytes(raw[12:14], "big"), 0, 14
        if kind == ETH_VLAN:
            vlan = int.from_bytes(raw[14:16], "big") & 0xfff
            kind, start = int.from_bytes(raw[16:18], "big"), 18
        frames.append(Frame(seconds * 1_000_000_000 + nanoseconds, vlan, raw[:6], raw[6:12], kind,
                            raw[start:]))
    frames.sort(key=lambda frame: frame.ns)
    return frames


class Tcpdump:
    """tcpdump on one interface, into a file; with `at_once` each frame is there as soon as it was
    seen."""

    def __init__(self, ns, interface, path, expression="", snap=SNAP, at_once=False):
        self.path = path
        self._argv = ["ip", "netns", "exec", ns, "tcpdump", "-n", "-i", interface, "-s", snap,
                      "-B", BUFFER_KIB, "--time-stamp-precision=nano", "-w", path,
                      *(["--immediate-mode", "-U"] if at_once else []),
                      *([expression] if expression else [])]
        self._child, self._said = None, ""

    def start(self):
        """Starts it, and waits until it listens."""
        self._child = subprocess.Popen([str(a) for a in self._argv], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while "listening on" not in self._said:
            line = self._child.stderr.readline()
            if not line:
                raise host.TestbedError(f"tcpdump ended: {self._said}")
            self._said += line

    def stop(self):
        """Ends it; raises TestbedError when it missed something."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.send_signal(signal.SIGINT)
        _, said = self._child.communicate(timeout=20)
        if "\n0 packets dropped by kernel" not in said:
            raise host.TestbedError(f"tcpdump was too slow, measure again: {said}")

    def kill(self):
        """Ends it, whatever state it is in."""
        if self._child and self._child.poll() is None:
            self._child.kill()
            self._child.communicate()


def t_m_ms(switched):
    """The largest T_M of all flows of what Wire.switched() found; None when there was none."""
    return max((flow["t_m_ms"] for side in switched.values() for flow in side.values()
                if flow["t_m_ms"] is not None), default=None)


def mac(text):
    """A MAC address as the six bytes that a frame has."""
    return bytes.fromhex(text.replace(":", ""))


class Wire:
    """Captures around a port of a customer while a `with` block lasts, and reads them afterwards, but
    for the block's last second.

    `port`, `cvm` and `site` are as the API shows them (`port show`, …); `source` and `destination`
    are servers of the site.
    """

    def __init__(self, port, cvm, source, destination):
        site = next(s for s in topo.SITES if s.name == port["site"])
        trunks = {server.name: server.trunk for server in site.servers}
        self.source, self.destination = trunks[source], trunks[destination]
        self._cvm_trunk = trunks[cvm["server"]]
        self._mac, self._pe_mac = mac(port["mac"]), mac(cvm["macs"]["core"])
        self._cust_vlan, self._core_vlan = port["vlans"]["cust"], port["vlans"]["core"]
        self._inside_vlan = cvm["vlans"]["inside"]
        self._addresses = {str(ipaddress.ip_interface(a).ip) for a in port["addresses"]}
        self._inside = {port["inside_address"], cvm["inside_address"]}
        self._core_address = str(ipaddress.ip_interface(site.core_address).ip)
        self._customer = port["switch_port"]
        self._dumps = {name: Tcpdump(site.ns, name, f"{DIR}/wire-{port['name']}-{name}.pcap")
                       for name in {self._customer, self.source, self.destination,
                                    self._cvm_trunk}}
        self._frames, self._began_ns = {}, 0

    def __enter__(self):
        os.makedirs(DIR, exist_ok=True)
        try:
            for dump in self._dumps.values():
                dump.start()
        except BaseException:
            self._kill()
            raise
        # From now on every capture sees everything.
        self._began_ns = time.time_ns()
        return self

    def __exit__(self, kind, *_exc):
        if kind is not None:
            self._kill()
            return
        ended_ns = time.time_ns() - HEAP_NS
        try:
            for dump in self._dumps.values():
                dump.stop()
        except BaseException:
            self._kill()
            raise
        self._frames = {name: [f for f in read(dump.path, self._began_ns) if f.ns < ended_ns]
                        for name, dump in self._dumps.items()}

    def _kill(self):
        for dump in self._dumps.values():
            dump.kill()

    # ---- what a frame is -------------------------------------------------------------------

    def _is_control(self, frame):
        """Is it of the control plane, on the customer's side?"""
        if frame.type == ETH_ARP:
            return True
        if frame.type not in (ETH_IP, ETH_IPV6) or len(frame.rest) < 40:
            return False
        protocol, source, destination, rest = frame.ip()
        if protocol == 58 and frame.type == ETH_IPV6:
            return bool(rest) and 133 <= rest[0] <= 137
        if protocol not in (6, 17) or len(rest) < 4:
            return False
        mine = source in self._addresses or destination in self._addresses
        ports = set(struct.unpack("!HH", rest[:4]))
        return mine and (BGP in ports if protocol == 6 else bool(ports & BFD))

    def _is_inside(self, frame):
        """Is it between the PVM and the CVM?"""
        if frame.type == ETH_ARP:
            return set(frame.arp()[1:]) == self._inside
        return frame.type == ETH_IP and set(frame.ip()[1:3]) == self._inside

    def _from(self, trunk, vlan, mac):
        return [f for f in self._frames[trunk] if f.vlan == vlan and f.src == mac]

    # ---- T_M -------------------------------------------------------------------------------

    def _transit(self, frame):
        """(source, destination) of a packet that passes through the PVM; None of anything else."""
        rest, kind = frame.rest, frame.type
        if kind == ETH_MPLS:
            while len(rest) > 4 and not rest[2] & 1:
                rest = rest[4:]
            rest = rest[4:]
            if not rest:
                return None
            kind = ETH_IP if rest[0] >> 4 == 4 else ETH_IPV6
        if kind not in (ETH_IP, ETH_IPV6) or len(rest) < 40:
            return None
        _, source, destination, _ = Frame(0, 0, b"", b"", kind, rest).ip()
        own = self._addresses | self._inside | {self._core_address}
        if source in own or destination in own or source.startswith("fe80:"):
            return None
        return source, destination

    def switched(self):
        """When packets came from where: {"customer": …, "core": …}, of each side {flow: {
        "last_source", "first_destination" (ns), "t_m_ms"}}, flows as "SOURCE > DESTINATION".

        T_M is what lies between these two, as the EdgePlex article defines it: from the last packet
        of the source to the first one of the destination. Negative: both sent for so long (the
        switch takes flow after flow to the other side). None where one of them sent nothing.
        """
        sides = {"customer": (self._cust_vlan, self._mac), "core": (self._core_vlan, self._pe_mac)}
        found = {}
        for side, nic in sides.items():
            flows = defaultdict(dict)
            for trunk in (self.source, self.destination):
                for frame in self._from(trunk, *nic):
                    flow = self._transit(frame)
                    if flow and trunk == self.source:
                        flows[flow]["last_source"] = frame.ns
                    elif flow:
                        flows[flow].setdefault("first_destination", frame.ns)
            found[side] = {}
            for (source, destination), times in flows.items():
                last, first = times.get("last_source"), times.get("first_destination")
                found[side][f"{source} > {destination}"] = {
                    "last_source": last, "first_destination": first,
                    "t_m_ms": (first - last) / 1e6 if last and first else None}
        return found

    # ---- one control plane -----------------------------------------------------------------

    def one_speaker(self, back=False):
        """Checks that the control plane spoke from one side at a time, and was spoken to on one side
        only: {"customer": …, "inside": …, "heard": …, "answers": …, "violations": [text]}. `back`: the
        move failed, and the source may have spoken again after the destination."""
        customer_out = [f for f in self._frames[self._customer]
                        if f.src == self._mac and self._is_control(f)]
        inside_out = [f for f in self._frames[self._cvm_trunk]
                      if f.vlan == self._inside_vlan and f.src == self._pe_mac
                      and self._is_inside(f)]
        sides = {
            "customer": (customer_out, {trunk: [
                f for f in self._from(trunk, self._cust_vlan, self._mac) if self._is_control(f)]
                for trunk in (self.source, self.destination)}),
            "inside": (inside_out, {trunk: [
                f for f in self._from(trunk, self._core_vlan, self._pe_mac) if self._is_inside(f)]
                for trunk in (self.source, self.destination)}),
        }
        result, violations = {}, []
        for side, (out, said) in sides.items():
            result[side], wrong = speakers(out, said[self.source], said[self.destination],
                                           back)
            violations += [f"{side}: {text}" for text in wrong]
        heard_in = [f for f in self._frames[self._customer]
                    if f.src != self._mac and self._is_control(f)]
        copies = {trunk: [f for f in self._frames[trunk]
                          if f.vlan == self._cust_vlan and f.src != self._mac]
                  for trunk in (self.source, self.destination)}
        result["heard"], wrong = hearers(heard_in, copies[self.source], copies[self.destination])
        violations += wrong
        result["answers"], wrong = self._answers()
        violations += wrong
        result["violations"] = violations
        return result

    def _answers(self):
        """ARP and ND: never more answers than questions."""
        asked, answered, violations = defaultdict(int), defaultdict(int), []
        waiting = defaultdict(list)
        for frame in self._frames[self._customer]:
            question, subject = _question(frame)
            if subject not in self._addresses:
                continue
            if question and frame.src != self._mac:
                asked[subject] += 1
                waiting[subject].append(frame.ns)
            elif not question and frame.src == self._mac:
                answered[subject] += 1
                open_ones = waiting[subject]
                while open_ones and open_ones[0] < frame.ns - ANSWER_NS:
                    open_ones.pop(0)  # nobody answered
                if open_ones:
                    open_ones.pop(0)
                elif frame.ns > self._began_ns + ANSWER_NS:  # else: asked before we looked
                    violations.append(f"an answer too many for {subject} at {frame.ns}")
        return {"asked": dict(asked), "answered": dict(answered)}, violations


def _question(frame):
    """(Is it a question?, the address in question) of ARP and ND; (False, None) of others."""
    if frame.type == ETH_ARP:
        operation, sender, target = frame.arp()
        return (True, target) if operation == 1 else (False, sender)
    if frame.type == ETH_IPV6 and len(frame.rest) >= 64 and frame.rest[6] == 58:
        if frame.rest[40] in (135, 136):
            return frame.rest[40] == 135, str(ipaddress.IPv6Address(frame.rest[48:64]))
    return False, None


class _Copies:
    """Frames by their content, each to be found once."""

    def __init__(self, frames):
        self._by_key = defaultdict(list)
        for frame in frames:
            self._by_key[frame.key()].append(frame.ns)

    def has(self, frame, earliest, latest):
        """Is there a copy of `frame` in that time?"""
        times = self._by_key.get(frame.key(), [])
        return bisect_left(times, latest + 1) > bisect_left(times, earliest)

    def take(self, frame, earliest, latest):
        """Takes the first copy of that time away, and returns when it was; None without one."""
        times = self._by_key.get(frame.key(), [])
        at = bisect_left(times, earliest)
        return times.pop(at) if at < len(times) and times[at] <= latest else None

    def forget(self, frame, before):
        """Takes all copies of an earlier time away."""
        times = self._by_key.get(frame.key(), [])
        del times[:bisect_left(times, before)]


def speakers(out, source, destination, back=False):
    """Whose frames are those that left (`out`)? Returns (counts, violations).

    Both copies of a PVM may have said the very same: then it can be either's, and counts as
    `either`. A violation is a frame that only the source said after one that only the destination
    said; or with `back`, where it may, one that only the destination said after that.
    """
    sources, destinations = _Copies(source), _Copies(destination)
    counts = {"source": 0, "destination": 0, "either": 0, "unseen": 0,
              "last_source": None, "first_destination": None,
              "held_back": 0}
    violations, again = [], False
    for frame in out:
        span = (frame.ns - PASSAGE_NS, frame.ns + 1_000_000)
        by_source = sources.has(frame, *span)
        by_destination = destinations.has(frame, *span)
        if by_source and by_destination:
            counts["either"] += 1
            # What the source said before this was held back, or has passed.
            sources.forget(frame, destinations.take(frame, *span))
        elif by_source:
            sources.take(frame, *span)
            counts["source"] += 1
            counts["last_source"] = frame.ns
            again |= counts["first_destination"] is not None
            if again and not back:
                violations.append(f"the source's frame left at {frame.ns}, after the destination's "
                                  f"at {counts['first_destination']}: {_text(frame)}")
        elif by_destination:
            destinations.take(frame, *span)
            counts["destination"] += 1
            if counts["first_destination"] is None:
                counts["first_destination"] = frame.ns
            if again and back:
                violations.append(f"the destination's frame left at {frame.ns}, after the source "
                                  f"had spoken again: {_text(frame)}")
        else:
            counts["unseen"] += 1
    counts["held_back"] = (len(source) + len(destination)
                           - counts["source"] - counts["destination"] - counts["either"])
    return counts, violations


def hearers(came, source, destination):
    """Who was given the control frames that came in? Returns (counts, violations): each must have
    gone to one side only, once.

    Frames of the same content are told apart by their order.
    """
    waiting = defaultdict(list)  # by content: when they came, not yet handed on
    for frame in came:
        waiting[frame.key()].append(frame.ns)
    counts, violations = {"source": 0, "destination": 0, "dropped": 0}, []
    copies = sorted([(f.ns, "source", f) for f in source]
                    + [(f.ns, "destination", f) for f in destination], key=lambda copy: copy[0])
    for ns, side, frame in copies:
        times = waiting.get(frame.key())
        if times is None:
            continue  # data
        while times and times[0] < ns - PASSAGE_NS:
            times.pop(0)
            counts["dropped"] += 1
        if times and times[0] <= ns + 1_000_000:
            times.pop(0)
            counts[side] += 1
        else:
            violations.append(f"a copy too many, at the {side}, at {ns}: {_text(frame)}")
    counts["dropped"] += sum(len(times) for times in waiting.values())
    return counts, violations


def _text(frame):
    return (f"{frame.src.hex(':')} > {frame.dst.hex(':')} type {frame.type:#06x} "
            f"{frame.rest[:60].hex()}")


# ---- a BGP session ---------------------------------------------------------------------------


class _Stream:
    """One direction of a TCP connection, put together from its segments in any order."""

    def __init__(self):
        self.next_seq, self.early = None, []  # early: [(seq, payload)] behind a hole

    def add(self, seq, payload):
        """Takes a segment, and returns the bytes that follow what was returned before."""
        if self.next_seq is None:
            start = payload.find(bgpmsg.MARKER)
            if start < 0:
                return b""
            seq, payload = seq + start, payload[start:]
            self.next_seq = seq & 0xffffffff
        self.early.append((seq, payload))
        found, progress = b"", True
        while progress:
            progress = False
            for segment in self.early:
                known = (self.next_seq - segment[0]) & 0xffffffff
                if known < 1 << 31:  # it begins at or before what comes next
                    found += segment[1][known:]
                    self.next_seq = (self.next_seq + len(segment[1][known:])) & 0xffffffff
                    self.early.remove(segment)
                    progress = True
                    break
        return found


def bgp_messages(frames, source, destination):
    """What `source` said to `destination` by BGP: [(ns, type, body)], from captured whole frames.

    Starts with the first message that begins in the capture. Raises TestbedError when segments are
    missing that were never sent again.
    """
    found, streams = [], {}
    for frame in frames:
        if frame.type not in (ETH_IP, ETH_IPV6):
            continue
        protocol, src, dst, rest = frame.ip()
        if protocol != 6 or (src, dst) != (source, destination) or len(rest) < 20:
            continue
        ports = struct.unpack("!HH", rest[:4])
        payload = rest[4 * (rest[12] >> 4):_tcp_length(frame)]
        if BGP not in ports or not payload:
            continue
        stream, buffer = streams.setdefault(ports, (_Stream(), bytearray()))
        buffer += stream.add(struct.unpack("!I", rest[4:8])[0], payload)
        found += [(frame.ns, kind, body) for kind, body in bgpmsg.split(buffer)]
    if any(stream.early for stream, _ in streams.values()):
        raise host.TestbedError(f"BGP from {source}: a segment is missing in the capture")
    return found


def _tcp_length(frame):
    """Bytes of a TCP segment with its header: Ethernet may have filled the frame up."""
    if frame.type == ETH_IP:
        return struct.unpack("!H", frame.rest[2:4])[0] - 4 * (frame.rest[0] & 15)
    return struct.unpack("!H", frame.rest[4:6])[0]


def longest_silence(frames, port):
    """The longest time between two segments with data to or from TCP port `port`, by direction of
    the flow: {(source, destination): (ms, ns when it began)}."""
    last, longest = {}, {}
    for frame in frames:
        if frame.type not in (ETH_IP, ETH_IPV6):
            continue
        protocol, source, destination, rest = frame.ip()
        if protocol != 6 or len(rest) < 20 or port not in struct.unpack("!HH", rest[:4]):
            continue
        if _tcp_length(frame) <= 4 * (rest[12] >> 4):
            continue
        flow = (source, destination)
        if flow in last:
            silence = (frame.ns - last[flow]) / 1e6
            if silence > longest.get(flow, (0, 0))[0]:
                longest[flow] = (silence, last[flow])
        last[flow] = frame.ns
    return longest


def save(path, found):
    """Keeps what was found beside the captures."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
