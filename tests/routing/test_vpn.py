# SPDX-License-Identifier: GPL-2.0-or-later
"""PVMs, their CVMs and a stock FRR route reflector in the core."""

import pytest

from lib.lab import Lab, wait_until
from rlab import ifindex
from vpnlab import CE4, CE6, CVM_INSIDE, GREEN, PE, RED, RR, Net, bird_conf, gateway, tunnels


@pytest.fixture(name="net")
def _net():
    with Lab("rvpn") as lab:
        net = Net(lab)
        yield net
        net.close()


@pytest.fixture(name="two")
def _two(net):
    """Green and red with the same prefixes at both sites."""
    a, b = net.site("a"), net.site("b")
    a.add("ga", 1, GREEN, ["10.1.0.0/16", "10.3.0.0/16"], ["fd00:1::/48"])
    a.add("ra", 2, RED, ["10.1.0.0/16"], ["fd00:1::/48"])
    b.add("gb", 11, GREEN, ["10.2.0.0/16"], ["fd00:2::/48"])
    b.add("rb", 12, RED, ["10.2.0.0/16", "10.4.0.0/16"], ["fd00:2::/48"])
    for site in (a, b):
        site.configure_cvm()
        site.wait_up()
    wait_until(lambda: b.pvms["gb"].ce_route("10.1.0.0/16"), 20, "A's routes at B's CE")
    wait_until(lambda: a.pvms["ra"].ce_route("10.4.0.0/16"), 20, "B's routes at A's CE")
    return net


def test_the_core_sees_one_router(two):
    a = two.sites["a"]
    for rd, rt, label, asn in (("65000:1", GREEN, 1001, "65101"), ("65000:2", RED, 1002, "65102")):
        for family, prefix in (("ipv4", "10.1.0.0/16"), ("ipv6", "fd00:1::/48")):
            path = wait_until(lambda: two.rr_path(rd, prefix, family), 10, f"{rd} {prefix}")
            assert path["valid"]
            # RFC 4659 section 3.2.1.2: ::ffff:10.0.0.1
            assert [n["ip"] for n in path["nexthops"]] == [
                PE["a"] if family == "ipv4" else "::ffff:a00:1"]
            assert path["remoteLabel"] == label
            assert path["extendedCommunity"]["string"] == f"RT:{rt}"
            assert path["aspath"]["string"] == asn
            assert path["originatorId"] == PE["a"]
    status = a.cvm.status()
    assert [(n["role"], n.get("name")) for n in status["neighbors"]] == [
        ("core", None), ("pvm", "ga"), ("pvm", "ra")]
    assert status["rib"]["vpnv4"] == 6
    best = a.cvm.best("vpnv4", ("65000:1", "10.1.0.0/16"))
    assert (best["from"], best["next_hop"], best["label"], best["rts"]) == (
        "100.64.1.11", PE["a"], 1001, [GREEN])


def test_routes_cross_the_vpn_and_only_ones_own(two):
    ga, ra = two.sites["a"].pvms["ga"], two.sites["a"].pvms["ra"]
    gb, rb = two.sites["b"].pvms["gb"], two.sites["b"].pvms["rb"]
    core = ifindex(two.lab, gb.ns, "core")
    for key, label in (("10.1.0.0/16", 1001), ("fd00:1::/48", 1001)):
        wait_until(lambda: gb.fwd.get(key), 10, f"{key} in the FIB")
        assert gb.fwd.get(key) == [
            {"ifindex": core, "via": gateway("b"), "labels": [16001, label]}]
    wait_until(lambda: rb.fwd.get("10.1.0.0/16"), 10, "red's in the FIB")
    assert rb.fwd.get("10.1.0.0/16")[0]["labels"] == [16001, 1002]

    route = gb.ce_route("10.1.0.0/16")
    assert "BGP.as_path: 65000 65101" in route and "BGP.next_hop: 192.168.1.1" in route
    route = wait_until(lambda: gb.ce_route("fd00:1::/48", "pe6"), 10, "IPv6 at the CE")
    assert "BGP.as_path: 65000 65101" in route and "BGP.next_hop: fd00:a1::1" in route

    # What there is only in the other VPN is nowhere here.
    assert not rb.ce_route("10.3.0.0/16") and rb.fwd.get("10.3.0.0/16") is None
    assert not ga.ce_route("10.4.0.0/16") and ga.fwd.get("10.4.0.0/16") is None
    # Nor was it ever sent; and nobody is sent its own routes.
    assert ga.daemon.neighbor(CVM_INSIDE)["families"]["vpnv4"]["received"] == 1
    assert ra.daemon.neighbor(CVM_INSIDE)["families"]["vpnv4"]["received"] == 2
    assert two.sites["a"].cvm.neighbor(ga.inside)["families"]["vpnv4"]["sent"] == 1

    gone = ga.ce
    gone.configure(bird_conf(ga.asn, ["10.3.0.0/16"], []))
    wait_until(lambda: not gb.ce_route("10.1.0.0/16"), 10, "withdrawn at the far CE")
    wait_until(lambda: gb.fwd.get("10.1.0.0/16") is None, 10, "out of the far FIB")
    wait_until(lambda: gb.fwd.get("fd00:1::/48") is None, 10, "IPv6 too")
    assert gb.ce_route("10.3.0.0/16") and rb.ce_route("10.1.0.0/16")


def test_several_ports_of_a_customer_share_the_load(net):
    a, b = net.site("a"), net.site("b")
    both = ["10.1.0.0/16"]
    a.add("g1", 1, GREEN, both)
    a.add("g2", 2, GREEN, both)
    gb = b.add("gb", 11, GREEN)
    for site in (a, b):
        site.configure_cvm()
        site.wait_up()
    wait_until(lambda: [h["labels"] for h in gb.fwd.get("10.1.0.0/16") or []] == [
        [16001, 1001], [16001, 1002]], 20, "two next hops")
    paths = gb.daemon.routes("ipv4")["10.1.0.0/16"]
    assert sorted((p["label"], p["multipath"] or p["best"]) for p in paths) == [
        (1001, True), (1002, True)]
    # The other port of the same site is reached by the edge switch: no transport label.
    g1 = a.pvms["g1"]
    own = wait_until(lambda: g1.fwd.get("10.1.0.0/16"), 10, "own CE's route")
    assert [h["via"] for h in own] == [CE4]
    g1.ce.configure(bird_conf(g1.asn))
    wait_until(lambda: [h["labels"] for h in g1.fwd.get("10.1.0.0/16") or []] == [[1002]], 10,
               "by the other port")
    wait_until(lambda: [h["labels"] for h in gb.fwd.get("10.1.0.0/16") or []] == [[16001, 1002]],
               10, "one next hop")


def test_next_hops_that_cant_be_reached_are_not_used(two):
    gb = two.sites["b"].pvms["gb"]
    wait_until(lambda: gb.fwd.get("10.1.0.0/16"), 10, "in the FIB")
    gb.reconfigure(tunnels=tunnels("b")[1:])
    wait_until(lambda: gb.fwd.get("10.1.0.0/16") is None, 10, "no tunnel, no route")
    assert gb.daemon.routes("ipv4")["10.1.0.0/16"][0]["valid"] is False
    wait_until(lambda: not gb.ce_route("10.1.0.0/16"), 10, "nor at the CE")
    changed = tunnels("b")
    changed[0]["labels"] = [17001, 17002]
    gb.reconfigure(tunnels=changed)
    wait_until(lambda: (gb.fwd.get("10.1.0.0/16") or [{}])[0].get("labels") == [
        17001, 17002, 1001], 10, "by the new labels")
    wait_until(lambda: gb.ce_route("10.1.0.0/16"), 10, "at the CE again")

    two.lab.run(two.sites["b"].lan, ["ip", "link", "set", "gb", "down"])
    wait_until(lambda: gb.fwd.get("10.1.0.0/16") is None, 10, "no link, no route")
    wait_until(lambda: not gb.ce_route("10.1.0.0/16"), 10, "nor at the CE")
    two.lab.run(two.sites["b"].lan, ["ip", "link", "set", "gb", "up"])
    wait_until(lambda: gb.fwd.get("10.1.0.0/16"), 20, "back with the link")
    assert gb.daemon.established(CE4, CE6)


def test_a_changed_label_is_told(two):
    ga, gb = two.sites["a"].pvms["ga"], two.sites["b"].pvms["gb"]
    wait_until(lambda: gb.fwd.get("10.1.0.0/16") and gb.fwd.get("fd00:1::/48"), 10, "in the FIB")
    ga.reconfigure(vpn={**ga.config["vpn"], "label": 1777})
    for key in ("10.1.0.0/16", "fd00:1::/48"):
        wait_until(lambda k=key: gb.fwd.get(k)[0]["labels"] == [16001, 1777], 10,
                   f"{key} by the new label")
    assert ga.fwd.get(1777) and ga.fwd.get(1001) is None
    assert two.sites["a"].cvm.neighbor(ga.inside)["resets"] == 0


def test_pvms_come_and_go_without_touching_others(two):
    a = two.sites["a"]
    before = {n["address"]: (n["resets"], n["state"]) for n in a.cvm.status()["neighbors"]}
    ga_up = a.pvms["ga"].daemon.neighbor(CVM_INSIDE)
    a.add("na", 3, GREEN, ["10.5.0.0/16"])
    a.configure_cvm()
    a.cvm.wait_established(a.pvms["na"].inside)
    gb = two.sites["b"].pvms["gb"]
    wait_until(lambda: gb.ce_route("10.5.0.0/16"), 20, "the new one's routes")
    after = {n["address"]: (n["resets"], n["state"]) for n in a.cvm.status()["neighbors"]}
    assert {k: after[k] for k in before} == before
    ra = a.pvms.pop("ra")
    a.configure_cvm()
    assert a.cvm.neighbor(ra.inside) is None
    wait_until(lambda: not any(rd == "65000:2" for rd, _ in two.rr_table()), 10, "ra is gone")
    assert a.cvm.neighbor(a.pvms["ga"].inside)["resets"] == 0
    now = a.pvms["ga"].daemon.neighbor(CVM_INSIDE)
    assert now["resets"] == ga_up["resets"] and now["uptime_ms"] >= ga_up["uptime_ms"]
    a.pvms["ra"] = ra


def test_route_targets_can_change(two):
    a, gb = two.sites["a"], two.sites["b"].pvms["gb"]
    ra = a.pvms["ra"]
    # ra's routes become green's: told by both of its configurations.
    ra.rt = GREEN
    a.configure_cvm()
    ra.reconfigure(vpn={**ra.config["vpn"], "import_rts": [GREEN], "export_rts": [GREEN]})
    ra.ce.configure(bird_conf(ra.asn, ["10.7.0.0/16"]))
    wait_until(lambda: gb.ce_route("10.7.0.0/16"), 20, "now green")
    wait_until(lambda: ra.ce_route("10.2.0.0/16"), 20, "and gets green's")
    wait_until(lambda: not ra.ce_route("10.4.0.0/16"), 20, "but red's no longer")
    assert ra.daemon.neighbor(CVM_INSIDE)["resets"] == 0
    # A PVM that lies about its RTs is not believed.
    ra.reconfigure(vpn={**ra.config["vpn"], "export_rts": [RED]})
    rb = two.sites["b"].pvms["rb"]
    wait_until(lambda: not gb.ce_route("10.7.0.0/16"), 20, "no longer green")
    assert not rb.ce_route("10.7.0.0/16")


def test_a_restarted_cvm_is_no_withdrawal(two):
    a = two.sites["a"]
    gb, ga = two.sites["b"].pvms["gb"], a.pvms["ga"]
    wait_until(lambda: gb.fwd.get("10.1.0.0/16") and ga.fwd.get("10.2.0.0/16"), 10, "routes")
    a.cvm.kill()
    wait_until(lambda: ga.daemon.neighbor(CVM_INSIDE)["state"] != "Established", 20, "noticed")
    seen = []
    a.cvm.start()

    def back():
        seen.append((bool(gb.fwd.get("10.1.0.0/16")), bool(ga.fwd.get("10.2.0.0/16")),
                     bool(gb.ce_route("10.1.0.0/16"))))
        return a.cvm.established(RR, ga.inside, a.pvms["ra"].inside) and \
            a.cvm.status()["rib"]["vpnv4"] == 6

    wait_until(back, 40, "the CVM is back with every route")
    wait_until(lambda: all(f["eor"] for f in a.cvm.neighbor(RR)["families"].values()), 20, "EoR")
    assert all(all(s) for s in seen), seen
    wait_until(lambda: two.rr_path("65000:1", "10.1.0.0/16"), 10, "in the core")
    assert gb.ce_route("10.1.0.0/16") and ga.ce_route("10.2.0.0/16")


def test_what_a_restarted_cvm_does_not_repeat_goes(two):
    """Withdrawn while the CVM was away: also from the customer's table, from its FIB and its CE."""
    a, rb = two.sites["a"], two.sites["b"].pvms["rb"]
    ra = a.pvms["ra"]
    for key in ("10.4.0.0/16", "fd00:2::/48"):
        wait_until(lambda k=key: ra.fwd.get(k) and ra.ce_route(k, "pe6" if ":" in k else "pe4"), 10,
                   f"{key} is there")
    a.cvm.kill()
    wait_until(lambda: ra.daemon.neighbor(CVM_INSIDE)["state"] != "Established", 20, "noticed")
    two.lab.run(None, ["birdc", "-s", rb.ce.control, "disable", "s4"])
    wait_until(lambda: not two.rr_path("65000:12", "10.4.0.0/16"), 20, "withdrawn in the core")
    assert ra.fwd.get("10.4.0.0/16"), "kept meanwhile"
    a.cvm.start()
    wait_until(lambda: not ra.fwd.get("10.4.0.0/16") and not ra.fwd.get("10.2.0.0/16"), 60,
               "gone from the FIB")
    wait_until(lambda: not ra.ce_route("10.4.0.0/16"), 10, "gone at the CE")
    assert not {"10.4.0.0/16", "10.2.0.0/16"} & set(ra.daemon.routes("ipv4"))
    # What was repeated stays.
    assert ra.fwd.get("fd00:2::/48") and ra.ce_route("fd00:2::/48", "pe6")
