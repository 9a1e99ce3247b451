# SPDX-License-Identifier: GPL-2.0-or-later
"""One testbed for all end-to-end tests; each leaves it as it found it."""

import os
import sys

import pytest

sys.path.insert(
    0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "testbed"))

from bed import bed as testbed_module  # noqa: E402  pylint: disable=wrong-import-position
from bed import checks, host  # noqa: E402  pylint: disable=wrong-import-position


def _tails():
    """The last lines of every daemon's log, for a failed start."""
    for name in sorted(os.listdir(host.LOGS)):
        with open(f"{host.LOGS}/{name}", encoding="utf-8", errors="replace") as file:
            tail = file.read()[-1500:]
        if tail:
            print(f"---- {name}\n{tail}")


@pytest.fixture(scope="session", autouse=True)
def bed():
    """Two sites, two customers, all provisioned and carrying routes."""
    with host.exclusive():
        try:
            testbed_module.up()
            testbed_module.provision()
            checks.wait_established()
            checks.wait_routes()
            yield testbed_module
        except Exception:
            _tails()
            raise
        finally:
            host.down()
