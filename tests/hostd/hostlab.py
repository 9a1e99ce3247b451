# SPDX-License-Identifier: GPL-2.0-or-later
"""Two servers' hostds and a VM on each, in a Lab: the one runs, the other waits for its state."""

import json
import os
import socket
import sys
import uuid

from lib.lab import wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{TOP}/tests/image")
from guest import Channel  # noqa: E402  pylint: disable=wrong-import-position

BUILD = os.path.join(TOP, os.environ.get("B", "build"))
IMAGE = f"{BUILD}/image"
HOSTD = f"{BUILD}/edgeplex-hostd"
PRELOAD = os.path.abspath(f"{BUILD}/libedgeplex-wp.so")
MEM_KIB = 131080  # not a multiple of 256 KiB
BOOT_LIMIT_S = 90
CALL_LIMIT_S = 30


class RpcError(Exception):
    """hostd answered with an error."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.code = error["code"]
        self.field = error.get("data", {}).get("field")


class Rpc:
    """A connection to a JSON-RPC socket; keeps the notifications."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(CALL_LIMIT_S)
        self.rest, self.last_id, self.news = b"", 0, []

    def close(self):
        self.socket.close()

    def _line(self):
        while b"\n" not in self.rest:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("connection closed")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def ask(self, method, params):
        self.last_id += 1
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params}
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        return self.last_id

    def answer(self, request_id):
        while True:
            message = self._line()
            if "method" in message:
                self.news.append(message["params"])
            elif message.get("id") == request_id:
                if "error" in message:
                    raise RpcError(message["error"])
                return message["result"]

    def call(self, method, **params):
        return self.answer(self.ask(method, params))


class Qmp:
    """A QEMU monitor, for the test's own questions."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(CALL_LIMIT_S)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            message = json.loads(self.file.readline())
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(message["error"]["desc"])


class Certificates:
    """A CA and what it signs; a second CA that nobody trusts."""

    def __init__(self, lab):
        self.lab = lab
        for ca in ("ca", "other-ca"):
            self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                          "-nodes", "-days", "2", "-subj", f"/CN={ca}", "-keyout", self.path(f"{ca}.key"),
                          "-out", self.path(f"{ca}.pem"))

    def path(self, name):
        return f"{self.lab.dir}/{name}"

    def _openssl(self, *argv):
        self.lab.run(None, ["openssl", *argv])

    def issue(self, name, ca="ca"):
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-subj", f"/CN={name}", "-keyout", self.path(f"{name}.key"),
                      "-out", self.path(f"{name}.csr"))
        self._openssl("x509", "-req", "-in", self.path(f"{name}.csr"), "-CA", self.path(f"{ca}.pem"),
                      "-CAkey", self.path(f"{ca}.key"), "-CAcreateserial", "-days", "2",
                      "-out", self.path(f"{name}.pem"))


class Hostd:
    """One server's hostd. May be killed and started again."""

    def __init__(self, lab, ns, name, port, ca="ca", options=()):
        self.lab, self.ns, self.name, self.address = lab, ns, name, f"127.0.0.1:{port}"
        self.socket_path, self.run_dir = f"{lab.dir}/{name}.sock", f"{lab.dir}/{name}.run"
        self.argv = [HOSTD, "--socket", self.socket_path, "--listen", self.address,
                     "--cert", f"{lab.dir}/{name}.pem", "--key", f"{lab.dir}/{name}.key",
                     "--ca", f"{lab.dir}/{ca}.pem", "--run-dir", self.run_dir,
                     "--log-level", "debug", *options]
        self.lives = 0
        self.start()

    def start(self):
        self.lives += 1
        self.process = self.lab.spawn(self.ns, self.argv, f"{self.name}-{self.lives}")

        def connect():
            if self.process.poll() is not None:
                raise AssertionError(f"hostd ended: {self.log()}")
            return Rpc(self.socket_path)

        self.rpc = wait_until(connect, 30, f"{self.name} listens")

    def log(self):
        return "".join(self.lab.log(f"{self.name}-{i + 1}") for i in range(self.lives))

    def call(self, method, **params):
        return self.rpc.call(method, **params)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.rpc.close()


class Vm:
    """QEMU as libvirt would start it: memory in a shared file, a second monitor, no network.

    `nameless`: QEMU is told a directory for its memory, and removes the file's name at once.
    `taps`: what its first NICs are; `ns`: where these are. `initrd`, `append`: instead of the image's,
    and for the kernel's command line.
    """

    def __init__(self, lab, name, incoming=False, watched=True, role="cvm", mem_kib=MEM_KIB, nameless=False,
                 ns=None, taps=(), initrd=f"{IMAGE}/initramfs.img", append=""):
        self.lab, self.name = lab, name
        self.ram = "/dev/shm" if nameless else f"/dev/shm/edgeplex-{lab.id}-{name}.ram"
        self.qmp = f"{lab.dir}/{name}.qmp"
        self.monitor_path = f"{lab.dir}/{name}.mon"
        self.channel_path = f"{lab.dir}/{name}.ctl"
        with open(f"{IMAGE}/cmdline.{role}", encoding="utf-8") as file:
            cmdline = f"{file.read().strip()} edgeplex.name=moved {append}"
        argv = [
            "nice", "qemu-system-x86_64", "-accel", "tcg,tb-size=32", "-cpu", "max",
            "-machine", "q35,memory-backend=mem0,suppress-vmdesc=on", "-m", f"size={mem_kib}k",
            "-object", f"memory-backend-file,id=mem0,size={mem_kib}k,mem-path={self.ram},share=on",
            "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", f"{IMAGE}/vmlinuz", "-initrd", initrd, "-append", cmdline,
            "-serial", f"file:{lab.dir}/{name}.console",
            "-qmp", f"unix:{self.qmp},server=on,wait=off",
            "-qmp", f"unix:{self.monitor_path},server=on,wait=off",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=ctl,path={self.channel_path},server=on,wait=off",
            "-device", "virtserialport,chardev=ctl,name=org.edgeplex.ctl.0",
        ]
        for i in range(2):
            backend = f"tap,ifname={taps[i]},script=no,downscript=no" if i < len(taps) else f"hubport,hubid={i}"
            argv += ["-netdev", f"{backend},id=n{i}", "-device", f"virtio-net-pci,netdev=n{i},id=net{i},romfile="]
        if incoming:
            argv += ["-S", "-incoming", "defer"]
        env = {"LD_PRELOAD": PRELOAD, "EDGEPLEX_WP_RAM": self.ram} if watched else None
        self.process = lab.spawn(ns, argv, name, env=env)
        self.monitor = wait_until(lambda: Qmp(self.monitor_path), 20, "QEMU answers")

    def end(self):
        self.process.kill()
        self.process.wait()
        if os.path.isfile(self.ram):
            os.unlink(self.ram)

    def status(self):
        return self.monitor("query-status")["status"]

    def capability(self, name):
        return {c["capability"]: c["state"] for c in self.monitor("query-migrate-capabilities")}[name]

    def ask(self, method, limit_s=2, **params):
        with Channel(self.channel_path) as channel:
            channel.socket.settimeout(limit_s)
            return channel.call(method, **params)

    def wait_up(self):
        return wait_until(lambda: self.ask("guest.info"), BOOT_LIMIT_S, "the VM answers")

    def facts(self):
        """What must not change by a move, and what must only grow."""
        info = self.ask("guest.info", 10)
        processes = self.ask("guest.processes", 10)
        same = {"name": info["name"], "image": info["image"],
                "processes": sorted((p["name"], p["pid"], p["restarts"]) for p in processes)}
        return same, info["uptime_ms"], {p["name"]: p["cpu_ms"] for p in processes}


class Pair:
    """Everything that a move needs, up and running."""

    def __init__(self, lab, watched=True, mem_kib=MEM_KIB, nameless=False):
        self.nameless = nameless
        self.lab, self.ns = lab, lab.netns("hostd")
        lab.run(self.ns, ["ip", "link", "set", "lo", "up"])
        self.certificates = Certificates(lab)
        for name in ("hostd-a", "hostd-b"):
            self.certificates.issue(name)
        self.a = Hostd(lab, self.ns, "hostd-a", 7001)
        self.b = Hostd(lab, self.ns, "hostd-b", 7002)
        self.watched, self.mem_kib = watched, mem_kib
        self.source = Vm(lab, "vm-0", watched=watched, mem_kib=mem_kib, nameless=nameless)
        self.moves = 0
        self.target = None
        self.uuid = str(uuid.uuid4())
        self.source.wait_up()

    def close(self):
        for vm in (self.source, self.target):
            if vm is not None:
                vm.end()

    def new_target(self):
        """A fresh QEMU that waits for a state."""
        if self.target is not None:
            self.target.end()
        self.moves += 1
        self.target = Vm(self.lab, f"vm-{self.moves}", incoming=True, watched=self.watched,
                         mem_kib=self.mem_kib, nameless=self.nameless)
        return self.target

    def prepare(self):
        target = self.new_target()
        return self.b.call("receive.prepare", uuid=self.uuid, qmp_path=target.qmp, **self.memory(target))

    def memory(self, vm):
        """Where its memory is, as hostd is told: it can also find out."""
        return {} if self.nameless else {"ram_path": vm.ram}

    def start(self, engine="auto", silence_ms=30000, **params):
        ticket = params.pop("ticket", None) or self.prepare()["ticket"]
        address = params.pop("address", self.b.address)
        return self.a.call("move.start", uuid=self.uuid, **self.memory(self.source),
                           qmp_path=self.source.qmp, engine=engine, silence_ms=silence_ms,
                           to={"address": address, "ticket": ticket}, **params)

    def freeze(self, **params):
        return self.a.call("move.freeze", uuid=self.uuid, **params)

    def side(self, hostd, role):
        copies = hostd.call("move.status", uuid=self.uuid)["copies"]
        return next(c for c in copies if c["role"] == role)

    def source_state(self):
        return self.side(self.a, "source")

    def target_state(self):
        return self.side(self.b, "destination")

    def wait_source(self, state, limit_s=30):
        return wait_until(lambda: (lambda s: s if s["state"] == state else None)(self.source_state()),
                          limit_s, f"the source is {state}")

    def wait_target(self, state, limit_s=30):
        return wait_until(lambda: (lambda s: s if s["state"] == state else None)(self.target_state()),
                          limit_s, f"the destination is {state}")

    def same_memory(self):
        """Both files, byte by byte. Both VMs must stand still."""
        with open(self.source.ram, "rb") as a, open(self.target.ram, "rb") as b:
            while True:
                x, y = a.read(1 << 20), b.read(1 << 20)
                if x != y:
                    return False
                if not x:
                    return True

    def swap(self):
        """After a move: what was the destination is the next one's source."""
        for hostd in (self.a, self.b):
            hostd.call("move.finish", uuid=self.uuid)
        self.source.end()
        self.source, self.target = self.target, None
        self.a, self.b = self.b, self.a
