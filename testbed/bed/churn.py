# SPDX-License-Identifier: GPL-2.0-or-later
"""BGP churn: a table that keeps changing, of which one always knows what should be in it.

    churn = Churn(seed=1)
    changed = churn.step()      # (prefix, Route or None)
    churn.table                 # {prefix: bigtable.Route}: what is announced now

As a program (`python3 -m bed.churn CONFIG`) it feeds ExaBGP: one change at a time, at a steady rate,
and answers on a Unix socket what it has said so far.
"""

import json
import os
import random
import select
import socket
import sys
import time

from . import bigtable

# Where no other table of the testbed has prefixes; each speaker has blocks of its own.
BLOCKS = {"ce": ("203.1", "2001:db8:ce:"), "core": ("202.1", "2001:db8:c0:")}
WITHDRAW_SHARE = 0.2


class Churn:
    """Changes prefixes one after another: announces, changes attributes, withdraws.

    The same arguments give the same row of changes. No prefix changes twice in close order, so that
    a speaker that gathers changes before it sends them still sends each.
    """

    def __init__(self, who, n4=400, n6=100, seed=1):
        self._random = random.Random(f"{who} {seed}")
        base4, base6 = BLOCKS[who]
        first, second = map(int, base4.split("."))
        self.prefixes = [f"{first}.{second + i // 256}.{i % 256}.0/24" for i in range(n4)]
        self.prefixes += [f"{base6}{i + 1:x}::/64" for i in range(n6)]
        self._random.shuffle(self.prefixes)
        self.table, self.steps = {}, 0

    def route(self, prefix):
        """A route with attributes drawn by lot."""
        draw = self._random
        return bigtable.Route(
            prefix, [draw.randrange(1000, 64000) for _ in range(draw.randrange(1, 4))],
            draw.choice(list(bigtable.ORIGINS)),
            [(draw.randrange(1000, 64000), draw.randrange(65536))
             for _ in range(draw.randrange(0, 4))], [])

    def step(self):
        """Makes the next change: (prefix, its Route, or None when it is withdrawn)."""
        prefix = self.prefixes[self.steps % len(self.prefixes)]
        self.steps += 1
        if prefix in self.table and self._random.random() < WITHDRAW_SHARE:
            del self.table[prefix]
            return prefix, None
        route = self.table[prefix] = self.route(prefix)
        return prefix, route


# ---- the process that feeds ExaBGP ---------------------------------------------------------


def command(config, prefix, route):
    """A change in ExaBGP's words. `config` tells, for IPv4 and IPv6, whom (`peer4`, `peer6`) and the
    next hop; it may have `rd`, `label`, `rts` (of VPN routes) and `asn`, the announcer's own, which
    goes before the route's path."""
    version = 6 if ":" in prefix else 4
    words = ["neighbor", config[f"peer{version}"], "announce" if route else "withdraw", "route",
             prefix]
    hop = config[f"next_hop{version}"]
    if "rd" in config:
        words += ["rd", config["rd"], "label", f"[{config['label']}]"]
    words += ["next-hop", hop]
    if route:
        path = ([config["asn"]] if config.get("asn") else []) + route.path
        words += ["origin", route.origin.removeprefix("ORIGIN_").lower(),
                  "as-path", f"[ {' '.join(map(str, path))} ]"]
        if route.communities:
            words += ["community", f"[ {' '.join(f'{a}:{b}' for a, b in route.communities)} ]"]
        if config.get("rts"):
            words += ["extended-community",
                      f"[ {' '.join(f'target:{rt}' for rt in config['rts'])} ]"]
    return " ".join(map(str, words))


def _feed(config):
    """Writes changes to standard output while it is told to run; ends with standard input."""
    churn, running, next_at, late = Churn(config["who"]), False, 0.0, 0
    interval = 1 / config["rate"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(config["socket"])
    listener.listen(4)
    out = os.fdopen(1, "w", buffering=1, encoding="ascii")
    while True:
        wait = max(0.0, next_at - time.monotonic()) if running else None
        ready, _, _ = select.select([listener, sys.stdin], [], [], wait)
        if sys.stdin in ready and not os.read(0, 65536):
            return
        if listener in ready:
            connection, _ = listener.accept()
            with connection, connection.makefile("rw", encoding="utf-8") as stream:
                running = stream.readline().strip() == "run"
                next_at = time.monotonic()
                json.dump({"steps": churn.steps, "late": late}, stream)
        while running and next_at <= time.monotonic():
            late += time.monotonic() - next_at > 1
            print(command(config, *churn.step()), file=out)
            next_at += interval


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as _file:
        _feed(json.load(_file))
