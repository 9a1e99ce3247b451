# SPDX-License-Identifier: GPL-2.0-or-later
"""PVMs, their CVM and a stock FRR route reflector in the core."""

import copy
import json

import pytest

from lib.lab import Lab, wait_until
from rlab import Daemon, Forwarder, ifindex

PE, RR = "10.0.0.1", "10.0.0.100"
GREEN, RED = "65000:100", "65000:200"

RR_CONF = """
hostname rr
log stdout
router bgp 65000
 bgp router-id 10.0.0.100
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor 10.0.0.1 remote-as 65000
 neighbor 10.0.0.1 update-source 10.0.0.100
 neighbor 10.0.0.1 timers 3 9
 neighbor 10.0.0.1 timers connect 1
 address-family ipv4 vpn
  neighbor 10.0.0.1 activate
  neighbor 10.0.0.1 route-reflector-client
 exit-address-family
 address-family ipv6 vpn
  neighbor 10.0.0.1 activate
  neighbor 10.0.0.1 route-reflector-client
 exit-address-family
exit
"""

# Plays a remote PE with routes of both customers.
EXABGP = """
process announce {
    run /bin/cat %(pipe)s;
    encoder text;
}
neighbor 10.0.0.100 {
    router-id 10.0.0.2; local-address 10.0.0.2; local-as 65000; peer-as 65000;
    family { ipv4 mpls-vpn; ipv6 mpls-vpn; }
}
"""


def pvm_config(name, inside, number, rt, **changes):
    return {
        "config_id": "1", "hostname": name, "asn": 65000, "router_id": inside,
        "interfaces": {
            "cust": {"addresses": ["192.168.1.1/24", "fd00:a1::1/64"], "mtu": 1500},
            "core": {"addresses": [f"{inside}/24", "192.0.2.2/30"], "mtu": 1600},
        },
        "ce": [{"address": "192.168.1.2", "remote_asn": 65101 + number},
               {"address": "fd00:a1::2", "remote_asn": 65101 + number}],
        "cvm": {"address": "100.64.1.1", "local_address": inside},
        "vpn": {"rd": f"65000:{number}", "import_rts": [rt], "export_rts": [rt],
                "label": 1000 + number, "next_hop": PE},
        "tunnels": [{"prefix": "10.0.0.2/32", "via": "192.0.2.1", "labels": [16002]},
                    {"prefix": "10.0.0.1/32", "via": "192.0.2.1", "labels": []}],
        **changes,
    }


def cvm_config(pvms):
    return {
        "config_id": "1", "hostname": "cvm-a", "asn": 65000, "router_id": PE,
        "interfaces": {
            "core": {"addresses": ["192.0.2.2/30"], "mtu": 1600},
            "inside": {"addresses": ["100.64.1.1/24"], "mtu": 1600},
            "lo": {"addresses": [f"{PE}/32"]},
        },
        "routes": [{"prefix": f"{RR}/32", "via": "192.0.2.1"}],
        "core": [{"address": RR, "local_address": PE, "remote_asn": 65000}],
        "pvms": [{"name": n, "address": a, "import_rts": [rt], "export_rts": [rt]}
                 for n, a, rt in pvms],
    }


def bird_conf(asn, v4, v6):
    return f"""
router id 10.9.{asn - 65000}.1;
protocol device {{}}
protocol static {{ ipv4; {"".join(f"route {p} blackhole;" for p in v4)} }}
protocol static {{ ipv6; {"".join(f"route {p} blackhole;" for p in v6)} }}
template bgp edge {{
    graceful restart on; connect retry time 1; error wait time 1, 2; connect delay time 1;
}}
protocol bgp pe4 from edge {{
    local 192.168.1.2 as {asn}; neighbor 192.168.1.1 as 65000;
    ipv4 {{ import all; export all; }};
}}
protocol bgp pe6 from edge {{
    local fd00:a1::2 as {asn}; neighbor fd00:a1::1 as 65000;
    ipv6 {{ import all; export all; }};
}}
"""


class Site:
    """A CVM, PVMs with a CE each, and the core's route reflector."""

    def __init__(self, lab):
        self.lab, self.pvms, self.ces, self.fwd, self.ns = lab, {}, {}, {}, {}
        self.cvm_ns, self.rr_ns, self.lan = lab.netns("cvm"), lab.netns("rr"), lab.netns("lan")
        lab.run(self.lan, ["ip", "link", "add", "br0", "type", "bridge"])
        lab.run(self.lan, ["ip", "link", "set", "br0", "up"])
        lab.veth(self.cvm_ns, "core", self.rr_ns, "pe", mtu=1600)
        lab.veth(self.cvm_ns, "inside", self.lan, "cvm", mtu=1600)
        lab.run(self.lan, ["ip", "link", "set", "cvm", "master", "br0"])
        for address, dev in (("192.0.2.1/30", "pe"), (f"{RR}/32", "lo")):
            lab.run(self.rr_ns, ["ip", "addr", "add", address, "dev", dev])
        lab.run(self.rr_ns, ["ip", "route", "add", f"{PE}/32", "via", "192.0.2.2"])
        self.rr = lab.frr(self.rr_ns, "rr", {"zebra": "", "bgpd": RR_CONF})
        self.cvm = Daemon(lab, self.cvm_ns, "cvmd", "cvmd")

    def add_pvm(self, name, inside, number, rt, v4, v6):
        lab = self.lab
        self.ns[name] = pe = lab.netns(name)
        ce = lab.netns(f"ce{name}")
        lab.veth(pe, "cust", ce, "eth0")
        lab.veth(pe, "core", self.lan, name, mtu=1600)
        lab.run(self.lan, ["ip", "link", "set", name, "master", "br0"])
        for address in ("192.168.1.2/24", "fd00:a1::2/64"):
            lab.run(ce, ["ip", "addr", "add", address, "dev", "eth0"])
        self.ces[name] = lab.bird(ce, f"bird{name}", bird_conf(65101 + number, v4, v6))
        self.pvms[name] = pvm = Daemon(lab, pe, name, "pvmd")
        self.fwd[name] = Forwarder(f"{pvm.dir}/fpm.sock")
        pvm.configure(pvm_config(name, inside, number, rt))
        return pvm

    def rr_table(self, afi="ipv4"):
        """The core's VPN table: {(rd, prefix): path}."""
        data = json.loads(self.rr.vtysh(f"show bgp {afi} vpn json"))
        return {(rd, prefix): paths[0]
                for rd, table in data["routes"]["routeDistinguishers"].items()
                for prefix, paths in table.items()}


@pytest.fixture(name="site")
def _site():
    with Lab("rvpn") as lab:
        site = Site(lab)
        yield site
        for fwd in site.fwd.values():
            fwd.close()


def two_pvms(site):
    site.cvm.configure(cvm_config([("g1", "100.64.1.10", GREEN), ("r1", "100.64.1.11", RED)]))
    site.add_pvm("g1", "100.64.1.10", 1, GREEN, ["10.1.0.0/16"], ["fd00:1::/48"])
    site.add_pvm("r1", "100.64.1.11", 2, RED, ["10.1.0.0/16", "10.2.0.0/16"], ["fd00:1::/48"])
    site.cvm.wait_established(RR, "100.64.1.10", "100.64.1.11")
    for pvm in site.pvms.values():
        pvm.wait_established("192.168.1.2", "fd00:a1::2", "100.64.1.1")


def test_routes_reach_the_core_as_those_of_one_pe(site):
    two_pvms(site)
    wait_until(lambda: ("65000:1", "10.1.0.0/16") in site.rr_table()
               and ("65000:2", "10.2.0.0/16") in site.rr_table(), 20, "routes in the core")
    print(json.dumps(site.rr_table(), indent=1, default=str) if 0 else site.rr_table())
    print(site.rr.vtysh("show bgp ipv4 vpn 10.1.0.0/16 json"))
    print(site.rr.vtysh("show bgp ipv6 vpn json"))
