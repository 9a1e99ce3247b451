# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sites (a CVM and PVMs each, BIRD as CEs) and a stock FRR route reflector between them."""

import json

from rlab import Daemon, Forwarder

RR = "10.0.0.100"
PE = {"a": "10.0.0.1", "b": "10.0.0.2"}
GREEN, RED = "65000:100", "65000:200"
# Both sites use the same inside network: router IDs of PVMs are not unique in the AS.
CVM_INSIDE = "100.64.1.1"
CE4, CE6 = "192.168.1.2", "fd00:a1::2"

RR_NEIGHBOR = """
 neighbor {0} remote-as 65000
 neighbor {0} update-source 10.0.0.100
 neighbor {0} timers 3 9
 neighbor {0} timers connect 1
 address-family ipv4 vpn
  neighbor {0} activate
  neighbor {0} route-reflector-client
 exit-address-family
 address-family ipv6 vpn
  neighbor {0} activate
  neighbor {0} route-reflector-client
 exit-address-family
"""
RR_CONF = f"""
hostname rr
router bgp 65000
 bgp router-id {RR}
 no bgp default ipv4-unicast
 no bgp suppress-duplicates
 bgp graceful-restart
{"".join(RR_NEIGHBOR.format(pe) for pe in PE.values())}
"""


def gateway(site):
    """The core's address on the link to a site; ours is the next one."""
    return {"a": "192.0.2.1", "b": "192.0.2.5"}[site]


def core_link(site):
    return {"a": "192.0.2.2/30", "b": "192.0.2.6/30"}[site]


def tunnels(site):
    other = "b" if site == "a" else "a"
    return [
        {"prefix": f"{PE[other]}/32", "via": gateway(site),
         "labels": [16001 if other == "a" else 16002]},
        {"prefix": f"{PE[site]}/32", "via": gateway(site), "labels": []},
    ]


def pvm_config(site, name, inside, number, rt, **changes):
    return {
        "config_id": "1", "hostname": name, "asn": 65000, "router_id": inside,
        "interfaces": {
            "cust": {"addresses": ["192.168.1.1/24", "fd00:a1::1/64"], "mtu": 1500},
            "core": {"addresses": [f"{inside}/24", core_link(site)], "mtu": 1600},
        },
        "ce": [{"address": CE4, "remote_asn": 65100 + number},
               {"address": CE6, "remote_asn": 65100 + number}],
        "cvm": {"address": CVM_INSIDE, "local_address": inside},
        "vpn": {"rd": f"65000:{number}", "import_rts": [rt], "export_rts": [rt],
                "label": 1000 + number, "next_hop": PE[site]},
        "redistribute_connected": False,
        "tunnels": tunnels(site),
        **changes,
    }


def cvm_config(site, pvms):
    """`pvms`: (name, inside address, RT)."""
    return {
        "config_id": "1", "hostname": f"cvm-{site}", "asn": 65000, "router_id": PE[site],
        "interfaces": {
            "core": {"addresses": [core_link(site)], "mtu": 1600},
            "inside": {"addresses": [f"{CVM_INSIDE}/24"], "mtu": 1600},
            "lo": {"addresses": [f"{PE[site]}/32"]},
        },
        "routes": [{"prefix": f"{RR}/32", "via": gateway(site)}],
        "core": [{"address": RR, "local_address": PE[site], "remote_asn": 65000}],
        "pvms": [{"name": n, "address": a, "import_rts": [rt], "export_rts": [rt]}
                 for n, a, rt in pvms],
    }


def bird_conf(asn, v4=(), v6=(), extra=""):
    return f"""
router id 10.9.0.{asn - 65100};
# BIRD only sends a MED that was set on the way out.
filter with_med {{ if defined(bgp_med) then bgp_med = bgp_med; accept; }}
protocol device {{}}
protocol static s4 {{ ipv4; {"".join(f"route {p} blackhole;" for p in v4)} }}
protocol static s6 {{ ipv6; {"".join(f"route {p} blackhole;" for p in v6)} }}
template bgp edge {{
    graceful restart on; connect retry time 1; error wait time 1, 2; connect delay time 1;
}}
protocol bgp pe4 from edge {{
    local 192.168.1.2 as {asn}; neighbor 192.168.1.1 as 65000;
    ipv4 {{ import all; export filter with_med; }};
}}
protocol bgp pe6 from edge {{
    local fd00:a1::2 as {asn}; neighbor fd00:a1::1 as 65000;
    ipv6 {{ import all; export filter with_med; }};
}}
{extra}
"""


class Pvm:
    """A pvmd, its forwarder's socket and its CE."""

    def __init__(self, lab, site, name, number, rt, v4, v6, **changes):
        self.lab, self.name, self.number, self.rt = lab, name, number, rt
        # Numbers differ over both sites, inside addresses needn't.
        self.inside = f"100.64.1.{10 + number % 10}"
        self.asn = 65100 + number
        self.ns, self.ce_ns = lab.netns(name), lab.netns(f"ce{name}")
        lab.veth(self.ns, "cust", self.ce_ns, "eth0")
        lab.veth(self.ns, "core", site.lan, name, mtu=1600)
        lab.run(site.lan, ["ip", "link", "set", name, "master", "br0"])
        for address in (f"{CE4}/24", f"{CE6}/64"):
            lab.run(self.ce_ns, ["ip", "addr", "add", address, "dev", "eth0"])
        self.ce = lab.bird(self.ce_ns, f"bird{name}", bird_conf(self.asn, v4, v6))
        self.daemon = Daemon(lab, self.ns, name, "pvmd")
        self.fwd = Forwarder(f"{self.daemon.dir}/fpm.sock")
        self.config = pvm_config(site.letter, name, self.inside, number, rt, **changes)
        self.daemon.configure(self.config)

    def reconfigure(self, **changes):
        self.config = {**self.config, **changes}
        self.daemon.configure(self.config)

    def ce_route(self, prefix, protocol="pe4"):
        """BIRD's attributes of a route that the CE learnt from us, or ""."""
        table = "master6" if ":" in prefix else "master4"
        # birdc fails where there is no such route.
        out = self.lab.run(None, ["birdc", "-s", self.ce.control, "show", "route", prefix,
                                  "protocol", protocol, "table", table, "all"], check=False)
        return out if "BGP.as_path" in out else ""


class Site:
    """One PE: a CVM and PVMs."""

    def __init__(self, lab, core_ns, letter):
        self.lab, self.letter, self.pvms = lab, letter, {}
        self.core_ns = core_ns
        self.cvm_ns, self.lan = lab.netns(f"cvm{letter}"), lab.netns(f"lan{letter}")
        lab.run(self.lan, ["ip", "link", "add", "br0", "type", "bridge"])
        lab.run(self.lan, ["ip", "link", "set", "br0", "up"])
        lab.veth(self.cvm_ns, "core", core_ns, f"pe{letter}", mtu=1600)
        lab.veth(self.cvm_ns, "inside", self.lan, "cvm", mtu=1600)
        # So that PVMs' core interfaces have a gateway's subnet; no packets are forwarded here.
        lab.run(self.lan, ["ip", "link", "set", "cvm", "master", "br0"])
        lab.run(core_ns, ["ip", "addr", "add", f"{gateway(letter)}/30", "dev", f"pe{letter}"])
        lab.run(core_ns, ["ip", "route", "add", f"{PE[letter]}/32", "via",
                          core_link(letter).split("/", maxsplit=1)[0]])
        self.cvm = Daemon(lab, self.cvm_ns, f"cvm{letter}", "cvmd")

    def add(self, name, number, rt, v4=(), v6=(), **changes):
        pvm = Pvm(self.lab, self, name, number, rt, v4, v6, **changes)
        self.pvms[name] = pvm
        return pvm

    def configure_cvm(self):
        self.cvm.configure(
            cvm_config(self.letter, [(p.name, p.inside, p.rt) for p in self.pvms.values()]))

    def wait_up(self):
        self.cvm.wait_established(RR, *(p.inside for p in self.pvms.values()))
        for p in self.pvms.values():
            p.daemon.wait_established(CVM_INSIDE, *(ce["address"] for ce in p.config["ce"]))


class Net:
    """The route reflector and as many sites as a test wants."""

    def __init__(self, lab):
        self.lab, self.sites = lab, {}
        self.core_ns = lab.netns("rr")
        lab.run(self.core_ns, ["ip", "addr", "add", f"{RR}/32", "dev", "lo"])
        self.rr = lab.frr(self.core_ns, "rr", {"zebra": "", "bgpd": RR_CONF})

    def site(self, letter):
        self.sites[letter] = Site(self.lab, self.core_ns, letter)
        return self.sites[letter]

    def close(self):
        for site in self.sites.values():
            for pvm in site.pvms.values():
                pvm.fwd.close()

    def rr_table(self, family="ipv4"):
        """The core's VPN table: {(rd, prefix): [path, …]}."""
        data = json.loads(self.rr.vtysh(f"show bgp {family} vpn json"))
        found = {}
        for rd, table in data["routes"]["routeDistinguishers"].items():
            for prefix, paths in table.items():
                found[(rd, prefix)] = paths
        return found

    def way(self, source, sink):
        """IPv4 prefixes on the way from one PVM's CE to another's, station by station:
        [(station, {prefix, …})]"""
        def at_ce(pvm, *filters):
            out = self.lab.run(None, ["birdc", "-s", pvm.ce.control, "show", "route", "table",
                                      "master4", *filters], check=False)
            return {line.split()[0] for line in out.splitlines() if line[:1].isdigit()}

        a, b = (next(s.cvm for s in self.sites.values() if p.name in s.pvms)
                for p in (source, sink))
        vpn = [(a.name, a.routes("vpnv4")), ("reflector", self.rr_table()),
               (b.name, b.routes("vpnv4"))]
        return [(f"CE of {source.name}", at_ce(source, "export", "pe4")),
                (source.name, set(source.daemon.routes("ipv4"))),
                *((name, {prefix for _rd, prefix in table}) for name, table in vpn),
                (sink.name, set(sink.daemon.routes("ipv4"))),
                (f"CE of {sink.name}", at_ce(sink, "protocol", "pe4"))]

    def rr_path(self, rd, prefix, family="ipv4"):
        """Details of the one path to a prefix in the core."""
        data = json.loads(self.rr.vtysh(f"show bgp {family} vpn {prefix} json"))
        paths = data.get(rd, {}).get("paths", [])
        return paths[0] if paths else None
