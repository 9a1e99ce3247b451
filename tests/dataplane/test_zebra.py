# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock FRR zebra drives the forwarder by its FPM module: static routes, ECMP, withdrawals.

Labels are not tested here: zebra refuses them where the kernel has no MPLS.
"""

import os

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from fwdlab import CE_MAC, CUST_MAC, ForwarderLab, Wire
from lib.lab import Lab, wait_until

ZEBRA = """
hostname pe
fpm address 127.0.0.1 port 2620
no fpm use-next-hop-groups
"""
STATIC = """
ip route 10.2.0.0/16 192.0.2.1
ip route 10.3.0.0/16 192.0.2.1
ip route 10.4.0.0/16 Null0
ip route 10.5.0.0/16 reject
ip route 10.6.0.0/16 192.0.2.1
ip route 10.6.0.0/16 192.168.1.2
ipv6 route fd00:2::/32 fd00:c0::1
"""


@pytest.fixture(scope="module")
def net():
    """zebra and staticd in the forwarder's namespace, socat between TCP and the FIB socket."""
    if not os.path.exists("/usr/lib/frr/zebra"):
        pytest.fail("stock FRR is needed: apt-get install frr")
    with Lab("dp") as lab:
        f = ForwarderLab(lab)
        lab.spawn(f.fwd, ["socat", "TCP-LISTEN:2620,bind=127.0.0.1,reuseaddr,fork",
                          f"UNIX-CONNECT:{f.run_dir}/fpm.sock"], name="socat")
        f.frr = lab.frr(f.fwd, "frr", {"zebra": ZEBRA, "staticd": STATIC},
                        options={"zebra": ["-M", "dplane_fpm_nl"]})
        wait_until(lambda: f.status()["fib"]["connected"], 30, "zebra connects")
        yield f


def shown(f, prefix, family="ipv4"):
    """One route of the forwarder, or None."""
    found = f.rpc("fwd.fib", family=family, prefix=prefix)["routes"]
    return found[0] if found else None


def test_routes_arrive(net):
    wait_until(lambda: shown(net, "10.6.0.0/16") and shown(net, "fd00:2::/32", "ipv6"), 30,
               "zebra's routes are in the forwarder")
    hop = {"port": "core", "via": "192.0.2.1", "labels": [], "weight": 1, "resolved": True}
    assert shown(net, "10.2.0.0/16")["nexthops"] == [hop]
    assert shown(net, "10.4.0.0/16")["action"] == "blackhole"
    assert shown(net, "10.5.0.0/16")["action"] == "unreachable"
    assert {h["via"] for h in shown(net, "10.6.0.0/16")["nexthops"]} == {
        "192.0.2.1", "192.168.1.2"}
    assert shown(net, "fd00:2::/32", "ipv6")["nexthops"][0]["via"] == "fd00:c0::1"


def test_packets_follow(net):
    wait_until(lambda: shown(net, "10.3.0.0/16"), 30, "the route is in")
    ce, pe = Wire(net.ce, "eth0"), Wire(net.pe, "eth0")
    ce.send(Ether(src=CE_MAC, dst=CUST_MAC) / IP(src="192.168.1.2", dst="10.3.0.1") / UDP())
    pe.expect(Ether, lambda p: IP in p and p[IP].dst == "10.3.0.1")


def test_changes_and_withdrawals_follow(net):
    wait_until(lambda: shown(net, "10.2.0.0/16"), 30, "the route is in")
    net.frr.vtysh("configure terminal", "no ip route 10.2.0.0/16 192.0.2.1",
                  "ip route 10.2.0.0/16 192.168.1.2")
    wait_until(lambda: shown(net, "10.2.0.0/16")
               and shown(net, "10.2.0.0/16")["nexthops"][0]["via"] == "192.168.1.2", 20, "moved")
    net.frr.vtysh("configure terminal", "no ip route 10.2.0.0/16 192.168.1.2")
    wait_until(lambda: shown(net, "10.2.0.0/16") is None, 20, "withdrawn")


def test_killed_forwarder_gets_everything_from_zebra(net):
    wait_until(lambda: shown(net, "10.3.0.0/16"), 30, "the route is in")
    net.process.kill()
    net.process.wait()
    net.start()
    wait_until(lambda: shown(net, "10.3.0.0/16") and shown(net, "fd00:2::/32", "ipv6"), 60,
               "zebra sends all again")
