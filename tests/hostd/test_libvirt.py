# SPDX-License-Identifier: GPL-2.0-or-later
"""A PVM as the controller starts it, copied between two servers: libvirt, vfio with a virtual IOMMU,
memory in a nameless file, the agent's channel. Both copies run, and either can go on alone."""

import os
import sys
import uuid

import pytest

from hostlab import IMAGE, PRELOAD, Certificates, Hostd
from lib.lab import Lab, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "controller"))
from drivers import DriverError, Drivers, Server  # noqa: E402  pylint: disable=wrong-import-position

UUID = str(uuid.uuid4())
PORT_MAC, NEIGHBOUR_MAC = "02:ed:00:00:02:01", "02:00:00:00:99:01"
PVM, NEIGHBOUR = "192.168.1.1", "192.168.1.2"
CONFIG = {"config_id": "1", "hostname": "copied", "asn": 65000, "router_id": "100.64.1.10",
          "interfaces": {"cust": {"addresses": [f"{PVM}/30"], "mtu": 1500},
                         "core": {"addresses": ["100.64.1.10/24"], "mtu": 1600}},
          "ce": [], "tunnels": []}
PINGS = 50


def issue(lab, name):
    """All of a lab are of one CA."""
    if not hasattr(lab, "certificates"):
        lab.certificates = Certificates(lab)
    lab.certificates.issue(name)


class Place:
    """A server with a hostd, and what stands in for the customer there: a port of the bridge."""

    def __init__(self, lab, name, ns, port):
        self.lab = lab
        self.server = Server(lab, name)
        self.qmp = f"{lab.dir}/{name}.qmp"
        issue(lab, f"hostd-{name}")
        self.hostd = Hostd(lab, ns, f"hostd-{name}", port)
        self.server.switch.vsctl("add-port", "br0", "probe", "tag=101", "--", "set", "interface",
                                 "probe", "type=internal")
        lab.run(self.server.ns, ["sh", "-ec", f"ip link set probe address {NEIGHBOUR_MAC} up;"
                                 f" ip addr add {NEIGHBOUR}/30 dev probe; ethtool -K probe tx off"])
        self.drivers = Drivers(lab)
        self.drivers("hv_open", uri=self.server.uri, timeout_ms=60000, limit_s=90)

    def start_vm(self, incoming=False):
        with open(f"{IMAGE}/cmdline.pvm", encoding="utf-8") as file:
            cmdline = f"{file.read().strip()} edgeplex.name=copied"
        nics = [{"mac": mac, "bridge": "br0", "vlan": vlan, "mtu": 1600}
                for mac, vlan in ((PORT_MAC, 101), ("02:ed:00:00:00:01", 102))]
        self.drivers("hv_start", name="pvm-copied", uuid=UUID, role="pvm", owner="port/copied",
                     memory_kib=147464, kernel=f"{IMAGE}/vmlinuz", initrd=f"{IMAGE}/initramfs.img",
                     cmdline=cmdline, viommu=True, nics=nics, qmp_path=self.qmp, ram_dir="/dev/shm",
                     preload=PRELOAD, incoming=incoming)

    def open_channel(self):
        self.drivers("guest_open", uuid=UUID)
        self.drivers("guest_wait", timeout_ms=90000, limit_s=100)

    def call(self, method, **params):
        return self.drivers("guest_call", method=method, params=params)["result"]

    def state(self):
        return [vm["state"] for vm in self.drivers("hv_list")["vms"]]

    def end_vm(self):
        self.drivers("guest_close")
        self.drivers("hv_destroy", uuid=UUID)

    def replies(self):
        """How many of PINGS the PVM's forwarder answers here."""
        out = self.lab.run(self.server.ns, ["ping", "-c", PINGS, "-i", "0.02", "-W", "10", "-q", PVM],
                           limit_s=60)
        return int(out.split(" packets transmitted, ")[1].split()[0])


@pytest.fixture(name="places", scope="module")
def _places():
    with Lab("hostv") as lab:
        ns = lab.netns("hostd")
        lab.run(ns, ["ip", "link", "set", "lo", "up"])
        places = Place(lab, "left", ns, 7001), Place(lab, "right", ns, 7002)
        first = places[0]
        first.start_vm()
        first.open_channel()

        def configured():
            try:
                return first.call("pvm.configure", **CONFIG)
            except DriverError:
                return None  # pvmd isn't there yet

        wait_until(configured, 60, "the PVM is configured")
        wait_until(lambda: first.replies() == PINGS, 60, "its forwarder answers", interval_s=0.5)
        yield places
        for place in places:
            place.end_vm()
            assert place.server.qemu_pids() == []
            place.drivers.close()


def facts(place):
    """What a copy has in common with what it was copied from, and what only grows."""
    processes = place.call("guest.processes")
    ports = {port["name"]: port for port in place.call("fwd.status")["ports"]}
    same = ([(p["name"], p["pid"], p["restarts"]) for p in processes],
            place.call("pvm.config"), {name: (p["mac"], p["addresses"]) for name, p in ports.items()})
    return same, place.call("guest.info")["uptime_ms"], ports["cust"]["counters"]["rx_packets"]


def assert_went_on(before, after):
    assert after[0] == before[0]
    assert after[1] > before[1] and after[2] >= before[2] > 0


def move(here, there):
    """Copies the PVM and lets both run."""
    there.start_vm(incoming=True)
    assert there.state() == ["paused"]
    ticket = there.hostd.call("receive.prepare", uuid=UUID, qmp_path=there.qmp)["ticket"]
    here.hostd.call("move.start", uuid=UUID, qmp_path=here.qmp, silence_ms=30000,
                    to={"address": there.hostd.address, "ticket": ticket})

    def ready():
        status = here.hostd.call("move.status", uuid=UUID)["copies"][0]
        assert status["state"] != "ended", status
        return status if status["state"] == "ready" else None

    status = wait_until(ready, 60, "ready")
    assert (status["engine"], status["memory_pages"]) == ("pagemap", 147464 / 4)
    here.hostd.call("move.freeze", uuid=UUID)
    both = here.hostd.call("move.resume_source", uuid=UUID)
    active = there.hostd.call("move.activate", uuid=UUID)
    print(f"stood still {both['freeze_us']['paused'] / 1000:.1f} ms, the copy runs after "
          f"{active['activate_us']['running'] / 1000:.1f} ms, {status['bytes'] / 1e6:.1f} MB")


def test_both_copies_run_and_either_goes_on_alone(places):
    """There and back: the second move is that of a copy."""
    here, there = places
    for _ in range(2):
        before = facts(here)
        move(here, there)
        there.drivers.wait_event("vm", "running")
        assert here.state() == there.state() == ["running"]
        there.open_channel()
        for place in (here, there):
            assert_went_on(before, facts(place))
            assert place.replies() == PINGS, "through forwarder and vfio, woken by interrupts"
            assert place.call("guest.probe", address=NEIGHBOUR, timeout_ms=10000)["rtt_us"] > 0
        for place in (here, there):
            place.hostd.call("move.finish", uuid=UUID)
        here.end_vm()
        assert there.replies() == PINGS
        assert there.call("fwd.status")["ports"][0]["counters"]["rx_packets"] > before[2] + PINGS
        here, there = there, here
