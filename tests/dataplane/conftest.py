# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: a running forwarder between a customer edge and a core router."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
from fwdlab import ForwarderLab  # noqa: E402
from lib.lab import Lab  # noqa: E402


def _forwarder(*options, **arguments):
    with Lab("dp") as lab:
        f = ForwarderLab(lab, *options, **arguments)
        yield f
        assert f.process.poll() is None, "the forwarder died:\n" + lab.log("fwd1")


@pytest.fixture(scope="module")
def router():
    """A forwarder as a plain router."""
    yield from _forwarder()


@pytest.fixture(scope="module")
def vpn():
    """A forwarder as in a PVM: ports kept apart."""
    yield from _forwarder("--vpn", mtu=1600)


@pytest.fixture
def own():
    """A forwarder of the test's own, which may be killed and started again."""
    with Lab("dp") as lab:
        yield ForwarderLab(lab)
