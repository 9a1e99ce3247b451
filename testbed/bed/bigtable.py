# SPDX-License-Identifier: GPL-2.0-or-later
"""A table like the Internet's in small: 10,000 prefixes with the mix of lengths, AS paths, origins
and communities that a customer could announce; as a BIRD configuration, and as what must arrive."""

import ipaddress
import random
import re

# Shares of prefix lengths, roughly those of the global tables.
LENGTHS4 = {24: 590, 23: 95, 22: 115, 21: 50, 20: 45, 19: 28, 18: 15, 17: 9, 16: 14, 15: 3, 14: 2,
            13: 1, 12: 1, 32: 32}
LENGTHS6 = {48: 480, 32: 120, 44: 110, 40: 90, 36: 70, 47: 40, 46: 30, 29: 20, 64: 30, 128: 10}
ORIGINS = {"ORIGIN_IGP": 80, "ORIGIN_INCOMPLETE": 17, "ORIGIN_EGP": 3}


class Route:
    """A prefix with the attributes that its originator gave it."""

    __slots__ = ("prefix", "path", "origin", "communities", "large")

    def __init__(self, prefix, path, origin, communities, large):
        self.prefix, self.path, self.origin = prefix, path, origin
        self.communities, self.large = communities, large

    def bird(self):
        """A route of BIRD's static protocol."""
        sets = ["bgp_path.empty;"] + [f"bgp_path.prepend({asn});" for asn in reversed(self.path)]
        sets += [f"bgp_origin = {self.origin};"]
        sets += [f"bgp_community.add(({a},{b}));" for a, b in self.communities]
        sets += [f"bgp_large_community.add(({a},{b},{c}));" for a, b, c in self.large]
        return f"route {self.prefix} unreachable {{ {' '.join(sets)} }};"

    def attributes(self):
        """What must arrive unchanged, comparable: path, origin, communities."""
        origin = self.origin.removeprefix("ORIGIN_")
        return (tuple(self.path), "Incomplete" if origin == "INCOMPLETE" else origin,
                frozenset(self.communities), frozenset(self.large))


def _pick(rng, shares):
    return rng.choices(list(shares), list(shares.values()))[0]


def _prefixes(rng, count, lengths, version):
    """Distinct prefixes that aren't used by the testbed itself, some within others."""
    found = {}
    while len(found) < count:
        length = _pick(rng, lengths)
        if version == 4:
            # 20.0.0.0 - 99.255.255.255 holds no special-purpose block.
            address = rng.randrange(20 << 24, 100 << 24)
        else:
            address = (0x2A00 << 112) | rng.getrandbits(104)
        network = ipaddress.ip_network((address, length), strict=False)
        found[str(network)] = None
    return list(found)


def make(count4=8000, count6=2000, seed=20):
    """Makes the table: the same one for the same arguments."""
    rng = random.Random(seed)
    transit = [rng.randrange(1000, 64000) for _ in range(40)]
    edges = [rng.randrange(131072, 400000) for _ in range(600)]
    # Prefixes of one origin share their attributes, as they do in the real table.
    sets = []
    for _ in range(1500):
        path = [rng.choice(transit) for _ in range(rng.choice([0, 1, 1, 2, 2, 2, 3, 4]))]
        path += [rng.choice(edges)] * rng.choice([1, 1, 1, 1, 2, 3])
        communities = [(rng.choice(transit), rng.randrange(65536))
                       for _ in range(rng.choice([0, 0, 1, 2, 4, 8]))]
        large = [(rng.choice(edges), rng.randrange(1 << 32), rng.randrange(1 << 32))
                 for _ in range(rng.choice([0, 0, 0, 1, 2]))]
        sets.append((path, _pick(rng, ORIGINS), communities, large))
    return [Route(prefix, *rng.choice(sets))
            for version, count, lengths in ((4, count4, LENGTHS4), (6, count6, LENGTHS6))
            for prefix in _prefixes(rng, count, lengths, version)]


def bird_config(routes, chunk=50):
    """Static protocols big4_0, big4_1, …, big6_0, … of `chunk` routes: the unit of a flap.

    Returns (configuration, names of the protocols).
    """
    text, names = [], []
    for version in (4, 6):
        mine = [r for r in routes if (":" in r.prefix) == (version == 6)]
        for number in range(0, len(mine), chunk):
            name = f"big{version}_{number // chunk}"
            names.append(name)
            body = "\n  ".join(route.bird() for route in mine[number:number + chunk])
            text.append(f"protocol static {name} {{\n  ipv{version};\n  {body}\n}}\n")
    return "".join(text), names


def parse(output):
    """Reads `birdc show route all`: {prefix: (next hops, first two ASNs, attributes)}.

    Attributes are as Route.attributes() gives them, so without the two ASNs that are added on the
    way: the provider's and the announcing customer's.
    """
    routes, prefix = {}, None
    for line in output.splitlines():
        start = re.match(r"([0-9a-f.:]+/\d+) ", line)
        if start:
            prefix = start.group(1)
            routes[prefix] = {}
        attribute = re.match(r"\s+BGP\.(\w+): ?(.*)", line)
        if attribute and prefix:
            routes[prefix][attribute.group(1)] = attribute.group(2)
    return {prefix: _attributes(found) for prefix, found in routes.items()}


def _tuples(text):
    return frozenset(tuple(int(n) for n in re.split(r",\s*", group))
                     for group in re.findall(r"\(([^)]*)\)", text or ""))


def _attributes(found):
    path = [int(n) for n in found.get("as_path", "").split()]
    return (found.get("next_hop", ""), tuple(path[:2]),
            (tuple(path[2:]), found.get("origin", ""), _tuples(found.get("community")),
             _tuples(found.get("large_community"))))
