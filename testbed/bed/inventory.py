# SPDX-License-Identifier: GPL-2.0-or-later
"""An inventory: what there is of sites, servers and customer edges, and how each is reached (TOML;
testbed/README.md explains the fields). The testbed writes one of itself; with EDGEPLEX_INVENTORY=FILE
topology.py takes what it knows from that file, so that what runs on the testbed runs on real servers.

Whatever is wrong with a file is an InventoryError that names file, entry and field.
"""

import ipaddress
import json
import re
import tomllib

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
PLACE = re.compile(r"netns:[\w.-]+|ssh:[\w.@:-]+|local")


class InventoryError(ValueError):
    """What is wrong, and where."""


# ---- kinds of values: each returns what is wrong with a value, or None -----------------------


def _text(value):
    return None if isinstance(value, str) and value else "must be a text"


def _name(value):
    good = isinstance(value, str) and NAME.fullmatch(value)
    return None if good else "must be a name of small letters, digits and -, at most 31"


def _number(low, high):
    def check(value):
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if good else f"must be a number from {low} to {high}"
    return check


def _parsed(parse, what):
    def check(value):
        try:
            parse(value if isinstance(value, str) else "")
        except ValueError:
            return f"must be {what}"
        return None
    return check


def _place(value):
    good = isinstance(value, str) and PLACE.fullmatch(value)
    return None if good else 'must be "netns:NAME", "ssh:[USER@]HOST" or "local"'


def _command(value):
    good = isinstance(value, list) and value and all(isinstance(word, str) for word in value)
    return None if good else "must be a command: a list of texts"


def _one_of(*words):
    return lambda value: None if value in words else f"must be one of {', '.join(words)}"


def _begins(*heads):
    def check(value):
        good = isinstance(value, str) and value.startswith(heads)
        return None if good else f"must begin with {' or '.join(heads)}"
    return check


def _hosts(value):
    """{"10.66.0.0/16" = "10.66.0.1"}"""
    if not isinstance(value, dict):
        return "must be a table of prefixes, each with a host in it"
    for prefix, address in value.items():
        try:
            if ipaddress.ip_address(address) not in ipaddress.ip_network(prefix):
                return f"has {address}, which isn't in {prefix}"
        except ValueError:
            return f"has {prefix} = {address}, which isn't a prefix and a host in it"
    return None


_ADDRESS4 = _parsed(ipaddress.IPv4Address, "an IPv4 address")
_ASN = _number(1, 4294967295)
# {table: {field: (kind, is it needed?)}}
SINGLE = {
    "provider": {"asn": (_ASN, True), "route_reflector": (_ADDRESS4, True)},
    "controller": {"socket": (_text, True)},
}
LISTS = {
    "site": {
        "name": (_name, True), "pe_address": (_ADDRESS4, True),
        "core_address": (_parsed(ipaddress.IPv4Interface, "an IPv4 address with a length"), True),
        "core_gateway": (_ADDRESS4, True), "transport_label": (_number(16, 1048575), True),
        "switch": (_begins("unix:", "tcp:", "ssl:"), True), "place": (_place, True)},
    "server": {
        "name": (_name, True), "site": (_name, True), "uri": (_begins("qemu"), True),
        "hostd": (_begins("unix:", "tcp:"), True), "bridge": (_text, True), "trunk": (_text, True),
        "place": (_place, True), "address": (_ADDRESS4, True),
        "power_off": (_command, False), "power_on": (_command, False)},
    "customer_edge": {
        "customer": (_name, True), "site": (_name, True), "switch_port": (_text, True), "asn": (_ASN, True),
        "link4": (_parsed(lambda v: ipaddress.IPv4Address(v + ".1"), "an IPv4 address without its last number"),
                  True),
        "link6": (_parsed(lambda v: ipaddress.IPv6Address(v + ":1"),
                          "an IPv6 address without its last :1"), True),
        "prefix4": (_parsed(ipaddress.IPv4Network, "an IPv4 prefix"), True),
        "prefix6": (_parsed(ipaddress.IPv6Network, "an IPv6 prefix"), True),
        "host4": (_ADDRESS4, True),
        "host6": (_parsed(ipaddress.IPv6Address, "an IPv6 address"), True),
        "router": (_one_of("bird", "frr"), True), "control": (_text, True), "place": (_place, True),
        "only_here": (_hosts, False)},
}


# ---- reading --------------------------------------------------------------------------------


def _check_entry(path, where, entry, fields):
    if not isinstance(entry, dict):
        raise InventoryError(f"{path}: {where} must be a table")
    for name in entry:
        if name not in fields:
            raise InventoryError(f"{path}: {where}: there is no field {name}; there are {', '.join(fields)}")
    for name, (check, needed) in fields.items():
        if name not in entry:
            if needed:
                raise InventoryError(f"{path}: {where}: field {name} is missing")
            continue
        wrong = check(entry[name])
        if wrong:
            raise InventoryError(f"{path}: {where}: field {name} {wrong}, not {json.dumps(entry[name])}")


def _label(table, number, entry):
    """How messages call an entry of a list."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"{table} {name}" if isinstance(name, str) else f"{table} number {number}"


def check(path, found):
    """Raises InventoryError unless `found` (what a file says) is an inventory."""
    for table in found:
        if table not in SINGLE and table not in LISTS:
            raise InventoryError(f"{path}: there is no table {table}; there are {', '.join((*SINGLE, *LISTS))}")
    for table, fields in SINGLE.items():
        if table not in found:
            raise InventoryError(f"{path}: table [{table}] is missing")
        _check_entry(path, table, found[table], fields)
    for table, fields in LISTS.items():
        entries = found.get(table)
        if not isinstance(entries, list) or not entries:
            raise InventoryError(f"{path}: there must be at least one [[{table}]]")
        seen = set()
        for number, entry in enumerate(entries, 1):
            _check_entry(path, _label(table, number, entry), entry, fields)
            name = entry.get("name", (entry.get("customer"), entry["site"] if "site" in entry else None))
            if name in seen:
                raise InventoryError(f"{path}: {_label(table, number, entry)}: there is another of that name")
            seen.add(name)
    sites = {site["name"] for site in found["site"]}
    for table in ("server", "customer_edge"):
        for number, entry in enumerate(found[table], 1):
            if entry["site"] not in sites:
                raise InventoryError(f"{path}: {_label(table, number, entry)}: field site names {entry['site']}, "
                                     f"but the sites are {', '.join(sorted(sites))}")
    for entry in found["server"]:
        if ("power_off" in entry) != ("power_on" in entry):
            raise InventoryError(f"{path}: server {entry['name']}: power_off and power_on go together")


def load(path):
    """What the file says. Raises InventoryError."""
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise InventoryError(f"{path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InventoryError(f"{path}: isn't TOML: {error}") from error
    check(path, found)
    return found


# ---- writing --------------------------------------------------------------------------------


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def text(found):
    """The inventory as the text of a file."""
    lines = []
    for table, entries in found.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            lines.append(f"[[{table}]]" if isinstance(entries, list) else f"[{table}]")
            lines += [f"{name} = {_toml(value)}" for name, value in entry.items()]
            lines.append("")
    return "\n".join(lines)


def describe(topo, socket):
    """The inventory of a testbed with this topology; `socket` is its controller's."""
    return {
        "provider": {"asn": topo.PROVIDER_ASN, "route_reflector": topo.RR_ADDRESS},
        "controller": {"socket": socket},
        "site": [{
            "name": site.name, "pe_address": site.pe_address, "core_address": site.core_address,
            "core_gateway": site.gateway, "transport_label": site.transport_label,
            "switch": site.switch, "place": f"netns:{site.ns}"} for site in topo.SITES],
        "server": [{
            "name": server.name, "site": server.site, "uri": server.far_uri,
            "hostd": server.far_hostd, "bridge": server.bridge, "trunk": server.trunk,
            "place": f"netns:{server.ns}", "address": server.address} for server in topo.SERVERS],
        "customer_edge": [{
            "customer": edge.customer, "site": edge.site, "switch_port": edge.switch_port,
            "asn": edge.asn, "link4": edge.link4, "link6": edge.link6, "prefix4": edge.prefix4,
            "prefix6": edge.prefix6, "host4": edge.host4, "host6": edge.host6,
            "router": edge.daemon, "control": edge.control, "place": f"netns:{edge.ns}",
            **({"only_here": edge.only_here} if edge.only_here else {})} for edge in topo.CES],
    }
