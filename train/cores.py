"""What processor this is, and how many of its cores this process may use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def usable_cores() -> int:
    """Cores that the system lets this process run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's own name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    text = listing.read_text("utf-8", errors="replace") if listing.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
