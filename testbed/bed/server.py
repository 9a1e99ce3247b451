# SPDX-License-Identifier: GPL-2.0-or-later
"""An emulated server: private mount and UTS namespaces with a libvirtd and a hostd, and a bridge.

Programs expect their directories at fixed places; each server has its own mounted there, so that
nothing of the product has to know that servers share a machine. A process without work holds the
namespaces: what is restarted finds the same files again, VMs' memory among them. The controller reaches
a server's sockets through a relay, which can fail as a network does (relay.py, failures.py).
"""

import os
import sys
import uuid

from . import BUILD, host, pki, switch
from . import topology as topo

HOSTD = f"{BUILD}/edgeplex-hostd"

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
# VMs' memory must be on a tmpfs, wherever /run lies.
MOUNTS = """set -e
hostname {name}
mount --bind {dir}/passwd /etc/passwd
mount --bind {dir}/group /etc/group
mount --bind {dir}/ovs /run/openvswitch
mount --bind {dir}/run /run/libvirt
mount --bind {dir}/lib /var/lib/libvirt
mount --bind {dir}/cache /var/cache/libvirt
mount --bind {dir}/log /var/log/libvirt
mount --bind {dir}/etc /etc/libvirt
mount --bind {dir}/edgeplex /run/edgeplex
mount -t tmpfs none /run/edgeplex/ram
mount -t tmpfs none /run/lock
touch {dir}/mounted
exec sleep infinity
"""


def _users():
    """The machine's users and groups, and the one without whom libvirt's QEMU driver won't start."""
    texts = []
    for path in ("/etc/passwd", "/etc/group"):
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    names = ["libvirt-qemu:x:64055:64055:Libvirt Qemu:/var/lib/libvirt:/usr/sbin/nologin\n",
             "libvirt-qemu:x:64055:\n"]
    return [text if "\nlibvirt-qemu:" in text else text + name
            for text, name in zip(texts, names)]


def start(server):
    """Starts a server's bridge and libvirtd and waits until libvirt has looked at QEMU."""
    os.makedirs(server.dir)
    for name in ("run", "lib", "cache", "log", "etc/qemu", "edgeplex/qmp", "edgeplex/console",
                 "edgeplex/hostd", "edgeplex/ram"):
        os.makedirs(f"{server.dir}/{name}")
    passwd, group = _users()
    files = {
        "passwd": passwd,
        "group": group,
        "etc/libvirtd.conf": LIBVIRTD_CONF.format(uuid=uuid.uuid4()),
        "etc/qemu.conf": QEMU_CONF,
    }
    for name, text in files.items():
        with open(f"{server.dir}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    switch.start(server.name, server.ns, f"{server.dir}/ovs")
    switch.add_bridge(f"{server.dir}/ovs", "br0", ["trunk"], secure=False)
    host.spawn(
        server.name,
        ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c",
         MOUNTS.format(name=server.name, dir=server.dir)],
        ns=server.ns)
    host.wait_daemon(server.name, lambda: os.path.exists(f"{server.dir}/mounted"), "mounted")
    pki.issue(server.name, f"{server.dir}/hostd.pem", f"{server.dir}/hostd.key")
    start_daemons(server)
    # The first question makes libvirt probe QEMU for some seconds; the first VM shouldn't pay.
    host.wait_daemon(f"{server.name}-libvirtd",
                     lambda: "qemu" in virsh(server, "domcapabilities", "--virttype", "qemu"),
                     "answers", limit_s=120)
    host.say(f"  server {server.name}: libvirtd, hostd and bridge run")


def start_daemons(server):
    """Starts libvirtd, hostd and the controller's way to them; also again, after their death."""
    start_libvirtd(server)
    start_hostd(server)
    os.makedirs(server.far_dir, exist_ok=True)
    host.spawn(f"{server.name}-relay", [
        sys.executable, "-B", "-m", "bed.relay",
        f"{server.far_dir}/libvirt-sock={server.dir}/run/libvirt-sock",
        f"{server.far_dir}/hostd.sock={server.run_dir}/hostd.sock"])
    for name in ("libvirt-sock", "hostd.sock"):
        host.wait_daemon(f"{server.name}-relay",
                         lambda n=name: host.listens(f"{server.far_dir}/{n}"), "listens")


def start_libvirtd(server):
    """Starts a server's libvirtd; also again, after its death: it finds the VMs that run."""
    _spawn(server, "libvirtd", ["libvirtd", "--pid-file", "/run/libvirt/libvirtd.pid"])


def _spawn(server, program, argv, restart=False):
    """Starts one of a server's own programs."""
    holder = host.daemons()[server.name]["pid"]
    host.spawn(f"{server.name}-{program}",
               ["nsenter", f"--target={holder}", "--mount", "--uts", "--root", *argv],
               ns=server.ns, restart=restart)


def start_hostd(server):
    """Starts a server's hostd (again, if host.stop() ended it); it is restarted when it dies."""
    _spawn(server, "hostd",
           [HOSTD, "--socket", "/run/edgeplex/hostd.sock", "--run-dir", "/run/edgeplex/hostd",
            "--listen", f"{server.address}:{topo.HOSTD_PORT}", "--ca", pki.CA,
            "--cert", f"{server.dir}/hostd.pem", "--key", f"{server.dir}/hostd.key"], restart=True)
    host.wait_daemon(f"{server.name}-hostd",
                     lambda: host.listens(f"{server.run_dir}/hostd.sock"), "listens")


def virsh(server, *args):
    """Runs virsh against a server and returns its output."""
    return host.run(None, ["virsh", "-q", "-c", server.uri, *args])


def start_edge_switch(site):
    """The site's edge switch; without a controller it drops everything."""
    switch.start(f"edge-{site.name}", site.ns, site.dir)
    ports = ["core"] + [s.trunk for s in site.servers]
    ports += [ce.switch_port for ce in topo.CES if ce.site == site.name]
    switch.add_bridge(site.dir, "edge", ports, secure=True, spare=topo.SPARE_PORTS)
    host.say(f"  edge switch {site.name}: ports {' '.join(ports)}")
