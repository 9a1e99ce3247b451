# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's side of the testbed: namespaces, links, the supervisor, and taking all down."""

import glob
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

from lib import lab

from . import topology as topo

OWNER = f"{topo.RUN}/owner.json"
SOCKET = f"{topo.RUN}/supervisor.sock"
LOGS = f"{topo.RUN}/log"
MARK = "EDGEPLEX_TESTBED"
# Directories that programs expect at fixed places, and that are removed again if we made them.
FIXED_DIRS = ("/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt",
              "/etc/libvirt", "/run/openvswitch", "/run/edgeplex")


class TestbedError(RuntimeError):
    """Something couldn't be started; the text tells what and where to look."""


@contextmanager
def exclusive():
    """One program at a time builds up, uses or takes down the testbed; the others are told.

    The lock is an abstract Unix socket, which is gone with its process.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind("\0" + topo.RUN)
        except OSError as error:
            raise TestbedError(
                "the testbed is in use (by a demo or a test); wait for that to end, or have "
                "another one: export EDGEPLEX_TESTBED_NAME=mine") from error
        yield


def say(text):
    """A line of progress."""
    print(text, flush=True)


def at(place, argv):
    """The command line that runs `argv` at a place: a network namespace, "ssh:HOST", or here (None or
    "local")."""
    argv = [str(a) for a in argv]
    if not place or place == "local":
        return argv
    if place.startswith("ssh:"):
        return ["ssh", "-o", "BatchMode=yes", place.removeprefix("ssh:"), "--", shlex.join(argv)]
    return ["ip", "netns", "exec", place, *argv]


def files_at(place):
    """Where a place's files and sockets are: a network namespace has this machine's."""
    return place if place and place.startswith("ssh:") else None


def run(ns, argv, limit_s=60, check=True, stdin=None, env=None):
    """Runs a command, at place `ns` if given (see at()); returns its output. Raises TestbedError."""
    argv = [str(a) for a in argv]
    full = at(ns, argv)
    done = subprocess.run(
        full, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        timeout=limit_s, env={**os.environ, **(env or {})}, check=False,
    )
    if check and done.returncode != 0:
        raise TestbedError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def listens(path):
    """Does somebody accept connections on this Unix socket? Its file is there a little sooner."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


# ---- the supervisor ------------------------------------------------------------------------


def ask(request):
    """Sends the supervisor a request and returns its answer. Raises TestbedError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(SOCKET)
        except OSError as error:
            raise TestbedError("the testbed isn't up; start it with `testbed/testbed up`") from error
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            reply = json.loads(stream.readline())
    if "error" in reply:
        raise TestbedError(reply["error"])
    return reply["ok"]


def spawn(name, argv, ns=None, env=None, restart=False):
    """Starts a daemon under the supervisor."""
    argv = [str(a) for a in argv]
    if ns:
        argv = ["ip", "netns", "exec", ns, *argv]
    ask({"do": "start", "name": name, "argv": argv, "env": env or {}, "restart": restart})


def stop(name):
    """Ends a daemon, which stays down until it is started again."""
    ask({"do": "stop", "name": name})
    lab.wait_until(lambda: daemons()[name]["pid"] is None, 20, f"{name} has ended")


def daemons():
    """{name: {pid (inside), status, restarts}}"""
    return {daemon["name"]: daemon for daemon in ask({"do": "list"})}


def wait_daemon(name, ready, what, limit_s=60):
    """Waits for `ready()`, and fails at once, with the end of its log, if the daemon ended."""

    def check():
        state = daemons()[name]
        if state["pid"] is None and state["status"] is not None:
            return "ended"
        return ready() and "ready"

    if lab.wait_until(check, limit_s, f"{name}: {what}") == "ended":
        with open(f"{LOGS}/{name}.log", encoding="utf-8", errors="replace") as file:
            raise TestbedError(f"{name} ended:\n{file.read()[-2000:]}")


def _owner():
    try:
        with open(OWNER, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def is_up():
    """Does the supervisor of the recorded testbed run?"""
    owner = _owner()
    return "init" in owner and lab.start_time(owner["init"]) == owner["init_started"]


def processes():
    """{pid inside: pid as seen from here} of every process of the testbed."""
    inside = {}
    namespace = os.stat(f"/proc/{_owner()['init']}/ns/pid").st_ino
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}/ns/pid").st_ino == namespace:
                with open(f"/proc/{entry}/status", encoding="utf-8", errors="replace") as file:
                    line = next(text for text in file if text.startswith("NSpid:"))
                inside[int(line.split()[-1])] = int(entry)
        except OSError:
            pass
    return inside


def daemon_pid(name):
    """A daemon's pid as seen from here; raises TestbedError when it doesn't run."""
    inner = daemons()[name]["pid"]
    outer = processes().get(inner)
    if outer is None:
        raise TestbedError(f"{name} doesn't run")
    return outer


def vm_pid(port, server=None):
    """The pid, as seen from here, of the QEMU of a port's PVM, on `server` if given: a PVM that is
    being moved has one on two servers. None without one."""
    where = os.stat(f"{lab.NETNS_DIR}/{server.ns}").st_ino if server else None
    for pid in processes().values():
        try:
            if where and os.stat(f"/proc/{pid}/ns/net").st_ino != where:
                continue
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                argv = file.read().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in argv[0] and b"-name" in argv:
            guest = argv[argv.index(b"-name") + 1].decode()
            if guest.removeprefix("guest=").split(",")[0] == f"pvm-{port}":
                return pid
    return None


def start_supervisor():
    """Starts the PID namespace in which everything else runs."""
    lab.share_namespaces()
    os.makedirs(LOGS)
    made = [path for path in FIXED_DIRS if not os.path.isdir(path)]
    _write_owner({"made": made})
    for path in made:
        os.makedirs(path)
    with open(f"{LOGS}/supervisor.log", "ab") as log:
        keeper = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "slave",
             "--mount-proc", sys.executable, "-B", "-m", "bed.supervisor", SOCKET, LOGS],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            env={**os.environ, MARK: topo.RUN, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    _write_owner({"made": made, "keeper": keeper.pid,
                  "keeper_started": lab.start_time(keeper.pid)})

    def init_pid():
        with open(f"/proc/{keeper.pid}/task/{keeper.pid}/children", encoding="utf-8") as file:
            children = file.read().split()
        return int(children[0]) if children and os.path.exists(SOCKET) else None

    init = lab.wait_until(init_pid, 10, "the supervisor runs")
    _write_owner({"made": made, "keeper": keeper.pid,
                  "keeper_started": lab.start_time(keeper.pid),
                  "init": init, "init_started": lab.start_time(init)})


def _write_owner(record):
    with open(OWNER + ".new", "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(OWNER + ".new", OWNER)


# ---- namespaces and links ------------------------------------------------------------------


def make_namespaces(names=topo.NAMESPACES):
    """Makes them, without IPv6 where only switches live (they would chatter)."""
    for name in names:
        run(None, ["ip", "netns", "add", name])
        switch_only = name in (topo.P_NS, *(s.ns for s in topo.SITES + topo.SERVERS),
                               *(s.management_ns for s in topo.SITES))
        run(name, ["sh", "-ec", "ip link set lo up; cd /proc/sys/net/ipv6/conf;"
                   " for c in all default; do echo 0 >$c/accept_dad;"
                   f" echo {int(switch_only)} >$c/disable_ipv6; done"])


def link(ns1, if1, ns2, if2, mtu):
    """A veth pair, up, with all offloads off (userspace switches need whole checksums)."""
    run(None, ["ip", "link", "add", "name", if1, "netns", ns1, "mtu", mtu, "type", "veth",
               "peer", "name", if2, "netns", ns2, "mtu", mtu])
    for ns, name in ((ns1, if1), (ns2, if2)):
        run(ns, ["sh", "-ec", f"ethtool -K {name} tx off rx off sg off tso off gso off gro off;"
                 f" ip link set dev {name} up"])


def link_server(site, server):
    """A server's trunk, and its link to the site's management network."""
    link(site.ns, server.trunk, server.ns, "trunk", topo.BACKBONE_MTU)
    link(site.management_ns, server.name, server.ns, "management", 1500)
    run(site.management_ns, ["ip", "link", "set", "dev", server.name, "master", "servers"])
    run(server.ns, ["ip", "addr", "add", f"{server.address}/{topo.MANAGEMENT_BITS}",
                    "dev", "management"])


def make_links():
    """Customer links, core links, trunks and management networks."""
    for site in topo.SITES:
        link(site.ns, "core", topo.P_NS, f"link-{site.name}", topo.BACKBONE_MTU)
        link(topo.P_NS, f"pe-{site.name}", topo.CORE_NS, f"pe-{site.name}", topo.BACKBONE_MTU)
        run(site.management_ns, ["ip", "link", "add", "name", "servers", "up", "type", "bridge"])
        for server in site.servers:
            link_server(site, server)
        for edge in topo.CES:
            if edge.site == site.name:
                link(site.ns, edge.switch_port, edge.ns, "pe", 1500)


# ---- down ----------------------------------------------------------------------------------


def down():
    """Ends every process, removes every namespace and file. Safe to repeat, and after any
    interruption. Raises TestbedError if something resists."""
    owner = _owner()
    for role in ("init", "keeper"):
        pid, started = owner.get(role), owner.get(f"{role}_started")
        if pid and started is not None and lab.start_time(pid) == started:
            lab.end_processes(lambda p=pid, s=started: [p] if lab.start_time(p) == s else [])
    left = lab.end_processes(
        lambda: lab.marked_processes(f"{MARK}={topo.RUN}",
                                     topo.NAMESPACES + topo.LATER_NAMESPACES)
    )
    if left:
        raise TestbedError(f"processes {left} can't be ended")
    for name in topo.NAMESPACES + topo.LATER_NAMESPACES:
        if os.path.exists(f"{lab.NETNS_DIR}/{name}"):
            run(None, ["ip", "netns", "del", name])
    if os.path.isdir(topo.RUN):
        lab.unmount_below(topo.RUN)
        shutil.rmtree(topo.RUN)
    if glob.glob("/run/edgeplex-testbed*"):
        return  # another testbed's mounts need the fixed directories
    for path in owner.get("made", []):
        try:
            os.rmdir(path)
        except OSError:
            pass  # somebody else uses it by now
