# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever can fail fails, at random but the same each time, and all becomes whole again: a short form of
`make chaos`, with what is whole again within seconds."""

import time

from bed import chaos, chaosplan, controller, wholeness

SEED = 9
BEGIN_S = 60  # the last round begins by then
LEAST = 3


def test_all_is_whole_again_after_each_failure(bed):  # pylint: disable=unused-argument
    spares = controller.query("site", "show", "a")["spares"] if wholeness.has_spares() else 0
    kinds = chaosplan.kinds(spares > 0, quick=True)
    with chaos.Chaos(rate=100, updates=10) as work:
        end, done = time.monotonic() + BEGIN_S, 0
        for round_ in chaosplan.rounds(SEED, kinds, spares=spares):
            if time.monotonic() > end:
                break
            print(round_)
            seen = work.round(round_)
            assert seen["problems"] == [], f"{round_}: {seen}"
            done += 1
        assert done >= LEAST
        assert work.end() == []
