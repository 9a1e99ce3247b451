# SPDX-License-Identifier: GPL-2.0-or-later
"""What chaos draws: the same for the same seed, all of it in turn, and within its limits."""

import ipaddress
import itertools
import os
import struct
import sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "testbed"))

from bed import calamity, chaos, chaosplan, wire  # noqa: E402  pylint: disable=wrong-import-position

S = 1_000_000_000


def draw(seed, count=200, **kwargs):
    """The first rounds of a seed."""
    kinds = chaosplan.kinds(spares=kwargs.pop("with_spares", False))
    return list(itertools.islice(chaosplan.rounds(seed, kinds, **kwargs), count))


def test_a_seed_draws_the_same_rounds_again():
    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_every_kind_has_its_turn():
    kinds = chaosplan.kinds(spares=True)
    seen = {e.what for round_ in draw(1, len(kinds), with_spares=True, alone=True)
            for e in round_.events}
    # Nobody calls upon a standby that isn't there.
    assert seen | {"failover"} == set(kinds)


@pytest.mark.parametrize("seed", range(20))
def test_limits_are_kept(seed):
    for round_ in draw(seed):
        what = {event: chaosplan.KINDS[event.what] for event in round_.events}
        for site in chaosplan.SITES:
            groups = [kind.group for event, kind in what.items()
                      if chaosplan.site_of(event.of) == site]
            assert sum(group in ("gone", "server", "switch") for group in groups) <= 1, round_
            drained = any(event.what == "drain" and chaosplan.site_of(event.of) == site
                          for event in what)
            assert not (drained and "gone" in groups), round_
        assert sum(kind.wish for kind in what.values()) <= 1, round_
        assert len({event.of for event in what}) == len(what), round_


def test_what_is_wished_adds_up():
    protected = more_port = False
    for round_ in draw(3):
        for event in round_.events:
            if event.what == "protection":
                assert protected != (event.detail == "on")
                protected = event.detail == "on"
            if event.what == "failover":
                assert protected
            if event.what == "port":
                assert more_port != (event.detail == "created")
                more_port = event.detail == "created"
        assert (round_.protected, round_.more_port) == (protected, more_port)


def test_all_that_is_drawn_can_be_done():
    assert set(calamity.CLASSES) | {name for name, kind in chaosplan.KINDS.items() if kind.wish} \
        == set(chaosplan.KINDS)
    for round_ in draw(1, 400, with_spares=True):
        for event in round_.events:
            if chaosplan.KINDS[event.what].wish:
                assert calamity.wish(event)


def arp(ns, operation, sender, target):
    """An ARP frame as a capture has it."""
    rest = struct.pack("!HHBBH", 1, wire.ETH_IP, 6, 4, operation) + bytes(6) \
        + ipaddress.IPv4Address(sender).packed + bytes(6) + ipaddress.IPv4Address(target).packed
    return wire.Frame(ns, 0, bytes(6), bytes(6), wire.ETH_ARP, rest)


def test_a_second_answer_is_noticed():
    asked = [arp(n * S, 1, "192.0.2.2", "192.0.2.1") for n in range(1, 99)]
    answers = [arp(n * S + 5, 2, "192.0.2.1", "192.0.2.2") for n in range(1, 99)]
    assert chaos.surplus(sorted(asked + answers, key=lambda f: f.ns), "192.0.2.1") == 0
    second = arp(50 * S + 9, 2, "192.0.2.1", "192.0.2.2")
    assert chaos.surplus(sorted([*asked, *answers, second], key=lambda f: f.ns), "192.0.2.1") == 1
    # Even when a question was never answered a while before.
    del answers[9]
    assert chaos.surplus(sorted([*asked, *answers, second], key=lambda f: f.ns), "192.0.2.1") == 1
