from __future__ import annotations

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_taken_again_without_faults() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", COUNT, how], check=True, capture_output=True, text=True).stdout
        )

    assert faults("keep") < 100 < faults("give back")
