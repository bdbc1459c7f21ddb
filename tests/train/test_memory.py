from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gato_lite.train.memory import LARGE, LARGEST_OF_OLD, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

LIBC, VERSION = platform.libc_ver()
KEEPS_ALL = LIBC == "glibc" and [int(part) for part in VERSION.split(".")] >= [2, 36]

COUNT = """
import resource, sys, torch
from gato_lite.train.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def take(times: int) -> None:
    for _ in range(times):
        torch.ones(1 << 24)  # 64 MiB
take(20)  # until what was freed lies so that it fits again
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not KEEPS_ALL, reason="glibc's allocator, old ones refuse to keep tensors of that size")
def test_freed_memory_is_taken_again_without_faults() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", COUNT, how], check=True, capture_output=True, text=True).stdout
        )

    assert faults("keep") < 100 < faults("give back")


def test_other_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has a limit keeps what it can; one without such a call is left alone."""
    told: dict[int, int] = {}

    def limited(name: int, size: int) -> int:
        if name == M_MMAP_THRESHOLD and size > 1 << 25:
            return 0
        told[name] = size
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(mallopt=limited))
    assert keep_freed_memory()
    assert told == {M_MMAP_THRESHOLD: LARGEST_OF_OLD, M_TRIM_THRESHOLD: LARGE}
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace())
    assert not keep_freed_memory()
