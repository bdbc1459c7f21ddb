"""Memory of a training process on a CPU."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Numbers of `mallopt`'s parameters, as in glibc's malloc.h."""
LARGE: Final = 1 << 30
"""Bytes up to which freed memory stays with the process."""
LARGEST_OF_OLD: Final = 1 << 25
"""The same where glibc refuses more: its limit of old, and still that of its documentation (mallopt(3))."""


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed; whether it did (other C libraries know no such thing).

    A step frees and takes the same large tensors as the step before. By default each of them goes back to the system
    and comes again as zeroed pages, one fault for every 4 KiB: a tenth to a fifth of a small model's step.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = any(mallopt(M_MMAP_THRESHOLD, size) == 1 for size in (LARGE, LARGEST_OF_OLD))
    return kept and mallopt(M_TRIM_THRESHOLD, LARGE) == 1
