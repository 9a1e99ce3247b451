# SPDX-License-Identifier: GPL-2.0-or-later
"""What the testbed consists of: names and addresses, nothing else. With EDGEPLEX_INVENTORY=FILE: what
that file says (inventory.py), be it of the testbed or of real servers."""

import os
from dataclasses import dataclass, field

from . import inventory

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


class _Given:
    """What an inventory says of how something is reached, where that isn't the testbed's way."""

    given = {}

    def _place(self, otherwise):
        """Where its commands run, as host.run() takes it."""
        return self.given["place"].removeprefix("netns:") if "place" in self.given else otherwise


@dataclass(frozen=True)
class Server(_Given):
    """A server: libvirtd, hostd and a bridge, joined to its site's edge switch by a trunk, and to
    the site's other servers by a management network."""

    name: str
    site: str
    trunk: str
    address: str  # on the management network
    bridge: str = "br0"
    given: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def ns(self):
        return self._place(f"{NS_PREFIX}{self.name}")

    @property
    def dir(self):
        return f"{RUN}/{self.name}"

    @property
    def uri(self):
        return self.given.get("uri") or f"qemu:///system?socket={self.dir}/run/libvirt-sock"

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
        return self.given.get("uri") or f"qemu:///system?socket={self.far_dir}/libvirt-sock"

    @property
    def far_hostd(self):
        return self.given.get("hostd") or f"unix:{self.far_dir}/hostd.sock"


@dataclass(frozen=True)
class Site(_Given):
    """An edge switch with its core link; the gateway is the core's end."""

    name: str
    pe_address: str
    core_address: str
    gateway: str
    transport_label: int
    servers: tuple = field(compare=False)  # moreservers.py has one more for a time
    given: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def ns(self):
        return self._place(f"{NS_PREFIX}edge-{self.name}")

    @property
    def management_ns(self):
        """Where the bridge of the network between its servers is."""
        return f"{NS_PREFIX}mgmt-{self.name}"

    @property
    def dir(self):
        return f"{RUN}/edge-{self.name}"

    @property
    def switch(self):
        return self.given.get("switch") or f"unix:{self.dir}/edge.mgmt"

    @property
    def pe_on_link(self):
        return self.core_address.split("/")[0]


@dataclass(frozen=True)
class CustomerEdge(_Given):
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
    given: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self):
        return f"{self.customer}-{self.site}"

    @property
    def ns(self):
        return self._place(f"{NS_PREFIX}{self.name}")

    @property
    def control(self):
        """birdc's socket, or the directory of FRR's."""
        return self.given.get("control") or f"{self.dir}/{'frr' if self.daemon == 'frr' else 'bird.ctl'}"

    @property
    def dir(self):
        return f"{RUN}/{self.name}"


THIRD = Server("a-third", "a", "trunk-third", "172.30.1.3")


def _testbed_sites():
    # Site A has one server more when somebody wants to let the others fail under a CVM, but not under
    # PVMs (or for a time, see moreservers.py); and there is a site C when somebody wants the three of the
    # article's evaluation.
    site_c = Site("c", "10.0.0.3", "192.0.2.10/30", "192.0.2.9", 16003,
                  (Server("c-left", "c", "trunk-left", "172.30.3.1"),))
    return (
        Site("a", "10.0.0.1", "192.0.2.2/30", "192.0.2.1", 16001,
             (Server("a-left", "a", "trunk-left", "172.30.1.1"),
              Server("a-right", "a", "trunk-right", "172.30.1.2"))
             + ((THIRD,) if os.environ.get("EDGEPLEX_TESTBED_THIRD_SERVER") else ())),
        Site("b", "10.0.0.2", "192.0.2.6/30", "192.0.2.5", 16002,
             (Server("b-left", "b", "trunk-left", "172.30.2.1"),)),
    ) + ((site_c,) if os.environ.get("EDGEPLEX_TESTBED_THREE_SITES") else ())


_A = {"link4": "192.168.1", "link6": "fd00:a1:", "prefix4": "10.1.0.0/16",
      "prefix6": "fd00:10:1::/48", "host4": "10.1.0.1", "host6": "fd00:10:1::1"}
_B = {"link4": "192.168.2", "link6": "fd00:b1:", "prefix4": "10.2.0.0/16",
      "prefix6": "fd00:10:2::/48", "host4": "10.2.0.1", "host6": "fd00:10:2::1"}


def _testbed_edges():
    # Both customers use the same prefixes and link addresses: only the VPN tells them apart. Red has
    # something besides that green must not reach. With three sites green is at A and B, red at A and C.
    red = "c" if os.environ.get("EDGEPLEX_TESTBED_THREE_SITES") else "b"
    return (
        CustomerEdge("green", "a", "cust1", 65101, **_A),
        CustomerEdge("green", "b", "cust1", 65102, **_B),
        CustomerEdge("red", "a", "cust2", 65201, **_A),
        CustomerEdge("red", red, "cust2", 65202, **_B, daemon="frr",
                     only_here={"10.66.0.0/16": "10.66.0.1", "fd00:66::/48": "fd00:66::1"}),
    )


def _given_sites(found):
    return tuple(
        Site(site["name"], site["pe_address"], site["core_address"], site["core_gateway"],
             site["transport_label"],
             tuple(Server(s["name"], s["site"], s["trunk"], s["address"], s["bridge"], s)
                   for s in found["server"] if s["site"] == site["name"]), site)
        for site in found["site"])


def _given_edges(found):
    return tuple(
        CustomerEdge(*(e[name] for name in ("customer", "site", "switch_port", "asn", "link4", "link6",
                                            "prefix4", "prefix6", "host4", "host6", "router")),
                     e.get("only_here", {}), e)
        for e in found["customer_edge"])


INVENTORY = os.environ.get("EDGEPLEX_INVENTORY")
if INVENTORY:
    GIVEN = inventory.load(INVENTORY)
    PROVIDER_ASN, RR_ADDRESS = GIVEN["provider"]["asn"], GIVEN["provider"]["route_reflector"]
    SITES, CES = _given_sites(GIVEN), _given_edges(GIVEN)
else:
    GIVEN = {}
    SITES, CES = _testbed_sites(), _testbed_edges()
SERVERS = tuple(server for site in SITES for server in site.servers)
CUSTOMERS = tuple(dict.fromkeys(edge.customer for edge in CES))
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
CORE_HOSTS = tuple(CoreHost(customer, f"{customer}-core", f"{NS_PREFIX}{customer}-core", f"10.{n}.0.0/16",
                            f"fd00:10:{n}::/48", f"10.{n}.0.1", f"fd00:10:{n}::1")
                   for customer, n in (("green", 3), ("red", 4)))

# A provider edge router that isn't ours (bed/remotepe.py), and the customer edge behind it.
REMOTE_PE = Site("r", "10.0.0.9", "192.0.2.34/30", "192.0.2.33", 16009, (),
                 {"switch": f"unix:{CORE_DIR}/ovs/r.mgmt"})
REMOTE_PE_NS = f"{NS_PREFIX}pe-r"
REMOTE_CE = CustomerEdge("green", "r", "", 65109, "192.168.9", "fd00:e1:", "10.9.0.0/16",
                         "fd00:10:9::/48", "10.9.0.1", "fd00:10:9::1")

NAMESPACES = (
    tuple(site.ns for site in SITES)
    + tuple(site.management_ns for site in SITES)
    + tuple(server.ns for server in SERVERS)
    + tuple(ce.ns for ce in CES)
    + (CORE_NS, P_NS, SPEAKERS_NS)
    + tuple(far.ns for far in CORE_HOSTS)
)


# Those that aren't made at once, but have to be removed.
LATER_NAMESPACES = (tuple(edge.ns for edge in MORE_EDGES) + (REMOTE_PE_NS, REMOTE_CE.ns)
                    + (() if THIRD in SERVERS else (THIRD.ns,)))


def ce(name):
    """The customer edge called `name`."""
    return next(edge for edge in CES if edge.name == name)


def far(edge):
    """The same customer's edge at the other site."""
    return next(e for e in CES if e.customer == edge.customer and e.site != edge.site)


def beside(edge):
    """Another customer's edge at the same site."""
    return next(e for e in CES if e.site == edge.site and e.customer != edge.customer)


def core_host(customer):
    """The host in the core of the customer called `customer`."""
    return next(far for far in CORE_HOSTS if far.customer == customer)
