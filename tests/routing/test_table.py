# SPDX-License-Identifier: GPL-2.0-or-later
"""A real table: 10,000 prefixes from a CE through PVM, CVM, core, CVM and PVM to another CE."""

import random
import re
import time

import pytest

from lib.lab import Lab, wait_until
from vpnlab import GREEN, Net, bird_conf, gateway

PREFIXES, FLAPS = 10_000, 100
# Share of lengths about as in the Internet's table, IPv4.
LENGTHS = [24] * 60 + [23] * 10 + [22] * 11 + [21] * 5 + [20] * 5 + [19] * 3 + [18] * 2 + [
    17, 16, 16, 14]


def make_table(seed):
    """{prefix: (AS path behind the CE, MED or None, communities)}"""
    rng = random.Random(seed)
    table = {}
    while len(table) < PREFIXES:
        length = rng.choice(LENGTHS)
        value = rng.randrange(11 << 24, 126 << 24) >> (32 - length) << (32 - length)
        prefix = ".".join(str(value >> s & 255) for s in (24, 16, 8, 0)) + f"/{length}"
        path = [rng.randrange(1, 400000) for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4, 6]))]
        med = rng.choice([None, None, 0, rng.randrange(1000)])
        communities = sorted({(rng.randrange(1, 64000), rng.randrange(65536))
                              for _ in range(rng.choice([0, 0, 1, 2, 5]))})
        table[prefix] = (path, med, communities)
    return table


def statics(table):
    lines = []
    for prefix, (path, med, communities) in table.items():
        actions = "".join(f"bgp_path.prepend({asn});" for asn in reversed(path))
        if med is not None:
            actions += f"bgp_med={med};"
        actions += "".join(f"bgp_community.add(({a},{b}));" for a, b in communities)
        lines.append(f"route {prefix} blackhole {{ {actions} }};")
    return "protocol static big { ipv4;\n" + "\n".join(lines) + "\n}"


def at_the_ce(pvm):
    """BIRD's table learnt from us: {prefix: (AS path, next hop, MED, communities)}"""
    out = pvm.lab.run(None, ["birdc", "-s", pvm.ce.control, "show", "route", "protocol", "pe4",
                             "table", "master4", "all"], check=False)
    table, prefix = {}, None
    for line in out.splitlines():
        if m := re.match(r"(\d[\d.]*/\d+)\s", line):
            prefix = m[1]
            table[prefix] = {"path": [], "med": None, "communities": []}
        elif prefix and (m := re.match(r"\s+BGP\.(\w+): (.*)", line)):
            key, value = m[1], m[2].strip()
            if key == "as_path":
                table[prefix]["path"] = [int(a) for a in value.split()]
            elif key == "next_hop":
                table[prefix]["next_hop"] = value
            elif key == "med":
                table[prefix]["med"] = int(value)
            elif key == "community":
                table[prefix]["communities"] = sorted(
                    (int(a), int(b)) for a, b in re.findall(r"\((\d+),(\d+)\)", value))
    return table


def expected(table, first_asn):
    """The VPN is one AS to its customer, and hands his MEDs through, as stock FRR does."""
    return {p: {"path": [65000, first_asn, *path], "med": med, "next_hop": "192.168.1.1",
                "communities": communities}
            for p, (path, med, communities) in table.items()}


def differences(got, wanted):
    """How many routes of two tables differ, and the first few."""
    wrong = [(p, got.get(p), wanted.get(p)) for p in sorted(set(got) | set(wanted))
             if got.get(p) != wanted.get(p)]
    return f"{len(wrong)} of {len(wanted)} differ: {wrong[:3]}"


def arrives(net, source, sink, table, quiet_s=60):
    """Waits until the sink's CE has all of the table, as long as something changes there: a busy
    machine may take minutes. If it ends otherwise, tells where on the way routes stayed."""
    wanted = expected(table, source.asn)
    seen, since = {}, time.monotonic()

    def settled():
        nonlocal seen, since
        before, seen = seen, at_the_ce(sink)
        if seen != before:
            since = time.monotonic()
        return seen == wanted or time.monotonic() > since + quiet_s

    wait_until(settled, 400, "the table is at the far CE, or comes no further", 0.5)
    way = "\n".join(f"{station}: {len(set(table) - there)} missing, {len(there - set(table))} more"
                    for station, there in (net.way(source, sink) if seen != wanted else []))
    assert seen == wanted, f"{differences(seen, wanted)}\n{way}"


@pytest.fixture(name="net")
def _net():
    with Lab("rtab") as lab:
        net = Net(lab)
        yield net
        net.close()


def test_a_real_table_crosses_and_stays_right(net):
    a, b = net.site("a"), net.site("b")
    ga, gb = a.add("ga", 1, GREEN), b.add("gb", 11, GREEN)
    for site in (a, b):
        site.configure_cvm()
        site.wait_up()
    table = make_table(1)
    full = bird_conf(ga.asn, extra=statics(table))
    ga.ce.configure(full)
    wait_until(lambda: gb.daemon.status()["rib"]["ipv4"] == PREFIXES, 90, "all in B's RIB")
    wait_until(lambda: len(gb.fwd.snapshot()) == PREFIXES + 1, 60, "all in B's FIB")
    arrives(net, ga, gb, table)
    for prefix, hops in gb.fwd.snapshot().items():
        if prefix != 1011:
            assert [(h["via"], h["labels"]) for h in hops] == [(gateway("b"), [16001, 1001])]
    assert set(ga.fwd.snapshot()) - {1001} == set(table)

    # The CE's routes go and come a hundred times, a tenth of them with other attributes each time.
    rng = random.Random(2)
    for i in range(FLAPS):
        ga.ce("disable big" if i % 2 == 0 else "enable big")
    changed = dict(table)
    for prefix in rng.sample(sorted(table), PREFIXES // 10):
        changed[prefix] = ([rng.randrange(1, 400000)], None, [(1, rng.randrange(65536))])
    for prefix in rng.sample(sorted(table), PREFIXES // 20):
        changed.pop(prefix)
    ga.ce.configure(bird_conf(ga.asn, extra=statics(changed)))
    arrives(net, ga, gb, changed)
    wait_until(lambda: set(gb.fwd.snapshot()) - {1011} == set(changed), 60, "B's FIB")
    wait_until(lambda: set(ga.fwd.snapshot()) - {1001} == set(changed), 60, "A's FIB")
    assert len(net.rr_table()) == len(changed)
    assert [n["resets"] for d in (ga.daemon, gb.daemon, a.cvm, b.cvm)
            for n in d.status()["neighbors"]] == [0] * 10

    pages = gb.daemon.routes("ipv4")
    assert set(pages) == set(changed)
    ga.ce.configure(bird_conf(ga.asn))
    wait_until(lambda: not at_the_ce(gb), 60, "all withdrawn")
    wait_until(lambda: len(gb.fwd.snapshot()) == 1, 60, "and out of the FIB")
