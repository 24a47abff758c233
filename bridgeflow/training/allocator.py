"""Memory that a training step frees is kept for the next step, rather than given back to the system and asked for
again: on a CPU the first touch of fresh pages costs about as much as the work done in them."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of the C library's `mallopt`."""

GROWTH = 2**26
"""Bytes that the heap grows by at least."""


def keep_freed_memory() -> bool:
    """Asks the C library to keep what is freed, for this process and for good; False where it cannot be asked."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, value) == 1 for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, GROWTH)))
