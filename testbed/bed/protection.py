# SPDX-License-Identifier: GPL-2.0-or-later
"""A site's CVM under protection, seen from outside: what the controller says of it, and on the wire who
spoke for it, since when, and whether one that was fenced still reached a peer.

    with CvmWire(site) as wire:
        at_ns = failure.strike()
        ...
    wire.first_frame(standby, at_ns)          # ns
    wire.leaks(primary, standby)               # [text]
"""

import ipaddress
import os
import socket
import struct
import time

from lib.lab import wait_until

from . import controller, failures, host, moves, wire
from . import topology as topo

# Of the control plane, behind a tag and without.
CONTROL = "arp or tcp port 179"


def state(site):
    """The CVM's `protection`, with `server`: where it runs. {"state": "off"} when nobody asked for
    protection."""
    cvm = controller.query("cvm", "show", site.name)
    return {**(cvm.get("protection") or {"state": "off"}), "server": cvm["server"]}


def wait_state(site, wanted, limit_s=60, after=0, interval_s=0.2):
    """Waits until the CVM's protection is in state `wanted` after so many failovers, and returns it."""
    def reached():
        now = state(site)
        return now if now["state"] == wanted and now["failovers"] >= after else None
    return wait_until(reached, limit_s, f"the CVM of {site.name} is {wanted}", interval_s)


def failovers(site):
    """How many there have been, by the controller's books: they can be read at any time."""
    rows = moves.database("SELECT f.count FROM cvm_failovers f JOIN sites s ON s.id = f.site_id"
                          " WHERE s.name = ?", site.name)
    return rows[0][0] if rows else 0


def wait_failover(site, number, limit_s=30):
    """Waits until there have been so many failovers."""
    wait_until(lambda: failovers(site) >= number, limit_s,
               f"failover {number} of the CVM of {site.name}", 0.02)


def sides(site):
    """(primary's server, standby's server or None) now."""
    now = state(site)
    standby = now.get("standby")
    return moves.by_name(now["server"]), moves.by_name(standby) if standby else None


def impersonate(site, where, marker, count=20):
    """Has server `where` say something with the CVM's addresses and tags, as its copy there would:
    ARP requests for the core's gateway, with `marker` (bytes) in what fills them up."""
    cvm = controller.query("cvm", "show", site.name)
    mac = wire.mac(cvm["macs"]["core"])
    own, gateway = (ipaddress.IPv4Address(a.split("/")[0]).packed
                    for a in (site.core_address, site.gateway))
    frame = (b"\xff" * 6 + mac + struct.pack("!HH", wire.ETH_VLAN, cvm["vlans"]["core"])
             + struct.pack("!HHHBBH", wire.ETH_ARP, 1, wire.ETH_IP, 6, 4, 1) + mac + own
             + b"\0" * 6 + gateway + marker).ljust(64, b"\0")
    with failures.socket_in(where.ns, socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("trunk", 0))
        for _ in range(count):
            link.send(frame)


class CvmWire:
    """Captures what a site's CVM says, at the edge switch, while a `with` block lasts; reads it
    afterwards. `name` tells one capture's files from another's."""

    def __init__(self, site, name="cvm"):
        self._site = site
        cvm = controller.query("cvm", "show", site.name)
        self._core = (cvm["vlans"]["core"], wire.mac(cvm["macs"]["core"]))
        self._inside = (cvm["vlans"]["inside"], wire.mac(cvm["macs"]["inside"]))
        self._pvm_vlans = {controller.query("port", "show", edge.name)["vlans"]["core"]
                           for edge in topo.CES if edge.site == site.name}
        trunks = {server.trunk: f"vlan and ({CONTROL})" for server in site.servers}
        self._dumps = {port: wire.Tcpdump(site.ns, port, f"{wire.DIR}/{name}-{port}.pcap", filter_)
                       for port, filter_ in {"core": CONTROL, **trunks}.items()}
        self._frames, self._began_ns = {}, 0

    def __enter__(self):
        os.makedirs(wire.DIR, exist_ok=True)
        try:
            for dump in self._dumps.values():
                dump.start()
        except BaseException:
            self._kill()
            raise
        self._began_ns = time.time_ns()
        return self

    def __exit__(self, kind, *_exc):
        if kind is None:
            try:
                for dump in self._dumps.values():
                    dump.stop()
                self._frames = {port: wire.read(dump.path, self._began_ns)
                                for port, dump in self._dumps.items()}
                return
            except BaseException:
                self._kill()
                raise
        self._kill()

    def _kill(self):
        for dump in self._dumps.values():
            dump.kill()

    def _said(self, server, nic):
        vlan, mac = nic
        return [f for f in self._frames[server.trunk] if f.vlan == vlan and f.src == mac]

    def said(self, server, from_ns=0):
        """How many frames the CVM's copy on a server sent to the switch since a time: whether the
        switch let them pass or not."""
        return sum(f.ns >= from_ns for nic in (self._core, self._inside)
                   for f in self._said(server, nic))

    def first_frame(self, server, after_ns):
        """When the CVM's copy on a server first spoke after a time; None when it never did."""
        return min((f.ns for nic in (self._core, self._inside) for f in self._said(server, nic)
                    if f.ns > after_ns), default=None)

    def marked(self, marker, server=None):
        """How many frames with impersonate()'s marker came to the switch from a server, or reached the
        core."""
        frames = self._said(server, self._core) if server else self._to_core()
        return sum(marker in f.rest for f in frames)

    def longest_silence_ms(self, from_ns, until_ns):
        """The longest time within a window in which no frame of the CVM reached a peer."""
        times = sorted(f.ns for f in self._to_core() + self._to_pvms()
                       if from_ns <= f.ns <= until_ns)
        times = [from_ns, *times, until_ns]
        return max(b - a for a, b in zip(times, times[1:])) / 1e6

    def _to_core(self):
        return [f for f in self._frames["core"] if f.src == self._core[1]]

    def _to_pvms(self):
        return [f for server in self._site.servers for f in self._frames[server.trunk]
                if f.vlan in self._pvm_vlans and f.src == self._inside[1]]

    def leaks(self, primary, standby):
        """What a fenced primary said, and a peer heard, after the standby had spoken: as text, []
        if nothing. Raises TestbedError when the standby never spoke, as there is nothing to see then."""
        found, spoke = [], False
        for side, out, nic in (("core", self._to_core(), self._core),
                               ("inside", self._to_pvms(), self._inside)):
            counts, wrong = wire.speakers(out, self._said(primary, nic), self._said(standby, nic))
            spoke |= counts["first_destination"] is not None
            found += [f"{side}: {text}" for text in wrong]
        if not spoke:
            raise host.TestbedError(f"the standby on {standby.name} never spoke")
        return found
