# SPDX-License-Identifier: GPL-2.0-or-later
"""A third server at site A for a time, where the testbed has two: for what is placed elsewhere.

    with attached() as third:
        ...                     # the controller has it in service, topology.SERVERS and its site have it

In a testbed that has it all the time (EDGEPLEX_TESTBED_THIRD_SERVER) that one is used, and stays.
"""

import os
import shutil
from contextlib import contextmanager

from lib import lab

from . import controller, failures, host, server, switch
from . import topology as topo

DAEMONS = ("-relay", "-hostd", "-libvirtd", "", "-vswitchd", "-ovsdb")
LIMIT_S = 60


def _site(where):
    return next(s for s in topo.SITES if s.name == where.site)


def _plug_in(where):
    """Its links and programs."""
    site = _site(where)
    topo.SERVERS = (*topo.SERVERS, where)
    object.__setattr__(site, "servers", (*site.servers, where))
    host.make_namespaces([where.ns])
    host.link_server(site, where)
    switch.vsctl(site.dir, "add-port", "edge", where.trunk)
    server.start(where)


def _unplug(where):
    """Undoes that; also when it was interrupted."""
    site = _site(where)
    topo.SERVERS = tuple(s for s in topo.SERVERS if s is not where)
    object.__setattr__(site, "servers", tuple(s for s in site.servers if s is not where))
    known = host.daemons()
    for name in (where.name + daemon for daemon in DAEMONS):
        if name in known:
            host.stop(name)
    if os.path.exists(f"{lab.NETNS_DIR}/{where.ns}"):
        lab.end_processes(lambda: failures.programs(where, *failures.PROGRAMS))
        host.run(None, ["ip", "netns", "del", where.ns])
    switch.vsctl(site.dir, "--if-exists", "del-port", "edge", where.trunk)
    if os.path.isdir(where.dir):
        lab.unmount_below(where.dir)
        shutil.rmtree(where.dir)


def _is_known(where):
    return where.name in [s["name"] for s in controller.query("server", "list")["items"]]


@contextmanager
def attached(where=topo.THIRD):
    """See the module's text."""
    if where in topo.SERVERS:
        yield where
        return
    try:
        _plug_in(where)
        controller.cli(*controller.server_create(where))
        lab.wait_until(lambda: (lambda s: (s["status"], s["hostd_status"]))(
            controller.query("server", "show", where.name)) == ("connected", "connected"), LIMIT_S,
                       f"server {where.name} is connected", 0.2)
        yield where
    finally:
        try:
            if _is_known(where):
                controller.cli("server", "drain", where.name)
                controller.cli("server", "delete", where.name)
        finally:
            _unplug(where)
