# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM does that takes over another one's port: MAC addresses."""

import ipaddress

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr, IPv6,
)
from scapy.layers.l2 import ARP, Ether

from guest import Channel, Guest, Wire
from lib.lab import Lab, wait_until
from test_image import kill_and_wait

OWN = "02:00:00:00:00:01"  # as QEMU was told
PORT = "02:ed:00:00:01:07"
CE = "02:ce:00:00:00:01"
EVERYBODY = "ff:ff:ff:ff:ff:ff"


@pytest.fixture(scope="module")
def vm():
    with Lab("img") as lab:
        guest = Guest(lab, "pvm", name="takeover")
        guest.wait_up()
        with Channel(guest.channel_path) as channel:
            wait_until(lambda: channel.call("pvm.status"), 30, "pvmd answers")
        yield guest


@pytest.fixture
def wire(vm):
    with Wire(vm, 0) as wire:
        yield wire


def configure(vm, mac=None):
    cust = {"addresses": ["192.168.1.1/30", "fd00:a1::1/64"], "mtu": 1500}
    if mac:
        cust["mac"] = mac
    with Channel(vm.channel_path) as channel:
        channel.call("pvm.configure", config_id="1", hostname="test", asn=65000,
                     router_id="192.168.1.1", interfaces={"cust": cust})


def status(vm):
    """The customer port, as the forwarder has it."""
    with Channel(vm.channel_path) as channel:
        return channel.call("fwd.status")["ports"][0]


def wait_port(vm, mac):
    def right():
        port = status(vm)
        return port["up"] and port["link"] and port["mac"] == mac and len(port["addresses"]) == 3

    wait_until(right, 30, f"the forwarder has its addresses, and {mac}")


def speaks_as(vm, wire, mac, not_as):
    """What a neighbour sees in ARP and ND, and at which address it reaches the VM."""
    wire.drain()
    wire.send(Ether(src=CE, dst=EVERYBODY) / ARP(
        op=1, hwsrc=CE, psrc="192.168.1.2", pdst="192.168.1.1"))
    answer = wire.expect(lambda p: ARP in p and p[ARP].op == 2)
    assert (answer.src, answer[ARP].hwsrc) == (mac, mac)
    wire.send(Ether(src=CE, dst="33:33:ff:00:00:01") / IPv6(
        src="fd00:a1::2", dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt="fd00:a1::1") /
              ICMPv6NDOptSrcLLAddr(lladdr=CE))
    answer = wire.expect(lambda p: ICMPv6ND_NA in p and p[ICMPv6ND_NA].tgt == "fd00:a1::1")
    assert answer.src == mac and answer[ICMPv6ND_NA].lladdr == mac
    wire.send(Ether(src=CE, dst=mac) / IP(src="192.168.1.2", dst="192.168.1.1") / ICMP())
    assert wire.expect(lambda p: ICMP in p and p[ICMP].type == 0).src == mac
    wire.send(Ether(src=CE, dst=mac) / IPv6(src="fd00:a1::2", dst="fd00:a1::1") /
              ICMPv6EchoRequest())

    def for_ce(packet):
        # Who has been silent is asked for before it is answered.
        if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == "fd00:a1::2":
            wire.send(Ether(src=CE, dst=mac) / IPv6(src="fd00:a1::2", dst=packet[IPv6].src) /
                      ICMPv6ND_NA(tgt="fd00:a1::2", R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=CE))
        return ICMPv6EchoReply in packet

    assert wire.expect(for_ce).src == mac
    before = status(vm)["drops"].get("not_for_us", 0)
    wire.send(Ether(src=CE, dst=not_as) / IP(src="192.168.1.2", dst="192.168.1.1") / ICMP())
    wait_until(lambda: status(vm)["drops"].get("not_for_us", 0) > before, 10, "it is dropped")
    assert vm.nic_mac(0) == mac


def link_local(mac):
    octets = [int(x, 16) for x in mac.split(":")]
    octets[0] ^= 2
    text = "fe80::%02x%02x:%02xff:fe%02x:%02x%02x" % tuple(octets)
    return f"{ipaddress.ip_address(text)}/64"


def test_a_port_has_the_mac_address_that_is_configured(vm, wire):
    configure(vm)
    wait_port(vm, OWN)
    speaks_as(vm, wire, OWN, PORT)
    wire.drain()
    configure(vm, PORT)
    wait_port(vm, PORT)
    # Neighbours are told at once, not when they ask.
    told = wire.expect(lambda p: ARP in p and p[ARP].psrc == p[ARP].pdst == "192.168.1.1")
    assert (told.src, told[ARP].hwsrc) == (PORT, PORT)
    speaks_as(vm, wire, PORT, OWN)
    assert link_local(PORT) in status(vm)["addresses"]
    for program in ("edgeplex-fwd", "pvmd", "edgeplex-fwd"):
        kill_and_wait(vm, program)
        wait_port(vm, PORT)
        speaks_as(vm, wire, PORT, OWN)
    configure(vm)
    wait_port(vm, OWN)
    speaks_as(vm, wire, OWN, PORT)
    assert link_local(OWN) in status(vm)["addresses"]
