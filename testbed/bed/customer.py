# SPDX-License-Identifier: GPL-2.0-or-later
"""The customers' edge routers: BIRD, one of them stock FRR. Each has its site's prefixes and hosts
inside, and installs what it learns into its namespace's kernel."""

import os

from . import core, host
from . import topology as topo

BIRD = """log stderr all;
timeformat protocol iso long ms;
timeformat route iso long ms;
router id {link4}.2;
watchdog warning 5 s;
protocol device {{ scan time 10; }}
# The link is ours, also when the provider announces it.
protocol direct {{ ipv4; ipv6; }}
protocol kernel kernel4 {{
  ipv4 {{ import none; export filter {{
    if source != RTS_BGP then reject; krt_prefsrc = {host4}; accept; }}; }};
}}
protocol kernel kernel6 {{
  ipv6 {{ import none; export filter {{
    if source != RTS_BGP then reject; krt_prefsrc = {host6}; accept; }}; }};
}}
protocol static own4 {{ ipv4; {own4} }}
protocol static own6 {{ ipv6; {own6} }}
# Routes to announce and withdraw at will.
protocol static probe4 {{ disabled; ipv4; route {probe4} unreachable; }}
protocol static probe6 {{ disabled; ipv6; route {probe6} unreachable; }}
template bgp provider {{
  graceful restart on;
  connect delay time 1;
  connect retry time 3;
  error wait time 1, 5;
}}
protocol bgp pe4 from provider {{
  local {link4}.2 as {asn};
  neighbor {link4}.1 as {provider};
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
protocol bgp pe6 from provider {{
  local {link6}:2 as {asn};
  neighbor {link6}:1 as {provider};
  ipv6 {{ import all; export where source = RTS_STATIC; }};
}}
include "{dir}/extra*.conf";
"""

FRR_BGPD = """hostname {name}
router bgp {asn}
 bgp router-id {link4}.2
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 bgp graceful-restart
 neighbor {link4}.1 remote-as {provider}
 neighbor {link4}.1 timers connect 3
 neighbor {link6}:1 remote-as {provider}
 neighbor {link6}:1 timers connect 3
 address-family ipv4 unicast
{networks4}
  neighbor {link4}.1 activate
 exit-address-family
 address-family ipv6 unicast
{networks6}
  neighbor {link6}:1 activate
 exit-address-family
"""

# So that what the router itself sends (pings) comes from an address the far side knows.
FRR_ZEBRA = """route-map SOURCE4 permit 10
 set src {host4}
route-map SOURCE6 permit 10
 set src {host6}
ip protocol bgp route-map SOURCE4
ipv6 protocol bgp route-map SOURCE6
"""


def _prefixes(edge):
    """{prefix: host} of a customer edge."""
    return {edge.prefix4: edge.host4, edge.prefix6: edge.host6, **edge.only_here}


def probe(edge, version):
    """The prefix of BIRD's protocol probe4 or probe6, which is disabled at first."""
    return f"{edge.host4.rsplit('.', 2)[0]}.99.0/24" if version == 4 else f"{edge.host6.split('::')[0]}:99::/64"


def _values(edge):
    return {
        "name": edge.name, "asn": edge.asn, "provider": topo.PROVIDER_ASN, "dir": edge.dir,
        "probe4": probe(edge, 4), "probe6": probe(edge, 6), "link4": edge.link4, "link6": edge.link6, "host4": edge.host4, "host6": edge.host6,
    }


def birdc(edge, command):
    """Runs a command of birdc and returns its output."""
    return host.run(host.files_at(edge.ns), ["birdc", "-s", edge.control, *command.split()])


def vtysh(edge, *commands):
    """Runs vtysh commands at an edge that is FRR."""
    argv = ["vtysh", "--vty_socket", edge.control]
    for command in commands:
        argv += ["-c", command]
    return host.run(host.files_at(edge.ns), argv)


def _start_bird(edge):
    own4 = "".join(f"route {p} unreachable; " for p in _prefixes(edge) if ":" not in p)
    own6 = "".join(f"route {p} unreachable; " for p in _prefixes(edge) if ":" in p)
    with open(f"{edge.dir}/bird.conf", "w", encoding="utf-8") as file:
        file.write(BIRD.format(own4=own4, own6=own6, **_values(edge)))
    start_daemon(edge)


def bgp_daemon(edge):
    """What the supervisor calls an edge's BGP daemon."""
    return f"{edge.name}-bgpd" if edge.daemon == "frr" else edge.name


def start_daemon(edge):
    """Starts an edge's BGP daemon, whose configuration is there; also again, after its death."""
    if edge.daemon == "frr":
        core.start_frr_daemon(edge.name, edge.ns, f"{edge.dir}/frr", "bgpd")
        return
    host.spawn(edge.name, ["bird", "-f", "-c", f"{edge.dir}/bird.conf", "-s",
                           edge.control], ns=edge.ns)
    host.wait_daemon(edge.name, lambda: "Daemon is up" in birdc(edge, "show status"), "answers")


def _start_frr(edge):
    networks = [f"  network {p}" for p in _prefixes(edge)]
    core.start_frr(edge.name, edge.ns, edge.control, {
        "zebra": FRR_ZEBRA.format(**_values(edge)),
        "bgpd": FRR_BGPD.format(
            networks4="\n".join(n for n in networks if ":" not in n),
            networks6="\n".join(n for n in networks if ":" in n), **_values(edge)),
    })


def start(edge):
    """Starts a customer edge; its sessions wait for the PVM."""
    os.makedirs(edge.dir)
    commands = [f"ip addr add {edge.link4}.2/30 dev pe", f"ip addr add {edge.link6}:2/64 dev pe"]
    commands += [f"ip addr add {inside} dev lo" for inside in _prefixes(edge).values()]
    host.run(edge.ns, ["sh", "-ec", "\n".join(commands)])
    if edge.daemon == "frr":
        _start_frr(edge)
    else:
        _start_bird(edge)
    host.say(f"  customer edge {edge.name}: {edge.daemon}, AS {edge.asn}")


def established(edge):
    """The edge's BGP sessions: {address of the PE: is it Established?}"""
    if edge.daemon == "frr":
        out = vtysh(edge, "show bgp summary")
        return {address: any(line.split()[0] == address and line.split()[9].isdigit()
                             for line in out.splitlines() if len(line.split()) > 9)
                for address in (f"{edge.link4}.1", f"{edge.link6}:1")}
    out = birdc(edge, "show protocols")
    return {address: any(line.split()[0] == protocol and line.endswith("Established   ".rstrip())
                         for line in map(str.rstrip, out.splitlines()) if line)
            for protocol, address in (("pe4", f"{edge.link4}.1"), ("pe6", f"{edge.link6}:1"))}


def bgp_route(edge, prefix):
    """The edge's kernel route for exactly `prefix`, as text; empty if it has none by BGP."""
    family = "-6" if ":" in prefix else "-4"
    proto = "bgp" if edge.daemon == "frr" else "bird"
    return host.run(edge.ns, ["ip", family, "route", "show", "exact", prefix, "proto", proto])
