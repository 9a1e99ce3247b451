# SPDX-License-Identifier: GPL-2.0-or-later
"""pvmd and its CEs."""

import copy

import pytest

from lib.lab import Lab, wait_until
from rlab import Daemon, Forwarder, ifindex

CONFIG = {
    "config_id": "1",
    "hostname": "green-a",
    "asn": 65000,
    "router_id": "100.64.1.10",
    "interfaces": {
        "cust": {"addresses": ["192.168.1.1/24", "fd00:a1::1/64"], "mtu": 1500},
        "core": {"addresses": ["100.64.1.10/24", "192.0.2.2/30"], "mtu": 1600},
    },
    "ce": [
        {"address": "192.168.1.2", "remote_asn": 65101, "families": ["ipv4"]},
        {"address": "fd00:a1::2", "remote_asn": 65101, "families": ["ipv6"]},
    ],
    "cvm": {"address": "100.64.1.1", "local_address": "100.64.1.10"},
    "vpn": {"rd": "65000:1", "import_rts": ["65000:100"], "export_rts": ["65000:100"],
            "label": 1001, "next_hop": "10.0.0.1"},
    "tunnels": [{"prefix": "10.0.0.2/32", "via": "192.0.2.1", "labels": [16002]}],
}

BIRD = """
router id 10.9.9.1;
protocol device {}
protocol static { ipv4; route 10.1.0.0/16 blackhole; route 10.3.0.0/24 blackhole; }
protocol static { ipv6; route fd00:1::/48 blackhole; }
protocol bgp pe4 {
    local 192.168.1.2 as 65101; neighbor 192.168.1.1 as 65000;
    graceful restart on; connect retry time 1; error wait time 1, 2; connect delay time 1;
    ipv4 { import all; export all; };
}
protocol bgp pe6 {
    local fd00:a1::2 as 65101; neighbor fd00:a1::1 as 65000;
    graceful restart on; connect retry time 1; error wait time 1, 2; connect delay time 1;
    ipv6 { import all; export all; };
}
"""


@pytest.fixture(name="net")
def _net():
    with Lab("rce") as lab:
        class Net:
            pass
        net = Net()
        net.lab = lab
        net.pe, net.ce, net.core = lab.netns("pe"), lab.netns("ce"), lab.netns("core")
        lab.veth(net.pe, "cust", net.ce, "eth0")
        lab.veth(net.pe, "core", net.core, "eth0", mtu=1600)
        lab.run(net.ce, ["ip", "addr", "add", "192.168.1.2/24", "dev", "eth0"])
        lab.run(net.ce, ["ip", "addr", "add", "fd00:a1::2/64", "dev", "eth0"])
        net.bird = lab.bird(net.ce, "bird", BIRD)
        net.pvmd = Daemon(lab, net.pe, "pvmd", "pvmd")
        net.fwd = Forwarder(f"{net.pvmd.dir}/fpm.sock")
        yield net
        net.fwd.close()


def test_routes_of_a_ce_reach_the_forwarder(net):
    net.pvmd.configure(CONFIG)
    net.pvmd.wait_established("192.168.1.2", "fd00:a1::2")
    cust = ifindex(net.lab, net.pe, "cust")
    wait_until(lambda: net.fwd.get("10.1.0.0/16") and net.fwd.get("fd00:1::/48"), 10, "routes")
    assert net.fwd.get("10.1.0.0/16") == [{"ifindex": cust, "via": "192.168.1.2", "labels": []}]
    assert net.fwd.get("fd00:1::/48") == [{"ifindex": cust, "via": "fd00:a1::2", "labels": []}]
    assert net.fwd.get(1001) == [{"ifindex": 1, "via": None, "labels": []}]
    path = net.pvmd.best("ipv4", "10.1.0.0/16")
    assert (path["as_path"], path["next_hop"], path["from"]) == (
        "65101", "192.168.1.2", "192.168.1.2")
    vpn = net.pvmd.status()
    assert vpn["rib"]["ipv4"] >= 3

    net.bird.configure(BIRD.replace("route 10.3.0.0/24 blackhole;", ""))
    wait_until(lambda: net.fwd.get("10.3.0.0/24") is None, 10, "withdrawn")
