# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the guest image under plain QEMU, and talks over its channel."""

import json
import os
import re
import select
import socket
import time

from scapy.layers.l2 import Ether

from lib.lab import wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGE = os.path.join(TOP, os.environ.get("B", "build"), "image")
BOOT_LIMIT_S = 60
CALL_LIMIT_S = 20


class RpcError(Exception):
    """The guest answered a request with an error."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.code, self.field = error["code"], error.get("data", {}).get("field")


class Channel:
    """The host's side of the channel; one connection."""

    _last_id = 0

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        # QEMU serves one connection at a time: this may wait until it sees the last one closed.
        self.socket.connect(path)
        self.socket.settimeout(CALL_LIMIT_S)
        self.rest = b""
        self.early = {}  # answers that came in while another one was waited for
        self.send("")  # ends what an earlier connection left half said

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.close()

    def send(self, line):
        self.socket.sendall((line if isinstance(line, bytes) else line.encode()) + b"\n")

    def line(self):
        """The next message, parsed."""
        while b"\n" not in self.rest:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("QEMU closed the channel")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def ask(self, method, params=None):
        """Sends a request; returns its id."""
        Channel._last_id += 1
        message = {"jsonrpc": "2.0", "id": Channel._last_id, "method": method}
        if params is not None:
            message["params"] = params
        self.send(json.dumps(message))
        return Channel._last_id

    def answer(self, request_id):
        """Waits for the answer to a request; keeps those to others, skips notifications."""
        while request_id not in self.early:
            message = self.line()
            if "method" not in message:
                self.early[message["id"]] = message
        message = self.early.pop(request_id)
        if "error" in message:
            raise RpcError(message["error"])
        return message["result"]

    def call(self, method, **params):
        return self.answer(self.ask(method, params))


class Wire:
    """The other end of a VM's NIC: whole frames in and out."""

    def __init__(self, vm, nic):
        self.path, self.peer = vm.wire_path(nic), vm.wire_path(nic) + ".vm"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.socket.close()
        os.unlink(self.path)

    def send(self, packet):
        self.socket.sendto(bytes(packet), self.peer)

    def drain(self):
        """Forgets what has arrived."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(65536)

    def expect(self, match, limit_s=10, what="a frame"):
        """The first arriving frame that `match` accepts."""
        deadline = time.monotonic() + limit_s
        seen = []
        while select.select([self.socket], [], [], max(0, deadline - time.monotonic()))[0]:
            packet = Ether(self.socket.recv(65536))
            if match(packet):
                return packet
            seen.append(packet.summary())
        raise AssertionError(f"{what} didn't come within {limit_s} s; seen: {seen[-10:]}")


class Guest:
    """A VM of the image with the two NICs of its role; the other end of each may be a Wire."""

    def __init__(self, lab, role, name="vm", initramfs=None):
        self.lab, self.name = lab, name
        self.channel_path = f"{lab.dir}/{name}.ctl"
        with open(f"{IMAGE}/cmdline.{role}", encoding="utf-8") as file:
            cmdline = f"{file.read().strip()} edgeplex.name={name}"
        argv = [
            "qemu-system-x86_64", "-accel", "tcg,tb-size=32", "-cpu", "max", "-machine", "q35",
            # Not a multiple of 256 KiB: TCG's dirty tracking would be wrong.
            "-m", "size=131080k", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", f"{IMAGE}/vmlinuz", "-initrd", initramfs or f"{IMAGE}/initramfs.img",
            "-append", cmdline,
            "-device", "intel-iommu,caching-mode=on,device-iotlb=on",
            "-serial", "stdio",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=ctl,path={self.channel_path},server=on,wait=off",
            "-device", "virtserialport,chardev=ctl,name=org.edgeplex.ctl.0",
        ]
        for i in range(2):
            argv += [
                "-device", f"pcie-root-port,id=rp{i},chassis={i + 1}",
                "-netdev", f"dgram,id=n{i},local.type=unix,local.path={self.wire_path(i)}.vm,"
                           f"remote.type=unix,remote.path={self.wire_path(i)}",
                "-device", f"virtio-net-pci,bus=rp{i},netdev=n{i},mac=02:00:00:00:00:{i + 1:02x},"
                           f"iommu_platform=on,ats=on",
            ]
        argv += ["-qmp", f"unix:{lab.dir}/{name}.qmp,server=on,wait=off"]
        self.started = time.monotonic()
        self.process = lab.spawn(None, argv, name)

    def wire_path(self, nic):
        return f"{self.lab.dir}/{self.name}.nic{nic}"

    def nic_mac(self, nic):
        """The MAC address that the guest's driver gave a NIC, as QEMU knows it."""
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.settimeout(CALL_LIMIT_S)
            qmp.connect(f"{self.lab.dir}/{self.name}.qmp")
            lines = qmp.makefile("rw")
            for command in ("qmp_capabilities", "query-rx-filter"):
                lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
            for line in lines:
                answer = json.loads(line).get("return")
                if isinstance(answer, list):
                    return answer[nic]["main-mac"]
        raise EOFError("QEMU closed its monitor")

    def console(self):
        return self.lab.log(self.name)

    def wait_up(self):
        """Waits for guest.info; returns it."""
        wait_until(lambda: os.path.exists(self.channel_path), 20, "QEMU has made the channel")

        def info():
            if self.process.poll() is not None:
                raise AssertionError(f"QEMU ended: {self.console()}")
            with Channel(self.channel_path) as channel:
                channel.socket.settimeout(2)
                return channel.call("guest.info")

        return wait_until(info, BOOT_LIMIT_S, "the VM answers on its channel")

    def qemu_cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def qemu_rss_kib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))
