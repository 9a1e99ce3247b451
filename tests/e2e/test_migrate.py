# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves of PVMs that go wrong: whatever dies, one side serves the customer, nothing is left behind, and
the PVM can be moved again.

What dies at which point of a move is in ALWAYS, a few of each, and in MORE, for `make check-moves`.
"""

import os
import signal
from contextlib import ExitStack, contextmanager, suppress

import pytest

from bed import checks, controller, customer, drains, host, moves, switch, wire
from bed import topology as topo
from bed.parallel import together
from lib.lab import stand_still, wait_until

NEAR = topo.ce("green-a")
FAR = topo.far(NEAR)
OTHER = topo.ce("red-a")  # another customer's at the same site
SITE = topo.SITES[0]
HANGS_S = 15
LIMIT_S = 240  # for VMs to boot and sessions to come back on a busy machine

SOURCE_READY, SOURCE_STOPPED = ("source", "ready"), ("source", "stopped")
SOURCE_GOES_ON = ("source", "both")  # and the destination has all of it
DESTINATION_RUNS = ("destination", "active")

RULES = {}  # the edge switch's, by the servers on which the VMs are


def chosen(always, more):
    """What a parametrized test is run with."""
    return always + (more if os.environ.get("EDGEPLEX_ALL_MOVES") else [])


def resets():
    """How often each session of the PVM was reset, and of another one that isn't moved."""
    return [{n["address"]: n["resets"] for n in controller.query("pvm", "show", name)["bgp"]}
            for name in (NEAR.name, OTHER.name)]


def same_sessions(before):
    """No session was reset; unless the other PVM's were too, which a starved machine does."""
    mine, others = resets()
    if mine != before[0]:
        print(f"sessions were reset: {before} became {mine}, {others}; {moves.last_errors(NEAR.name)}")
    return mine == before[0] or others != before[1]


def crosses(edge, far):
    """Do packets cross both ways, of both families?"""
    return all(checks.ping(a.ns, source, destination, count=2, interval_s=0.05, limit_s=3)[0] == 2
               for a, source, destination in ((edge, edge.host4, far.host4),
                                              (edge, edge.host6, far.host6),
                                              (far, far.host4, edge.host4)))


def placement():
    """Where the VMs of the site are."""
    return tuple(row for row in moves.database(
        "SELECT 'pvm', port_id, server_id FROM pvms UNION SELECT 'cvm', site_id, server_id FROM cvms"
        " ORDER BY 1, 2"))


def served(near=NEAR):
    """Waits until the customer has service, and nothing is left of moves."""
    far = topo.far(near)
    wait_until(lambda: crosses(near, far), LIMIT_S, "packets cross", 0.2)
    checks.wait_established([near], LIMIT_S)
    checks.wait_routes([near, far], LIMIT_S)
    left = []

    def clean():
        left[:] = moves.leftovers(near.name)
        return not left

    try:
        wait_until(clean, 30, "nothing is left", 0.3)
    except TimeoutError as error:
        raise AssertionError(f"left behind: {left}") from error
    there = moves.rules(SITE)
    assert RULES.setdefault(placement(), there) == there


@contextmanager
def begun():
    """A move that was just begun; looks at the wire meanwhile: never two control planes. Ends when the
    move has ended and the customer has service again."""
    port = controller.query("port", "show", NEAR.name)
    source = moves.by_name(port["server"])
    with wire.Wire(port, controller.query("cvm", "show", SITE.name), source.name,
                   moves.other(source).name) as seen:
        with moves.Move(NEAR.name) as move:
            yield move
            state = move.end(LIMIT_S)["state"]
            served()
    assert not seen.one_speaker(back=state == "failed")["violations"]


def migrate(point=None, act=None):
    """Moves the PVM; `act(move)` is called at `point`. Returns the operation, and the move."""
    with begun() as move:
        if act:
            move.reach("copy-memory")
            move.find_destination()
            assert move.reach(point), f"{point} wasn't reached: {move.end()}"
            act(move)
    return move.operation, move


def stayed(move):
    """It failed, and the PVM is where it was."""
    assert moves.server_of(NEAR.name) == move.source


def moved(move):
    """The PVM is on the destination, the very VM that was copied to there."""
    assert moves.server_of(NEAR.name) == move.destination


def failed(operation, *texts):
    """Did the operation fail, and does it say why?"""
    assert operation["state"] == "failed", operation
    for text in texts:
        assert text in operation["error"]["detail"], operation["error"]


def succeeded(operation):
    """Did the operation succeed?"""
    assert operation["state"] == "succeeded", operation


def ended_well(operation, move, *texts):
    """It failed, says why, and the source's VM serves on; or it was all over by then, and succeeded: a
    VM is stopped for some milliseconds only, and who is to die then may die later."""
    if operation["state"] == "succeeded":
        moved(move)
    else:
        failed(operation, *texts)
        stayed(move)
        assert moves.qemu(NEAR.name, move.source) == move.pids["source"]


def can_be_moved():
    """A move succeeds, without a session being reset."""
    before = resets()
    operation, move = migrate()
    succeeded(operation)
    moved(move)
    assert same_sessions(before)


def kill(pid):
    """kill -9."""
    os.kill(pid, signal.SIGKILL)


def test_there_and_back(bed):  # pylint: disable=unused-argument
    can_be_moved()
    can_be_moved()


# ---- QEMU ----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", chosen([SOURCE_READY, SOURCE_STOPPED],
                                         ["copy-memory", SOURCE_GOES_ON]))
def test_destination_dies(bed, point):  # pylint: disable=unused-argument
    """Before it has run: the source serves on, the same VM with the same sessions."""
    before = resets()
    operation, move = migrate(point, lambda m: kill(m.pids["destination"]))
    failed(operation, move.source.name, move.destination.name)
    stayed(move)
    assert moves.qemu(NEAR.name, move.source) == move.pids["source"]
    assert same_sessions(before)
    can_be_moved()


def test_destination_dies_when_it_runs(bed):  # pylint: disable=unused-argument
    operation, move = migrate(DESTINATION_RUNS, lambda m: kill(m.pids["destination"]))
    # Once the move was committed the VM is started anew there.
    if operation["state"] == "failed":
        stayed(move)
        assert moves.qemu(NEAR.name, move.source) == move.pids["source"]
    else:
        moved(move)
    can_be_moved()


@pytest.mark.parametrize("point", chosen([SOURCE_GOES_ON], [DESTINATION_RUNS]))
def test_source_dies_when_it_is_copied(bed, point):  # pylint: disable=unused-argument
    """The destination takes over, with the sessions."""
    before = resets()
    operation, move = migrate(point, lambda m: kill(m.pids["source"]))
    succeeded(operation)
    moved(move)
    assert moves.qemu(NEAR.name, move.destination) == move.pids["destination"]
    assert same_sessions(before)
    can_be_moved()


@pytest.mark.parametrize("point", chosen(["copy-memory"], [SOURCE_READY]))
def test_source_dies_before_it_is_copied(bed, point):  # pylint: disable=unused-argument
    """It is started anew where it was."""
    operation, move = migrate(point, lambda m: kill(m.pids["source"]))
    failed(operation, move.source.name)
    stayed(move)
    assert moves.qemu(NEAR.name, move.source) != move.pids["source"]
    can_be_moved()


# ---- hostd ---------------------------------------------------------------------------------


def hostd_killed(role, point):
    """A move at which a server's hostd is killed."""
    pids = {server.name: host.daemon_pid(f"{server.name}-hostd") for server in SITE.servers}
    return migrate(point, lambda m: kill(pids[getattr(m, role).name]))


@pytest.mark.parametrize("point", chosen([SOURCE_STOPPED], ["copy-memory"]))
def test_hostd_of_the_source_dies(bed, point):  # pylint: disable=unused-argument
    before = resets()
    operation, move = hostd_killed("source", point)
    ended_well(operation, move, move.source.name)
    assert same_sessions(before)
    can_be_moved()


@pytest.mark.parametrize("point", chosen([SOURCE_STOPPED], ["copy-memory", SOURCE_READY]))
def test_hostd_of_the_destination_dies(bed, point):  # pylint: disable=unused-argument
    operation, move = hostd_killed("destination", point)
    ended_well(operation, move, move.destination.name)
    can_be_moved()


@pytest.mark.parametrize("role", chosen(["destination"], ["source"]))
def test_hostd_is_not_needed_when_both_run(bed, role):  # pylint: disable=unused-argument
    before = resets()
    operation, move = hostd_killed(role, DESTINATION_RUNS)
    if operation["state"] == "succeeded":
        moved(move)
        assert same_sessions(before)
    else:
        stayed(move)
    can_be_moved()


@contextmanager
def hanging(pid):
    """A process that hangs for the length of a block."""
    stand_still(pid)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # a hostd that hung for 10 s was killed by its guard
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("role, point", chosen(
    [("source", "copy-memory")],
    [("destination", "copy-memory"), ("source", SOURCE_READY), ("destination", SOURCE_READY),
     ("source", DESTINATION_RUNS), ("destination", DESTINATION_RUNS)]))
def test_hostd_hangs(bed, role, point):  # pylint: disable=unused-argument
    """The customer is served while it hangs, and the move ends before it goes on, or with it."""
    pids = {server.name: host.daemon_pid(f"{server.name}-hostd") for server in SITE.servers}
    before = resets()
    with ExitStack() as stack:
        def hang(move):
            stack.enter_context(hanging(pids[getattr(move, role).name]))
            wait_until(lambda: crosses(NEAR, FAR), 60, "packets cross while it hangs", 0.2)
            wait_until(lambda: move.state() != "running" or move.age_s() > HANGS_S, 2 * HANGS_S,
                       "the move has ended, or waits for long enough", 0.2)
            stack.close()

        operation, move = migrate(point, hang)
    if operation["state"] == "succeeded":
        moved(move)
    else:
        stayed(move)
        assert moves.qemu(NEAR.name, move.source) == move.pids["source"]
    assert same_sessions(before)
    can_be_moved()


# ---- edgeplexd -----------------------------------------------------------------------------


@pytest.mark.parametrize("point", chosen(
    [SOURCE_STOPPED, "settle"],
    ["start-copy", "copy-memory", "switch-over", SOURCE_GOES_ON, DESTINATION_RUNS,
     "end-source"]))
def test_controller_dies(bed, point):  # pylint: disable=unused-argument
    """It takes the move up again, and ends it or takes it back."""
    pid, before = host.daemon_pid("edgeplexd"), resets()
    with begun() as move:
        assert move.reach(point)
        kill(pid)
    operation = move.operation
    if operation["state"] == "succeeded":
        moved(move)
    else:
        failed(operation, "interrupted")
        stayed(move)
        assert moves.qemu(NEAR.name, move.source) == move.pids["source"]
    assert same_sessions(before)
    # What one move has left may show at the next but one, when the PVM is there again.
    can_be_moved()
    can_be_moved()


# ---- switch and network --------------------------------------------------------------------


@pytest.mark.parametrize("point", chosen([SOURCE_STOPPED], ["copy-memory", DESTINATION_RUNS]))
def test_edge_switch_restarts(bed, point):  # pylint: disable=unused-argument
    """A new switch has no rules and is given all of them, for the one side or the other."""
    name = f"edge-{SITE.name}"
    pid = host.daemon_pid(f"{name}-vswitchd")

    def restart(_move):
        kill(pid)
        wait_until(lambda: host.daemons()[f"{name}-vswitchd"]["pid"] is None, 10, "it is gone")
        switch.start_daemon(name, SITE.ns, SITE.dir)

    with moves.Move(NEAR.name) as move:
        move.reach("copy-memory")
        assert move.reach(point)
        restart(move)
        operation = move.end(LIMIT_S)
        served()
        served(OTHER)
    assert operation["state"] in ("failed", "succeeded")
    (moved if operation["state"] == "succeeded" else stayed)(move)
    can_be_moved()


@pytest.mark.parametrize("point", chosen([], ["copy-memory", SOURCE_READY, SOURCE_STOPPED,
                                              DESTINATION_RUNS, "settle"]))
def test_edge_switch_hangs(bed, point):  # pylint: disable=unused-argument
    """No packet passes meanwhile; afterwards one side serves."""
    pid = host.daemon_pid(f"edge-{SITE.name}-vswitchd")
    with moves.Move(NEAR.name) as move:
        move.reach("copy-memory")
        assert move.reach(point)
        with hanging(pid):
            began = move.age_s()
            wait_until(lambda: move.age_s() > began + HANGS_S, 2 * HANGS_S, "it hung long enough")
        operation = move.end(LIMIT_S)
        served()
        served(OTHER)
    (moved if operation["state"] == "succeeded" else stayed)(move)
    can_be_moved()


def servers_reach_each_other():
    """A neighbour that didn't answer while the cable was out isn't asked again at once."""
    left, right = SITE.servers
    return all(checks.ping(a.ns, a.address, b.address, count=1, limit_s=1)[0]
               for a, b in ((left, right), (right, left)))


@pytest.mark.parametrize("point", chosen([SOURCE_STOPPED], ["copy-memory", SOURCE_READY,
                                                            SOURCE_GOES_ON]))
def test_network_between_servers_is_cut(bed, point):  # pylint: disable=unused-argument
    cable = ["ip", "link", "set", "dev", SITE.servers[0].name]
    before = resets()
    try:
        operation, move = migrate(
            point, lambda _: host.run(SITE.management_ns, [*cable, "down"]))
    finally:
        host.run(SITE.management_ns, [*cable, "up"])
    if operation["state"] == "succeeded":
        moved(move)  # all of it was over there already
    else:
        stayed(move)
        assert moves.qemu(NEAR.name, move.source) == move.pids["source"]
    assert same_sessions(before)
    wait_until(servers_reach_each_other, 30, "the servers reach each other again")
    can_be_moved()


# ---- memory --------------------------------------------------------------------------------


def test_destination_has_no_memory_to_give(bed):  # pylint: disable=unused-argument
    """By the controller's books."""
    destination = moves.other(moves.server_of(NEAR.name))
    if moves.server_of(OTHER.name) != destination:
        controller.cli("pvm", "migrate", OTHER.name)
    had = controller.query("server", "show", destination.name)["memory_mib"]
    controller.cli("server", "set", destination.name, "--memory-mib", 256)
    try:
        with pytest.raises(controller.CliError) as error:
            controller.cli("pvm", "migrate", NEAR.name, "--to", destination.name)
        assert "memory_mib" in error.value.output
        assert moves.database("SELECT count(*) FROM operations WHERE state = 0") == [(0,)]
    finally:
        controller.cli("server", "set", destination.name, "--memory-mib", had)
    served()
    can_be_moved()


def test_destination_runs_out_of_memory(bed):  # pylint: disable=unused-argument
    """Really: where VMs' memory lies there is no room for another."""
    destination = moves.other(moves.server_of(NEAR.name))
    holder = host.daemon_pid(destination.name)
    used = os.statvfs(f"/proc/{holder}/root/run/edgeplex/ram")
    mib = (used.f_blocks - used.f_bfree) * used.f_frsize // 2**20 + 16

    def resize(size):
        host.run(None, ["nsenter", f"--target={holder}", "--mount", "mount", "-o",
                        f"remount,size={size}", "none", "/run/edgeplex/ram"])

    before = resets()
    resize(f"{mib}M")
    try:
        with begun() as move:
            pass
    finally:
        resize("50%")
    operation = move.operation
    failed(operation, destination.name, "space")
    stayed(move)
    assert moves.qemu(NEAR.name, move.source) == move.pids["source"]
    assert same_sessions(before)
    can_be_moved()


# ---- what else happens to a PVM ------------------------------------------------------------


def refused(*words):
    """The client's output when the API answers 409."""
    with pytest.raises(controller.CliError) as error:
        controller.cli(*words)
    assert "operation" in error.value.output
    return error.value.output


def test_one_thing_at_a_time(bed):  # pylint: disable=unused-argument
    with moves.Move(NEAR.name) as move:
        refused("pvm", "migrate", NEAR.name)
        refused("port", "set", NEAR.name, "--ce-mac", "none")
        refused("port", "delete", NEAR.name)
        succeeded(move.end())
        moved(move)
    served()


def test_without_a_cvm(bed):  # pylint: disable=unused-argument
    """A CVM that doesn't answer keeps nobody from moving."""
    cvm = moves.qemu(SITE.name, moves.by_name(controller.query("cvm", "show", SITE.name)["server"]),
                     "cvm")
    stand_still(cvm)
    try:
        with moves.Move(NEAR.name) as move:
            succeeded(move.end())
            moved(move)
    finally:
        os.kill(cvm, signal.SIGCONT)
    served()


def test_deleted_after_a_failed_move(bed):  # pylint: disable=unused-argument
    operation, move = migrate(SOURCE_READY, lambda m: kill(m.pids["destination"]))
    failed(operation)
    controller.cli("port", "delete", NEAR.name)
    for server in SITE.servers:
        assert f"pvm-{NEAR.name}" not in moves.domains(server)
        assert not moves.copies(server)
    controller.cli(*controller.port_create(NEAR))
    assert move.source in SITE.servers
    served()
    can_be_moved()


def test_drain(bed):  # pylint: disable=unused-argument
    """All PVMs of a server at once; then nothing is placed there until it is in service again."""
    here = moves.server_of(NEAR.name)
    if moves.server_of(OTHER.name) != here:
        controller.cli("pvm", "migrate", OTHER.name)
    controller.cli("server", "drain", here.name)
    try:
        assert not [vm for vm in moves.domains(here) if vm.startswith("pvm-")]
        assert controller.query("server", "show", here.name)["drained"]
        with pytest.raises(controller.CliError) as error:
            controller.cli("pvm", "migrate", NEAR.name)
        assert "out of service" in error.value.output or "drain" in error.value.output
        together(served, lambda: served(OTHER))
    finally:
        controller.cli("server", "undrain", here.name)
    can_be_moved()


def steps_now():
    """{(object, step)} at which operations are."""
    return set(moves.database(
        "SELECT o.object, s.name FROM operations o JOIN operation_steps s ON s.operation_id = o.id"
        " WHERE o.state = 0 AND s.state = 1"))


@pytest.mark.parametrize("every", chosen([False], [True]))
def test_controller_dies_in_a_drain(bed, every):  # pylint: disable=unused-argument
    """It goes on with the drain; if `every`, it dies at each step of each VM's move that it is seen
    at. A move that was interrupted may be taken back: then a second drain moves what is left."""
    here = moves.server_of(NEAR.name)
    if moves.server_of(OTHER.name) != here:
        controller.cli("pvm", "migrate", OTHER.name)
    number = controller.query("server", "drain", here.name, "--no-wait")["id"]
    killed = set()

    def ended():
        return moves.database("SELECT state FROM operations WHERE id = ?", number) != [(0,)]

    def here_now():
        return [at for at in steps_now() - killed if every or at[1] == "copy-memory"]

    while every or not killed:
        pid, restarts = host.daemon_pid("edgeplexd"), host.daemons()["edgeplexd"]["restarts"]
        wait_until(lambda: here_now() or ended(), LIMIT_S, "the next step of the drain", 0.001)
        if ended():
            break
        killed.update(here_now()[:1])
        kill(pid)
        wait_until(lambda: host.daemons()["edgeplexd"]["restarts"] > restarts
                   and host.daemons()["edgeplexd"]["pid"], 20, "edgeplexd is started again")
    print(f"killed at {sorted(killed)}")
    assert "copy-memory" in {step for _, step in killed}
    wait_until(ended, LIMIT_S, "the drain has ended")
    wait_until(lambda: controller.cli("status"), 20, "edgeplexd answers")
    try:
        assert controller.query("server", "show", here.name)["drained"]
        operation = controller.query("operation", "show", number)
        if operation["state"] == "failed":
            assert every, operation
            controller.cli("server", "drain", here.name)
        assert not [vm for vm in moves.domains(here) if vm.startswith(("pvm-", "cvm-"))]
        together(served, lambda: served(OTHER))
    finally:
        controller.cli("server", "undrain", here.name)


def test_drain_under_traffic(bed):  # pylint: disable=unused-argument
    """Three PVMs at once, there and back, with packets both ways: none is lost, none comes twice, and no
    session is reset; nor of a customer who stays."""
    with drains.Rig(3, rate=50) as rig:
        for do in (rig.drain, rig.back):
            assert rig.observe(do)["problems"] == []
    served()
    served(OTHER)
