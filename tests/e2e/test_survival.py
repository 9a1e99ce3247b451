# SPDX-License-Identifier: GPL-2.0-or-later
"""What dies, and what goes on meanwhile."""

import json
import os
import re
import signal

from bed import checks, controller, customer, host, moves, server, sessions, switch
from bed import topology as topo
from lib.lab import wait_until

NEAR = topo.ce("green-a")
FAR = topo.far(NEAR)


def process(pvm, name):
    """A process of the VM as its agent describes it: pid, restarts, …"""
    found = [p for p in controller.query("pvm", "processes", pvm)["items"] if p["name"] == name]
    return found[0]


def restarted(pvm, name, before):
    """Waits until the VM's supervisor has started a killed process again."""
    wait_until(lambda: process(pvm, name)["restarts"] > before["restarts"]
               and process(pvm, name)["running"], 30, f"{name} in {pvm} runs again")


def fib(pvm):
    """The FIB, without what may differ between two equal ones."""
    return {(family, r["prefix"]): (r["action"], tuple(sorted(
                (hop["port"], hop.get("via") or "", tuple(hop.get("labels") or []))
                for hop in r["nexthops"])))
            for family in ("ipv4", "ipv6", "mpls") for r in checks.table(pvm, "fib", family)}


def fwd_complete(pvm):
    """Has the forwarder the whole FIB, nothing of it stale?"""
    state = controller.query("pvm", "show", pvm)["fwd"]["fib"]
    return state["complete"] and state["stale"] == 0


def test_forwarding_goes_on_while_pvmd_restarts(bed):  # pylint: disable=unused-argument
    before = process(NEAR.name, "pvmd")
    argv = ["ping", "-n", "-D", "-i", "0.02", "-I", NEAR.host4, FAR.host4]
    with checks.process(NEAR.ns, argv) as pings:
        assert "PING" in pings.stdout.readline()
        assert "icmp_seq" in pings.stdout.readline()
        controller.cli("pvm", "signal", NEAR.name, "pvmd", "KILL")
        restarted(NEAR.name, "pvmd", before)
        checks.wait_established([NEAR])
        wait_until(lambda: fwd_complete(NEAR.name), 60, "the new pvmd has sent the FIB")
        pings.send_signal(signal.SIGINT)
        out, _ = pings.communicate(timeout=10)
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", out).groups())
    # The last one may have been under way.
    assert sent - received <= 1, f"{sent - received} of {sent} lost"
    assert sent > 20
    checks.wait_routes([NEAR, FAR])


def test_restarted_forwarder_has_the_whole_fib(bed):  # pylint: disable=unused-argument
    before, whole = process(NEAR.name, "edgeplex-fwd"), fib(NEAR.name)
    assert len(whole) > 4
    controller.cli("pvm", "signal", NEAR.name, "edgeplex-fwd", "KILL")
    restarted(NEAR.name, "edgeplex-fwd", before)
    wait_until(lambda: fib(NEAR.name) == whole, 30, "the FIB is whole again")
    wait_until(lambda: checks.ping(NEAR.ns, NEAR.host4, FAR.host4)[0] == 5, 30, "packets cross")
    wait_until(lambda: checks.ping(NEAR.ns, NEAR.host6, FAR.host6)[0] == 5, 30, "packets cross")
    checks.wait_established([NEAR])
    checks.wait_routes([NEAR, FAR])


def flows(site):
    """The edge switch's rules with their cookies, and the second when each was installed."""
    out = switch.ofctl(site.dir, "--no-stats", "dump-flows", "edge")
    return sorted(line.strip() for line in out.splitlines() if "cookie" in line or "actions" in line)


def youngest(site):
    """Seconds since the newest rule of the edge switch was installed."""
    out = switch.ofctl(site.dir, "dump-flows", "edge")
    return min(float(age) for age in re.findall(r"duration=([\d.]+)s", out))


def vm_pids():
    """{VM: pid of its QEMU}"""
    names = [e.name for e in topo.CES]
    return {name: host.vm_pid(name) for name in names}


def test_killed_controller_changes_nothing(bed):  # pylint: disable=unused-argument
    rules = {site.name: flows(site) for site in topo.SITES}
    ages = {site.name: youngest(site) for site in topo.SITES}
    vms, before = vm_pids(), host.daemons()["edgeplexd"]["restarts"]
    assert all(vms.values()) and all(rules.values())
    with checks.process(NEAR.ns, ["ping", "-n", "-i", "0.05", "-I", NEAR.host4,
                                  FAR.host4]) as pings:
        assert "PING" in pings.stdout.readline()
        os.kill(host.daemon_pid("edgeplexd"), signal.SIGKILL)
        wait_until(lambda: host.daemons()["edgeplexd"]["restarts"] > before, 10, "it is restarted")
        wait_until(lambda: controller.cli("status"), 20, "it answers")
        assert {p["name"] for p in controller.query("port", "list")["items"]} \
            == {e.name for e in topo.CES}
        wait_until(lambda: all(p["state"] == "up"
                               for p in controller.query("pvm", "list")["items"]), 60,
                   "it knows its VMs again")
        pings.send_signal(signal.SIGINT)
        out, _ = pings.communicate(timeout=10)
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", out).groups())
    assert sent - received <= 1
    assert vm_pids() == vms
    assert {site.name: flows(site) for site in topo.SITES} == rules
    for site in topo.SITES:
        assert youngest(site) > ages[site.name], "a rule was installed anew"
    assert all(all(customer.established(e).values()) for e in topo.CES)


def test_a_nic_that_announces_itself_loses_no_session(bed):  # pylint: disable=unused-argument
    """QEMU has the guest announce its NICs after each move; DPDK stops them for that, each time."""
    where = moves.server_of(NEAR.name)
    before = sessions.snapshot(NEAR)

    def link_changes():
        return [p["link"] for p in controller.query("pvm", "show", NEAR.name)["fwd"]["ports"]]

    announce = {"execute": "announce-self",
                "arguments": {"initial": 1, "max": 1, "rounds": 1000, "step": 0}}
    for _ in range(5):
        server.virsh(where, "qemu-monitor-command", f"pvm-{NEAR.name}", json.dumps(announce))
        # Several of the seconds at which the forwarder looks at its links.
        assert checks.ping(NEAR.ns, NEAR.host4, FAR.host4)[0] == 5
        assert link_changes() == [True, True]
    assert sessions.resets(before, sessions.snapshot(NEAR)) == []
