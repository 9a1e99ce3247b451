# SPDX-License-Identifier: GPL-2.0-or-later
"""The FIB socket's rules, the RPC, restarts, and the command line."""

import json
import os
import signal
import socket
import stat
import struct
import subprocess

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether

from fwdlab import (
    CE_MAC, CUST_MAC, END, FORWARDER, ForwarderLab, RpcError, Wire, frame, pop, route,
)
from lib.lab import Lab, wait_until

PE4 = "192.0.2.1"
PYTHON = "/usr/bin/python3"
# PTRACE_SEIZE, PTRACE_INTERRUPT, then nothing.
STOP_THREAD = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
tid = int(sys.argv[1])
for request in (0x4206, 0x4207):
    if libc.ptrace(request, tid, 0, 0) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(tid, 0x40000000)  # __WALL
print("stopped", flush=True)
signal.pause()
"""
VIA = {"via": PE4}


def prefixes(f, family="ipv4"):
    """All prefixes of a family, through pages of 3."""
    out, after = [], None
    while True:
        page = f.rpc("fwd.fib", family=family, limit=3, **({"after": after} if after else {}))
        out += page["routes"]
        after = page.get("next")
        if after is None:
            return {r["prefix"]: r for r in out}


def fib(f):
    """The counts of fwd.status."""
    return f.status()["fib"]


def test_pages_and_lookups(router):
    many = [f"10.{i}.0.0/16" for i in range(20)] + ["10.3.3.0/24", "0.0.0.0/0", "10.0.0.0/8"]
    six = ["::/0", "fd00:5::/32", "fd00:5:1::/48", "fd00:5:1::1/128"]
    hold = router.feed(*(route(p, VIA) for p in many + six), pop(7), pop(1048575), pop(16))
    assert set(prefixes(router)) == set(many)
    assert set(prefixes(router, "ipv6")) == set(six)
    assert list(prefixes(router, "mpls")) == ["7", "16", "1048575"]
    assert fib(router)["ipv4"] == len(many) and fib(router)["ipv6"] == len(six)
    assert fib(router)["mpls"] == 3

    def match(family, address):
        return [r["prefix"] for r in router.rpc("fwd.fib", family=family, lookup=address)["routes"]]

    assert match("ipv4", "10.3.3.3") == ["10.3.3.0/24"]
    assert match("ipv4", "10.3.4.4") == ["10.3.0.0/16"]
    assert match("ipv4", "10.200.0.1") == ["10.0.0.0/8"]
    assert match("ipv4", "9.9.9.9") == ["0.0.0.0/0"]
    assert match("ipv6", "fd00:5:1::1") == ["fd00:5:1::1/128"]
    assert match("ipv6", "fd00:5:1::2") == ["fd00:5:1::/48"]
    assert match("mpls", "16") == ["16"] and match("mpls", "17") == []
    assert router.rpc("fwd.fib", family="mpls", prefix="16")["routes"][0]["action"] == "pop"
    hold.send(*(route(p, delete=True) for p in many + six),
              *(route(label, delete=True) for label in (7, 16, 1048575)))
    wait_until(lambda: fib(router)["ipv4"] == fib(router)["ipv6"] == fib(router)["mpls"] == 0, 5,
               "all routes are gone")


@pytest.mark.parametrize("params,field", [
    ({}, "/family"),
    ({"family": "ipx"}, "/family"),
    ({"family": "ipv4", "limit": 0}, "/limit"),
    ({"family": "ipv4", "limit": 1001}, "/limit"),
    ({"family": "ipv4", "limit": "3"}, "/limit"),
    ({"family": "ipv4", "prefix": "10.0.0.0/33"}, "/prefix"),
    ({"family": "ipv4", "prefix": "fd00::/16"}, "/prefix"),
    ({"family": "ipv6", "lookup": "10.0.0.1"}, "/lookup"),
    ({"family": "ipv4", "after": "10.1.2.3/16"}, "/after"),
    ({"family": "ipv4", "after": 3}, "/after"),
    ({"family": "mpls", "lookup": "1048576"}, "/lookup"),
    ({"family": "mpls", "prefix": "x"}, "/prefix"),
])
def test_wrong_parameters_are_named(router, params, field):
    with pytest.raises(RpcError) as refused:
        router.rpc("fwd.fib", **params)
    assert refused.value.error["code"] == -32602
    assert refused.value.error["data"]["field"] == field


def test_unknown_method(router):
    with pytest.raises(RpcError) as refused:
        router.rpc("fwd.nonsense")
    assert refused.value.error["code"] == -32601
    assert "fwd.nonsense" in refused.value.error["message"]


def test_stale_routes_forward_until_the_end_mark(own):
    first = own.feed(route("10.2.0.0/16", VIA), route("10.3.0.0/16", VIA), pop(5),
                     route("fd00:2::/32", {"via": "fd00:c0::1"}))
    assert fib(own)["complete"] and fib(own)["connected"] and fib(own)["stale"] == 0
    first.close()
    wait_until(lambda: not fib(own)["connected"], 5, "the peer's end is seen")
    assert not fib(own)["complete"]
    assert fib(own)["stale"] == 0 and fib(own)["ipv4"] == 2

    second = own.feeder()
    wait_until(lambda: fib(own)["stale"] == 4, 5, "all are stale")
    second.send(route("10.2.0.0/16", VIA))
    wait_until(lambda: fib(own)["stale"] == 3, 5, "one is fresh")
    shown = prefixes(own)
    assert not shown["10.2.0.0/16"]["stale"] and shown["10.3.0.0/16"]["stale"]
    # Stale, but it forwards.
    wire, far = Wire(own.ce, "eth0"), Wire(own.pe, "eth0")
    wire.send(Ether(src=CE_MAC, dst=CUST_MAC) / IP(src="192.168.1.2", dst="10.3.0.1") / UDP())
    far.expect(Ether, lambda p: IP in p and p[IP].dst == "10.3.0.1")
    second.send(END)
    wait_until(lambda: fib(own)["complete"], 5, "the end mark is seen")
    assert list(prefixes(own)) == ["10.2.0.0/16"]
    assert fib(own)["stale"] == fib(own)["mpls"] == fib(own)["ipv6"] == 0
    second.close()


def test_peers_that_leave_early_and_replace_each_other(own):
    """Routes stay stale across any number of peers that never finish; nobody's are taken twice."""
    own.feed(route("10.1.0.0/16", VIA), route("10.2.0.0/16", VIA)).close()
    for i in range(3, 8):
        peer = own.feeder().send(route(f"10.{i}.0.0/16", VIA))
        wait_until(lambda n=i: fib(own)["ipv4"] == n, 5, "the new route is in")
        assert fib(own)["stale"] == i - 1
        if i % 2:
            peer.close()
    old = own.feeder()
    new = own.feeder().send(route("10.1.0.0/16", VIA))
    wait_until(old.closed, 5, "the newer peer replaces the older")
    wait_until(lambda: fib(own)["stale"] == 6, 5, "one of seven is fresh")
    new.send(END)
    wait_until(lambda: fib(own)["complete"], 5, "complete")
    assert list(prefixes(own)) == ["10.1.0.0/16"]


def test_peer_without_end_mark_is_swept_by_time():
    with Lab("dp") as lab:
        f = ForwarderLab(lab, "--stale-ms", "1500")
        f.feed(route("10.1.0.0/16", VIA), route("10.2.0.0/16", VIA)).close()
        wait_until(lambda: not fib(f)["connected"], 5, "gone")
        peer = f.feeder().send(route("10.1.0.0/16", VIA))
        wait_until(lambda: fib(f)["stale"] == 1, 5, "stale")
        wait_until(lambda: fib(f)["ipv4"] == 1 and fib(f)["stale"] == 0, 10, "swept")
        assert not fib(f)["complete"]
        # Nobody connected: nothing is swept, whatever time passes.
        peer.close()
        wait_until(lambda: not fib(f)["connected"], 5, "gone")
        peer = f.feeder()
        wait_until(lambda: fib(f)["stale"] == 1, 5, "stale")
        peer.close()
        wait_until(lambda: not fib(f)["connected"], 5, "gone")
        late = f.status()["uptime_ms"] + 3000
        wait_until(lambda: f.status()["uptime_ms"] > late, 10, "twice the time has passed")
        assert fib(f)["ipv4"] == 1 and fib(f)["stale"] == 1


GOOD = route("10.9.0.0/16", VIA)


@pytest.mark.parametrize("bad", [
    b"\x02\x01\x00\x20" + bytes(28),             # version
    b"\x01\x09\x00\x20" + bytes(28),             # type
    b"\x01\x01\x00\x03",                         # shorter than its header
    b"\x01\x01\xff\xff" + bytes(64),             # longer than a frame may be
    b"\x01\x01\x00\x20" + bytes(28),             # netlink length 0
    GOOD[:4] + b"\xff" + GOOD[5:],               # netlink length beyond the frame
    route("10.9.0.0/16", {"via": PE4, "labels": [1, 2, 3, 4, 5]}),
    route("10.9.0.0/16", *([VIA] * 65)),
    GOOD[:21] + b"\x21" + GOOD[22:],             # /33
    frame(24, b"\x02"),                          # no rtmsg
])
def test_malformed_frames_end_the_connection_not_the_table(router, bad):
    peer = router.feed(route("10.1.0.0/16", VIA))
    before = prefixes(router)
    peer.send(bad)
    wait_until(peer.closed, 5, "the connection is dropped")
    assert prefixes(router) == before
    assert router.process.poll() is None


def test_frames_in_pieces(router):
    """A stream cut at every byte is the same stream."""
    peer = router.feeder()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for byte in route("10.77.0.0/16", VIA) + route("10.78.0.0/16", VIA) + END:
        peer.socket.send(struct.pack("B", byte))
    wait_until(lambda: fib(router)["complete"], 5, "complete")
    assert {"10.77.0.0/16", "10.78.0.0/16"} == set(prefixes(router))
    peer.close()


def test_killed_forwarder_finds_everything_again(own):
    """kill -9: TAPs keep their addresses, a new FIB connection refills the table."""
    own.lab.run(own.pe, ["ip", "address", "add", "10.2.0.1/32", "dev", "lo"])
    own.lab.run(own.pe, ["ip", "route", "add", "10.2.9.0/24", "dev", "lo"])
    own.feed(route("10.2.0.0/16", VIA))
    own.ping(own.ce, "10.2.0.1")
    addresses = {p["name"]: sorted(p["addresses"]) for p in own.status()["ports"]}
    for _ in range(3):
        own.process.send_signal(signal.SIGKILL)
        own.process.wait()
        own.start()
        now = {p["name"]: sorted(p["addresses"]) for p in own.status()["ports"]}
        assert now == addresses
        wait_until(lambda: all(p["link"] and p["up"] for p in own.status()["ports"]), 5, "links")
        assert fib(own)["ipv4"] == 0
        own.ping(own.ce, "192.168.1.1", 1)
        own.feed(route("10.2.0.0/16", VIA)).close()
        own.ping(own.ce, "10.2.0.1")


def fast_path(f):
    """The thread id of the fast path."""
    # Started by a wrapper that keeps its own namespaces: the program is a descendant.
    pid = f.lab.run(f.fwd, ["pgrep", "-f", "-n", f.run_dir]).split()[-1]
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8") as file:
            if file.read().strip() == "fast-path":
                return int(task)
    raise AssertionError("no fast path")


def test_sign_of_life(own):
    """A sleeping forwarder is alive; one whose fast path stands still isn't."""
    wait_until(lambda: own.status()["sleeping"], 5, "it sleeps")
    for _ in range(20):
        assert own.rpc("fwd.alive") == {}
    # ptrace stops one thread alone.
    tracer = own.lab.spawn(None, [PYTHON, "-c", STOP_THREAD, str(fast_path(own))], "tracer")
    wait_until(lambda: "stopped" in own.lab.log("tracer"), 10, "the fast path is stopped")

    def still():
        try:
            own.rpc("fwd.alive")
        except RpcError as why:
            return why.error
        return None

    error = wait_until(still, 10, "it is noticed")
    assert error["code"] == -32000 and "stood still for" in error["message"]
    tracer.kill()  # the kernel lets the thread go on
    tracer.wait()
    wait_until(lambda: still() is None, 10, "it is alive again")
    own.ping(own.ce, "192.168.1.1", 1)


OTHER_MAC = "02:ed:00:00:00:99"


def speaks_as(f, mac, not_as):
    """Neighbours learn `mac`; frames to it are for the forwarder, frames to `not_as` aren't."""
    wire = Wire(f.ce, "eth0")
    wire.send(Ether(src=CE_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=CE_MAC, psrc="192.168.1.2", pdst="192.168.1.1"))
    answer = wire.expect(Ether, lambda p: ARP in p and p[ARP].op == 2)
    assert (answer.src, answer[ARP].hwsrc) == (mac, mac)
    wire.send(Ether(src=CE_MAC, dst=mac) / IP(src="192.168.1.2", dst="192.168.1.1") / ICMP())
    answer = wire.expect(Ether, lambda p: ICMP in p and p[ICMP].type == 0)
    assert answer.src == mac
    before = f.drops("cust", "not_for_us")
    wire.send(Ether(src=CE_MAC, dst=not_as) / IP(src="192.168.1.2", dst="192.168.1.1") / ICMP())
    wait_until(lambda: f.drops("cust", "not_for_us") > before, 5, "it is dropped")
    # What the kernel sends and hears has the same address.
    f.lab.run(f.ce, ["ip", "neighbor", "flush", "dev", "eth0"])
    f.lab.run(f.fwd, ["ip", "neighbor", "flush", "dev", "cust"])
    f.ping(f.fwd, "192.168.1.2", 1)


def set_mac(f, mac):
    f.lab.run(f.fwd, ["ip", "link", "set", "dev", "cust", "address", mac])
    wait_until(lambda: f.port("cust")["mac"] == mac, 5, "the forwarder has seen it")


def test_the_mac_address_is_the_tap_s(own):
    """Also when the forwarder is killed; the NIC's own is told in the alias."""
    core = own.port("core")["mac"]
    set_mac(own, OTHER_MAC)
    speaks_as(own, OTHER_MAC, CUST_MAC)
    for _ in range(2):
        own.process.send_signal(signal.SIGKILL)
        own.process.wait()
        own.start()
        wait_until(lambda: own.port("cust")["link"], 5, "the link")
        assert (own.port("cust")["mac"], own.port("core")["mac"]) == (OTHER_MAC, core)
        speaks_as(own, OTHER_MAC, CUST_MAC)
    link = json.loads(own.lab.run(own.fwd, ["ip", "-j", "link", "show", "dev", "cust"]))[0]
    assert link["ifalias"] == f"nic {CUST_MAC}"
    set_mac(own, CUST_MAC)
    speaks_as(own, CUST_MAC, OTHER_MAC)


def test_a_tap_of_unknown_origin_gets_the_nic_s_mac_address():
    """As one whose forwarder was killed between making it and giving it its address."""
    with Lab("dp") as lab:
        f = ForwarderLab(lab, start=False)
        lab.run(f.fwd, ["ip", "tuntap", "add", "dev", "cust", "mode", "tap"])
        lab.run(f.fwd, ["ip", "link", "set", "dev", "cust", "address", OTHER_MAC, "alias", "nic x"])
        f.start()
        f.configure()
        assert f.port("cust")["mac"] == OTHER_MAC, "an alias of ours: it keeps what it has"
        f.process.send_signal(signal.SIGKILL)
        f.process.wait()
        lab.run(f.fwd, ["ip", "link", "set", "dev", "cust", "alias", "somebody's"])
        f.start()
        wait_until(lambda: f.port("cust")["link"], 5, "the link")
        speaks_as(f, CUST_MAC, OTHER_MAC)


def test_fib_socket_is_the_owners_alone(router):
    assert stat.S_IMODE(os.stat(f"{router.run_dir}/fpm.sock").st_mode) == 0o600


def test_ends_on_term_and_leaves_the_taps(own):
    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(10) == 0
    assert not os.path.exists(f"{own.run_dir}/fwd.sock")
    assert not os.path.exists(f"{own.run_dir}/fpm.sock")
    link = json.loads(own.lab.run(own.fwd, ["ip", "-j", "address", "show", "dev", "cust"]))[0]
    assert "192.168.1.1" in [a["local"] for a in link["addr_info"]]
    assert "NO-CARRIER" in link["flags"]


def test_link_and_administrative_state(own):
    """The NIC's carrier is the TAP's; a TAP that is down forwards nothing."""
    own.lab.run(own.ce, ["ip", "link", "set", "eth0", "down"])
    wait_until(lambda: not own.port("cust")["link"], 5, "the link is down")
    link = json.loads(own.lab.run(own.fwd, ["ip", "-j", "link", "show", "dev", "cust"]))[0]
    assert "NO-CARRIER" in link["flags"]
    own.lab.run(own.ce, ["ip", "link", "set", "eth0", "up"])
    wait_until(lambda: own.port("cust")["link"], 5, "the link is up")
    own.lab.run(own.fwd, ["ip", "link", "set", "cust", "down"])
    wait_until(lambda: not own.port("cust")["up"], 5, "the port is down")
    wire = Wire(own.ce, "eth0")
    before = own.drops("cust", "admin_down")
    wire.send(Ether(src=CE_MAC, dst=CUST_MAC) / IP(src="192.168.1.2", dst=PE4) / UDP())
    wait_until(lambda: own.drops("cust", "admin_down") > before, 5, "it is dropped")


def test_idle_forwarder_sleeps(own):
    """No wake-ups but one a second: counted by the kernel, so that a busy machine can't matter."""
    wait_until(lambda: own.status()["sleeping"], 5, "it sleeps")
    out = own.lab.run(own.fwd, ["pgrep", "-f", "-n", own.run_dir]).split()
    pid = int(out[-1])

    def switches():
        total = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8") as file:
                if file.read().strip() != "fast-path":
                    continue
            with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as file:
                total += sum(int(line.split()[1]) for line in file
                             if line.startswith("voluntary_ctxt_switches"))
        return total

    start, until = switches(), own.status()["uptime_ms"] + 5000
    assert start > 0
    wait_until(lambda: own.status()["uptime_ms"] > until, 30, "five seconds", interval_s=5)
    seconds = (own.status()["uptime_ms"] - until + 5000) / 1000
    assert switches() - start <= 20 + 4 * seconds


@pytest.mark.parametrize("arguments,says", [
    ([], "--pci"),
    (["--pci", "--port", "a=lo"], "--pci"),
    (["--port", "cust=lo"], "two times --port"),
    (["--port", "cust"], "NAME=DEVICE"),
    (["--port", "cust=nothere"], "no device nothere"),
    (["--port", "averyveryverylongname=lo"], "15"),
    (["--port", "a=lo", "--port", "a=lo"], "two ports named a"),
    (["--port", "lo=lo"], "can't have the device's name"),
    (["--stale-ms", "-1"], "--stale-ms"),
    (["--stale-ms", "x"], "--stale-ms"),
    (["--log-level", "loud"], "--log-level"),
    (["--nonsense"], "--help"),
    (["extra"], "extra"),
])
def test_command_line_errors(arguments, says):
    done = subprocess.run([FORWARDER, *arguments], capture_output=True, text=True, timeout=20,
                          check=False)
    assert done.returncode == 2
    assert says in done.stderr


def test_help():
    done = subprocess.run([FORWARDER, "--help"], capture_output=True, text=True, timeout=20,
                          check=True)
    assert "--stale-ms" in done.stdout and done.stderr == ""


def test_second_forwarder_is_refused(router):
    """It can't have the TAPs, says so, and doesn't disturb the first one."""
    done = subprocess.run(
        ["ip", "netns", "exec", router.fwd, FORWARDER, "--port", "cust=dcust", "--port",
         "core=dcore", "--run-dir", f"{router.lab.dir}/second"],
        capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "another forwarder uses it" in done.stderr
    router.ping(router.ce, "192.168.1.1", 1)
