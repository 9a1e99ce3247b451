# SPDX-License-Identifier: GPL-2.0-or-later
"""The report: report.md, a CSV file per experiment, and drawings, of whatever was measured so far."""

import csv
import glob
import os
import platform
import shutil
import subprocess

import figures

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Han et al., "On the Resiliency of Virtual Network Functions", IEEE Communications Magazine 2017.
ARTICLE_MB_PER_S = {100: 74.7, 200: 39.6, 500: 33.2, 1000: 36.6}
ARTICLE_T_M = {"live": (">", 1000), "moves": ("<", 100)}  # ms
KINDS = ("checkpoints", "moves", "live", "failures", "gear", "failed")  # of rows
DRAWINGS = ("checkpoints", "moves", "failures")
FAILURES = ("CVM killed", "PVM killed", "left server killed")
VERSIONS = (("QEMU", ["qemu-system-x86_64", "--version"]), ("libvirt", ["libvirtd", "--version"]),
            ("Open vSwitch", ["ovs-vsctl", "--version"]), ("FRR", ["/usr/lib/frr/bgpd", "--version"]),
            ("BIRD", ["bird", "--version"]), ("ffmpeg", ["ffmpeg", "-version"]))
GIT = ["git", "-c", f"safe.directory={TOP}", "-C", TOP]
MOVE_FIGURES = (
    ("t_m_ms", "T_M (the 1 kHz stream's), ms", None),
    ("t_m_all_ms", "T_M, the largest of all flows, ms", None),
    ("stream_lost", "1 kHz stream: packets lost", "quiet_stream_lost"),
    ("stream_gap_ms", "1 kHz stream: largest gap, ms", "quiet_stream_gap_ms"),
    ("video_lost", "video: packets lost", "quiet_video_lost"),
    ("video_gap_ms", "video: largest gap between packets, ms", "quiet_video_gap_ms"),
    ("video_frames_hit", "video: frames lost or not whole, at least", "quiet_video_frames_hit"),
    ("video_freezes", "video: freezes (over 190 ms)", "quiet_video_freezes"),
    ("video_frozen_ms", "video: frozen in all, ms", "quiet_video_frozen_ms"),
    ("video_longest_ms", "video: longest time between frames shown, ms", "quiet_video_longest_ms"),
    ("resets", "BGP sessions reset", None),
    ("stood_still_ms", "the VM stood still (as the mover tells), ms", None),
    ("total_s", "the move in all, s", None),
    ("mbytes", "MB copied", None),
    ("video_b_lost", "bystander: video for B, packets lost", "quiet_video_b_lost"),
    ("video_b_gap_ms", "bystander: video for B, largest gap, ms", "quiet_video_b_gap_ms"),
    ("video_b_freezes", "bystander: video for B, freezes", "quiet_video_b_freezes"),
    ("background_lost", "bystander: red's A-C traffic, packets lost", "quiet_background_lost"),
    ("background_gap_ms", "bystander: red's A-C traffic, largest gap, ms", "quiet_background_gap_ms"),
)
MOVE_PANELS = (("t_m_ms", "T_M, ms", None), ("stream_lost", "packets of the 1 kHz stream lost", "quiet_stream_lost"),
               ("stream_gap_ms", "its largest gap, ms", "quiet_stream_gap_ms"),
               ("video_lost", "packets of the video lost", "quiet_video_lost"),
               ("video_longest_ms", "longest time between frames shown, ms", "quiet_video_longest_ms"),
               ("background_gap_ms", "bystander (red, A-C): largest gap, ms", "quiet_background_gap_ms"))
FAILURE_FIGURES = (
    ("outage_ms", "viewer: longest time without a packet, ms", "quiet_video_gap_ms"),
    ("video_lost", "viewer: packets lost", "quiet_video_lost"),
    ("video_freezes", "viewer: freezes (over 190 ms)", "quiet_video_freezes"),
    ("video_frozen_ms", "viewer: frozen in all, ms", "quiet_video_frozen_ms"),
    ("video_longest_ms", "viewer: longest time between frames shown, ms", "quiet_video_longest_ms"),
    ("stream_lost", "1 kHz stream: packets lost", "quiet_stream_lost"),
    ("far_withdrawn", "far CE: withdrawals of Client1's prefix", None),
    ("far_resets", "far CE: BGP sessions reset", None),
    ("near_resets", "Client1's CE: BGP sessions reset", None),
    ("core_resets", "route reflector: BGP sessions reset", None),
    ("other_resets", "red's CEs: BGP sessions reset", None),
    ("failovers", "failovers of the CVM", None),
    ("serving_ms", "Client1's PVM serves again, by the controller's clock, ms", None),
    ("background_lost", "bystander: red's A-C traffic, packets lost", "quiet_background_lost"),
    ("background_gap_ms", "bystander: red's A-C traffic, largest gap, ms", "quiet_background_gap_ms"),
    ("video_b_lost", "bystander: video for B, packets lost", "quiet_video_b_lost"),
    ("video_b_freezes", "bystander: video for B, freezes", "quiet_video_b_freezes"),
    ("whole_s", "until all is as before, the CVM's protection and the spares too, s", None),
)


def _first_line(argv):
    try:
        out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             timeout=20, check=True).stdout
        return out.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "not found"


def version():
    """Which EdgePlex: rows of another don't go into the same report."""
    found = _first_line([*GIT, "log", "-1", "--format=%h, %cs"])
    changed = found != "not found" and _first_line([*GIT, "status", "--porcelain", "-uno"]) != "not found"
    return found + (", with changes" if changed else "")


def _system():
    with open("/etc/os-release", encoding="utf-8") as file:
        names = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    return names.get("PRETTY_NAME", "unknown").strip('"')


def machine():
    """What it runs on: {name: text}"""
    cpu = memory = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = f"{int(file.readline().split()[1]) / (1 << 20):.0f} GiB"
    found = {"CPU": f"{cpu}, {os.cpu_count()} of them", "memory": memory, "system": _system(),
             "kernel": platform.release(), "load when it began": f"{os.getloadavg()[0]:.1f}"}
    return found | {name: _first_line(argv) for name, argv in VERSIONS} | {"EdgePlex": version()}


# ---- figures --------------------------------------------------------------------------------


def percentile(values, share):
    """The smallest of the values that at least that share of them don't exceed; None of none."""
    values = sorted(values)
    return values[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)] if values else None


def show(value):
    """A figure, as text."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"
    return str(value)


def three(rows, name):
    """Median, p95 and maximum of a figure, as a table's three cells."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return [show(percentile(values, share)) for share in (0.5, 0.95, 1)]


def table(heads, lines):
    """A table in Markdown."""
    out = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join(out + ["| " + " | ".join(map(str, line)) + " |" for line in lines])


def bound(way):
    """What the article says of its T_M, as text."""
    return " ".join(map(str, ARTICLE_T_M[way]))


def write_csv(path, rows):
    """All rows with all their fields."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, names)
        out.writeheader()
        out.writerows({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
                      for row in rows)


# ---- parts ----------------------------------------------------------------------------------


def _in_short(rows):
    lines = []
    for interval, article in ARTICLE_MB_PER_S.items():
        lines.append((f"checkpoint every {interval} ms: MB/s to the standby", article, "mb_per_s",
                      [r for r in rows["checkpoints"] if r["variant"] == f"{interval} ms"]))
    lines.append(("live migration: T_M, ms", bound("live"), "t_m_ms", rows["live"]))
    for name, title, article in (("t_m_ms", "T_M, ms", bound("moves")),
                                 ("stream_lost", "packets of the 1 kHz stream lost", "–"),
                                 ("video_freezes", "freezes of the video", "–")):
        lines.append((f"make before break: {title}", article, name, rows["moves"]))
    for kind in FAILURES:
        lines.append((f"{kind}: longest time between frames shown, ms", "–", "video_longest_ms",
                      [r for r in rows["failures"] if r["variant"] == kind]))
    return ["## In short", "", table(["", "n", "the article", "here: median", "p95", "max"],
                                     [[title, len(mine), article, *three(mine, name)]
                                      for title, article, name, mine in lines if mine]), ""]


def _checkpoints(rows, out):
    figures.checkpoints(rows, ARTICLE_MB_PER_S, out)
    lines = []
    for interval, article in ARTICLE_MB_PER_S.items():
        mine = [r for r in rows if r["variant"] == f"{interval} ms"]
        lines.append([f"{interval} ms", len(mine), article, *three(mine, "mb_per_s"),
                      show(percentile([r["kb_per_epoch"] for r in mine], 0.5)),
                      show(percentile([r["pages_per_epoch"] for r in mine], 0.5)), *three(mine, "pause_ms"),
                      show(percentile([r["pause_max_ms"] for r in mine], 1)), *three(mine, "commit_ms"),
                      show(percentile([r["commit_max_ms"] for r in mine], 1)),
                      show(percentile([r["updates"] / r["seconds"] for r in mine], 0.5))])
    memory = percentile([r["memory_mib"] for r in rows], 1)
    return ["## Experiment 1: checkpointing the CVM (the article's Table 1)", "",
            "Site A's CVM is protected while BGP updates flow through it, half of them from the customer, half "
            "from the core; the other sites' CVMs have no session meanwhile, so that the two cores emulate theirs for "
            f"site A alone. Its memory: {memory:.0f} MiB. Each row is a window at that interval; pause and commit "
            "are the means of such a window, in ms (pause: the CVM stands still; commit: from the stop until the "
            "standby has acknowledged); of one: the longest of all that were measured.", "",
            table(["interval", "n", "article, MB/s", "ours, MB/s: median", "p95", "max", "kB per epoch", "pages",
                   "pause: median", "p95", "max", "of one", "commit: median", "p95", "max", "of one",
                   "updates/s"], lines), "",
            "![Checkpointing](checkpoints.png)", "",
            "Ours is far below the article's because only words that changed are sent: the exclusive or of a page "
            "with what the standby has, compressed (`docs/notes/protect.md`). What the article's CVM had in its tables "
            "isn't known here; ours has what this testbed announces, and the updates' 1,000 prefixes.", ""]


def _moves(ours, live, out):
    sides = {label: rows for label, rows in (("make before break", ours), ("live migration", live)) if rows}
    figures.moves(sides, MOVE_PANELS, {"make before break": ARTICLE_T_M["moves"],
                                       "live migration": ARTICLE_T_M["live"]}, out)
    heads, lines = ["figure"], []
    for label, rows in sides.items():
        heads += [f"{label} (n = {len(rows)}): median", "p95", "max", "worst without a move"]
    for name, title, quiet in MOVE_FIGURES:
        if not any(r.get(name) is not None for r in ours + live):
            continue
        line = [title]
        for rows in sides.values():
            before = [r[quiet] for r in rows if quiet and r.get(quiet) is not None]
            line += [*three(rows, name), show(max(before)) if before else ""]
        lines.append(line)
    lines.insert(1, ["the article's T_M, ms"] + [cell for label, rows in sides.items() for cell in
                                                (bound("moves" if rows is ours else "live"), "", "", "")])
    return ["## Experiment 2: moving Client1's PVM", "",
            "From one server of A to the other, while Client1 watches the video from B and gets the 1 kHz stream from a "
            "host in the core: EdgePlex's make before "
            "break, and libvirt's ordinary live migration with the edge switch's rules switched when it has ended "
            "(the article's way before). T_M is the article's: from the last packet of the source to the first of "
            "the destination, at the edge switch, of the 1 kHz stream; below zero both sent. (The video has packets "
            "every 40 ms, and the stream back one every 10, so their T_M may be that much longer by nature.) It can be "
            "shorter than the gap at the receiver: what the VM had received before it was stopped it may send on at "
            "the destination before the switch sends it anything new. A window lasts "
            "from the order to move until 2 s after it; beside it is the worst of 3 s before each move, in which "
            "nothing was done.", "", table(heads, lines), "", "![Moves](moves.png)", "",
            "Bystanders are a viewer at B, whose video comes from a host in the core and doesn't pass Client1's PVM, "
            "and red's traffic between A and C, whose PVM at A is another one.", ""]


def _failures(rows, out):
    kinds = [kind for kind in FAILURES if any(r["variant"] == kind for r in rows)]
    mine = {kind: [r for r in rows if r["variant"] == kind] for kind in kinds}
    figures.failures(rows, kinds, out)
    heads, lines = ["figure"], []
    for kind in kinds:
        heads += [f"{kind} (n = {len(mine[kind])}): median", "p95", "max"]
    for name, title, quiet in FAILURE_FIGURES:
        if any(r.get(name) is not None for r in rows):
            before = [r[quiet] for r in rows if quiet and r.get(quiet) is not None]
            lines.append([title, *(cell for kind in kinds for cell in three(mine[kind], name)),
                          show(max(before)) if before else ""])
    alone = [f"{kind}: {sum(r['healed'] for r in mine[kind])} of {len(mine[kind])}" for kind in kinds]
    taken = [f"{kind}: {sum(r['spare'] for r in lost)} of {len(lost)}" for kind in kinds
             for lost in [[r for r in mine[kind] if r["spare"] is not None]] if lost]
    left = mine.get(FAILURES[2], [])
    return ["## Experiment 3: failures", "",
            "The CVM is protected at 100 ms, and the site has two spares, one on either server. The CVM's QEMU is "
            "killed; or the QEMU of Client1's PVM; or server left of A with everything on it: Client1's PVM, a "
            f"spare, and the CVM (in {sum(r['cvm_on'] == r['pvm_on'] for r in left)} of {len(left)}) or its standby. "
            "Red's PVM is on the other server. The article has no such figures. The last column is the worst of 3 s "
            "before each failure.", "",
            table([*heads, "worst without a failure"], lines), "", "![Failures](failures.png)", "",
            "The viewer had a picture again without anybody's help (within 45 s; otherwise the server was switched "
            f"on again first) in: {'; '.join(alone)}."
            + (f" A spare took over Client1's PVM in: {'; '.join(taken)}." if taken else ""), ""]


def _gear(rows):
    pairs = [name for name in rows[0] if ">" in name]
    lines = [[name.rpartition(" ")[0], name.rpartition(" ")[2], len(rows),
              f"{sum(r[name] for r in rows)} of {10 * len(rows)}"] for name in pairs]
    return ["## Other people's gear", "",
            f"A VM with Debian's kernel {rows[0]['kernel']} (MPLS, VRF) and Debian's FRR is attached to the same core "
            "as a provider edge router. green-r is a customer edge behind it; the others are behind EdgePlex.", "",
            table(["from > to", "IP", "rounds", "pings answered"], lines), ""]


# By libvirt's type of a domain.
ACCELERATORS = {"qemu": "TCG (every instruction is emulated)", "kvm": "KVM"}
DIFFERENCES = """## How this differs from the article's set-up

- Everything is on one machine: servers, switches, core and customers share its CPUs, where the article's had
  processors of their own. So times include waiting for a CPU, and clocks agree by nature.
- VMs run under QEMU's {accel}; the article's ran on hardware virtualisation.
- Where a processor is short, switches and VMs that run go before what starts, copies and ends VMs, and before
  what measures (`testbed/bed/priority.py`), as they would with processors of their own.
- Links are virtual Ethernet pairs without delay or loss; Open vSwitch runs its userspace datapath.
- The core is a stock FRR as route reflector and an Open vSwitch that forwards MPLS; customers' routers are BIRD and
  stock FRR.
- Moves go there and back: every other one is from the right server to the left one.
- The video is a generated test picture, {videos}; frames are shown as soon as they are
  decoded, without the seconds of buffer that most players have. A player that had no packet for 2 s is started
  again when they come again. A freeze is W3C's: a frame's interval above
  max(3 d, d + 150 ms), here 190 ms.
- p95 is by nearest rank: of up to 20 values it is the largest.
"""


def write(store):
    """Writes all of it into the store's directory."""
    state, out = store.state, store.dir
    run = state["run"]
    rows = {name: store.rows(name) for name in KINDS}
    for name, some in rows.items():
        if some:
            write_csv(f"{out}/{name}.csv", some)
    quick = run.get("quick")
    text = ["# EdgePlex: the three-site evaluation", "",
            f"Generated by a run of {state.get('date', 'an unknown day')}, `make evaluation{' QUICK=1' if quick else ''}`, in "
            f"{state['seconds'] / 60:.0f} minutes" + (f" in {state['parts']} parts (it was interrupted and went on)"
                                                      if state["parts"] > 1 else "") + ". "
            + ("**A quick run: each thing was done a few times only; the full one does each at least 10 times.** "
               if quick else "")
            + ("" if state["finished"] else "**Not finished: some of it is missing yet.**"), "",
            table(["", ""], [[name, value] for name, value in state.get("machine", {}).items()]), "",
            DIFFERENCES.format(accel=ACCELERATORS.get(state.get("accel"), "accelerator, which wasn't noted"),
                               videos=state.get("videos", "whose size wasn't noted"))]
    text += _in_short(rows)
    if rows["checkpoints"]:
        text += _checkpoints(rows["checkpoints"], out)
    if rows["moves"] or rows["live"]:
        text += _moves(rows["moves"], rows["live"], out)
    if rows["failures"]:
        text += _failures(rows["failures"], out)
    if rows["gear"]:
        text += _gear(rows["gear"])
    if rows["failed"]:
        text += ["## Steps that failed", "", "Each was tried up to three times; those that went well in the end are "
                 "in the tables above.", "",
                 table(["experiment", "step", "what"], [[r["experiment"], f"{r['variant']} {r['number']}",
                                                         r["error"].replace("\n", " ").replace("|", "/")[:200]]
                                                        for r in rows["failed"]]), ""]
    text += ["Raw figures: the CSV files beside this page, a row for each run."]
    with open(f"{out}/report.md", "w", encoding="utf-8") as file:
        file.write("\n".join(text) + "\n")


# ---- a copy for the repository --------------------------------------------------------------


def publish(store, to):
    """Copies the report of a finished full run, with its drawings and CSV files, to a directory, in the place of the
    one before. Raises ValueError when the run isn't one, or tells of this machine's directories."""
    if not store.state["finished"] or store.state["run"].get("quick"):
        raise ValueError(f"{store.dir} isn't a full run that was finished")
    write(store)
    files = [path for kind in ("report.md", "*.csv", "*.png", "*.svg") for path in glob.glob(f"{store.dir}/{kind}")]
    for path in files:
        with open(path, "rb") as file:
            if os.fsencode(TOP) in file.read():
                raise ValueError(f"{path} has {TOP} in it")
    for name in [*KINDS, *DRAWINGS]:
        for end in ("csv", "png", "svg"):
            if os.path.exists(f"{to}/{name}.{end}"):
                os.unlink(f"{to}/{name}.{end}")
    for path in files:
        shutil.copyfile(path, f"{to}/{os.path.basename(path)}")
