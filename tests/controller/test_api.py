# SPDX-License-Identifier: GPL-2.0-or-later
"""The API of a real edgeplexd, with a real edge switch and without virtual machines.

What needs a server, a CVM or a port that exists gets them as rows of the database, marked as not
started, so that nothing tries to run them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from daemon import Daemon
from drivers import Switch
from lib.lab import Lab, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../hostd")
from hostlab import Certificates, Hostd  # noqa: E402  pylint: disable=wrong-import-position

# A server that nothing answers for, CVMs, and two ports at site a. A port has two VLANs.
SEED = """
INSERT INTO servers VALUES (1, 'a-left', 1, 'qemu:///system?socket=/nonexistent/sock', 'br0',
    'trunk-left', 4096, '', 0);
INSERT INTO cvms VALUES (1, 1, 1, '00000000-0000-4000-8000-000000000001', 100, 101, '100.64.1.1',
    0, 0, 0, NULL);
INSERT INTO ports VALUES (1, 'green-a', 1, 1, 'cust1', 0, 1500, NULL, '', 120);
INSERT INTO port_addresses VALUES (1, 0, '192.168.1.1/30');
INSERT INTO ce_neighbors VALUES (1, 0, '192.168.1.2', 65101, 0);
INSERT INTO pvms VALUES (1, 1, 1, '00000000-0000-4000-8000-000000000002', 1000, 102, 103, 1,
    '100.64.1.10', 0, 0, 0, 0, NULL);
INSERT INTO allocations VALUES (1, 'vlan', 100, 'cvm/a'), (1, 'vlan', 101, 'cvm/a'),
    (1, 'vlan', 102, 'port/green-a'), (1, 'vlan', 103, 'port/green-a'),
    (1, 'label', 1000, 'port/green-a'), (1, 'inside', 10, 'port/green-a'),
    (0, 'rd', 1, 'port/green-a');
"""


def site(name="a", n=1, **changes):
    """A site's object."""
    return {"name": name, "asn": 65000, "pe_address": f"10.0.0.{n}",
            "core": {"switch_port": "core", "address": f"192.0.2.{4 * n + 2}/30",
                     "gateway": f"192.0.2.{4 * n + 1}", "route_reflectors": ["10.0.0.100"]},
            "transport_label": 16000 + n, **changes}


def server(**changes):
    """A server's object, whose libvirt doesn't exist."""
    return {"name": "a-right", "site": "a", "uri": "qemu:///system?socket=/nonexistent/right",
            "bridge": "br0", "trunk": "trunk-right", **changes}


def port(**changes):
    """A port's object that would be accepted if its server were reachable."""
    return {"name": "red-a", "customer": "red", "site": "a", "switch_port": "cust2",
            "addresses": ["192.168.1.1/30"], "ce": [{"address": "192.168.1.2", "asn": 65201}],
            **changes}


class Bench:
    """A switch with sites a and b, a controller, customers green and red."""

    def __init__(self, lab):
        self.lab = lab
        self.switch = Switch(lab, lab.netns("edge"), "ovs")
        ports = ["core", "trunk-left", "trunk-right", "cust1", "cust2"]
        self.targets = []
        for bridge in ("edge-a", "edge-b"):
            prefix = bridge[-1]
            names = ports if prefix == "a" else [f"b-{name}" for name in ports]
            self.targets.append(self.switch.add_bridge(bridge, []))
            for name in names:
                self.switch.vsctl("add-port", bridge, name, "--", "set", "interface", name,
                                  "type=internal")
        self.api = Daemon(lab)
        assert self.api("POST", "/v1/sites", site(switch=self.targets[0])).status == 201
        for name in ("green", "red"):
            assert self.api("POST", "/v1/customers", {"name": name}).status == 201
        assert self.api.stop(signal.SIGTERM) == 0
        self.api.seed(SEED)
        self.api.start()


@pytest.fixture(name="bench", scope="module")
def _bench():
    with Lab("api") as lab:
        yield Bench(lab)


@pytest.fixture(name="api")
def _api(bench):
    return bench.api


def refused(api, answer, status, field=None, *words):
    """The answer is a problem that names the field, and the words; nothing was changed."""
    assert answer.status == status, answer
    assert answer.type == "application/problem+json"
    assert answer.body["status"] == status and answer.body["title"]
    text = json.dumps(answer.body, ensure_ascii=False)
    if field is not None:
        assert field in [error["field"] for error in answer.body["errors"]], answer
        assert all(error["fix"] and error["detail"] for error in answer.body["errors"])
    for word in words:
        assert word in text, f"{word} is not in {text}"
    assert api("GET", "/v1/health").status == 200


@pytest.fixture(name="changes")
def _changes():
    """Marks a test that may change something."""


@pytest.fixture(autouse=True)
def _nothing_changes(request, bench):
    """A test that refuses things must find everything as it was."""
    before = bench.api.snapshot()
    yield
    if "changes" not in request.fixturenames:
        assert bench.api.snapshot() == before


# ---- sites ---------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, field", [
    ({"name": "A"}, "/name"),
    ({"asn": 0}, "/asn"),
    ({"asn": "65000"}, "/asn"),
    ({"pe_address": "10.0.0.300"}, "/pe_address"),
    ({"pe_address": "10.0.0.1"}, "/pe_address"),
    ({"transport_label": 16001}, "/transport_label"),
    ({"transport_label": 5}, "/transport_label"),
    ({"inside": "100.64.1.0/24"}, "/inside"),
    ({"inside": "100.64.1.7/24"}, "/inside"),
    ({"labels": "5-1"}, "/labels"),
    ({"vlans": "1-5000"}, "/vlans"),
    ({"switch": "edge.mgmt"}, "/switch"),
    ({"core": None}, "/core"),
    ({"swtich": "x"}, "/swtich"),
])
def test_wrong_sites(bench, changes, field):
    body = {**site("c", 3, switch=bench.targets[1]), **changes}
    refused(bench.api, bench.api("POST", "/v1/sites", body), 422, field)


@pytest.mark.parametrize("changes, field", [
    ({"switch_port": "cor"}, "/core/switch_port"),
    ({"address": "192.0.2.15/30"}, "/core/address"),
    ({"gateway": "192.0.2.99"}, "/core/gateway"),
    ({"route_reflectors": []}, "/core/route_reflectors"),
    ({"route_reflectors": ["x"]}, "/core/route_reflectors/0"),
    ({"mtu": 1287}, "/core/mtu"),
    ({"mut": 1500}, "/core/mut"),
])
def test_wrong_core_links(bench, changes, field):
    body = site("c", 3, switch=bench.targets[1])
    body["core"].update({"switch_port": "b-core", **changes})
    refused(bench.api, bench.api("POST", "/v1/sites", body), 422, field)


def test_switch_out_of_reach(api):
    refused(api, api("POST", "/v1/sites", site("c", 3, switch="unix:/nonexistent/edge.mgmt")),
            503, None, "unix:/nonexistent/edge.mgmt", "check")


def test_site_names_are_unique(bench):
    refused(bench.api, bench.api("POST", "/v1/sites", site("a", 3, switch=bench.targets[1])), 409)


def test_site_in_use(api):
    refused(api, api("DELETE", "/v1/sites/a"), 409, None, "green-a")


@pytest.mark.parametrize("change, field", [
    ({"asn": 1}, "/asn"),
    ({"core": {"gateway": "192.0.2.9"}}, "/core/gateway"),
    ({"labels": "2000-2999"}, "/labels"),
    ({"labels": "none"}, "/labels"),
    ({"lables": "16-99"}, "/lables"),
    ({"spares": 17}, "/spares"),
    ({"spares": -1}, "/spares"),
    ({"spare_pool": {"ready": 1}}, "/spare_pool"),
])
def test_wrong_changes_of_a_site(api, change, field):
    refused(api, api("PATCH", "/v1/sites/a", change), 422, field)


@pytest.mark.usefixtures("changes")
def test_a_site_comes_changes_and_goes(bench):
    api = bench.api
    body = site("b", 2, switch=bench.targets[1])
    body["core"]["switch_port"] = "b-core"
    answer = api("POST", "/v1/sites", body)
    assert answer.status == 201 and answer.headers["Location"] == "/v1/sites/b"
    assert answer.body["inside"] == "100.64.2.0/24" and answer.body["switch_connected"]
    # From now on the switch is ours, and drops what isn't listed.
    assert api("PATCH", "/v1/sites/b", {"core": {"route_reflectors": ["10.0.0.101"]}}).status == 200
    assert api("GET", "/v1/sites/b").body["core"]["route_reflectors"] == ["10.0.0.101"]
    assert api("GET", "/v1/sites/b").body["spare_pool"] == {"wanted": 0, "ready": 0, "not_ready": 0,
                                                            "servers": []}
    # There is no server for it: nothing is stored, and an event tells.
    assert api("PATCH", "/v1/sites/b", {"spares": 2}).body["spares"] == 2
    wait_until(lambda: any("no spare can be made" in e["text"] for e in
                           api("GET", "/v1/events?before=0").body["items"]
                           if e["object"] == "site/b"), 20, "it is told of")
    assert api("GET", "/v1/sites/b").body["spare_pool"]["wanted"] == 2
    assert api("GET", "/v1/spares").body == {"items": []}
    assert 'edgeplex_spares_wanted{site="b"} 2' in api("GET", "/metrics").body.splitlines()
    assert api("DELETE", "/v1/sites/b").status == 200
    assert api("GET", "/v1/sites/b").status == 404


# ---- servers -------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, field", [
    ({"site": "nowhere"}, "/site"),
    ({"uri": "libvirt"}, "/uri"),
    ({"uri": "qemu:///system?socket=/nonexistent/sock"}, "/uri"),
    ({"bridge": ""}, "/bridge"),
    ({"trunk": "trunk-left"}, "/trunk"),
    ({"trunk": "core"}, "/trunk"),
    ({"trunk": "cust1"}, "/trunk"),
    ({"trunk": "trunk-7"}, "/trunk"),
    ({"memory_mib": 0}, "/memory_mib"),
    ({"memory": 1024}, "/memory"),
    ({"hostd": "/run/edgeplex/hostd.sock"}, "/hostd"),
    ({"hostd": "unix:hostd.sock"}, "/hostd"),
    ({"hostd": "unix:/" + "x" * 108}, "/hostd"),
    ({"hostd": 7}, "/hostd"),
    ({"risks": "rack=r1"}, "/risks"),
    ({"risks": ["rack=r1", "rack=r1"]}, "/risks/1"),
])
def test_wrong_servers(api, changes, field):
    refused(api, api("POST", "/v1/servers", server(**changes)), 422, field)


def test_server_out_of_reach(api):
    refused(api, api("POST", "/v1/servers", server()), 503, None, "/nonexistent/right", "check")


def test_server_in_use(api):
    refused(api, api("DELETE", "/v1/servers/a-left"), 409, None, "green-a")


def test_a_server_gets_a_hostd_and_loses_it(bench, changes):
    lab, api = bench.lab, bench.api
    Certificates(lab).issue("hostd-a")
    ns = lab.netns("hostd")
    lab.run(ns, ["ip", "link", "set", "lo", "up"])
    hostd = Hostd(lab, ns, "hostd-a", 7001)
    target = f"unix:{hostd.socket_path}"
    before = api("GET", "/v1/servers/a-left").body
    assert before["hostd"] is None and "hostd_status" not in before
    missing = api("PATCH", "/v1/servers/a-left", {"hostd": "unix:/nonexistent/hostd.sock"})
    refused(api, missing, 503, None, "/nonexistent/hostd.sock", "edgeplex-hostd")
    refused(api, api("PATCH", "/v1/servers/a-left", {"hostd": "hostd"}), 422, "/hostd", "unix:/run")
    assert api("GET", "/v1/servers/a-left").body == before

    shown = api("PATCH", "/v1/servers/a-left", {"hostd": target, "memory_mib": 2048}).body
    assert (shown["hostd"], shown["memory_mib"]) == (target, 2048)
    assert shown["hostd_status"] == "connected" and shown["hostd_version"]
    assert api("GET", "/v1/servers").body["items"] == [shown]
    refused(api, api("POST", "/v1/servers", server(hostd=target)), 422, "/hostd", "a-left")
    hostd.kill()
    assert api("GET", "/v1/servers/a-left").body["hostd_status"] == "unreachable"
    # What is not changed is not asked for.
    assert api("PATCH", "/v1/servers/a-left", {"memory_mib": 4096}).status == 200
    assert api("PATCH", "/v1/servers/a-left", {"hostd": None}).body == before


def test_a_server_has_risks_that_change_and_last(api):
    before = api("GET", "/v1/servers/a-left").body
    assert before["risks"] == []
    names = ["rack=r1", "power=a", "hall"]
    assert api("PATCH", "/v1/servers/a-left", {"risks": names}).body["risks"] == names
    assert api("PATCH", "/v1/servers/a-left", {"memory_mib": 4096}).body["risks"] == names
    refused(api, api("PATCH", "/v1/servers/a-left", {"risks": ["a b"]}), 422, "/risks/0", "rack=r1")
    assert api("GET", "/v1/servers/a-left").body["risks"] == names
    assert api("PATCH", "/v1/servers/a-left", {"risks": None}).body["risks"] == []


# ---- placement -----------------------------------------------------------------------------


def test_why_a_vm_is_where_it_is(api):
    api("PATCH", "/v1/servers/a-left", {"risks": ["rack=r1"]})
    shown = api("GET", "/v1/pvms/green-a/placement").body
    assert (shown["object"], shown["server"], shown["better"]) == ("port/green-a", "a-left", None)
    (left,) = shown["servers"]
    assert (left["name"], left["here"], left["possible"]) == ("a-left", True, False)
    assert left["risks"] == ["rack=r1"] and "it is not connected" in left["against"]
    assert shown["not_met"] == [] == api("GET", "/v1/pvms/green-a").body["rules_not_met"]
    assert api("GET", "/v1/cvms/a/placement").body["standby"] is None
    api("PATCH", "/v1/servers/a-left", {"risks": []})
    refused(api, api("GET", "/v1/pvms/nobody/placement"), 404, None)
    refused(api, api("GET", "/v1/cvms/nobody/placement"), 404, None)


def test_what_would_fail_together(api):
    shown = api("GET", "/v1/sites/a/risks").body
    assert shown["groups"] == [] and shown["unknown"] == ["a-left"]
    assert shown["findings"][0]["kind"] == "single-server"
    api("PATCH", "/v1/servers/a-left", {"risks": ["rack=r1"]})
    shown = api("GET", "/v1/sites/a/risks").body
    assert shown["groups"] == [{"name": "rack=r1", "servers": ["a-left"]}]
    assert shown["unknown"] == []
    api("PATCH", "/v1/servers/a-left", {"risks": []})
    refused(api, api("GET", "/v1/sites/nowhere/risks"), 404, None)


# ---- customers -----------------------------------------------------------------------------


@pytest.mark.parametrize("body, status, field", [
    ({}, 422, "/name"),
    ({"name": "Blue"}, 422, "/name"),
    ({"name": "blue", "vpn_id": 100}, 422, "/vpn_id"),
    ({"name": "blue", "vpn_id": 70000}, 422, "/vpn_id"),
    ({"name": "blue", "colour": "blue"}, 422, "/colour"),
    ([], 422, ""),
    ({"name": "green"}, 409, None),
])
def test_wrong_customers(api, body, status, field):
    refused(api, api("POST", "/v1/customers", body), status, field)


def test_customer_in_use(api):
    refused(api, api("DELETE", "/v1/customers/green"), 409, None, "green-a")


@pytest.mark.usefixtures("changes")
def test_a_customer_comes_and_goes(api):
    answer = api("POST", "/v1/customers", {"name": "blue"})
    assert answer.status == 201 and answer.body["vpn_id"] == 102
    assert answer.headers["Location"] == "/v1/customers/blue"
    assert api("DELETE", "/v1/customers/blue").status == 200
    assert api("GET", "/v1/customers/blue").status == 404


# ---- ports and CVMs ------------------------------------------------------------------------


@pytest.mark.parametrize("changes, field", [
    ({"customer": "blue"}, "/customer"),
    ({"site": "nowhere"}, "/site"),
    ({"name": "Red"}, "/name"),
    ({"switch_port": "cust1"}, "/switch_port"),
    ({"switch_port": "core"}, "/switch_port"),
    ({"switch_port": "trunk-left"}, "/switch_port"),
    ({"vlan": 4095}, "/vlan"),
    ({"addresses": ["192.168.1.1"]}, "/addresses/0"),
    ({"addresses": ["192.168.1.0/30"]}, "/addresses/0"),
    ({"addresses": ["192.168.1.1/30", "192.168.1.2/24"]}, "/addresses/1"),
    ({"addresses": ["100.64.1.1/30"],
      "ce": [{"address": "100.64.1.2", "asn": 65201}]}, "/addresses/0"),
    ({"ce": [{"address": "192.168.1.1", "asn": 65201}]}, "/ce/0/address"),
    ({"ce": [{"address": "192.168.9.2", "asn": 65201}]}, "/ce/0/address"),
    ({"ce": [{"address": "192.168.1.2"}]}, "/ce/0/asn"),
    ({"ce": [{"address": "192.168.1.2", "asn": 65000}]}, "/ce/0/asn"),
    ({"ce_mac": "52:54:00:12:34"}, "/ce_mac"),
    ({"server": "b-left"}, "/server"),
    ({"mtu": 100}, "/mtu"),
    ({"mtu": 1593}, "/mtu"),
    ({"vlna": 1}, "/vlna"),
])
def test_wrong_ports(api, changes, field):
    refused(api, api("POST", "/v1/ports", port(**changes)), 422, field)


def test_overlapping_links_of_one_customer(api):
    refused(api, api("POST", "/v1/ports", port(customer="green", addresses=["192.168.1.1/29"])),
            422, "/addresses/0", "192.168.1.1/30", "green-a")


def test_other_customers_may_overlap_but_no_server_answers(api):
    """With the same addresses as green's port nothing is wrong but the server."""
    refused(api, api("POST", "/v1/ports", port()), 503, None, "libvirtd")


@pytest.mark.usefixtures("changes")
def test_ranges_run_out(api):
    """The whole range of labels, then of VLANs, in use."""
    for name, narrow, usual in (("labels", "1000-1000", "1000-1999"),
                                ("vlans", "100-104", "100-3999")):
        assert api("PATCH", "/v1/sites/a", {name: narrow}).status == 200
        refused(api, api("POST", "/v1/ports", port()), 409, None, "exhausted", name)
        assert api("PATCH", "/v1/sites/a", {name: usual}).status == 200


def test_names_of_ports_are_unique(api):
    refused(api, api("POST", "/v1/ports", port(name="green-a")), 409, None, "green-a")


@pytest.mark.parametrize("change, field", [
    ({"customer": "red"}, "/customer"),
    ({"vlan": 7}, "/vlan"),
    ({"addresses": ["192.168.1.5/30"]}, "/ce/0/address"),
    ({"ce": []}, "/ce"),
    ({"addresse": []}, "/addresse"),
])
def test_wrong_changes_of_a_port(api, change, field):
    refused(api, api("PATCH", "/v1/ports/green-a", change), 422, field)


def test_cvms(api):
    refused(api, api("POST", "/v1/cvms", {"site": "a"}), 409)
    refused(api, api("POST", "/v1/cvms", {"site": "nowhere"}), 422, "/site")
    refused(api, api("DELETE", "/v1/cvms/a"), 409, None, "green-a")
    refused(api, api("DELETE", "/v1/cvms/nowhere"), 404)


def test_reading_a_port(api):
    body = api("GET", "/v1/ports/green-a").body
    assert body["label"] == 1000 and body["rd"] == "65000:1"
    assert body["vlans"] == {"cust": 102, "core": 103}
    assert body["mac"] == "02:ed:02:00:00:01" and body["inside_address"] == "100.64.1.10"
    assert body["status"] == "down" and body["server"] == "a-left"


def test_asking_a_vm_that_isnt_started_leaves_nothing(api):
    """As between a delete's steps: no entry is made, which nobody would take away again."""
    for path in ("/v1/pvms/green-a", "/v1/cvms/a"):
        refused(api, api("GET", path + "/rib"), 503, None, "isn't started")
        assert api("GET", path).body["vm"]["state"] == "absent"


# ---- moves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("body, status, field, word", [
    ({"server": "a-left"}, 409, None, "not-ready"),  # the port of this bench is half made
    ({"server": 7}, 422, "/server", "name of a server"),
    ({"server": "A left"}, 422, "/server", "name of a server"),
    ({"to": "a-left"}, 422, "/to", "no such field"),
    ([], 422, None, "object"),
    (None, 409, None, "not-ready"),
])
def test_wrong_moves(api, body, status, field, word):
    refused(api, api("POST", "/v1/pvms/green-a/migrate", body), status, field, word)


def test_moving_what_isnt_there(api):
    refused(api, api("POST", "/v1/pvms/nobody/migrate"), 404)
    refused(api, api("POST", "/v1/servers/nobody/drain"), 404)
    refused(api, api("POST", "/v1/servers/nobody/undrain"), 404)


@pytest.mark.usefixtures("changes")
def test_a_move_needs_another_server(bench):
    api = bench.api
    api.stop(signal.SIGTERM)
    api.seed("UPDATE pvms SET started = 1 WHERE port_id = 1;")
    api.start()
    try:
        move = "/v1/pvms/green-a/migrate"
        before = api.query("SELECT * FROM pvms")
        refused(api, api("POST", move, {"server": "a-left"}), 422, "/server", "already")
        refused(api, api("POST", move, {"server": "a-right"}), 422, "/server", "no server a-right")
        refused(api, api("POST", move), 409, None, "no other server")
        assert api.query("SELECT * FROM pvms") == before
        assert api("GET", "/v1/pvms/green-a").body["history"] == []
    finally:
        api.stop(signal.SIGTERM)
        api.seed("UPDATE pvms SET started = 0 WHERE port_id = 1;")
        api.start()


@pytest.mark.usefixtures("changes")
def test_a_drained_server_gets_no_vms(bench):
    """It says which PVM it can't get rid of, and stays out of service until it is undrained."""
    api = bench.api
    answer = api("POST", "/v1/servers/a-left/drain")
    assert answer.status == 202
    done = api("GET", f"/v1/operations/{answer.body['id']}?wait_ms=20000&since_step=8").body
    assert done["state"] == "failed"
    assert "green-a" in done["error"]["detail"] and "undrain a-left" in done["error"]["detail"]
    assert api("GET", "/v1/servers/a-left").body["drained"] is True
    refused(api, api("POST", "/v1/ports", port()), 409, None, "drained", "undrain")
    refused(api, api("POST", "/v1/ports", port(server="a-left")), 409, None, "drained")
    assert api("POST", "/v1/servers/a-left/undrain").body["drained"] is False
    refused(api, api("POST", "/v1/ports", port()), 503)


# ---- protection ----------------------------------------------------------------------------


@pytest.mark.parametrize("body, status, field, word", [
    ({"interval_ms": 24}, 422, "/interval_ms", "25 to 10000"),
    ({"interval_ms": "100ms"}, 422, "/interval_ms", "whole number"),
    ({"timeout_ms": 10001}, 422, "/timeout_ms", "100 to 10000"),
    ({"standby": 7}, 422, "/standby", "string"),
    ({"server": "a-left"}, 422, "/server", "no such field"),
    ([], 422, "", "object"),
    ({}, 409, None, "not-ready"),  # the CVM of this bench is half made
    (None, 409, None, "not-ready"),
])
def test_wrong_protections(api, body, status, field, word):
    refused(api, api("POST", "/v1/cvms/a/protect", body), status, field, word)


def test_protection_of_what_isnt_protected(api):
    refused(api, api("POST", "/v1/cvms/nobody/protect"), 404)
    refused(api, api("POST", "/v1/cvms/a/unprotect"), 409, None, "cvm protect a")
    refused(api, api("POST", "/v1/cvms/a/failover"), 409, None, "not-protected")
    refused(api, api("POST", "/v1/cvms/nobody/failover"), 404)
    assert api("GET", "/v1/cvms/a").body["protection"] is None


# ---- HTTP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"{", b"{} {}", b"\xff\xfe", b"nonsense", b'{"name":"x"\0}',
                                 b"[" * 5000, b'{"name":"\xc3\x28"'])
def test_not_json(api, raw):
    refused(api, api("POST", "/v1/customers", raw=raw), 400)


def test_too_large(api):
    refused(api, api("POST", "/v1/customers", raw=b" " * (1 << 20)), 413)


def test_unknown_things(api):
    for path in ("/", "/v1", "/v1/cities", "/v1/sites/", "/v1/sites/a/b", "/v1/sites/" + "x" * 200,
                 "/v1/sites/none", "/v1/operations/x", "/v1/operations/99", "/v1/pvms/none/rib"):
        refused(api, api("GET", path), 404)
    answer = api("PUT", "/v1/sites", {})
    refused(api, answer, 405)
    assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("query", ["wait_ms=x", "wait_ms=-1", "wait_ms=999999999", "since_step=1e3"])
def test_wrong_parameters(api, query):
    refused(api, api("GET", f"/v1/operations/1?{query}"), 422)


def test_garbage_on_the_socket(api):
    for data in (b"\0" * 4096, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                 b"POST /v1/sites HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                 b"POST /v1/sites HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n{}"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(api.socket)
            connection.sendall(data)
    assert api("GET", "/v1/health").status == 200


def test_slow_clients_hold_nobody(api):
    connections = []
    for _ in range(40):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(api.socket)
        connection.sendall(b"POST /v1/customers HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        connections.append(connection)
    assert api("GET", "/v1/health", timeout=20).status == 200
    for connection in connections:
        connection.close()


def test_every_route_of_the_document_answers(api):
    document = api("GET", "/v1/openapi.json").body
    n = 0
    for path, methods in document["paths"].items():
        for method, what in methods.items():
            real = path.replace("{name}", "no-such").replace("{id}", "0")
            body = {} if "requestBody" in what else None
            answer = api(method.upper(), real, body)
            assert answer.status != 405 and answer.status < 500, (method, path, answer)
            if "{" in path:
                assert answer.status == 404, (method, path, answer)
            elif method == "post":
                assert answer.status == 422, (method, path, answer)
            else:
                assert answer.status == 200, (method, path, answer)
            n += 1
    assert n >= 40
    # What it refers to, it has.
    text = json.dumps(document)
    for reference in set(part.split('"')[0] for part in text.split("#/components/schemas/")[1:]):
        assert reference in document["components"]["schemas"]


def later_site(bench, name):
    """A site whose creation is an event."""
    return site(name, 40, pe_address="10.0.0.40", switch=bench.targets[1],
                core={**site(n=40)["core"], "switch_port": "b-core"})


def test_events_newest_first_and_awaited(bench):
    api = bench.api
    items = api("GET", "/v1/events").body["items"]
    ids = [event["id"] for event in items]
    assert ids == sorted(ids) and ids
    newest = [e["id"] for e in api("GET", "/v1/events?before=0").body["items"]]
    assert newest[-len(ids):] == ids[::-1]
    below = api("GET", f"/v1/events?before={ids[-1]}&after={ids[0]}&limit=3").body["items"]
    assert [e["id"] for e in below] == ids[1:-1][::-1][:3]
    assert api("GET", "/v1/events?wait_ms=x").status == 422
    last = newest[0]
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(
        api("GET", f"/v1/events?after={last}&wait_ms=30000").body["items"]))
    waiting.start()
    assert api("POST", "/v1/sites", later_site(bench, "waited")).status == 201
    waiting.join(30)
    assert answers and answers[0][0]["id"] == last + 1
    assert api("DELETE", "/v1/sites/waited").status == 200


def test_events_are_streamed(bench):
    api = bench.api
    last = api("GET", "/v1/events?before=0&limit=1").body["items"][0]["id"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(api.socket)
        connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: e\r\nAccept: text/event-stream\r\n"
                           b"Last-Event-ID: %d\r\n\r\n" % (last - 1))
        stream = connection.makefile("r", encoding="utf-8", newline="\n")

        def event():
            number = next(line for line in stream if line.startswith("id: "))
            data = next(line for line in stream if line.startswith("data: "))
            found = json.loads(data.removeprefix("data: "))
            assert found["id"] == int(number.removeprefix("id: "))
            return found

        assert "200" in stream.readline()
        assert event()["id"] == last
        assert api("POST", "/v1/sites", later_site(bench, "streamed")).status == 201
        while "site streamed was created" not in event()["text"]:
            pass
    assert api("DELETE", "/v1/sites/streamed").status == 200


def test_metrics(api):
    answer = api("GET", "/metrics")
    assert answer.type == "text/plain"
    lines = answer.body.splitlines()
    assert 'edgeplex_switch_connected{site="a"} 1' in lines
    assert 'edgeplex_server_connected{server="a-left",site="a"} 0' in lines
    assert 'edgeplex_ports{status="down"} 1' in lines
    assert any(line.startswith('edgeplex_api_requests_total{outcome="refused"}') for line in lines)
    for line in lines:
        assert line.startswith("#") or float(line.rsplit(" ", 1)[1]) >= 0


# ---- the process ---------------------------------------------------------------------------


def test_a_second_one_is_refused(api):
    for options, word in (({}, "state directory"),
                          ({"state-dir": f"{api.state}2"}, "another edgeplexd")):
        run = subprocess.run(api.argv(**options), capture_output=True, text=True, timeout=60,
                             check=False)
        assert run.returncode == 1 and word in run.stderr, run.stderr
        assert api("GET", "/v1/health").status == 200


def test_usage(api):
    run = subprocess.run([api.argv()[0], "--nonsense"], capture_output=True, text=True, timeout=60,
                         check=False)
    assert run.returncode == 2 and "usage:" in run.stderr
    run = subprocess.run(api.argv() + ["more"], capture_output=True, text=True, timeout=60,
                         check=False)
    assert run.returncode == 2


def test_kill_and_restart_lose_nothing(bench):
    """What was answered is kept, and the switch keeps its flows, age and all."""
    api = bench.api
    before = api.snapshot()
    wait_until(lambda: bench.switch.flows("edge-a") is not None, 20, "the flow table is read")
    for number in (signal.SIGKILL, signal.SIGTERM):
        status = api.stop(number)
        assert status == (0 if number == signal.SIGTERM else -number)
        api.start()
        wait_until(lambda: api("GET", "/v1/sites/a").body["switch_connected"], 20,
                   "the switch is connected again")
        assert api.snapshot() == before


@pytest.mark.usefixtures("changes")
def test_kill_in_the_middle_of_writing(bench):
    """Killed while requests come in: what was acknowledged is there afterwards."""
    api = bench.api
    created, stop = [], threading.Event()

    def create():
        n = 0
        while not stop.is_set():
            n += 1
            try:
                if api("POST", "/v1/customers", {"name": f"c{n}"}).status == 201:
                    created.append(f"c{n}")
            except OSError:
                return

    writer = threading.Thread(target=create)
    writer.start()
    wait_until(lambda: len(created) >= 20, 30, "some customers are there")
    api.stop(signal.SIGKILL)
    stop.set()
    writer.join()
    api.start()
    names = {item["name"] for item in api("GET", "/v1/customers").body["items"]}
    assert names.issuperset(created)
    for name in names - {"green", "red"}:
        assert api("DELETE", f"/v1/customers/{name}").status == 200


# An operation that was killed before its last step: (verb, is it
# being undone, its settled steps, the step that isn't, the state that it must come to).
@pytest.mark.parametrize("verb, undoing, settled, last, outcome", [
    ("create", 1, [("allocate", 2), ("place", 4), ("start-vm", 4)], None, "failed"),
    ("delete", 0, [("withdraw", 2), ("fence", 2), ("leave-cvm", 2), ("stop-vm", 2)], ("release", 1), "succeeded"),
])
@pytest.mark.usefixtures("changes")
def test_an_operation_goes_on_after_a_crash(bench, verb, undoing, settled, last, outcome):
    """Killed when only the database was left to be done: it is done at the next start."""
    api = bench.api
    api.stop(signal.SIGKILL)
    steps = settled + ([last] if last else [])
    rows = ", ".join(f"(7000, {i}, '{name}', {state}, 0, 0, '')"
                     for i, (name, state) in enumerate(steps))
    api.seed(f"""
        INSERT INTO ports VALUES (70, 'crash', 2, 1, 'cust2', 0, 1500, NULL, '', 120);
        INSERT INTO pvms VALUES (70, {2 if verb == 'delete' else 0}, 1,
            '00000000-0000-4000-8000-000000000070', 1500, 500, 501, 70, '100.64.1.70', 0, 0, 0, 0,
            NULL);
        INSERT INTO allocations VALUES (1, 'label', 1500, 'port/crash'), (0, 'rd', 70, 'port/crash');
        INSERT INTO operations VALUES (7000, '{verb}', 'port/crash', 0, {undoing}, 1, 0, 0,
            {500 if undoing else 0}, '{'vm-failed' if undoing else ''}', 'no');
        INSERT INTO operation_steps VALUES {rows};""")
    api.start()
    operation = wait_until(
        lambda: next((o for o in [api("GET", "/v1/operations/7000?wait_ms=10000&since_step=8").body]
                      if o["state"] != "running"), None), 30, "the operation ends")
    assert operation["state"] == outcome, operation
    assert api("GET", "/v1/ports/crash").status == 404
    if undoing:
        assert "taken back" in operation["error"]["detail"]
    api.stop(signal.SIGKILL)
    left = api.query("SELECT count(*) FROM allocations WHERE owner = 'port/crash'")
    api.seed("DELETE FROM operation_steps; DELETE FROM operations;")
    api.start()
    assert left == [(0,)]


@pytest.mark.usefixtures("changes")
def test_a_clock_that_was_set_back_holds_nobody_up(bench):
    """The wait for service began tomorrow, as it seems: it takes no longer than it should."""
    api = bench.api
    api.stop(signal.SIGKILL)
    tomorrow = int((time.time() + 86400) * 1000)
    api.seed(f"""
        INSERT INTO ports VALUES (71, 'clock', 2, 1, 'cust2', 0, 1500, NULL, '', 120);
        INSERT INTO pvms VALUES (71, 1, 1, '00000000-0000-4000-8000-000000000071', 1700, 700, 701,
            71, '100.64.1.71', 0, 0, 0, 0, NULL);
        INSERT INTO operations VALUES (7001, 'change', 'port/clock', 0, 0, 1, {tomorrow}, 0, 0, '', '');
        INSERT INTO operation_steps VALUES (7001, 0, 'configure-pvm', 2, 0, 0, ''),
            (7001, 1, 'program-switch', 2, 0, 0, ''), (7001, 2, 'wait-for-routes', 1, 0, 0, '');""")
    api.start()
    wait_until(lambda: api("GET", "/v1/operations/7001").body["state"] != "running", 20,
               "the operation ends")
    api.stop(signal.SIGKILL)
    api.seed("""DELETE FROM operation_steps; DELETE FROM operations;
        DELETE FROM pvms WHERE port_id = 71; DELETE FROM ports WHERE id = 71;""")
    api.start()


@pytest.mark.usefixtures("changes")
def test_a_port_that_the_switch_lost_holds_up_no_other_customer(bench):
    """Rules that can't be written wait; those of the others are taken away and written."""
    api = bench.api
    api.stop(signal.SIGKILL)
    api.seed("""
        INSERT INTO ports VALUES (80, 'lost', 2, 1, 'gone0', 0, 1500, NULL, '', 120);
        INSERT INTO pvms VALUES (80, 1, 1, '00000000-0000-4000-8000-000000000080', 1600, 600, 601,
            80, '100.64.1.80', 0, 0, 1, 0, NULL);
        INSERT INTO ports VALUES (81, 'going', 1, 1, 'cust2', 0, 1500, NULL, '', 120);
        INSERT INTO pvms VALUES (81, 1, 1, '00000000-0000-4000-8000-000000000081', 1601, 602, 603,
            81, '100.64.1.81', 0, 0, 1, 0, NULL);""")
    api.start()
    wait_until(lambda: "602" in bench.switch.ofctl("dump-flows", "edge-a"), 30, "its flows are there")
    number = api("DELETE", "/v1/ports/going").body["id"]

    def fence():
        steps = api("GET", f"/v1/operations/{number}").body["steps"]
        return next(step for step in steps if step["name"] == "fence")

    step = wait_until(lambda: fence()["state"] in ("succeeded", "failed") and fence(), 30, "the fence is up")
    assert step["state"] == "succeeded" and "left out" in step["detail"], step
    assert "602" not in bench.switch.ofctl("dump-flows", "edge-a")
    api.stop(signal.SIGKILL)
    api.seed("""DELETE FROM operation_steps; DELETE FROM operations;
        DELETE FROM pvms WHERE port_id > 79; DELETE FROM ports WHERE id > 79;""")
    api.start()


def test_an_old_database_is_taken_over():
    with Lab("old") as lab:
        api = Daemon(lab, start=False)
        os.mkdir(api.state)
        with open(f"{HERE}/data/schema-1.sql", encoding="utf-8") as file:
            api.seed(file.read())
        api.start()
        found = api("GET", "/v1/servers/a-left").body
        assert (found["hostd"], found["memory_mib"], found["site"]) == (None, 2048, "a")
        assert found["risks"] == []
        assert api("GET", "/v1/ports/green-a").body["label"] == 1000
        assert api.stop(signal.SIGTERM) == 0
        # Once more: nothing is left to be taken over.
        api.start()
        assert api("GET", "/v1/servers/a-left").body["hostd"] is None


def test_failovers_are_taken_over():
    """From a database whose protections had them, while a standby was taking over."""
    with Lab("older") as lab:
        api = Daemon(lab, start=False)
        os.mkdir(api.state)
        with open(f"{HERE}/data/schema-1.sql", encoding="utf-8") as file:
            api.seed(file.read())
        api.start()
        assert api.stop(signal.SIGTERM) == 0
        api.seed("""DROP TABLE cvm_failovers; DROP TABLE cvm_protections;
            CREATE TABLE cvm_protections (site_id INTEGER PRIMARY KEY REFERENCES cvms(site_id)
             ON DELETE CASCADE, ending INTEGER NOT NULL, wanted_server TEXT NOT NULL,
             interval_ms INTEGER NOT NULL, timeout_ms INTEGER NOT NULL, state INTEGER NOT NULL,
             standby_id INTEGER REFERENCES servers(id), failovers INTEGER NOT NULL,
             last_ms INTEGER NOT NULL, last_why INTEGER NOT NULL, last_from TEXT NOT NULL,
             last_to TEXT NOT NULL, last_fenced_us INTEGER NOT NULL,
             last_running_us INTEGER NOT NULL, last_detail TEXT NOT NULL) STRICT;
            INSERT INTO servers SELECT 2, 'a-right', site_id, 'qemu:///other', bridge, 'trunk-right',
             memory_mib, hostd, drained FROM servers;
            INSERT INTO cvms VALUES (1, 1, 1, '00000000-0000-4000-8000-000000000001', 100, 101,
             '100.64.1.1', 1, 0, 0, NULL);
            INSERT INTO cvm_protections VALUES (1, 0, '', 100, 1000, 0, NULL, 3, 1000, 4, 'a-right',
             'a-left', 2500, 68210, 'how it went');
            PRAGMA user_version = 7;""")
        last = {"time": "1970-01-01T00:00:01.000Z", "from": "a-right", "to": "a-left", "why": "trunk-down",
                "noticed_to_running_us": 68210, "fenced_us": 2500, "detail": "how it went"}
        api.start()
        found = api("GET", "/v1/cvms/a").body
        assert (found["failovers"], found["last_failover"]) == (3, last)
        assert found["protection"]["failovers"] == 3 and found["protection"]["last_failover"] == last
        assert 'edgeplex_cvm_failovers_total{site="a"} 3' in api("GET", "/metrics").body.splitlines()
