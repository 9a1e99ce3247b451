# SPDX-License-Identifier: GPL-2.0-or-later
"""BGP messages: as much as it takes to be a silent VPN speaker, and to read what it was told."""

import ipaddress
import struct
from dataclasses import dataclass

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
MARKER = b"\xff" * 16
AS_TRANS = 23456
IPV4, IPV6 = 1, 2  # address families
UNICAST, VPN = 1, 128
FAMILIES = {(IPV4, UNICAST): "ipv4", (IPV6, UNICAST): "ipv6",
            (IPV4, VPN): "vpnv4", (IPV6, VPN): "vpnv6"}


class Malformed(ValueError):
    """Bytes that are no BGP message, or one that this module doesn't read."""


@dataclass(frozen=True)
class Change:
    """One route that an UPDATE announced or withdrew. `rd` is "" but for VPN routes."""

    announced: bool
    family: str
    rd: str
    prefix: str
    next_hop: str = ""


def message(kind, body=b""):
    """A message with its header."""
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def open_message(asn, hold_s, router_id, families):
    """An OPEN with capabilities for `families` [(afi, safi)], four-byte AS numbers and End-of-RIB.

    (Graceful restart without any family says just that: RFC 4724, 3.)
    """
    caps = b"".join(struct.pack("!BBHBB", 1, 4, afi, 0, safi) for afi, safi in families)
    caps += struct.pack("!BBI", 65, 4, asn) + struct.pack("!BBH", 64, 2, 0)
    options = struct.pack("!BB", 2, len(caps)) + caps
    return message(OPEN, struct.pack("!BHH", 4, asn if asn < 65536 else AS_TRANS, hold_s)
                   + ipaddress.IPv4Address(router_id).packed
                   + struct.pack("!B", len(options)) + options)


def split(buffer):
    """Takes whole messages from the front of a bytearray: [(type, body)]."""
    found = []
    while len(buffer) >= 19:
        length, kind = struct.unpack_from("!HB", buffer, 16)
        if buffer[:16] != MARKER or not 19 <= length <= 4096:
            raise Malformed("no BGP header where one should be")
        if len(buffer) < length:
            break
        found.append((kind, bytes(buffer[19:length])))
        del buffer[:length]
    return found


def _rd(data):
    kind = struct.unpack("!H", data[:2])[0]
    if kind == 0:
        return "{}:{}".format(*struct.unpack("!HI", data[2:]))
    if kind == 1:
        return f"{ipaddress.IPv4Address(data[2:6])}:{struct.unpack('!H', data[6:])[0]}"
    return "{}:{}".format(*struct.unpack("!IH", data[2:]))


def _prefixes(afi, safi, data, withdrawn=False):
    """Reads NLRI: [(rd, prefix)]"""
    found, at = [], 0
    size, kind = (4, ipaddress.IPv4Address) if afi == IPV4 else (16, ipaddress.IPv6Address)
    while at < len(data):
        bits, at = data[at], at + 1
        rd = ""
        if safi == VPN:
            # Labels up to the bottom of stack; a withdrawal's is one that says nothing (RFC 8277).
            while True:
                label, at, bits = data[at:at + 3], at + 3, bits - 24
                if len(label) < 3:
                    raise Malformed("a label is cut off")
                if label[2] & 1 or withdrawn:
                    break
            rd, at, bits = _rd(data[at:at + 8]), at + 8, bits - 64
        if not 0 <= bits <= 8 * size:
            raise Malformed("a prefix has an impossible length")
        length = (bits + 7) // 8
        if at + length > len(data):
            raise Malformed("a prefix is cut off")
        address = kind(data[at:at + length].ljust(size, b"\0"))
        found.append((rd, f"{address}/{bits}"))
        at += length
    return found


def _next_hop(data):
    """The next hop of MP_REACH_NLRI: its last address, IPv4 where it is a mapped one."""
    if len(data) in (12, 24, 48):  # RDs, which are zero, before the addresses
        data = data[8:24] if len(data) != 12 else data[8:]
    address = ipaddress.ip_address(data[:4] if len(data) == 4 else data[:16])
    return str(getattr(address, "ipv4_mapped", None) or address)


def changes(body):
    """Reads the body of an UPDATE: [Change], withdrawals first."""
    try:
        return _changes(body)
    except Malformed:
        raise
    except (struct.error, IndexError, ValueError) as error:
        raise Malformed(f"an UPDATE is cut off: {error}") from error


def _changes(body):
    n = struct.unpack_from("!H", body)[0]
    found = [Change(False, "ipv4", *p) for p in _prefixes(IPV4, UNICAST, body[2:2 + n])]
    at = 2 + n
    end = at + 2 + struct.unpack_from("!H", body, at)[0]
    at, hop = at + 2, ""
    while at < end:
        flags, kind = body[at], body[at + 1]
        if flags & 0x10:
            length, at = struct.unpack_from("!H", body, at + 2)[0], at + 4
        else:
            length, at = body[at + 2], at + 3
        value, at = body[at:at + length], at + length
        if kind == 3:
            hop = str(ipaddress.IPv4Address(value))
        elif kind == 14:  # MP_REACH_NLRI
            afi, safi, n = struct.unpack_from("!HBB", value)
            family = FAMILIES.get((afi, safi))
            if family:
                via = _next_hop(value[4:4 + n])
                found += [Change(True, family, *p, via)
                          for p in _prefixes(afi, safi, value[5 + n:])]
        elif kind == 15:  # MP_UNREACH_NLRI
            afi, safi = struct.unpack_from("!HB", value)
            family = FAMILIES.get((afi, safi))
            if family:
                found += [Change(False, family, *p)
                          for p in _prefixes(afi, safi, value[3:], withdrawn=True)]
    found += [Change(True, "ipv4", *p, hop) for p in _prefixes(IPV4, UNICAST, body[end:])]
    return sorted(found, key=lambda change: change.announced)
