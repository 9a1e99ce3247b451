# SPDX-License-Identifier: GPL-2.0-or-later
"""A customer's host in the core, as if behind a stock provider edge router: what is sent to it, or
by it, passes one PVM only, where a host of another site would take a second PVM, two more switches
and most of another processor.

    with attached(near) as far:     # to probes.Probes and tcpflow.TcpFlow like a customer edge
        ...

A VPN speaker announces its prefixes at the route reflector, with the other site's PE as next hop,
which has a tunnel; the P router's Open vSwitch knows the labels and does that PE's work.
"""

from contextlib import contextmanager

from lib.lab import wait_until

from . import bgpload, checks, controller, core, host, switch, watcher
from . import topology as topo

SPEAKER = "198.51.100.4"  # on the speakers' link, see watcher.py
RD, LABEL4 = f"{topo.PROVIDER_ASN}:64998", 999101  # IPv6's label is the next one
LINK, MAC, GATEWAY_MAC = "link-host", "02:c0:00:00:01:01", "02:c0:00:00:01:02"
LABEL_TABLE = 11
COOKIE = "0xc0de"


def _via(nears):
    """(number, site) of the provider edge router that the host seems to be behind: none of the customer edges'
    own."""
    return next((n, s) for n, s in enumerate(topo.SITES, 1) if s.name not in {near.site for near in nears})


def _flows(nears):
    """What the P router does besides, for the host and the customer edges `nears`."""
    other, via = _via(nears)
    numbers = {s.name: n for n, s in enumerate(topo.SITES, 1)}
    flows = [f"table=0,priority=40,in_port=link-{site},mpls,mpls_label={via.transport_label},"
             f"mpls_bos=0 actions=dec_mpls_ttl,pop_mpls:0x8847,resubmit(,{LABEL_TABLE})"
             for site in sorted({near.site for near in nears})]
    flows += [f"table={LABEL_TABLE},priority=10,mpls,mpls_label={label},mpls_bos=1"
              f" actions=pop_mpls:{kind},set_field:{GATEWAY_MAC}->eth_src,"
              f"set_field:{MAC}->eth_dst,output:{LINK}"
              for label, kind in ((LABEL4, "0x0800"), (LABEL4 + 1, "0x86dd"))]
    # The other site's own.
    flows.append(f"table={LABEL_TABLE},priority=0,mpls actions=set_field:{core.mac(other)}->eth_src,"
                 f"set_field:{other}->reg0,resubmit(,{core.PE_TABLE})")
    for near in nears:
        label, number = controller.query("port", "show", near.name)["label"], numbers[near.site]
        flows += [f"table=0,priority=30,in_port={LINK},{match}"
                  f" actions=push_mpls:0x8847,set_field:{label}->mpls_label,"
                  f"set_field:{core.mac(number)}->eth_src,set_field:{number}->reg0,"
                  f"resubmit(,{core.PE_TABLE})"
                  for match in (f"ip,nw_dst={near.prefix4}", f"ipv6,ipv6_dst={near.prefix6}")]
    return "\n".join(f"cookie={COOKIE},{flow}" for flow in flows) + "\n"


def _plug_in():
    """The host's link, once."""
    far = topo.CORE_HOST
    if "pe@" in host.run(far.ns, ["ip", "-br", "link"]):
        return
    host.link(topo.P_NS, LINK, far.ns, "pe", 1500)
    gateways = f"ip -4 neigh replace 169.254.0.1 lladdr {GATEWAY_MAC} nud permanent dev pe\n" \
               f"ip -6 neigh replace fe80::1 lladdr {GATEWAY_MAC} nud permanent dev pe\n"
    host.run(far.ns, ["sh", "-ec", f"ip link set dev pe address {MAC}\n"
                      f"ip addr add {far.host4}/32 dev lo\nip addr add {far.host6}/128 dev lo\n"
                      + gateways + "ip -4 route add default via 169.254.0.1 dev pe onlink\n"
                      "ip -6 route add default via fe80::1 dev pe\n"])
    switch.vsctl(core.OVS, "--may-exist", "add-port", "p", LINK)


@contextmanager
def attached(*nears):
    """The host for the length of a block; the customer edges `nears` have routes to it, and it to them. There
    must be a site where none of them is."""
    far = topo.CORE_HOST
    vpn_id = controller.query("customer", "show", far.customer)["vpn_id"]
    _, via = _via(nears)
    speaker = bgpload.Speaker("speaker-host", topo.SPEAKERS_NS, {
        "who": "core", "rate": 1, "local_asn": topo.PROVIDER_ASN, "router_id": SPEAKER,
        "rd": RD, "label": LABEL4, "rts": [f"{topo.PROVIDER_ASN}:{vpn_id}"],
        "next_hop4": via.pe_address, "next_hop6": f"::ffff:{via.pe_address}",
        "always": [far.prefix4, far.prefix6],
        "neighbors": [{"peer": watcher.RR_ON_LINK, "local": SPEAKER,
                       "families": list(watcher.FAMILIES)}]})
    _plug_in()
    watcher.add_client(SPEAKER)
    try:
        switch.ofctl(core.OVS, "--names", "add-flows", "p", "-", stdin=_flows(nears))
        speaker.start()
        for near in nears:
            for prefix in (far.prefix4, far.prefix6):
                checks.wait_route(near, prefix)
            for source, to in ((near.host4, far.host4), (near.host6, far.host6)):
                wait_until(lambda n=near, s=source, t=to: checks.ping(n.ns, s, t, 1, limit_s=2)[0],
                           30, f"packets of {near.name} reach the host in the core")
        yield far
    finally:
        speaker.end()
        switch.ofctl(core.OVS, "--names", "del-flows", "p", f"cookie={COOKIE}/-1")
        watcher.remove_client(SPEAKER)
