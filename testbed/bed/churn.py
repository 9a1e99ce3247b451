# SPDX-License-Identifier: GPL-2.0-or-later
"""BGP churn: a table that keeps changing, of which one always knows what should be in it.

    churn = Churn(seed=1)
    changed = churn.step()      # (prefix, Route or None)
    churn.table                 # {prefix: bigtable.Route}: what is announced now
"""

import random

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
