# SPDX-License-Identifier: GPL-2.0-or-later
"""Is everything as it should be? After whatever happened.

    book = Book()                  # when all is well: what the operator entered
    book.missing(wanted)           # what doesn't serve yet, as text; [] when all does
    book.unsound(wanted)           # what is wrong, left over or lost though all serves

Nothing of it changes anything. Both are asked again and again until they say [], with a limit.
"""

import json
import os
import re
import sqlite3
from dataclasses import dataclass

from lib import lab

from . import bigtable, checks, controller, customer, host, moves, switch
from . import topology as topo

# What an operator enters, as the API tells it. The rest changes by itself.
ENTERED = {
    "site": ("name", "asn", "pe_address", "core", "transport_label", "switch", "inside", "labels",
             "vlans", "pvm_memory_kib", "cvm_memory_kib"),
    "server": ("name", "site", "uri", "bridge", "trunk", "hostd", "memory_mib", "drained", "risks"),
    "customer": ("name", "vpn_id"),
    "port": ("name", "customer", "site", "switch_port", "vlan", "addresses", "mtu", "ce", "ce_mac",
             "graceful_restart_s", "label", "rd", "inside_address", "mac"),
    "cvm": ("name", "site", "inside_address", "macs"),
}
PORT_OWNER = 2
CVM_KIB = 262152
# edgeplexd and hostd may have so much more than at first, and no more.
MORE_FDS, MORE_THREADS, MORE_KIB = 24, 8, 48 << 10


@dataclass(frozen=True)
class Wanted:
    """What the operator wants at present, of what changes."""

    edges: tuple  # customer edges that have a port
    protected: bool = False  # site A's CVM
    spares: int = 0  # of site A


def has_spares():
    """Are there warm spares?"""
    try:
        return bool(controller.cli("spare", "--help"))
    except controller.CliError:
        return False


def spares_ready():
    """How many spares site A has, ready or not."""
    return len(_rows("SELECT p.id FROM spares p JOIN sites s ON s.id = p.site_id"
                     " WHERE s.name = 'a'"))


def _rows(sql, *args):
    """Rows of the controller's database; [] if it hasn't such a table."""
    try:
        return moves.database(sql, *args)
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return []
        raise


def entered(ports):
    """All that the operator entered; of the ports, those."""
    found = {}
    for kind, fields in ENTERED.items():
        for item in controller.query(kind, "list")["items"]:
            if kind == "port" and item["name"] not in ports:
                continue
            shown = controller.query(kind, "show", item["name"])
            found[f"{kind}/{item['name']}"] = {name: shown[name] for name in fields if name in shown}
    return found


# ---- processes -----------------------------------------------------------------------------


def _figures(pid):
    """(file descriptors, threads, KiB of memory of its own) of a process."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file)
    return (len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]),
            int(fields["RssAnon"].split()[0]))


def daemons_figures():
    """{daemon: its figures} of those of ours that live on."""
    names = ["edgeplexd", *(f"{where.name}-hostd" for where in topo.SERVERS)]
    return {name: _figures(host.daemon_pid(name)) for name in names}


def vms():
    """Every QEMU of the testbed: {pid: (server's name, VM's name, uuid)}"""
    inodes = {os.stat(f"{lab.NETNS_DIR}/{s.ns}").st_ino: s.name for s in topo.SERVERS}
    found = {}
    for pid in host.processes().values():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                argv = file.read().decode(errors="replace").split("\0")
            if "qemu-system" not in argv[0] or "-name" not in argv:
                continue
            guest = argv[argv.index("-name") + 1].removeprefix("guest=").split(",")[0]
            uuid = argv[argv.index("-uuid") + 1]
            found[pid] = (inodes.get(os.stat(f"/proc/{pid}/ns/net").st_ino), guest, uuid)
        except (OSError, ValueError):
            pass
    return found


def placements():
    """Where VMs are to be, by the controller's database: [(server's name, uuid, who, VLANs)]"""
    found = [(row[0], row[1], f"port/{row[2]}", set(row[3:])) for row in _rows(
        "SELECT s.name, v.uuid, p.name, v.vlan_cust, v.vlan_core FROM pvms v"
        " JOIN ports p ON p.id = v.port_id JOIN servers s ON s.id = v.server_id")]
    found += [(row[0], row[1], f"cvm/{row[2]}", set(row[3:])) for row in _rows(
        "SELECT s.name, v.uuid, p.name, v.vlan_core, v.vlan_inside FROM cvms v"
        " JOIN sites p ON p.id = v.site_id JOIN servers s ON s.id = v.server_id")]
    found += [(row[0], row[1], f"standby of cvm/{row[2]}", set()) for row in _rows(
        "SELECT s.name, v.uuid, p.name FROM cvm_protections c JOIN cvms v ON v.site_id = c.site_id"
        " JOIN sites p ON p.id = v.site_id JOIN servers s ON s.id = c.standby_id")]
    found += [(row[0], row[1], f"spare {row[2]}", set(row[3:])) for row in _rows(
        "SELECT s.name, v.uuid, v.id, v.vlan_cust, v.vlan_core FROM spares v"
        " JOIN servers s ON s.id = v.server_id")]
    return found


# ---- what is left --------------------------------------------------------------------------


def _inside(where, path):
    """A directory of a server as it sees it."""
    return os.listdir(f"/proc/{host.daemon_pid(where.name)}/root{path}")


def left_on(where, wanted):
    """What a server has that it shouldn't, or lacks: `wanted` is placements()."""
    found = []
    uuids = {uuid: who for name, uuid, who, _ in wanted if name == where.name}
    running = [(guest, uuid) for name, guest, uuid in vms().values() if name == where.name]
    for guest, uuid in running:
        if uuid not in uuids:
            found.append(f"QEMU of {guest} {uuid} runs, which nobody wants")
    if len({uuid for _, uuid in running}) != len(running):
        found.append(f"two QEMUs of one VM: {running}")
    found += [f"no QEMU of {who} {uuid}" for uuid, who in uuids.items()
              if uuid not in [r[1] for r in running]]
    known = moves.domains(where)
    waits = {who.split(" of ")[1].replace("/", "-") for who in uuids.values() if "standby" in who}
    found += [f"libvirt has {vm} {state}" for vm, state in known.items()
              if state != ("paused" if vm in waits else "running")]
    if len(known) != len(running):
        found.append(f"libvirt has {known}, but there run {running}")
    if set(os.listdir(f"{where.run_dir}/qmp")) != {f"{uuid}.sock" for uuid in uuids}:
        found.append(f"monitor sockets {os.listdir(where.run_dir + '/qmp')} for {uuids}")
    standbys = any(who.startswith("standby") for who in uuids.values())
    files = set(os.listdir(f"{where.run_dir}/hostd")) - moves.HOSTD_FILES
    known = moves.copies(where)
    if not standbys and not any(name != where.name and who.startswith("standby") and uuid in uuids
                                for name, uuid, who, _ in wanted):
        # What a protection has there belongs to it.
        if files:
            found.append(f"hostd's run directory has {files}")
        if known:
            found.append(f"hostd knows {known}")
    memory = [name for name in _inside(where, "/run/edgeplex/ram")
              if not any(uuid in name for uuid in uuids)]
    if memory:
        found.append(f"memory files {memory}")
    bridge = switch.vsctl(f"{where.dir}/ovs", "list-ports", "br0").split()
    if len(bridge) != 1 + 2 * len(running):
        found.append(f"bridge ports {bridge} for {len(running)} VMs")
    links = [line for line in host.run(where.ns, ["ip", "-o", "link", "show", "type", "tun"])
             .splitlines() if ": br0:" not in line and "ovs-" not in line]
    if len(links) != 2 * len(running):
        found.append(f"{len(links)} taps for {len(running)} VMs")
    return [f"{where.name}: {text}" for text in found]


def wrong_rules(site, wanted):
    """Rules of a site's edge switch for ports, VLANs or trunks that the store doesn't know, and VMs
    that have none."""
    trunks = {where.name: where.trunk for where in site.servers}
    allowed = {(trunks[name], vlan): who for name, _, who, vlans in wanted if name in trunks
               and not who.startswith(("spare", "standby")) for vlan in vlans}
    owners = {f"{PORT_OWNER}:{row[0]}" for row in _rows("SELECT id FROM ports")}
    found, seen = [], set()
    for rule in moves.rules(site):
        cookie = re.search(r"cookie=0x([0-9a-f]+)", rule)
        if not cookie or int(cookie[1], 16) >> 48 != 0xed9e:
            found.append(f"a rule of nobody: {rule}")
            continue
        number = int(cookie[1], 16)
        owner = f"{number >> 32 & 0xffff}:{number & 0xffffffff}"
        if owner.startswith(f"{PORT_OWNER}:") and owner not in owners:
            found.append(f"a rule of a port that isn't there: {rule}")
        entry = re.search(r'in_port="?([\w-]+)', rule)
        for vlan in map(int, re.findall(r"dl_vlan=(\d+)", rule)):
            if entry and (entry[1], vlan) not in allowed:
                found.append(f"a rule for VLAN {vlan} at {entry[1]}, where nobody is: {rule}")
            elif entry:
                seen.add((entry[1], vlan))
        for tag, out in re.findall(r'set_field:(\d+)->vlan_vid,(IN_PORT|output:"?[\w-]+)', rule):
            port = entry[1] if out == "IN_PORT" else out.split(":")[1].strip('"')
            if port in trunks.values() and (port, int(tag) - 4096) not in allowed:
                found.append(f"a rule sends VLAN {int(tag) - 4096} to {port}, where nobody is: {rule}")
    found += [f"no rule for {who}, VLAN {key[1]} at {key[0]}" for key, who in allowed.items()
              if key not in seen]
    return [f"switch of {site.name}: {text}" for text in found]


def wrong_store():
    """What the controller's database contradicts itself in."""
    found = []
    objects = {f"{kind}/{row[0]}" for kind, sql in (
        ("port", "SELECT name FROM ports"), ("site", "SELECT name FROM sites"),
        ("cvm", "SELECT s.name FROM cvms c JOIN sites s ON s.id = c.site_id"),
        ("spare", "SELECT id FROM spares")) for row in _rows(sql)}
    for owner, kind, value in _rows("SELECT owner, kind, value FROM allocations"):
        if owner not in objects:
            found.append(f"{kind} {value} is allocated to {owner}, which isn't there")
    for table in ("pvms", "cvms"):
        for row in _rows(f"SELECT * FROM {table} WHERE move_state <> 0 OR move_server_id NOT NULL"):
            found.append(f"{table}: half moved: {row}")
    for row in _rows("SELECT * FROM cvm_voids"):
        found.append(f"a void copy of a CVM is still to be ended: {row}")
    for row in _rows("SELECT * FROM pvm_voids"):
        found.append(f"a void copy of a PVM is still to be ended: {row}")
    for row in _rows("SELECT verb, object FROM operations WHERE state = 0"):
        found.append(f"operation {row} still runs")
    for row in _rows("PRAGMA integrity_check"):
        if row != ("ok",):
            found.append(f"the database: {row}")
    return [f"store: {text}" for text in found]


# ---- tables --------------------------------------------------------------------------------


def table(edge):
    """The prefixes that a customer edge has from its provider."""
    if edge.daemon == "frr":
        return {prefix for family in ("ipv4", "ipv6") for prefix, paths in json.loads(customer.vtysh(
            edge, f"show bgp {family} unicast json"))["routes"].items()
            if any(path.get("valid") and path.get("peerId") != "(unspec)" for path in paths)}
    return set(bigtable.parse(customer.birdc(edge, "show route all protocol pe4")
                              + customer.birdc(edge, "show route all protocol pe6")))


def wrong_tables(edges, load=None):
    """What isn't as it should be at each customer edge: prefix by prefix, and for those that churn,
    attribute by attribute. `load` is stopped."""
    found = []
    churning = set()
    if load:
        found += load.wrong() + load.wrong_at_core()
        churning = set(load.ce.expected()) | set(load.core.expected())
    for edge in edges:
        wanted, may = set(), set()
        for other in edges:
            if other.customer != edge.customer:
                continue
            # Its own come back from other ports of its customer at its site, and from nobody else.
            if other is not edge:
                wanted |= {other.prefix4, other.prefix6, *other.only_here}
            may |= {checks.network(f"{other.link4}.1/30"), checks.network(f"{other.link6}:1/64")}
        if load and edge.customer == load.edge.customer:
            wanted |= churning if edge is not load.edge else set(load.core.expected())
            may |= load.more_networks()
            if edge is load.edge:
                may |= set(load.ce.expected())
        has = table(edge)
        found += [f"{edge.name}: {prefix} is missing" for prefix in wanted - has]
        found += [f"{edge.name}: {prefix} is there" for prefix in has - wanted - may]
    return found


def _protecting():
    """Names of the servers whose hostds protect a CVM: they know what its memory was."""
    return {where for name, uuid, who, _ in placements() if who.startswith("standby")
            for where in (name, *(p[0] for p in placements() if p[1] == uuid))}


# ---- all of it -----------------------------------------------------------------------------


class Book:
    """What the operator entered, and how large daemons were, when it was made."""

    def __init__(self, edges):
        self._edges = edges
        self.entered = entered({edge.name for edge in edges})
        self.figures = daemons_figures()

    @staticmethod
    def missing(wanted):
        """What doesn't serve, as text."""
        found = []
        ports = {p["name"]: p for p in controller.query("port", "list")["items"]}
        for edge in wanted.edges:
            status = ports.get(edge.name, {}).get("status", "absent")
            if status != "up":
                found.append(f"port {edge.name} is {status}:"
                             f" {ports.get(edge.name, {}).get('status_detail')}")
        found += [f"CVM {c['name']} is {c['state']}" for c in controller.query("cvm", "list")["items"]
                  if c["state"] != "up"]
        for item in controller.query("server", "list")["items"]:
            for name in ("status", "hostd_status"):
                if item[name] != "connected":
                    found.append(f"server {item['name']}: {name} {item[name]}")
        found += [f"switch of {s['name']} isn't connected"
                  for s in controller.query("site", "list")["items"] if not s["switch_connected"]]
        state = (controller.query("cvm", "show", "a").get("protection") or {}).get("state")
        if state != ("protected" if wanted.protected else None):
            found.append(f"the protection of CVM a is {state}")
        for edge in wanted.edges:
            found += [f"CE {edge.name} has no session with {address}"
                      for address, up in customer.established(edge).items() if not up]
        if spares_ready() != wanted.spares:
            found.append(f"there are {spares_ready()} spares, not {wanted.spares}")
        return found

    def unsound(self, wanted, load=None):
        """What is wrong though everything serves, as text. Asks for tables only if all else is right:
        that is costly."""
        now = entered({edge.name for edge in self._edges})
        found = [f"{name} was {self.entered.get(name)}, is {now.get(name)}"
                 for name in sorted(set(now) | set(self.entered))
                 if now.get(name) != self.entered.get(name)]
        names = {p["name"] for p in controller.query("port", "list")["items"]}
        if names != {edge.name for edge in wanted.edges}:
            found.append(f"there are the ports {sorted(names)}")
        placed = placements()
        for where in topo.SERVERS:
            found += left_on(where, placed)
            unknown = controller.query("server", "show", where.name)["unknown_vms"]
            found += [f"{where.name} has VMs that nobody knows: {unknown}"] if unknown else []
        for site in topo.SITES:
            found += wrong_rules(site, placed)
        found += wrong_store()
        return found or wrong_tables(wanted.edges, load)

    def grown(self):
        """What daemons have too much of, as text: file descriptors, threads, memory."""
        found, copies = [], {f"{where}-hostd": CVM_KIB for where in _protecting()}
        for name, now in daemons_figures().items():
            for what, more, before, after in zip(
                    ("file descriptors", "threads", "KiB of memory"),
                    (MORE_FDS, MORE_THREADS, MORE_KIB + copies.get(name, 0)), self.figures[name], now):
                if after > before + more:
                    found.append(f"{name} has {after} {what}, {before} at first")
        return found

