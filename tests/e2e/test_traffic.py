# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a move is measured with, while nothing is moved: a customer's second router and
a VPN speaker of the core whose tables churn, probes, a TCP flow, and the observers."""

import time

from lib.lab import wait_until
from bed import bgpload, churn, measure, sessions
from bed import topology as topo

NEAR = topo.ce("green-a")


def test_updates_from_both_sides_leave_right_tables_and_nothing_else(bed):  # pylint: disable=unused-argument
    before = sessions.snapshot(NEAR)
    with measure.Rig(NEAR, "bgp") as rig:
        seen = rig.quiet(5)
        mine = set(churn.Churn("ce").prefixes)
        # On a busy machine an update may take longer than the window.
        wait_until(lambda: any(change.prefix in mine for _, change in rig.watch.changes(
            seen["from_ns"], time.time_ns())), 60, "the customer's updates come to the core")
        told = rig.watch.changes(seen["from_ns"], time.time_ns())
        found = rig.end()
    assert found["updates"]["ce"] > 100 and found["updates"]["core"] > 100
    assert any(change.prefix in mine for _, change in told)
    assert any(change.rd == bgpload.RD for _, change in told)
    assert [change for _, change in told
            if change.prefix not in mine and change.rd != bgpload.RD] == []
    assert found["probes"]["received"] > 1000 and found["probes"]["duplicated"] == 0
    assert seen["tcp"]["alive"] and seen["tcp"]["stall_ms"] > 0
    # The other site was away from the core on purpose meanwhile.
    away = next(site.pe_address for site in topo.SITES if site.name != NEAR.site)
    assert [text for text in sessions.resets(before, sessions.snapshot(NEAR))
            if not text.startswith(f"core: {away} ")] == []
