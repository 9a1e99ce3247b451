# SPDX-License-Identifier: GPL-2.0-or-later
"""A PVM that is being moved, seen from outside: how far the move is, what has to die at which point
of it, and whether anything is left behind afterwards."""

import json
import os
import select
import socket
import sqlite3
import time

from lib import lab

from . import controller, host, server, switch
from . import topology as topo

HOSTD_FILES = {"lock"}  # what a hostd's run directory has without moves


def server_of(port):
    """The server where the port's PVM is, as the controller says."""
    name = controller.query("port", "show", port)["server"]
    return next(s for s in topo.SERVERS if s.name == name)


def by_name(name):
    """The server called `name`."""
    return next(s for s in topo.SERVERS if s.name == name)


def other(here):
    """The other server of the site."""
    return next(s for s in topo.SERVERS if s.site == here.site and s is not here)


def database(sql, *args):
    """Rows of the controller's database, while it runs."""
    connection = sqlite3.connect(f"file:{controller.DIR}/state/edgeplex.db?mode=ro", uri=True,
                                 timeout=10)
    try:
        return connection.execute(sql, args).fetchall()
    finally:
        connection.close()


def qemu(name, where, role="pvm"):
    """The pid of the QEMU of a port's PVM, or a site's CVM, on server `where`; or None. A VM that was a
    spare is called otherwise, and known by its UUID."""
    rows = database("SELECT v.uuid FROM pvms v JOIN ports p ON p.id = v.port_id WHERE p.name = ?",
                    name) if role == "pvm" else []
    uuids = [uuid.encode() for uuid, in rows]
    namespace = os.stat(f"{lab.NETNS_DIR}/{where.ns}").st_ino
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{entry}/ns/net").st_ino != namespace:
                continue
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                argv = file.read().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in argv[0] and (f"guest={role}-{name},".encode() in b" ".join(argv)
                                          or any(uuid in argv for uuid in uuids)):
            return int(entry)
    return None


def last_errors(port):
    """{neighbour: why its session ended last} of a PVM, and what the controller last told of it."""
    errors = {n["address"]: n.get("last_error") for n in controller.query("pvm", "show", port)["bgp"]}
    events = controller.cli("event", "list").splitlines()
    return errors, [line for line in events if port in line][:20]


# ---- hostd ---------------------------------------------------------------------------------


class Hostd:
    """A connection to a server's hostd, for its notifications and for questions."""

    def __init__(self, where):
        self.socket, self.rest, self.last_id = socket.socket(socket.AF_UNIX), b"", 0
        self.socket.settimeout(20)
        self.socket.connect(f"{where.run_dir}/hostd.sock")

    def close(self):
        self.socket.close()

    def _lines(self):
        *lines, self.rest = (self.rest + self.socket.recv(65536)).split(b"\n")
        return [json.loads(line) for line in lines]

    def news(self):
        """The statuses that were told meanwhile; None when the connection is gone."""
        found = []
        while select.select([self.socket], [], [], 0)[0]:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                return None
            *lines, self.rest = (self.rest + data).split(b"\n")
            found += [m["params"] for m in map(json.loads, lines) if "method" in m]
        return found

    def call(self, method, **params):
        """A call's result; what is told meanwhile is dropped."""
        self.last_id += 1
        self.socket.sendall(json.dumps({"jsonrpc": "2.0", "id": self.last_id, "method": method,
                                        "params": params}).encode() + b"\n")
        while True:
            for message in self._lines():
                if message.get("id") == self.last_id:
                    if "error" in message:
                        raise host.TestbedError(message["error"]["message"])
                    return message["result"]


def copies(where):
    """What a hostd knows of moves."""
    hostd = Hostd(where)
    try:
        return hostd.call("hostd.info")["copies"]
    finally:
        hostd.close()


# ---- a move, up to a point -----------------------------------------------------------------


class Move:
    """A move that was begun; `reach()` waits for points of it.

    A point is the name of a step of the operation, or ("source"|"destination", state) as hostd tells.
    """

    def __init__(self, port):
        self.port, self.source = port, server_of(port)
        self.destination = other(self.source)
        self.pids = {"source": qemu(port, self.source)}
        self._hostds = {"source": Hostd(self.source), "destination": Hostd(self.destination)}
        self._seen, self.operation = set(), None
        self._began = time.monotonic()
        self.number = controller.query("pvm", "migrate", port, "--no-wait")["id"]

    def close(self):
        for hostd in self._hostds.values():
            hostd.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.close()

    def _look(self, want_step):
        for role, hostd in list(self._hostds.items()):
            news = hostd.news()
            if news is None:
                del self._hostds[role]
            for status in news or []:
                self._seen.add((status["role"], status["state"]))
        if want_step:
            for name, state in database(
                    "SELECT name, state FROM operation_steps WHERE operation_id = ?", self.number):
                if state != 0:
                    self._seen.add(name)

    def reach(self, point, limit_s=60):
        """Waits for the point; False when the operation ended without."""
        end, step = time.monotonic() + limit_s, isinstance(point, str)
        next_look = 0
        while time.monotonic() < end:
            self._look(step)
            if point in self._seen:
                return True
            if time.monotonic() >= next_look:
                ((state,),) = database("SELECT state FROM operations WHERE id = ?", self.number)
                if state != 0:
                    self._look(step)
                    return point in self._seen
                next_look = time.monotonic() + 0.2
            select.select([h.socket for h in self._hostds.values()], [], [], 0.001 if step else 0.05)
        raise TimeoutError(f"{point} wasn't reached in {limit_s} s")

    def find_destination(self):
        """The destination's QEMU, once it is being copied to."""
        self.pids["destination"] = lab.wait_until(lambda: qemu(self.port, self.destination), 20,
                                                  "the destination's QEMU runs", 0.002)

    def state(self):
        """Is the operation "running" or "ended"? As the database has it."""
        ((state,),) = database("SELECT state FROM operations WHERE id = ?", self.number)
        return "running" if state == 0 else "ended"

    def age_s(self):
        """Seconds since the move was begun."""
        return time.monotonic() - self._began

    def end(self, limit_s=120):
        """Waits until the operation has ended, and returns it."""
        def ended():
            try:
                operation = controller.query("operation", "show", self.number)
            except controller.CliError:
                return None  # edgeplexd was killed
            return operation if operation["state"] != "running" else None
        self.operation = lab.wait_until(ended, limit_s, f"operation {self.number} has ended", 0.1)
        return self.operation


# ---- what is left --------------------------------------------------------------------------


def domains(where):
    """{VM: state} of a server's libvirt."""
    out = server.virsh(where, "list", "--all")
    return {line.split()[1]: " ".join(line.split()[2:]) for line in out.splitlines() if line.strip()}


def rules(site):
    """The edge switch's rules as a set of texts."""
    out = switch.ofctl(site.dir, "--names", "--no-stats", "dump-flows", "edge")
    return {line.strip() for line in out.splitlines() if "actions" in line}


def leftovers(port, site_name="a"):
    """What a move has left behind that it shouldn't have: a list of texts."""
    found = []
    site = next(s for s in topo.SITES if s.name == site_name)
    row = database("SELECT v.move_state, v.move_server_id, s.name, v.uuid FROM pvms v JOIN servers s ON"
                   " s.id = v.server_id JOIN ports p ON p.id = v.port_id WHERE p.name = ?", port)
    ((state, move_server, name, uuid),) = row
    if state != 0 or move_server is not None:
        found.append(f"the database says move_state {state}, move_server_id {move_server}")
    uuids = {}
    for where in site.servers:
        running = domains(where)
        expected = where.name == name
        uuids[where] = {server.virsh(where, "domuuid", vm).strip(): vm for vm in running}
        if (uuid in uuids[where]) != expected:
            found.append(f"{where.name} has {running}, but the PVM is on {name}")
        wrong = {vm: text for vm, text in running.items() if text != "running"}
        if wrong:
            found.append(f"{where.name} has {wrong}")
        sockets = {f"{uuid}.sock" for uuid in uuids[where]}
        if set(os.listdir(f"{where.run_dir}/qmp")) != sockets:
            found.append(f"{where.name}: monitor sockets {os.listdir(where.run_dir + '/qmp')} for "
                         f"{uuids[where]}")
        files = set(os.listdir(f"{where.run_dir}/hostd")) - HOSTD_FILES
        if files:
            found.append(f"{where.name}: hostd's run directory has {files}")
        known = copies(where)
        if known:
            found.append(f"{where.name}: hostd knows {known}")
        bridge = switch.vsctl(f"{where.dir}/ovs", "list-ports", "br0").split()
        if len(bridge) != 1 + 2 * len(running):
            found.append(f"{where.name}: bridge ports {bridge} for {running}")
        links = host.run(where.ns, ["ip", "-o", "link", "show", "type", "tun"]).splitlines()
        if len([link for link in links if ": br0:" not in link and "ovs-" not in link]) != 2 * len(running):
            found.append(f"{where.name}: interfaces {links} for {running}")
    return found
