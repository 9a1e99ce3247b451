# SPDX-License-Identifier: GPL-2.0-or-later
"""A protected CVM fails, and nobody notices: not a session is reset, not a route is wrong, and nothing
of the old primary reaches a peer once the standby speaks. And everything else that can die.

How fast a standby speaks is measured by `make soak-checkpoint`, which also lets the CVM fail more
often; here it is only to be there.
"""

import os
import signal

import pytest

from bed import bgpload, controller, failures, host, moves, protection, sessions
from bed import topology as topo
from lib.lab import wait_until

NEAR = topo.ce("green-a")
OTHER = topo.ce("red-a")
SITE = topo.SITES[0]
LIMIT_S = 90
UPDATES_PER_S = 50  # from each side
MARK = b"EdgePlex says %d"


@pytest.fixture(scope="module", name="load")
def protected_and_loaded(bed):  # pylint: disable=unused-argument
    """Site A's CVM protected, its PVMs on one server, and updates that flow through them."""
    if moves.server_of(OTHER.name) is not moves.server_of(NEAR.name):
        controller.cli("pvm", "migrate", OTHER.name)
    controller.cli("cvm", "protect", SITE.name, "--interval", "100ms")
    protection.wait_state(SITE, "protected", LIMIT_S)
    with bgpload.Load(NEAR, UPDATES_PER_S) as load:
        load.run()
        yield load
        load.stop()
        load.wait_right()
    controller.cli("cvm", "unprotect", SITE.name)
    assert controller.query("cvm", "show", SITE.name)["protection"] is None
    here = moves.by_name(controller.query("cvm", "show", SITE.name)["server"])
    wait_until(lambda: f"cvm-{SITE.name}" not in moves.domains(moves.other(here)), LIMIT_S,
               "no standby is left")


def all_sessions():
    """As every end has them."""
    found = {}
    for edge in topo.CES:
        found |= sessions.snapshot(edge)
    return found


def tables_are_right(load):
    """At both customer edges, in the PVM, and at the route reflector, route by route."""
    load.stop()
    wrong = []

    def right():
        wrong[:] = load.wrong() + load.wrong_at_core()
        return not wrong

    try:
        wait_until(right, LIMIT_S, "the tables are right", 0.3)
    except TimeoutError as error:
        raise AssertionError(f"{len(wrong)} routes are wrong: {wrong[:10]}") from error
    load.run()


def events_since(newest):
    """Texts of the CVM's events."""
    return [e["text"] for e in controller.query("event", "list", "--after", newest)["items"]
            if e["object"] == f"cvm/{SITE.name}"]


def newest_event():
    """To be given to events_since()."""
    return controller.query("event", "list", "--limit", 1)["items"][0]["id"]


def away_from_pvms():
    """Has the CVM run where the PVMs don't, so that its server may fail alone."""
    primary, _ = protection.sides(SITE)
    if primary is moves.server_of(NEAR.name):
        count = protection.failovers(SITE)
        controller.cli("cvm", "failover", SITE.name)
        protection.wait_state(SITE, "protected", LIMIT_S, count + 1)


def fails_over(load, kind, why, meanwhile=None):
    """A failure of that kind, which nobody notices; `meanwhile(primary, standby)` is called when the
    standby runs."""
    protection.wait_state(SITE, "protected", LIMIT_S)
    before, newest, count = all_sessions(), newest_event(), protection.failovers(SITE)
    primary, standby = protection.sides(SITE)
    failure = failures.prepare(kind, SITE, primary)
    try:
        with protection.CvmWire(SITE, "e2e") as wire:
            at_ns = failure.strike()
            protection.wait_failover(SITE, count + 1)
            if meanwhile:
                meanwhile(primary, standby)
            tables_are_right(load)
            failure.repair()
            protection.wait_state(SITE, "protected", LIMIT_S, count + 1)
    finally:
        failure.repair()
    assert sessions.resets(before, all_sessions()) == []
    assert wire.first_frame(standby, at_ns)
    assert wire.leaks(primary, standby) == []
    now = protection.state(SITE)
    assert now["server"] == standby.name and now["standby"] == primary.name
    assert now["last_failover"]["why"] in why, now["last_failover"]
    assert (now["last_failover"]["from"], now["last_failover"]["to"]) == (primary.name, standby.name)
    texts = events_since(newest)
    assert any("failed over" in text for text in texts), texts
    assert any("protected again" in text for text in texts), texts
    return wire, primary, standby


# ---- failures of the primary ---------------------------------------------------------------


def test_what_is_shown(load):  # pylint: disable=unused-argument
    first = protection.wait_state(SITE, "protected", LIMIT_S)
    for field in ("reason", "since", "wanted_standby", "epoch_age_ms", "epochs", "bytes_per_s",
                  "pages_per_epoch", "bytes_per_epoch", "pause_us", "commit_us", "redone", "engine",
                  "cpu_us", "memory_pages", "last_failover"):
        assert field in first, field
    assert first["interval_ms"] == 100 and first["timeout_ms"] > 0
    assert {first["server"], first["standby"]} == {s.name for s in SITE.servers}
    wait_until(lambda: protection.state(SITE)["epoch"] > first["epoch"] + 10, LIMIT_S,
               "epochs go on")


def test_primary_is_killed(load):
    fails_over(load, "kill", ["primary-dead"])


def test_split_brain(load):
    """The primary was only stopped. Woken after the failover, and with somebody on its server who
    speaks as it would, it reaches nobody."""
    seen = {}

    def wake(primary, standby):
        old = moves.qemu(SITE.name, primary, "cvm")
        if old:
            os.kill(old, signal.SIGCONT)
        protection.impersonate(SITE, primary, MARK % 1)
        protection.impersonate(SITE, standby, MARK % 2)
        seen["old"] = old

    wire, primary, standby = fails_over(load, "stop", ["primary-silent"], wake)
    assert wire.marked(MARK % 1, primary) > 0 and wire.marked(MARK % 2, standby) > 0
    assert wire.marked(MARK % 1) == 0  # fenced
    assert wire.marked(MARK % 2) > 0  # and it wasn't for another reason
    assert moves.qemu(SITE.name, primary, "cvm") != seen["old"]


@pytest.mark.parametrize("kind, why", [("unplugged", ["trunk-down"]), ("silent", ["server-lost"]),
                                       ("server", ["trunk-down", "server-lost"])])
def test_server_is_lost(load, kind, why):
    away_from_pvms()
    fails_over(load, kind, why)


def test_planned(load):
    protection.wait_state(SITE, "protected", LIMIT_S)
    before, count = all_sessions(), protection.failovers(SITE)
    primary, standby = protection.sides(SITE)
    with protection.CvmWire(SITE, "e2e") as wire:
        controller.cli("cvm", "failover", SITE.name)
        tables_are_right(load)
        protection.wait_state(SITE, "protected", LIMIT_S, count + 1)
    assert sessions.resets(before, all_sessions()) == []
    assert wire.leaks(primary, standby) == []
    now = protection.state(SITE)
    assert now["server"] == standby.name and now["last_failover"]["why"] == "asked"


def test_controller_dies_as_well(load):
    """It was killed with the primary: started again, it fails over."""
    protection.wait_state(SITE, "protected", LIMIT_S)
    before, count = all_sessions(), protection.failovers(SITE)
    primary, standby = protection.sides(SITE)
    pid = host.daemon_pid("edgeplexd")
    with protection.CvmWire(SITE, "e2e") as wire:
        failures.prepare("kill", SITE, primary).strike()
        os.kill(pid, signal.SIGKILL)
        protection.wait_failover(SITE, count + 1, LIMIT_S)
        protection.wait_state(SITE, "protected", LIMIT_S, count + 1)
        tables_are_right(load)
    assert sessions.resets(before, all_sessions()) == []
    assert wire.leaks(primary, standby) == []


@pytest.mark.skipif(not os.environ.get("EDGEPLEX_ALL_MOVES"), reason="by `make check-moves`")
def test_ten_failovers_in_a_row(load):
    for number in range(10):
        fails_over(load, "kill", ["primary-dead"])
        assert protection.failovers(SITE) > number


# ---- failures of what protects it ----------------------------------------------------------


def goes_on_unprotected(load, act):
    """The same primary runs on; it is said that it isn't protected, and then it is again."""
    protection.wait_state(SITE, "protected", LIMIT_S)
    before, newest, count = all_sessions(), newest_event(), protection.failovers(SITE)
    primary, standby = protection.sides(SITE)
    vm = moves.qemu(SITE.name, primary, "cvm")
    act(primary, standby)
    wait_until(lambda: any("unprotected" in text for text in events_since(newest)), LIMIT_S,
               "it is said that the CVM isn't protected")
    wait_until(lambda: any("protected again" in text for text in events_since(newest)), LIMIT_S,
               "it is protected again")
    protection.wait_state(SITE, "protected", LIMIT_S)
    tables_are_right(load)
    assert moves.qemu(SITE.name, primary, "cvm") == vm and protection.failovers(SITE) == count
    assert sessions.resets(before, all_sessions()) == []


def test_standby_dies(load):
    goes_on_unprotected(load, lambda _, standby: os.kill(moves.qemu(SITE.name, standby, "cvm"),
                                                         signal.SIGKILL))


@pytest.mark.parametrize("side", ["primary", "standby"])
def test_hostd_dies(load, side):
    goes_on_unprotected(load, lambda primary, standby: os.kill(
        host.daemon_pid(f"{(primary if side == 'primary' else standby).name}-hostd"),
        signal.SIGKILL))
