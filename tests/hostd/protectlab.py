# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that is protected: two servers' hostds, a bridge that stands for the edge switch, and a peer
that has sessions with the VM (tests/hostd/guest_load.c)."""

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
import uuid

from hostlab import BUILD, IMAGE, MEM_KIB, Certificates, Hostd, RpcError, Vm
from lib.lab import wait_until

GUEST, PEER = "10.77.0.2", "10.77.0.1"


def make_initrd(lab):
    """The image's, with guest_load in the place of cvmd."""
    root, whole = f"{lab.dir}/load.root", f"{lab.dir}/load.cpio"
    os.makedirs(f"{root}/sbin")
    lab.run(None, ["cp", f"{BUILD}/tests/hostd/guest_load", f"{root}/sbin/cvmd"])
    lab.run(None, ["lz4", "-q", "-d", "-f", f"{IMAGE}/initramfs.img", whole])
    with open(whole, "ab") as file:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "+0:+0"], cwd=root, check=True,
                       input=b"sbin/cvmd\n", stdout=file)
    return whole


def wait_news(hostd, wanted, limit_s=20):
    """The next notification of a hostd that is `wanted`."""

    def found():
        hostd.call("hostd.info")  # notifications come in with the answer
        news, hostd.rpc.news = hostd.rpc.news, []
        return next((n for n in news if wanted(n)), None)

    return wait_until(found, limit_s, "the notification")


class Session:
    """A TCP session with the VM, of which every byte is checked as it comes."""

    CHUNK = 512

    def __init__(self, lab, ns):
        with lab_namespace(ns):
            self.socket = socket.create_connection((GUEST, 7000), timeout=20)
        self.socket.settimeout(20)
        self.sent = self.checked = 0
        self.error, self.longest_s = None, 0.0
        self._end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _exchange(self):
        data = os.urandom(self.CHUNK)
        begin = time.monotonic()
        self.socket.sendall(data)
        got = b""
        while len(got) < len(data):
            more = self.socket.recv(len(data) - len(got))
            if not more:
                raise EOFError("the VM closed the session")
            got += more
        for i, (sent, received) in enumerate(zip(data, got)):
            wanted = sent ^ ((self.checked + i) * 2654435761 & 0xFFFFFFFF) >> 24
            if received != wanted:
                raise AssertionError(f"byte {self.checked + i} is wrong")
        self.checked += len(data)
        self.longest_s = max(self.longest_s, time.monotonic() - begin)

    def _run(self):
        try:
            while not self._end.is_set():
                self._exchange()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def goes_on(self, limit_s=30):
        """Bytes sent from now on come back right."""
        begin = self.checked

        def more():
            if self.error:
                raise AssertionError(f"the session ended: {self.error!r}")
            return self.checked > begin + 2 * self.CHUNK

        deadline = time.monotonic() + limit_s
        while not more():
            assert time.monotonic() < deadline, f"nothing came for {limit_s} s after {self.checked} bytes"
            self._end.wait(0.01)

    def close(self):
        self._end.set()
        self.thread.join(30)
        self.socket.close()
        assert self.error is None, self.error


class Sequence:
    """Numbered datagrams from the VM: which came, in which order, and when."""

    def __init__(self, ns, every_us):
        with lab_namespace(ns):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind((PEER, 0))
        self.socket.settimeout(0.2)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.came = []  # (time, number)
        self.order = struct.pack(">I", every_us)
        self._end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.came, 20, "datagrams come")

    def _run(self):
        while not self._end.is_set():
            if not self.came:
                self.socket.sendto(self.order, (GUEST, 7001))
            try:
                data = self.socket.recv(64)
            except TimeoutError:
                continue
            self.came.append((time.monotonic(), struct.unpack(">Q", data)[0]))

    def numbers(self):
        return [number for _, number in self.came]

    def close(self):
        self.socket.sendto(struct.pack(">I", 0), (GUEST, 7001))
        self._end.set()
        self.thread.join(5)
        self.socket.close()


class lab_namespace:  # pylint: disable=invalid-name
    """Sockets made inside live in a network namespace; this thread comes back afterwards."""

    def __init__(self, ns):
        self.ns = ns

    @staticmethod
    def _enter(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) < 0:
                raise OSError(ctypes.get_errno(), path)
        finally:
            os.close(fd)

    def __enter__(self):
        self.own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        self.back = os.open(self.own, os.O_RDONLY)
        self._enter(f"/run/netns/{self.ns}")

    def __exit__(self, *_exc):
        self._enter(f"/proc/self/fd/{self.back}")
        os.close(self.back)


class Protected:
    """A VM on server A, one that waits on server B, on one bridge with the peer."""

    def __init__(self, lab, watched=True, mem_kib=MEM_KIB):
        self.lab, self.ns = lab, lab.netns("sw")
        self.watched, self.mem_kib = watched, mem_kib
        lab.run(self.ns, ["ip", "link", "set", "lo", "up"])
        self.certificates = Certificates(lab)
        for name in ("hostd-a", "hostd-b"):
            self.certificates.issue(name)
        self.a = Hostd(lab, self.ns, "hostd-a", 7001)
        self.b = Hostd(lab, self.ns, "hostd-b", 7002)
        self.make_network()
        self.uuid = str(uuid.uuid4())
        self.made, self.primary, self.standby = 0, None, None
        self.boot()

    def make_network(self):
        """What there is besides the VM."""
        for argv in (["link", "add", "br0", "type", "bridge"], ["addr", "add", f"{PEER}/24", "dev", "br0"],
                     ["link", "set", "br0", "up"]):
            self.lab.run(self.ns, ["ip", *argv])
        self.vm_options = {"initrd": make_initrd(self.lab), "append": f"load.address={GUEST}"}
        self.bridges = ["br0"]

    def _vm(self, incoming):
        taps = [f"t{self.made}n{i}" for i in range(len(self.bridges))]
        self.made += 1
        for tap, bridge in zip(taps, self.bridges):
            self.lab.run(self.ns, ["ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr"])
            self.lab.run(self.ns, ["ip", "link", "set", tap, "master", bridge, "up"])
        vm = Vm(self.lab, f"vm-{self.made}", incoming=incoming, watched=self.watched, mem_kib=self.mem_kib,
                ns=self.ns, taps=taps, **self.vm_options)
        vm.taps = taps
        return vm

    def end_vm(self, vm):
        if vm is not None:
            vm.end()
            for tap in vm.taps:
                self.lab.run(self.ns, ["ip", "link", "del", tap], check=False)

    def boot(self):
        """A fresh primary."""
        self.end_vm(self.primary)
        self.primary = self._vm(False)
        self.primary.wait_up()
        with lab_namespace(self.ns):
            wait_until(lambda: socket.create_connection((GUEST, 7000), timeout=2).close() or True, 30,
                       "the VM's server answers")

    def close(self):
        for vm in (self.primary, self.standby):
            self.end_vm(vm)

    def prepare(self, **params):
        """A fresh standby; returns the ticket."""
        self.end_vm(self.standby)
        self.standby = self._vm(True)
        return self.b.call("receive.prepare", uuid=self.uuid, qmp_path=self.standby.qmp, **params)["ticket"]

    def protect(self, limit_s=60, **params):
        """Begins, and waits until some epochs are whole."""
        ticket = params.pop("ticket", None) or self.prepare()
        self.a.call("protect.start", uuid=self.uuid, qmp_path=self.primary.qmp,
                    to={"address": self.b.address, "ticket": ticket}, **params)
        return self.wait("protected", limit_s)

    def status(self):
        return self.a.call("protect.status", uuid=self.uuid)

    def standby_status(self):
        copies = self.b.call("move.status", uuid=self.uuid)["copies"]
        return next(c for c in copies if c["role"] == "destination")

    def wait(self, state, limit_s=30):
        return wait_until(lambda: (lambda s: s if s["state"] == state else None)(self.status()), limit_s,
                          f"the VM is {state}", interval_s=0.01)

    def wait_epochs(self, n, limit_s=60):
        end = self.status()["epoch"] + n
        return wait_until(lambda: (lambda s: s if s["epoch"] >= end else None)(self.status()), limit_s,
                          f"epoch {end}")

    def fence(self, vm):
        for tap in vm.taps:
            self.lab.run(self.ns, ["ip", "link", "set", tap, "nomaster"], check=False)

    def activate(self):
        return self.b.call("standby.activate", uuid=self.uuid, fenced=True)

    def swap(self):
        """After a failover: what was the standby is the primary to be protected next."""
        self.b.call("move.finish", uuid=self.uuid)
        try:
            self.a.call("protect.stop", uuid=self.uuid)
        except (RpcError, OSError, EOFError):
            pass  # its hostd was restarted
        self.end_vm(self.primary)
        self.primary, self.standby = self.standby, None
        self.a, self.b = self.b, self.a

    def dirty(self, pages_per_s, bytes_each=64):
        """Has the VM write to its memory from now on."""
        with lab_namespace(self.ns):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(1)

        def order():
            sock.sendto(struct.pack(">II", pages_per_s, bytes_each), (GUEST, 7002))
            return sock.recv(64)

        wait_until(order, 20, "the VM takes the order")
        sock.close()
