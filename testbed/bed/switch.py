# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch by hand: an own database and switch daemon per directory, userspace datapath."""

import os

from . import host

SWITCHD = "/usr/lib/openvswitch-switch/ovs-vswitchd"
if not os.path.exists(SWITCHD):
    SWITCHD = "ovs-vswitchd"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def environment(directory):
    """What the ovs-* tools must have in their environment to speak with this switch."""
    return {name: directory for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}


def vsctl(directory, *args):
    """Runs ovs-vsctl and returns its output."""
    return host.run(None, ["ovs-vsctl", f"--db=unix:{directory}/db.sock", "--timeout=30", *args])


def ofctl(directory, *args, **kwargs):
    """Runs ovs-ofctl with OpenFlow 1.4 and returns its output."""
    return host.run(None, ["ovs-ofctl", "-O", "OpenFlow14", *args], env=environment(directory),
                    **kwargs)


def start(name, ns, directory):
    """Starts ovsdb-server and ovs-vswitchd in namespace `ns` and waits for both."""
    os.makedirs(directory)
    host.run(None, ["ovsdb-tool", "create", f"{directory}/conf.db", SCHEMA], env=environment(directory))
    start_database(name, ns, directory)
    vsctl(directory, "--no-wait", "init")
    vsctl(directory, "--no-wait", "set", "Open_vSwitch", ".",
          "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1")
    start_daemon(name, ns, directory)


def start_database(name, ns, directory):
    """Starts ovsdb-server; also again, after its death."""
    host.spawn(
        f"{name}-ovsdb",
        ["ovsdb-server", f"{directory}/conf.db", f"--remote=punix:{directory}/db.sock",
         f"--unixctl={directory}/ovsdb.ctl", "-vconsole:warn", "-vsyslog:off"],
        ns=ns, env=environment(directory))
    host.wait_daemon(f"{name}-ovsdb", lambda: host.listens(f"{directory}/db.sock"), "listens")


def start_daemon(name, ns, directory):
    """Starts ovs-vswitchd; also again, after its death: it finds its bridge in the database, and no
    rule in it."""
    host.spawn(
        f"{name}-vswitchd",
        [SWITCHD, f"unix:{directory}/db.sock", f"--unixctl={directory}/vswitchd.ctl",
         "-vconsole:warn", "-vsyslog:off"],
        ns=ns, env=environment(directory))
    host.wait_daemon(f"{name}-vswitchd", lambda: os.path.exists(f"{directory}/vswitchd.ctl"),
                     "runs")


def add_bridge(directory, bridge, ports, secure, spare=()):
    """Makes a bridge of the userspace datapath with `ports`, interfaces that exist, and `spare`
    ones, which lead nowhere.

    A secure one has no rule of its own; otherwise it is a plain VLAN switch.
    """
    args = ["--", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev",
            f"fail_mode={'secure' if secure else 'standalone'}",
            "protocols=OpenFlow13,OpenFlow14,OpenFlow15", "other_config:disable-in-band=true"]
    for port in ports:
        args += ["--", "add-port", bridge, port]
    for port in spare:
        args += ["--", "add-port", bridge, port, "--", "set", "interface", port, "type=internal"]
    vsctl(directory, *args)
