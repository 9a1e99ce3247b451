# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts tests/ on the path, so that suites can say `from lib.lab import Lab`, and keeps a record of
every outcome in the file that tests/run names, so that the counts survive a killed pytest."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

_RECORDS = os.environ.get("EDGEPLEX_TEST_RECORDS")


def _record(test, outcome):
    if _RECORDS:
        with open(_RECORDS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "outcome": outcome}) + "\n")


def pytest_collectreport(report):
    """A file that can't be loaded is a failure."""
    if report.failed:
        _record(report.nodeid, "failed")


def pytest_runtest_logreport(report):
    """A test's last word counts; a failed teardown undoes a pass."""
    if report.failed or report.when == "call" or (report.when == "setup" and report.skipped):
        _record(report.nodeid, report.outcome)
