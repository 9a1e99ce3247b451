# SPDX-License-Identifier: GPL-2.0-or-later
"""Protection of a real VM: epochs, failovers with a TCP session that ends in the VM, and everything
that can die meanwhile."""

import os
import random
import signal
import threading
import time

import pytest

from hostlab import RpcError
from lib.lab import Lab, stand_still, wait_until
from protectlab import Protected, Sequence, Session, wait_news

CONFLICT, NOT_FOUND, INVALID = -32001, -32002, -32602
SEED = int(os.environ.get("EDGEPLEX_SEED", "0")) or random.randrange(1 << 30)
# A stop lasts milliseconds; a machine that has other things to do may make it longer. It is never
# longer than an epoch's time-out.
TIMEOUT_MS = 2000


@pytest.fixture(scope="module")
def pair():
    with Lab("protect") as lab:
        pair = Protected(lab)
        yield pair
        pair.close()


@pytest.fixture(autouse=True)
def clean(request):
    """Each test leaves hostds running and a primary that runs, holds nothing and can be saved."""
    if "pair" not in request.fixturenames:
        yield
        return
    pair = request.getfixturevalue("pair")
    print(f"seed {SEED}")
    yield
    for hostd in (pair.a, pair.b):
        if hostd.process.poll() is not None:
            hostd.start()
        try:
            hostd.call("protect.stop", uuid=pair.uuid)
        except RpcError as error:
            assert error.code == NOT_FOUND
        hostd.call("move.abort", uuid=pair.uuid)
    if pair.primary.process.poll() is not None or pair.primary.status() != "running":
        pair.boot()
    assert not pair.primary.capability("x-ignore-shared")
    assert buffers(pair.primary) == []


def buffers(vm):
    """What hostd made in a QEMU to hold its output."""
    return sorted(o["name"] for o in vm.monitor("qom-list", path="/objects") if o["name"].startswith("edgeplex-"))


def assert_none_lost(numbers):
    """Datagrams came once each, in order, and all of them."""
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# ---- epochs ------------------------------------------------------------------------------------


def same_memory(pair):
    """Both files, byte by byte."""
    with open(pair.primary.ram, "rb") as a, open(pair.standby.ram, "rb") as b:
        return all(x == b.read(1 << 20) for x in iter(lambda: a.read(1 << 20), b""))


@pytest.mark.parametrize("engine", ["pagemap", "compare"])
def test_the_standby_has_the_memory(pair, engine):
    """A VM that works, then rests: found stopped right after an epoch, it is the standby's, byte by byte."""
    pair.protect(engine=engine, interval_ms=50, timeout_ms=10000)
    pair.dirty(2000)
    status = pair.wait_epochs(20)
    assert status["engine"] == engine and status["nics"] == 2
    assert status["pages_per_epoch"] > 10 and status["bytes_per_s"] > 0
    assert 0 < status["pause_us"]["mean"] <= status["pause_us"]["p99"] <= status["pause_us"]["max"]
    pair.dirty(0)
    pair.a.call("protect.set", uuid=pair.uuid, interval_ms=1000)
    for _ in range(30):  # it runs for a moment between the epoch and the test's stop
        epoch = pair.wait_epochs(1)["epoch"]
        pair.primary.monitor("stop")
        same = same_memory(pair)
        if same and pair.standby_status()["epoch"] == epoch:
            break
    else:
        raise AssertionError("memory was never the same")
    pair.primary.monitor("cont")


def test_what_hostd_tells(pair):
    status = pair.protect(interval_ms=50)
    for field in ("epoch_age_ms", "bytes", "pages", "commit_us", "engine_reason", "cpu_us", "memory_pages"):
        assert field in status
    assert pair.protect(ticket="00" * 32, interval_ms=50)["epoch"] >= status["epoch"]  # again: nothing changes
    news = wait_news(pair.a, lambda n: n["role"] == "primary" and n.get("epoch", 0) > status["epoch"])
    assert news["state"] == "protected" and news["epochs"] > 1
    pair.a.call("protect.set", uuid=pair.uuid, interval_ms=200)
    assert pair.wait_epochs(2)["interval_ms"] == 200
    assert pair.a.call("protect.stop", uuid=pair.uuid)["state"] == "unprotected"
    wait_until(lambda: pair.standby_status()["state"] == "ended", 10, "the copy is void")
    assert pair.primary.status() == "running" and buffers(pair.primary) == []
    with pytest.raises(RpcError) as refused:
        pair.activate()
    assert refused.value.code == CONFLICT


def test_refusals(pair):
    good = {"uuid": pair.uuid, "qmp_path": pair.primary.qmp,
            "to": {"address": pair.b.address, "ticket": "00" * 32}}
    for field, value in [("uuid", "x"), ("qmp_path", 3), ("interval_ms", 1), ("timeout_ms", 10),
                         ("engine", "best"), ("hold_output", "yes")]:
        with pytest.raises(RpcError) as refused:
            pair.a.call("protect.start", **{**good, field: value})
        assert refused.value.code == INVALID and refused.value.field == f"/{field}"
    with pytest.raises(RpcError, match="ticket"):
        pair.prepare()
        pair.a.call("protect.start", **good)
    assert buffers(pair.primary) == []
    for method in ("protect.set", "protect.stop", "protect.status"):
        with pytest.raises(RpcError) as refused:
            pair.a.call(method, uuid=pair.uuid, interval_ms=100)
        assert refused.value.code == NOT_FOUND
    pair.protect()
    with pytest.raises(RpcError, match="protected"):
        pair.a.call("move.start", **good)
    with pytest.raises(RpcError) as refused:
        pair.b.call("standby.activate", uuid=pair.uuid)
    assert refused.value.field == "/fenced"
    with pytest.raises(RpcError):  # a primary never gives leave
        pair.b.call("move.activate", uuid=pair.uuid)
    pair.wait_epochs(3)


# ---- failovers ---------------------------------------------------------------------------------


def test_kill_the_primary_at_random_moments(pair):
    """The session lives on, no datagram comes twice or out of order; back and forth."""
    dice = random.Random(SEED)
    session = sequence = None
    for _ in range(4):
        pair.protect(interval_ms=50)
        session = session or Session(pair.lab, pair.ns)
        sequence = sequence or Sequence(pair.ns, 5000)
        pair.wait_epochs(5)
        session.goes_on()
        threading.Event().wait(dice.uniform(0, 0.1))  # the moment
        pair.primary.process.kill()
        assert "ended" in pair.wait("primary-dead", 5)["reason"]
        pair.fence(pair.primary)
        assert pair.activate()["state"] == "active"
        session.goes_on()
        pair.swap()
        # One released epoch may have been cut off at the tap; nothing may come that was never said.
        numbers = sequence.numbers()
        assert numbers == sorted(set(numbers))
    session.close()
    sequence.close()


def test_without_holding_nothing_is_kept(pair):
    """The negative control: frames go out at once, so none is ever in a buffer."""
    status = pair.protect(interval_ms=50, hold_output=False)
    assert status["nics"] == 0 and buffers(pair.primary) == []
    pair.wait_epochs(3)


def test_output_waits_for_the_standby(pair):
    """While epochs aren't acknowledged nothing goes out; then all of it, in order."""
    pair.protect(interval_ms=50, timeout_ms=3000)
    sequence = Sequence(pair.ns, 5000)
    pair.wait_epochs(5)
    stand_still(pair.b.process.pid)
    try:
        # What was acknowledged before may still come.
        threading.Event().wait(0.3)
        before = len(sequence.came)
        threading.Event().wait(1)
        assert len(sequence.came) == before
        pair.wait("unprotected", 10)
    finally:
        os.kill(pair.b.process.pid, signal.SIGCONT)
    wait_until(lambda: len(sequence.came) > before + 200, 20, "datagrams come")
    assert_none_lost(sequence.numbers())
    sequence.close()


def test_stopped_primary(pair):
    """SIGSTOP: it is seen, the standby goes on with the session; woken, it stands still for good."""
    pair.protect(interval_ms=50, timeout_ms=2000)
    session = Session(pair.lab, pair.ns)
    pair.wait_epochs(5)
    old = pair.primary
    stand_still(old.process.pid)
    try:
        pair.wait("primary-silent", 10)
        pair.fence(old)
        assert pair.activate()["state"] == "active"
        session.goes_on()
    finally:
        os.kill(old.process.pid, signal.SIGCONT)
    pair.wait("superseded", 20)
    assert old.status() in ("paused", "postmigrate")
    session.goes_on()
    session.close()
    pair.swap()


def test_primary_that_was_stopped_for_a_moment(pair):
    """Nobody activated the standby: the primary goes on, and what it held goes out."""
    pair.protect(interval_ms=50, timeout_ms=500)
    sequence = Sequence(pair.ns, 5000)
    pair.wait_epochs(5)
    stand_still(pair.primary.process.pid)
    try:
        pair.wait("primary-silent", 10)
    finally:
        os.kill(pair.primary.process.pid, signal.SIGCONT)
    wait_until(lambda: pair.status()["state"] in ("protected", "unprotected"), 20, "it goes on")
    before = len(sequence.came)
    wait_until(lambda: len(sequence.came) > before + 100, 20, "datagrams come")
    assert_none_lost(sequence.numbers())
    sequence.close()


# ---- what else can die -------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["standby", "its hostd", "its hostd hangs", "own hostd"])
def test_the_primary_goes_on_unprotected(pair, victim):
    """It is stopped for no longer than an epoch's time-out, and not a frame is lost; then again."""
    pair.protect(interval_ms=50, timeout_ms=TIMEOUT_MS)
    session, sequence = Session(pair.lab, pair.ns), Sequence(pair.ns, 5000)
    pair.wait_epochs(5)
    before = len(sequence.came)
    begin = time.monotonic()
    if victim == "standby":
        pair.standby.process.kill()
        pair.standby.process.wait()
        pair.wait("unprotected", 10)
    elif victim == "its hostd":
        pair.b.kill()
        pair.wait("unprotected", 10)
    elif victim == "its hostd hangs":
        stand_still(pair.b.process.pid)
        pair.wait("unprotected", 10)
        os.kill(pair.b.process.pid, signal.SIGCONT)
    else:
        pair.a.kill()
    wait_until(lambda: len(sequence.came) > before + 200, 30, "datagrams come")
    session.goes_on()
    wait_until(lambda: pair.primary.status() == "running" and buffers(pair.primary) == [], 10, "nothing is held")
    came = [t for t, _ in sequence.came if t > begin - 1]
    gap = max(b - a for a, b in zip(came, came[1:]))
    assert gap < TIMEOUT_MS / 1000 + 3, gap  # of a machine that has other things to do
    assert_none_lost(sequence.numbers())
    for hostd in (pair.a, pair.b):
        if hostd.process.poll() is not None:
            hostd.start()
    pair.protect(interval_ms=50)
    pair.wait_epochs(3)
    session.goes_on()
    session.close()
    sequence.close()


def test_own_hostd_hangs(pair):
    """Its guard ends it, the VM goes on unprotected, and not a frame is lost."""
    pair.protect(interval_ms=50, timeout_ms=TIMEOUT_MS)
    session, sequence = Session(pair.lab, pair.ns), Sequence(pair.ns, 5000)
    pair.wait_epochs(5)
    stand_still(pair.a.process.pid)
    assert pair.a.process.wait(60) == -signal.SIGKILL
    pair.a.rpc.close()
    before = len(sequence.came)
    wait_until(lambda: len(sequence.came) > before + 200, 30, "datagrams come")
    session.goes_on()
    wait_until(lambda: pair.primary.status() == "running" and buffers(pair.primary) == [], 10, "nothing is held")
    assert_none_lost(sequence.numbers())
    pair.a.start()
    pair.protect(interval_ms=50)
    pair.wait_epochs(3)
    session.goes_on()
    session.close()
    sequence.close()


def test_silent_source_is_told(pair):
    """A server that is cut off: the standby's hostd says so, and holds the last whole epoch."""
    pair.protect(ticket=pair.prepare(silence_ms=300), interval_ms=50)
    pair.wait_epochs(3)
    session = Session(pair.lab, pair.ns)
    session.goes_on()
    pair.fence(pair.primary)
    stand_still(pair.a.process.pid)
    stand_still(pair.primary.process.pid)
    try:
        wait_news(pair.b, lambda n: n["role"] == "destination" and n["silent"])
        assert pair.standby_status()["state"] == "holding"
        assert pair.activate()["state"] == "active"
        session.goes_on()
    finally:
        os.kill(pair.primary.process.pid, signal.SIGCONT)
        os.kill(pair.a.process.pid, signal.SIGCONT)
    session.close()
    wait_until(lambda: pair.status()["state"] in ("superseded", "unprotected"), 20, "the old one knows")
    pair.swap()
