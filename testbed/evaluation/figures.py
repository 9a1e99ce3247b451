# SPDX-License-Identifier: GPL-2.0-or-later
"""The report's drawings, each as PNG and SVG."""

from bed.plots import pyplot

OURS, OLD, ARTICLE, QUIET = "#1b6ca8", "#d1802b", "#a33b3b", "#777777"


def _save(figure, out, name):
    figure.savefig(f"{out}/{name}.png", dpi=110)
    figure.savefig(f"{out}/{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def _points(axes, place, values, color, label=None, floor=None):
    """Values as points, with a line at their median."""
    if floor is not None:
        values = [max(value, floor) for value in values]
    axes.plot([place] * len(values), values, "o", color=color, alpha=0.5, markersize=5, label=label)
    middle = sorted(values)[(len(values) - 1) // 2]
    axes.plot([place - 0.15, place + 0.15], [middle] * 2, color=color, linewidth=2)


def checkpoints(rows, article, out):
    """MB/s by interval, ours and the article's."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    intervals = list(article)
    for place, interval in enumerate(intervals):
        values = [r["mb_per_s"] for r in rows if r["variant"] == f"{interval} ms"]
        if values:
            _points(axes, place, values, OURS, None if place else "EdgePlex (line: median)")
    axes.plot(range(len(intervals)), list(article.values()), "D", color=ARTICLE, label="the article's Table 1")
    axes.set_xticks(range(len(intervals)), [f"{interval} ms" for interval in intervals])
    axes.set_yscale("log")
    axes.set_ylabel("MB/s to the standby")
    axes.set_xlabel("checkpoint interval")
    axes.set_title("Checkpointing the CVM under 200 BGP updates/s", fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    _save(figure, out, "checkpoints")


def moves(sides, panels, article, out):
    """A panel for each figure [(name, title, what it is without a move or None)]; `sides`: {label: rows};
    `article`: {label: ("<" or ">", what the first panel's figure was there)}."""
    figure, grid = pyplot.subplots(2, (len(panels) + 1) // 2, figsize=(12, 7.5))
    for axes, (name, title, quiet) in zip(grid.flat, panels):
        for place, ((label, rows), color) in enumerate(zip(sides.items(), (OURS, OLD))):
            values = [r[name] for r in rows if r.get(name) is not None]
            if values:
                _points(axes, place, values, color, floor=0.5)
            if name == panels[0][0]:
                sign, bound = article[label]
                axes.plot([place + 0.3], [bound], "v" if sign == "<" else "^", color=ARTICLE)
                axes.annotate(f"the article: {sign} {bound}", (place + 0.25, bound), fontsize=8, color=ARTICLE,
                              ha="right", va="bottom")
            before = [r[quiet] for r in rows if quiet and r.get(quiet) is not None]
            if before:
                axes.plot([place - 0.3, place + 0.3], [max(max(before), 0.5)] * 2, color=QUIET, linestyle=":")
        axes.set_xticks(range(len(sides)), list(sides), fontsize=9)
        axes.set_xlim(-0.6, len(sides) - 0.4)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    for axes in list(grid.flat)[len(panels):]:
        axes.axis("off")
    figure.suptitle("Client1's PVM is moved: each point is a move, lines are medians (0 is drawn at 0.5);\n"
                    "dotted: the worst in 3 s before each move, in which nothing was done", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    _save(figure, out, "moves")


def failures(rows, kinds, out):
    """How long the viewer had no packets, and no picture, by kind of failure."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for place, kind in enumerate(kinds):
        mine = [r for r in rows if r["variant"] == kind]
        for shift, name, color, label in ((-0.17, "outage_ms", OURS, "longest time without a packet"),
                                          (0.17, "video_longest_ms", OLD, "longest time without a new frame")):
            values = [r[name] for r in mine if r.get(name) is not None]
            if values:
                _points(axes, place + shift, values, color, None if place else label)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_yscale("log")
    axes.set_ylabel("ms at the viewer")
    axes.set_title("Failures: each point is one, lines are medians", fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    _save(figure, out, "failures")
