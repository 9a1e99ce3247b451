# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks for a router's MAC address over and over, as hosts on its link would: ARP and neighbour
solicitations from a customer edge to its PVM. `python3 -m bed.asker INTERFACE RATE ADDRESS...`, each
ADDRESS as OWN,ROUTER'S; ends when its standard input does."""

import ipaddress
import select
import socket
import struct
import sys
import time

BROADCAST = b"\xff" * 6


def arp_request(mac, own, target, number):
    """An ARP request from `own` for `target`; what fills the frame up makes each one different."""
    return (BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
            + mac + own.packed + b"\0" * 6 + target.packed
            + struct.pack("!Q", number)).ljust(60, b"\0")


def solicitation(mac, own, target, number):
    """A neighbour solicitation from `own` for `target` (RFC 4861, 4.3); a nonce (RFC 3971, 5.3.2)
    makes each one different."""
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + target.packed[13:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + mac
    body += struct.pack("!BBHI", 14, 1, 0, number)
    pseudo = own.packed + group + struct.pack("!II", len(body), 58)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(body)) // 2}H", pseudo + body))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    body = body[:2] + struct.pack("!H", total ^ 0xffff) + body[4:]
    return (b"\x33\x33" + group[12:] + mac + struct.pack("!HIHBB", 0x86dd, 6 << 28, len(body), 58,
                                                         255) + own.packed + group + body)


def _main(interface, rate, pairs):
    pairs = [tuple(map(ipaddress.ip_address, pair.split(","))) for pair in pairs]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, 0))
        mac, number, due = link.getsockname()[4], 0, time.monotonic()
        while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
            for own, target in pairs:
                ask = arp_request if own.version == 4 else solicitation
                link.send(ask(mac, own, target, number))
            number += 1
            due += 1 / rate


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
