# SPDX-License-Identifier: GPL-2.0-or-later
"""The three experiments and the look at other people's gear. Each is a context manager that sets the
scene, with steps that are run one at a time and give a row each: run(variant) -> {figure: value}."""

import os
import re
import signal
import time
from contextlib import ExitStack

from bed import bgpload, checks, controller, failures, healing, host, measure, moves, oldways
from bed import protection, remotepe, server, sessions, wire
from bed import topology as topo
from lib.lab import wait_until

import scene as scenes

SITE = topo.SITES[0]
CLIENT = scenes.CLIENT
LEFT, RIGHT = SITE.servers[:2]
INTERVALS_MS = (100, 200, 500, 1000)
UPDATES_PER_S = 200
PROTECTED_S = 180
QUIET_S = 3
SPARES = 2  # one on either server, so that whatever dies there is one
HEALED_S = 45  # the viewer must have a picture again by itself; otherwise what was broken is mended


def on_testbed():
    """Is there the testbed's supervisor, or are these real servers?"""
    return host.is_up()


def uuid_of(role, name):
    """The UUID of a port's PVM ("pvm"), or a site's CVM ("cvm")."""
    return controller.query(role, "show", name)["vm"]["uuid"]


def accel():
    """How VMs run here: libvirt's type of a domain."""
    out = server.virsh(moves.server_of(CLIENT.name), "dumpxml", uuid_of("pvm", CLIENT.name))
    return re.search(r"<domain type='(\w+)'", out)[1]


def row_of(window, prefix=""):
    """A window's figures by one flat name each."""
    return {f"{prefix}{part}_{name}": value for part, figures in window.items()
            for name, value in figures.items()}


class Experiment:
    """What all have in common: a `with` block, and a stack of what sets its scene."""

    def __init__(self, _quick):
        self._stack = ExitStack()

    def __enter__(self):
        with self._stack as stack:
            scenes.whole()
            self._prepare(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def _prepare(self, stack):
        """Sets the scene; `stack` ends it."""
        raise NotImplementedError


# ---- 1: protection --------------------------------------------------------------------------


class Checkpoints(Experiment):
    """Table 1: what checkpointing the CVM costs under BGP updates."""

    name, title = "checkpoints", "Experiment 1: checkpointing the CVM"
    variants = tuple(f"{interval} ms" for interval in INTERVALS_MS)

    def __init__(self, quick):
        super().__init__(quick)
        self._seconds = 4 if quick else 6
        self._load = None

    def _prepare(self, stack):
        stack.callback(lambda: controller.cli("cvm", "unprotect", SITE.name))
        protect(INTERVALS_MS[-1])
        stack.enter_context(measure.sites_away([site for site in topo.SITES if site is not SITE]))
        # Half of the updates from each side.
        self._load = stack.enter_context(bgpload.Load(CLIENT, UPDATES_PER_S / 2))
        self._load.run()

    def run(self, variant):
        """A window at one interval; its figures are of epochs since it was set."""
        interval = int(variant.split()[0])
        protect(INTERVALS_MS[0] if interval != INTERVALS_MS[0] else INTERVALS_MS[1])
        protect(interval)
        before, begin = self._changes(), time.monotonic()
        scenes.pause(self._seconds)
        now = protection.state(SITE)
        if now["state"] != "protected" or now["interval_ms"] != interval:
            raise host.TestbedError(f"the CVM was {now['state']} at {now['interval_ms']} ms")
        seconds = time.monotonic() - begin
        return {"seconds": seconds, "epochs": now["epochs"],
                "mb_per_s": now["bytes_per_s"] / 1e6, "kb_per_epoch": now["bytes_per_epoch"] / 1e3,
                "pages_per_epoch": now["pages_per_epoch"], "pause_ms": now["pause_us"]["mean"] / 1e3,
                "pause_max_ms": now["pause_us"]["max"] / 1e3, "commit_ms": now["commit_us"]["mean"] / 1e3,
                "commit_max_ms": now["commit_us"]["max"] / 1e3, "redone": now["redone"],
                "memory_mib": now["memory_pages"] * 4096 / (1 << 20), "updates": self._changes() - before}

    def _changes(self):
        """How many updates both sides have sent so far."""
        sent = self._load.stop()
        self._load.run()
        return sum(sent.values())


def protect(interval_ms):
    """Has the site's CVM protected at an interval, and waits until it is."""
    controller.cli("cvm", "protect", SITE.name, "--interval", f"{interval_ms}ms")

    def there():
        now = protection.state(SITE)
        return now["state"] == "protected" and now["interval_ms"] == interval_ms and now["epochs"]

    wait_until(there, PROTECTED_S, f"the CVM of {SITE.name} is protected at {interval_ms} ms", 0.1)


# ---- 2: a move ------------------------------------------------------------------------------


class Moves(Experiment):
    """Client1's PVM from one server of A to the other, in one of two ways."""

    def __init__(self, quick):
        super().__init__(quick)
        self._scene = None

    def _prepare(self, stack):
        self._scene = stack.enter_context(scenes.Scene(on_testbed()))

    def _observe(self, do, source, destination, vms=None):
        self._scene.flowing()
        quiet = self._scene.quiet(QUIET_S)
        port = controller.query("port", "show", CLIENT.name) if vms is None else self._port
        cvm = controller.query("cvm", "show", SITE.name) if vms is None else self._cvm
        before = sessions.snapshot(CLIENT, vms)
        with wire.Wire(port, cvm, source, destination) as captured:
            from_ns = time.time_ns()
            moved = do(destination)
            self._scene.flowing()
            scenes.pause(scenes.AFTER_NS / 1e9)
            until_ns = time.time_ns()
            self._scene.flowing()
        seen = self._scene.window(from_ns, until_ns)
        lost = sessions.resets(before, sessions.snapshot(CLIENT, vms))
        switched = captured.switched()
        stream = switched["customer"].get(f"{self._scene.far.host4} > {CLIENT.host4}", {})
        return {"from": source, "to": destination, "t_m_ms": stream.get("t_m_ms"),
                "t_m_all_ms": wire.t_m_ms(switched),
                "total_s": moved["total_s"], "mbytes": (moved.get("bytes") or 0) / 1e6,
                "stood_still_ms": moved.get("paused_ms") or moved.get("downtime_ms"),
                "resets": sessions.count(CLIENT, lost), **row_of(seen), **row_of(quiet, "quiet_")}

    _port = _cvm = None


class MakeBeforeBreak(Moves):
    """EdgePlex's own."""

    name, title = "moves", "Experiment 2: make before break"
    variants = ("make before break",)

    def run(self, _variant):
        """One move, from where it is."""
        source = moves.server_of(CLIENT.name)
        return self._observe(lambda to: measure.migrate(CLIENT, to), source.name, moves.other(source).name)


class LiveMigration(Moves):
    """libvirt's, and the switch's rules switched afterwards: the article's way before."""

    name, title = "live", "Experiment 2: ordinary live migration"
    variants = ("live migration",)
    _pvm = None

    def _prepare(self, stack):
        super()._prepare(stack)
        self._port = controller.query("port", "show", CLIENT.name)
        self._cvm = controller.query("cvm", "show", SITE.name)
        self._pvm = stack.enter_context(oldways.Detached(CLIENT))
        # Of the size that it has anyway, but not a multiple of 256 KiB, see there.
        self._pvm.start_for_precopy(144 * 1024 + 8)
        self._served()

    def _served(self):
        wait_until(lambda: sessions.established(CLIENT, self._pvm.ask_vms), 180, "all sessions are Established",
                   0.3)
        checks.wait_routes([CLIENT, topo.far(CLIENT)], 180)
        self._scene.flowing()

    def run(self, _variant):
        """One move."""
        self._served()
        source = moves.by_name(self._pvm.server)
        return self._observe(self._pvm.live_migrate, source.name, moves.other(source).name, self._pvm.ask_vms)


# ---- 3: failures ----------------------------------------------------------------------------


class Failures(Experiment):
    """CVM, PVM or server killed. The CVM is protected all the time, at 100 ms, and there are spares; red's PVM
    isn't on the server that is killed: its customer is a bystander."""

    name, title = "failures", "Experiment 3: failures"
    variants = ("CVM killed", "PVM killed", "left server killed")

    def __init__(self, quick):
        super().__init__(quick)
        self._scene = None

    def _prepare(self, stack):
        bystander = scenes.BACKGROUND[0]
        if moves.server_of(bystander.name) is LEFT:
            measure.migrate(bystander, RIGHT.name)
        spares = controller.query("site", "show", SITE.name)["spares"]
        stack.callback(lambda: controller.cli("site", "set", SITE.name, "--spares", spares))
        controller.cli("site", "set", SITE.name, "--spares", max(spares, SPARES))
        stack.callback(lambda: controller.cli("cvm", "unprotect", SITE.name))
        protect(INTERVALS_MS[0])
        wait_spares()
        self._scene = stack.enter_context(scenes.Scene(on_testbed()))

    @staticmethod
    def _failure(variant):
        """(what strikes, what mends) of it; on real servers the inventory says how a server dies."""
        if variant == "PVM killed":
            where = moves.server_of(CLIENT.name)
            return lambda: kill("pvm", CLIENT.name, where), lambda: None
        if variant == "CVM killed":
            where, _ = protection.sides(SITE)
            return lambda: kill("cvm", SITE.name, where), lambda: None
        if "power_off" in LEFT.given:
            return (lambda: host.run(None, LEFT.given["power_off"]),
                    lambda: host.run(None, LEFT.given["power_on"], limit_s=600))
        if not on_testbed():
            raise host.TestbedError(f"{topo.INVENTORY}: server {LEFT.name}: field power_off is missing, "
                                    "without which it can't be killed")
        failure = failures.ServerDeath(SITE, LEFT)
        return failure.strike, failure.repair

    def run(self, variant):
        """One failure, and all whole again."""
        if variant == "left server killed" and moves.server_of(CLIENT.name) is not LEFT:
            measure.migrate(CLIENT, LEFT.name)
        wait_spares()
        before_state = protection.wait_state(SITE, "protected", PROTECTED_S)
        scenes.whole()
        self._scene.flowing()
        before = scenes.all_sessions(on_testbed())
        at_server = {"pvm": moves.server_of(CLIENT.name).name, "cvm": before_state["server"]}
        quiet = self._scene.quiet(QUIET_S)
        strike, mend = self._failure(variant)
        since = healing.newest_event()
        with scenes.far_routes(scenes.SOURCE, CLIENT.prefix4) as withdrawn:
            at_ns = time.time_ns()
            strike()
            try:
                healed = self._flows_again(at_ns)
                scenes.pause(scenes.AFTER_NS / 1e9)
                at_mend = scenes.all_sessions(on_testbed())
            finally:
                mend()
            self._scene.flowing(240)
            until_ns = time.time_ns()
            scenes.whole(240)
            after = protection.wait_state(SITE, "protected", PROTECTED_S)
            wait_spares()
            whole_s = (time.time_ns() - at_ns) / 1e9
            self._scene.flowing()
            far_withdrawn = withdrawn()
        seen = self._scene.window(at_ns - 500_000_000, until_ns)
        resets = scenes.reset_sessions(before, at_mend)
        far = [name for name in resets if name.startswith(scenes.SOURCE.name)]
        core = [name for name in resets if name.startswith("core: ")]
        near = [name for name in resets if name.startswith(CLIENT.name)]
        return {"pvm_on": at_server["pvm"], "cvm_on": at_server["cvm"], "healed": int(healed),
                **told_of(since), "outage_ms": seen["video"]["gap_ms"], "whole_s": whole_s,
                "failovers": after["failovers"] - before_state["failovers"],
                "near_resets": len(near), "far_resets": len(far),
                "core_resets": len(core), "other_resets": len(resets) - len(near) - len(far) - len(core),
                "far_withdrawn": far_withdrawn,
                **row_of(seen), **row_of(quiet, "quiet_")}

    def _flows_again(self, at_ns):
        """Waits until the viewer has packets and a picture for a second without a break, and returns whether
        that happened without help."""
        def there():
            now = time.time_ns()
            if now - at_ns < 3_000_000_000:
                return False
            last = self._scene.video.window(now - 1_500_000_000, now)
            return last["received"] > 20 and last["gap_ms"] < 500 and last["longest_ms"] < 500
        try:
            wait_until(there, HEALED_S, "the viewer has a picture again", 0.5)
        except TimeoutError:
            return False
        return True


def wait_spares():
    """Waits until the site's spares are ready, on more than one server."""
    def there():
        spares = healing.spares(SITE)
        return {s["state"] for s in spares} == {"ready"} and len({s["server"] for s in spares}) > 1
    wait_until(there, PROTECTED_S, f"spares of site {SITE.name} are ready on two servers", 0.3)


def told_of(since):
    """What the controller told of Client1's PVM since an event: did a spare take over, and after how many ms
    it served again; nothing when it wasn't lost."""
    stories = [healing.STORY.search(text) for text in healing.events_since(since, f"port/{CLIENT.name}")]
    stories = [story for story in stories if story]
    if not stories:
        return {"spare": None, "serving_ms": None}
    return {"spare": int(bool(stories[0]["spare"])), "serving_ms": float(stories[0]["serving"])}


def kill(role, name, where):
    """kill -9 of the QEMU of a port's PVM or a site's CVM. On real servers libvirt has written down its pid,
    by the domain's name, which says nothing of the port when the VM was a spare."""
    if on_testbed():
        os.kill(moves.qemu(name, where, role), signal.SIGKILL)
        return
    domain = server.virsh(where, "domname", uuid_of(role, name)).strip()
    host.run(where.ns, ["sh", "-c", f"kill -9 $(cat /run/libvirt/qemu/{domain}.pid)"])


# ---- other people's gear --------------------------------------------------------------------


class OthersGear(Experiment):
    """A stock PE on the same core: do green's edges behind it and behind EdgePlex reach each other?"""

    name, title = "gear", "Other people's gear: a stock PE"
    variants = ("round of pings",)

    def __init__(self, quick):
        super().__init__(quick)
        self._vm = None

    def _prepare(self, stack):
        self._vm = stack.enter_context(remotepe.attached())
        remotepe.wait_routes()

    def run(self, _variant):
        """Ten pings between each pair, both ways, in both families."""
        found = remotepe.pings(10)
        row = {f"{a}>{b} v{version}": replies for (a, b, version), replies in found.items()}
        return {"kernel": self._vm.ask("uname -r"), "sent": 10 * len(row), "replies": sum(row.values()), **row}


ALL = (Checkpoints, MakeBeforeBreak, LiveMigration, Failures, OthersGear)
