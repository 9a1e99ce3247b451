# SPDX-License-Identifier: GPL-2.0-or-later
"""A real table crosses the VPN, whole and unchanged, and survives flapping."""

import ipaddress
import os
import random

import pytest

from bed import bigtable, checks, controller, customer
from bed import topology as topo
from lib.lab import wait_until

NEAR = topo.ce("green-a")
FAR = topo.ce("green-b")
ALWAYS = {NEAR.prefix4, NEAR.prefix6} | {
    str(ipaddress.ip_network(address, strict=False))
    for edge in (NEAR, FAR) for address in (f"{edge.link4}.1/30", f"{edge.link6}:1/64")}
EXTRA = f"{NEAR.dir}/extra-big.conf"


def far_table():
    """What green-b's BIRD has: {prefix: (next hop, first two ASNs, attributes)}."""
    return bigtable.parse(customer.birdc(FAR, "show route all protocol pe4")
                          + customer.birdc(FAR, "show route all protocol pe6"))


def compare(routes):
    """Differences between what was announced and what arrived, as text; at most ten."""
    wrong, arrived = [], far_table()
    wanted = {route.prefix: route for route in routes}
    for prefix, route in wanted.items():
        hop = f"{FAR.link4}.1" if ":" not in prefix else f"{FAR.link6}:1"
        expected = ((topo.PROVIDER_ASN, NEAR.asn), route.attributes())
        if prefix not in arrived:
            wrong.append(f"{prefix} is missing")
        elif (arrived[prefix][1], arrived[prefix][2]) != expected:
            wrong.append(f"{prefix}: {arrived[prefix]}, not {expected}")
        elif arrived[prefix][0].split()[0] != hop:
            wrong.append(f"{prefix}: next hop {arrived[prefix][0]}, not {hop}")
    # Besides: what both sites have anyway, their own prefixes and links.
    wrong += [f"{prefix} wasn't announced" for prefix in set(arrived) - set(wanted) - ALWAYS]
    return wrong[:10]


def all_arrived(routes):
    """Has green-b every prefix of the table?"""
    return {route.prefix for route in routes} <= set(far_table())


def fib_prefixes():
    """All prefixes in the FIB of green-b's PVM."""
    return {r["prefix"] for family in ("ipv4", "ipv6")
            for r in checks.table(FAR.name, "fib", family)}


@pytest.fixture(name="table", scope="module")
def announced_table(bed):  # pylint: disable=unused-argument
    """10,000 routes announced by green-a, and the names of their protocols."""
    routes = bigtable.make()
    text, names = bigtable.bird_config(routes)
    with open(EXTRA, "w", encoding="utf-8") as file:
        file.write(text)
    customer.birdc(NEAR, "configure")
    yield routes, names
    os.unlink(EXTRA)
    customer.birdc(NEAR, "configure")
    wait_until(lambda: set(far_table()) <= ALWAYS, 180, "the table is gone", 1)
    wait_until(lambda: len(fib_prefixes()) < 100, 60, "the FIB is small again", 1)


def test_ten_thousand_routes_arrive(table):
    routes, _ = table
    assert len(routes) == 10000
    wait_until(lambda: all_arrived(routes), 180, "all routes are there", 1)
    assert compare(routes) == []
    wait_until(lambda: {r.prefix for r in routes} <= fib_prefixes(), 60,
               "all routes are in the FIB of green-b's PVM", 1)


def test_table_is_right_after_a_hundred_flaps(table):
    routes, names = table
    rng = random.Random(7)
    for flap in range(100):
        name = rng.choice(names)
        customer.birdc(NEAR, f"disable {name}")
        # Most come faster than routers can follow; some are seen all the way.
        if flap % 10 == 0:
            wait_until(lambda: not all_arrived(routes), 60, f"{name} is withdrawn", 0.2)
        customer.birdc(NEAR, f"enable {name}")
    # A last withdrawal, announced again, follows the flaps through every queue.
    customer.birdc(NEAR, "enable probe4")
    checks.wait_route(FAR, customer.probe(NEAR, 4), limit_s=180)
    customer.birdc(NEAR, "disable probe4")
    checks.wait_route(FAR, customer.probe(NEAR, 4), present=False, limit_s=180)
    wait_until(lambda: all_arrived(routes), 180, "all routes are there", 1)
    assert compare(routes) == []
    wait_until(lambda: {r.prefix for r in routes} <= fib_prefixes(), 60,
               "all routes are in the FIB of green-b's PVM", 1)
    assert controller.query("pvm", "show", NEAR.name)["state"] == "up"
