#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves a VM back and forth between two hostds, and prints what a move costs: with either engine
that finds changed pages, for small and larger memory. Usage: bench.py [MOVES]"""

import os
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from hostlab import Pair  # noqa: E402  pylint: disable=wrong-import-position
from lib.lab import Lab  # noqa: E402  pylint: disable=wrong-import-position

SIZES_KIB = {"128 MB": 131080, "512 MB": 524296}  # not multiples of 256 KiB


def one_move(pair, engine):
    """Returns the source's status at its stop, and the destination's when it runs."""
    pair.start(engine)
    pair.wait_source("ready", 120)
    pair.freeze()
    source = pair.a.call("move.resume_source", uuid=pair.uuid)
    target = pair.b.call("move.activate", uuid=pair.uuid)
    pair.target.ask("guest.info", 20)
    pair.swap()
    return source, target


def measure(size, moves):
    """Medians by engine."""
    rows = {}
    with Lab("bench-hostd") as lab:
        pair = Pair(lab, mem_kib=SIZES_KIB[size])
        try:
            for engine in ("pagemap", "compare"):
                done = [one_move(pair, engine) for _ in range(moves)]
                source = [s for s, _ in done]
                pauses = sorted(s["freeze_us"]["paused"] / 1000 for s in source)
                rows[engine] = {
                    "pause": statistics.median(pauses),
                    "pause_max": pauses[-1],
                    "stop": statistics.median(s["freeze_us"]["stop"] / 1000 for s in source),
                    "pages": statistics.median(s["freeze_us"]["pages"] / 1000 for s in source),
                    "state": statistics.median(s["freeze_us"]["state"] / 1000 for s in source),
                    "activate": statistics.median(t["activate_us"]["running"] / 1000 for _, t in done),
                    "bytes": statistics.median(s["bytes"] / 1e6 for s in source),
                    "last": statistics.median(s["last_pages"] for s in source),
                }
        finally:
            pair.close()
    return rows


def main():
    moves = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{moves} moves each, an idle CVM under TCG; ms from the stop; sent: MB, and of the memory\n")
    print("memory   engine   pause  (max)  stop  pages  state  activate  last pages   sent        ")
    for size, kib in SIZES_KIB.items():
        rows = measure(size, moves)
        for engine, r in rows.items():
            print(f"{size:8} {engine:8} {r['pause']:5.1f} {r['pause_max']:6.1f} {r['stop']:5.1f} "
                  f"{r['pages']:6.1f} {r['state']:6.1f} {r['activate']:9.1f} {r['last']:11.0f} "
                  f"{r['bytes']:6.1f} ({100 * r['bytes'] * 1e6 / (kib * 1024):.0f} %)")
        ratio = rows["compare"]["pause"] / rows["pagemap"]["pause"]
        print(f"{size:8} the pause with comparing is {ratio:.1f} times that with PAGEMAP_SCAN\n")


if __name__ == "__main__":
    main()
