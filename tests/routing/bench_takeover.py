#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon does a freshly configured PVM route and forward, when its neighbours still have the
session of one that was killed? Prints milliseconds from pvm.configure, for a BIRD and an FRR CE.

    tests/routing/bench_takeover.py [ROUNDS]

    ce (192.168.1.2) -- LAN -- pvmd, edgeplex-fwd -- inside LAN -- cvmd -- stock FRR reflector
                    `-- the same, unconfigured --'        `- gw, which takes and gives MPLS

Real forwarders, real daemons, in namespaces. Killing is -9, and the dead one's links are cut first,
as the edge switch does: nobody says a word for it.
"""

import ctypes
import json
import os
import select
import socket
import statistics
import struct
import sys
import threading
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

# pylint: disable=wrong-import-position
from lib.lab import Lab, wait_until  # noqa: E402
from rlab import BUILD, Daemon, rpc  # noqa: E402

RR, PE, CVM, INSIDE = "10.0.0.100", "10.0.0.1", "100.64.1.1", "100.64.1.10"
CE4, FAR, NEAR = "192.168.1.2", "10.50.0.1", "10.1.0.1"
CUST_MAC, CORE_MAC, GW_MAC = "02:ed:00:00:01:01", "02:ed:00:00:00:01", "02:be:00:00:00:01"
LABEL, FAR_LABEL = 1001, 5050

RR_CONF = f"""
hostname rr
route-map GREEN permit 10
 set extcommunity rt 65000:100
router bgp 65000
 bgp router-id {RR}
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor {PE} remote-as 65000
 neighbor {PE} update-source {RR}
 neighbor {PE} timers connect 1
 address-family ipv4 vpn
  network 10.50.0.0/16 rd 65000:50 label {FAR_LABEL} route-map GREEN
  neighbor {PE} activate
  neighbor {PE} route-reflector-client
 exit-address-family
"""
CVM_CONFIG = {
    "config_id": "1", "hostname": "cvm", "asn": 65000, "router_id": PE,
    "interfaces": {"core": {"addresses": ["192.0.2.2/30"], "mtu": 1600},
                   "inside": {"addresses": [f"{CVM}/24"], "mtu": 1600},
                   "lo": {"addresses": [f"{PE}/32"]}},
    "routes": [{"prefix": f"{RR}/32", "via": "192.0.2.1"}],
    "core": [{"address": RR, "local_address": PE}],
    "pvms": [{"name": "green", "address": INSIDE, "import_rts": ["65000:100"],
              "export_rts": ["65000:100"]}],
}
PVM_CONFIG = {
    "config_id": "1", "hostname": "green", "asn": 65000, "router_id": INSIDE,
    "interfaces": {
        "cust": {"addresses": ["192.168.1.1/30"], "mtu": 1500, "mac": CUST_MAC},
        "core": {"addresses": [f"{INSIDE}/24", "192.0.2.2/30"], "mtu": 1600, "mac": CORE_MAC},
    },
    "ce": [{"address": CE4, "remote_asn": 65101}],
    "cvm": {"address": CVM, "local_address": INSIDE},
    "vpn": {"rd": "65000:1", "import_rts": ["65000:100"], "export_rts": ["65000:100"],
            "label": LABEL, "next_hop": PE},
    "tunnels": [{"prefix": f"{RR}/32", "via": "192.0.2.1", "labels": []}],
}
# Everybody's defaults: no timer is shortened on the customer's side.
BIRD = f"""
router id 10.9.9.2;
protocol device {{}}
protocol static s4 {{ ipv4; route 10.1.0.0/16 blackhole; }}
protocol bgp provider {{
    graceful restart on;
    local {CE4} as 65101; neighbor 192.168.1.1 as 65000;
    ipv4 {{ import all; export all; }};
}}
"""
FRR = """
hostname ce
router bgp 65101
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 neighbor 192.168.1.1 remote-as 65000
 address-family ipv4 unicast
  network 10.1.0.0/16
 exit-address-family
"""
STAGES = ("CE Established", "CVM Established", "CE's prefix in the FIB", "VPN prefix in the FIB",
          "first packet to the core", "first packet to the CE")

_libc = ctypes.CDLL(None, use_errno=True)


def packet_socket(ns, interface):
    """A raw socket in another namespace."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    try:
        if _libc.setns(there, 0):
            raise OSError(ctypes.get_errno(), "setns")
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind((interface, 0))
        return s
    finally:
        _libc.setns(here, 0)
        os.close(here)
        os.close(there)


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def udp(src, dst):
    """An IPv4 packet with an empty datagram to port 9."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, socket.inet_aton(src),
                       socket.inet_aton(dst))
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", 9, 9, 8, 0)


class Traffic:
    """A packet each way every 2 ms; tells when the first one has arrived since `begin()`."""

    def __init__(self, ce, gw):
        self.ce, self.gw = packet_socket(ce, "eth0"), packet_socket(gw, "eth0")
        ce_mac = self.ce.getsockname()[4]
        self.up = mac(CUST_MAC) + ce_mac + b"\x08\x00" + udp(NEAR, FAR)
        self.down = (mac(CORE_MAC) + mac(GW_MAC) + b"\x88\x47" +
                     struct.pack("!I", LABEL << 12 | 0x100 | 64) + udp(FAR, NEAR))
        self.first, self.stop = {}, False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stop:
            for s, frame in ((self.ce, self.up), (self.gw, self.down)):
                try:
                    s.send(frame)
                except OSError:
                    pass  # its link is being cut
            end = time.monotonic() + 0.002
            while (left := end - time.monotonic()) > 0:
                for s in select.select([self.ce, self.gw], [], [], left)[0]:
                    data, address = s.recvfrom(2048)
                    if address[2] == socket.PACKET_OUTGOING:
                        continue
                    if s is self.gw and data[12:14] == b"\x88\x47":
                        self.first.setdefault("first packet to the core", time.monotonic())
                    elif s is self.ce and udp(FAR, NEAR)[12:20] == data[26:34]:
                        self.first.setdefault("first packet to the CE", time.monotonic())

    def begin(self):
        self.first = {}

    def close(self):
        self.stop = True
        self.thread.join()
        self.ce.close()
        self.gw.close()


class Copy:
    """A PVM as it boots: forwarder and pvmd, unconfigured, with MAC addresses of its own."""

    def __init__(self, lab, number, lan, inside):
        self.lab, self.lan, self.inside = lab, lan, inside
        self.ports = (f"c{number}", f"i{number}")
        self.ns = lab.netns(f"pvm{number}")
        lab.veth(self.ns, "dcust", lan, self.ports[0], mtu=1600)
        lab.veth(self.ns, "dcore", inside, self.ports[1], mtu=1600)
        for ns, port in zip((lan, inside), self.ports):
            lab.run(ns, ["ip", "link", "set", port, "master", "br0"])
        self.dir = f"{lab.dir}/pvm{number}"
        os.makedirs(self.dir)
        self.fwd = lab.spawn(self.ns, [
            f"{BUILD}/edgeplex-fwd", "--vpn", "--port", "cust=dcust", "--port", "core=dcore",
            "--run-dir", self.dir], f"fwd{number}")
        wait_until(lambda: self.call("fwd", "status"), 20, "the forwarder answers")
        self.pvmd = Daemon(lab, self.ns, f"pvm{number}", "pvmd")
        wait_until(lambda: self.call("fwd", "status")["fib"]["connected"], 20, "a FIB connection")

    def call(self, prefix, verb, **params):
        program = "fwd" if prefix == "fwd" else "pvmd"
        return rpc(f"{self.dir}/{program}.sock", f"{prefix}.{verb}", params)

    def stages(self):
        """Which stages it has reached."""
        found = set()
        for n in self.call("pvm", "status")["neighbors"]:
            if n["state"] == "Established":
                found.add(f"{n['role'].upper()} Established")
        for stage, address in (("CE's", NEAR), ("VPN", FAR)):
            routes = self.call("fwd", "fib", family="ipv4", lookup=address)["routes"]
            if routes and all(h["resolved"] for h in routes[0]["nexthops"]):
                found.add(f"{stage} prefix in the FIB")
        return found

    def kill(self):
        """Cuts its links, then kills it."""
        for ns, port in zip((self.lan, self.inside), self.ports):
            self.lab.run(ns, ["ip", "link", "del", port])
        for process in (self.pvmd.process, self.fwd):
            process.kill()
            process.wait()


class Net:
    def __init__(self, lab, kind):
        self.lab = lab
        self.lan, self.inside = lab.netns("lan"), lab.netns("inside")
        ce, rr, cvm, gw = (lab.netns(n) for n in ("ce", "rr", "cvm", "gw"))
        for ns in (self.lan, self.inside):
            lab.run(ns, ["ip", "link", "add", "br0", "type", "bridge"])
            lab.run(ns, ["ip", "link", "set", "br0", "up"])
        lab.veth(ce, "eth0", self.lan, "ce")
        lab.run(self.lan, ["ip", "link", "set", "ce", "master", "br0"])
        lab.veth(gw, "eth0", self.inside, "gw", mtu=1600, mac1=GW_MAC)
        lab.veth(cvm, "inside", self.inside, "cvm", mtu=1600)
        for port in ("gw", "cvm"):
            lab.run(self.inside, ["ip", "link", "set", port, "master", "br0"])
        lab.veth(cvm, "core", rr, "eth0", mtu=1600)
        for ns, interface, address in ((ce, "eth0", f"{CE4}/30"), (gw, "eth0", "192.0.2.1/30"),
                                       (rr, "eth0", "192.0.2.1/30"), (rr, "lo", f"{RR}/32")):
            lab.run(ns, ["ip", "addr", "add", address, "dev", interface])
        lab.run(rr, ["ip", "route", "add", f"{PE}/32", "via", "192.0.2.2"])
        self.rr = lab.frr(rr, "rr", {"zebra": "", "bgpd": RR_CONF})
        self.cvm = Daemon(lab, cvm, "cvm", "cvmd")
        self.cvm.configure(CVM_CONFIG)
        if kind == "BIRD":
            lab.bird(ce, "ce", BIRD)
        else:
            lab.frr(ce, "ce", {"zebra": "", "bgpd": FRR})
        self.copies = 0
        self.now = self.copy()
        self.now.pvmd.configure(PVM_CONFIG)
        wait_until(lambda: len(self.now.stages()) == 4, 60, "the first PVM is at work")
        self.traffic = Traffic(ce, gw)
        wait_until(lambda: len(self.traffic.first) == 2, 20, "packets pass")

    def copy(self):
        self.copies += 1
        return Copy(self.lab, self.copies, self.lan, self.inside)

    def core_versions(self):
        """Changes of the core's table: a withdrawal would be one."""
        paths = json.loads(self.rr.vtysh("show bgp ipv4 vpn 10.1.0.0/16 json"))
        return [p.get("lastUpdate", {}).get("epoch") for p in paths["65000:1"]["paths"]]

    def take_over(self):
        """Kills the PVM, configures a spare; returns {stage: ms}, and whether the core noticed."""
        spare = self.copy()
        # A session that has only just begun isn't given up for a new one.
        wait_until(lambda: self.cvm.neighbor(INSIDE)["uptime_ms"] > 6000 and
                   self.cvm.established(INSIDE, RR), 60, "the CVM has its sessions")
        core = self.core_versions()
        self.now.kill()
        self.traffic.begin()
        start = time.monotonic()
        spare.pvmd.configure(PVM_CONFIG)
        seen = {"pvm.configure answered": time.monotonic()}

        def done():
            for stage in spare.stages():
                seen.setdefault(stage, time.monotonic())
            seen.update(self.traffic.first)
            return len(seen) == 1 + len(STAGES)

        wait_until(done, 120, "all stages", interval_s=0.002)
        self.now = spare
        return {s: (t - start) * 1000 for s, t in seen.items()}, self.core_versions() != core


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for kind in ("BIRD", "FRR"):
        with Lab("take") as lab:
            net = Net(lab, kind)
            results = [net.take_over() for _ in range(rounds)]
            net.traffic.close()
        print(f"{kind} CE, {rounds} take-overs; ms from pvm.configure: min, median, max")
        for stage in ("pvm.configure answered", *STAGES):
            times = sorted(r[0][stage] for r in results)
            print(f"  {stage:26} {times[0]:6.0f} {statistics.median(times):6.0f} {times[-1]:6.0f}")
        print(f"  the core saw a change: {sum(r[1] for r in results)} of {rounds}", flush=True)


if __name__ == "__main__":
    main()
