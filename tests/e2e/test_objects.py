# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong requests change nothing; a deleted port leaves nothing."""

import pytest

from bed import checks, controller, customer, host, switch
from bed import topology as topo
from lib.lab import wait_until


def everything():
    """All that the controller holds."""
    return {noun: controller.query(noun, "list")["items"]
            for noun in ("site", "server", "customer", "port")}


def names(state):
    """Only the names: statuses may change by themselves."""
    return {noun: sorted(item["name"] for item in items) for noun, items in state.items()}


NEW_PORT = ["port", "create", "extra", "--customer", "green", "--site", "a", "--switch-port",
            "cust9", "--address", "192.168.9.1/30", "--ce", "192.168.9.2,65109"]


def replaced(option, value):
    """NEW_PORT with one option's value changed."""
    args = list(NEW_PORT)
    args[args.index(option) + 1] = value
    return args


# What is wrong, and a word that the error must name.
WRONG = {
    "unknown site": (replaced("--site", "nowhere"), "nowhere"),
    "unknown customer": (replaced("--customer", "blue"), "blue"),
    "overlapping link": (["192.168.1.9,65109" if a == "192.168.9.2,65109" else a
                          for a in replaced("--address", "192.168.1.1/24")], "green-a"),
    "malformed prefix": (replaced("--address", "192.168.9.1/33"), "192.168.9.1/33"),
    "VLAN in use": (replaced("--switch-port", "cust1"), "cust1"),
    "switch port that isn't there": (replaced("--switch-port", "cust10"), "cust10"),
    "unreachable server": (["server", "create", "ghost", "--site", "a", "--uri",
                            f"qemu:///system?socket={topo.RUN}/ghost/libvirt-sock",
                            "--bridge", "br0", "--trunk", "trunk-spare"], "ghost"),
    "existing name": (controller.server_create(topo.SERVERS[0]), "a-left"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_request_names_the_fault_and_changes_nothing(what):
    args, word = WRONG[what]
    before = names(everything())
    with pytest.raises(controller.CliError) as error:
        controller.cli(*args)
    assert word in error.value.output
    assert names(everything()) == before


def test_deleted_port_leaves_nothing():
    edge = topo.ce("green-b")
    far, site = topo.far(edge), topo.SITES[1]
    rd = controller.query("port", "show", edge.name)["rd"]
    before = switch.ofctl(site.dir, "--no-stats", "dump-flows", "edge").count("actions=")
    assert customer.bgp_route(far, edge.prefix4)
    controller.cli("port", "delete", edge.name)
    try:
        assert host.vm_pid(edge.name) is None
        assert switch.ofctl(site.dir, "--no-stats", "dump-flows", "edge").count("actions=") < before
        checks.wait_route(far, edge.prefix4, present=False)
        checks.wait_route(far, edge.prefix6, present=False)
        wait_until(lambda: rd not in {r[0] for version in (4, 6)
                                      for r in checks.core_routes(version)}, 30,
                   "the core has none of its routes")
    finally:
        controller.cli(*controller.port_create(edge))
    checks.wait_established([edge])
    checks.wait_routes([edge, far])
    assert switch.ofctl(site.dir, "--no-stats", "dump-flows", "edge").count("actions=") == before
    assert checks.ping(far.ns, far.host4, edge.host4)[0] == 5
