# SPDX-License-Identifier: GPL-2.0-or-later
"""PVMs, their guests and their servers fail, and customers come back by themselves: the same
addresses, label and MAC address, no route withdrawn, no VM left behind.

How fast that is, `make bench-heal` measures.
"""

import os
import signal
import time

import pytest

from bed import calm, checks, controller, failures, healing, host, moves, probes
from bed import topology as topo
from lib.lab import stand_still, wait_until

NEAR = topo.ce("green-a")
OTHER = topo.ce("red-a")
FAR = topo.far(NEAR)
SITE = topo.SITES[0]
LIMIT_S = 120
POOL_RESTS_NS = 10_000_000_000  # at most, as controller/heal.h has it
LATE_NS = 100_000_000  # an event is stored a little later than it happened


def crosses(edge, far):
    """Do packets cross both ways, of both families?"""
    return all(checks.ping(a.ns, source, destination, count=2, interval_s=0.05, limit_s=3)[0] == 2
               for a, source, destination in ((edge, edge.host4, far.host4),
                                              (edge, edge.host6, far.host6),
                                              (far, far.host4, edge.host4)))


def served(*edges):
    """Waits until these customers have service."""
    for edge in edges:
        wait_until(lambda e=edge: crosses(e, topo.far(e)), LIMIT_S, f"packets of {edge.name} cross", 0.2)
        checks.wait_established([edge], LIMIT_S)
        checks.wait_routes([edge, topo.far(edge)], LIMIT_S)
        assert controller.query("pvm", "show", edge.name)["state"] == "up"


def processes(name):
    """{name: process} of a PVM."""
    return {p["name"]: p for p in controller.query("pvm", "processes", name)["items"]}


def nothing_left():
    """Waits until every VM that runs is one that the controller wants, and nothing is void."""
    left = []

    def clean():
        wanted = {u for u, in moves.database("SELECT uuid FROM pvms UNION SELECT uuid FROM cvms"
                                             " UNION SELECT uuid FROM spares")}
        running = {u for where in SITE.servers for u in healing.domains_by_uuid(where)}
        left[:] = sorted(running - wanted) + healing.voids()
        return not left and wanted >= running

    try:
        wait_until(clean, LIMIT_S, "nothing is left", 0.3)
    except TimeoutError as error:
        raise AssertionError(f"left: {left}") from error


@pytest.fixture(scope="module", autouse=True)
def spared(bed):  # pylint: disable=unused-argument
    """Two spares at site A. Afterwards none, and VMs that are called as they were."""
    healing.want(SITE, 2)
    assert len({s["server"] for s in healing.spares(SITE)}) == 2
    yield
    healing.want(SITE, 0)
    for edge in (NEAR, OTHER):
        uuid, pid, where = healing.pvm(edge.name)
        if healing.domains_by_uuid(where)[uuid] != f"pvm-{edge.name}":
            since = healing.newest_event()
            os.kill(pid, signal.SIGKILL)
            assert f"started again on server {where.name}" in healing.wait_story(edge.name, since)
    served(NEAR, OTHER)
    nothing_left()


@pytest.fixture(autouse=True)
def whole():
    """Two spares are ready before each test, and nothing is left after it."""
    healing.wait_ready(SITE, 2)
    yield
    nothing_left()


def test_a_pvm_whose_process_dies_is_taken_over():
    before = controller.query("port", "show", NEAR.name)
    uuid, pid, where = healing.pvm(NEAR.name)
    mac = healing.neighbor_mac(NEAR)
    kept = [healing.Kept(NEAR, [FAR.prefix4, FAR.prefix6]), healing.Kept(FAR, [NEAR.prefix4, NEAR.prefix6])]
    since, killed_ns = healing.newest_event(), time.time_ns()
    os.kill(pid, signal.SIGKILL)

    def told():
        for one in kept:
            one.look()
        return any(healing.STORY.search(t) for t in healing.events_since(since, f"port/{NEAR.name}"))

    wait_until(told, LIMIT_S, "it was taken over", 0.05)
    story = healing.wait_story(NEAR.name, since)
    served(NEAR)
    assert "its VM died: taken over by spare-" in story and healing.STAGES.search(story), story
    # Not for a moment was a route withdrawn, neither at the customer nor beyond the core.
    assert not kept[0].missed and not kept[1].missed
    after = controller.query("port", "show", NEAR.name)
    for field in ("label", "rd", "inside_address", "mac", "addresses", "ce"):
        assert after[field] == before[field]
    assert after["vlans"] != before["vlans"]
    assert healing.neighbor_mac(NEAR) == mac == before["mac"]
    assert healing.pvm(NEAR.name)[0] != uuid
    history = controller.query("pvm", "show", NEAR.name)["history"][0]
    assert history["what"] == "taken over"
    assert history["detail"].endswith(f"on server {where.name} its VM died")
    # What the VM that was had isn't given out before it is gone; then the pool is full again.
    healing.wait_ready(SITE, 2)
    # It rested until the spare served: a VM that boots would have had its processor.
    told_ns = healing.wait_stories([NEAR.name], since)[NEAR.name][1]
    begun_ns = max(healing.ns_of(spare["created"]) for spare in healing.spares(SITE))
    assert begun_ns >= min(told_ns, killed_ns + POOL_RESTS_NS) - LATE_NS
    metrics = host.run(None, ["curl", "-s", "--unix-socket", controller.SOCKET,
                              "http://localhost/metrics"])
    assert 'edgeplex_heals_total{cause="died",way="spare"} 0' not in metrics
    assert 'edgeplex_heals_total{cause="died",way="spare"}' in metrics
    assert f'edgeplex_spares_ready{{site="{SITE.name}"}} 2' in metrics


def test_a_guest_that_hangs_is_taken_over():
    uuid, pid, _ = healing.pvm(NEAR.name)
    since = healing.newest_event()
    stand_still(pid)
    story = healing.wait_story(NEAR.name, since)
    assert "its VM didn't answer any more: taken over by spare-" in story
    served(NEAR)
    # It is ended, stopped as it is.
    wait_until(lambda: not healing.qemu(uuid), LIMIT_S, "the VM that hung is gone", 0.2)


def test_a_forwarder_that_hangs_is_started_again():
    uuid = healing.pvm(NEAR.name)[0]
    since = healing.newest_event()
    controller.cli("pvm", "signal", NEAR.name, "edgeplex-fwd", "STOP")
    wait_until(lambda: any("edgeplex-fwd in its VM stood still" in text for text in
                           healing.events_since(since, f"port/{NEAR.name}")), LIMIT_S, "it is noticed", 0.3)
    served(NEAR)
    assert healing.pvm(NEAR.name)[0] == uuid


def test_an_agent_that_hangs_costs_nothing():
    """Nobody reaches the VM, which forwards on: its init starts the agent again, and it isn't replaced."""
    uuid = healing.pvm(NEAR.name)[0]
    agent = processes(NEAR.name)["agent"]
    since = healing.newest_event()
    with pytest.raises(controller.CliError):
        # Nor does it say that it was done.
        controller.cli("pvm", "signal", NEAR.name, "agent", "STOP")

    def is_back():
        try:
            return processes(NEAR.name)["agent"]["restarts"] > agent["restarts"]
        except controller.CliError:
            return False

    wait_until(is_back, LIMIT_S, "the agent was started again", 0.3)
    served(NEAR)
    assert healing.pvm(NEAR.name)[0] == uuid
    assert not [text for text in healing.events_since(since, f"port/{NEAR.name}")
                if healing.STORY.search(text) or "gone" in text]


def away_from_cvm():
    """Both PVMs are on one server, and the CVM isn't. Returns that server."""
    cvm = moves.by_name(controller.query("cvm", "show", SITE.name)["server"])
    there = moves.other(cvm)
    for edge in (NEAR, OTHER):
        if moves.server_of(edge.name) is not there:
            controller.cli("pvm", "migrate", edge.name, "--to", there.name)
    return there


@pytest.mark.parametrize("kind, health", [("server", "dead"), ("silent", "dead"),
                                          ("trunk", "trunk-down")])
def test_a_server_that_dies(kind, health):
    where = away_from_cvm()
    healing.wait_ready(SITE, 2)
    # One spare is elsewhere: that is for one of the PVMs, the other one is started anew.
    uuids = [healing.pvm(edge.name)[0] for edge in (NEAR, OTHER)]
    ready = [s for s in healing.spares(SITE) if s["server"] != where.name]
    since = healing.newest_event()
    failure = failures.prepare(kind, SITE, where)
    try:
        failure.strike()
        stories = [healing.wait_story(edge.name, since) for edge in (NEAR, OTHER)]
        assert sum("taken over by spare-" in story for story in stories) == len(ready) == 1
        assert sum("placed anew" in story for story in stories) == 1
        assert controller.query("server", "show", where.name)["health"] == health
        # It never ran before: nobody starts it again.
        assert not [text for edge in (NEAR, OTHER) for text in healing.events_since(
            since, f"port/{edge.name}") if "is gone from server" in text]
        served(NEAR, OTHER)
        assert {moves.server_of(edge.name).name for edge in (NEAR, OTHER)} == {moves.other(where).name}
    finally:
        failure.repair()
    # Taken in again: its old VMs are ended, and it gets a spare.
    wait_until(lambda: controller.query("server", "show", where.name)["health"] == "well", LIMIT_S,
               "the server is well again", 0.3)
    for uuid in uuids:
        wait_until(lambda u=uuid: not healing.qemu(u), LIMIT_S, "its old VMs are gone", 0.3)
    healing.wait_ready(SITE, 2)
    wait_until(lambda: {s["server"] for s in healing.spares(SITE)} == {w.name for w in SITE.servers},
               LIMIT_S, "the spares are spread again", 0.3)
    served(NEAR, OTHER)


def test_a_server_that_dies_with_the_cvm():
    """Which is placed anew, unprotected as it is; the PVMs forward on, and routes are kept meanwhile."""
    where = moves.other(away_from_cvm())
    uuids = [healing.pvm(edge.name)[0] for edge in (NEAR, OTHER)]
    healing.wait_ready(SITE, 2)
    since = healing.newest_event()
    failure = failures.prepare("server", SITE, where)
    try:
        failure.strike()
        story = healing.wait_story(SITE.name, since, kind="cvm")
        assert f"the server died: placed anew on server {moves.other(where).name}" in story
        assert not [text for text in healing.events_since(since, f"cvm/{SITE.name}")
                    if "is gone from server" in text]
        served(NEAR, OTHER)
        assert [healing.pvm(edge.name)[0] for edge in (NEAR, OTHER)] == uuids
    finally:
        failure.repair()
    wait_until(lambda: controller.query("server", "show", where.name)["health"] == "well", LIMIT_S,
               "the server is well again", 0.3)
    served(NEAR, OTHER)


def test_a_server_that_forwards_out_of_reach_is_only_told_of():
    where = away_from_cvm()
    uuids = [healing.pvm(edge.name)[0] for edge in (NEAR, OTHER)]
    healing.wait_ready(SITE, 2)
    since = healing.newest_event()
    relay = host.daemon_pid(f"{where.name}-relay")

    def health():
        return controller.query("server", "show", where.name)["health"]

    with probes.Probes(NEAR, FAR, 100) as sent:
        begin = time.time_ns()
        stand_still(relay)
        try:
            wait_until(lambda: health() == "hidden", 60, "it is missed", 0.2)
            told = time.time_ns()
            # As long as would have made it dead three times over.
            wait_until(lambda: time.time_ns() > told + 8e9 or health() != "hidden", 20,
                       "time for second thoughts", 0.5)
            assert health() == "hidden"
        finally:
            os.kill(relay, signal.SIGCONT)
        wait_until(lambda: health() == "well", LIMIT_S, "the server is well again", 0.3)
        assert probes.total(sent.end(begin))["lost"] == 0
    assert [healing.pvm(edge.name)[0] for edge in (NEAR, OTHER)] == uuids
    texts = healing.events_since(since, f"server/{where.name}")
    assert sum("its VMs forward, but it doesn't answer" in text for text in texts) == 1
    assert not [text for edge in (NEAR, OTHER)
                for text in healing.events_since(since, f"port/{edge.name}")]
    served(NEAR, OTHER)


def test_a_vm_that_was_a_spare_is_moved():
    """Its NICs have other MTUs than one that was started for the port, and its name is another."""
    _, pid, _ = healing.pvm(NEAR.name)
    since = healing.newest_event()
    os.kill(pid, signal.SIGKILL)
    healing.wait_story(NEAR.name, since)
    served(NEAR)
    uuid, _, where = healing.pvm(NEAR.name)
    for there in (moves.other(where), where):
        with probes.Probes(NEAR, FAR, 100) as sent:
            controller.cli("pvm", "migrate", NEAR.name, "--to", there.name)
            sent.settled(time.time_ns())
            assert probes.total(sent.end())["lost"] == 0
        assert healing.pvm(NEAR.name)[0] == uuid and moves.server_of(NEAR.name) is there
        served(NEAR)


def is_back(former):
    """Waits until another edgeplexd runs."""
    def other():
        try:
            return host.daemon_pid("edgeplexd") != former
        except host.TestbedError:
            return False
    wait_until(other, LIMIT_S, "edgeplexd is back", 0.1)


def test_edgeplexd_is_killed_in_the_midst_of_a_take_over():
    """And what it missed is made up for when it starts."""
    _, pid, _ = healing.pvm(NEAR.name)
    since = healing.newest_event()
    before = moves.database("SELECT uuid FROM pvms WHERE port_id ="
                            " (SELECT id FROM ports WHERE name = ?)", NEAR.name)
    daemon = host.daemon_pid("edgeplexd")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: moves.database("SELECT uuid FROM pvms WHERE port_id = (SELECT id FROM ports"
                                      " WHERE name = ?)", NEAR.name) != before, LIMIT_S,
               "the take-over is stored", 0.002)
    os.kill(daemon, signal.SIGKILL)
    is_back(daemon)
    served(NEAR)
    assert controller.query("pvm", "show", NEAR.name)["history"][0]["what"] == "taken over"
    assert since < healing.newest_event()


def test_a_pvm_that_dies_while_edgeplexd_is_away():
    uuid, pid, _ = healing.pvm(NEAR.name)
    daemon = host.daemon_pid("edgeplexd")
    stand_still(daemon)
    os.kill(pid, signal.SIGKILL)
    os.kill(daemon, signal.SIGKILL)
    is_back(daemon)
    wait_until(lambda: healing.pvm(NEAR.name)[0] != uuid, LIMIT_S, "it is taken over", 0.3)
    served(NEAR)


def test_a_spare_that_dies_is_replaced():
    spare = healing.spares(SITE)[0]
    (pid, _), = healing.qemu(spare["vm"]["uuid"]).items()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in healing.qemu(spare["vm"]["uuid"]), LIMIT_S, "it is gone", 0.1)
    healing.wait_ready(SITE, 2)


def test_a_drain_takes_spares_away():
    where = moves.other(moves.by_name(controller.query("cvm", "show", SITE.name)["server"]))
    controller.cli("server", "drain", where.name)
    try:
        assert not healing.domains_by_uuid(where)
        assert where.name not in {s["server"] for s in healing.spares(SITE)}
    finally:
        controller.cli("server", "undrain", where.name)
    served(NEAR, OTHER)


def test_nobody_reacts_to_a_busy_machine():
    """A short form of `make bench-calm`."""
    seen = calm.watch(45, SITE)
    print(seen)
    assert seen["problems"] == []
