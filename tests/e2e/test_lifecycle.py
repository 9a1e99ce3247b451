# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports are deleted, made and changed, controllers and VMs die; nobody else notices.

edgeplexd is killed at every step that it is seen at; at each step for sure by `make check-moves`.
"""

import os
import re
import signal
import sqlite3
from contextlib import contextmanager

import pytest

from bed import checks, controller, customer, host, moves, switch
from bed import topology as topo
from bed.parallel import together
from lib.lab import stand_still, wait_until

EDGE = topo.ce("green-b")
FAR = topo.far(EDGE)
OTHERS = [edge for edge in topo.CES if edge is not EDGE]


def rules(site):
    """The edge switch's rules: {(cookie, match, actions): (age in s, packets)}"""
    found = {}
    for line in switch.ofctl(site.dir, "dump-flows", "edge").splitlines():
        match = re.search(r"cookie=(\w+), duration=([\d.]+)s, (table=\d+), n_packets=(\d+), "
                          r"n_bytes=\d+, (?:\w+_age=\d+, )*(.*)", line)
        if match:
            cookie, age, table, packets, rule = match.groups()
            found[cookie, table, rule] = (float(age), int(packets))
    assert found
    return found


def kept(before, after):
    """Were all these rules there all the time?"""
    return all(rule in after and after[rule][0] > age and after[rule][1] >= packets
               for rule, (age, packets) in before.items())


def sessions(edge):
    """{neighbour: (resets, is it Established?)} of an edge's PVM."""
    return {n["address"]: (n["resets"], n["state"])
            for n in controller.query("pvm", "show", edge.name)["bgp"]}


def identity(name):
    """What a port keeps for its life."""
    port = controller.query("port", "show", name)
    return {key: port[key] for key in ("label", "vlans", "rd", "inside_address", "mac", "server")}


def status(name):
    """A port's status."""
    return controller.query("port", "show", name)["status"]


@contextmanager
def others_untouched():
    """The other ports' VMs, sessions and rules are the same afterwards, and so are the CVMs."""
    own = {rule for site in topo.SITES for rule in rules(site) if owner(rule) == owner_of(EDGE)}
    before = {site.name: {r: v for r, v in rules(site).items() if r not in own}
              for site in topo.SITES}
    vms = {edge.name: host.vm_pid(edge.name) for edge in OTHERS}
    bgp = {edge.name: sessions(edge) for edge in OTHERS}
    core = {site.name: [(n["resets"], n["state"]) for n in
                        controller.query("cvm", "show", site.name)["bgp"] if n["role"] == "core"]
            for site in topo.SITES}
    assert all(vms.values()) and all(core.values())
    yield
    assert {edge.name: host.vm_pid(edge.name) for edge in OTHERS} == vms
    assert {edge.name: sessions(edge) for edge in OTHERS} == bgp
    assert core == {
        site.name: [(n["resets"], n["state"]) for n in
                    controller.query("cvm", "show", site.name)["bgp"] if n["role"] == "core"]
        for site in topo.SITES}
    for site in topo.SITES:
        assert kept(before[site.name], rules(site)), f"rules of others changed at {site.name}"


def owner(rule):
    """A rule's owner: kind and id, from its cookie."""
    return int(rule[0], 16) & 0xffffffffffff


def owner_of(edge):
    """The same of a customer edge's port: the owner of the rules that its MAC is in."""
    mac = controller.query("port", "show", edge.name)["mac"]
    site = next(s for s in topo.SITES if s.name == edge.site)
    return next(owner(rule) for rule in rules(site) if f"dl_src={mac}" in rule[2])


def database(sql, *args):
    """Rows of the controller's database, while it runs."""
    path = f"file:{controller.DIR}/state/edgeplex.db?mode=ro"
    connection = sqlite3.connect(path, uri=True, timeout=10)
    try:
        return connection.execute(sql, args).fetchall()
    finally:
        connection.close()


def kill_at_every_step(*words):
    """Starts an operation, and kills edgeplexd at every step that it is seen at; returns the
    operation as it ended, and the steps at which edgeplexd was killed."""
    number = controller.query(*words, "--no-wait")["id"]
    killed = []

    def ended():
        pid = host.daemon_pid("edgeplexd")
        rows = wait_until(lambda: running(number, killed), 120, "the next step", 0.001)
        if rows == "ended":
            return True
        restarts = host.daemons()["edgeplexd"]["restarts"]
        os.kill(pid, signal.SIGKILL)
        killed.append(rows)
        wait_until(lambda: host.daemons()["edgeplexd"]["restarts"] > restarts
                   and host.daemons()["edgeplexd"]["pid"], 20, "edgeplexd is started again")
        return False

    wait_until(ended, 180, "the operation has ended")
    wait_until(lambda: controller.cli("status"), 20, "edgeplexd answers")
    return controller.query("operation", "show", number), killed


def running(number, killed):
    """The step at which the operation is, if it isn't in `killed`; "ended"; or None."""
    ((state,),) = database("SELECT state FROM operations WHERE id = ?", number)
    if state != 0:
        return "ended"
    steps = database("SELECT name FROM operation_steps WHERE operation_id = ? AND state = 1",
                     number)
    return next((name for (name,) in steps if name not in killed), None)


def allocations():
    """Everything that ports and CVMs were given."""
    return sorted(database("SELECT * FROM allocations"))


def vms_of(edge):
    """How many VMs the edge's server has of this port."""
    server = next(s for s in topo.SERVERS if s.name == controller.query(
        "port", "show", edge.name)["server"])
    out = host.run(None, ["virsh", "-c", server.uri, "list", "--all", "--name"])
    return out.split().count(f"pvm-{edge.name}")


def test_operation_goes_on_after_kills_at_every_step(bed):  # pylint: disable=unused-argument
    given = len(allocations())
    own = len([r for r in rules(topo.SITES[1]) if owner(r) == owner_of(EDGE)])
    total = len(rules(topo.SITES[1]))
    with others_untouched():
        operation, killed = kill_at_every_step("port", "delete", EDGE.name)
        assert operation["state"] == "succeeded" and "stop-vm" in killed
        assert host.vm_pid(EDGE.name) is None
        assert len(rules(topo.SITES[1])) == total - own
        assert all(f"port/{EDGE.name}" not in row for row in allocations())
        newest = controller.query("event", "list", "--limit", 1)["items"][0]["id"]
        operation, killed = kill_at_every_step(*controller.port_create(EDGE))
        assert operation["state"] == "succeeded" and "start-vm" in killed
        # Whoever starts it, it is the first time.
        assert not [e for e in controller.query("event", "list", "--after", newest)["items"]
                    if "is gone from server" in e["text"]]
        assert controller.query("pvm", "show", EDGE.name)["history"] == []
        assert vms_of(EDGE) == 1
        assert len(rules(topo.SITES[1])) == total and len(allocations()) == given
    checks.wait_routes([EDGE, FAR])


# ---- edgeplexd is killed at one step -------------------------------------------------------

# Allocation and placement are done in the transaction that stores the port and its operation.
STEPS = {"delete": ["withdraw", "fence", "leave-cvm", "stop-vm", "release"],
         "create": ["start-vm", "configure-pvm", "configure-cvm", "program-switch",
                    "wait-for-routes"]}
NEIGHBOUR = next(edge for edge in OTHERS if edge.site == EDGE.site)


def begun(number, step):
    """Has this step of the operation begun?"""
    return database("SELECT 1 FROM operation_steps WHERE operation_id = ? AND name = ? AND"
                    " state <> 0", number, step)


def set_back(number, step):
    """Has the operation be at the step, whatever it did since: as a kill in that moment would have
    left it, but that later steps are done already, so that they are done twice. False: edgeplexd,
    which stands still, is just writing."""
    connection = sqlite3.connect(f"{controller.DIR}/state/edgeplex.db", timeout=0)
    try:
        with connection:
            connection.execute("UPDATE operations SET state = 0, finished_ms = 0 WHERE id = ?",
                               (number,))
            connection.execute(
                "UPDATE operation_steps SET state = (name = ?2) WHERE operation_id = ?1 AND position"
                " >= (SELECT position FROM operation_steps WHERE operation_id = ?1 AND name = ?2)",
                (number, step))
        return True
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def kill_at(step, *words):
    """Does this, with edgeplexd killed at the step; returns the operation as it ended."""
    number = controller.query(*words, "--no-wait")["id"]
    pid, restarts = host.daemon_pid("edgeplexd"), host.daemons()["edgeplexd"]["restarts"]
    wait_until(lambda: begun(number, step), 120, f"{step} has begun", 0.001)

    def stopped():
        stand_still(pid)
        if set_back(number, step):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped, 20, "edgeplexd stands still", 0.001)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: host.daemons()["edgeplexd"]["restarts"] > restarts, 20, "it is started again")
    wait_until(lambda: database("SELECT state FROM operations WHERE id = ?", number) != [(0,)], 180,
               "the operation has ended")
    wait_until(lambda: controller.cli("status"), 20, "edgeplexd answers")
    return controller.query("operation", "show", number)


def rows_of(name):
    """How many rows the database has of a port, but for operations and events."""
    ids = database("SELECT id FROM ports WHERE name = ?", name)
    return len(ids) + sum(count for sql in (
        "SELECT count(*) FROM allocations WHERE owner = 'port/' || ?",
        "SELECT count(*) FROM placements WHERE object = 'port/' || ?") for (count,) in
        database(sql, name)) + sum(
            database(f"SELECT count(*) FROM {table} WHERE port_id NOT IN (SELECT id FROM ports)")[0][0]
            for table in ("pvms", "port_addresses", "ce_neighbors", "pvm_history"))


@pytest.mark.skipif(not os.environ.get("EDGEPLEX_ALL_MOVES"), reason="by `make check-moves`")
@pytest.mark.parametrize("step", range(5))
def test_killed_at_a_step(bed, step):  # pylint: disable=unused-argument
    """A port is deleted and made again; edgeplexd dies at this step of either."""
    site = next(s for s in topo.SITES if s.name == EDGE.site)
    own = {rule for rule in rules(site) if owner(rule) == owner_of(EDGE)}
    total, given = len(rules(site)), len(allocations())
    with others_untouched():
        operation = kill_at(STEPS["delete"][step], "port", "delete", EDGE.name)
        assert operation["state"] == "succeeded", operation
        assert host.vm_pid(EDGE.name) is None and rows_of(EDGE.name) == 0
        assert len(rules(site)) == total - len(own)
        assert moves.leftovers(NEIGHBOUR.name, site.name) == []
        operation = kill_at(STEPS["create"][step], *controller.port_create(EDGE))
        assert operation["state"] == "succeeded", operation
        assert vms_of(EDGE) == 1 and moves.leftovers(EDGE.name, site.name) == []
        assert len(rules(site)) == total and len(allocations()) == given
    checks.wait_routes([EDGE, FAR])


def learnt(edge):
    """Which of the far edge's prefixes an edge has by BGP."""
    return [p for p in (FAR.prefix4, FAR.prefix6) if customer.bgp_route(edge, p)]


@pytest.mark.parametrize("hung", [False, True])
def test_deleted_port_is_forgotten_at_once(bed, hung):  # pylint: disable=unused-argument
    """Not after hold and restart time (30 and 120 s), as after a death. Nothing helps the CE of a VM
    that hangs, but that doesn't keep the port from being deleted, nor the core from forgetting it."""
    assert len(learnt(EDGE)) == 2
    if hung:
        stand_still(host.vm_pid(EDGE.name))
    controller.cli("port", "delete", EDGE.name, limit_s=60)
    assert host.vm_pid(EDGE.name) is None
    if not hung:
        wait_until(lambda: not learnt(EDGE), 10, "its CE forgets the far side")
    wait_until(lambda: not customer.bgp_route(FAR, EDGE.prefix4)
               and not customer.bgp_route(FAR, EDGE.prefix6), 10, "the far CE forgets it")
    operation = controller.query("operation", "list")["items"][0]
    assert (operation["verb"], operation["steps"][0]["name"]) == ("delete", "withdraw")
    assert ("doesn't answer" in operation["steps"][0]["detail"]) == hung
    controller.cli(*controller.port_create(EDGE))
    checks.wait_routes([EDGE, FAR])


def test_port_whose_ce_is_late_comes_up_by_itself(bed):  # pylint: disable=unused-argument
    controller.cli("port", "delete", EDGE.name)
    customer.birdc(EDGE, "disable pe4")
    try:
        with pytest.raises(controller.CliError) as error:
            controller.cli(*controller.port_create(EDGE), "--timeout", 5)
        assert error.value.status == 1
        assert f"CE {EDGE.link4}.2" in error.value.output
        assert "not Established" in error.value.output
        assert f"CE {EDGE.link6}:2" not in error.value.output
        assert status(EDGE.name) == "degraded"
        operation = controller.query("operation", "list")["items"][0]
        assert (operation["state"], operation["step"]) == ("failed", "wait-for-routes")
    finally:
        customer.birdc(EDGE, "enable pe4")
    wait_until(lambda: status(EDGE.name) == "up", 60, "the port is up", 0.3)
    checks.wait_routes([EDGE, FAR])


def test_change_touches_only_what_changes(bed):  # pylint: disable=unused-argument
    site, four, six = topo.SITES[1], f"{EDGE.link4}.2", f"{EDGE.link6}:2"
    vm, before = host.vm_pid(EDGE.name), sessions(EDGE)
    ages = rules(site)
    with others_untouched():
        controller.cli("port", "set", EDGE.name, "--ce", f"{four},{EDGE.asn},5000",
                       "--ce", f"{six},{EDGE.asn}")
        assert sessions(EDGE)[six] == before[six]
        assert kept(ages, rules(site)) and host.vm_pid(EDGE.name) == vm
        controller.cli("port", "set", EDGE.name, "--ce", f"{four},{EDGE.asn}",
                       "--ce", f"{six},{EDGE.asn}")
    assert sessions(EDGE)[six] == before[six]
    checks.wait_established([EDGE])


def test_dead_vm_is_started_again_as_it_was(bed):  # pylint: disable=unused-argument
    before, vm = identity(EDGE.name), host.vm_pid(EDGE.name)
    newest = controller.query("event", "list", "--limit", 1)["items"][0]["id"]
    with others_untouched():
        os.kill(vm, signal.SIGKILL)
        wait_until(lambda: host.vm_pid(EDGE.name) not in (None, vm), 30, "there is a new VM")
        wait_until(lambda: status(EDGE.name) == "up", 90, "the port is up", 0.3)
    assert identity(EDGE.name) == before and vms_of(EDGE) == 1
    events = controller.query("event", "list", "--after", newest)["items"]
    assert any(e["object"] == f"port/{EDGE.name}" and "gone" in e["text"] for e in events)
    checks.wait_routes([EDGE, FAR])
    assert checks.ping(FAR.ns, FAR.host4, EDGE.host4)[0] == 5


def test_hung_vm_holds_up_nobody(bed):  # pylint: disable=unused-argument
    neighbor = topo.ce("red-b")
    vm = host.vm_pid(EDGE.name)

    def seen():
        return controller.query("pvm", "list", limit_s=3)["items"]

    def uptime(name):
        return next(p["uptime_ms"] for p in seen() if p["name"] == name)

    stand_still(vm)
    try:
        wait_until(lambda: status(EDGE.name) == "down", 30, "it is seen that it hangs", 0.3)
        # Polled one after another, two rounds would take at least 8 s.
        last = uptime(neighbor.name)
        for _ in range(2):
            last = wait_until(lambda last=last: (lambda now: now if now > last else None)(
                uptime(neighbor.name)), 4, "its neighbour is looked at", 0.1)
    finally:
        os.kill(vm, signal.SIGCONT)
    wait_until(lambda: status(EDGE.name) == "up", 60, "the port is up", 0.3)
    assert host.vm_pid(EDGE.name) == vm
    checks.wait_established()
    checks.wait_routes()


def test_a_server_that_hangs_holds_up_no_question(bed):  # pylint: disable=unused-argument
    """Its libvirtd is stopped: whoever asks for the servers hears so, before its connection is
    given up."""
    newest = controller.query("event", "list", "--limit", 1)["items"][0]["id"]
    pid = host.daemon_pid("b-left-libvirtd")

    def seen():
        return {s["name"]: s["status"] for s in controller.query("server", "list")["items"]}

    def told():
        return [e["text"] for e in controller.query("event", "list", "--after", newest)["items"]
                if e["object"] == "server/b-left"]

    assert set(seen().values()) == {"connected"}
    stand_still(pid)
    try:
        after = seen()
        assert not told(), "the connection was given up first"
        assert [name for name, status in after.items() if status != "connected"] == ["b-left"]
        assert "b-left" in controller.cli("status")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: set(seen().values()) == {"connected"}, 60, "it is connected again", 0.5)
    wait_until(lambda: status(EDGE.name) == "up", 60, "the port is up", 0.3)


def unknown_vms():
    """Names of the VMs of b-left that the database doesn't know."""
    return [vm["name"] for vm in controller.query("server", "show", "b-left")["unknown_vms"]]


def test_vm_that_nobody_knows_is_told_of_and_left_alone(bed):  # pylint: disable=unused-argument
    uri = next(s for s in topo.SERVERS if s.name == "b-left").uri
    assert unknown_vms() == []
    newest = controller.query("event", "list", "--limit", 1)["items"][0]["id"]
    xml = host.run(None, ["virsh", "-c", uri, "dumpxml", "--migratable", f"pvm-{EDGE.name}"])
    xml = re.sub(r"<interface .*?</interface>|<uuid>.*?</uuid>", "", xml, flags=re.S)
    xml = xml.replace(f"<name>pvm-{EDGE.name}</name>", "<name>pvm-lost</name>")
    host.run(None, ["virsh", "-c", uri, "create", "--paused", "/dev/stdin"], stdin=xml)
    try:
        wait_until(lambda: unknown_vms() == ["pvm-lost"], 40, "it is told of", 0.5)
        assert "VM pvm-lost (port/green-b) runs there" in controller.cli("status")
        told = [e for e in controller.query("event", "list", "--after", newest)["items"]
                if "pvm-lost" in e["text"]]
        assert [e["object"] for e in told] == ["server/b-left"]
        # Restarted, edgeplexd finds it again; and still leaves it alone.
        os.kill(host.daemon_pid("edgeplexd"), signal.SIGKILL)
        wait_until(lambda: unknown_vms() == ["pvm-lost"], 60, "it is told of again", 0.5)
        assert "paused" in host.run(None, ["virsh", "-c", uri, "domstate", "pvm-lost"])
    finally:
        host.run(None, ["virsh", "-c", uri, "destroy", "pvm-lost"])
    wait_until(lambda: unknown_vms() == [], 40, "it is gone", 0.5)
    assert status(EDGE.name) == "up"


def test_cvm_and_ports_of_a_site_leave_the_other_alone(bed):  # pylint: disable=unused-argument
    here, there = topo.SITES[1], topo.SITES[0]
    edges = [edge for edge in topo.CES if edge.site == here.name]
    far = [edge for edge in topo.CES if edge.site == there.name]
    ages, vms = rules(there), {edge.name: host.vm_pid(edge.name) for edge in far}
    bgp = {edge.name: sessions(edge) for edge in far}
    with pytest.raises(controller.CliError) as error:
        controller.cli("cvm", "delete", here.name)
    assert error.value.status == 3 and "port" in error.value.output
    try:
        together(*(lambda e=e: controller.cli("port", "delete", e.name) for e in edges))
        controller.cli("cvm", "delete", here.name)
        out = host.run(None, ["virsh", "-c", here.servers[0].uri, "list", "--all", "--name"])
        assert out.split() == []
        # What every frame goes through stays; nothing leads from or to a VM.
        left = switch.ofctl(here.dir, "--names", "dump-flows", "edge")
        assert "actions=" in left and here.servers[0].trunk not in left
        assert not [row for row in allocations() if row[3] == f"cvm/{here.name}"]
    finally:
        if here.name not in [c["name"] for c in controller.query("cvm", "list")["items"]]:
            controller.cli("cvm", "create", here.name)
        there_now = {p["name"] for p in controller.query("port", "list")["items"]}
        together(*(lambda e=e: controller.cli(*controller.port_create(e))
                   for e in edges if e.name not in there_now))
    assert {edge.name: host.vm_pid(edge.name) for edge in far} == vms
    assert {edge.name: sessions(edge) for edge in far} == bgp
    assert kept(ages, rules(there))
    checks.wait_established()
    checks.wait_routes()
    # A port that is made again may get another label: everybody has to hear of it.
    for edge in edges:
        assert checks.ping(topo.far(edge).ns, topo.far(edge).host4, edge.host4)[0] == 5
