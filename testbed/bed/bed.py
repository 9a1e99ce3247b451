# SPDX-License-Identifier: GPL-2.0-or-later
"""Up, down and status of the whole testbed."""

import os
import time

from . import controller, core, customer, host, inventory, pki, server
from . import topology as topo
from .parallel import together

INVENTORY = f"{topo.RUN}/inventory.toml"  # of the testbed itself


def up(with_controller=True):
    """Starts everything, after taking down what an earlier run left. Provisions nothing."""
    start = time.monotonic()
    if os.path.exists(topo.RUN):
        host.say("taking down the earlier testbed")
    host.down()
    host.say("starting the testbed")
    host.start_supervisor()
    host.make_namespaces()
    host.make_links()
    pki.make()
    together(
        *(lambda s=s: server.start_edge_switch(s) for s in topo.SITES),
        core.start,
        *(lambda s=s: server.start(s) for s in topo.SERVERS),
        *(lambda e=e: customer.start(e) for e in topo.CES),
    )
    with open(INVENTORY, "w", encoding="utf-8") as file:
        file.write(inventory.text(inventory.describe(topo, controller.SOCKET)))
    if with_controller:
        controller.start()
    host.say(f"the testbed is up after {time.monotonic() - start:.0f} s")


def provision(show=host.say):
    """Makes sites, servers, customers, CVMs and ports through the CLI.

    `show` gets each command line and then, as it ends, what it printed.
    """

    def one(args):
        words = [str(a) for a in args]
        start = time.monotonic()
        out = controller.cli(*words)
        show(f"$ edgeplex {' '.join(words)}   ({time.monotonic() - start:.1f} s)")
        if out.strip():
            show("    " + out.strip().splitlines()[-1])

    for stage in controller.provisioning():
        together(*(lambda a=args: one(a) for args in stage))


def status():
    """One line per daemon and customer session; returns whether all is well."""
    good = True
    for name, daemon in sorted(host.daemons().items()):
        running = daemon["pid"] is not None
        good &= running
        host.say(f"{'✓' if running else '✗'} {name}"
                 + (f" (started again {daemon['restarts']} times)" if daemon["restarts"] else "")
                 + ("" if running else f" ended with {daemon['status']}, see {host.LOGS}"))
    for edge in topo.CES:
        for address, is_up in customer.established(edge).items():
            good &= is_up
            host.say(f"{'✓' if is_up else '✗'} BGP {edge.name} with {address}")
    return good
