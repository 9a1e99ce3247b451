# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawings of what the benchmarks measured."""

from bed.plots import pyplot

COLORS = {"edgeplex": "#1b6ca8", "live": "#d1802b", "restart": "#a33b3b", "quiet": "#777777"}


def _panel(axes, moves, ways, name, title, log):
    """A group of points for each load and size, a column for each way; a line at the worst."""
    groups = list(dict.fromkeys((m["load"], m["mib"]) for m in moves if m[name] is not None))
    for column, way in enumerate(ways):
        label = ways[way]
        for place, group in enumerate(groups):
            values = [m[name] for m in moves
                      if m["way"] == way and (m["load"], m["mib"]) == group and m[name] is not None]
            if not values:
                continue
            x = place + (column - (len(ways) - 1) / 2) * 0.25
            if log:  # what is 0 is drawn at the lower edge
                values = [max(value, 0.5) for value in values]
            axes.plot([x] * len(values), values, "o", color=COLORS[way], alpha=0.5, label=label,
                      markersize=4)
            axes.plot([x - 0.1, x + 0.1], [max(values)] * 2, color=COLORS[way], linewidth=2)
            label = None
    if name == "gap_ms":
        label = "without a move"
        for place, group in enumerate(groups):
            values = [m["quiet_gap_ms"] for m in moves
                      if (m["load"], m["mib"]) == group and m["quiet_gap_ms"] is not None]
            if values:
                axes.plot([place - 0.4, place + 0.4], [max(values)] * 2, color=COLORS["quiet"],
                          linestyle=":", label=label)
                label = None
    axes.set_xticks(range(len(groups)), [f"{load}\n{mib} MiB" for load, mib in groups])
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    if log:
        axes.set_yscale("log")


def migration(moves, ways, out):
    """Draws migration.png and migration.svg: each point is a move, each line the worst of its
    kind."""
    ways = {way: label for way, label in ways.items() if any(m["way"] == way for m in moves)}
    panels = (("gap_ms", "largest gap at the receiver, ms", True),
              ("lost", "packets lost per move (0 is drawn at 0.5)", True),
              ("total_s", "total time of a move, s", True),
              ("mbytes", "MB copied per move", False))
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8))
    for axes, panel in zip(grid.flat, panels):
        if any(m[panel[0]] is not None for m in moves):
            _panel(axes, moves, ways, *panel)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="lower center", ncol=4, frameon=False)
    figure.suptitle("Moving a PVM between two servers: each point is a move")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    for kind in ("png", "svg"):
        figure.savefig(f"{out}/migration.{kind}", dpi=120)
    pyplot.close(figure)


def soak(failures, kinds, promised, out):
    """Draws soak.png and soak.svg: each point is a failure, by kind: the time until the standby spoke, and
    what of it was detection; a line at what was promised."""
    kinds = {kind: label for kind, label in kinds.items()
             if any(f["kind"] == kind and f.get("speaking_ms") for f in failures)}
    figure, axes = pyplot.subplots(figsize=(9, 5))
    for place, kind in enumerate(kinds):
        mine = [f for f in failures if f["kind"] == kind and f.get("speaking_ms")]
        for column, (name, color, label) in enumerate((
                ("speaking_ms", COLORS["edgeplex"], "until the standby spoke"),
                ("detection_ms", COLORS["live"], "of which: until the controller was sure"))):
            axes.plot([place + (column - 0.5) * 0.3] * len(mine), [f[name] for f in mine], "o", color=color,
                      alpha=0.5, markersize=5, label=None if place else label)
        axes.plot([place - 0.4, place + 0.4], [promised[kind]] * 2, color=COLORS["restart"], linestyle=":",
                  label=None if place else "promised")
    axes.set_xticks(range(len(kinds)), [f"{label}\nn = {sum(f['kind'] == kind for f in failures)}"
                                        for kind, label in kinds.items()], fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms from the failure")
    axes.grid(axis="y", alpha=0.3)
    if kinds:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title("Failures of a protected CVM: each point is one", fontsize=11)
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(f"{out}/soak.{kind}", dpi=120)
    pyplot.close(figure)


def chaos(rounds, kind_of, kinds, path):
    """Draws path.png and path.svg: each point is a customer in a round, by what failed: how long its
    packets weren't forwarded."""
    names = [name for name in (*kinds, *{kind_of(r) for r in rounds} - set(kinds))
             if any(kind_of(r) == name for r in rounds)]
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.3 * len(names)))
    for hit, color, label in ((False, COLORS["quiet"], "others"),
                              (True, COLORS["restart"], "customers that it affects")):
        points = [(max(c["down_ms"], 1), place) for place, name in enumerate(names)
                  for r in rounds if kind_of(r) == name
                  for c in r["customers"].values() if c["hit"] == hit]
        if points:
            axes.plot(*zip(*points), "o", color=color, alpha=0.5, markersize=5, label=label)
    axes.set_yticks(range(len(names)), [kinds[name].text if name in kinds else name for name in names],
                    fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms without forwarded packets (none is drawn at 1)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("Downtime by kind of failure: each point is a customer in a round", fontsize=11)
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(f"{path}.{kind}", dpi=120)
    pyplot.close(figure)
