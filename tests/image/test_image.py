# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest image: the same bytes from the same inputs; boots; answers on its channel, come what may."""

import filecmp
import json
import os
import random
import re
import subprocess
import time

import pytest

from guest import CALL_LIMIT_S, IMAGE, TOP, Channel, Guest, RpcError
from lib.lab import Lab, wait_until

PROGRAMS = {"pvm": ["agent", "edgeplex-fwd", "pvmd"], "cvm": ["agent", "cvmd"]}
IMAGE_FILES = ["vmlinuz", "initramfs.img", "cmdline.pvm", "cmdline.cvm"]


@pytest.fixture(scope="module", params=["pvm", "cvm"])
def vm(request):
    """A booted VM of each role; its tests may kill programs in it."""
    with Lab("img") as lab:
        guest = Guest(lab, request.param, name=f"test-{request.param}")
        guest.role = request.param
        guest.info = guest.wait_up()
        guest.boot_s = time.monotonic() - guest.started
        yield guest


@pytest.fixture
def channel(vm):
    with Channel(vm.channel_path) as connection:
        yield connection


def processes(connection):
    return {p["name"]: p for p in connection.call("guest.processes")}


def kill_and_wait(vm, name, signal="KILL"):
    """Kills a program of the VM and waits for its next life; returns that."""
    with Channel(vm.channel_path) as connection:
        before = processes(connection)[name]["restarts"]
        request = connection.ask("guest.signal", {"process": name, "signal": signal})
        if name != "agent":  # the agent can't tell that it was killed
            assert connection.answer(request) == {}

    def restarted():
        with Channel(vm.channel_path) as connection:
            connection.socket.settimeout(2)
            now = processes(connection)[name]
            return now if now["running"] and now["restarts"] > before else None

    return wait_until(restarted, 30, f"{name} runs again")


# ---- the build ---------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes():
    """Builds the sources once more, from scratch and elsewhere, and compares."""
    with Lab("img") as lab:
        source, build = f"{lab.dir}/elsewhere/src", f"{lab.dir}/b"
        files = lab.run(None, ["git", "-C", TOP, "ls-files", "-z", "-co", "--exclude-standard"])
        for path in filter(None, files.split("\0")):
            if os.path.exists(f"{TOP}/{path}"):
                os.makedirs(os.path.dirname(f"{source}/{path}"), exist_ok=True)
                subprocess.run(["cp", "-p", f"{TOP}/{path}", f"{source}/{path}"], check=True)
        deps = os.environ.get("DEPS", f"{TOP}/build/deps")
        # MAKEFLAGS: this may run below a make with flags of its own.
        lab.run(None, ["env", "-u", "MAKEFLAGS", "make", "-C", source, "-j2", f"B={build}", f"DEPS={deps}",
                       "PACKAGES=unchecked", "image"], limit_s=280)
        assert sorted(os.listdir(f"{build}/image")) == sorted(os.listdir(IMAGE))
        for name in IMAGE_FILES:
            assert filecmp.cmp(f"{build}/image/{name}", f"{IMAGE}/{name}", shallow=False), (
                f"{name} differs from that of a second build")


def test_the_image_is_small():
    size = os.path.getsize(f"{IMAGE}/initramfs.img")
    print(f"initramfs: {size / 1e6:.1f} MB, kernel: {os.path.getsize(f'{IMAGE}/vmlinuz') / 1e6:.1f} MB")
    assert size < 12e6


# ---- a booted VM -------------------------------------------------------------------------------


def test_boots_and_tells_what_it_is(vm):
    info = vm.info
    assert info["role"] == vm.role
    assert info["name"] == vm.name
    with open(f"{IMAGE}/id", encoding="utf-8") as file:
        assert info["image"] == file.read().strip()
    assert re.match(r"6\.1\.0-\d+-cloud-amd64$", info["kernel"])
    assert 0 < info["memory"]["available_kib"] < info["memory"]["total_kib"] < 131080
    up = re.search(r"init: the VM is up .* uptime_ms=(\d+)", vm.console())
    print(f"{vm.role}: user space up after {up.group(1)} ms of guest time; first answer "
          f"{vm.boot_s:.1f} s after QEMU's start; {info['memory']['available_kib']} KiB available")


def test_every_step_of_the_boot_worked(vm):
    """init logs what fails: file systems, parameters, modules, NICs, absent programs."""
    console = vm.console()
    assert "init: the VM is up" in console
    assert not re.findall(r"^.* (?:error|warn) init: .*$", console, re.MULTILINE)


def test_runs_the_programs_of_its_role(vm, channel):
    def all_run():
        found = processes(channel)
        return found if all(p["running"] and p["pid"] > 1 for p in found.values()) else None

    found = wait_until(all_run, 20, "all programs run")
    assert sorted(found) == sorted(PROGRAMS[vm.role])


def test_an_idle_vm_costs_next_to_nothing(vm):
    with Channel(vm.channel_path) as connection:
        wait_until(lambda: all(p["started_ms_ago"] > 5000 for p in processes(connection).values()),
                   30, "the VM has settled")
    before, started = vm.qemu_cpu_s(), time.monotonic()
    # The measurement itself takes time; there is no event to wait for.
    wait_until(lambda: time.monotonic() - started > 10, 20, "10 s are over", interval_s=1)
    percent = 100 * (vm.qemu_cpu_s() - before) / (time.monotonic() - started)
    print(f"{vm.role}: idle {percent:.2f} % of a core, {vm.qemu_rss_kib() / 1024:.0f} MiB on the host")
    assert percent <= 2


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_killed_program_is_started_again(vm, signal):
    for name in PROGRAMS[vm.role]:
        now = kill_and_wait(vm, name, signal)
        assert now["pid"] > 1


def test_an_agent_that_hangs_is_started_again(vm):
    """Nobody else could end it: whoever wants to reaches the VM through it."""
    kill_and_wait(vm, "agent", "STOP")
    with Channel(vm.channel_path) as connection:
        lines = connection.call("guest.log", process="agent", lines=500)["lines"]
        assert any("gave no sign of life for 6000 ms: it is killed" in line for line in lines)
        # The next one does give them: it is as well as if it had never been watched.
        first = processes(connection)["agent"]
        wait_until(lambda: processes(connection)["agent"]["started_ms_ago"] > 10000, 30,
                   "the agent has run for longer than one that hangs")
        assert processes(connection)["agent"]["pid"] == first["pid"]


def test_the_log_keeps_the_end_of_a_program(vm):
    kill_and_wait(vm, "agent")
    with Channel(vm.channel_path) as connection:
        lines = connection.call("guest.log", process="agent", lines=500)["lines"]
        assert any(re.search(r"supervisor: pid=\d+ ended signal=9", line) for line in lines)
        assert connection.call("guest.log", process="agent", lines=1)["lines"] == lines[-1:]


SIGNS = {"pvm": {"edgeplex-fwd": "fwd", "pvmd": "pvm"}, "cvm": {"cvmd": "cvm"}}


def signs_of_life(channel):
    """guest.alive: {member: why, or None}; not later than promised."""
    start = time.monotonic()
    answer = channel.call("guest.alive")
    took = time.monotonic() - start
    assert answer.pop("uptime_ms") > 0
    assert all(one["ok"] != ("why" in one) for one in answer.values()), answer
    return {name: one.get("why") for name, one in answer.items()}, took


def test_signs_of_life(vm, channel):
    names = SIGNS[vm.role]
    well = {name: None for name in names.values()}
    wait_until(lambda: signs_of_life(channel)[0] == well, 30, "all is well")
    for program, name in names.items():
        channel.call("guest.signal", process=program, signal="STOP")
        try:
            tries = [signs_of_life(channel) for _ in range(3)]
            for found, _ in tries:
                assert re.fullmatch(r"no answer for \d+ ms", found[name]), found
                assert {**found, name: None} == well
            # 250 ms and the way there and back; one of three isn't held up by a busy machine.
            assert 0.2 < min(took for _, took in tries) < 0.3
            # Who asks and goes has nothing to say to who comes.
            channel.close()
            with Channel(vm.channel_path) as other:
                assert signs_of_life(other)[0][name]
                several = [other.ask("guest.alive") for _ in range(20)]
                for request in several[:8]:
                    assert not other.answer(request)[name]["ok"]
                for request in several[8:]:
                    with pytest.raises(RpcError) as refused:
                        other.answer(request)
                    assert refused.value.code == -32000
        finally:
            channel = Channel(vm.channel_path)
            channel.call("guest.signal", process=program, signal="CONT")
        wait_until(lambda: signs_of_life(channel)[0] == well, 10, f"{program} goes on")
    channel.close()


def test_a_killed_program_gives_no_sign_of_life(vm, channel):
    for program, name in SIGNS[vm.role].items():
        # One that is stopped has not answered when it is killed; its next life answers.
        channel.call("guest.signal", process=program, signal="STOP")
        waiting = channel.ask("guest.alive")
        channel.call("guest.signal", process=program, signal="KILL")
        assert "answer" in channel.answer(waiting)[name]["why"]
        wait_until(lambda: signs_of_life(channel)[0][name] is None, 30, f"{program} is back")


def test_a_hanging_program_holds_nobody_up(vm, channel):
    name = PROGRAMS[vm.role][-1]
    method = f"{vm.role}.config"
    wait_until(lambda: "error" not in str(try_call(channel, method)), 20, f"{name} answers")
    channel.call("guest.signal", process=name, signal="STOP")
    # More than the agent keeps: the rest is refused, and those of other programs aren't.
    waiting = [channel.ask(method) for _ in range(300)]
    assert channel.call("guest.info")["role"] == vm.role
    channel.call("guest.signal", process=name, signal="CONT")
    busy = 0
    for request in waiting:
        try:
            channel.answer(request)
        except RpcError as error:
            assert "busy" in str(error)
            busy += 1
    assert 0 < busy < 300
    channel.call(method)


def try_call(connection, method):
    try:
        return connection.call(method)
    except RpcError as error:
        return f"error {error.code}"


def test_a_program_that_is_gone_is_answered_for(vm, channel):
    """Nobody may wait for an answer that can't come any more."""
    name = PROGRAMS[vm.role][-1]
    method = f"{vm.role}.config"
    wait_until(lambda: "error" not in str(try_call(channel, method)), 20, f"{name} answers")
    channel.call("guest.signal", process=name, signal="STOP")
    waiting = channel.ask(method)
    channel.call("guest.signal", process=name, signal="KILL")
    with pytest.raises(RpcError) as refused:
        channel.answer(waiting)
    assert refused.value.code == -32000
    wait_until(lambda: "error" not in str(try_call(channel, method)), 20, f"{name} answers again")


@pytest.mark.parametrize("method, params, code, field", [
    ("guest.nothing", None, -32601, None),
    ("nobody.status", None, -32601, None),
    ("guest.signal", {"process": "nobody", "signal": "KILL"}, -32002, "/process"),
    ("guest.signal", {"process": "agent", "signal": "SEGV"}, -32602, "/signal"),
    ("guest.signal", {"signal": "KILL"}, -32602, "/process"),
    ("guest.log", {"process": "agent", "lines": 501}, -32602, "/lines"),
    ("guest.log", {"process": "agent", "lines": "all"}, -32602, "/lines"),
    ("guest.log", {"process": "nobody"}, -32002, "/process"),
    ("guest.probe", None, -32602, "/address"),
    ("guest.probe", {"address": 7}, -32602, "/address"),
    ("guest.probe", {"address": "localhost"}, -32602, "/address"),
    ("guest.probe", {"address": "192.0.2.1/24"}, -32602, "/address"),
    ("guest.probe", {"address": "1" * 5000}, -32602, "/address"),
    ("guest.probe", {"address": "0.0.0.0"}, -32602, "/address"),
    ("guest.probe", {"address": "224.0.0.1"}, -32602, "/address"),
    ("guest.probe", {"address": "255.255.255.255"}, -32602, "/address"),
    ("guest.probe", {"address": "::"}, -32602, "/address"),
    ("guest.probe", {"address": "ff02::1"}, -32602, "/address"),
    ("guest.probe", {"address": "fe80::1"}, -32602, "/address"),
    ("guest.probe", {"address": "127.0.0.1", "timeout_ms": 0}, -32602, "/timeout_ms"),
    ("guest.probe", {"address": "127.0.0.1", "timeout_ms": 1e300}, -32602, "/timeout_ms"),
    ("guest.probe", {"address": "127.0.0.1", "timeout_ms": "1"}, -32602, "/timeout_ms"),
    ("guest.probe", {"address": "198.51.100.1"}, -32001, None),  # no route leads there
    ("guest.probe", {"address": "2001:db8::1"}, -32001, None),
])
def test_wrong_requests_are_refused_by_name(channel, method, params, code, field):
    with pytest.raises(RpcError) as refused:
        channel.answer(channel.ask(method, params))
    assert (refused.value.code, refused.value.field) == (code, field)


SILENT = "203.0.113.2"  # a neighbour who isn't there


@pytest.fixture
def neighbour(vm, channel):
    """The VM has a link on which nobody answers."""
    nic = "cust" if vm.role == "pvm" else "core"
    config = {"config_id": "probe", "hostname": "test", "asn": 65000, "router_id": "203.0.113.1",
              "interfaces": {nic: {"addresses": ["203.0.113.1/24"], "mtu": 1500}}}
    method = f"{vm.role}.configure"
    wait_until(lambda: channel.call(method, **config), 30, "it is configured")

    def has_route():
        with pytest.raises(RpcError) as refused:
            channel.call("guest.probe", address=SILENT, timeout_ms=10)
        return "10 ms" in str(refused.value)

    wait_until(has_route, 20, "the address is there")


def test_probes_are_answered(channel):
    for address in ("127.0.0.1", "::1"):
        assert 0 <= channel.call("guest.probe", address=address, timeout_ms=10000)["rtt_us"] < 10e6


def test_a_silent_neighbour_is_told_in_time(channel, neighbour):
    waiting = channel.ask("guest.probe", {"address": SILENT, "timeout_ms": 1500})
    assert channel.call("guest.probe", address="127.0.0.1")["rtt_us"] >= 0, "the others go on"
    channel.call("guest.info")
    with pytest.raises(RpcError) as refused:
        channel.answer(waiting)
    assert refused.value.code == -32001 and "1500 ms" in str(refused.value)
    # ARP gives up sooner than the time limit.
    with pytest.raises(RpcError) as refused:
        channel.call("guest.probe", address=SILENT, timeout_ms=10000)
    assert refused.value.code == -32001 and SILENT in str(refused.value)


def test_many_probes_are_bounded(vm, channel, neighbour):
    ids = [channel.ask("guest.probe", {"address": SILENT, "timeout_ms": 600}) for _ in range(100)]
    texts = []
    for request in ids:
        with pytest.raises(RpcError) as refused:
            channel.answer(request)
        assert refused.value.code == -32001
        texts.append(str(refused.value))
    assert sum("under way" in text for text in texts) >= 50
    assert sum(SILENT in text for text in texts) >= 16
    # Those of a controller that has gone are gone, too: there is room at once.
    channel.close()
    with Channel(vm.channel_path) as other:
        for _ in range(16):
            other.ask("guest.probe", {"address": SILENT, "timeout_ms": 10000})
        other.call("guest.info")

    def there_is_room():
        with Channel(vm.channel_path) as connection:
            return "rtt_us" in connection.call("guest.probe", address="127.0.0.1")

    wait_until(there_is_room, 5, "a probe")


def test_other_role_s_methods_are_unavailable(vm, channel):
    other = "cvm" if vm.role == "pvm" else "pvm"
    with pytest.raises(RpcError) as refused:
        channel.call(f"{other}.status")
    assert refused.value.code == -32000
    assert "not running in this VM" in str(refused.value)


def test_ids_come_back_as_they_were(channel):
    for text in ('"x \\" \\u00e9"', "-1.5e3", "0", "12345678901234567890", "null"):
        channel.send(f'{{"id": {text} ,"method":"guest.info","jsonrpc":"2.0"}}')
        message = channel.line()
        assert "result" in message
        assert message["id"] == json.loads(text)


def test_many_requests_at_once_are_all_answered(channel):
    ids = [channel.ask("guest.processes" if i % 2 else "guest.info") for i in range(1000)]
    answered = set()
    while len(answered) < len(ids):
        message = channel.line()
        # "Busy" is an answer too; silence isn't.
        assert "result" in message or message["error"]["code"] == -32000
        answered.add(message["id"])
    assert answered == set(ids)


# ---- garbage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line, code", [
    (b"nonsense", -32700),
    (b"\xff\xfe\x00\x01\x80", -32700),
    (b"[]", -32700),
    (b'[{"jsonrpc":"2.0","id":1,"method":"guest.info"}]', -32700),
    (b"{}", -32600),
    (b'{"id":5}', -32600),
    (b'{"id":{},"method":"guest.info"}', -32700),
    (b'{"id":"' + 100 * b"x" + b'","method":"guest.info"}', -32600),
    (b'{"method":"guest.info","params":' + 100000 * b"[" + 100000 * b"]" + b"}", -32700),
    (5_000_000 * b"x", -32600),
], ids=["no-json", "no-text", "array", "batch", "empty", "no-method", "id-object", "id-long",
        "deep", "endless"])
def test_garbage_is_refused_and_survived(channel, line, code):
    channel.send(line)
    message = channel.line()
    assert message["id"] is None
    assert message["error"]["code"] == code
    assert channel.call("guest.info")["uptime_ms"] > 0


def test_random_bytes_are_survived(vm, channel):
    restarts = processes(channel)["agent"]["restarts"]
    dice = random.Random(7)
    for _ in range(200):
        channel.send(dice.randbytes(dice.randrange(1, 2000)).replace(b"\n", b" "))
    found = {p["name"]: p for p in channel.answer(channel.ask("guest.processes"))}
    assert found["agent"]["restarts"] == restarts


def test_the_host_comes_and_goes(vm):
    with Channel(vm.channel_path) as connection:
        restarts = processes(connection)["agent"]["restarts"]
    for i in range(30):
        with Channel(vm.channel_path) as connection:
            if i % 3 == 0:  # leaves in the middle of a line
                connection.socket.sendall(b'{"jsonrpc":"2.0","id":1,"method":"guest.')
            elif i % 3 == 1:  # doesn't wait for the answers
                for _ in range(20):
                    connection.ask("guest.log", {"process": "agent", "lines": 500})
            else:
                assert connection.call("guest.info")["name"] == vm.name
    with Channel(vm.channel_path) as connection:
        assert connection.call("guest.info")["name"] == vm.name
        assert processes(connection)["agent"]["restarts"] == restarts


def test_a_host_that_does_not_read_holds_nobody_up(vm):
    """What a controller doesn't take is bounded, and gone with it."""
    with Channel(vm.channel_path) as connection:
        before = connection.call("guest.info")["memory"]["available_kib"]
        line = json.dumps({"id": 1, "method": "guest.log", "params": {"process": "agent"}}).encode()
        connection.socket.settimeout(2)
        try:
            for _ in range(20000):
                connection.send(line)
        except TimeoutError:
            pass  # it need not take them all
    with Channel(vm.channel_path) as connection:
        connection.socket.settimeout(CALL_LIMIT_S)
        info = wait_until(lambda: connection.call("guest.info"), 60, "the VM answers")
        assert info["memory"]["available_kib"] > before - 16384
