# SPDX-License-Identifier: GPL-2.0-or-later
"""Who used the machine's processors while something happened, for measurements under TCG.

    before = processor.used()
    ...
    for who, seconds in processor.since(before, who_is).items(): ...
"""

import os

from . import checks


def used():
    """{(pid, when it began, in ticks): (its program, its arguments, seconds of processor)} of all processes."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                argv = file.read().split(b"\0")
        except OSError:
            continue
        words = rest.split()
        found[int(entry), int(words[19])] = (name, argv, (int(words[11]) + int(words[12])) / checks.TICKS)
    return found


def since(before, after, who_is):
    """{who: seconds of processor between two used()}, most first; `who_is(program, arguments, is_new)` names
    a process. What had ended by then isn't counted."""
    seconds = {}
    for key, (name, argv, now) in after.items():
        who = who_is(name, argv, key not in before)
        seconds[who] = seconds.get(who, 0) + now - (before[key][2] if key in before else 0)
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
