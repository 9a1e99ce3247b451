#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects a VM at several intervals, idle and with a program in it that writes to its memory, and
prints what that costs. Usage: bench_checkpoint.py [SECONDS for each row]"""

import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.lab import Lab, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from protectlab import Protected  # noqa: E402  pylint: disable=wrong-import-position

INTERVALS_MS = (25, 50, 100, 200, 500, 1000)
# Han et al., IEEE Communications Magazine 2017, Table 1: a CVM under 200 BGP updates/s. MB/s.
ARTICLE = {100: 74.7, 200: 39.6, 500: 33.2, 1000: 36.6}
LOADS = {"idle": (0, 0), "4000 pages/s, 64 bytes each": (4000, 64), "4000 pages/s, whole": (4000, 4096)}


def cpu_ms(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def one_row(pair, interval, seconds):
    pair.a.call("protect.set", uuid=pair.uuid, interval_ms=interval)
    begin, cpu = time.monotonic(), [cpu_ms(h.process.pid) for h in (pair.a, pair.b)]
    wait_until(lambda: time.monotonic() - begin >= seconds, seconds + 5, "the time is over")
    status = pair.status()
    assert status["state"] == "protected", status
    spent = time.monotonic() - begin
    status["cpu"] = [100 * (cpu_ms(h.process.pid) - c) / (1000 * spent) for h, c in zip((pair.a, pair.b), cpu)]
    return status


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; {seconds:.0f} s each; "
          "pause: the VM stands still; commit: from the stop to the acknowledgement; ms\n")
    with Lab("bench-protect") as lab:
        pair = Protected(lab)
        try:
            pair.protect(timeout_ms=10000)
            for name, load in LOADS.items():
                pair.dirty(*load)
                print(f"{name}\n  interval   MB/s  (article)  pages  kB/epoch   pause mean   p99    max"
                      "   commit mean   p99   CPU here  there")
                for interval in INTERVALS_MS:
                    s = one_row(pair, interval, seconds)
                    pause, commit = ([s[k][f] / 1000 for f in ("mean", "p99", "max")]
                                     for k in ("pause_us", "commit_us"))
                    print(f"  {interval:5} ms {s['bytes_per_s'] / 1e6:7.2f} {ARTICLE.get(interval, '-'):>9} "
                          f"{s['pages_per_epoch']:7.0f} {s['bytes_per_epoch'] / 1e3:9.1f} {pause[0]:12.1f} "
                          f"{pause[1]:6.1f} {pause[2]:6.1f} {commit[0]:13.1f} {commit[1]:6.1f} "
                          f"{s['cpu'][0]:8.1f} % {s['cpu'][1]:5.1f} %", flush=True)
        finally:
            pair.close()


if __name__ == "__main__":
    main()
