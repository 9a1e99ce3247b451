# SPDX-License-Identifier: GPL-2.0-or-later
"""A BGP speaker that costs next to nothing: its table churns at a steady rate (churn.py), and what it
is told it throws away. Prefixes that are `always` there don't churn; `own` has what holds for a prefix
alone ({prefix: {"rd", "label", "rts"}}): it may be another VPN's than the rest.

`python3 -m bed.speaker CONFIG` (JSON; see bgpload.py) keeps a session with each neighbour, tells a
new one its whole table, then every change as an UPDATE of its own; it answers on a Unix socket what
it has said so far. A session that ends is begun again. It runs until its standard input ends.
"""

import ipaddress
import json
import select
import socket
import struct
import sys
import time

from . import bgpmsg, bigtable, churn

HOLD_S = 90
RETRY_S = 1
# What neighbours say is taken off their sockets so often: nobody waits for it.
READ_EVERY_S = 0.1
ORIGINS = {"ORIGIN_IGP": 0, "ORIGIN_EGP": 1, "ORIGIN_INCOMPLETE": 2}
WITHDRAWN_LABEL = b"\x80\x00\x00"  # RFC 8277, 2.4


# ---- messages --------------------------------------------------------------------------------


def _attribute(flags, kind, value):
    if len(value) > 255:
        return struct.pack("!BBH", flags | 0x10, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def _nlri(config, prefix, label):
    """A prefix as it is written in an UPDATE, with label and RD if the routes are a VPN's."""
    network = ipaddress.ip_network(prefix)
    address = network.network_address.packed[:(network.prefixlen + 7) // 8]
    if "rd" not in config:
        return bytes([network.prefixlen]) + address
    asn, number = map(int, config["rd"].split(":"))
    return (bytes([network.prefixlen + 88]) + label + struct.pack("!HHI", 0, asn, number) + address)


def _attributes(config, route):
    """What a route's UPDATE says besides prefix and next hop. `asn`, of an external speaker, goes
    before its path."""
    path = ([config["asn"]] if config.get("asn") else []) + route.path
    segment = struct.pack(f"!BB{len(path)}I", 2, len(path), *path) if path else b""
    found = _attribute(0x40, 1, bytes([ORIGINS[route.origin]])) + _attribute(0x40, 2, segment)
    if not config.get("asn"):
        found += _attribute(0x40, 5, struct.pack("!I", 100))
    if route.communities:
        found += _attribute(0xc0, 8, b"".join(struct.pack("!HH", *c) for c in route.communities))
    if config.get("rts"):
        found += _attribute(0xc0, 16, b"".join(
            struct.pack("!BBHI", 0, 2, *map(int, rt.split(":"))) for rt in config["rts"]))
    return found


def update(config, prefix, route):
    """The UPDATE that announces `prefix` as `route`, or withdraws it (None)."""
    config = {**config, **config.get("own", {}).get(prefix, {})}
    afi = bgpmsg.IPV6 if ":" in prefix else bgpmsg.IPV4
    vpn = "rd" in config
    safi = bgpmsg.VPN if vpn else bgpmsg.UNICAST
    plain = afi == bgpmsg.IPV4 and not vpn
    withdrawn = attributes = announced = b""
    if route is None:
        nlri = _nlri(config, prefix, WITHDRAWN_LABEL)
        if plain:
            withdrawn = nlri
        else:
            attributes = _attribute(0x80, 15, struct.pack("!HB", afi, safi) + nlri)
    else:
        label = config["label"] + (afi == bgpmsg.IPV6) if vpn else 0
        nlri = _nlri(config, prefix, (label << 4 | 1).to_bytes(3, "big"))
        hop = ipaddress.ip_address(config[f"next_hop{6 if afi == bgpmsg.IPV6 else 4}"]).packed
        attributes = _attributes(config, route)
        if plain:
            attributes += _attribute(0x40, 3, hop)
            announced = nlri
        else:
            hop = b"\0" * 8 + hop if vpn else hop
            attributes += _attribute(0x80, 14, struct.pack("!HBB", afi, safi, len(hop)) + hop
                                     + b"\0" + nlri)
    return bgpmsg.message(bgpmsg.UPDATE,
                          struct.pack("!H", len(withdrawn)) + withdrawn
                          + struct.pack("!H", len(attributes)) + attributes + announced)


def end_of_rib(family):
    """The UPDATE that says that the whole table of a family was told (RFC 4724, 2): somebody who was
    restarted may wait for it."""
    afi, safi = family
    attribute = b""
    if family != (bgpmsg.IPV4, bgpmsg.UNICAST):
        attribute = _attribute(0x80, 15, struct.pack("!HB", afi, safi))
    return bgpmsg.message(bgpmsg.UPDATE, struct.pack("!HH", 0, len(attribute)) + attribute)


# ---- a session -------------------------------------------------------------------------------


class Session:
    """With one neighbour; `families` of it are those that it is told."""

    def __init__(self, config, neighbor):
        self._config, self._neighbor = config, neighbor
        self._families = [tuple(family) for family in neighbor["families"]]
        self._peer, self._up, self._next_try = None, False, 0.0
        self._heard = self._said = 0.0
        self._hold_s = HOLD_S
        self._in, self._out = bytearray(), bytearray()

    def _close(self, why):
        print(f"{self._neighbor['peer']}: {why}", file=sys.stderr, flush=True)
        if self._peer:
            self._peer.close()
        self._peer, self._up, self._next_try = None, False, time.monotonic() + RETRY_S

    def _open(self):
        family = socket.AF_INET6 if ":" in self._neighbor["peer"] else socket.AF_INET
        self._peer = socket.socket(family)
        self._peer.settimeout(5)
        self._peer.bind((self._neighbor["local"], 0))
        self._peer.connect((self._neighbor["peer"], 179))
        self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer.setblocking(False)
        self._in, self._out = bytearray(), bytearray()
        self._heard = self._said = time.monotonic()
        self._send(bgpmsg.open_message(self._config["local_asn"], HOLD_S, self._config["router_id"],
                                       self._families))

    def _send(self, data):
        """Sends; what the neighbour doesn't take now waits its turn."""
        self._out += data
        try:
            del self._out[:self._peer.send(self._out)]
        except BlockingIOError:
            pass
        self._said = time.monotonic()

    def tells(self, prefix):
        """Is a prefix of this family for this neighbour?"""
        afi = bgpmsg.IPV6 if ":" in prefix else bgpmsg.IPV4
        return any(family[0] == afi for family in self._families)

    def say(self, data):
        """Sends an UPDATE if the session is up; else it is in the table that comes then."""
        if self._up:
            try:
                self._send(data)
            except OSError as error:
                self._close(error)

    def look(self, table):
        """Reads what there is, keeps the session alive, or begins it again."""
        try:
            if self._peer is None:
                if time.monotonic() >= self._next_try:
                    self._open()
                return
            if self._out:
                self._send(b"")
            self._read(table)
            now = time.monotonic()
            if now - self._heard > self._hold_s:
                raise OSError("the hold time is over")
            if self._up and now - self._said > self._hold_s / 3:
                self._send(bgpmsg.message(bgpmsg.KEEPALIVE))
        except (OSError, bgpmsg.Malformed) as error:
            self._close(error)

    def _read(self, table):
        while True:
            try:
                data = self._peer.recv(1 << 18)
            except BlockingIOError:
                return
            if not data:
                raise OSError("the neighbour closed the session")
            self._heard = time.monotonic()
            if self._up:
                continue
            self._in += data
            for kind, body in bgpmsg.split(self._in):
                if kind == bgpmsg.NOTIFICATION:
                    raise OSError(f"NOTIFICATION {body.hex()}")
                if kind == bgpmsg.OPEN:
                    theirs, = struct.unpack_from("!H", body, 3)
                    self._hold_s = min(HOLD_S, theirs) or HOLD_S
                    self._send(bgpmsg.message(bgpmsg.KEEPALIVE))
                elif kind == bgpmsg.KEEPALIVE and not self._up:
                    self._up = True
                    self._send(b"".join(update(self._config, prefix, route)
                                        for prefix, route in table.items() if self.tells(prefix))
                               + b"".join(map(end_of_rib, self._families)))


# ---- the process -----------------------------------------------------------------------------


def _speak(config):
    table = churn.Churn(config["who"])
    for prefix in config.get("always", ()):
        table.table[prefix] = bigtable.Route(prefix, [], "ORIGIN_IGP", [], [])
    sessions = [Session(config, neighbor) for neighbor in config["neighbors"]]
    running, next_at, late, read_at = False, 0.0, 0, 0.0
    interval = 1 / config["rate"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(config["socket"])
    listener.listen(4)
    while True:
        now = time.monotonic()
        if now >= read_at:
            for session in sessions:
                session.look(table.table)
            read_at = now + READ_EVERY_S
        while running and next_at <= now:
            late += now - next_at > 1
            prefix, route = table.step()
            message = update(config, prefix, route)
            for session in sessions:
                if session.tells(prefix):
                    session.say(message)
            next_at += interval
        wait = min(read_at, next_at if running else read_at) - time.monotonic()
        ready, _, _ = select.select([listener, sys.stdin], [], [], max(0.0, wait))
        if sys.stdin in ready:
            return
        if listener in ready:
            connection, _ = listener.accept()
            with connection:
                word = connection.recv(16)
                if word:  # else somebody just looked whether we listen
                    running, next_at = word == b"run\n", time.monotonic()
                    connection.sendall(json.dumps({"steps": table.steps, "late": late}).encode())


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as _file:
        _speak(json.load(_file))
