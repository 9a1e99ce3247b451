# SPDX-License-Identifier: GPL-2.0-or-later
"""The testbed before others of the machine, for measurements."""

import os
import threading
from contextlib import contextmanager

from . import host


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
