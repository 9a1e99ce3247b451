# SPDX-License-Identifier: GPL-2.0-or-later
"""Failures on order, and their end.

    failure = prepare("server", SITE, where)     # the site, the server it happens to
    at_ns = failure.strike()                      # within a millisecond or so
    ...
    failure.repair()                              # what was broken is whole again

| kind       | what happens                                                                     |
| kill       | kill -9 of the CVM's QEMU                                                         |
| stop       | SIGSTOP of it; repair() wakes it if it is still there                             |
| unplugged  | the server's network is gone: no carrier on its trunk and its management link     |
| silent     | the same, but nothing drops its carrier: frames just don't arrive                 |
| trunk      | no carrier on its trunk, and nothing else                                         |
| server     | the server dies: VMs, libvirtd, hostd at once, and its links' carriers. repair()  |
|            | boots it: daemons run, VMs and what was in its memory's file systems are gone     |

Whoever loses a server's network or the server itself has also lost the controller's way to it: it
doesn't answer, and its connections stay as they were, until they are ended by its return.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress

from lib import lab

from . import host, moves, server, switch

KINDS = ("kill", "stop", "unplugged", "silent", "trunk", "server")
PROGRAMS = (b"qemu-system", b"edgeplex-hostd", b"libvirtd")  # that die with their server
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


# ---- links ---------------------------------------------------------------------------------


def socket_in(ns, *kind):
    """A socket of a network namespace: made by a thread that enters it and ends."""
    made = []

    def make():
        fd = os.open(f"{lab.NETNS_DIR}/{ns}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0:
                made.append(socket.socket(*kind))
        finally:
            os.close(fd)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise host.TestbedError(f"network namespace {ns} can't be entered")
    return made[0]


class Interface:
    """An interface that can be switched off and on without starting a program first."""

    def __init__(self, ns, name):
        self.ns, self.name = ns, name
        self._socket = socket_in(ns, socket.AF_INET, socket.SOCK_DGRAM)

    def set_up(self, up):
        """The other end of a veth pair loses its carrier with this one."""
        request = struct.pack("16sH22x", self.name.encode(), 0)
        flags, = struct.unpack_from("H", fcntl.ioctl(self._socket, SIOCGIFFLAGS, request), 16)
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(self._socket, SIOCSIFFLAGS, struct.pack("16sH22x", self.name.encode(), flags))

    def close(self):
        """Frees it; the interface stays as it is."""
        self._socket.close()


class Blackhole:
    """Drops, silently, what is sent by some interfaces of a namespace."""

    def __init__(self, ns, *names):
        self._ns, self._names = ns, names
        self._tc = subprocess.Popen(["tc", "-n", ns, "-batch", "-"], stdin=subprocess.PIPE, text=True)

    def begin(self):
        """Returns when all of it is dropped."""
        self._tc.stdin.write("".join(f"qdisc replace dev {name} root blackhole\n"
                                     for name in self._names))
        self._tc.stdin.close()
        if self._tc.wait(10) != 0:
            raise host.TestbedError(f"tc failed in {self._ns}")

    def end(self):
        """Lets everything pass again; also when it never began."""
        if self._tc.poll() is None:
            self._tc.stdin.close()
            self._tc.wait(10)
        for name in self._names:
            host.run(None, ["tc", "-n", self._ns, "qdisc", "del", "dev", name, "root"], check=False)


# ---- failures ------------------------------------------------------------------------------


class Failure:
    """A failure of one server, or of the site's CVM on it. Made when all is well."""

    def __init__(self, site, where):
        self.site, self.where = site, where
        self.qemu = moves.qemu(site.name, where, "cvm")
        self._whole = False

    def strike(self):
        """Lets it happen, once. Returns when it began, in ns since the epoch."""
        now = time.time_ns()
        self._strike()
        return now

    def _strike(self):
        raise NotImplementedError

    def repair(self):
        """Makes whole what was broken; also when it never was, or is again."""
        if not self._whole:
            self._whole = True
            self._repair()

    def _repair(self):
        pass


class Kill(Failure):
    """Of QEMU."""

    def _strike(self):
        os.kill(self.qemu, signal.SIGKILL)


class Stop(Failure):
    """Of QEMU."""

    def __init__(self, site, where):
        super().__init__(site, where)
        self._started = lab.start_time(self.qemu)

    def _strike(self):
        os.kill(self.qemu, signal.SIGSTOP)

    def _repair(self):
        if lab.start_time(self.qemu) == self._started:
            os.kill(self.qemu, signal.SIGCONT)


class _NetworkLoss(Failure):
    """Of a server, as the controller has it: what is in its relay waits."""

    def __init__(self, site, where):
        super().__init__(site, where)
        self._relay = host.daemon_pid(f"{where.name}-relay")

    def _strike(self):
        os.kill(self._relay, signal.SIGSTOP)

    def _repair(self):
        os.kill(self._relay, signal.SIGCONT)


class Unplugged(_NetworkLoss):
    """Its own end of the trunk is switched off, so that the edge switch has no carrier; of the
    management link the other end, so that the server sees it, too."""

    def __init__(self, site, where):
        super().__init__(site, where)
        self._links = [Interface(where.ns, "trunk"), Interface(site.management_ns, where.name)]

    def _strike(self):
        super()._strike()
        for link in self._links:
            link.set_up(False)

    def _repair(self):
        for link in self._links:
            link.set_up(True)
            link.close()
        super()._repair()


class Silent(_NetworkLoss):
    """Both ends of both links drop what they should send."""

    def __init__(self, site, where):
        super().__init__(site, where)
        self._holes = [Blackhole(where.ns, "trunk", "management"), Blackhole(site.ns, where.trunk),
                       Blackhole(site.management_ns, where.name)]

    def _strike(self):
        super()._strike()
        for hole in self._holes:
            hole.begin()

    def _repair(self):
        for hole in self._holes:
            hole.end()
        super()._repair()


class TrunkDown(Failure):
    """Its own end of the trunk is switched off: nobody reaches its VMs, but the controller reaches it."""

    def __init__(self, site, where):
        super().__init__(site, where)
        self._link = Interface(where.ns, "trunk")

    def _strike(self):
        self._link.set_up(False)

    def _repair(self):
        self._link.set_up(True)
        self._link.close()


class ServerDeath(Unplugged):
    """Nothing of it answers, and nothing that it held in memory comes back."""

    def __init__(self, site, where):
        super().__init__(site, where)
        self._daemons = [f"{where.name}-{name}" for name in ("libvirtd", "hostd")]
        self._pids = programs(where, *PROGRAMS)

    def _strike(self):
        os.kill(self._relay, signal.SIGSTOP)
        for link in self._links:
            link.set_up(False)
        for pid in self._pids:
            with suppress(ProcessLookupError):  # some of libvirtd's don't live long
                os.kill(pid, signal.SIGKILL)
        host.ask({"do": "kill", "names": self._daemons})  # so that they stay dead
        # What was started since we looked.
        lab.end_processes(lambda: programs(self.where, *PROGRAMS))

    def _repair(self):
        boot(self.where, self._links)


def programs(where, *names):
    """The pids of a server's processes whose program has one of these in its name; hostd's guard is one
    that nobody lists."""
    namespace, found = os.stat(f"{lab.NETNS_DIR}/{where.ns}").st_ino, []
    for pid in host.processes().values():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                program = file.read().split(b"\0")[0]
            if (any(name in program for name in names)
                    and os.stat(f"/proc/{pid}/ns/net").st_ino == namespace):
                found.append(pid)
        except OSError:
            pass
    return found


def _empty(path):
    for name in os.listdir(path):
        inside = f"{path}/{name}"
        if os.path.isdir(inside) and not os.path.islink(inside):
            shutil.rmtree(inside)
        else:
            os.unlink(inside)


def boot(where, links):
    """A server that died is there again: connections to it end, what was in memory is gone, its
    daemons start."""
    names = [f"{where.name}-{name}" for name in ("relay", "libvirtd", "hostd")]
    host.ask({"do": "kill", "names": names})
    lab.wait_until(lambda: all(host.daemons()[name]["pid"] is None for name in names), 20,
                   f"the daemons of {where.name} have ended")
    lab.wait_until(lambda: not programs(where, *PROGRAMS), 20, f"the VMs of {where.name} have ended")
    holder = host.daemon_pid(where.name)
    host.run(None, ["nsenter", f"--target={holder}", "--mount", "find", "/run/edgeplex/ram",
                    "-mindepth", "1", "-delete"])
    for path in (f"{where.dir}/run", f"{where.run_dir}/qmp", f"{where.run_dir}/hostd"):
        _empty(path)
    for port in switch.vsctl(f"{where.dir}/ovs", "list-ports", "br0").split():
        if port != "trunk":
            switch.vsctl(f"{where.dir}/ovs", "--if-exists", "del-port", "br0", port)
    for link in links:
        link.set_up(True)
        link.close()
    server.start_daemons(where)


_CLASSES = dict(zip(KINDS, (Kill, Stop, Unplugged, Silent, TrunkDown, ServerDeath)))


def prepare(kind, site, where):
    """A failure of that kind that can happen at once; its server and VM must be well."""
    return _CLASSES[kind](site, where)
