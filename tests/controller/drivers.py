# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the controller's drivers share: the drivers' shell, Open vSwitch, frames."""

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import time
import uuid

from lib.lab import wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHELL = f"{TOP}/{os.environ.get('B', 'build')}/tests/controller/drivers_shell"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
SWITCHD = "/usr/lib/openvswitch-switch/ovs-vswitchd"
if not os.path.exists(SWITCHD):
    SWITCHD = "ovs-vswitchd"


class DriverError(RuntimeError):
    """A driver answered with an errno."""

    def __init__(self, answer):
        super().__init__(f"{os.strerror(answer['error'])}: {answer['why']}")
        self.errno, self.why, self.answer = answer["error"], answer["why"], answer


class Drivers:
    """A drivers_shell process: `drivers("fabric_open", target=…)` returns its answer."""

    _count = 0

    def __init__(self, lab, ns=None):
        Drivers._count += 1
        read_end, write_end = os.pipe()
        self._seen = []
        # lab.spawn() has no standard input to give: the shell gets a FIFO by name.
        fifo = f"{lab.dir}/shell{Drivers._count}.in"
        os.mkfifo(fifo)
        self.process = lab.spawn(
            ns, ["sh", "-c", f"exec {SHELL} < {fifo}"], name=f"shell{Drivers._count}",
            stdout=write_end)
        os.close(write_end)
        self._in = open(fifo, "w", encoding="utf-8")
        self._out = os.fdopen(read_end, "rb", buffering=0)
        self._buffer = b""

    def _line(self, limit_s):
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._out], [], [], left)[0]:
                raise TimeoutError(f"the drivers' shell said nothing for {limit_s} s")
            data = self._out.read(65536)
            if not data:
                raise RuntimeError(f"the drivers' shell ended: {self.process.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def __call__(self, what, limit_s=60, **parameters):
        self._in.write(json.dumps({"do": what, **parameters}) + "\n")
        self._in.flush()
        answer = json.loads(self._line(limit_s))
        if answer["error"]:
            raise DriverError(answer)
        return answer

    def error(self, what, **parameters):
        """Calls what must fail, and returns the error."""
        try:
            answer = self(what, **parameters)
        except DriverError as exc:
            return exc
        raise AssertionError(f"{what} should have failed: {answer}")

    def wait_event(self, kind, text="", limit_s=20):
        """Waits for an event of this kind that has `text` in it; forgets it and those before."""
        def look():
            self._seen += self("events")["events"]
            for i, event in enumerate(self._seen):
                if event["kind"] == kind and text in event["text"]:
                    del self._seen[:i + 1]
                    return event["text"] or kind
            return None
        return wait_until(look, limit_s, f"event {kind} {text}")

    def forget_events(self):
        """Drops what happened so far."""
        self("events")
        self._seen.clear()

    def close(self):
        """Ends the shell in order; it must succeed."""
        self._in.close()
        assert self.process.wait(timeout=20) == 0
        self._out.close()


class Switch:
    """An Open vSwitch of its own in a namespace: userspace datapath, default deny."""

    def __init__(self, lab, ns, name):
        self.lab, self.ns, self.dir, self.name = lab, ns, f"{lab.dir}/{name}", name
        os.mkdir(self.dir)
        self.env = {key: self.dir for key in
                    ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}
        lab.run(None, ["ovsdb-tool", "create", f"{self.dir}/conf.db", SCHEMA], env=self.env)
        self.db = lab.spawn(
            ns, ["ovsdb-server", f"{self.dir}/conf.db", f"--remote=punix:{self.dir}/db.sock",
                 f"--unixctl={self.dir}/ovsdb.ctl", "-vconsole:warn", "-vsyslog:off"],
            name=f"{name}-ovsdb", env=self.env)
        wait_until(lambda: os.path.exists(f"{self.dir}/db.sock"), 20, "ovsdb-server listens")
        self.vsctl("--no-wait", "init")
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".",
                   "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1")
        self.starts = 0
        self.process = None
        self.start()

    def start(self):
        """Starts (again) the switch daemon; its flow table is empty."""
        self.starts += 1
        self.process = self.lab.spawn(
            self.ns, [SWITCHD, f"unix:{self.dir}/db.sock", f"--unixctl={self.dir}/vswitchd.ctl",
                      "-vconsole:warn", "-vsyslog:off"],
            name=f"{self.name}-vswitchd{self.starts}", env=self.env)
        wait_until(lambda: self.vsctl("get", "Open_vSwitch", ".", "ovs_version") and
                   os.path.exists(f"{self.dir}/vswitchd.ctl"), 20, "ovs-vswitchd runs")

    def kill(self):
        """Kills the switch daemon."""
        self.process.kill()
        self.process.wait()

    def vsctl(self, *args):
        """Runs ovs-vsctl."""
        return self.lab.run(
            None, ["ovs-vsctl", f"--db=unix:{self.dir}/db.sock", "--timeout=30", *args])

    def ofctl(self, *args, **kwargs):
        """Runs ovs-ofctl with OpenFlow 1.4."""
        return self.lab.run(None, ["ovs-ofctl", "-O", "OpenFlow14", *args], env=self.env, **kwargs)

    def add_bridge(self, bridge, ports, secure=True):
        """Makes a bridge and returns its OpenFlow target."""
        args = ["--", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev",
                f"fail_mode={'secure' if secure else 'standalone'}",
                "protocols=OpenFlow13,OpenFlow14,OpenFlow15", "other_config:disable-in-band=true"]
        for port in ports:
            args += ["--", "add-port", bridge, port]
        self.vsctl(*args)
        return f"unix:{self.dir}/{bridge}.mgmt"

    def forget_decisions(self):
        """Empties the cache of decisions: what comes next is decided by the flow table as it is."""
        self.lab.run(None, ["ovs-appctl", "-t", f"{self.dir}/vswitchd.ctl", "revalidator/purge"])

    def flows(self, bridge):
        """The flow table as ovs-ofctl shows it, one flow a line."""
        text = self.ofctl("dump-flows", bridge)
        return [line.strip() for line in text.splitlines() if "cookie=" in line]


@contextlib.contextmanager
def inside(ns):
    """Sockets made by this thread meanwhile belong to namespace `ns`, and stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as own, open(f"/run/netns/{ns}", "rb") as other:
        def enter(file):
            if libc.setns(file.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), "setns")
        enter(other)
        try:
            yield
        finally:
            enter(own)


SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
TP_STATUS_VLAN_VALID = 0x10


class Wires:
    """The far ends of a switch's ports, all in one namespace: frames go in, frames come out."""

    def __init__(self, ns, interfaces):
        self.sockets = {}
        with inside(ns):
            for name in interfaces:
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                sock.bind((name, 0))
                sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
                sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
                sock.setblocking(False)
                self.sockets[name] = sock

    def send(self, interface, frame):
        """Puts a frame (bytes) on the wire towards the switch."""
        self.sockets[interface].send(frame)

    def receive(self, limit_s):
        """The next frames that came out of the switch: [(interface, vlan, bytes)]."""
        names = {sock: name for name, sock in self.sockets.items()}
        frames = []
        for sock in select.select(list(names), [], [], limit_s)[0]:
            data, ancillary, _flags, _address = sock.recvmsg(65536, 128)
            vlan = 0
            for level, kind, value in ancillary:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status, tci = struct.unpack_from("=I12xH", value)
                    if status & TP_STATUS_VLAN_VALID:
                        vlan = tci & 0xfff
            frames.append((names[sock], vlan, data))
        return frames

    def close(self):
        """Closes the sockets."""
        for sock in self.sockets.values():
            sock.close()


LIBVIRTD_CONF = """auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
host_uuid = "{uuid}"
log_outputs = "3:stderr"
"""
QEMU_CONF = """security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
clear_emulator_capabilities = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"""
# Programs expect their directories at fixed places: this server's are mounted there, in a /run and a
# /var that go with the process, so that nothing is left on the machine. The lab's own files stay, and
# so does this repository, wherever it lies.
MOUNTS = """set -e
hostname {name}
mount --bind {dir}/passwd /etc/passwd
mount --bind {dir}/group /etc/group
mount --bind {dir}/etc /etc/libvirt
mkdir -p {dir}/top
mount --bind {top} {dir}/top
mount -t tmpfs none /var
mkdir -p /var/lab /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --rbind {lab} /var/lab
mount -t tmpfs none /run
mkdir -p {lab} /run/openvswitch /run/libvirt /run/lock /run/ram
mount --rbind /var/lab {lab}
mkdir -p {top}
mount --bind {dir}/top {top}
ln -s /run /var/run
ln -s /run/lock /var/lock
mount --bind {ovs} /run/openvswitch
mount --bind {dir}/run /run/libvirt
mount --bind {dir}/lib /var/lib/libvirt
mount --bind {dir}/cache /var/cache/libvirt
mount --bind {dir}/log /var/log/libvirt
exec libvirtd --pid-file /run/libvirt/libvirtd.pid
"""


class Server:
    """An emulated server: a namespace, a bridge and a libvirtd that sees only its own files."""

    def __init__(self, lab, name):
        self.lab, self.name, self.dir = lab, name, f"{lab.dir}/{name}"
        self.ns = lab.netns(name)
        self.switch = Switch(lab, self.ns, f"{name}-ovs")
        self.switch.add_bridge("br0", [], secure=False)
        for part in ("run", "lib", "cache", "log", "etc/qemu"):
            os.makedirs(f"{self.dir}/{part}")
        files = {"etc/libvirtd.conf": LIBVIRTD_CONF.format(uuid=uuid.uuid4()),
                 "etc/qemu.conf": QEMU_CONF}
        # libvirt's QEMU driver won't start without this user.
        for file, line in (("passwd", "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/bin/false\n"),
                           ("group", "libvirt-qemu:x:64055:\n")):
            with open(f"/etc/{file}", encoding="utf-8") as original:
                text = original.read()
            files[file] = text if "libvirt-qemu:" in text else text + line
        for file, text in files.items():
            with open(f"{self.dir}/{file}", "w", encoding="utf-8") as out:
                out.write(text)
        self.starts = 0
        self.process = None
        self.start()

    @property
    def uri(self):
        """Where its libvirt listens."""
        return f"qemu:///system?socket={self.dir}/run/libvirt-sock"

    def start(self):
        """Starts libvirtd (again)."""
        self.starts += 1
        self.process = self.lab.spawn(
            self.ns, ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c",
                      MOUNTS.format(name=self.name, dir=self.dir, ovs=self.switch.dir,
                                    lab=self.lab.dir, top=TOP)],
            name=f"{self.name}-libvirtd{self.starts}")

    def virsh(self, *args):
        """Runs virsh."""
        return self.lab.run(None, ["virsh", "-q", "-c", self.uri, *args])

    def qemu_pids(self):
        """Pids of the VMs of this server."""
        found = []
        here = os.stat(f"/run/netns/{self.ns}").st_ino
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino == here:
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        command = file.read().split(b"\0")
                    if b"qemu-system" in command[0]:
                        found.append((int(entry), [part.decode() for part in command]))
            except OSError:
                pass
        return found
