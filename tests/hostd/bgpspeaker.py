# SPDX-License-Identifier: GPL-2.0-or-later
"""VPN speakers at both ends of a CVM: one changes routes at a steady rate, the other notes when it was
told; how long a change took on its way through the CVM."""

import random
import select
import socket
import struct
import sys
import threading
import time

from hostlab import TOP
from lib.lab import wait_until
from protectlab import lab_namespace

sys.path.insert(0, f"{TOP}/testbed")
from bed import bgpmsg  # noqa: E402  pylint: disable=wrong-import-position

ASN, HOLD_S, ALIVE_S = 65000, 90, 2
ANNOUNCE_SHARE = 0.8  # of changes of a route that is there; the others are withdrawals


def _attribute(kind, value, flags=0x40):
    if len(value) > 255:
        return struct.pack("!BBH", flags | 0x10, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


class Routes:
    """What a speaker's routes have in common, and how to say them."""

    def __init__(self, rd, label, next_hop, target):
        self._rd = struct.pack("!HHI", 0, *rd)
        self._label = struct.pack("!I", label << 4 | 1)[1:]
        self._hop = b"\0" * 8 + socket.inet_aton(next_hop)
        self._target = _attribute(16, struct.pack("!BBHI", 0, 2, *target), 0xc0)

    def _nlri(self, label, prefixes):
        return b"".join(struct.pack("!B", 88 + 24) + label + self._rd + struct.pack("!I", p)[:3]
                        for p in prefixes)

    def announce(self, prefixes, path, med):
        """An UPDATE for /24s, given as numbers."""
        aspath = struct.pack(f"!BB{len(path)}I", 2, len(path), *path)
        attributes = (
            _attribute(14, struct.pack("!HBB", bgpmsg.IPV4, bgpmsg.VPN, len(self._hop)) + self._hop
                       + b"\0" + self._nlri(self._label, prefixes), 0x80)
            + _attribute(1, b"\0") + _attribute(2, aspath)
            + _attribute(4, struct.pack("!I", med), 0x80) + _attribute(5, struct.pack("!I", 100))
            + self._target)
        return bgpmsg.message(bgpmsg.UPDATE, struct.pack("!HH", 0, len(attributes)) + attributes)

    def withdraw(self, prefixes):
        """The same of their withdrawal."""
        attributes = _attribute(15, struct.pack("!HB", bgpmsg.IPV4, bgpmsg.VPN)
                                + self._nlri(b"\x80\0\0", prefixes), 0x80)
        return bgpmsg.message(bgpmsg.UPDATE, struct.pack("!HH", 0, len(attributes)) + attributes)


class Speaker:
    """A session with the CVM, from address `own` in namespace `ns` to `peer`; reads all the time.

    `on_change(when, change)` gets everything it is told (time.monotonic(), bgpmsg.Change).
    """

    def __init__(self, ns, own, peer, on_change):
        self._ns, self._own, self._peer, self._on_change = ns, own, peer, on_change
        self._lock, self._end = threading.Lock(), threading.Event()
        self.socket, self.error, self.established = None, None, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _connect(self):
        with lab_namespace(self._ns):
            sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((self._own, 0))
        sock.settimeout(5)
        sock.connect((self._peer, 179))
        sock.sendall(bgpmsg.open_message(ASN, HOLD_S, self._own, [(bgpmsg.IPV4, bgpmsg.VPN)]))
        return sock

    def _run(self):
        try:
            self.socket = wait_until(self._connect, 60, f"{self._peer} takes a connection", 0.5)
            self._read()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def _read(self):
        buffer, spoke = bytearray(), time.monotonic()
        while not self._end.is_set():
            if select.select([self.socket], [], [], 0.2)[0]:
                data = self.socket.recv(1 << 18)
                if not data:
                    raise EOFError(f"{self._peer} closed the session")
                buffer += data
            now = time.monotonic()
            for kind, body in bgpmsg.split(buffer):
                if kind == bgpmsg.NOTIFICATION:
                    raise EOFError(f"{self._peer} sent NOTIFICATION {body.hex()}")
                if kind == bgpmsg.OPEN:
                    self.send(bgpmsg.message(bgpmsg.KEEPALIVE))
                if kind == bgpmsg.KEEPALIVE:
                    self.established = True
                if kind == bgpmsg.UPDATE:
                    for change in bgpmsg.changes(body):
                        self._on_change(now, change)
            if now - spoke > ALIVE_S and self.established:
                self.send(bgpmsg.message(bgpmsg.KEEPALIVE))
                spoke = now

    def send(self, data):
        """Sends whole messages; as slowly as the other end takes them."""
        with self._lock:
            self.socket.settimeout(300)
            self.socket.sendall(data)

    def wait_established(self):
        wait_until(lambda: self.established or self.error, 90, f"session with {self._peer}")
        self.check()

    def check(self):
        """Raises when the session has ended."""
        if self.error:
            raise AssertionError(f"the session with {self._peer} ended: {self.error!r}")

    def close(self):
        self._end.set()
        self._thread.join(10)
        if self.socket:
            self.socket.close()


class Direction:
    """Changes that one speaker makes, and when the other one was told."""

    def __init__(self, name, routes, base, count, seed):
        self.name, self._routes, self._base = name, routes, base
        self._prefixes = [base + (i << 8) for i in range(count)]
        self._there, self._dice, self._step = set(), random.Random(seed), 0
        self._lock, self._sent, self.delays_s, self.late = threading.Lock(), {}, [], 0

    def change(self, speaker):
        """Makes the next one."""
        prefix = self._prefixes[self._step % len(self._prefixes)]
        self._step += 1
        if prefix in self._there and self._dice.random() > ANNOUNCE_SHARE:
            self._there.discard(prefix)
            data = self._routes.withdraw([prefix])
        else:
            self._there.add(prefix)
            path = [self._dice.randrange(1000, 64000) for _ in range(self._dice.randrange(1, 4))]
            data = self._routes.announce([prefix], path, self._step)
        with self._lock:
            # What wasn't told by the time of its next change is counted, and never measured.
            self.late += prefix in self._sent
            self._sent[prefix] = time.monotonic()
        speaker.send(data)

    def told(self, now, change):
        """The other one heard of a prefix."""
        if change.prefix.endswith("/24"):
            prefix, = struct.unpack("!I", socket.inet_aton(change.prefix[:-3]))
            with self._lock:
                sent = self._sent.pop(prefix, None)
                if sent is not None:
                    self.delays_s.append(now - sent)

    def take(self):
        """The delays since the last call, and how many changes weren't told before the next one."""
        with self._lock:
            delays, late = self.delays_s, self.late
            self.delays_s, self.late = [], 0
        return delays, late

    def waiting(self):
        """How many changes the other one hasn't been told of."""
        with self._lock:
            return len(self._sent)


class Feed:
    """Makes a direction's changes, so many per second, until the block ends."""

    def __init__(self, direction, speaker, rate):
        self._direction, self._speaker, self._interval = direction, speaker, 1 / rate
        self._end, self.error = threading.Event(), None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        due = time.monotonic()
        try:
            while not self._end.wait(max(0, due - time.monotonic())):
                self._direction.change(self._speaker)
                due += self._interval
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._end.set()
        self._thread.join(30)


def fill(speaker, routes, base, count, at_once=200, share=5):
    """Announces `count` /24s from `base` on; `share` of them have the same attributes."""
    dice, pending = random.Random(count), []
    for first in range(0, count, share):
        prefixes = [base + (i << 8) for i in range(first, min(first + share, count))]
        path = [dice.randrange(1000, 64000) for _ in range(dice.randrange(1, 5))]
        pending.append(routes.announce(prefixes, path, first))
        if len(pending) >= at_once:
            speaker.send(b"".join(pending))
            pending = []
    speaker.send(b"".join(pending))
