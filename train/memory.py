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


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed; whether it did (other C libraries know no such thing).

    A step frees and takes the same large tensors as the step before. By default each of them goes back to the system
    and comes again as zeroed pages, one fault for every 4 KiB: a tenth to a fifth of a small model's step.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, LARGE) == 1 for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
