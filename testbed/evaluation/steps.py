# SPDX-License-Identifier: GPL-2.0-or-later
"""Does an evaluation's steps one after the other, and tells how far it is and how long it will take yet.

A step that fails is tried again, in a scene that is set anew: what it needs may have ended. An experiment
whose steps fail all the same is given up, so that what is broken costs minutes and not hours.
"""

import subprocess
import time
import traceback
from collections import deque

# Of each step, until some have been timed, and of setting an experiment's scene: seconds.
GUESS_S = {"checkpoints": 10, "moves": 20, "live": 28, "failures": 45, "gear": 5}
SCENE_S = 30
TRIES = 3   # of a step
UNDONE = 2  # so many steps of an experiment that can't be done, and its others aren't tried
FAILURES = (RuntimeError, TimeoutError, OSError, subprocess.SubprocessError, LookupError, TypeError, ValueError)

INTERRUPTED = []  # anything once there was a signal: what ends then may fail, and isn't to hide that


def interrupt(_number, _frame):
    """To be called upon a signal."""
    INTERRUPTED.append(True)
    raise KeyboardInterrupt


class Progress:
    """Tells how far it is, and how long it will take yet, by what steps of each kind have taken."""

    def __init__(self, plan, say):
        self._left = dict.fromkeys((name for name, *_ in plan), 0)
        for name, *_ in plan:
            self._left[name] += 1
        self._of, self._done, self._say = len(plan), 0, say
        self._took = {}
        self._begin = time.monotonic()
        self._fresh = set(self._left)  # whose scene isn't set yet

    def set_scene(self, name):
        """An experiment's scene is set."""
        self._fresh.discard(name)

    def done(self, name, seconds=None):
        """A step ended, and took so long; or was given up."""
        self._done += 1
        self._left[name] -= 1
        if seconds is not None:
            self._took.setdefault(name, []).append(seconds)

    def left_s(self):
        """Seconds that the rest will take, about."""
        total = SCENE_S * len(self._fresh)
        for name, count in self._left.items():
            took = self._took.get(name, [GUESS_S[name]])
            total += count * sum(took) / len(took)
        return total

    def tell(self, text):
        """A line."""
        gone = int(time.monotonic() - self._begin)
        self._say(f"[{self._done} of {self._of}; {gone // 60}:{gone % 60:02}, about "
                  f"{max(1, round(self.left_s() / 60))} min left] {text}")


def missing(store, experiments, times):
    """What is still to be measured: [(experiment, variant, number)], variants in turn."""
    plan = []
    for experiment in experiments:
        rows = store.rows(experiment.name)
        for number in range(1, times[experiment.name] + 1):
            plan += [(experiment.name, variant, number) for variant in experiment.variants
                     if not any((r["variant"], r["number"]) == (variant, number) for r in rows)]
    return plan


class _Tries:
    """The tries at an experiment's steps, first to last."""

    def __init__(self, store, progress, kind, todo):
        self._store, self._progress, self._kind = store, progress, kind
        self.todo = deque(todo)
        self._failed = 0  # tries of the first of them
        self.undone = 0

    def in_one_scene(self, quick, times):
        """Does steps until none is left, or something fails, which is raised."""
        with self._kind(quick) as experiment:
            self._progress.set_scene(self._kind.name)
            while self.todo:
                name, variant, number = self.todo[0]
                self._progress.tell(f"{self._kind.title}: {variant}, {number} of {times[name]}")
                begin = time.monotonic()
                row = experiment.run(variant)
                took = time.monotonic() - begin
                self._store.add(name, {"variant": variant, "number": number, "try": self._failed + 1,
                                       "took_s": took, **row})
                self._next(took)

    def _next(self, took=None):
        self.todo.popleft()
        self._failed = 0
        self._progress.done(self._kind.name, took)

    def failed(self, error):
        """Notes a failure, unless it comes of an interruption; gives the step up after some."""
        if INTERRUPTED:
            raise KeyboardInterrupt from error
        traceback.print_exception(error)
        _, variant, number = self.todo[0] if self.todo else (None, "the scene's end", 0)
        text = f"{type(error).__name__}: {error}"
        print(f"    ! {self._kind.name}, {variant} {number}: {text}", flush=True)
        self._store.add("failed", {"experiment": self._kind.name, "variant": variant, "number": number,
                                   "error": text[:500]})
        self._failed += 1
        if self.todo and self._failed == TRIES:
            self.undone += 1
            self._next()
        if self.undone == UNDONE:
            self.undone += len(self.todo)
            while self.todo:
                self._next()


def measure(store, experiments, times, quick, say):
    """All that is missing. Returns how many steps couldn't be done."""
    plan = missing(store, experiments, times)
    progress, undone = Progress(plan, say), 0
    for kind in experiments:
        tries = _Tries(store, progress, kind, [step for step in plan if step[0] == kind.name])
        while tries.todo:
            progress.tell(f"{kind.title}: the scene is being set")
            try:
                tries.in_one_scene(quick, times)
            except FAILURES as error:
                tries.failed(error)
        undone += tries.undone
    return undone
