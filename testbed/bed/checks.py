# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured and checked on a running testbed, for the demo and the end-to-end tests."""

import ipaddress
import json
import os
import re
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from datetime import datetime

from lib.lab import wait_until

from . import controller, core, customer, host
from . import topology as topo

TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def process(ns, argv, **kwargs):
    """A process in a namespace for the length of a block."""
    with subprocess.Popen(
        host.at(ns, argv), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **kwargs
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def wait_established(edges=topo.CES, limit_s=120):
    """Waits until every session of these customer edges is Established."""
    for edge in edges:
        wait_until(lambda e=edge: all(customer.established(e).values()), limit_s,
                   f"BGP of {edge.name} is Established", interval_s=0.3)


def wait_route(edge, prefix, present=True, limit_s=60):
    """Waits until `prefix` is, or no longer is, in the edge's kernel by BGP."""
    wait_until(lambda: bool(customer.bgp_route(edge, prefix)) == present, limit_s,
               f"{prefix} is {'in' if present else 'gone from'} the kernel of {edge.name}")


def wait_routes(edges=topo.CES, limit_s=120):
    """Waits until every edge has the prefixes of its far side."""
    for edge in edges:
        for prefix in (topo.far(edge).prefix4, topo.far(edge).prefix6):
            wait_route(edge, prefix, limit_s=limit_s)


# ---- the core ------------------------------------------------------------------------------


def network(address):
    """The network of an address with its length, as text."""
    return str(ipaddress.ip_network(address, strict=False))


def core_sessions(version):
    """{neighbour: state} of the route reflector for VPNv4 or VPNv6."""
    out = json.loads(core.vtysh(f"show bgp ipv{version} vpn summary json"))
    return {name: peer["state"] for name, peer in out.get("peers", {}).items()}


def core_routes(version):
    """The route reflector's VPN routes: [(rd, prefix, next hop, label)]"""
    routes = []
    vpn = json.loads(core.vtysh(f"show bgp ipv{version} vpn json"))["routes"]
    for rd, prefixes in vpn["routeDistinguishers"].items():
        for prefix, paths in prefixes.items():
            for path in paths:
                hop = _unmapped(path["nexthops"][0]["ip"])
                routes.append((rd, prefix, hop, _label(version, rd, prefix)))
    return routes


def _unmapped(address):
    """An IPv4 address that is written as an IPv6 one (RFC 4659, 3.2.1.2), or what was given."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or address)


def _label(version, rd, prefix):
    """The label of a route's only path, from the detailed view."""
    out = core.vtysh(f"show bgp ipv{version} vpn rd {rd} {prefix}")
    found = re.search(r"[Rr]emote label: (\d+)", out)
    return int(found.group(1)) if found else None


# ---- traffic -------------------------------------------------------------------------------


def ping(ns, source, destination, count=5, interval_s=0.2, limit_s=10):
    """Pings; returns (replies, average ms or None). Duplicates would count as replies too."""
    out = host.run(ns, ["ping", "-n", "-I", source, "-c", count, "-i", interval_s, "-w", limit_s,
                        destination], check=False, limit_s=limit_s + 5)
    received = re.search(r"(\d+) received", out)
    average = re.search(r"= [\d.]+/([\d.]+)/", out)
    return (int(received.group(1)) if received else 0,
            float(average.group(1)) if average else None)


def iperf(near, far_edge, version, seconds, port):
    """iperf3 both ways at once; returns Mbit/s as received: (towards the far side, back)."""
    source, destination = ((near.host4, far_edge.host4) if version == 4
                           else (near.host6, far_edge.host6))
    with process(far_edge.ns, ["iperf3", "-s", "-1", "-B", destination, "-p", port,
                               "--forceflush"]) as server:
        wait_until(lambda: server.poll() is not None or
                   f":{port}" in host.run(far_edge.ns, ["ss", "-Hltn"]), 10, "iperf3 listens")
        out = host.run(near.ns, ["iperf3", "-c", destination, "-B", source, "-p", port, "-J",
                                 "-t", seconds, "--bidir", "--connect-timeout", "10000"],
                       check=False, limit_s=seconds + 40)
    result = json.loads(out)
    if "error" in result:
        raise host.TestbedError(f"iperf3 {near.name} to {far_edge.name}: {result['error']}")
    end = result["end"]
    return (end["sum_received"]["bits_per_second"] / 1e6,
            end["sum_received_bidir_reverse"]["bits_per_second"] / 1e6)


@contextmanager
def capture(ns, expression, interface="pe"):
    """Counts frames with tcpdump: yields a function that ends it and returns how many it saw."""
    with process(ns, ["tcpdump", "-nn", "-l", "--immediate-mode", "-i", interface,
                      expression]) as child:
        line = child.stdout.readline()
        while line and "listening on" not in line:
            line = child.stdout.readline()

        def seen():
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=10)
            return int(re.search(r"^(\d+) packets? captured", out, re.M).group(1))

        yield seen


# ---- routes that come and go ---------------------------------------------------------------


@contextmanager
def route_monitor(ns, family="-4"):
    """What the kernel tells of routes that come and go, from the beginning of a block on: gives a function that
    returns all of it so far, a line for each change with its time."""
    with process(ns, ["ip", family, "-o", "-ts", "monitor", "route"]) as monitor:
        os.set_blocking(monitor.stdout.fileno(), False)
        seen = []

        def told():
            try:
                while data := os.read(monitor.stdout.fileno(), 65536):
                    seen.append(data.decode(errors="replace"))
            except BlockingIOError:
                pass
            return "".join(seen)

        # It listens once it reports a change that we make ourselves.
        marker = "198.18.0.0/32" if family == "-4" else "2001:db8:ffff::/128"

        def ready():
            host.run(ns, ["ip", family, "route", "replace", "blackhole", marker])
            host.run(ns, ["ip", family, "route", "del", "blackhole", marker])
            return "Deleted blackhole" in told()

        wait_until(ready, 10, "ip monitor listens")
        yield told


def withdrawal_ms(near, far_edge, version):
    """Announces a prefix at `near` (BIRD), withdraws it, and returns how many ms later the far
    edge's kernel had lost it. The time of birdc is included."""
    prefix = customer.probe(near, version)
    customer.birdc(near, f"enable probe{version}")
    wait_route(far_edge, prefix)
    with route_monitor(far_edge.ns, "-6" if version == 6 else "-4") as told:
        start = time.time()
        customer.birdc(near, f"disable probe{version}")
        match = wait_until(lambda: re.search(rf"\[([^]]+)\] *Deleted {re.escape(prefix)} ", told()), 60,
                           f"{prefix} is withdrawn at {far_edge.name}", 0.005)
    return (datetime.fromisoformat(match.group(1)).timestamp() - start) * 1000


# ---- cost ----------------------------------------------------------------------------------


def _cpu_ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _memory_mib(pid):
    values = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if words[0] in ("Rss:", "Pss:"):
                values[words[0]] = int(words[1]) / 1024
    return values["Pss:"], values["Rss:"]


def idle_cost(ports, seconds=10):
    """{port: (CPU % of one core, PSS MiB, RSS MiB)} of PVMs over some idle seconds."""
    pids = {name: host.vm_pid(name) for name in ports}
    for name, pid in pids.items():
        if pid is None:
            raise host.TestbedError(f"the PVM {name} doesn't run")
    before = {name: _cpu_ticks(pid) for name, pid in pids.items()}
    start = time.monotonic()
    select.select([], [], [], seconds)  # measures: not a wait for anything
    took = time.monotonic() - start
    return {
        name: (100 * (_cpu_ticks(pid) - before[name]) / TICKS / took, *_memory_mib(pid))
        for name, pid in pids.items()
    }


# ---- inside a PVM --------------------------------------------------------------------------


def table(pvm, kind, family, **filters):
    """All routes of a PVM's RIB or FIB, through the CLI."""
    args = ["pvm", kind, pvm, "--family", family]
    for name, value in filters.items():
        args += [f"--{name}", value]
    out = controller.query(*args)
    return out["routes"] if isinstance(out, dict) else out
