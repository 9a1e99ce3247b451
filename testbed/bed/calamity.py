# SPDX-License-Identifier: GPL-2.0-or-later
"""What chaosplan.py draws, done to the testbed.

    calamity = prepare(event)      # a failure of event.what, of event.of
    calamity.strike()
    ...
    calamity.repair()              # what doesn't end by itself: daemons are started, links plugged in

What is to be hit may be gone already, since something else was hit before: then nothing happens, and
`missed` says so. failures.py has those of a whole server.
"""

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress

from lib import lab

from . import bgpload, chaosplan, controller, core, customer, failures, host, moves, server
from . import switch, watcher
from . import topology as topo

ALL = frozenset(topo.CUSTOMERS)
NOBODY = frozenset()
CALL_S = 8  # the controller may be stopped while it is asked
WISH_S = 240


def _site(name):
    return next(site for site in topo.SITES if site.name == name)


def _kill_daemon(name):
    """Kills one of the supervisor's daemons; it stays down unless it is to be started again."""
    with suppress(host.TestbedError, ProcessLookupError):
        os.kill(host.daemon_pid(name), signal.SIGKILL)
        return True
    return False


def _is_down(name):
    return host.daemons()[name]["pid"] is None


class Calamity:
    """A failure or a wish. `hits`: the customers whose packets it may cost; known once it struck."""

    def __init__(self, event):
        self.event, self.of = event, event.of
        self.hits, self.missed = NOBODY, False

    def strike(self):
        """Lets it happen."""
        raise NotImplementedError

    def repair(self):
        """Ends what doesn't end by itself. Once, after strike()."""

    def wait(self):
        """Waits until it is over: of what the controller is asked to do."""


# ---- processes -----------------------------------------------------------------------------


class _Signal(Calamity):
    """A signal to a process of the testbed; one that stops it is followed by CONT."""

    def find(self):
        """Its pid, or None."""
        raise NotImplementedError

    _stopped = None

    def strike(self):
        stop = self.event.what.endswith("-stopped")
        pid = self.find()
        self._stopped = (pid, lab.start_time(pid)) if stop and pid else None
        self.missed = pid is None
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if stop else signal.SIGKILL)

    def repair(self):
        if self._stopped and lab.start_time(self._stopped[0]) == self._stopped[1]:
            with suppress(ProcessLookupError):
                os.kill(self._stopped[0], signal.SIGCONT)


class Pvm(_Signal):
    """QEMU of a port's PVM."""

    def find(self):
        self.hits = frozenset({topo.ce(self.of).customer})
        servers = [s for s in topo.SERVERS if s.site == topo.ce(self.of).site]
        try:
            servers.sort(key=lambda s: s.name != _server_in_books("port", self.of))
        except (IndexError, ValueError):
            pass
        return next(filter(None, (moves.qemu(self.of, s) for s in servers)), None)


def _server_in_books(kind, name):
    """Where a port's PVM or a site's CVM is, as the controller's database has it: it can be read while
    nobody answers."""
    join = ("pvms v JOIN ports o ON o.id = v.port_id" if kind == "port"
            else "cvms v JOIN sites o ON o.id = v.site_id")
    rows = moves.database(f"SELECT s.name FROM {join} JOIN servers s ON s.id = v.server_id"
                          " WHERE o.name = ?", name)
    return rows[0][0] if rows else None


class Cvm(_Signal):
    """QEMU of a site's CVM, the one that speaks."""

    def find(self):
        self.hits = ALL
        name = _server_in_books("cvm", self.of)
        return moves.qemu(self.of, moves.by_name(name), "cvm") if name else None


class Spare(_Signal):
    """QEMU of a spare: any of the site's."""

    def find(self):
        rows = moves.database("SELECT p.uuid FROM spares p JOIN sites s ON s.id = p.site_id"
                              " WHERE s.name = ? ORDER BY p.id", self.of)
        for (uuid,) in rows:
            for pid in host.processes().values():
                with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                    argv = file.read()
                    if b"qemu-system" in argv.split(b"\0")[0] and uuid.encode() in argv:
                        return pid
        return None


class Daemon(_Signal):
    """One of the supervisor's daemons, which starts it again by itself."""

    NAMES = {"hostd": "{}-hostd", "edgeplexd": "edgeplexd", "libvirtd": "{}-libvirtd"}

    def __init__(self, event):
        super().__init__(event)
        self.name = self.NAMES[event.what.rsplit("-", 1)[0]].format(event.of)

    def find(self):
        with suppress(host.TestbedError):
            return host.daemon_pid(self.name)
        return None


class Libvirtd(Daemon):
    """libvirtd, which nobody else starts again. Of a server that died meanwhile, its boot does."""

    def repair(self):
        super().repair()
        if self.event.what == "libvirtd-killed" and _is_down(self.name):
            server.start_libvirtd(moves.by_name(self.of))


class InGuest(Calamity):
    """A process in a VM, by the controller, as an operator would do it."""

    PROCESSES = {"pvmd": "pvmd", "fwd": "edgeplex-fwd", "cvmd": "cvmd", "agent": "agent"}

    def _signal(self, name):
        kind = "cvm" if self.of in chaosplan.SITES else "pvm"
        process = self.PROCESSES[self.event.what.split("-")[0]]
        try:
            controller.cli(kind, "signal", self.of, process, name, limit_s=CALL_S)
        except (host.TestbedError, subprocess.TimeoutExpired):
            return False
        return True

    def _ask(self):
        # An agent that was stopped can't tell: it would have to pass on the answer.
        done = self._signal("STOP" if self.event.what.endswith("-stopped") else "KILL")
        self.missed = not done and not self.event.what.startswith("agent")

    def strike(self):
        site = self.of in chaosplan.SITES
        self.hits = ALL if site else frozenset({topo.ce(self.of).customer})
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def repair(self):
        if self.event.what.endswith("-stopped"):
            self._asked, self._thread = self._thread, threading.Thread(target=self._go_on)
            self._thread.start()

    def _go_on(self):
        self._asked.join()
        self._signal("CONT")

    def wait(self):
        self._thread.join()


# ---- switches ------------------------------------------------------------------------------


class Bridge(Calamity):
    """ovs-vswitchd of a server."""

    def _which(self):
        where = moves.by_name(self.of)
        return where.name, where.ns, f"{where.dir}/ovs"

    def _customers(self):
        return _customers_on(self.of)

    def strike(self):
        self.hits = self._customers()
        self.missed = not _kill_daemon(f"{self._which()[0]}-vswitchd")

    def repair(self):
        name, ns, directory = self._which()
        lab.wait_until(lambda: _is_down(f"{name}-vswitchd"), 10, f"{name}'s switch has ended")
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/vswitchd.ctl")  # what its end is seen by, not its beginning
        switch.start_daemon(name, ns, directory)


class Switch(Bridge):
    """ovs-vswitchd of an edge switch: it comes back empty."""

    def _which(self):
        site = _site(self.of)
        return f"edge-{site.name}", site.ns, site.dir

    def _customers(self):
        return ALL


class SwitchDatabase(Calamity):
    """ovsdb-server of an edge switch."""

    def strike(self):
        self.missed = not _kill_daemon(f"edge-{self.of}-ovsdb")

    def repair(self):
        site = _site(self.of)
        lab.wait_until(lambda: _is_down(f"edge-{self.of}-ovsdb"), 10, "the database has ended")
        switch.start_database(f"edge-{site.name}", site.ns, site.dir)


# ---- servers and links ---------------------------------------------------------------------


def _customers_on(name):
    """The customers whose packets pass a server; all if it has the CVM."""
    where = moves.by_name(name)
    if _server_in_books("cvm", where.site) == name:
        return ALL
    return frozenset(edge.customer for edge in topo.CES
                     if edge.site == where.site and _server_in_books("port", edge.name) == name)


class Server(Calamity):
    """As failures.py has it."""

    KINDS = {"unplugged": "unplugged", "silent": "silent", "trunk-down": "trunk", "server-dead": "server"}

    def __init__(self, event):
        super().__init__(event)
        where = moves.by_name(event.of)
        self._failure = failures.prepare(self.KINDS[event.what], _site(where.site), where)

    def strike(self):
        self.hits = _customers_on(self.of)
        self._failure.strike()

    def repair(self):
        self._failure.repair()


class Unreachable(Calamity):
    """What is between the controller and a server doesn't pass on anything."""

    def strike(self):
        self._relay = host.daemon_pid(f"{self.of}-relay")
        os.kill(self._relay, signal.SIGSTOP)

    def repair(self):
        with suppress(ProcessLookupError):
            os.kill(self._relay, signal.SIGCONT)


class Link(Calamity):
    """The end of a link that a switch has is switched off: the other one has no carrier."""

    def __init__(self, event):
        super().__init__(event)
        if event.what == "apart":
            where = moves.by_name(event.of)
            ns, name = _site(where.site).management_ns, where.name
        elif event.what == "core-cut":
            ns, name = _site(event.of).ns, "core"
            self.hits = ALL
        else:
            edge = topo.ce(event.of)
            ns, name = _site(edge.site).ns, edge.switch_port
            self.hits = frozenset({edge.customer})
        self._link = failures.Interface(ns, name)

    def strike(self):
        self._link.set_up(False)

    def repair(self):
        self._link.set_up(True)
        self._link.close()


# ---- other people's routers ----------------------------------------------------------------


class Ce(Calamity):
    """A customer edge's BGP daemon."""

    def __init__(self, event):
        super().__init__(event)
        self._edge = topo.ce(event.of)
        self._name = customer.bgp_daemon(self._edge)

    def strike(self):
        self.hits = frozenset({self._edge.customer})
        self.missed = not _kill_daemon(self._name)

    def repair(self):
        lab.wait_until(lambda: _is_down(self._name), 10, f"{self._name} has ended")
        customer.start_daemon(self._edge)


class RouteReflector(Calamity):
    """Its bgpd; further clients, which it has been told of while it ran, are told to it again."""

    def strike(self):
        self._clients = [address for address in (watcher.ADDRESS, bgpload.CORE_SPEAKER)
                         if f"neighbor {address} " in core.vtysh("show running-config")]
        self.missed = not _kill_daemon("core-bgpd")

    def repair(self):
        lab.wait_until(lambda: _is_down("core-bgpd"), 10, "the core's bgpd has ended")
        core.start_frr_daemon("core", topo.CORE_NS, core.FRR, "bgpd")
        for address in self._clients:
            watcher.add_client(address)


# ---- the operator --------------------------------------------------------------------------


def set_spares(site, number):
    """The command line that tells a site how many spares it has."""
    return ["site", "set", site, "--spares", number]


def wish(event):
    """The command line of a wish."""
    if event.what == "migrate-pvm":
        return ["pvm", "migrate", event.of]
    if event.what == "migrate-cvm":
        return ["cvm", "migrate", event.of]
    if event.what == "drain":
        return ["server", "drain", event.of]
    if event.what == "protection":
        return ["cvm", "protect" if event.detail == "on" else "unprotect", event.of]
    if event.what == "failover":
        return ["cvm", "failover", event.of]
    if event.what == "spares":
        return set_spares(event.of, event.detail)
    assert event.what == "port"
    if event.detail == "deleted":
        return ["port", "delete", event.of]
    return controller.port_create(next(e for e in topo.MORE_EDGES if e.name == event.of))


class Wish(Calamity):
    """An operation, in a thread of its own. It may fail: something else does, after all."""

    def strike(self):
        self.said = ""
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self):
        try:
            controller.cli(*wish(self.event), limit_s=WISH_S)
        except Exception as error:  # pylint: disable=broad-except
            # Told with the round; whether it is all right afterwards is looked at anyway.
            self.said = re.sub(r"\s+", " ", str(error))[:300]

    def wait(self):
        self._thread.join()


CLASSES = {
    "pvm-killed": Pvm, "pvm-stopped": Pvm, "cvm-killed": Cvm, "cvm-stopped": Cvm,
    "spare-killed": Spare, "spare-stopped": Spare,
    **{f"{process}-{how}": InGuest for process in InGuest.PROCESSES for how in ("killed", "stopped")},
    "hostd-killed": Daemon, "hostd-stopped": Daemon, "edgeplexd-killed": Daemon,
    "edgeplexd-stopped": Daemon, "libvirtd-killed": Libvirtd, "libvirtd-stopped": Libvirtd,
    "bridge-killed": Bridge, "switch-killed": Switch, "switch-db-killed": SwitchDatabase,
    "unplugged": Server, "silent": Server, "trunk-down": Server, "server-dead": Server, "unreachable": Unreachable,
    "apart": Link, "core-cut": Link, "ce-flapped": Link, "ce-restarted": Ce,
    "rr-restarted": RouteReflector,
}


def prepare(event):
    """Whatever is drawn, ready to strike."""
    return Wish(event) if chaosplan.KINDS[event.what].wish else CLASSES[event.what](event)
