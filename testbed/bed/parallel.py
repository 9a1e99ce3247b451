# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs functions side by side."""

import sys
from concurrent.futures import ThreadPoolExecutor


def together(*functions):
    """Calls all of them, each in a thread, and returns their results in order.

    Waits for all; then raises the first exception, if there was one, and prints the others.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(functions))) as pool:
        futures = [pool.submit(function) for function in functions]
    errors = [future.exception() for future in futures if future.exception()]
    for error in errors[1:]:
        print(error, file=sys.stderr)
    return [future.result() for future in futures]
