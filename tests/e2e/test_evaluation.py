# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make evaluation` is made of: the inventory here; other gear, video and report in files beside."""

import tomllib

import pytest

from bed import bed as bed_module
from bed import inventory
from bed import topology as topo


def _found():
    with open(bed_module.INVENTORY, "rb") as file:
        return tomllib.load(file)


def test_the_testbed_writes_its_inventory():
    found = inventory.load(bed_module.INVENTORY)
    assert {s["name"]: s["uri"] for s in found["server"]} == {s.name: s.far_uri for s in topo.SERVERS}
    assert {s["name"]: s["switch"] for s in found["site"]} == {s.name: s.switch for s in topo.SITES}
    assert tomllib.loads(inventory.text(found)) == found


@pytest.mark.parametrize("table, field, value, words", [
    ("site", "transport_label", 3, "site a: field transport_label must be a number from 16"),
    ("site", "place", "netns: x", "site a: field place must be"),
    ("site", "switch", "6653", "site a: field switch must begin with unix: or tcp:"),
    ("server", "uri", "", "server a-left: field uri must begin with qemu"),
    ("server", "site", "z", "server a-left: field site names z, but the sites are a, b"),
    ("server", "name", "b-left", "server b-left: there is another of that name"),
    ("server", "power_off", ["true"], "server a-left: power_off and power_on go together"),
    ("server", "rack", "r1", "server a-left: there is no field rack"),
    ("customer_edge", "host6", "10.0.0.1", "customer_edge number 1: field host6 must be an IPv6 address"),
    ("customer_edge", "control", None, "customer_edge number 1: field control is missing"),
])
def test_a_mistake_is_told_with_entry_and_field(tmp_path, table, field, value, words):
    found = _found()
    found[table][0][field] = value
    if value is None:
        del found[table][0][field]
    path = tmp_path / "inventory.toml"
    path.write_text(inventory.text(found), encoding="utf-8")
    with pytest.raises(inventory.InventoryError) as error:
        inventory.load(path)
    assert str(error.value).startswith(f"{path}: {words}")


def test_what_is_no_inventory_is_told(tmp_path):
    path = tmp_path / "inventory.toml"
    with pytest.raises(inventory.InventoryError, match="can't be read"):
        inventory.load(path)
    path.write_text("[provider", encoding="utf-8")
    with pytest.raises(inventory.InventoryError, match="isn't TOML"):
        inventory.load(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(inventory.InventoryError, match=r"table \[provider\] is missing"):
        inventory.load(path)
