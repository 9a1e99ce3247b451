# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers and VMs through libvirt: a real libvirtd, real VMs of our image, their channel."""

import errno
import json
import os
import re
import signal
import socket
import sys

import pytest

from lib.lab import Lab, stand_still, wait_until

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from drivers import TOP, Drivers, Server  # noqa: E402  pylint: disable=wrong-import-position

IMAGE = f"{TOP}/build/image"
PRELOAD = f"{TOP}/build/libedgeplex-wp.so"
PVM = "7a1c7c7e-6d0f-4f0e-9a53-1f0a2b3c4d01"
CVM = "7a1c7c7e-6d0f-4f0e-9a53-1f0a2b3c4d02"


def _spec(server, name, uuid, role):
    with open(f"{IMAGE}/cmdline.{role}", encoding="utf-8") as file:
        cmdline = file.read().strip()
    macs = ["02:ed:00:00:02:01", "02:ed:00:00:00:01"]
    return {
        "name": name, "uuid": uuid, "role": role, "owner": f'port/{name} <&"\'>',
        "memory_kib": 131072, "kernel": f"{IMAGE}/vmlinuz", "initrd": f"{IMAGE}/initramfs.img",
        "cmdline": f"{cmdline} edgeplex.role={role} edgeplex.name={name}",
        "console_log": f"{server.dir}/log/{name}.console", "viommu": role == "pvm",
        "nics": [{"mac": macs[i], "bridge": "br0", "vlan": 101 + i, "mtu": 1600} for i in (0, 1)]}


class Bench:
    """A server, and the drivers connected to it."""

    def __init__(self, lab):
        self.lab = lab
        self.server = Server(lab, "srv")
        self.drivers = Drivers(lab)
        self.drivers("hv_open", uri=self.server.uri, timeout_ms=60000, limit_s=90)

    def ports(self):
        """The bridge's ports."""
        return sorted(self.server.switch.vsctl("list-ports", "br0").split())


@pytest.fixture(scope="module", name="bench")
def _bench():
    with Lab("hv") as lab:
        made = Bench(lab)
        try:
            yield made
        except BaseException:
            print(lab.log("srv-libvirtd1"))
            raise
        made.drivers.close()


@pytest.fixture(scope="module", name="pvm")
def _pvm(bench):
    """A PVM that runs, with its channel open."""
    spec = _spec(bench.server, "pvm-green", PVM, "pvm")
    bench.drivers("hv_start", **spec)
    bench.drivers("guest_open", uuid=PVM)
    bench.drivers("guest_wait", timeout_ms=90000, limit_s=100)
    yield spec
    bench.drivers("guest_close")
    bench.drivers("hv_destroy", uuid=PVM)


def test_server_info(bench):
    info = bench.drivers("hv_info")
    assert info["hostname"] == "srv"
    assert info["cpus"] == os.cpu_count()
    assert 0 < info["memory_free_kib"] <= info["memory_kib"]
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = re.search(r"^flags\s*:(.*)$", file.read(), re.M)[1].split()
    virtualizes = "vmx" in flags or "svm" in flags
    assert info["accel"] == ("kvm" if virtualizes and os.path.exists("/dev/kvm") else "tcg")


def test_wrong_uri(bench):
    other = Drivers(bench.lab)
    error = other.error("hv_open", uri="qemu:///system?socket=/nowhere/sock", timeout_ms=1500)
    assert error.errno == errno.ETIMEDOUT and "/nowhere/sock" in error.why
    assert "libvirtd" in error.why
    error = other.error("hv_list")
    assert error.errno == errno.EHOSTUNREACH
    other.close()


def test_a_vm_starts_once(bench, pvm):
    bench.drivers("hv_start", **pvm)
    assert len(bench.server.qemu_pids()) == 1
    vms = bench.drivers("hv_list")["vms"]
    assert vms == [{"name": "pvm-green", "uuid": PVM, "role": "pvm", "owner": pvm["owner"],
                    "state": "running"}]
    bench.drivers.wait_event("vm", f"pvm-green {PVM} running")
    error = bench.drivers.error("hv_start", **dict(pvm, uuid=CVM))
    assert error.errno == errno.EEXIST and "pvm-green" in error.why
    error = bench.drivers.error("hv_start", **dict(pvm, name="another"))
    assert error.errno == errno.EEXIST


def test_the_machine(bench, pvm):
    command = bench.server.qemu_pids()[0][1]
    text = " ".join(command)
    memory = [json.loads(arg)["size"] for arg in command if arg.startswith("{") and
              json.loads(arg).get("qom-type", "").startswith("memory-backend")]
    assert memory == [pvm["memory_kib"] << 10]
    assert "pc-q35-7.2" in text and "intel-iommu" in text and "caching-mode" in text
    assert "tb-size=24" in text
    assert "usb-" not in text and "-usb" not in text and "balloon" not in text
    ports = bench.ports()
    assert len(ports) == 2 and all(len(port) <= 15 for port in ports)
    for port, vlan in zip(ports, ("101", "102")):
        assert bench.server.switch.vsctl("get", "port", port, "tag").strip() == vlan
        assert bench.lab.run(bench.server.ns, ["cat", f"/sys/class/net/{port}/mtu"]).strip() == "1600"


def test_calls(bench, pvm):
    info = bench.drivers("guest_call", method="guest.info")["result"]
    assert info["role"] == "pvm" and info["name"] == "pvm-green"
    processes = bench.drivers("guest_call", method="guest.processes")["result"]
    assert isinstance(processes, list)
    error = bench.drivers.error("guest_call", method="guest.nonsense")
    assert error.answer["code"] == -32601 and "nonsense" in error.why
    error = bench.drivers.error("guest_call", method="guest.log", params={"lines": 3})
    assert error.answer["code"] == -32602
    assert bench.drivers("guest_call_many", method="guest.info", calls=25)["failed"] == 0
    assert pvm["role"] == "pvm"


def test_nics_keep_their_order(bench, pvm):
    """The guest names its NICs by PCI order: the console tells which MAC it found where."""
    xml = bench.server.virsh("dumpxml", "pvm-green")
    found = re.findall(r"<mac address='([^']*)'/>.*?<address type='pci'[^>]*bus='0x([0-9a-f]+)'",
                       xml, re.S)
    assert [mac for mac, _bus in found] == [nic["mac"] for nic in pvm["nics"]]
    assert int(found[0][1], 16) < int(found[1][1], 16)


def test_stats(bench, pvm):
    stats = bench.drivers("hv_stats", uuid=PVM)
    assert stats["cpu_ms"] > 100
    assert pvm["memory_kib"] // 4 < stats["rss_kib"] < 400 * 1024
    error = bench.drivers.error("hv_stats", uuid=CVM)
    assert error.errno == errno.ENOENT


def test_channel_survives_libvirtd(bench, pvm):
    """libvirtd is killed and started again; the VM goes on, connection and channel come back."""
    before = bench.server.qemu_pids()
    bench.drivers.forget_events()
    bench.server.process.kill()
    bench.server.process.wait()
    bench.drivers.wait_event("hv-disconnected")
    error = bench.drivers.error("hv_list")
    assert error.errno == errno.EHOSTUNREACH and "srv" in error.why
    error = bench.drivers.error("guest_call", method="guest.info", timeout_ms=300)
    assert error.answer["code"] == -32000
    bench.server.start()
    bench.drivers.wait_event("hv-connected", limit_s=60)
    bench.drivers("guest_wait", timeout_ms=30000)
    assert bench.server.qemu_pids() == before
    bench.drivers("hv_start", **pvm)
    assert bench.server.qemu_pids() == before


def test_silent_guest_hangs_nobody(bench, pvm):
    """A VM that is stopped answers nothing: calls end in time, and later ones work."""
    pid = bench.server.qemu_pids()[0][0]
    stand_still(pid)
    try:
        error = bench.drivers.error("guest_call", method="guest.info", timeout_ms=400)
        assert error.answer["code"] == -32000 and "400 ms" in error.why
        # more than the window: no more is sent than a guest that never reads can hold
        big = {"text": "x" * 30000}
        for _ in range(4):
            error = bench.drivers.error("guest_call", method="guest.x", params=big, timeout_ms=100)
            assert error.answer["code"] == -32000
        assert bench.drivers("hv_list")["vms"], "the server's connection isn't blocked"
    finally:
        os.kill(pid, signal.SIGCONT)
    bench.drivers("guest_wait", timeout_ms=30000)
    assert bench.drivers("guest_call_many", method="guest.info", calls=5)["failed"] == 0
    assert pvm["role"] == "pvm"


def test_frozen_libvirtd_hangs_nobody(bench, pvm):
    bench.drivers.forget_events()
    stand_still(bench.server.process.pid)
    try:
        error = bench.drivers.error("hv_list")
        assert error.errno == errno.EHOSTUNREACH
        bench.drivers.wait_event("hv-disconnected", limit_s=30)
    finally:
        bench.server.process.send_signal(signal.SIGCONT)
    bench.drivers("hv_wait", timeout_ms=40000)
    bench.drivers("guest_wait", timeout_ms=30000)
    assert pvm["role"] == "pvm"


def test_foreign_domains_are_not_ours(bench, pvm):
    xml = f"""<domain type='qemu'><name>foreign</name><memory unit='MiB'>32</memory>
        <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os></domain>"""
    path = f"{bench.lab.dir}/foreign.xml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(xml)
    bench.server.virsh("create", path)
    try:
        names = [vm["name"] for vm in bench.drivers("hv_list")["vms"]]
        assert names == [pvm["name"]]
    finally:
        bench.server.virsh("destroy", "foreign")


def test_a_killed_vm_is_noticed(bench, pvm):
    """The channel opens again when the VM is started again."""
    bench.drivers.forget_events()
    os.kill(bench.server.qemu_pids()[0][0], signal.SIGKILL)
    bench.drivers.wait_event("vm", "gone")
    assert bench.drivers("hv_list")["vms"] == []
    bench.drivers("hv_start", **pvm)
    bench.drivers("guest_wait", timeout_ms=90000, limit_s=100)
    info = bench.drivers("guest_call", method="guest.info")["result"]
    assert info["uptime_ms"] < 120000


def test_cvm_with_kernel_nics(bench):
    spec = _spec(bench.server, "cvm-a", CVM, "cvm")
    other = Drivers(bench.lab)
    other("hv_open", uri=bench.server.uri, timeout_ms=60000)
    other("hv_start", **spec)
    other("guest_open", uuid=CVM)
    other("guest_wait", timeout_ms=90000, limit_s=100)
    assert other("guest_call", method="guest.info")["result"]["role"] == "cvm"
    other("guest_close")
    other("hv_destroy", uuid=CVM)
    other.close()


def _monitor(path, *commands):
    """What QEMU's second monitor answers to the commands."""
    answers = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.readline()
            for command in ({"execute": "qmp_capabilities"}, *commands):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
                answers.append(answer["return"])
    return answers[1:]


def _copied_spec(bench):
    spec = _spec(bench.server, "cvm-copied", CVM, "cvm")
    return dict(spec, memory_kib=131080, qmp_path=f"{bench.lab.dir}/copied.qmp", ram_dir="/run/ram",
                preload=PRELOAD)


def test_what_copying_needs(bench):
    """A second monitor, memory in a nameless file of the exact size, and a kernel that keeps
    account of it."""
    spec = _copied_spec(bench)
    bench.drivers("hv_start", **spec)
    try:
        status, size = _monitor(spec["qmp_path"], {"execute": "query-status"},
                                {"execute": "query-memory-size-summary"})
        assert status["status"] == "running"
        assert size["base-memory"] == 131080 << 10, "TCG needs more than whole MiB"
        pid = next(pid for pid, argv in bench.server.qemu_pids() if "cvm-copied" in " ".join(argv))
        with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as smaps:
            ram = re.search(r"^(\S+)-(\S+) rw-s .* /run/ram/\S+ \(deleted\)\n(?:.*\n)*?VmFlags: (.*)$",
                            smaps.read(), re.M)
        assert int(ram[2], 16) - int(ram[1], 16) == 131080 << 10
        assert "uw" in ram[3].split(), "registered for write protection"
    finally:
        bench.drivers("hv_destroy", uuid=CVM)


def test_a_destination_waits(bench):
    spec = dict(_copied_spec(bench), incoming=True)
    bench.drivers("hv_start", **spec)
    try:
        assert _monitor(spec["qmp_path"], {"execute": "query-status"})[0]["status"] == "inmigrate"
        vms = {vm["name"]: vm["state"] for vm in bench.drivers("hv_list")["vms"]}
        assert vms["cvm-copied"] == "paused"
        bench.drivers("hv_start", **spec)
    finally:
        bench.drivers("hv_destroy", uuid=CVM)


def test_a_running_vm_is_no_destination(bench, pvm):
    spec = dict(pvm, qmp_path=f"{bench.lab.dir}/none.qmp", ram_dir="/run/ram", incoming=True)
    error = bench.drivers.error("hv_start", **spec)
    assert error.errno == errno.EBUSY and pvm["name"] in error.why


def test_bad_specs_start_nothing(bench, pvm):
    before = bench.drivers("hv_list")["vms"]
    good = dict(pvm, name="pvm-bad", uuid=CVM)
    nic = pvm["nics"][0]
    for change, words in (
            ({"name": "UPPER"}, "UPPER"), ({"uuid": "nonsense"}, "UUID"),
            ({"nics": [dict(nic, vlan=0)]}, "VLAN 0"), ({"nics": [dict(nic, vlan=4095)]}, "4095"),
            ({"memory_kib": 1024}, "1024"), ({"owner": "a\nb"}, "printable"),
            ({"nics": [dict(nic, mac="03:00:00:00:00:01")]}, "unicast")):
        error = bench.drivers.error("hv_start", **dict(good, **change))
        assert error.errno == errno.EINVAL and words in error.why, error
    error = bench.drivers.error("hv_start", **dict(good, kernel="/nowhere/vmlinuz"))
    assert error.errno == errno.EIO and "/nowhere/vmlinuz" in error.why
    error = bench.drivers.error("hv_start", **dict(good, nics=[dict(nic, bridge="nobridge")]))
    assert error.errno == errno.EIO and "nobridge" in error.why
    assert bench.drivers("hv_list")["vms"] == before


def test_destroyed_leaves_nothing(bench):
    """Last: all VMs are gone, and so are their ports."""
    bench.drivers("hv_destroy", uuid=PVM)
    bench.drivers("hv_destroy", uuid=PVM)
    assert bench.drivers("hv_list")["vms"] == []
    assert bench.server.qemu_pids() == []
    assert bench.ports() == []
