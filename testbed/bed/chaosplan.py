# SPDX-License-Identifier: GPL-2.0-or-later
"""What chaos does, and when: drawn by a seed, and nothing else. Pure.

    for round_ in rounds(seed=1, kinds=kinds(spares=False)):
        print(round_)

Chaos goes in rounds. In each of them something fails, sometimes more than one thing, and sometimes the
operator wants something meanwhile; then everything has to become whole again, and the next round
begins. A round of the same seed is always the same; how many of them fit into some minutes depends on
the machine. Who is hit is told by what doesn't change ("the PVM of green-a"), not by where it happens
to be.
"""

import random
from dataclasses import dataclass

PORTS = ("green-a", "red-a", "green-b", "red-b")
SITES = ("a", "b")
SERVERS = ("a-left", "a-right", "b-left")
MORE_PORT = "green-a1"  # the one that is made and deleted


@dataclass(frozen=True)
class Kind:
    """A kind of failure, or of wish of the operator."""

    text: str
    of: tuple  # what it may happen to
    lasts_s: tuple = (0.0, 0.0)
    group: str = ""  # what it breaks, for the limits
    wish: bool = False  # an operation, not a failure
    spares: bool = False  # only where there are warm spares
    quick: bool = False  # whole again within seconds: fit for a short run


KINDS = {
    # Virtual machines, from outside.
    "pvm-killed": Kind("QEMU of a PVM killed", PORTS, quick=True),
    "pvm-stopped": Kind("QEMU of a PVM stopped", PORTS, (2, 12)),
    "cvm-killed": Kind("QEMU of a CVM killed", SITES),
    "cvm-stopped": Kind("QEMU of a CVM stopped", SITES, (2, 12)),
    "spare-killed": Kind("QEMU of a spare killed", ("a",), spares=True),
    "spare-stopped": Kind("QEMU of a spare stopped", ("a",), (2, 12), spares=True),
    # Processes in them.
    "pvmd-killed": Kind("pvmd killed", PORTS, quick=True),
    "pvmd-stopped": Kind("pvmd stopped", PORTS, (1, 8), quick=True),
    "fwd-killed": Kind("forwarder killed", PORTS, quick=True),
    "fwd-stopped": Kind("forwarder stopped", PORTS, (1, 5), quick=True),
    "cvmd-killed": Kind("cvmd killed", SITES),
    "cvmd-stopped": Kind("cvmd stopped", SITES, (1, 8)),
    "agent-killed": Kind("agent of a PVM killed", PORTS, quick=True),
    # Nobody can wake it, as nobody reaches its VM; its init ends it.
    "agent-stopped": Kind("agent of a PVM stopped", PORTS, (1, 10)),
    # Daemons.
    "hostd-killed": Kind("hostd killed", SERVERS, group="server", quick=True),
    "hostd-stopped": Kind("hostd stopped", SERVERS, (1, 8), group="server"),
    "libvirtd-killed": Kind("libvirtd killed", SERVERS, (0, 5), group="server", quick=True),
    "libvirtd-stopped": Kind("libvirtd stopped", SERVERS, (1, 10), group="server"),
    "edgeplexd-killed": Kind("edgeplexd killed", ("controller",), quick=True),
    "edgeplexd-stopped": Kind("edgeplexd stopped", ("controller",), (1, 5), quick=True),
    "bridge-killed": Kind("ovs-vswitchd of a server killed", SERVERS, (0, 3), group="server"),
    "switch-killed": Kind("ovs-vswitchd of an edge switch killed", SITES, (0, 3), group="switch",
                          quick=True),
    "switch-db-killed": Kind("ovsdb-server of an edge switch killed", SITES, (0, 3), group="switch"),
    # Servers and their networks.
    "unplugged": Kind("server unplugged", SERVERS, (1, 15), group="gone"),
    "silent": Kind("server's network silent", SERVERS, (1, 15), group="gone"),
    "trunk-down": Kind("server's trunk without carrier", SERVERS, (0.5, 15), group="gone"),
    "unreachable": Kind("server out of the controller's reach", SERVERS, (1, 20), group="server"),
    "apart": Kind("no network between the servers", ("a-left", "a-right"), (1, 10), group="server"),
    "server-dead": Kind("server dead", SERVERS, (2, 20), group="gone"),
    # What lies around a site.
    "core-cut": Kind("core link cut", SITES, (1, 8), group="core", quick=True),
    "ce-restarted": Kind("CE's BGP daemon killed", PORTS, (0, 3), group="ce"),
    "ce-flapped": Kind("CE's link down", PORTS, (0.3, 4), group="ce", quick=True),
    "rr-restarted": Kind("route reflector killed", ("core",), (0, 3), group="core"),
    # The operator.
    "migrate-pvm": Kind("PVM migrated", ("green-a", "red-a"), wish=True, quick=True),
    "migrate-cvm": Kind("CVM migrated", ("a",), wish=True),
    "drain": Kind("server drained", ("a-left", "a-right"), wish=True),
    "port": Kind("port created or deleted", (MORE_PORT,), wish=True),
    "protection": Kind("CVM's protection begun or ended", ("a",), wish=True),
    "failover": Kind("CVM's standby called upon", ("a",), wish=True),
    "spares": Kind("number of spares changed", ("a",), wish=True, spares=True),
}

# One at a time of each in a round at a site; and nothing of a server's own while a server is gone.
_ONE_PER_SITE = ("gone", "server", "switch")
BESIDE = (0.45, 0.2)  # how likely a second thing happens in a round, and a third
FIRST_S, BESIDE_S = (0.2, 2.0), (0.0, 6.0)
CUT = 0.3  # how likely the controller is killed in the midst of a wish


@dataclass(frozen=True)
class Event:
    """Something that happens in a round."""

    at_s: float
    what: str
    of: str
    lasts_s: float
    detail: str = ""  # of a wish: what exactly

    def __str__(self):
        kind = KINDS[self.what]
        text = f"{self.at_s:4.1f} s  {self.what} {self.of}{' ' + self.detail if self.detail else ''}"
        return text + (f" for {self.lasts_s:.1f} s" if kind.lasts_s[1] else "")


@dataclass(frozen=True)
class Round:
    """What happens before all has to be whole again; and how it is to be then."""

    number: int
    events: tuple
    protected: bool  # site A's CVM
    more_port: bool  # is MORE_PORT there?
    spares: int  # of site A

    def __str__(self):
        whole = [text for text, there in (("CVM of a protected", self.protected),
                                          (f"port {MORE_PORT}", self.more_port),
                                          (f"{self.spares} spares", self.spares)) if there]
        return (f"round {self.number}: " + "; ".join(map(str, self.events))
                + (f"  [then: {', '.join(whole)}]" if whole else ""))


def site_of(of):
    """The site of what may be hit; None: of none."""
    if of in SITES:
        return of
    if of in SERVERS:
        return of[0]
    return of.split("-")[1][0] if of in (*PORTS, MORE_PORT) else None


def kinds(spares=False, quick=False, only=None):
    """Names of the kinds that can be drawn: with spares or without, only quick ones, only those
    named."""
    return [name for name, kind in KINDS.items() if (spares or not kind.spares)
            and (kind.quick or not quick) and (not only or name in only)]


def _allowed(event, events):
    """Does it keep within the limits, beside what is drawn already?"""
    kind, site = KINDS[event.what], site_of(event.of)
    for other in events:
        theirs = KINDS[other.what]
        if other.of == event.of or (kind.wish and theirs.wish) or other.what == event.what:
            return False
        if site is None or site != site_of(other.of):
            continue
        if kind.group in _ONE_PER_SITE and theirs.group in _ONE_PER_SITE:
            return False
        # Nobody else could take over then.
        if "gone" in (kind.group, theirs.group) and "drain" in (event.what, other.what):
            return False
    return True


class _State:
    """What the operator has wished so far."""

    def __init__(self, spares):
        self.protected, self.more_port, self.spares = False, False, spares

    def wish(self, dice, what):
        """What exactly is wished now; None if it makes no sense."""
        if what == "failover":
            return "" if self.protected else None
        if what == "protection":
            self.protected = not self.protected
            return "on" if self.protected else "off"
        if what == "port":
            self.more_port = not self.more_port
            return "created" if self.more_port else "deleted"
        if what == "spares":
            self.spares = dice.choice([n for n in (0, 1, 2) if n != self.spares])
            return str(self.spares)
        return ""


def _event(dice, what, state, at):
    kind = KINDS[what]
    detail = state.wish(dice, what) if kind.wish else ""
    if detail is None:
        return None
    return Event(round(dice.uniform(*at), 2), what, dice.choice(kind.of),
                 round(dice.uniform(*kind.lasts_s), 2), detail)


def rounds(seed, kinds, alone=False, spares=0):  # pylint: disable=redefined-outer-name
    """All rounds of a seed, without end. `kinds`: what may happen, as kinds() tells; each leads a round
    before any does so again. `alone`: one thing per round. `spares`: of site A, at first."""
    state, number, deck = _State(spares), 0, []
    while True:
        if not deck:
            deck = sorted(kinds)
            random.Random(f"{seed} deck {number}").shuffle(deck)
        number += 1
        dice = random.Random(f"{seed} round {number}")
        first = _event(dice, deck.pop(), state, FIRST_S)
        if first is None:
            first = _event(dice, "protection", state, FIRST_S)
        events = [first]
        for likely in BESIDE:
            if alone or dice.random() >= likely:
                break
            # A wish beside would be known to the state, so what isn't allowed mustn't have been wished.
            what = dice.choice([name for name in sorted(kinds) if not KINDS[name].wish])
            event = _event(dice, what, state, BESIDE_S)
            if _allowed(event, events):
                events.append(event)
        if not alone and KINDS[first.what].wish and "edgeplexd-killed" in kinds \
                and dice.random() < CUT and all(e.of != "controller" for e in events):
            events.append(Event(round(first.at_s + dice.uniform(0, 4), 2), "edgeplexd-killed",
                                "controller", 0.0))
        yield Round(number, tuple(sorted(events, key=lambda e: e.at_s)), state.protected,
                    state.more_port, state.spares)
