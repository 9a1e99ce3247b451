# SPDX-License-Identifier: GPL-2.0-or-later
"""A forwarder between two hosts in namespaces, a feeder for its FIB socket, and raw sockets.

    ce (eth0) ---- dcust [edgeplex-fwd] dcore ---- pe (eth0)

The forwarder's TAPs are `cust` (192.168.1.1/30, fd00:a1::1/64) and `core` (192.0.2.2/30,
fd00:c0::2/64); ce has .2 and ::2 of the first, pe .1 and ::1 of the second.
"""

import contextlib
import ctypes
import ipaddress
import json
import os
import select
import socket
import struct
import time

from lib.lab import wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("B", f"{ROOT}/build")
FORWARDER = os.path.join(ROOT, BUILD, "edgeplex-fwd")

CUST_MAC = "02:ed:00:00:00:01"
CORE_MAC = "02:ed:00:00:00:02"
CE_MAC = "02:ce:00:00:00:01"
PE_MAC = "02:be:00:00:00:01"

AF_MPLS = 28
RTM_NEWROUTE, RTM_DELROUTE, NLMSG_DONE = 24, 25, 3
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_NEWDST = 1, 4, 5, 9, 18, 19
RTA_ENCAP_TYPE, RTA_ENCAP = 21, 22
RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE = 1, 6, 7
RTPROT_BGP = 186

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def in_netns(name):
    """What is opened inside lives in network namespace `name`."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if _libc.setns(there, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if _libc.setns(here, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns back")
    finally:
        os.close(here)
        os.close(there)


# ---- FIB messages (independent of common/fib_msg.c on purpose) ------------------------------


def _attr(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _stack(labels):
    last = len(labels) - 1
    return b"".join(
        struct.pack("!I", label << 12 | (0x100 if i == last else 0))
        for i, label in enumerate(labels)
    )


def frame(kind, body=b""):
    """One netlink message in one FPM frame."""
    message = struct.pack("=IHHII", 16 + len(body), kind, 1, 0, 0) + body
    return struct.pack("!BBH", 1, 1, 4 + len(message)) + message


def _nexthop(family, via=None, labels=()):
    out = b""
    if labels and family == AF_MPLS:
        out += _attr(RTA_NEWDST, _stack(labels))
    elif labels:
        out += _attr(RTA_ENCAP_TYPE, struct.pack("=H", 1))
        out += _attr(RTA_ENCAP, _attr(1, _stack(labels)))
    if via:
        address = ipaddress.ip_address(via)
        af = socket.AF_INET if address.version == 4 else socket.AF_INET6
        if af == family:
            out += _attr(RTA_GATEWAY, address.packed)
        else:
            out += _attr(RTA_VIA, struct.pack("=H", af) + address.packed)
    return out


def route(prefix, *nexthops, kind=RTN_UNICAST, delete=False):
    """A frame that adds or deletes a route. `nexthops`: dicts of via, labels, oif, weight."""
    if isinstance(prefix, int):
        family, length, dst = AF_MPLS, 20, _stack([prefix])
    else:
        net = ipaddress.ip_network(prefix)
        family = socket.AF_INET if net.version == 4 else socket.AF_INET6
        length, dst = net.prefixlen, net.network_address.packed
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, 254, RTPROT_BGP, 0, kind, 0)
    body += _attr(RTA_DST, dst)
    if len(nexthops) == 1:
        hop = nexthops[0]
        if hop.get("oif"):
            body += _attr(RTA_OIF, struct.pack("=I", hop["oif"]))
        body += _nexthop(family, hop.get("via"), hop.get("labels", ()))
    elif nexthops:
        parts = b""
        for hop in nexthops:
            inner = _nexthop(family, hop.get("via"), hop.get("labels", ()))
            parts += struct.pack(
                "=HBBi", 8 + len(inner), 0, hop.get("weight", 1) - 1, hop.get("oif", 0)
            )
            parts += inner
        body += _attr(RTA_MULTIPATH, parts)
    return frame(RTM_DELROUTE if delete else RTM_NEWROUTE, body)


def pop(label):
    """A frame that lets `label` be popped."""
    return route(label, {"oif": 1})


END = frame(NLMSG_DONE)


class Feeder:
    """A peer of the FIB socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)

    def send(self, *frames):
        """Sends frames."""
        self.socket.sendall(b"".join(frames))
        return self

    def closed(self):
        """Has the forwarder closed the connection?"""
        readable, _, _ = select.select([self.socket], [], [], 0)
        try:
            return bool(readable) and self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self):
        """Hangs up."""
        self.socket.close()


class RpcError(RuntimeError):
    """The answer was an error; `error` has it."""

    def __init__(self, error):
        super().__init__(str(error))
        self.error = error


# ---- raw sockets ---------------------------------------------------------------------------


class Wire:
    """Sends and receives whole frames on an interface."""

    def __init__(self, ns, interface):
        with in_netns(ns):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.bind((interface, 0))

    def send(self, packet):
        """Sends a scapy packet or bytes."""
        self.socket.send(bytes(packet))

    def drain(self):
        """Forgets what has arrived."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recvfrom(65535)

    def frames(self, limit_s):
        """Yields arriving frames (bytes) until the time is over."""
        deadline = time.monotonic() + limit_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return
            data, address = self.socket.recvfrom(65535)
            if address[2] != socket.PACKET_OUTGOING:
                yield data

    def expect(self, parse, match, limit_s=5, what="a frame"):
        """The first arriving frame that `match` accepts, parsed by `parse`."""
        seen = []
        for data in self.frames(limit_s):
            packet = parse(data)
            if match(packet):
                return packet
            seen.append(packet.summary() if hasattr(packet, "summary") else repr(packet))
        raise AssertionError(f"{what} didn't come within {limit_s} s; seen: {seen[-10:]}")


# ---- the forwarder -------------------------------------------------------------------------


class ForwarderLab:
    """The topology above, with a running forwarder."""

    def __init__(self, lab, *options, start=True, mtu=1500):
        self.lab, self.options = lab, options
        self.ce, self.fwd, self.pe = lab.netns("ce"), lab.netns("fwd"), lab.netns("pe")
        lab.veth(self.ce, "eth0", self.fwd, "dcust", mtu=mtu, mac1=CE_MAC, mac2=CUST_MAC)
        lab.veth(self.pe, "eth0", self.fwd, "dcore", mtu=mtu, mac1=PE_MAC, mac2=CORE_MAC)
        self.address(self.ce, "eth0", "192.168.1.2/30", "fd00:a1::2/64")
        self.address(self.pe, "eth0", "192.0.2.1/30", "fd00:c0::1/64")
        for ns, v4, v6 in (
            (self.ce, "192.168.1.1", "fd00:a1::1"),
            (self.pe, "192.0.2.2", "fd00:c0::2"),
        ):
            lab.run(ns, ["ip", "route", "add", "default", "via", v4])
            lab.run(ns, ["ip", "-6", "route", "add", "default", "via", v6])
        self.run_dir = f"{lab.dir}/fwd"
        self.process = None
        self._starts = 0
        if start:
            self.start()
            self.configure(mtu)

    def address(self, ns, interface, *addresses):
        """Gives an interface addresses."""
        for address in addresses:
            family = ["-6"] if ":" in address else []
            extra = ["nodad"] if ":" in address else []
            self.lab.run(
                ns, ["ip", *family, "address", "add", address, "dev", interface, *extra]
            )

    def start(self):
        """Starts the forwarder and waits until it answers."""
        self._starts += 1
        self.process = self.lab.spawn(
            self.fwd,
            [FORWARDER, "--port", "cust=dcust", "--port", "core=dcore", "--run-dir", self.run_dir,
             *self.options],
            name=f"fwd{self._starts}",
        )
        wait_until(self._answers, 15, "the forwarder answers")

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(self.lab.log(f"fwd{self._starts}"))
        return self.status()

    def configure(self, mtu=1500):
        """Gives the TAPs their addresses and waits until the forwarder has seen them."""
        for name, addresses in (
            ("cust", ("192.168.1.1/30", "fd00:a1::1/64")),
            ("core", ("192.0.2.2/30", "fd00:c0::2/64")),
        ):
            self.lab.run(self.fwd, ["ip", "link", "set", "dev", name, "mtu", mtu, "up"])
            self.address(self.fwd, name, *addresses)
        wait_until(
            lambda: self.has_address("cust", "fd00:a1::1/64")
            and self.has_address("core", "fd00:c0::2/64")
            and all(p["link"] and p["up"] for p in self.status()["ports"]),
            10,
            "the forwarder has its addresses",
        )

    def has_address(self, port, address):
        """Does the forwarder know an address of a port?"""
        return address in self.port(port)["addresses"]

    def ifindex(self, name):
        """Index of an interface in the forwarder's namespace."""
        out = self.lab.run(self.fwd, ["ip", "-j", "link", "show", "dev", name])
        return json.loads(out)[0]["ifindex"]

    def rpc(self, method, **params):
        """Calls a method; raises RpcError."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(f"{self.run_dir}/fwd.sock")
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(sock.makefile().readline())
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def status(self):
        """fwd.status"""
        return self.rpc("fwd.status")

    def port(self, name):
        """One port of fwd.status."""
        return next(p for p in self.status()["ports"] if p["name"] == name)

    def drops(self, port, reason):
        """Counter of one drop reason."""
        return self.port(port)["drops"].get(reason, 0)

    def feeder(self):
        """A new connection to the FIB socket."""
        return Feeder(f"{self.run_dir}/fpm.sock")

    def feed(self, *frames):
        """Connects, sends routes and the end mark, waits until they are in."""
        feeder = self.feeder().send(*frames, END)
        wait_until(lambda: self.status()["fib"]["complete"], 10, "the FIB is complete")
        return feeder

    def ping(self, ns, address, count=3, *options):
        """Pings; raises when an answer is missing."""
        return self.lab.run(
            ns, ["ping", "-n", "-q", "-c", count, "-i", "0.1", "-W", "2", *options, address]
        )
