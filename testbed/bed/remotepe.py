# SPDX-License-Identifier: GPL-2.0-or-later
"""A provider edge router that isn't ours, on the same core: a VM with Debian's kernel (MPLS, VRF) and
Debian's FRR, nothing else. A customer edge of green's is behind it.

    with attached() as pe:              # topo.REMOTE_CE reaches green's other sites, and they it
        pe.ask("ip -f mpls route")      # runs a command in the VM

There is no disk: an initramfs has FRR as this machine has it installed, iproute2, busybox, and the
modules of the kernel that the guest image is made with.
"""

import os
import re
import shutil
import socket
from contextlib import contextmanager

from lib.lab import wait_until

from . import TOP, checks, controller, core, customer, host, switch
from . import topology as topo
from .parallel import together

PE, CE = topo.REMOTE_PE, topo.REMOTE_CE
DIR = f"{topo.RUN}/pe-r"
MODULES_DIR = f"{os.environ.get('DEPS', f'{TOP}/build/deps')}/kernel/modules"
# In the order in which they are loaded.
MODULES = ("drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
           "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "net/core/failover",
           "drivers/net/net_failover", "drivers/net/virtio_net", "net/ipv4/ip_tunnel",
           "net/mpls/mpls_router", "net/mpls/mpls_gso", "net/mpls/mpls_iptunnel", "drivers/net/vrf")
PROGRAMS = ("/usr/lib/frr/zebra", "/usr/lib/frr/staticd", "/usr/lib/frr/bgpd", "/usr/bin/vtysh",
            "/sbin/ip", "/bin/busybox")
# By which vtysh asks whether it may (its configuration is below).
FILES = ("/lib/x86_64-linux-gnu/security/pam_permit.so",)
MEMORY_MIB = 224
LABELS = {4: 1904, 6: 1906}
TABLE = 10

INIT = """#!/bin/busybox sh
export PATH=/usr/bin:/sbin:/usr/lib/frr:/applets
# busybox's shell takes its own before what is in PATH.
ip() {{ /sbin/ip "$@"; }}
/bin/busybox mkdir -p /applets /proc /sys /dev /run/frr /var/tmp /tmp
/bin/busybox ln -s ../run /var/run
/bin/busybox --install -s /applets
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in {modules}; do insmod /modules/$module.ko; done
cd /proc/sys/net
echo 1048575 >mpls/platform_labels
echo 1 >ipv4/ip_forward
echo 1 >ipv6/conf/all/forwarding
# A neighbour is asked for with the address of the link, as routers do.
echo 2 >ipv4/conf/all/arp_announce
for name in all default; do echo 0 >ipv6/conf/$name/accept_dad; done
ip link set lo up
ip addr add {pe}/32 dev lo
ip link add green type vrf table {table}
ip link set green up
ip link set eth0 mtu {mtu} up
ip addr add {core} dev eth0
echo 1 >mpls/conf/eth0/input
ip link set eth1 master green up
ip addr add {link4}.1/30 dev eth1
ip addr add {link6}:1/64 dev eth1
cd /
chown -R frr:frr /run/frr /etc/frr
for daemon in zebra staticd bgpd; do
	$daemon -d -f /etc/frr/$daemon.conf -z /run/frr/zserv.api -A 127.0.0.1 -P 0
done
exec 3<>/dev/ttyS1
stty raw -echo <&3
echo ready >&3
while read -r line <&3; do
	sh -c "$line" >/tmp/out 2>&1 </dev/null
	status=$?
	cat /tmp/out >&3
	echo "== $status" >&3
done
"""

STATICD = "ip route {rr}/32 {gateway}\n"

BGPD = """hostname pe-r
router bgp {asn}
 bgp router-id {pe}
 no bgp default ipv4-unicast
 neighbor {rr} remote-as {asn}
 neighbor {rr} update-source {pe}
 neighbor {rr} timers connect 3
 address-family ipv4 vpn
  neighbor {rr} activate
 exit-address-family
 address-family ipv6 vpn
  neighbor {rr} activate
 exit-address-family
router bgp {asn} vrf green
 bgp router-id {pe}
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
 neighbor {link4}.2 remote-as {ce_asn}
 neighbor {link4}.2 timers connect 3
 neighbor {link6}:2 remote-as {ce_asn}
 neighbor {link6}:2 timers connect 3
 address-family ipv4 unicast
  neighbor {link4}.2 activate
  label vpn export {label4}
  rd vpn export {asn}:9001
  rt vpn both {asn}:{vpn_id}
  export vpn
  import vpn
 exit-address-family
 address-family ipv6 unicast
  neighbor {link6}:2 activate
  label vpn export {label6}
  rd vpn export {asn}:9001
  rt vpn both {asn}:{vpn_id}
  export vpn
  import vpn
 exit-address-family
"""


# ---- what the VM is made of -----------------------------------------------------------------


def _libraries(program):
    """The shared libraries that a program needs, as paths."""
    found = set()
    for line in host.run(None, ["ldd", program], check=False).splitlines():
        words = line.split()
        found.update(word for word in words if word.startswith("/"))
    return found


def _copy(path, root):
    to = root + path
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copyfile(path, to)
    os.chmod(to, 0o755)


def _configuration(vpn_id):
    """{file below /etc/frr: text}"""
    values = {"asn": topo.PROVIDER_ASN, "rr": topo.RR_ADDRESS, "pe": PE.pe_address,
              "gateway": PE.gateway, "link4": CE.link4, "link6": CE.link6, "ce_asn": CE.asn,
              "vpn_id": vpn_id, "label4": LABELS[4], "label6": LABELS[6]}
    return {"zebra.conf": "hostname pe-r\n", "staticd.conf": STATICD.format(**values),
            "bgpd.conf": BGPD.format(**values), "vtysh.conf": ""}


def _pack(vpn_id):
    """Makes DIR/initramfs."""
    root = f"{DIR}/root"
    for program in PROGRAMS:
        if not os.path.exists(program):
            raise host.TestbedError(f"{program} is missing; run deps/install-packages")
        _copy(program, root)
        for library in _libraries(program):
            _copy(library, root)
    for path in FILES:
        _copy(path, root)
        for library in _libraries(path):
            _copy(library, root)
    os.makedirs(f"{root}/modules")
    for module in MODULES:
        path = f"{MODULES_DIR}/{module}.ko"
        if not os.path.exists(path):
            raise host.TestbedError(f"{path} is missing; build it with `make deps`")
        host.run(None, ["strip", "--strip-debug", "-o", f"{root}/modules/{os.path.basename(path)}", path])
    files = {f"etc/frr/{name}": text for name, text in _configuration(vpn_id).items()}
    files |= {
        "etc/passwd": "root:x:0:0::/:/applets/sh\nfrr:x:100:100::/:/applets/sh\n",
        "etc/pam.d/frr": "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n",
        "etc/group": "root:x:0:\nfrr:x:100:\nfrrvty:x:101:frr\n",
        "init": INIT.format(modules=" ".join(map(os.path.basename, MODULES)), pe=PE.pe_address,
                            table=TABLE, mtu=topo.BACKBONE_MTU, core=PE.core_address, link4=CE.link4,
                            link6=CE.link6)}
    for name, text in files.items():
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        with open(f"{root}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    os.chmod(f"{root}/init", 0o755)
    host.run(None, ["sh", "-ec", f"cd {root}; find . -mindepth 1 | cpio --quiet -o -H newc -R +0:+0"
                    " | gzip -1 >../initramfs"])
    shutil.rmtree(root)


def _nic(name, address, mtu):
    off = ",".join(f"{what}=off" for what in ("csum", "gso", "guest_csum", "guest_tso4", "guest_tso6",
                                              "guest_ecn", "guest_ufo"))
    return ["-netdev", f"tap,id={name},ifname=tap-{name},script=no,downscript=no", "-device",
            f"virtio-net-pci,netdev={name},mac={address},host_mtu={mtu},romfile=,{off}"]


def _qemu():
    return ["qemu-system-x86_64", "-name", "pe-r", "-accel", "tcg,tb-size=32", "-cpu", "max", "-m", MEMORY_MIB,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
            "-kernel", f"{controller.IMAGE}/vmlinuz", "-initrd", f"{DIR}/initramfs",
            "-append", "console=ttyS0 quiet panic=-1 net.ifnames=0",
            "-serial", f"file:{DIR}/console", "-serial", f"unix:{DIR}/ctl.sock,server=on,wait=off",
            *_nic("core", "02:c0:00:00:09:01", topo.BACKBONE_MTU), *_nic("cust", "02:c0:00:00:09:02", 1500)]


# ---- the VM ---------------------------------------------------------------------------------


class Vm:
    """The running VM's second serial line, on which commands are run one at a time."""

    def __init__(self, limit_s=90):
        wait_until(lambda: os.path.exists(f"{DIR}/ctl.sock"), 20, "QEMU of pe-r runs")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(limit_s)
        self._socket.connect(f"{DIR}/ctl.sock")
        self._stream = self._socket.makefile("r", encoding="utf-8", errors="replace", newline="\n")
        try:
            while "ready" not in self._line():
                pass
        except TimeoutError:
            self.close()
            with open(f"{DIR}/console", encoding="utf-8", errors="replace") as file:
                raise host.TestbedError(f"pe-r isn't ready after {limit_s} s:\n{file.read()[-3000:]}") from None
        self._socket.settimeout(30)

    def _line(self):
        line = self._stream.readline()
        if not line:
            raise host.TestbedError("the VM pe-r ended")
        return line.rstrip("\r\n")

    def ask(self, command):
        """Runs a command line and returns its output. Raises TestbedError when it fails."""
        # busybox's shell would take its own.
        command = re.sub(r"^ip ", "/sbin/ip ", command)
        self._socket.sendall(command.encode() + b"\n")
        lines = []
        while not re.fullmatch(r"== \d+", line := self._line()):
            lines.append(line)
        if line != "== 0":
            raise host.TestbedError(f"pe-r: {command}: {line}\n" + "\n".join(lines))
        return "\n".join(lines)

    def vtysh(self, command):
        """What FRR answers to a line."""
        return self.ask(f"vtysh -c '{command}'")

    def close(self):
        """Frees it; the VM runs on."""
        self._stream.close()
        self._socket.close()


def _plug_in():
    """Links: the P router's and the customer edge's, each to a bridge with a tap of the VM's."""
    host.make_namespaces([topo.REMOTE_PE_NS, CE.ns])
    host.run(topo.REMOTE_PE_NS, ["sh", "-ec", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6;"
                                 " echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"])
    host.link(topo.P_NS, f"link-{PE.name}", topo.REMOTE_PE_NS, "core", topo.BACKBONE_MTU)
    host.link(topo.P_NS, f"pe-{PE.name}", topo.CORE_NS, f"pe-{PE.name}", topo.BACKBONE_MTU)
    host.link(topo.REMOTE_PE_NS, "cust", CE.ns, "pe", 1500)
    for name, mtu in (("core", topo.BACKBONE_MTU), ("cust", 1500)):
        host.run(topo.REMOTE_PE_NS, [
            "sh", "-ec", f"ip link add br-{name} mtu {mtu} type bridge; ip tuntap add tap-{name} mode tap;"
            f" ip link set tap-{name} mtu {mtu} master br-{name} up; ip link set {name} master br-{name};"
            f" ip link set br-{name} up"])


def _add_tunnels(vm):
    """Routes to our PEs, by their transport labels. staticd takes none with a label before zebra has told
    it that the kernel knows MPLS, so not from its configuration."""
    def there():
        for site in topo.SITES:
            route = f"ip route {site.pe_address}/32 {PE.gateway} label {site.transport_label}"
            vm.ask(f"vtysh -c 'configure terminal' -c '{route}' || true")
        return all(f"encap mpls  {site.transport_label} " in vm.ask(f"ip route show {site.pe_address}")
                   for site in topo.SITES)
    wait_until(there, 30, "pe-r has tunnels to our PEs", 0.5)


def _label_there(vm, edge, vpn_id):
    """The VPN label of an edge's IPv6 prefix, as the VM's bgpd has it; None before it has."""
    out = vm.vtysh(f"show bgp ipv6 vpn {edge.prefix6}")
    for entry in out.split("BGP routing table entry for ")[1:]:
        label = re.search(r"Remote label: (\d+)", entry)
        if f"RT:{topo.PROVIDER_ASN}:{vpn_id}" in entry.split() and label:
            return int(label[1])
    return None


def _add_ipv6(vm, vpn_id, limit_s=60):
    """FRR's zebra can't tell the kernel of an IPv6 route over an IPv4 core (its issue 21031: "IPv6 routes
    can not use an IPv4 nexthop"), though the kernel can have it: so it gets what bgpd knows from here."""
    for edge in peers():
        site = next(s for s in topo.SITES if s.name == edge.site)
        label = wait_until(lambda e=edge: _label_there(vm, e, vpn_id), limit_s,
                           f"pe-r has {edge.prefix6} of {edge.name}", 0.3)
        vm.ask(f"ip -6 route replace {edge.prefix6} table {TABLE} encap mpls {site.transport_label}/{label}"
               f" via inet6 ::ffff:{PE.gateway} dev eth0 onlink")


def _unplug():
    for name in (CE.name, "pe-r"):
        if host.daemons().get(name, {}).get("pid"):
            host.stop(name)
    core.detach(_number(), PE)
    switch.vsctl(core.OVS, "--if-exists", "del-br", PE.name)
    for ns in (topo.REMOTE_PE_NS, CE.ns):
        if ns in host.run(None, ["ip", "netns", "list"]).split():
            host.run(None, ["ip", "netns", "del", ns])
    host.run(topo.CORE_NS, ["ip", "link", "del", f"pe-{PE.name}"], check=False)
    for path in (DIR, CE.dir):
        shutil.rmtree(path, ignore_errors=True)


def _number():
    """The PE's number in the P router's tables."""
    return len(topo.SITES) + 1


def _is_known():
    return PE.name in controller.cli("site", "list").split()


@contextmanager
def attached():
    """The router and the customer edge behind it, for the length of a block; gives the Vm."""
    vpn_id = controller.query("customer", "show", CE.customer)["vpn_id"]
    vm = None
    try:
        os.makedirs(DIR)
        _pack(vpn_id)
        _plug_in()
        host.spawn("pe-r", _qemu(), ns=topo.REMOTE_PE_NS)
        core.attach(_number(), PE)
        # To the controller it is a site without servers, which says by which label it is reached, and
        # has to have a switch: one where nothing is plugged in.
        switch.add_bridge(core.OVS, PE.name, [], secure=True, spare=["core"])
        controller.cli(*controller.site_create(PE))
        customer.start(CE)
        vm = Vm()
        _add_tunnels(vm)
        checks.wait_established([CE], 60)
        _add_ipv6(vm, vpn_id)
        yield vm
    finally:
        if vm:
            vm.close()
        if _is_known():
            controller.cli("site", "delete", PE.name)
        _unplug()


def peers():
    """Green's own edges, which it is to reach."""
    return [edge for edge in topo.CES if edge.customer == CE.customer]


def wait_routes(limit_s=60):
    """Waits until green's edges have routes to the one behind the router, and it to them."""
    for edge in peers():
        for here, there in ((edge, CE), (CE, edge)):
            for prefix in (there.prefix4, there.prefix6):
                checks.wait_route(here, prefix, limit_s=limit_s)


def pings(count=3):
    """{(from, to, version): replies} between it and every other edge of green's, both ways."""
    def one(here, there, version):
        ends = (here.host4, there.host4) if version == 4 else (here.host6, there.host6)
        return (here.name, there.name, version), checks.ping(here.ns, *ends, count)[0]

    pairs = [pair for edge in peers() for pair in ((edge, CE), (CE, edge))]
    return dict(together(*(lambda a=a, b=b, v=v: one(a, b, v) for a, b in pairs for v in (4, 6))))
