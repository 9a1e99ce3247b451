# SPDX-License-Identifier: GPL-2.0-or-later
"""matplotlib for programs without a display; what it caches is gone with them."""

import logging
import os
import tempfile

_CACHE = tempfile.TemporaryDirectory(prefix="edgeplex-matplotlib-")  # pylint: disable=consider-using-with
os.environ.setdefault("MPLCONFIGDIR", _CACHE.name)

# It tells that it fills the cache, when that takes long.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

import matplotlib  # noqa: E402  pylint: disable=wrong-import-position

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402,F401  pylint: disable=wrong-import-position,unused-import
