# SPDX-License-Identifier: GPL-2.0-or-later
"""edgeplex, the operators' command line: what it says and how it ends.

What edgeplexd answers is tested with the real one. Only a server that edgeplexd must never be,
broken or hostile, is a stand-in.
"""

import http.server
import json
import os
import pty
import select
import signal
import socket
import socketserver
import subprocess
import threading
import time

import pytest

from drivers import Switch
from lib.lab import Lab, wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("EDGEPLEX_BUILD", f"{TOP}/build")
CLI = f"{BUILD}/edgeplex"

OK, FAILED, USAGE, REFUSED, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130


class Run:
    """A finished `edgeplex`: its exit code, and what it wrote."""

    def __init__(self, argv, sock=None, env=None):
        environment = {**os.environ, **(env or {})}
        if sock:
            environment["EDGEPLEX_SOCKET"] = sock
        done = subprocess.run([CLI, *map(str, argv)], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=60, check=False, env=environment)
        self.code = done.returncode
        self.out, self.err = done.stdout.decode(), done.stderr.decode()

    def expect(self, code):
        """Itself, if that is how it ended."""
        assert self.code == code, f"exit {self.code}\n{self.out}{self.err}"
        return self

    @property
    def json(self):
        """What it printed, parsed."""
        return json.loads(self.out)


@pytest.fixture(name="lab", scope="module")
def lab_fixture():
    with Lab("cli") as lab:
        yield lab


# ---- a server that is broken or hostile ----------------------------------------------------


class Stand(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers every request with what `answer(method, path, body)` returns: (status, value)."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, path, answer):
        if os.path.exists(path):
            os.unlink(path)
        self.answer, self.requests, self.path = answer, [], path
        super().__init__(path, Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.stop()

    def handle_error(self, request, client_address):
        """A client that goes away is part of the tests."""

    def stop(self):
        """Ends as a killed process does: its socket's file stays."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def address_string(self):
        return "unix"

    def log_message(self, *_args):  # pylint: disable=arguments-differ
        pass

    def handle_request(self):
        """Whatever the method is."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, body))
        status, value = self.server.answer(self.command, self.path, body)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_request


@pytest.fixture(name="stand")
def stand_fixture(lab):
    """A function that starts a stand-in; it is stopped with the test."""
    stands = []

    def start(answer):
        stands.append(Stand(f"{lab.dir}/stand.sock", answer))
        return stands[-1]

    yield start
    for stand in stands:
        stand.stop()


def operation(state, steps=(), error=None):
    """An operation as the API shows it; `steps`: (name, state)."""
    return {"id": 7, "verb": "create", "object": "port/p", "state": state, "step": "x",
            "steps": [{"name": n, "state": s, "started_ms": 0, "took_ms": 100, "detail": ""}
                      for n, s in steps],
            "progress": 0.5, "error": error, "created": "2026-01-01T00:00:00Z"}


PORT = ["port", "create", "p", "--customer", "green", "--site", "a", "--switch-port", "c1",
        "--address", "192.168.1.1/30", "--ce", "192.168.1.2,65101"]


def test_no_socket_tells_how_to_start(lab):
    run = Run(["status"], f"{lab.dir}/nothing.sock").expect(UNREACHABLE)
    assert f"{lab.dir}/nothing.sock: No such file" in run.err
    assert "fix: start edgeplexd" in run.err
    assert run.out == ""


def test_dead_socket_tells_how_to_start(lab):
    path = f"{lab.dir}/dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    run = Run(["status"], path).expect(UNREACHABLE)
    assert "Connection refused" in run.err and "fix: start edgeplexd" in run.err


def test_option_wins_over_environment_and_too_long_a_path_is_named(lab):
    run = Run(["status", "--socket", "/" + "x" * 200], f"{lab.dir}/nothing.sock")
    run.expect(UNREACHABLE)
    assert "at most 107 characters" in run.err


def test_proxies_of_the_environment_are_not_asked(stand, lab):
    stand(lambda *_: (200, {"items": []}))
    Run(["site", "list"], f"{lab.dir}/stand.sock",
        {"http_proxy": "http://127.0.0.1:1", "all_proxy": "http://127.0.0.1:1"}).expect(OK)


@pytest.mark.parametrize("answer", [b"<html>", b"", b'{"items":[', b"\x00\xff"])
def test_answer_that_is_no_json(stand, lab, answer):
    stand(lambda *_: (200, answer))
    assert "is not JSON" in Run(["site", "list"], f"{lab.dir}/stand.sock").expect(UNREACHABLE).err


@pytest.mark.parametrize("answer", [[], "x", 7, None, {"items": 7}, {"items": [7, None, [], {}]},
                                    {"items": [{"name": {"a": [1, {"b": None}]}, "ce": 3}]}])
@pytest.mark.parametrize("words", [["site", "list"], ["port", "list"], ["site", "show", "a"],
                                   ["pvm", "rib", "a"], ["pvm", "fib", "a"], ["status"],
                                   ["pvm", "processes", "a"], ["operation", "list"], ["version"]])
def test_answers_of_the_wrong_shape_do_no_harm(stand, lab, words, answer):
    stand(lambda *_: (200, answer))
    for flags in ([], ["--json"]):
        run = Run([*words, *flags], f"{lab.dir}/stand.sock")
        assert run.code in (OK, UNREACHABLE), run.err


def test_error_without_a_reason(stand, lab):
    stand(lambda *_: (500, b""))
    run = Run(["site", "list"], f"{lab.dir}/stand.sock").expect(REFUSED)
    assert "HTTP status 500 without a reason" in run.err


def test_problem_is_told_with_fields_and_options(stand, lab):
    problem = {"title": "t", "status": 422, "detail": "overlap: 192.168.1.1/30 is in use",
               "errors": [{"field": "/addresses/0", "detail": "is in use",
                           "fix": "choose another subnet"},
                          {"field": "/ce/0/asn", "detail": "is 0", "fix": "give another"}]}
    stand(lambda *_: (422, problem))
    run = Run(PORT, f"{lab.dir}/stand.sock").expect(REFUSED)
    assert run.err == ("error: overlap: 192.168.1.1/30 is in use\n"
                       "  field: /addresses/0 (--address)\n"
                       "  fix: choose another subnet\n"
                       "  field: /ce/0/asn (--ce): is 0\n"
                       "  fix: give another\n")
    assert run.out == ""
    run = Run([*PORT, "--json"], f"{lab.dir}/stand.sock").expect(REFUSED)
    assert run.json == problem


HOSTILE = "\x1b[2J\x1b]0;x\x07\r\n\x7f\x9b\u202e\u200b"


def assert_harmless(text):
    """Only characters that print; lines end with a newline."""
    assert all(c == "\n" or c == "\t" or c.isprintable() for c in text), repr(text)


@pytest.mark.parametrize("words", [["site", "list"], ["site", "show", "a"], ["port", "list"],
                                   ["event", "list"], ["operation", "list"], ["pvm", "rib", "a"],
                                   ["pvm", "fib", "a"], ["pvm", "processes", "a"], ["status"],
                                   ["version"], ["customer", "create", "x"], PORT])
@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("status", [200, 202, 422])
def test_hostile_text_never_reaches_the_terminal(stand, lab, words, flags, status):
    thing = {key: HOSTILE for key in (
        "name", "asn", "state", "status", "site", "server", "version", "detail", "text", "object",
        "verb", "step", "severity", "prefix", "protocol", "action", "title", HOSTILE)}
    thing["bgp"] = thing["neighbors"] = [{"role": "core", "state": HOSTILE, "address": HOSTILE}]
    thing["paths"] = [{"as_path": HOSTILE, "from": HOSTILE, "best": True}]
    thing["nexthops"] = [{"via": HOSTILE, "labels": [HOSTILE]}]
    thing["ce"] = [{"address": HOSTILE, "asn": 1}]
    thing["errors"] = [{"field": HOSTILE, "detail": HOSTILE, "fix": HOSTILE}]
    steps = [{"name": HOSTILE, "state": HOSTILE, "detail": HOSTILE, "took_ms": 1}]
    answer = {**thing, "items": [thing], "routes": [thing], "id": 1, "steps": steps,
              "state": "failed", "error": thing}
    stand(lambda *_: (status, answer))
    run = Run([*words, *flags], f"{lab.dir}/stand.sock")
    assert run.code in (OK, FAILED, REFUSED)
    assert run.out + run.err
    assert_harmless(run.out)
    assert_harmless(run.err)
    if flags and run.out:
        assert HOSTILE in json.dumps(run.json, ensure_ascii=False).encode().decode() or \
            json.dumps(HOSTILE) in json.dumps(run.json)


def test_pages_are_followed_to_the_end(stand, lab):
    def answer(_method, path, _body):
        after = int(path.partition("after=")[2] or 0)
        limit = int(path.partition("limit=")[2].partition("&")[0])
        last = min(after + min(limit, 10), 25)
        page = {"routes": [{"prefix": f"10.0.{n}.0/24", "paths": [{"best": True}]}
                           for n in range(after, last)]}
        if last < 25:
            page["next"] = str(last)
        return 200, page

    stand(answer)
    sock = f"{lab.dir}/stand.sock"
    run = Run(["pvm", "rib", "p", "--json"], sock).expect(OK)
    assert [r["prefix"] for r in run.json["routes"]] == [f"10.0.{n}.0/24" for n in range(25)]
    assert "next" not in run.json
    run = Run(["pvm", "rib", "p", "--json", "--limit", "12"], sock).expect(OK)
    assert len(run.json["routes"]) == 12 and run.json["next"] == "12"
    lines = Run(["pvm", "rib", "p"], sock).expect(OK).out.splitlines()
    assert sum("PREFIX" in line for line in lines) == 1
    assert sum("10.0." in line for line in lines) == 25


def test_a_page_that_repeats_itself_is_not_followed_for_ever(stand, lab):
    stand(lambda *_: (200, {"routes": [{"prefix": "x"}], "next": "same"}))
    run = Run(["pvm", "fib", "p"], f"{lab.dir}/stand.sock").expect(REFUSED)
    assert "same page" in run.err


def test_names_are_encoded_in_paths(stand, lab):
    server = stand(lambda *_: (404, {"detail": "no such port"}))
    Run(["port", "show", "../a?b#ü"], f"{lab.dir}/stand.sock").expect(REFUSED)
    assert server.requests[0][1] == "/v1/ports/..%2Fa%3Fb%23%C3%BC"


def test_progress_has_one_line_per_step(stand, lab):
    states = iter([operation("running", [("place", "running"), ("start", "pending")]),
                   operation("running", [("place", "succeeded"), ("start", "running")]),
                   operation("succeeded", [("place", "succeeded"), ("start", "succeeded")])])
    server = stand(lambda method, *_: (202 if method == "POST" else 200, next(states)))
    run = Run(PORT, f"{lab.dir}/stand.sock").expect(OK)
    assert run.err == "  1/2 place: succeeded (100 ms)\n  2/2 start: succeeded (100 ms)\n"
    assert run.out.startswith("create port/p: done in ") and run.out.endswith("(operation 7)\n")
    assert "since_step=1" in server.requests[1][1] and "since_step=2" in server.requests[2][1]


def test_failed_operation_tells_why_and_what_was_taken_back(stand, lab):
    error = {"detail": "no memory", "errors": [{"field": "", "fix": "add a server"}]}
    stand(lambda method, *_: (202 if method == "POST" else 200, operation(
        "failed", [("place", "undone"), ("start", "failed"), ("wait", "pending")], error)))
    run = Run(PORT, f"{lab.dir}/stand.sock").expect(FAILED)
    assert "error: no memory\n" in run.err and "  fix: add a server\n" in run.err
    assert "  taken back: place\n" in run.err
    assert "edgeplex operation show 7" in run.err


def test_no_wait_prints_only_the_number(stand, lab):
    server = stand(lambda *_: (202, operation("running")))
    run = Run([*PORT, "--no-wait"], f"{lab.dir}/stand.sock").expect(OK)
    assert (run.out, run.err, len(server.requests)) == ("7\n", "", 1)


def test_wait_and_no_wait_contradict_and_nothing_is_sent(stand, lab):
    server = stand(lambda *_: (202, operation("running")))
    Run([*PORT, "--no-wait", "--wait"], f"{lab.dir}/stand.sock").expect(USAGE)
    assert not server.requests


def test_malformed_value_is_usage_and_nothing_is_sent(stand, lab):
    server = stand(lambda *_: (201, {}))
    run = Run(["customer", "create", "g", "--vpn-id", "many"], f"{lab.dir}/stand.sock")
    assert '--vpn-id "many" is not a whole number' in run.expect(USAGE).err
    assert not server.requests


def spawn(argv, sock, **more):
    """Starts `edgeplex` and returns its Popen."""
    return subprocess.Popen([CLI, "--socket", sock, *argv], stdin=subprocess.DEVNULL, **more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_the_operation_and_tells_how_to_watch(stand, lab, number):
    asked, release = threading.Event(), threading.Event()

    def answer(method, *_):
        if method == "GET":
            asked.set()
            release.wait(30)
        return 202 if method == "POST" else 200, operation("running", [("place", "running")])

    server = stand(answer)
    process = spawn(PORT, server.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert asked.wait(30)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        release.set()
        process.kill()
        process.wait()
    assert process.returncode == INTERRUPTED
    assert b"operation 7 goes on" in err and b"edgeplex operation wait 7" in err
    assert out == b""
    assert [r[0] for r in server.requests] == ["POST", "GET"]


def test_a_restart_of_edgeplexd_meanwhile_is_awaited(lab):
    path, asked = f"{lab.dir}/restart.sock", threading.Event()

    def first(method, *_):
        if method == "GET":
            asked.set()
            return 200, operation("running", [("place", "running")])
        return 202, operation("running", [("place", "running")])

    with Stand(path, first):
        process = spawn(PORT, path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert asked.wait(30)
    try:
        told = b""
        while b"waiting for it to come back" not in told:
            assert select.select([process.stderr], [], [], 30)[0], told
            told += os.read(process.stderr.fileno(), 4096)
        with Stand(path, lambda *_: (200, operation("succeeded", [("place", "succeeded")]))):
            out, _err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == OK
    assert b"create port/p: done" in out


def test_a_screen_shows_one_line_that_is_rewritten(lab):
    """On a terminal: the step with its time in one line, gone at the end; colours unless --no-color."""
    path, asked, release = f"{lab.dir}/screen.sock", threading.Event(), threading.Event()

    def answer(method, *_):
        if method == "POST":
            return 202, operation("running", [("place", "running")])
        asked.set()
        release.wait(30)
        return 200, operation("succeeded", [("place", "succeeded")])

    leader, follower = pty.openpty()
    shown = b""
    with Stand(path, answer):
        process = spawn(PORT, path, stdout=follower, stderr=follower,
                        env={**os.environ, "TERM": "xterm"})
        os.close(follower)
        try:
            deadline = time.monotonic() + 30
            while True:
                assert time.monotonic() < deadline, shown
                if asked.is_set() and b"create port/p  1/1 x  50 %" in shown:
                    release.set()
                if select.select([leader], [], [], 0.1)[0]:
                    try:
                        shown += os.read(leader, 4096)
                    except OSError:  # the other end is closed
                        break
            process.wait(20)
        finally:
            release.set()
            process.kill()
            process.wait()
            os.close(leader)
    assert process.returncode == OK
    line, _, rest = shown.partition(b"\r\x1b[K")
    assert b"\n" not in line
    assert b"create port/p: done in " in rest.rpartition(b"\r\x1b[K")[2] or b"done in" in rest


# ---- the program by itself -----------------------------------------------------------------


def nouns_and_verbs():
    """What the overview and the nouns' help list."""
    pairs, listing = [], False
    for line in Run(["--help"]).out.splitlines():
        if line == "Commands:":
            listing = True
        elif not line:
            listing = False
        elif listing and line[2] != " ":
            noun, found, verbs = line.split()[0], False, False
            for row in Run([noun, "--help"]).out.splitlines():
                if row == "Verbs:":
                    verbs = found = True
                elif not row:
                    verbs = False
                elif verbs and row[2] != " ":
                    pairs.append((noun, row.split()[0]))
            if not found:
                pairs.append((noun, None))
    return pairs


def test_every_command_has_help_completion_and_its_place_in_the_manual():
    pairs = nouns_and_verbs()
    assert {("port", "create"), ("pvm", "signal"), ("status", None)} <= set(pairs)
    with open(f"{BUILD}/man/edgeplex.1", encoding="utf-8") as file:
        manual = file.read().replace("\\-", "-")
    for noun in {noun for noun, verb in pairs if verb}:
        assert Run([noun, "--help"]).expect(OK).out.split("\n\n")[1][0].isupper()
    for noun, verb in pairs:
        words = [noun, verb] if verb else [noun]
        text = Run([*words, "--help"]).expect(OK).out
        assert text.startswith(f"Usage: edgeplex {' '.join(words)}")
        assert "Exit codes:" in text
        assert f".SS {' '.join(words)}" in manual
        for option in [w for w in text.split() if w.startswith("--")]:
            assert option in manual
        offered = Run(["__complete", len(words), "edgeplex", *words[:-1], ""]).out.split()
        assert words[-1] in offered
    for code in (OK, FAILED, USAGE, REFUSED, UNREACHABLE, INTERRUPTED):
        assert f".TP\n\\fB{code}\\fR" in manual


def test_manual_page_is_well_formed():
    done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", f"{BUILD}/man/edgeplex.1"],
                          capture_output=True, text=True, check=True,
                          env={**os.environ, "MANPAGER": "cat", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    assert done.stderr == ""
    assert "port create NAME" in done.stdout


def test_words_that_are_wrong_are_named_with_the_nearest():
    assert 'did you mean "port"?' in Run(["prot", "list"]).expect(USAGE).err
    assert 'did you mean "create"?' in Run(["port", "creat"]).expect(USAGE).err
    assert 'did you mean "--switch-port"?' in Run(
        ["port", "create", "p", "--swich-port", "x"]).expect(USAGE).err


def test_no_words_explain_themselves_and_fail():
    run = Run([]).expect(USAGE)
    assert run.out == "" and run.err.startswith("Usage: edgeplex")


def test_output_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([CLI, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == FAILED and b"can't be written" in done.stderr


# ---- with edgeplexd ------------------------------------------------------------------------


class Controller:
    """A running edgeplexd; call it with the words of a command."""

    def __init__(self, lab, name):
        self.lab, self.dir, self.sock = lab, f"{lab.dir}/{name}", f"{lab.dir}/{name}/sock"
        self.starts, self.process = 0, None
        os.makedirs(f"{self.dir}/state")
        self.start()

    def start(self):
        """Starts it (again) and waits until it answers."""
        self.starts += 1
        self.process = self.lab.spawn(
            None, [f"{BUILD}/edgeplexd", "--socket", self.sock, "--state-dir", f"{self.dir}/state",
                   "--image", f"{self.dir}/image"], f"edgeplexd{self.starts}")
        wait_until(lambda: self("version").code == OK, 30, "edgeplexd answers")

    def kill(self):
        """Kills it."""
        self.process.kill()
        self.process.wait()

    def __call__(self, *argv, **more):
        return Run(argv, self.sock, **more)


@pytest.fixture(name="edgeplexd", scope="module")
def edgeplexd_fixture(lab):
    return Controller(lab, "ctl")


@pytest.fixture(name="site", scope="module")
def site_fixture(lab, edgeplexd):
    """Site a with a real edge switch."""
    switch = Switch(lab, lab.netns("edge"), "ovs")
    target = switch.add_bridge("edge", [])
    switch.vsctl("--", "add-port", "edge", "core", "--", "set", "interface", "core",
                 "type=internal", "--", "add-port", "edge", "cust1", "--", "set", "interface",
                 "cust1", "type=internal", "--", "add-port", "edge", "trunk", "--", "set",
                 "interface", "trunk", "type=internal")
    run = edgeplexd("site", "create", "a", "--asn", 65000, "--pe-address", "10.0.0.1",
                    "--core-port", "core", "--core-address", "192.0.2.2/30",
                    "--core-gateway", "192.0.2.1", "--rr", "10.0.0.100",
                    "--transport-label", 16001, "--switch", target)
    assert run.expect(OK).out == "site a created\n"
    return target


@pytest.fixture(name="green")
def green_fixture(edgeplexd):
    """Customer green, for one test."""
    assert edgeplexd("customer", "create", "green").expect(OK).out == "customer green created\n"
    yield "green"
    assert edgeplexd("customer", "delete", "green").expect(OK).out == "customer green deleted\n"


def test_versions_of_both(edgeplexd):
    version = edgeplexd("--version").expect(OK).out.split()[1]
    both = edgeplexd("version", "--json").expect(OK).json
    assert both["edgeplex"] == version and both["edgeplexd"]["version"] == version
    assert edgeplexd("version").out == f"edgeplex {version}\nedgeplexd {version}\n"


def test_objects_appear_in_lists_and_go(edgeplexd, green):
    assert edgeplexd("customer", "list").out.splitlines()[1].split()[0] == green
    shown = edgeplexd("customer", "show", green, "--json").expect(OK).json
    assert shown["name"] == green
    assert edgeplexd("customer", "list", "--json").json["items"] == [shown]
    again = edgeplexd("customer", "create", green).expect(REFUSED)
    assert "green already" in again.err and again.out == ""


def test_every_list_can_be_empty(lab):
    fresh = Controller(lab, "fresh")
    for noun in ("site", "server", "customer", "port", "pvm", "cvm", "operation", "event"):
        assert fresh(noun, "list").expect(OK).out == f"There are no {noun}s.\n"
        assert fresh(noun, "list", "--json").expect(OK).json == {"items": []}
    assert "There are no sites" in fresh("status").expect(OK).out


def test_unknown_objects_are_refused(edgeplexd):
    for words in (["site", "show"], ["server", "delete"], ["customer", "show"], ["port", "show"],
                  ["port", "delete"], ["pvm", "show"], ["pvm", "rib"], ["pvm", "fib"],
                  ["pvm", "processes"], ["pvm", "neighbors"], ["cvm", "show"], ["cvm", "create"],
                  ["cvm", "rib"]):
        assert "nowhere" in edgeplexd(*words, "nowhere").expect(REFUSED).err
    assert "999" in edgeplexd("operation", "wait", 999).expect(REFUSED).err


def test_wrong_fields_lead_to_their_options(edgeplexd, site, green):
    assert site
    good = {"--customer": green, "--site": "a", "--switch-port": "cust1",
            "--address": "192.168.1.1/30", "--ce": "192.168.1.2,65101"}
    for option, value in (
            ("--address", "192.168.1.1/33"), ("--address", "192.168.1.0/30"),
            ("--ce", "192.168.7.2,65101"), ("--ce", "192.168.1.2,0"), ("--customer", "nobody"),
            ("--site", "nowhere"), ("--vlan", "4095"), ("--mtu", "100"), ("--ce-mac", "x")):
        words = [word for pair in {**good, option: value}.items() for word in pair]
        run = edgeplexd("port", "create", "p", *words).expect(REFUSED)
        assert f"({option})" in run.err, run.err
        assert "  fix: " in run.err
    words = [word for pair in good.items() for word in pair]
    assert "/name (NAME)" in edgeplexd("port", "create", "Bad", *words).expect(REFUSED).err
    assert edgeplexd("port", "list", "--json").json == {"items": []}


def test_site_is_shown_and_changed(edgeplexd, site):
    assert site
    row = edgeplexd("site", "list").expect(OK).out.splitlines()[1]
    assert row.split()[:3] == ["a", "65000", "10.0.0.1"]
    wait_until(lambda: "connected" in edgeplexd("site", "list").out, 20, "the switch is connected")
    run = edgeplexd("site", "set", "a", "--rr", "10.0.0.100", "--rr", "10.0.0.101")
    assert run.expect(OK).out == "site a changed\n"
    shown = edgeplexd("site", "show", "a", "--json").json
    assert shown["core"]["route_reflectors"] == ["10.0.0.100", "10.0.0.101"]
    assert shown["core"]["gateway"] == "192.0.2.1"
    assert edgeplexd("site", "set", "a").expect(USAGE).err.startswith("error: no option says")
    status = edgeplexd("status").expect(OK).out
    assert "10.0.0.1" in status and "There are no ports" in status


def test_server_that_cannot_be_reached_is_refused(edgeplexd, site):
    assert site
    run = edgeplexd("server", "create", "ghost", "--site", "a",
                    "--uri", "qemu:///system?socket=/nowhere/libvirt-sock", "--bridge", "br0",
                    "--trunk", "trunk").expect(REFUSED)
    assert "ghost" in run.err
    assert edgeplexd("server", "list", "--json").json == {"items": []}


def test_events_are_paged(edgeplexd, site):
    assert site
    events = wait_until(lambda: edgeplexd("event", "list", "--json").expect(OK).json["items"], 20,
                        "there is an event")
    assert any("site a was created" in event["text"] for event in events)
    assert [e["id"] for e in events] == sorted((e["id"] for e in events), reverse=True)
    oldest = events[-1]["id"]
    later = edgeplexd("event", "list", "--json", "--after", oldest).json["items"]
    assert later[-1]["id"] == oldest + 1 and later[0]["id"] >= events[0]["id"]
    few = edgeplexd("event", "list", "--json", "--limit", 1).json
    assert len(few["items"]) == 1 and few["items"][0]["id"] >= events[0]["id"]
    assert "site a was created" in edgeplexd("event", "list").out


def test_killed_edgeplexd_is_unreachable_and_back_after_a_start(edgeplexd, green):
    edgeplexd.kill()
    run = edgeplexd("customer", "list").expect(UNREACHABLE)
    assert "Connection refused" in run.err and "fix: start edgeplexd" in run.err
    edgeplexd.start()
    assert green in edgeplexd("customer", "list").expect(OK).out


COMPLETE = """
. <("$1" completion bash)
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_edgeplex
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(sock, *words):
    """What bash offers for the last of `words`."""
    done = subprocess.run(["bash", "--norc", "-c", COMPLETE, "bash", CLI, CLI, *words],
                          capture_output=True, text=True, check=True, timeout=30,
                          env={**os.environ, "EDGEPLEX_SOCKET": sock})
    return done.stdout.split()


def test_bash_completes_words_options_and_names(edgeplexd, site, green):
    assert site
    sock = edgeplexd.sock
    assert complete(sock, "cu") == ["customer"]
    assert set(complete(sock, "port", "")) == {"list", "show", "create", "set", "delete"}
    assert complete(sock, "customer", "show", "") == [green]
    assert complete(sock, "customer", "show", "x") == []
    assert complete(sock, "--json", "customer", "show", "g") == [green]
    assert complete(sock, "port", "create", "p", "--customer", "") == [green]
    assert complete(sock, "port", "create", "p", "--customer", "=", "g") == [green]
    assert complete(sock, "port", "create", "p", "--site", "") == ["a"]
    assert complete(sock, "port", "create", "p", "--swi") == ["--switch-port"]
    assert complete(sock, "pvm", "fib", "p", "--family", "ipv") == ["ipv4", "ipv6"]
    assert complete(sock, "pvm", "signal", "p", "pvmd", "K") == ["KILL"]
    assert complete("/nowhere", "--socket", sock, "customer", "show", "") == [green]
    assert complete("/nowhere", "customer", "show", "") == []


def test_hostile_names_are_not_offered(stand, lab):
    stand(lambda *_: (200, {"items": [{"name": n} for n in
                                      ("$(touch x)", "a b", "-x", "`x`", "\n", "good")]}))
    assert complete(f"{lab.dir}/stand.sock", "site", "show", "") == ["good"]
