# SPDX-License-Identifier: GPL-2.0-or-later
"""The provider's core: a stock FRR as route reflector, and label switching between the PEs.

The machine's kernel has no MPLS, so a userspace Open vSwitch is the P router's forwarding plane:
- ARP and IP on a core link go to the route reflector's namespace (its interfaces pe-a and pe-b);
- a frame with a PE's transport label has it popped (penultimate hop) and goes out to that PE with
  the VPN label on top. The PE's MAC address is learnt from the ARP frames that the PE sends, by a
  `learn` action, as a router would take it from its neighbour table.
"""

import os
import shutil

from lib.lab import frr_argv, wait_until

from . import host, switch
from . import topology as topo

OVS = f"{topo.CORE_DIR}/ovs"
FRR = f"{topo.CORE_DIR}/frr"
PE_TABLE = 10  # by site number in reg0: to the PE's MAC address, out of its link

BGPD = """hostname core
router bgp {asn}
 bgp router-id {rr}
 no bgp default ipv4-unicast
 no bgp suppress-duplicates
 bgp graceful-restart
 bgp graceful-restart stalepath-time 120
{neighbors}
 address-family ipv4 vpn
{activate}
 exit-address-family
 address-family ipv6 vpn
{activate}
 exit-address-family
"""


def mac(number):
    return f"02:c0:00:00:00:{number:02x}"


def _link_flows(number, site):
    """What goes between a PE's link and the route reflector's interface to it."""
    wire, kernel = f"link-{site.name}", f"pe-{site.name}"
    learn = (
        f"learn(table={PE_TABLE},reg0={number},load:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],"
        "output:NXM_OF_IN_PORT[])"
    )
    return [
        f"table=0,priority=20,in_port={wire},arp,arp_spa={site.pe_on_link}"
        f" actions={learn},output:{kernel}",
        f"table=0,priority=10,in_port={wire},arp actions=output:{kernel}",
        f"table=0,priority=10,in_port={wire},ip actions=output:{kernel}",
        f"table=0,priority=10,in_port={wire},ipv6 actions=output:{kernel}",
        f"table=0,priority=10,in_port={kernel} actions=output:{wire}",
    ]


def _switching(pes):
    """From each of [(number, PE)] to each other one."""
    # Bottom of stack: not a VPN packet, and nothing for the PE.
    return [
        f"table=0,priority=30,in_port=link-{other.name},dl_dst={mac(n)},mpls,"
        f"mpls_label={site.transport_label},mpls_bos=0 actions=dec_mpls_ttl,pop_mpls:0x8847,"
        f"set_field:{mac(number)}->eth_src,set_field:{number}->reg0,resubmit(,{PE_TABLE})"
        for number, site in pes for n, other in pes
        if other != site
    ]


def _add_flows(flows):
    switch.ofctl(OVS, "--names", "add-flows", "p", "-", stdin="\n".join(flows) + "\n")


def vtysh(*commands):
    """Runs vtysh commands at the route reflector and returns the output."""
    argv = ["vtysh", "--vty_socket", FRR]
    for command in commands:
        argv += ["-c", command]
    return host.run(None, argv)


def start_frr(name, ns, directory, confs):
    """Starts stock FRR daemons ({daemon: configuration}, zebra first) and waits for each."""
    os.makedirs(directory)
    shutil.chown(directory, "frr", "frr")
    for daemon, conf in confs.items():
        with open(f"{directory}/{daemon}.conf", "w", encoding="utf-8") as file:
            file.write(conf)
        start_frr_daemon(name, ns, directory, daemon)


def start_frr_daemon(name, ns, directory, daemon):
    """Starts one of them, whose configuration is there; also again, after its death."""
    host.spawn(f"{name}-{daemon}", frr_argv(daemon, directory), ns=ns)
    host.wait_daemon(
        f"{name}-{daemon}",
        lambda: "FRRouting" in host.run(
            None, ["vtysh", "--vty_socket", directory, "-d", daemon, "-c", "show version"]),
        "answers")


def _give_address(number, site):
    """Gives the gateway of a PE's link its addresses."""
    length = site.core_address.split("/")[1]
    host.run(topo.CORE_NS, [
        "sh", "-ec", f"ip link set dev pe-{site.name} address {mac(number)};"
        f" ip addr add {site.gateway}/{length} dev pe-{site.name}"])


def attach(number, pe):
    """One PE more, whose links (link-NAME at the P router, pe-NAME between it and the route reflector)
    are there."""
    switch.vsctl(OVS, "add-port", "p", f"link-{pe.name}", "--", "add-port", "p", f"pe-{pe.name}")
    _give_address(number, pe)
    _add_flows(_link_flows(number, pe) + _switching([*enumerate(topo.SITES, 1), (number, pe)]))
    peer = f"neighbor {pe.pe_address}"
    vtysh("configure terminal", f"ip route {pe.pe_address}/32 {pe.pe_on_link}",
          f"router bgp {topo.PROVIDER_ASN}", f"{peer} remote-as {topo.PROVIDER_ASN}",
          f"{peer} update-source {topo.RR_ADDRESS}", f"{peer} timers connect 3",
          "address-family ipv4 vpn", f"{peer} activate", f"{peer} route-reflector-client", "exit-address-family",
          "address-family ipv6 vpn", f"{peer} activate", f"{peer} route-reflector-client")


def detach(number, pe):
    """Undoes attach(), as far as it was done."""
    vtysh("configure terminal", f"router bgp {topo.PROVIDER_ASN}", f"no neighbor {pe.pe_address}")
    vtysh("configure terminal", f"no ip route {pe.pe_address}/32 {pe.pe_on_link}")
    for name in (f"link-{pe.name}", f"pe-{pe.name}"):
        switch.vsctl(OVS, "--if-exists", "del-port", "p", name)
    for match in (f"reg0={number},table={PE_TABLE}", f"mpls,mpls_label={pe.transport_label}"):
        switch.ofctl(OVS, "del-flows", "p", match)


def start():
    """Starts the core; its sessions wait for the PEs."""
    switch.start("core", topo.P_NS, OVS)
    ports = [f"{kind}-{site.name}" for site in topo.SITES for kind in ("link", "pe")]
    switch.add_bridge(OVS, "p", ports, secure=True)
    pes = list(enumerate(topo.SITES, 1))
    _add_flows([flow for pe in pes for flow in _link_flows(*pe)] + _switching(pes))
    for pe in pes:
        _give_address(*pe)
    # Like a router, ask for a neighbour's MAC with the address of the link, not the loopback's.
    host.run(topo.CORE_NS, [
        "sh", "-ec", "echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce;"
        f" ip addr add {topo.RR_ADDRESS}/32 dev lo"])
    neighbors, activate = [], []
    for site in topo.SITES:
        neighbors += [f" neighbor {site.pe_address} remote-as {topo.PROVIDER_ASN}",
                      f" neighbor {site.pe_address} update-source {topo.RR_ADDRESS}",
                      f" neighbor {site.pe_address} timers connect 3"]
        activate += [f"  neighbor {site.pe_address} activate",
                     f"  neighbor {site.pe_address} route-reflector-client"]
    start_frr("core", topo.CORE_NS, FRR, {
        "zebra": "",
        "staticd": "".join(f"ip route {site.pe_address}/32 {site.pe_on_link}\n"
                           for site in topo.SITES),
        "bgpd": BGPD.format(asn=topo.PROVIDER_ASN, rr=topo.RR_ADDRESS,
                            neighbors="\n".join(neighbors), activate="\n".join(activate)),
    })
    wait_until(
        lambda: all(host.run(topo.CORE_NS, ["ip", "route", "show", site.pe_address])
                    for site in topo.SITES),
        20, "the core has its routes to the PEs")
    host.say("  core: route reflector and label switching run")
