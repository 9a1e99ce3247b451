#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects a VM at several intervals and prints what that costs: a real CVM between two VPN speakers,
under BGP updates (--load bgp), or a VM with a program in it that writes to its memory (--load pages).

bgp: what of the epochs' bytes and of the pauses is what, and how long an update took on its way through
the CVM, beside the same without protection, before and after. Tables are compared with the article's
(Han et al., IEEE Communications Magazine 2017, Table 1: a CVM under 200 BGP updates/s).

--scale: bgp with CVMs of several sizes and so many routes, at one interval, as one table; each row is of a CVM
of its own.
"""

import argparse
import json
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.lab import Lab, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from bgpspeaker import Feed  # noqa: E402  pylint: disable=wrong-import-position
from cvmlab import ProtectedCvm  # noqa: E402  pylint: disable=wrong-import-position
from hostlab import BUILD  # noqa: E402  pylint: disable=wrong-import-position
from protectlab import Protected  # noqa: E402  pylint: disable=wrong-import-position

INTERVALS_MS = [25, 50, 100, 200, 500, 1000]
ARTICLE = {100: 74.7, 200: 39.6, 500: 33.2, 1000: 36.6}  # MB/s
PAGES = {"idle": (0, 0), "4000 pages/s, 64 bytes each": (4000, 64), "4000 pages/s, whole": (4000, 4096)}
SCALE = "256:10000,512:100000,1024:500000"  # MiB:routes
SCALE_MS = 100  # interval
FILL_S = 900  # for the routes to be there
TIMEOUT_MS = 10000  # of an epoch: a benchmark of a busy machine isn't to end unprotected


def cpu_ms(pid):
    """Processor time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


class Cpu:
    """Processor time of processes since this was made, in percent of one processor."""

    def __init__(self, **pids):
        self._pids, self._begin = pids, time.monotonic()
        self._before = {name: cpu_ms(pid) for name, pid in pids.items()}

    def percent(self):
        spent = (time.monotonic() - self._begin) * 10
        return {name: (cpu_ms(pid) - self._before[name]) / spent for name, pid in self._pids.items()}


def let_pass(seconds):
    """Waits while something is being measured."""
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin >= seconds, seconds + 5, "the time is over")


def figures(status, *names):
    """Some of a status' figures, of which each is a mean, p99 and maximum, in ms."""
    return [[status[name][f] / 1000 for f in ("mean", "p99", "max")] for name in names]


# ---- pages -----------------------------------------------------------------------------------


def pages_row(pair, interval, seconds):
    """One interval."""
    pair.a.call("protect.set", uuid=pair.uuid, interval_ms=interval)
    cpu = Cpu(here=pair.a.process.pid, there=pair.b.process.pid)
    let_pass(seconds)
    status = pair.status()
    assert status["state"] == "protected", status
    return {**status, "cpu": cpu.percent()}


def bench_pages(lab, args):
    """A VM whose program writes to so many pages."""
    pair = Protected(lab)
    rows = []
    try:
        pair.protect(timeout_ms=TIMEOUT_MS)
        for name, load in PAGES.items():
            pair.dirty(*load)
            print(f"{name}\n  interval   MB/s  (article)  pages  kB/epoch   pause mean   p99    max"
                  "   commit mean   p99   CPU here  there")
            for interval in args.intervals:
                s = pages_row(pair, interval, args.seconds)
                rows.append({"load": name, **s})
                pause, commit = figures(s, "pause_us", "commit_us")
                print(f"  {interval:5} ms {s['bytes_per_s'] / 1e6:7.2f} {ARTICLE.get(interval, '-'):>9} "
                      f"{s['pages_per_epoch']:7.0f} {s['bytes_per_epoch'] / 1e3:9.1f} {pause[0]:12.1f} "
                      f"{pause[1]:6.1f} {pause[2]:6.1f} {commit[0]:13.1f} {commit[1]:6.1f} "
                      f"{s['cpu']['here']:8.1f} % {s['cpu']['there']:5.1f} %", flush=True)
    finally:
        pair.close()
    return rows


# ---- a CVM under BGP updates -----------------------------------------------------------------


def delays(directions):
    """{"p50", "p99", "max", "n", "late"} of both directions' delays since the last call, in ms."""
    values, late = [], 0
    for direction in directions:
        some, more = direction.take()
        values += some
        late += more
    values = sorted(1000 * value for value in values)
    if not values:
        return {"n": 0, "late": late, "mean": None, "p50": None, "p99": None, "max": None}
    return {"n": len(values), "late": late, "mean": sum(values) / len(values),
            "p50": values[len(values) // 2],
            "p99": values[min(len(values) - 1, len(values) * 99 // 100)], "max": values[-1]}


def bgp_row(pair, interval, seconds):
    """One interval, or none (None)."""
    directions = (pair.to_core, pair.to_pvm)
    pids = {"here": pair.a.process.pid, "there": pair.b.process.pid, "vm": pair.primary.process.pid}
    if interval:
        pair.a.call("protect.set", uuid=pair.uuid, interval_ms=interval)
        pids["standby"] = pair.standby.process.pid
        pair.wait_epochs(2)
        # What an epoch of the interval before still held isn't this one's.
        pair.a.call("protect.set", uuid=pair.uuid, interval_ms=interval)
    delays(directions)
    cpu = Cpu(**pids)
    let_pass(seconds)
    row = {"interval_ms": interval, "cpu": cpu.percent(), "delay_ms": delays(directions)}
    if interval:
        row |= pair.status()
        assert row["state"] == "protected", row
    pair.check()
    return row


HEAD = ("  interval   MB/s (article)  pages  kB/epoch  of which state   pause mean   p99    max  "
        "(stop  copy  state  go on)   commit mean    p99   update p50    p99    max   CPU: hostd here, "
        "there, CVM, standby")


def print_bgp(row):
    """A row of the table."""
    delay, cpu = row["delay_ms"], row["cpu"]
    line = f"  {'none':>8} {'':101}" if not row["interval_ms"] else ""
    if not line:
        pause, commit = figures(row, "pause_us", "commit_us")
        parts = [row["pause_parts_us"][name] / 1000 for name in ("stop", "copy", "state", "resume")]
        line = (f"  {row['interval_ms']:5} ms {row['bytes_per_s'] / 1e6:6.2f} "
                f"{ARTICLE.get(row['interval_ms'], '-'):>9} {row['pages_per_epoch']:6.0f} "
                f"{row['bytes_per_epoch'] / 1e3:9.1f} {row['state_bytes_per_epoch'] / 1e3:15.1f} "
                f"{pause[0]:12.1f} {pause[1]:6.1f} {pause[2]:6.1f}  ({parts[0]:4.1f} {parts[1]:5.1f} "
                f"{parts[2]:6.1f} {parts[3]:6.1f})   {commit[0]:11.1f} {commit[1]:6.1f}")
    shown = [f"{delay[name]:.1f}" if delay[name] is not None else "-" for name in ("p50", "p99", "max")]
    print(f"{line} {shown[0]:>12} {shown[1]:>6} {shown[2]:>6}   {cpu['here']:9.1f} % {cpu['there']:5.1f} % "
          f"{cpu['vm']:5.1f} % {cpu.get('standby', 0):5.1f} %"
          + (f"   {delay['late']} updates weren't told before the route's next" if delay["late"] else ""),
          flush=True)


def bench_bgp(lab, args):
    """A real CVM."""
    pair = ProtectedCvm(lab, args.memory * 1024 + 8)
    rows = []

    def add(interval, load):
        rows.append({"load": load, "memory_mib": args.memory, "routes": args.routes,
                     **bgp_row(pair, interval, args.seconds)})
        print_bgp(rows[-1])

    try:
        begin = time.monotonic()
        if args.routes:
            pair.fill(args.routes)
        print(f"CVM of {args.memory} MiB with {args.routes} routes (there after {time.monotonic() - begin:.0f} s)")
        print(f"{args.updates} updates/s\n{HEAD}")
        with Feed(pair.to_core, pair.pvm, args.updates / 2), Feed(pair.to_pvm, pair.core, args.updates / 2):
            add(None, "bgp")
            begin = time.monotonic()
            pair.protect(timeout_ms=TIMEOUT_MS, limit_s=180)
            status = pair.status()
            print(f"  (protected after {time.monotonic() - begin:.1f} s, {status['bytes'] / 1e6:.1f} MB; "
                  f"{status['engine']})")
            for interval in args.intervals:
                add(interval, "bgp")
            pair.a.call("protect.stop", uuid=pair.uuid)
            add(None, "bgp")
        print(f"no updates\n{HEAD}")
        pair.protect(timeout_ms=TIMEOUT_MS, limit_s=180)
        for interval in args.idle:
            add(interval, "idle")
        base = [r["delay_ms"] for r in rows if not r["interval_ms"]]
        for row in rows:
            delay = row["delay_ms"]
            if row["interval_ms"] and delay["n"]:
                print(f"  {row['interval_ms']:5} ms: an update takes {delay['p50'] - min(b['p50'] for b in base):.1f} ms "
                      f"longer (median), {delay['p99'] - min(b['p99'] for b in base):.1f} ms (p99)")
    finally:
        pair.close()
    return rows


# ---- CVMs of several sizes -------------------------------------------------------------------

SCALE_HEAD = ("   CVM MiB   routes  there after   cvmd RSS  available   protected after   MB sent    MB/s  pages  "
              "kB/epoch   pause mean   p99    max  (stop  copy  state  go on)   commit mean    p99   "
              "update p50 (unprotected)    p99   CPU: hostd here, there, CVM")


def guest_memory(pair):
    """(cvmd's resident, the guest's available) memory, in MiB."""
    cvmd = next(p for p in pair.primary.ask("guest.processes", 10) if p["name"] == "cvmd")
    return cvmd["rss_kib"] / 1024, pair.primary.ask("guest.info", 10)["memory"]["available_kib"] / 1024


def scale_row(lab, args, memory, routes):
    """One CVM."""
    pair = ProtectedCvm(lab, memory * 1024 + 8)
    try:
        row = {"load": "bgp", "memory_mib": memory, "routes": routes}
        begin = time.monotonic()
        pair.fill(routes, FILL_S)
        row["fill_s"] = time.monotonic() - begin
        with Feed(pair.to_core, pair.pvm, args.updates / 2), Feed(pair.to_pvm, pair.core, args.updates / 2):
            row["unprotected_ms"] = bgp_row(pair, None, args.seconds)["delay_ms"]
            begin = time.monotonic()
            pair.protect(timeout_ms=TIMEOUT_MS, limit_s=180)
            row["protected_s"], row["sent"] = time.monotonic() - begin, pair.status()["bytes"]
            row |= bgp_row(pair, SCALE_MS, args.seconds)
        row["rss_mib"], row["available_mib"] = guest_memory(pair)
        return row
    finally:
        pair.close()


def print_scale(row):
    """A row of the table."""
    (pause, commit), delay, cpu = figures(row, "pause_us", "commit_us"), row["delay_ms"], row["cpu"]
    parts = [row["pause_parts_us"][name] / 1000 for name in ("stop", "copy", "state", "resume")]
    print(f"  {row['memory_mib']:8} {row['routes']:8} {row['fill_s']:10.1f} s {row['rss_mib']:10.0f} "
          f"{row['available_mib']:10.0f} {row['protected_s']:15.1f} s {row['sent'] / 1e6:9.1f} "
          f"{row['bytes_per_s'] / 1e6:7.2f} {row['pages_per_epoch']:6.0f} {row['bytes_per_epoch'] / 1e3:9.1f} "
          f"{pause[0]:12.1f} {pause[1]:6.1f} {pause[2]:6.1f}  ({parts[0]:4.1f} {parts[1]:5.1f} {parts[2]:6.1f} "
          f"{parts[3]:6.1f})   {commit[0]:11.1f} {commit[1]:6.1f} {delay['p50']:12.1f} "
          f"({row['unprotected_ms']['p50']:.1f}) {delay['p99']:16.1f}   {cpu['here']:9.1f} % {cpu['there']:5.1f} % "
          f"{cpu['vm']:5.1f} %", flush=True)


def bench_scale(args):
    """Each row has a lab of its own: nothing of the one before is left."""
    rows = []
    print(f"{args.updates} updates/s, an epoch every {SCALE_MS} ms\n{SCALE_HEAD}")
    for memory, routes in args.scale:
        try:
            with Lab("bench-protect") as lab:
                rows.append(scale_row(lab, args, memory, routes))
        except (AssertionError, TimeoutError) as error:
            # Mostly it is too small: its kernel ended cvmd, or it never came to an end.
            rows.append({"memory_mib": memory, "routes": routes, "error": str(error)})
            print(f"  {memory:8} {routes:8} doesn't do: {error}", flush=True)
        else:
            print_scale(rows[-1])
    return rows


def main():
    """Prints the tables, and keeps the figures. Ends with 1 if a CVM was too small."""
    def numbers(text):
        return [int(word) for word in text.split(",") if word]

    def sizes(text):
        return [tuple(map(int, word.split(":"))) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=("bgp", "pages"), default="bgp")
    parser.add_argument("--seconds", type=float, default=20, help="for each row (20)")
    parser.add_argument("--intervals", type=numbers, default=INTERVALS_MS, help="in ms")
    parser.add_argument("--idle", type=numbers, default=[100], help="the same without updates")
    parser.add_argument("--updates", type=int, default=200, help="a second, half of them each way (200)")
    parser.add_argument("--memory", type=int, default=256, help="of the CVM, in MiB (256)")
    parser.add_argument("--routes", type=int, default=10000, help="in its table besides (10000)")
    parser.add_argument("--scale", type=sizes, nargs="?", const=sizes(SCALE), metavar="MIB:ROUTES,...",
                        help=f"CVMs of these sizes instead ({SCALE})")
    parser.add_argument("--out", default=f"{BUILD}/bench")
    args = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; {args.seconds:.0f} s each row; "
          "pause: the VM stands still; commit: from the stop to the acknowledgement; ms\n")
    if args.scale:
        rows, name = bench_scale(args), "scale"
    else:
        with Lab("bench-protect") as lab:
            rows = (bench_bgp if args.load == "bgp" else bench_pages)(lab, args)
        name = f"{args.load}-{args.memory}-{args.routes}"
    os.makedirs(args.out, exist_ok=True)
    path = f"{args.out}/checkpoint-{name}.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"arguments": vars(args), "rows": rows}, file, indent=1)
    print(f"written: {path}")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
