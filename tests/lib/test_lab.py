# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab leaves nothing behind, whatever ends it; and its routers speak BGP."""

import os
import signal
import subprocess
import sys

import pytest

from lib import lab as lab_module
from lib.lab import Lab, wait_until

HOLD = """
import sys
from lib.lab import Lab
lab = Lab("held").__enter__()
ns = lab.netns("x")
other = lab.netns("y")
lab.veth(ns, "a", other, "b")
lab.spawn(ns, ["sleep", "1000"], "direct")
lab.run(None, ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null &"])
lab.run(ns, ["sh", "-c", "env -i setsid sleep 1000 >/dev/null 2>&1 </dev/null &"])
print(lab.id, flush=True)
sys.stdin.read()
"""


def leftovers(lab_id):
    names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    return (
        [n for n in names if lab_id in n]
        + lab_module.marked_processes(f"{lab_module.MARK}={lab_id}")
        + ([lab_id] if os.path.exists(f"{lab_module.REGISTRY}/{lab_id}") else [])
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after(number):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    ) as owner:
        lab_id = owner.stdout.readline().strip()
        assert len(leftovers(lab_id)) >= 5
        owner.send_signal(number)
        owner.wait(10)
        wait_until(lambda: not leftovers(lab_id), 15, "all is gone")


def test_next_lab_sweeps_when_the_watcher_died_too():
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    ) as owner:
        lab_id = owner.stdout.readline().strip()
        with open(f"{lab_module.REGISTRY}/{lab_id}/watcher", encoding="utf-8") as file:
            os.kill(int(file.read()), signal.SIGKILL)
        owner.kill()
        owner.wait(10)
        assert leftovers(lab_id)
        with Lab("next"):
            assert not leftovers(lab_id)


def test_bird_and_frr_exchange_routes():
    bird_conf = """
router id 10.0.0.1;
protocol device {}
protocol static { ipv4; route 198.51.100.0/24 blackhole; }
protocol bgp peer { local 10.0.0.1 as 65001; neighbor 10.0.0.2 as 65002;
  ipv4 { import all; export all; }; }
"""
    frr_conf = """
router bgp 65002
 bgp router-id 10.0.0.2
 no bgp ebgp-requires-policy
 neighbor 10.0.0.1 remote-as 65001
 address-family ipv4 unicast
  network 203.0.113.0/24
"""
    with Lab("peers") as lab:
        one, two = lab.netns("one"), lab.netns("two")
        lab.veth(one, "eth0", two, "eth0")
        lab.run(None, ["ip", "-n", one, "addr", "add", "10.0.0.1/30", "dev", "eth0"])
        lab.run(None, ["ip", "-n", two, "addr", "add", "10.0.0.2/30", "dev", "eth0"])
        lab.run(None, ["ip", "-n", two, "route", "add", "blackhole", "203.0.113.0/24"])
        frr = lab.frr(two, "frr", {"zebra": "", "bgpd": frr_conf})
        bird = lab.bird(one, "bird", bird_conf)
        wait_until(lambda: "203.0.113.0/24" in bird("show route"), 30, "BIRD has FRR's route")
        wait_until(
            lambda: "198.51.100.0/24" in frr.vtysh("show bgp ipv4 unicast"),
            30,
            "FRR has BIRD's route",
        )
