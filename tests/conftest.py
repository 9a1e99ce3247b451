# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts tests/ on the path, so that suites can say `from lib.lab import Lab`."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
