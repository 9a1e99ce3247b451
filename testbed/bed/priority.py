# SPDX-License-Identifier: GPL-2.0-or-later
"""The testbed before others of the machine, or packets before all else, for measurements."""

import os
import re
import threading
import time
from contextlib import contextmanager

from . import host

FIRST = -20  # of what packets pass
FORKED_S = 10


@contextmanager
def put_first():
    """Lets the testbed and this program run before others of this machine, as far as root may: in
    reality they have machines of their own. Among themselves they remain as they were.

    Where the kernel groups tasks by session, every VM is a group of its own, and all the rest is
    one; VMs that come later are found among the children of the testbed's init.
    """
    init, raised, over = host.processes()[1], set(), threading.Event()

    def watch():
        while True:
            with open(f"/proc/{init}/task/{init}/children", encoding="ascii") as file:
                for pid in {str(os.getpid()), str(init), *file.read().split()} - raised:
                    raised.add(pid)
                    try:
                        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as group:
                            group.write("-10")
                    except OSError:
                        pass  # no such groups here, or it has ended
            if over.wait(0.02):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _threads(pid):
    """{thread: its name} of a process, as far as it lives."""
    found = {}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/comm", encoding="ascii", errors="replace") as file:
                found[int(thread)] = file.read().strip()
    except OSError:
        pass
    return found


def _has_run(thread):
    """Has a thread used a tick of the processor?"""
    with open(f"/proc/{thread}/stat", encoding="ascii", errors="replace") as file:
        words = file.read().rpartition(")")[2].split()
    return int(words[11]) + int(words[12]) > 0


def _put_first(pid):
    """Puts a process of the testbed first, if it is one that packets pass. Returns whether it did; None
    while that can't be told yet."""
    threads = _threads(pid)
    vcpu = [thread for thread, name in threads.items() if re.match(r"CPU \d+/", name)]
    if vcpu and not _has_run(vcpu[0]):
        return None  # one that waits to be copied to
    if vcpu or "ovs-vswitchd" in threads.values():
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
            file.write(str(FIRST))
        return True
    return None if any("qemu" in name for name in threads.values()) else False


@contextmanager
def put_path_first():
    """Lets packets go first, as far as root may: the switches, and the VMs that run, come before what
    starts, copies and ends VMs, before this program, and before others of this machine. In reality
    they have processors of their own.

    Where the kernel groups tasks by session, every daemon and every VM of the testbed is a group of
    its own; VMs that come later are found among the children of the testbed's init.
    """
    init, settled, over = host.processes()[1], set(), threading.Event()
    since = {}  # a process may become QEMU a while after it was forked

    def watch():
        while True:
            with open(f"/proc/{init}/task/{init}/children", encoding="ascii") as file:
                for pid in set(file.read().split()) - settled:
                    began = since.setdefault(pid, time.monotonic())
                    try:
                        is_first = _put_first(pid)
                        if is_first or (is_first is False and time.monotonic() - began > FORKED_S):
                            settled.add(pid)
                    except OSError:
                        settled.add(pid)  # no such groups here, or it has ended
            if over.wait(0.02):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
