# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves of a real VM between two hostds; and everything that can die meanwhile."""

import os
import signal
import socket
import threading

import pytest

from hostlab import MEM_KIB, Hostd, Pair, Rpc, RpcError
from lib.lab import Lab, stand_still, wait_until

CONFLICT, NOT_FOUND, UNAVAILABLE = -32001, -32002, -32000
STOPPED = ("postmigrate", "finish-migrate")  # the latter for a moment


@pytest.fixture(scope="module")
def pair():
    with Lab("hostd") as lab:
        pair = Pair(lab)
        yield pair
        pair.close()


@pytest.fixture(autouse=True)
def clean(request):
    """Each test leaves hostds running and the source running without a move."""
    if "pair" not in request.fixturenames:
        yield
        return
    pair = request.getfixturevalue("pair")
    yield
    for hostd in (pair.a, pair.b):
        if hostd.process.poll() is not None:
            hostd.start()
        hostd.call("move.abort", uuid=pair.uuid)
    wait_until(lambda: pair.source.status() == "running", 15, "the source runs")
    assert not pair.source.capability("x-ignore-shared")


def assert_went_on(before, after):
    """The same VM, later."""
    assert after[0] == before[0]
    assert after[1] > before[1]
    for name, cpu_ms in before[2].items():
        assert after[2][name] >= cpu_ms


def files(hostd):
    """What a hostd has in its run directory, but its lock."""
    return sorted(f for f in os.listdir(hostd.run_dir) if f != "lock")


# ---- moves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pagemap", "compare", "pagemap"])
def test_move(pair, engine):
    """All of the VM arrives, and goes on where it was. Thrice: also back, and what was moved."""
    before = pair.source.facts()
    assert pair.start(engine)["engine"] == engine
    ready = pair.wait_source("ready")
    assert ready["pages"] >= MEM_KIB / 4 and 0 < ready["bytes"] < MEM_KIB * 1024
    frozen = pair.freeze()
    assert frozen["state"] == "frozen" and frozen["freeze_us"]["acknowledged"] > 0
    assert pair.source.status() in STOPPED and pair.target.status() == "inmigrate"
    assert pair.wait_target("holding")["epoch"] == 1
    assert pair.same_memory()
    assert not pair.source.capability("x-ignore-shared")

    active = pair.b.call("move.activate", uuid=pair.uuid)
    assert active["state"] == "active"
    assert pair.target.status() == "running"
    assert not pair.target.capability("x-ignore-shared")
    assert_went_on(before, pair.target.facts())
    assert pair.source.status() in STOPPED
    assert pair.source_state()["granted"]
    # Once more: nothing happens.
    assert pair.b.call("move.activate", uuid=pair.uuid)["state"] == "active"
    assert pair.freeze()["state"] == "frozen"

    both = pair.a.call("move.resume_source", uuid=pair.uuid)
    assert both["state"] == "both" and pair.source.status() == "running"
    assert_went_on(before, pair.source.facts())

    def told():
        pair.a.call("hostd.info")
        return [n["state"] for n in pair.a.rpc.news if n["uuid"] == pair.uuid]

    wait_until(lambda: told()[-4:] == ["ready", "stopped", "frozen", "both"], 10, "the news came")
    assert "copying" in told()
    pair.a.rpc.news.clear()
    pair.swap()
    assert files(pair.a) == files(pair.b) == []


def test_a_fenced_source_goes_on_by_itself(pair):
    """Before the destination has all of it, and the destination is whole all the same."""
    before = pair.source.facts()
    pair.start("auto")
    pair.wait_source("ready")
    frozen = pair.freeze(fenced=True)
    assert frozen["state"] == "both" and not frozen["granted"]
    times = frozen["freeze_us"]
    assert times["stop"] < times["state"] <= times["paused"] and times["send"] <= times["acknowledged"]
    assert pair.source.status() == "running"
    assert pair.wait_target("holding")["epoch"] == 1
    assert pair.a.call("move.resume_source", uuid=pair.uuid)["state"] == "both"
    assert pair.b.call("move.activate", uuid=pair.uuid)["state"] == "active"
    assert_went_on(before, pair.target.facts())
    assert_went_on(before, pair.source.facts())



def test_source_may_go_on_before_the_destination_runs(pair):
    pair.start()
    pair.freeze()
    pair.a.call("move.resume_source", uuid=pair.uuid)
    assert pair.source.status() == "running" and pair.target.status() == "inmigrate"
    pair.b.call("move.activate", uuid=pair.uuid)
    assert pair.target.status() == pair.source.status() == "running"


def test_start_and_prepare_may_be_repeated(pair):
    first = pair.prepare()
    again = pair.b.call("receive.prepare", uuid=pair.uuid, ram_path=pair.target.ram,
                        qmp_path=pair.target.qmp)
    assert again["ticket"] == first["ticket"]
    pair.start(ticket=first["ticket"])
    pair.wait_source("ready")
    assert pair.start(ticket=first["ticket"])["state"] == "ready"


def test_memory_is_found():
    """Nobody says where the memory is, and its file has no name; hostd dies over it, too."""
    with Lab("hostd") as lab:
        pair = Pair(lab, nameless=True)
        try:
            before = pair.source.facts()
            assert pair.start("pagemap")["memory_pages"] == MEM_KIB / 4
            pair.freeze()
            assert pair.b.call("move.activate", uuid=pair.uuid)["state"] == "active"
            assert_went_on(before, pair.target.facts())
            pair.a.call("move.resume_source", uuid=pair.uuid)
            pair.swap()

            before = pair.source.facts()
            pair.start("pagemap")
            pair.freeze()
            pair.b.kill()
            pair.b.start()
            assert pair.target_state()["state"] == "lost"
            pair.source.end()
            assert pair.b.call("move.activate", uuid=pair.uuid, fenced=True)["state"] == "active"
            assert_went_on(before, pair.target.facts())
        finally:
            pair.close()


def test_memory_that_is_no_file(pair):
    """A VM whose memory can't be copied from outside: the error tells what would be right."""
    argv = ["nice", "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "32", "-S",
            "-nodefaults", "-display", "none", "-incoming", "defer",
            "-qmp", f"unix:{pair.lab.dir}/none.qmp,server=on,wait=off"]
    process = pair.lab.spawn(None, argv, "vm-none")
    wait_until(lambda: os.path.exists(f"{pair.lab.dir}/none.qmp"), 20, "QEMU listens")
    try:
        with pytest.raises(RpcError) as refused:
            pair.b.call("receive.prepare", uuid=pair.uuid, qmp_path=f"{pair.lab.dir}/none.qmp")
        assert refused.value.code == CONFLICT and "memory-backend-file" in str(refused.value)
    finally:
        process.kill()
        process.wait()


def test_unwatched_qemu_is_compared():
    """Without the preloaded library: the fallback, which says why."""
    with Lab("hostd") as lab:
        pair = Pair(lab, watched=False)
        try:
            before = pair.source.facts()
            status = pair.start()
            assert status["engine"] == "compare" and "LD_PRELOAD" in status["engine_reason"]
            pair.wait_source("ready")
            pair.freeze()
            assert pair.same_memory()
            pair.b.call("move.activate", uuid=pair.uuid)
            assert_went_on(before, pair.target.facts())
            with pytest.raises(RpcError, match="LD_PRELOAD") as refused:
                pair.a.call("move.abort", uuid=pair.uuid)
                pair.start("pagemap")
            assert refused.value.field == "/ram_path"
        finally:
            pair.close()


# ---- aborts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["copying", "ready", "frozen", "both", "active"])
def test_abort_at_the_source(pair, phase):
    """The source runs, the destination never does (again)."""
    pair.start()
    if phase != "copying":
        pair.wait_source("ready")
    if phase in ("frozen", "both", "active"):
        pair.freeze()
    if phase == "both":
        pair.a.call("move.resume_source", uuid=pair.uuid)
    if phase == "active":
        pair.b.call("move.activate", uuid=pair.uuid)
    pair.a.call("move.abort", uuid=pair.uuid)
    assert pair.source.status() == "running"
    pair.wait_target("ended")
    assert pair.target.status() == ("paused" if phase == "active" else "inmigrate")
    with pytest.raises(RpcError) as refused:
        pair.b.call("move.activate", uuid=pair.uuid)
    assert refused.value.code == CONFLICT
    pair.a.call("move.abort", uuid=pair.uuid)  # again
    assert files(pair.a) == files(pair.b) == []


def test_abort_at_the_destination(pair):
    pair.start()
    pair.freeze()
    pair.b.call("move.abort", uuid=pair.uuid)
    ended = pair.wait_source("ended")
    assert "aborted" in ended["reason"]
    assert pair.source.status() == "running" and pair.target.status() == "inmigrate"


def test_abort_names_the_side(pair):
    """A VM that a move brought here runs on when a later move from here is aborted."""
    pair.start()
    pair.freeze()
    pair.a.call("move.resume_source", uuid=pair.uuid)
    pair.b.call("move.activate", uuid=pair.uuid)
    pair.b.call("move.abort", uuid=pair.uuid, role="source")
    assert pair.target.status() == "running"
    assert pair.target_state()["state"] == "active"
    with pytest.raises(RpcError) as error:
        pair.b.call("move.abort", uuid=pair.uuid, role="target")
    assert error.value.field == "/role"
    pair.b.call("move.abort", uuid=pair.uuid, role="destination")
    assert pair.target.status() == "paused"
    assert pair.b.call("hostd.info")["copies"] == []


# ---- the controller dies -----------------------------------------------------------------------


def test_silent_controller(pair):
    """The source resumes by itself, and from then on the destination gets no leave."""
    pair.start(silence_ms=500)
    pair.freeze()
    # Not by move.status: that is a word of the controller.
    wait_until(lambda: pair.source.status() == "running", 10, "the source runs by itself")
    assert "no word of the controller" in pair.wait_source("ended")["reason"]
    with pytest.raises(RpcError) as refused:
        pair.b.call("move.activate", uuid=pair.uuid)
    assert refused.value.code == CONFLICT
    assert pair.target.status() in ("inmigrate", "paused")


def test_words_of_the_controller_keep_it_frozen(pair):
    pair.start(silence_ms=1000)
    pair.freeze()
    for _ in range(20):
        assert pair.source_state()["state"] == "frozen"
        threading.Event().wait(0.1)  # a controller that asks ten times a second
    assert pair.source.status() in STOPPED


def test_silence_after_the_leave(pair):
    """Activated, and then nobody says anything: the source must not run by itself."""
    pair.start(silence_ms=300)
    pair.freeze()
    pair.b.call("move.activate", uuid=pair.uuid)
    asleep = threading.Event()
    assert not asleep.wait(1.5)
    assert pair.source.status() in STOPPED and pair.target.status() == "running"


# ---- hostds die --------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["copying", "ready", "frozen", "both"])
def test_source_hostd_killed(pair, phase):
    """The source runs without waiting for a new hostd; the destination gets no leave."""
    pair.start()
    if phase != "copying":
        pair.wait_source("ready")
    if phase in ("frozen", "both"):
        pair.freeze()
    if phase == "both":
        pair.a.call("move.resume_source", uuid=pair.uuid)
    pair.a.kill()
    wait_until(lambda: pair.source.status() == "running", 10, "the source runs")
    wait_until(lambda: not pair.source.capability("x-ignore-shared"), 10, "saving by virsh is safe")
    state = "lost" if phase in ("frozen", "both") else "ended"
    pair.wait_target(state)
    with pytest.raises(RpcError):
        pair.b.call("move.activate", uuid=pair.uuid)
    assert pair.target.status() in ("inmigrate", "paused")
    pair.a.start()
    assert pair.a.call("hostd.info")["copies"] == []
    assert files(pair.a) == []


def test_source_hostd_killed_while_it_freezes(pair):
    """At moments spread over the freeze; the VM never stays stopped."""
    for delay_ms in range(0, 60, 6):
        pair.start()
        pair.wait_source("ready")
        pair.a.rpc.ask("move.freeze", {"uuid": pair.uuid})
        threading.Event().wait(delay_ms / 1000)
        pair.a.kill()
        wait_until(lambda: pair.source.status() == "running", 10, f"it runs, killed after {delay_ms} ms")
        pair.a.start()
        wait_until(lambda: not pair.source.capability("x-ignore-shared"), 10, "saving by virsh is safe")
        pair.source.ask("guest.info", 10)
        pair.b.call("move.abort", uuid=pair.uuid)


def test_source_hostd_killed_after_the_leave(pair):
    """The destination runs; the source must not, or there would be two."""
    pair.start()
    pair.freeze()
    pair.b.call("move.activate", uuid=pair.uuid)
    pair.a.kill()
    pair.a.start()  # waits for the guard of the one before
    assert pair.source.status() in STOPPED and pair.target.status() == "running"
    pair.b.call("move.abort", uuid=pair.uuid)
    pair.source.monitor("cont")


@pytest.mark.parametrize("phase", ["copying", "ready", "frozen"])
def test_destination_hostd_killed(pair, phase):
    pair.start()
    if phase != "copying":
        pair.wait_source("ready")
    if phase == "frozen":
        pair.freeze()
    pair.b.kill()
    wait_until(lambda: pair.source.status() == "running", 10, "the source runs")
    pair.wait_source("ended")
    pair.b.start()
    if phase == "frozen":
        # What was whole is still held, but the source has gone on: only with a fence.
        assert pair.target_state()["state"] == "lost"
        with pytest.raises(RpcError) as refused:
            pair.b.call("move.activate", uuid=pair.uuid)
        assert refused.value.field == "/fenced"
        assert pair.b.call("move.activate", uuid=pair.uuid, fenced=True)["state"] == "active"
        pair.target.ask("guest.info", 10)
    else:
        assert pair.b.call("hostd.info")["copies"] == []


def test_terminated_hostd_resumes_the_source(pair):
    pair.start()
    pair.freeze()
    pair.a.process.terminate()
    assert pair.a.process.wait(20) == 0, pair.a.log()
    pair.a.rpc.close()
    assert pair.source.status() == "running"
    pair.wait_target("ended")
    assert files(pair.a) == []


# ---- QEMUs die or hang -------------------------------------------------------------------------


def test_stopped_qemu_hangs_nobody(pair):
    pair.start()
    pair.wait_source("ready")
    stand_still(pair.source.process.pid)
    try:
        with pytest.raises(RpcError):
            pair.freeze(timeout_ms=8000)
        assert pair.a.call("hostd.info")["copies"] != []
        with pytest.raises(RpcError) as refused:
            other = Rpc(pair.a.socket_path)
            other.call("receive.prepare", uuid=pair.uuid, ram_path=pair.source.ram,
                       qmp_path=pair.source.qmp)
        assert refused.value.code == UNAVAILABLE
    finally:
        os.kill(pair.source.process.pid, signal.SIGCONT)
    wait_until(lambda: pair.source.status() == "running", 10, "the source runs")
    pair.wait_source("ended")


def test_hostd_hangs_while_the_source_stands_still(pair):
    """Its guard ends it, and the source goes on."""
    pair.start()
    pair.freeze()
    stand_still(pair.a.process.pid)
    assert pair.a.process.wait(60) == -signal.SIGKILL
    pair.a.rpc.close()
    wait_until(lambda: pair.source.status() == "running", 20, "the source runs")
    pair.wait_target("lost")


def test_destination_qemu_killed(pair):
    pair.start()
    pair.freeze()
    pair.target.process.kill()
    pair.target.process.wait()
    with pytest.raises(RpcError):
        pair.b.call("move.activate", uuid=pair.uuid)
    wait_until(lambda: pair.source.status() == "running", 10, "the source runs")
    pair.wait_source("ended")


def test_destination_that_dies_ends_the_copy(pair):
    """At once, and not when the source has been stopped for it; its socket doesn't stay."""
    pair.start()
    pair.wait_source("ready")
    pair.target.process.kill()
    pair.target.process.wait()
    assert "its VM has ended" in pair.wait_source("ended", 10)["reason"]
    assert pair.source.status() == "running"
    wait_until(lambda: not os.path.exists(pair.target.qmp), 10, "its socket is removed")
    assert not pair.source_state()["vm_ended"]


# ---- peers that aren't ours --------------------------------------------------------------------


def test_wrong_certificate(pair):
    """Signed by a CA that isn't the site's: refused by either side."""
    pair.certificates.issue("stranger", ca="other-ca")
    stranger = Hostd(pair.lab, pair.ns, "stranger", 7003, ca="ca")
    ticket = pair.prepare()["ticket"]
    mine, pair.a = pair.a, stranger
    try:
        with pytest.raises(RpcError) as refused:
            pair.start(ticket=ticket)
        assert refused.value.field == "/to/address"
    finally:
        pair.a = mine
    with pytest.raises(RpcError, match="certificate") as refused:
        pair.start(ticket=ticket, address=stranger.address)
    assert refused.value.field == "/to/address"
    assert pair.target_state()["state"] == "waiting"
    pair.start(ticket=ticket)  # the ticket is still good for the right one
    pair.wait_source("ready")
    stranger.process.terminate()
    assert stranger.process.wait(20) == 0, stranger.log()


def test_no_certificate(pair):
    """A TLS client without one gets nothing; nor does one that speaks no TLS."""
    host, port = pair.b.address.split(":")
    client = ["timeout", "10", "openssl", "s_client", "-connect", pair.b.address, "-tls1_3", "-CAfile",
              pair.certificates.path("ca.pem")]
    pair.lab.run(pair.ns, client, check=False, stdin="hello\n")
    wait_until(lambda: "did not return a certificate" in pair.b.log(), 10, "it was refused")
    pair.lab.run(pair.ns, ["timeout", "10", "socat", "-u", "STDIN", f"TCP:{host}:{port}"], check=False,
                 stdin="GET / HTTP/1.0\r\n\r\n")
    pair.start()
    pair.wait_source("ready")


def test_wrong_ticket(pair):
    pair.prepare()
    with pytest.raises(RpcError, match="ticket") as refused:
        pair.start(ticket="00" * 32)
    assert refused.value.field == "/to/ticket"


def test_used_ticket(pair):
    ticket = pair.prepare()["ticket"]
    pair.start(ticket=ticket)
    pair.wait_source("ready")
    pair.a.call("move.abort", uuid=pair.uuid)
    with pytest.raises(RpcError):
        pair.start(ticket=ticket)


def test_bad_parameters(pair):
    ticket = "00" * 32
    good = {"uuid": pair.uuid, "ram_path": pair.source.ram, "qmp_path": pair.source.qmp,
            "to": {"address": pair.b.address, "ticket": ticket}}
    for field, value in [("uuid", "x"), ("uuid", 3), ("ram_path", "relative"), ("ram_path", "/none"),
                         ("qmp_path", None), ("engine", "best"), ("silence_ms", 1)]:
        with pytest.raises(RpcError) as refused:
            pair.a.call("move.start", **{**good, field: value})
        assert refused.value.field == f"/{field}", (field, value)
    for to in (None, {}, {"address": "nowhere", "ticket": ticket}, {"address": pair.b.address},
               {"address": pair.b.address, "ticket": "zz" * 32}):
        with pytest.raises(RpcError) as refused:
            pair.a.call("move.start", **{**good, "to": to})
        assert refused.value.field.startswith("/to/")
    for method in ("move.freeze", "move.resume_source", "move.activate", "move.status"):
        with pytest.raises(RpcError) as refused:
            pair.a.call(method, uuid=pair.uuid)
        assert refused.value.code == NOT_FOUND
    with pytest.raises(RpcError, match="no method"):
        pair.a.call("move.sideways")


def test_peer_cut(pair):
    """The connection between the hostds is cut while the source is stopped: it goes on."""
    pair.start()
    pair.freeze()
    stand_still(pair.b.process.pid)  # silent, not closed
    try:
        wait_until(lambda: pair.source.status() == "running", 20, "the source runs")
        pair.wait_source("ended")
    finally:
        os.kill(pair.b.process.pid, signal.SIGCONT)
    pair.wait_target("lost")


def test_the_socket_of_a_killed_qemu_is_forgotten(pair):
    """One that is served stays, and so does what is no socket."""
    path = f"{pair.a.lab.dir}/left.sock"
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.bind(path)
        qemu.listen()
        assert pair.a.call("hostd.alive", qmp_path=path) == {"vm_ended": False}
        assert pair.a.call("monitor.forget", qmp_path=path) == {"removed": False}
        assert os.path.exists(path)
    assert pair.a.call("hostd.alive", qmp_path=path) == {"vm_ended": True}
    assert pair.a.call("monitor.forget", qmp_path=path) == {"removed": True}
    assert not os.path.exists(path)
    assert pair.a.call("monitor.forget", qmp_path=path) == {"removed": False}
    with open(path, "w", encoding="ascii"):
        assert pair.a.call("monitor.forget", qmp_path=path) == {"removed": False}
    assert os.path.exists(path)
    for params in ({}, {"qmp_path": "left.sock"}, {"qmp_path": "/" + 200 * "x"}):
        with pytest.raises(RpcError) as refused:
            pair.a.call("monitor.forget", **params)
        assert refused.value.field == "/qmp_path"
