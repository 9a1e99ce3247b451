# SPDX-License-Identifier: GPL-2.0-or-later
"""A protected CVM at a site of three servers: where its standby goes when its server dies or is drained,
and what is left of it when the protection, or the CVM, is ended: nothing.
"""

import os
import signal
import time
from contextlib import contextmanager

import pytest

from bed import checks, controller, failures, host, moreservers, moves, protection, sessions, wholeness
from bed import topology as topo
from bed.parallel import together
from lib.lab import wait_until

SITE = topo.SITES[0]
EDGES = [edge for edge in topo.CES if edge.site == SITE.name]
LIMIT_S = 60
thorough = pytest.mark.skipif(not os.environ.get("EDGEPLEX_ALL_MOVES"), reason="by `make check-moves`")


@pytest.fixture(scope="module", autouse=True)
def third(bed):  # pylint: disable=unused-argument
    """One server more, and the site's PVMs where its CVM is."""
    with moreservers.attached() as where:
        here = controller.query("cvm", "show", SITE.name)["server"]
        for edge in EDGES:
            if moves.server_of(edge.name).name != here:
                controller.cli("pvm", "migrate", edge.name, "--to", here)
        yield where
        if controller.query("cvm", "show", SITE.name)["protection"]:
            controller.cli("cvm", "unprotect", SITE.name)
        wait_clean()


@pytest.fixture(autouse=True)
def protected():
    """The CVM is protected, by a standby anywhere."""
    if not controller.query("cvm", "show", SITE.name)["protection"]:
        controller.cli("cvm", "protect", SITE.name, "--interval", "100ms")
    protection.wait_state(SITE, "protected", LIMIT_S)


def left():
    """What any of the site's servers, its switch or the store have that they shouldn't."""
    placed = wholeness.placements()
    found = [text for where in SITE.servers for text in wholeness.left_on(where, placed)]
    return found + wholeness.wrong_rules(SITE, placed) + wholeness.wrong_store()


def wait_clean():
    """Waits until nothing is left over. What libvirt tells of a VM is late at times."""
    found = []

    def clean():
        found[:] = left()
        return not found

    try:
        wait_until(clean, LIMIT_S, "nothing is left", 0.2)
    except TimeoutError as error:
        raise AssertionError(f"left: {found}") from error


def vms_of_cvm(where):
    """The pids of the QEMUs that a server has of the site's CVM."""
    return [pid for pid, (name, guest, _) in wholeness.vms().items()
            if name == where.name and guest == f"cvm-{SITE.name}"]


def all_sessions():
    """As every end has them."""
    found = {}
    for edge in topo.CES:
        found |= sessions.snapshot(edge)
    return found


@contextmanager
def unnoticed():
    """Not a session is reset, and the CVM is the same process on the same server, under protection by a
    standby on the server that hasn't one now: yields (primary's, standby's, that) server."""
    primary, standby = protection.sides(SITE)
    other, = (s for s in SITE.servers if s not in (primary, standby))
    before, count, vm = all_sessions(), protection.failovers(SITE), vms_of_cvm(primary)
    began = time.monotonic()
    yield primary, standby, other
    protection.wait_state(SITE, "protected", LIMIT_S)
    print(f"by a standby on another server after {time.monotonic() - began:.1f} s")
    assert protection.sides(SITE) == (primary, other)
    assert vms_of_cvm(primary) == vm and len(vm) == 1
    assert protection.failovers(SITE) == count
    assert sessions.resets(before, all_sessions()) == []


def test_a_standby_whose_server_dies_is_made_on_a_third():
    with unnoticed() as (_, standby, other):
        failure = failures.prepare("server", SITE, standby)
        failure.strike()
        try:
            wait_until(lambda: protection.state(SITE)["standby"] == other.name, LIMIT_S,
                       f"its standby is on server {other.name}")
            protection.wait_state(SITE, "protected", LIMIT_S)
        finally:
            failure.repair()
    wait_until(lambda: controller.query("server", "show", standby.name)["health"] == "well", LIMIT_S,
               "the server is back")
    wait_clean()


def test_a_standby_whose_server_is_drained_is_made_on_a_third():
    with unnoticed() as (_, standby, other):
        controller.cli("server", "drain", standby.name, limit_s=LIMIT_S)
        # When the drain is done nothing is there any more, whatever else isn't done yet.
        try:
            assert vms_of_cvm(standby) == [] and moves.domains(standby) == {}
            assert wholeness.left_on(standby, wholeness.placements()) == []
            wait_until(lambda: protection.state(SITE)["standby"] == other.name, LIMIT_S,
                       f"its standby is on server {other.name}")
        finally:
            controller.cli("server", "undrain", standby.name)
    wait_clean()


def test_no_server_is_left_for_a_standby():
    """All others are drained: the drains end, the CVM goes on, and says why it isn't protected. With the
    first server that is back so is the protection."""
    primary, standby = protection.sides(SITE)
    others = [s for s in SITE.servers if s is not primary]
    try:
        for where in others:
            controller.cli("server", "drain", where.name, limit_s=LIMIT_S)
            assert moves.domains(where) == {}
        now = protection.wait_state(SITE, "unprotected", LIMIT_S)
        assert now["standby"] is None
        wait_until(lambda: "no server for a standby" in protection.state(SITE)["reason"], LIMIT_S,
                   "it is said why")
    finally:
        for where in reversed(others):
            controller.cli("server", "undrain", where.name)
    protection.wait_state(SITE, "protected", LIMIT_S)
    assert protection.sides(SITE)[0] is primary
    assert standby in others


@thorough
def test_the_server_of_a_protected_cvm_is_drained():
    """Both PVMs and the CVM are moved, the CVM is protected again by whoever isn't drained."""
    before = all_sessions()
    primary, _ = protection.sides(SITE)
    controller.cli("server", "drain", primary.name)
    try:
        assert moves.domains(primary) == {}
        protection.wait_state(SITE, "protected", LIMIT_S)
        assert primary not in protection.sides(SITE)
        assert wholeness.left_on(primary, wholeness.placements()) == []
    finally:
        controller.cli("server", "undrain", primary.name)
    assert sessions.resets(before, all_sessions()) == []
    wait_clean()


# ---- the end of a protection ---------------------------------------------------------------


def last_failover():
    """The CVM's, wherever it is shown."""
    cvm = controller.query("cvm", "show", SITE.name)
    if cvm["protection"]:
        assert cvm["protection"]["last_failover"] == cvm["last_failover"]
        assert cvm["protection"]["failovers"] == cvm["failovers"]
    return cvm["failovers"], cvm["last_failover"]


def broken_off():
    """A failover that is asked for, and comes to nothing since the edge switch doesn't confirm the fence:
    the CVM goes on where it is."""
    here, switchd = protection.sides(SITE)[0], host.daemon_pid(f"edge-{SITE.name}-vswitchd")
    os.kill(switchd, signal.SIGSTOP)
    try:
        with pytest.raises(controller.CliError, match="isn't protected"):
            controller.cli("cvm", "failover", SITE.name)
    finally:
        os.kill(switchd, signal.SIGCONT)
    protection.wait_state(SITE, "protected", LIMIT_S)
    assert protection.sides(SITE)[0] is here


def test_unprotect_leaves_nothing_but_what_happened():
    primary, standby = protection.sides(SITE)
    controller.cli("cvm", "failover", SITE.name)
    count, last = last_failover()
    assert count > 0 and (last["from"], last["to"]) == (primary.name, standby.name)
    assert last["why"] == "asked" and last["noticed_to_running_us"] > 0
    protection.wait_state(SITE, "protected", LIMIT_S, count)
    broken_off()
    assert last_failover() == (count, last)
    restarts = host.daemons()["edgeplexd"]["restarts"]
    os.kill(host.daemon_pid("edgeplexd"), signal.SIGKILL)
    wait_until(lambda: host.daemons()["edgeplexd"]["restarts"] > restarts
               and host.listens(controller.SOCKET), LIMIT_S, "edgeplexd is started again")
    assert last_failover() == (count, last)
    protection.wait_state(SITE, "protected", LIMIT_S)
    controller.cli("cvm", "unprotect", SITE.name)
    # At once: all of its servers answer.
    assert [where.name for where in SITE.servers if vms_of_cvm(where)] == [standby.name]
    assert moves.database("SELECT * FROM cvm_voids") == []
    for where in SITE.servers:
        assert moves.copies(where) == []
    assert last_failover() == (count, last)
    wait_clean()
    controller.cli("cvm", "protect", SITE.name)
    assert last_failover() == (count, last)


@thorough
def test_a_protected_cvm_is_deleted():
    """Not while it serves ports; then it goes with its standby. A new one has no past."""
    controller.cli("cvm", "failover", SITE.name)
    with pytest.raises(controller.CliError, match="delete the site's ports first"):
        controller.cli("cvm", "delete", SITE.name)
    together(*(lambda e=e: controller.cli("port", "delete", e.name) for e in EDGES))
    try:
        protection.wait_state(SITE, "protected", LIMIT_S)
        controller.cli("cvm", "delete", SITE.name)
        # At once: the operation waits for all that.
        for where in SITE.servers:
            assert wholeness.left_on(where, wholeness.placements()) == []
            assert moves.domains(where) == {}
        assert wholeness.wrong_rules(SITE, wholeness.placements()) == []
        assert wholeness.wrong_store() == []
        for table in ("cvms", "cvm_protections", "cvm_voids", "cvm_failovers"):
            assert moves.database(f"SELECT * FROM {table} WHERE site_id ="
                                  " (SELECT id FROM sites WHERE name = ?)", SITE.name) == [], table
    finally:
        if SITE.name not in [c["name"] for c in controller.query("cvm", "list")["items"]]:
            controller.cli("cvm", "create", SITE.name)
        for edge in EDGES:
            controller.cli(*controller.port_create(edge))
    checks.wait_established()
    checks.wait_routes()
    assert last_failover() == (0, None)
