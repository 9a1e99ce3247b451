# SPDX-License-Identifier: GPL-2.0-or-later
"""pvmd, its CEs and its forwarder."""

import copy
import json
import os
import re
import socket
import struct
import time

import pytest

from lib.lab import Lab, wait_until
from rlab import Daemon, Forwarder, RpcError, ifindex, is_running

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
    "vpn": {"rd": "65000:1", "import_rts": ["65000:100"], "export_rts": ["65000:100"],
            "label": 1001, "next_hop": "10.0.0.1"},
    "tunnels": [{"prefix": "10.0.0.2/32", "via": "192.0.2.1", "labels": [16002]}],
}
CES = ("192.168.1.2", "fd00:a1::2")


def bird(asn=65101, v4=("10.1.0.0/16", "10.3.0.0/24"), v6=("fd00:1::/48",), host=2):
    return f"""
router id 10.9.9.{host};
protocol device {{}}
protocol static s4 {{ ipv4; {"".join(f"route {p} blackhole;" for p in v4)} }}
protocol static s6 {{ ipv6; {"".join(f"route {p} blackhole;" for p in v6)} }}
template bgp edge {{
    graceful restart on; connect retry time 1; error wait time 1, 2; connect delay time 1;
}}
protocol bgp pe4 from edge {{
    local 192.168.1.{host} as {asn}; neighbor 192.168.1.1 as 65000;
    ipv4 {{ import all; export all; }};
}}
protocol bgp pe6 from edge {{
    local fd00:a1::{host} as {asn}; neighbor fd00:a1::1 as 65000;
    ipv6 {{ import all; export all; }};
}}
"""


class Net:
    """A PVM between a customer's LAN and the core's link."""

    def __init__(self, lab):
        self.lab = lab
        self.pe, self.lan, self.core = lab.netns("pe"), lab.netns("lan"), lab.netns("core")
        lab.run(self.lan, ["ip", "link", "add", "br0", "type", "bridge"])
        lab.run(self.lan, ["ip", "link", "set", "br0", "up"])
        lab.veth(self.pe, "cust", self.lan, "pe")
        lab.veth(self.pe, "core", self.core, "eth0", mtu=1600)
        lab.run(self.lan, ["ip", "link", "set", "pe", "master", "br0"])
        self.ce = self.add_ce(2)
        self.pvmd = Daemon(lab, self.pe, "pvmd", "pvmd")
        self.fwd = Forwarder(f"{self.pvmd.dir}/fpm.sock")

    def add_ce(self, host):
        """A namespace on the customer's LAN: 192.168.1.HOST."""
        ns = self.lab.netns(f"ce{host}")
        self.lab.veth(ns, "eth0", self.lan, f"ce{host}")
        self.lab.run(self.lan, ["ip", "link", "set", f"ce{host}", "master", "br0"])
        for address in (f"192.168.1.{host}/24", f"fd00:a1::{host}/64"):
            self.lab.run(ns, ["ip", "addr", "add", address, "dev", "eth0"])
        return ns

    def up(self, config=None, whole=True):
        """BIRD as the CE, Established, its routes in the FIB (`whole`: and FIB_END sent)."""
        bird_ = self.lab.bird(self.ce, "bird", bird())
        self.pvmd.configure(config or CONFIG)
        self.pvmd.wait_established(*CES)
        self.wait_routes()
        if whole:
            wait_until(lambda: self.pvmd.status()["fib"]["complete"], 20, "the FIB is whole")
        return bird_

    def wait_routes(self):
        wait_until(lambda: self.fwd.get("10.1.0.0/16") and self.fwd.get("fd00:1::/48"), 20,
                   "the CE's routes in the FIB")

    def addresses(self, interface):
        out = self.lab.run(self.pe, ["ip", "-j", "addr", "show", "dev", interface])
        return {f'{a["local"]}/{a["prefixlen"]}' for a in json.loads(out)[0]["addr_info"]
                if a["scope"] != "link"}


@pytest.fixture(name="net")
def _net():
    with Lab("rce") as lab:
        net = Net(lab)
        yield net
        assert is_running(net.pvmd.process), net.lab.log("pvmd")
        net.fwd.close()


def changed(path, value):
    """CONFIG with one member changed (deleted if `value` is ...)."""
    config = copy.deepcopy(CONFIG)
    at = config
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return config


# ---- routes ----------------------------------------------------------------------------------


def test_routes_of_a_ce_reach_the_forwarder(net):
    ce = net.up()
    cust = ifindex(net.lab, net.pe, "cust")
    assert net.fwd.get("10.1.0.0/16") == [{"ifindex": cust, "via": "192.168.1.2", "labels": []}]
    assert net.fwd.get("fd00:1::/48") == [{"ifindex": cust, "via": "fd00:a1::2", "labels": []}]
    assert net.fwd.get(1001) == [{"ifindex": 1, "via": None, "labels": []}]
    path = net.pvmd.best("ipv4", "10.1.0.0/16")
    assert (path["as_path"], path["next_hop"], path["from"], path["origin"]) == (
        "65101", "192.168.1.2", "192.168.1.2", "igp")
    status = net.pvmd.status()
    assert status["rib"] == {"ipv4": 3, "ipv6": 2}  # with the link's own subnets
    assert status["fib"]["routes"] == 4  # the CE's three and the label
    families = net.pvmd.neighbor("192.168.1.2")["families"]
    assert families == {"ipv4": {"received": 2, "accepted": 2, "sent": families["ipv4"]["sent"],
                                 "eor": True}}
    assert {i["name"]: i["up"] for i in status["interfaces"]} == {"cust": True, "core": True}

    ce.configure(bird(v4=["10.1.0.0/16"]))
    wait_until(lambda: net.fwd.get("10.3.0.0/24") is None, 10, "withdrawn")
    assert net.fwd.get("10.1.0.0/16")


def test_a_ce_can_be_stock_frr(net):
    net.lab.frr(net.ce, "ce", {"zebra": "", "bgpd": """
router bgp 65101
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 192.168.1.1 remote-as 65000
 neighbor 192.168.1.1 timers connect 1
 neighbor fd00:a1::1 remote-as 65000
 neighbor fd00:a1::1 timers connect 1
 address-family ipv4 unicast
  network 10.1.0.0/16
  no neighbor fd00:a1::1 activate
 exit-address-family
 address-family ipv6 unicast
  network fd00:1::/48
  neighbor fd00:a1::1 activate
 exit-address-family
"""})
    net.pvmd.configure(CONFIG)
    net.pvmd.wait_established(*CES)
    net.wait_routes()
    assert net.fwd.get("fd00:1::/48")[0]["via"] == "fd00:a1::2"


def test_without_a_configuration_pvmd_sleeps(net):
    """A VM that waits for its configuration is to cost its server next to nothing."""
    wait_until(lambda: net.pvmd.status()["fib"]["connected"], 10, "the forwarder is there")
    wakeups = lambda: int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", open(
        f"/proc/{net.pvmd.process.pid}/status", encoding="ascii").read(), re.M).group(1))
    before, started = wakeups(), time.monotonic()
    # There is no event to wait for: the time itself is what is measured.
    wait_until(lambda: time.monotonic() - started > 3, 10, "3 s are over", interval_s=1)
    assert wakeups() - before <= 10


def test_two_ces_share_the_load(net):
    ce3 = net.add_ce(3)
    config = changed(["ce"], CONFIG["ce"] + [{"address": "192.168.1.3", "remote_asn": 65103}])
    net.up(config, whole=False)
    # A CE that hasn't sent its routes yet may still have some of what the forwarder has.
    assert not net.pvmd.status()["fib"]["complete"]
    net.lab.bird(ce3, "bird3", bird(65103, host=3))
    wait_until(lambda: [h["via"] for h in net.fwd.get("10.1.0.0/16") or []] == [
        "192.168.1.2", "192.168.1.3"], 20, "two next hops")
    net.pvmd.configure(CONFIG)
    wait_until(lambda: [h["via"] for h in net.fwd.get("10.1.0.0/16") or []] == ["192.168.1.2"],
               10, "one next hop")
    assert net.pvmd.neighbor("192.168.1.2")["resets"] == 0


def test_a_ce_cant_take_over_the_core_link(net):
    ce = net.up()
    ce.configure(bird(v4=["10.1.0.0/16", "192.0.2.1/32", "100.64.1.0/24", "100.64.0.0/10",
                          "192.0.0.0/16"]))
    wait_until(lambda: net.fwd.get("100.64.0.0/10") and net.fwd.get("192.0.0.0/16"), 10,
               "what only covers our links is the customer's business")
    assert net.fwd.get("192.0.2.1/32") is None and net.fwd.get("100.64.1.0/24") is None
    assert "192.0.2.1/32" not in net.pvmd.routes("ipv4")


@pytest.mark.parametrize("hop", ["192.0.2.1", "100.64.1.1"])
def test_a_ce_cant_send_packets_to_the_core_link(net, hop):
    """By BGP any next hop can be named: the gateway's and the CVM's addresses are not a CE's."""
    ce = net.up()
    text = bird(v4=["10.1.0.0/16", "10.6.0.0/16", "10.7.0.0/16"])
    ce.configure(text.replace("ipv4 { import all; export all; }", "ipv4 { import all; "
                 "export filter { if net = 10.6.0.0/16 then bgp_next_hop = %s; accept; }; }" % hop))
    wait_until(lambda: net.fwd.get("10.7.0.0/16") and "10.6.0.0/16" in net.pvmd.routes("ipv4"), 10,
               "all routes are there")
    path = net.pvmd.routes("ipv4")["10.6.0.0/16"][0]
    assert (path["next_hop"], path["valid"]) == (hop, False)  # not for the VPN either
    assert net.pvmd.routes("ipv4")["10.7.0.0/16"][0]["valid"]
    wait_until(lambda: net.pvmd.status()["fib"]["waiting"] == 0, 10, "the forwarder was told")
    assert net.fwd.get("10.6.0.0/16") is None


def test_a_ce_with_too_many_prefixes_is_held_down(net):
    config = copy.deepcopy(CONFIG)
    config["ce"][0]["max_prefixes"] = 10
    ce = net.up(config)
    ce.configure(bird(v4=["10.1.0.0/16"] + [f"10.5.{i}.0/24" for i in range(20)]))
    neighbor = wait_until(lambda: (lambda n: n if n["state"] != "Established" else None)(
        net.pvmd.neighbor("192.168.1.2")), 20, "the session ends")
    assert "Maximum Number of Prefixes" in neighbor["last_error"]
    wait_until(lambda: net.fwd.get("10.1.0.0/16") is None, 10, "its routes are gone")
    assert net.pvmd.established("fd00:a1::2")


def test_sites_may_have_the_same_asn(net):
    """as_override on the way out, allowas_in on the way in."""
    ce3 = net.add_ce(3)
    config = copy.deepcopy(CONFIG)
    config["ce"].append({"address": "192.168.1.3", "remote_asn": 65101})
    net.up(config, whole=False)
    far = net.lab.bird(ce3, "bird3", bird(v4=[], v6=[], host=3))
    net.pvmd.wait_established("192.168.1.3")
    wait_until(lambda: "65000" in far("show protocols all pe4") and "Established" in far(
        "show protocols pe4"), 10, "up")
    wait_until(lambda: net.pvmd.neighbor("192.168.1.3")["families"]["ipv4"]["eor"], 10, "EoR")
    assert net.lab.run(None, ["birdc", "-s", far.control, "show", "route", "10.1.0.0/16"],
                       check=False).find("pe4") < 0, "a loop, seen from the CE"
    config["ce"][2]["as_override"] = True
    net.pvmd.configure(config)
    wait_until(lambda: "BGP.as_path: 65000 65000" in net.lab.run(
        None, ["birdc", "-s", far.control, "show", "route", "10.1.0.0/16", "all"], check=False),
        20, "as_override")


# ---- next hops and links ---------------------------------------------------------------------


def test_a_dead_link_takes_its_routes_along_at_once(net):
    net.up()
    net.lab.run(net.lan, ["ip", "link", "set", "pe", "down"])
    wait_until(lambda: net.fwd.get("10.1.0.0/16") is None and net.fwd.get("fd00:1::/48") is None,
               5, "routes gone, long before the hold time of 30 s")
    wait_until(lambda: not any(i["up"] for i in net.pvmd.status()["interfaces"]
                               if i["name"] == "cust"), 5, "seen as down")
    assert not net.pvmd.established("192.168.1.2")
    net.lab.run(net.lan, ["ip", "link", "set", "pe", "up"])
    net.pvmd.wait_established(*CES)
    net.wait_routes()


def test_interfaces_are_as_configured(net):
    net.lab.run(net.pe, ["ip", "addr", "add", "172.16.0.1/24", "dev", "cust"])
    net.lab.run(net.pe, ["ip", "link", "set", "cust", "down"])
    net.pvmd.configure(CONFIG)
    wait_until(lambda: net.addresses("cust") == {"192.168.1.1/24", "fd00:a1::1/64"}, 10, "cust")
    wait_until(lambda: net.addresses("core") == {"100.64.1.10/24", "192.0.2.2/30"}, 10, "core")
    flags = net.lab.run(net.pe, ["ip", "-6", "addr", "show", "dev", "cust"])
    assert "tentative" not in flags and "nodad" in flags and "scope link" in flags
    net.pvmd.configure(changed(["interfaces", "cust", "mtu"], 1400))
    wait_until(lambda: "mtu 1400" in net.lab.run(net.pe, ["ip", "link", "show", "cust"]), 10,
               "MTU")
    # Somebody else's changes don't last; an interface that comes later is configured then.
    net.lab.run(net.pe, ["ip", "addr", "del", "192.168.1.1/24", "dev", "cust"])
    wait_until(lambda: "192.168.1.1/24" in net.addresses("cust"), 10, "put back")
    net.lab.run(net.pe, ["ip", "link", "del", "core"])
    wait_until(lambda: len(net.pvmd.status()["interfaces"][1]["addresses"]) == 0, 10, "gone")
    net.lab.veth(net.pe, "core", net.core, "eth0")
    wait_until(lambda: net.addresses("core") == {"100.64.1.10/24", "192.0.2.2/30"}, 10, "again")


def test_an_interface_has_the_mac_address_that_is_configured(net):
    """And the link-local address that belongs to it; without one, the NIC's own (its alias)."""

    def link():
        found = json.loads(net.lab.run(net.pe, ["ip", "-j", "addr", "show", "dev", "cust"]))[0]
        local = {a["local"] for a in found["addr_info"]
                 if a["family"] == "inet6" and a["scope"] == "link"}
        return found["address"], local

    own = "02:11:22:33:44:55"
    net.lab.run(net.pe, ["ip", "link", "set", "cust", "address", own, "alias", f"nic {own}"])
    net.pvmd.configure(changed(["interfaces", "cust", "mac"], "02:ed:00:00:01:07"))
    ours = ("02:ed:00:00:01:07", {"fe80::ed:ff:fe00:107"})
    wait_until(lambda: link() == ours, 10, "MAC and link-local address")
    # What a forwarder does that was killed while it made its TAP, or an operator: it doesn't last.
    net.lab.run(net.pe, ["ip", "addr", "add", "fe80::11:22ff:fe33:4456/64", "dev", "cust"])
    net.lab.run(net.pe, ["ip", "link", "set", "cust", "address", "02:00:00:00:00:77"])
    wait_until(lambda: link() == ours, 10, "put back")
    net.pvmd.kill()
    net.pvmd.start()
    assert link() == ours
    net.pvmd.configure(CONFIG)
    wait_until(lambda: link() == (own, {"fe80::11:22ff:fe33:4455"}), 10, "the NIC's own")
    # Nobody tells what the NIC's own is: it is left alone.
    net.lab.run(net.pe, ["ip", "link", "set", "cust", "alias", ""])
    net.lab.run(net.pe, ["ip", "link", "set", "cust", "address", "02:00:00:00:00:77"])
    wait_until(lambda: link() == ("02:00:00:00:00:77", {"fe80::ff:fe00:77"}), 10, "link-local")


# ---- configuration ---------------------------------------------------------------------------

BAD = [
    (["asn"], 0, "/asn"),
    (["asn"], ..., "/asn"),
    (["router_id"], "fd00::1", "/router_id"),
    (["hostname"], "a b", "/hostname"),
    (["config_id"], 7, "/config_id"),
    (["interfaces", "eth0"], {"addresses": []}, "/interfaces/eth0"),
    (["interfaces", "cust", "addresses"], ["192.168.1.1"], "/interfaces/cust/addresses/0"),
    (["interfaces", "cust", "addresses", 1], "fe80::1/64", "/interfaces/cust/addresses/1"),
    (["interfaces", "core", "addresses", 1], "192.168.1.9/24", "/interfaces/core/addresses/1"),
    (["interfaces", "cust", "mtu"], 100, "/interfaces/cust/mtu"),
    (["interfaces", "cust", "mac"], "03:ed:00:00:01:07", "/interfaces/cust/mac"),
    (["ce"], {}, "/ce"),
    (["ce", 0], "192.168.1.2", "/ce/0"),
    (["ce", 0, "address"], "10.99.0.1", "/ce/0/address"),
    (["ce", 0, "address"], "192.168.1.1", "/ce/0/address"),
    (["ce", 1, "address"], "192.168.1.2", "/ce/1/address"),
    (["ce", 0, "remote_asn"], 65000, "/ce/0/remote_asn"),
    (["ce", 0, "remote_asn"], 4294967296, "/ce/0/remote_asn"),
    (["ce", 0, "remote_asn"], 1.5, "/ce/0/remote_asn"),
    (["ce", 0, "families"], ["ipv5"], "/ce/0/families/0"),
    (["ce", 0, "families"], [], "/ce/0/families"),
    (["ce", 0, "max_prefixes"], 0, "/ce/0/max_prefixes"),
    (["ce", 0, "hold_s"], 2, "/ce/0/hold_s"),
    (["ce", 0, "keepalive_s"], 20, "/ce/0/keepalive_s"),
    (["ce", 0, "as_override"], 1, "/ce/0/as_override"),
    (["cvm"], {"address": "100.64.1.1", "local_address": "100.64.1.99"}, "/cvm/local_address"),
    (["vpn", "rd"], "65000", "/vpn/rd"),
    (["vpn", "rd"], "65000:4294967296", "/vpn/rd"),
    (["vpn", "import_rts"], [], "/vpn/import_rts"),
    (["vpn", "export_rts", 0], "x:1", "/vpn/export_rts/0"),
    (["vpn", "import_rts"], ["65000:1", "65000:1"], "/vpn/import_rts/1"),
    (["vpn", "label"], 15, "/vpn/label"),
    (["vpn", "label"], 1048576, "/vpn/label"),
    (["vpn", "next_hop"], "224.0.0.1", "/vpn/next_hop"),
    (["tunnels", 0, "prefix"], "10.0.0.2/31x", "/tunnels/0/prefix"),
    (["tunnels", 0, "prefix"], "10.0.0.2/24", "/tunnels/0/prefix"),
    (["tunnels", 0, "via"], "192.168.1.2", "/tunnels/0/via"),
    (["tunnels", 0, "labels"], [3], "/tunnels/0/labels/0"),
    (["tunnels", 0, "labels"], [16, 17, 18, 19], "/tunnels/0/labels"),
    (["redistribute_connected"], "yes", "/redistribute_connected"),
]


def test_a_wrong_configuration_names_the_field_and_changes_nothing(net):
    net.up()
    before = net.pvmd.call("config")
    for path, value, field in BAD:
        with pytest.raises(RpcError) as caught:
            net.pvmd.configure(changed(path, value))
        assert (caught.value.code, caught.value.field) == (-32602, field), (path, value)
        assert str(caught.value)
    assert net.pvmd.call("config") == before
    assert [(n["resets"], n["last_error"]) for n in net.pvmd.status()["neighbors"]] \
        == [(0, None)] * 2
    for verb, params, field in (("routes", {"family": "vpnv4"}, "/family"),
                                ("routes", {"family": "ipv4", "prefix": "1"}, "/prefix"),
                                ("routes", {"family": "ipv4", "limit": 1001}, "/limit"),
                                ("routes", {"family": "ipv4", "after": "x"}, "/after")):
        with pytest.raises(RpcError) as caught:
            net.pvmd.call(verb, params)
        assert caught.value.field == field
    with pytest.raises(RpcError) as caught:
        net.pvmd.call("reboot")
    assert caught.value.code == -32601


def test_reconfiguring_resets_only_what_changes(net):
    net.up()
    for path, value in ((["ce", 0, "max_prefixes"], 50), (["vpn", "rd"], "65000:9"),
                        (["vpn", "label"], 1005), (["tunnels"], []),
                        (["vpn", "import_rts"], ["65000:100", "65000:101"])):
        net.pvmd.configure(changed(path, value))
    wait_until(lambda: net.fwd.get(1005) is None and net.fwd.get(1001), 10, "label as before")
    net.pvmd.configure(changed(["ce"], CONFIG["ce"][1:]))
    assert net.pvmd.neighbor("192.168.1.2") is None
    wait_until(lambda: net.fwd.get("10.1.0.0/16") is None, 10, "the removed CE's routes are gone")
    assert net.pvmd.neighbor("fd00:a1::2")["resets"] == 0
    net.pvmd.configure(CONFIG)
    net.pvmd.wait_established(*CES)
    net.wait_routes()
    assert net.pvmd.neighbor("fd00:a1::2")["resets"] == 0
    net.pvmd.configure(changed(["asn"], 65001))
    wait_until(lambda: "Bad Peer AS" in str(net.pvmd.neighbor("192.168.1.2")["last_error"]), 20,
               "a CE that expects another ASN")
    net.pvmd.configure(CONFIG)
    net.pvmd.wait_established(*CES)
    net.wait_routes()


def test_a_removed_ce_forgets_our_routes_at_once(net):
    """Not after hold and restart time, as after a death; BIRD knows no Hard Reset, FRR does."""
    ce3 = net.add_ce(3)
    config = changed(["ce"], CONFIG["ce"] + [{"address": "192.168.1.3", "remote_asn": 65103}])
    frr = net.lab.frr(ce3, "ce3", {"zebra": "", "bgpd": """
router bgp 65103
 no bgp ebgp-requires-policy
 bgp graceful-restart
 neighbor 192.168.1.1 remote-as 65000
 neighbor 192.168.1.1 timers connect 1
"""})
    ce = net.up(config, whole=False)
    learnt = {
        "bird": lambda: "192.168.1.0/24" in ce("show route protocol pe4"),
        "frr": lambda: "10.1.0.0/16" in json.loads(frr.vtysh("show bgp ipv4 json"))["routes"],
    }
    for name, has in learnt.items():
        wait_until(has, 20, f"{name} has learnt our routes")
    assert net.pvmd.status()["closing"] == 0
    # A farewell that doesn't arrive is seen, and is sent again.
    net.lab.run(net.lan, ["ip", "link", "set", "ce2", "nomaster"])
    net.pvmd.configure(changed(["ce"], []))
    wait_until(lambda: not learnt["frr"](), 5, "FRR has forgotten them")
    wait_until(lambda: net.pvmd.status()["closing"] == 2, 5, "BIRD hasn't heard it")
    assert learnt["bird"]()
    net.lab.run(net.lan, ["ip", "link", "set", "ce2", "master", "br0"])
    wait_until(lambda: net.pvmd.status()["closing"] == 0, 20, "BIRD has heard it")
    wait_until(lambda: not learnt["bird"](), 5, "BIRD has forgotten them")


# ---- restarts --------------------------------------------------------------------------------


def test_a_killed_pvmd_is_back_by_itself_without_a_gap(net):
    ce = net.up()
    before = net.fwd.snapshot()
    net.pvmd.kill()
    wait_until(lambda: "Established" not in ce("show protocols"), 20, "the CE noticed")
    assert net.fwd.snapshot() == before
    # The CE goes on with our routes, and withdraws one of its own meanwhile.
    ce.configure(bird(v4=["10.1.0.0/16"]))
    connections, ends = net.fwd.connections, net.fwd.ends
    net.pvmd.start()
    assert net.pvmd.status()["config_id"] == "1"
    wait_until(lambda: net.fwd.connections > connections, 10, "connected again")

    def swept():
        assert net.fwd.get("10.1.0.0/16") and net.fwd.get("fd00:1::/48") and net.fwd.get(1001)
        return net.fwd.ends > ends

    wait_until(swept, 60, "FIB_END")
    assert net.fwd.get("10.3.0.0/24") is None
    assert net.fwd.snapshot() == {k: v for k, v in before.items() if k != "10.3.0.0/24"}
    assert net.pvmd.established(*CES)


def test_how_long_our_routes_are_kept_is_a_setting(net):
    """Per port; 0: the CE withdraws them as soon as it notices that we are gone."""
    ce = net.up(changed(["graceful_restart_s"], 77), whole=False)

    def kept():
        return "192.168.1.0/24" in ce("show route protocol pe4")

    def restart_time():
        found = re.search(r"Neighbor capabilities.*?Graceful restart\n(?:\s+Restart time: (\d+))?",
                          ce("show protocols all pe4"), re.S)
        return found and found.group(1)

    wait_until(lambda: kept() and restart_time() == "77", 10, "told, and learnt")
    before = net.fwd.snapshot()
    net.pvmd.kill()
    wait_until(lambda: "Established" not in ce("show protocols pe4"), 10, "the CE noticed")
    assert kept()
    net.pvmd.start()
    net.pvmd.wait_established(*CES)
    # A new value is told: the sessions begin anew.
    resets = net.pvmd.neighbor("192.168.1.2")["resets"]
    net.pvmd.configure(changed(["graceful_restart_s"], 0))
    wait_until(lambda: net.pvmd.neighbor("192.168.1.2")["resets"] > resets, 10, "it falls")
    net.pvmd.wait_established(*CES)
    wait_until(lambda: net.fwd.snapshot() == before, 10, "the CE's routes")
    wait_until(lambda: kept() and not restart_time(), 10, "told, and learnt again")
    net.pvmd.configure(changed(["graceful_restart_s"], 0))
    assert net.pvmd.established(*CES), "the same value changes nothing"
    net.pvmd.kill()
    wait_until(lambda: "Established" not in ce("show protocols pe4"), 10, "the CE noticed")
    wait_until(lambda: not kept(), 5, "withdrawn")
    net.pvmd.start()


def test_a_restarted_forwarder_gets_the_whole_fib(net):
    net.up()
    before = net.fwd.snapshot()
    resets = [n["resets"] for n in net.pvmd.status()["neighbors"]]
    net.fwd.close(forget=True)
    wait_until(lambda: not net.pvmd.status()["fib"]["connected"], 10, "seen as gone")
    ends = net.fwd.ends
    net.fwd.listen()
    wait_until(lambda: net.fwd.ends > ends, 5, "FIB_END, at once")
    assert net.fwd.snapshot() == before
    assert [n["resets"] for n in net.pvmd.status()["neighbors"]] == resets


def test_a_slow_forwarder_holds_up_nothing(net):
    ce = net.up()
    many = [f"10.{32 + i // 256}.{i % 256}.0/24" for i in range(20000 // 4)]
    net.fwd.paused.set()
    for _ in range(4):
        ce.configure(bird(v4=["10.1.0.0/16"] + many))
        wait_until(lambda: net.pvmd.status()["rib"]["ipv4"] > 5000, 30, "learnt")
        ce.configure(bird(v4=["10.1.0.0/16"]))
        wait_until(lambda: net.pvmd.status()["rib"]["ipv4"] < 5, 30, "withdrawn")
    assert net.pvmd.status()["fib"]["waiting"] <= len(many) + 10
    messages = net.fwd.messages
    net.fwd.paused.clear()
    wait_until(lambda: net.pvmd.status()["fib"]["waiting"] == 0, 30, "drained")
    wait_until(lambda: len(net.fwd.snapshot()) == 3, 30, "as it is now")
    # At most what had been on its way already, twice: not eight times everything.
    assert net.fwd.messages - messages < 3 * len(many)


# ---- both connect at once --------------------------------------------------------------------

COLLISION = """
import select, socket, struct, sys

def message(kind, body):
    return b"\\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body

def take(connection):
    head = connection.recv(19, socket.MSG_WAITALL)
    assert len(head) == 19, "closed"
    length, kind = struct.unpack("!HB", head[16:])
    return kind, connection.recv(length - 19, socket.MSG_WAITALL)

def wait_for(connection, kind):
    while True:
        got, body = take(connection)
        if got == kind:
            return body
        assert got != 3, f"notification {body.hex()}"

def listen():
    server = socket.create_server(("192.168.1.66", 179))
    server.settimeout(20)
    return server

def limited(connection):
    connection.settimeout(20)
    return connection

def accept(server):
    return limited(server.accept()[0])

def connect():
    return limited(socket.create_connection(("192.168.1.1", 179), 20, ("192.168.1.66", 0)))

UPDATE, NOTIFICATION = 2, 3
KEEPALIVE = message(4, b"")
# Multiprotocol and graceful restart for IPv4; an identifier above the PVM's.
CAPABILITIES = bytes.fromhex("010400010001" "4006007800010180")
OPEN = message(1, struct.pack("!BHH4sBBB", 4, 65101, 90, bytes([200, 9, 9, 9]),
                              2 + len(CAPABILITIES), 2, len(CAPABILITIES)) + CAPABILITIES)
"""
COLLISIONS = {
    # Ours wins in mid-message: what waits for the loser must not end it.
    "a connection moves into the place of the one that lost": """
theirs = accept(listen())
wait_for(theirs, 1)
ours = connect()
wait_for(ours, 1)
ours.sendall(OPEN + KEEPALIVE)
wait_for(ours, UPDATE)
""",
    # Is no restart: theirs is open, and hardly older.
    "a connection that lost is accepted late": """
theirs = accept(listen())
wait_for(theirs, 1)
theirs.sendall(OPEN + KEEPALIVE)
wait_for(theirs, UPDATE)
ours = connect()
wait_for(ours, 1)
ours.sendall(OPEN)
assert wait_for(ours, NOTIFICATION)[:2] == bytes([6, 7])
""",
    # A peer may take it for our restart. Theirs would come within the connect time, 5 s.
    "none is begun while the peer's is being opened": """
ours = connect()
wait_for(ours, 1)
assert not select.select([listen()], [], [], 8)[0]
ours.sendall(OPEN + KEEPALIVE)
wait_for(ours, UPDATE)
""",
}


@pytest.mark.parametrize("script", COLLISIONS.values(), ids=COLLISIONS.keys())
def test_the_winner_of_a_collision_stays(net, script):
    ce = net.add_ce(66)
    net.pvmd.configure(changed(["ce"], [{"address": "192.168.1.66", "remote_asn": 65101}]))
    net.lab.run(ce, ["/usr/bin/python3", "-c", COLLISION + script])


# ---- hostile peers ---------------------------------------------------------------------------


def message(kind, body, length=None):
    return b"\xff" * 16 + struct.pack("!HB", length or 19 + len(body), kind) + body


OPEN = message(1, struct.pack("!BHH4sB", 4, 65101, 90, socket.inet_aton("10.9.9.9"), 0))
ORIGIN, AS_PATH = b"\x40\x01\x01\x00", b"\x40\x02\x06\x02\x01\x00\x00\xfe\x4d"
NEXT_HOP = b"\x40\x03\x04\xc0\xa8\x01\x02"


def update(attributes, nlri=b"\x10\x0a\x01", withdrawn=b"", attribute_length=None):
    n = len(attributes) if attribute_length is None else attribute_length
    return message(2, struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", n) +
                   attributes + nlri)


HOSTILE = {
    "garbage": os.urandom(4096),
    "bad marker": b"\0" * 19,
    "too short": message(1, b"", 18),
    "too long": message(2, b"", 65535),
    "short open": message(1, b"\x04"),
    "bad version": message(1, struct.pack("!BHH4sB", 9, 65101, 90, b"\x01\x01\x01\x01", 0)),
    "hold time 1": message(1, struct.pack("!BHH4sB", 4, 65101, 1, b"\x01\x01\x01\x01", 0)),
    "bad capability": message(1, struct.pack("!BHH4sB", 4, 65101, 90, b"\x01\x01\x01\x01", 6) +
                              b"\x02\x04\x41\xff\x00\x00"),
    "update first": update(ORIGIN + AS_PATH + NEXT_HOP),
    "unknown type": OPEN + message(9, b""),
    "long keepalive": OPEN + message(4, b"xx"),
    "attribute overrun": OPEN + message(4, b"") + update(ORIGIN + AS_PATH + NEXT_HOP,
                                                         attribute_length=4000),
    "withdrawn overrun": OPEN + message(4, b"") + message(2, b"\xff\xff\x00\x00"),
    "prefix length 99": OPEN + message(4, b"") + update(ORIGIN + AS_PATH + NEXT_HOP, b"\x63\x0a"),
    "prefix cut off": OPEN + message(4, b"") + update(ORIGIN + AS_PATH + NEXT_HOP, b"\x20\x0a"),
    "no mandatory attributes": OPEN + message(4, b"") + update(b""),
    "as path cut off": OPEN + message(4, b"") + update(ORIGIN + b"\x40\x02\x02\x02\xff" + NEXT_HOP),
    "attribute flags": OPEN + message(4, b"") + update(b"\x00\x01\x01\x00" + AS_PATH + NEXT_HOP),
    "mp_reach cut off": OPEN + message(4, b"") + update(
        ORIGIN + AS_PATH + b"\x80\x0e\x03\x00\x02\x01", b""),
    "mp_reach next hop overrun": OPEN + message(4, b"") + update(
        ORIGIN + AS_PATH + b"\x80\x0e\x05\x00\x02\x01\xff\x00", b""),
    "communities of 3 bytes": OPEN + message(4, b"") + update(
        ORIGIN + AS_PATH + NEXT_HOP + b"\xc0\x08\x03\x00\x00\x00"),
    "ext communities of 5 bytes": OPEN + message(4, b"") + update(
        ORIGIN + AS_PATH + NEXT_HOP + b"\xc0\x10\x05\x00\x00\x00\x00\x00"),
    "aggregator of 2 bytes": OPEN + message(4, b"") + update(
        ORIGIN + AS_PATH + NEXT_HOP + b"\xc0\x07\x02\x00\x00"),
    "notification cut off": OPEN + message(3, b"\x06"),
    "route refresh cut off": OPEN + message(4, b"") + message(5, b"\x00"),
    "half an open": OPEN[:25],
}


def test_hostile_messages_hurt_nobody(net):
    config = copy.deepcopy(CONFIG)
    # The attacker comes from an address that is configured, or it wouldn't be listened to at all.
    config["ce"].append({"address": "192.168.1.66", "remote_asn": 65101})
    evil = net.add_ce(66)
    net.up(config, whole=False)
    script = """
import socket, sys
data = bytes.fromhex(sys.stdin.read())
s = socket.socket()
s.settimeout(3)
s.connect(("192.168.1.1", 179))
s.sendall(data)
s.shutdown(socket.SHUT_WR)
try:
    while s.recv(65536):
        pass
except OSError:
    pass
"""
    for name, data in HOSTILE.items():
        net.lab.run(evil, ["/usr/bin/python3", "-c", script], stdin=data.hex())
        assert is_running(net.pvmd.process), f"{name}: {net.lab.log('pvmd')[-2000:]}"
        assert net.pvmd.status(), name
    assert net.pvmd.established(*CES)
    assert [net.pvmd.neighbor(a)["resets"] for a in CES] == [0, 0]
    assert net.pvmd.neighbor("192.168.1.66")["resets"] > 0
    assert "10.1.0.0/16" in net.pvmd.routes("ipv4")
