# SPDX-License-Identifier: GPL-2.0-or-later
"""A steady load of BGP updates on a customer's PVM, from both sides (speaker.py):

- from the customer: a second router of the site, with sessions of its own for IPv4 and IPv6;
- from the core: a VPN speaker at the route reflector that announces routes of the same customer.

    with Load(near, rate=200) as load:
        load.run()
        ...
        load.stop()
        load.wait_right()       # tables are right, route by route, at both customer edges

The PVM gets the second router's sessions by `port set`, and loses them when the block ends.
"""

import ipaddress
import json
import os
import socket
import subprocess
import sys

from lib.lab import wait_until

from . import bgpmsg, bigtable, churn, controller, core, customer, host, watcher
from . import topology as topo

DIR = f"{topo.RUN}/traffic"
CORE_SPEAKER = "198.51.100.3"  # on the speakers' link, see watcher.py
RD, LABEL = f"{topo.PROVIDER_ASN}:64999", 999001
TESTBED = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The second router's own link to the PVM: IPv4's is a subnet beside the first one's, which has room
# for two only.
LINK4 = "198.18.{}.{}"


def link4(edge, host_part):
    """An address of the second router's IPv4 link: 1 is the PVM's, 2 the router's."""
    return LINK4.format(topo.CES.index(edge) + 1, host_part)


def link6(edge):
    """The second router's IPv6 address, on the link that is there anyway: its own subnet must not
    go with it when it is taken away, so it has none."""
    return f"{edge.link6}:3"


class Speaker:
    """A speaker whose table churns, as a process of its own."""

    def __init__(self, name, ns, config):
        self.name, self.ns = name, ns
        self._path, self._socket = f"{DIR}/{name}.json", f"{DIR}/{name}.sock"
        self._config = {**config, "socket": self._socket}
        self._child = None

    def start(self):
        """Starts it; its table is empty until it is told to run."""
        os.makedirs(DIR, exist_ok=True)
        if os.path.exists(self._socket):
            os.unlink(self._socket)
        with open(self._path, "w", encoding="utf-8") as file:
            json.dump(self._config, file)
        with open(f"{DIR}/{self.name}.log", "wb") as log:
            self._child = subprocess.Popen(
                ["ip", "netns", "exec", self.ns, sys.executable, "-B", "-m", "bed.speaker",
                 self._path], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=TESTBED)
        wait_until(lambda: self._child.poll() is not None or host.listens(self._socket), 30,
                   f"{self.name} runs")
        if self._child.poll() is not None:
            raise host.TestbedError(f"{self.name} ended, see {DIR}/{self.name}.log")

    def _ask(self, word):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(self._socket)
            with connection.makefile("rw", encoding="utf-8") as stream:
                stream.write(word + "\n")
                stream.flush()
                return json.loads(stream.readline())

    def run(self):
        """Lets the table churn."""
        return self._ask("run")

    def pause(self):
        """Stops that; returns {steps, late}: changes made so far, how many over a second late."""
        return self._ask("pause")

    def expected(self):
        """{prefix: bigtable.Route} that it has announced; only when it is paused."""
        same = churn.Churn(self._config["who"])
        for _ in range(self.pause()["steps"]):
            same.step()
        return same.table

    def end(self):
        """Ends it."""
        if self._child:
            self._child.stdin.close()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


class Load:
    """The load on the PVM of `edge` (BIRD) while a `with` block lasts; see the module's text."""

    def __init__(self, edge, rate=200):
        self.edge, self.far = edge, topo.far(edge)
        self._port = None
        vpn_id = controller.query("customer", "show", edge.customer)["vpn_id"]
        far_site = next(s for s in topo.SITES if s.name == self.far.site)
        ipv4, ipv6 = (bgpmsg.IPV4, bgpmsg.UNICAST), (bgpmsg.IPV6, bgpmsg.UNICAST)
        self.ce = Speaker(f"speaker-{edge.name}", edge.ns, {
            "who": "ce", "rate": rate, "asn": edge.asn, "local_asn": edge.asn,
            "router_id": link4(edge, 2), "next_hop4": link4(edge, 2), "next_hop6": link6(edge),
            "neighbors": [
                {"peer": link4(edge, 1), "local": link4(edge, 2), "families": [ipv4]},
                {"peer": f"{edge.link6}:1", "local": link6(edge), "families": [ipv6]}]})
        # Its next hop is the far PE, so that the near one has a tunnel there.
        self.core = Speaker("speaker-core", topo.SPEAKERS_NS, {
            "who": "core", "rate": rate, "local_asn": topo.PROVIDER_ASN, "router_id": CORE_SPEAKER,
            "rd": RD, "label": LABEL, "rts": [f"{topo.PROVIDER_ASN}:{vpn_id}"],
            "next_hop4": far_site.pe_address, "next_hop6": f"::ffff:{far_site.pe_address}",
            "neighbors": [{"peer": watcher.RR_ON_LINK, "local": CORE_SPEAKER,
                           "families": list(watcher.FAMILIES)}]})

    def __enter__(self):
        try:
            self._port = controller.query("port", "show", self.edge.name)
            host.run(self.edge.ns, ["ip", "addr", "replace", f"{link4(self.edge, 2)}/24",
                                    "dev", "pe"])
            host.run(self.edge.ns, ["ip", "addr", "replace", f"{link6(self.edge)}/128",
                                    "dev", "pe"])
            watcher.add_client(CORE_SPEAKER)
            self.ce.start()
            self.core.start()
            self._set_port([*self._port["addresses"], f"{link4(self.edge, 1)}/24"],
                           [*self._port["ce"],
                            *({"address": address, "asn": self.edge.asn}
                              for address in (link4(self.edge, 2), link6(self.edge)))])
            wait_until(lambda: set(self.sessions().values()) == {"Established"}, 120,
                       "the load's sessions are Established")
        except BaseException:
            self._undo()
            raise
        return self

    def __exit__(self, *_exc):
        self._undo()

    def _set_port(self, addresses, ces):
        args = [word for address in addresses for word in ("--address", address)]
        args += [word for ce in ces for word in ("--ce", f"{ce['address']},{ce['asn']}")]
        controller.cli("port", "set", self.edge.name, *args)

    def _undo(self):
        self.ce.end()
        self.core.end()
        if self._port:
            self._set_port(self._port["addresses"], self._port["ce"])
        watcher.remove_client(CORE_SPEAKER)
        for address in (f"{link4(self.edge, 2)}/24", f"{link6(self.edge)}/128"):
            host.run(self.edge.ns, ["ip", "addr", "del", address, "dev", "pe"], check=False)

    def sessions(self):
        """{neighbour: state} of the load's own sessions, as the PVM and the core have them."""
        out = {n["address"]: n["state"]
               for n in controller.query("pvm", "show", self.edge.name)["bgp"]
               if n["address"] in (link4(self.edge, 2), link6(self.edge))}
        from . import checks  # pylint: disable=import-outside-toplevel,cyclic-import
        out[CORE_SPEAKER] = checks.core_sessions(4).get(CORE_SPEAKER, "missing")
        return out if len(out) == 3 else {}

    def more_networks(self):
        """The networks that the load's own links have."""
        from . import checks  # pylint: disable=import-outside-toplevel,cyclic-import
        return {checks.network(f"{link4(self.edge, 1)}/24")}

    def run(self):
        """Lets both tables churn."""
        self.ce.run()
        self.core.run()

    def stop(self):
        """Stops that; returns {"ce": changes made so far, "core": …}."""
        return {"ce": self.ce.pause()["steps"], "core": self.core.pause()["steps"]}

    def wrong(self, with_fib=True):
        """What isn't as announced, as text; [] when both customer edges, and the forwarder of the
        PVM if the controller can be asked (`with_fib`), have it all, and only it.

        Only when the load is stopped."""
        from_ce, from_core = self.ce.expected(), self.core.expected()
        wrong = _differences(self.far, from_ce, self.edge.asn, "ce")
        wrong += _differences(self.far, from_core, None, "core")
        wrong += _differences(self.edge, from_core, None, "core")
        if not with_fib:
            return wrong
        fib = {r["prefix"] for family in ("ipv4", "ipv6")
               for r in _fib(self.edge.name, family)}
        wanted = set(from_ce) | set(from_core)
        mine = set(churn.Churn("ce").prefixes) | set(churn.Churn("core").prefixes)
        wrong += [f"FIB of {self.edge.name}: {p} is missing" for p in wanted - fib]
        wrong += [f"FIB of {self.edge.name}: {p} is still there" for p in (fib & mine) - wanted]
        return wrong

    def wrong_at_core(self):
        """The same of the route reflector, where each route is to be just once. Only when the load is
        stopped."""
        near_site = next(s for s in topo.SITES if s.name == self.edge.site)
        far_site = next(s for s in topo.SITES if s.name == self.far.site)
        found = _core_paths()
        wrong = []
        for who, announced, asn, hop in (
                ("ce", self.ce.expected(), (self.edge.asn,), near_site.pe_address),
                ("core", self.core.expected(), (), far_site.pe_address)):
            for prefix in churn.Churn(who).prefixes:
                wanted, paths = [], found.get(prefix, [])
                if prefix in announced:
                    path, origin, *_ = announced[prefix].attributes()
                    wanted = [((*asn, *path), origin.lower(), hop)]
                if paths != wanted:
                    wrong.append(f"core: {prefix} has {paths}, not {wanted}")
        return wrong

    def wait_right(self, limit_s=120, with_fib=True):
        """Waits until wrong() finds nothing; raises TimeoutError with what is wrong."""
        try:
            wait_until(lambda: not self.wrong(with_fib), limit_s, "the tables are right", interval_s=1)
        except TimeoutError as error:
            wrong = self.wrong(with_fib)
            if wrong:
                raise TimeoutError(f"{len(wrong)} routes are wrong after {limit_s} s: "
                                   + "; ".join(wrong[:10])) from error


def _fib(pvm, family):
    from . import checks  # pylint: disable=import-outside-toplevel,cyclic-import
    return checks.table(pvm, "fib", family)


def _plain(address):
    """An address without what makes an IPv6 one of an IPv4 one."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or address)


def _core_paths():
    """The route reflector's VPN routes: {prefix: [(AS path, origin, next hop)]}, one for each path under
    each RD."""
    found = {}
    for version in (4, 6):
        vpn = json.loads(core.vtysh(f"show bgp ipv{version} vpn json"))["routes"]
        for prefixes in vpn["routeDistinguishers"].values():
            for prefix, paths in prefixes.items():
                found.setdefault(prefix, []).extend(
                    (tuple(map(int, path["path"].split())), path["origin"].lower(),
                     _plain(path["nexthops"][0]["ip"])) for path in paths)
    return found


def _differences(edge, wanted, announcer, who):
    """What `edge` (BIRD) has otherwise than announced by `who`; its own AS goes before the path."""
    known = set(churn.Churn(who).prefixes)
    found = {prefix: route for prefix, route in bigtable.parse(
        customer.birdc(edge, "show route all protocol pe4")
        + customer.birdc(edge, "show route all protocol pe6")).items() if prefix in known}
    wrong = [f"{edge.name}: {p} is missing" for p in set(wanted) - set(found)]
    wrong += [f"{edge.name}: {p} is still there" for p in set(found) - set(wanted)]
    for prefix in set(wanted) & set(found):
        _, first, (rest, *attributes) = found[prefix]
        path, *expected = wanted[prefix].attributes()
        full = (topo.PROVIDER_ASN, *((announcer,) if announcer else ()), *path)
        if (*first, *rest) != full or attributes != expected:
            wrong.append(f"{edge.name}: {prefix} has {(*first, *rest)} {attributes}, "
                         f"not {full} {expected}")
    return wrong
