# SPDX-License-Identifier: GPL-2.0-or-later
"""What the testbed consists of: names and addresses, nothing else."""

import os
from dataclasses import dataclass, field

# Testbeds of different names don't meet: export EDGEPLEX_TESTBED_NAME to have one of your own.
NAME = os.environ.get("EDGEPLEX_TESTBED_NAME", "")
RUN = "/run/edgeplex-testbed" + (f"-{NAME}" if NAME else "")
NS_PREFIX = f"ep-{NAME}-" if NAME else "ep-"
PROVIDER_ASN = 65000
RR_ADDRESS = "10.0.0.100"
# Trunks and core links carry a customer's 1500 bytes under two labels and a VLAN tag.
BACKBONE_MTU = 1600
MANAGEMENT_BITS = 24
HOSTD_PORT = 7400


@dataclass(frozen=True)
class Server:
    """A server: libvirtd, hostd and a bridge, joined to its site's edge switch by a trunk, and to
    the site's other servers by a management network."""

    name: str
    site: str
    trunk: str
    address: str  # on the management network

    @property
    def ns(self):
        return f"{NS_PREFIX}{self.name}"

    @property
    def dir(self):
        return f"{RUN}/{self.name}"

    @property
    def uri(self):
        return f"qemu:///system?socket={self.dir}/run/libvirt-sock"

    @property
    def run_dir(self):
        """What the server sees as /run/edgeplex."""
        return f"{self.dir}/edgeplex"

    # The controller reaches a server through a relay (relay.py); tests take the direct way.

    @property
    def far_dir(self):
        """The relay's sockets."""
        return f"{self.dir}/far"

    @property
    def far_uri(self):
        return f"qemu:///system?socket={self.far_dir}/libvirt-sock"

    @property
    def far_hostd(self):
        return f"unix:{self.far_dir}/hostd.sock"


@dataclass(frozen=True)
class Site:
    """An edge switch with its core link; the gateway is the core's end."""

    name: str
    pe_address: str
    core_address: str
    gateway: str
    transport_label: int
    servers: tuple

    @property
    def ns(self):
        return f"{NS_PREFIX}edge-{self.name}"

    @property
    def management_ns(self):
        """Where the bridge of the network between its servers is."""
        return f"{NS_PREFIX}mgmt-{self.name}"

    @property
    def dir(self):
        return f"{RUN}/edge-{self.name}"

    @property
    def switch(self):
        return f"unix:{self.dir}/edge.mgmt"

    @property
    def pe_on_link(self):
        return self.core_address.split("/")[0]


@dataclass(frozen=True)
class CustomerEdge:
    """A customer's router at a site, with one customer port of the edge switch."""

    customer: str
    site: str
    switch_port: str
    asn: int
    link4: str  # without the last number: PE is .1, CE is .2
    link6: str  # without the last number: PE is ::1, CE is ::2
    prefix4: str
    prefix6: str
    host4: str
    host6: str
    daemon: str = "bird"
    only_here: dict = field(default_factory=dict)  # {prefix: host} that no other customer has

    @property
    def name(self):
        return f"{self.customer}-{self.site}"

    @property
    def ns(self):
        return f"{NS_PREFIX}{self.name}"

    @property
    def dir(self):
        return f"{RUN}/{self.name}"


# Site A has one server more when somebody wants to let the others fail under a CVM, but not under
# PVMs.
_THIRD = (Server("a-third", "a", "trunk-third", "172.30.1.3"),)
SITES = (
    Site("a", "10.0.0.1", "192.0.2.2/30", "192.0.2.1", 16001,
         (Server("a-left", "a", "trunk-left", "172.30.1.1"),
          Server("a-right", "a", "trunk-right", "172.30.1.2"))
         + (_THIRD if os.environ.get("EDGEPLEX_TESTBED_THIRD_SERVER") else ())),
    Site("b", "10.0.0.2", "192.0.2.6/30", "192.0.2.5", 16002,
         (Server("b-left", "b", "trunk-left", "172.30.2.1"),)),
)
SERVERS = tuple(server for site in SITES for server in site.servers)
CUSTOMERS = ("green", "red")

_A = {"link4": "192.168.1", "link6": "fd00:a1:", "prefix4": "10.1.0.0/16",
      "prefix6": "fd00:10:1::/48", "host4": "10.1.0.1", "host6": "fd00:10:1::1"}
_B = {"link4": "192.168.2", "link6": "fd00:b1:", "prefix4": "10.2.0.0/16",
      "prefix6": "fd00:10:2::/48", "host4": "10.2.0.1", "host6": "fd00:10:2::1"}

# Both customers use the same prefixes and link addresses: only the VPN tells them apart. Red has
# something besides that green must not reach.
CES = (
    CustomerEdge("green", "a", "cust1", 65101, **_A),
    CustomerEdge("green", "b", "cust1", 65102, **_B),
    CustomerEdge("red", "a", "cust2", 65201, **_A),
    CustomerEdge("red", "b", "cust2", 65202, **_B, daemon="frr",
                 only_here={"10.66.0.0/16": "10.66.0.1", "fd00:66::/48": "fd00:66::1"}),
)
SPARE_PORTS = ("cust9", "trunk-spare")  # of every edge switch; nothing is plugged in
CORE_NS = f"{NS_PREFIX}core"  # the route reflector
P_NS = f"{NS_PREFIX}p"  # the core's label switching
SPEAKERS_NS = f"{NS_PREFIX}speakers"  # further clients of the route reflector, when a test wants some
CORE_DIR = f"{RUN}/core"


@dataclass(frozen=True)
class CoreHost:
    """A customer's host behind a provider edge router that isn't ours (bed/corehost.py)."""

    customer: str
    name: str
    ns: str
    prefix4: str
    prefix6: str
    host4: str
    host6: str


@dataclass(frozen=True)
class MoreEdge(CustomerEdge):
    """One more customer edge of a customer at a site (bed/moreedges.py)."""

    number: int = 0

    @property
    def name(self):
        return f"{self.customer}-{self.site}{self.number}"


def _more(number):
    return MoreEdge("green", "a", f"more{number}", 65110 + number, f"192.168.{10 + number}",
                    f"fd00:a1:{number}:", f"10.{100 + number}.0.0/16", f"fd00:10:{100 + number}::/48",
                    f"10.{100 + number}.0.1", f"fd00:10:{100 + number}::1", number=number)


MORE_EDGES = tuple(_more(number) for number in range(1, 9))
CORE_HOST = CoreHost("green", "green-core", f"{NS_PREFIX}green-core", "10.3.0.0/16",
                     "fd00:10:3::/48", "10.3.0.1", "fd00:10:3::1")

NAMESPACES = (
    tuple(site.ns for site in SITES)
    + tuple(site.management_ns for site in SITES)
    + tuple(server.ns for server in SERVERS)
    + tuple(ce.ns for ce in CES)
    + (CORE_NS, P_NS, SPEAKERS_NS, CORE_HOST.ns)
)


# Those that aren't made at once, but have to be removed.
LATER_NAMESPACES = tuple(edge.ns for edge in MORE_EDGES)


def ce(name):
    """The customer edge called `name`."""
    return next(edge for edge in CES if edge.name == name)


def far(edge):
    """The same customer's edge at the other site."""
    return next(e for e in CES if e.customer == edge.customer and e.site != edge.site)
