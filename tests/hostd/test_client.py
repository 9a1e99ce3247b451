# SPDX-License-Identifier: GPL-2.0-or-later
"""The controller's connection to hostd, against a real one that dies, hangs and comes back."""

import os
import signal
import sys
import threading
import uuid

import pytest

from hostlab import Certificates, Hostd, Vm
from lib.lab import Lab, stand_still, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "controller"))
from drivers import Drivers  # noqa: E402  pylint: disable=wrong-import-position

UNAVAILABLE, INVALID_PARAMS, NOT_FOUND, NO_METHOD = -32000, -32602, -32002, -32601


class Bench:
    """A hostd and a client of it."""

    def __init__(self, lab):
        self.lab, self.ns = lab, lab.netns("client")
        lab.run(self.ns, ["ip", "link", "set", "lo", "up"])
        Certificates(lab).issue("hostd-c")
        self.hostd = Hostd(lab, self.ns, "hostd-c", 7003)
        self.drivers = Drivers(lab)
        self.drivers("hostd_open", target=f"unix:{self.hostd.socket_path}")

    def call(self, method, limit_ms=10000, **params):
        return self.drivers("hostd_call", method=method, params=params, timeout_ms=limit_ms)["result"]

    def error(self, method, limit_ms=10000, **params):
        return self.drivers.error("hostd_call", method=method, params=params, timeout_ms=limit_ms)


@pytest.fixture(scope="module", name="bench")
def _bench():
    with Lab("hostc") as lab:
        made = Bench(lab)
        yield made
        made.drivers.close()


def test_calls(bench):
    assert bench.call("hostd.info")["copies"] == []
    error = bench.error("move.freeze", uuid=str(uuid.uuid4()))
    assert error.answer["code"] == NOT_FOUND and "no move" in error.why
    assert bench.error("move.freeze", uuid="x").answer["code"] == INVALID_PARAMS
    assert bench.error("move.nonsense").answer["code"] == NO_METHOD


def test_several_calls_at_once(bench):
    methods = ["hostd.info", "move.nonsense", "hostd.info", "move.freeze"]
    codes = bench.drivers("hostd_call_all", methods=methods)["codes"]
    assert codes == [0, NO_METHOD, 0, INVALID_PARAMS]


def test_a_killed_hostd_comes_back(bench):
    bench.call("hostd.info")
    bench.drivers.forget_events()
    bench.hostd.kill()
    bench.drivers.wait_event("hostd-lost")
    error = bench.error("hostd.info")
    assert error.answer["code"] == UNAVAILABLE
    assert bench.hostd.socket_path in error.why and "edgeplex-hostd" in error.why
    bench.hostd.start()
    assert bench.call("hostd.info")["copies"] == []


def test_a_hostd_that_hangs_holds_up_nobody(bench):
    stand_still(bench.hostd.process.pid)
    try:
        error = bench.error("hostd.info", limit_ms=300)
        assert error.answer["code"] == UNAVAILABLE and "300 ms" in error.why
        codes = bench.drivers("hostd_call_all", methods=["hostd.info"] * 3, timeout_ms=300)["codes"]
        assert codes == [UNAVAILABLE] * 3
    finally:
        os.kill(bench.hostd.process.pid, signal.SIGCONT)
    assert bench.call("hostd.info")["copies"] == []


def test_dies_in_the_middle_of_a_call(bench):
    """The answer is an error at once, not after the time limit."""
    def unread():
        for line in bench.lab.run(None, ["ss", "-xH"]).splitlines():
            words = line.split()
            if bench.hostd.socket_path in words and int(words[2]) > 0:
                return True
        return False

    errors = []
    stand_still(bench.hostd.process.pid)
    caller = threading.Thread(target=lambda: errors.append(bench.error("hostd.info", limit_ms=50000)))
    caller.start()
    wait_until(unread, 20, "the request came")
    bench.hostd.kill()
    caller.join()
    assert errors[0].answer["code"] == UNAVAILABLE and "50000" not in errors[0].why
    bench.hostd.start()


def test_changes_are_told(bench):
    vm = Vm(bench.lab, "vm-told", incoming=True)
    try:
        name = str(uuid.uuid4())
        bench.drivers.forget_events()
        status = bench.call("receive.prepare", uuid=name, ram_path=vm.ram, qmp_path=vm.qmp)
        assert status["state"] == "waiting"
        bench.call("move.abort", uuid=name)
        bench.drivers.wait_event("hostd-changed", "ended")
    finally:
        vm.end()


@pytest.mark.parametrize("target", ["", "unix:", "unix:relative", "tcp:[::1]:7", "/run/a", "unix:/" + "x" * 107])
def test_wrong_targets(bench, target):
    other = Drivers(bench.lab)
    error = other.error("hostd_open", target=target)
    assert "unix:" in error.why and "absolute" in error.why
    other.close()
