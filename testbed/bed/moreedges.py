# SPDX-License-Identifier: GPL-2.0-or-later
"""More customer edges, each with a port and a PVM, than the testbed has by itself: for drains, and for
servers that die with many.

    with attached(8, "a-left") as edges:
        ...                     # edges have their sessions, and their PVMs are on server a-left
"""

import os
import shutil
from contextlib import contextmanager

from lib.lab import wait_until

from . import checks, controller, customer, host, switch
from . import topology as topo
from .parallel import together


def plug_in(edge):
    """Its namespace, link and router: all but the port."""
    site = next(s for s in topo.SITES if s.name == edge.site)
    host.make_namespaces([edge.ns])
    host.link(site.ns, edge.switch_port, edge.ns, "pe", 1500)
    switch.vsctl(site.dir, "add-port", "edge", edge.switch_port)
    customer.start(edge)


def unplug(edge):
    """Undoes plug_in(); also when that was interrupted."""
    site = next(s for s in topo.SITES if s.name == edge.site)
    if edge.name in host.daemons():
        host.stop(edge.name)
    switch.vsctl(site.dir, "--if-exists", "del-port", "edge", edge.switch_port)
    if edge.ns in host.run(None, ["ip", "netns", "list"]).split():
        host.run(None, ["ip", "netns", "del", edge.ns])
    if os.path.isdir(edge.dir):
        shutil.rmtree(edge.dir)


def _is_there(edge):
    return edge.name in controller.cli("port", "list").split()


def delete(edge):
    """Deletes its port, if there is one."""
    if _is_there(edge):
        controller.cli("port", "delete", edge.name)


@contextmanager
def attached(count, server):
    """The first `count` more edges for the length of a block."""
    edges = topo.MORE_EDGES[:count]
    try:
        for edge in edges:
            plug_in(edge)
        # A few at a time: VMs that boot under TCG take all of a processor.
        for first in range(0, count, 4):
            together(*(lambda e=e: controller.cli(*controller.port_create(e), "--server", server)
                       for e in edges[first:first + 4]))
        checks.wait_established(edges, 240)
        yield edges
    finally:
        together(*(lambda e=e: delete(e) for e in edges))
        for edge in edges:
            unplug(edge)


def wait_on(edges, server, limit_s=60):
    """Waits until the PVMs of all these edges are on that server."""
    wait_until(lambda: all(controller.query("port", "show", e.name)["server"] == server
                           for e in edges), limit_s, f"their PVMs are on {server}", 0.5)


def move(edges, server, limit_s=300):
    """Moves the PVMs of all these edges to that server, at once."""
    numbers = [controller.query("pvm", "migrate", edge.name, "--to", server, "--no-wait")["id"]
               for edge in edges]
    ended = {}

    def all_ended():
        for number in numbers:
            operation = controller.query("operation", "show", number)
            if operation["state"] != "running":
                ended[number] = operation
        return len(ended) == len(numbers)

    wait_until(all_ended, limit_s, "all moves have ended", 0.5)
    failed = [o for o in ended.values() if o["state"] != "succeeded"]
    if failed:
        raise host.TestbedError(f"moves failed: {[o['error'] for o in failed]}")
    wait_on(edges, server)
