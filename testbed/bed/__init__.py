# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sites or three, a core and four customer edges on one machine; testbed/README.md has the picture."""

import os
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests"))  # for lib.lab, the tests' helpers
BUILD = os.environ.get("EDGEPLEX_BUILD", f"{TOP}/build")
