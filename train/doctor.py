"""What this machine brings to a run, and what is wrong with it: versions, extras, device, threads, speed, disk.

Nothing is changed and nothing is fetched. The peak is a matrix product timed for a third of a second: a training step
reaches about half of it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch
from packaging.requirements import Requirement

from gato_lite import __version__

_PACKAGE: Final = "gato_lite"
_HIDDEN_EXTRAS: Final = {"dev", "test"}
_LOW_DISK: Final = 2e9
_LOW_MEMORY: Final = 2e9


@dataclass(frozen=True, kw_only=True)
class Extra:
    """One optional part of the package."""

    name: str
    """What stands in the brackets of `gato_lite[…]`."""
    missing: tuple[str, ...]
    """Requirements that are not met, with what is there instead."""

    @property
    def command(self) -> str:
        """Installs it."""
        return f"pip install '{_PACKAGE}[{self.name}]'"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that `gato-lite doctor` knows."""

    versions: dict[str, str]
    """Of gato_lite, Python, the system and each core dependency."""
    extras: tuple[Extra, ...]
    """Optional parts in alphabetical order."""
    device: str
    """What training takes if not told otherwise."""
    n_cores: int
    """Processor cores that this process may use."""
    n_threads: int
    """Threads of one torch operation."""
    matmul_gflops: float
    """Billion floating-point operations a second in a matrix product: float32 on a processor, bfloat16 on a GPU."""
    memory_bytes: int | None
    """Main memory that is free, where the system says."""
    disk_bytes: int
    """Free space where runs would be written."""
    problems: tuple[str, ...]
    """What is wrong and what to do about it; empty when all is well."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """The same as JSON values, with the command that installs each extra."""
        extras = [{**asdict(extra), "installed": not extra.missing, "install": extra.command} for extra in self.extras]
        return {**asdict(self), "extras": extras}


def diagnose(folder: Path | str = ".", *, seconds: float = 0.3) -> Diagnosis:
    """Looks at the machine.

    Args:
        folder: Where runs would be written.
        seconds: Time to spend on the matrix product.
    """
    device = _device()
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _free_memory()
    disk = shutil.disk_usage(_existing(Path(folder))).free
    problems = [f"{problem}: pip install -U '{_PACKAGE}'" for problem in _unmet(_requirements(None))]
    if _installed(_PACKAGE) is None:
        problems.append(f"{_PACKAGE} is imported but not installed, so its extras are unknown: pip install -e .")
    if torch.get_num_threads() > n_cores:
        problems.append(
            f"torch uses {torch.get_num_threads()} threads on {n_cores} cores, which slows it down: set OMP_NUM_THREADS"
        )
    if disk < _LOW_DISK:
        problems.append(f"{Path(folder).resolve()}: {disk / 1e9:.1f} GB free, a run and its data want 2 GB: free some")
    if memory is not None and memory < _LOW_MEMORY:
        problems.append(f"{memory / 1e9:.1f} GB of memory free, training wants 2 GB: close other programs")
    problems += _unwritable(folder)
    return Diagnosis(
        versions=_versions(),
        extras=_extras(),
        device=device,
        n_cores=n_cores,
        n_threads=torch.get_num_threads(),
        matmul_gflops=_matmul_gflops(torch.device(device.split(" ")[0]), seconds),
        memory_bytes=memory,
        disk_bytes=disk,
        problems=tuple(problems),
    )


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as text for a person."""
    missing = [extra for extra in diagnosis.extras if extra.missing]
    installed = [extra.name for extra in diagnosis.extras if not extra.missing]
    memory = "" if diagnosis.memory_bytes is None else f", {diagnosis.memory_bytes / 1e9:.1f} GB of memory free"
    width = max((len(extra.name) for extra in missing), default=0)
    return "\n".join(
        [
            "versions  " + ", ".join(f"{name} {version}" for name, version in diagnosis.versions.items()),
            f"device    {diagnosis.device}, {diagnosis.n_cores} cores, {diagnosis.n_threads} threads{memory}",
            f"speed     {diagnosis.matmul_gflops:.0f} GFLOP/s in a matrix product",
            f"disk      {diagnosis.disk_bytes / 1e9:.1f} GB free",
            f"extras    {', '.join(installed) or 'none installed'}",
            *(f"          {extra.name:{width}}  not installed: {extra.command}" for extra in missing),
            *(f"problem   {problem}" for problem in diagnosis.problems or ["none"]),
        ]
    )


def _versions() -> dict[str, str]:
    found = {_PACKAGE: __version__, "python": platform.python_version(), "system": platform.platform(terse=True)}
    for requirement in _requirements(None):
        found[requirement.name] = _installed(requirement.name) or "missing"
    return found


def _extras() -> tuple[Extra, ...]:
    if _installed(_PACKAGE) is None:
        return ()
    names = set(metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []) - _HIDDEN_EXTRAS
    return tuple(Extra(name=name, missing=tuple(_unmet(_requirements(name)))) for name in sorted(names))


def _requirements(extra: str | None, package: str = _PACKAGE) -> list[Requirement]:
    """What `package` needs here: of its own if `extra` is None, otherwise on top of that for the extra."""
    found = []
    known = (metadata.requires(package) or []) if _installed(package) else []
    for requirement in map(Requirement, known):
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})
        if applies and of_extra == (extra is not None):
            found.append(requirement)
    return found


def _unmet(requirements: list[Requirement]) -> list[str]:
    """The requirements that are not met, with those of the extras that they name."""
    problems = []
    for requirement in requirements:
        version = _installed(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            problems.append(f"expected {wanted}, found {version or 'none'}")
            continue
        for extra in sorted(requirement.extras):
            problems += _unmet(_requirements(extra, requirement.name))
    return list(dict.fromkeys(problems))


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({_processor()})"


def _processor() -> str:
    if sys.platform == "linux":
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8", errors="replace"))
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _free_memory() -> int | None:
    if sys.platform != "linux":
        return None
    match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text("utf-8"))
    return int(match[1]) * 1024 if match else None


def _matmul_gflops(device: torch.device, seconds: float) -> float:
    """The best of several products of square matrices, so that other programs count less."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 1024
    left = torch.ones(size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    product = left @ left
    best, deadline = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        torch.mm(left, left, out=product)
        if on_gpu:
            torch.cuda.synchronize()
        end = time.perf_counter()
        best = min(best, end - start)
        if end > deadline:
            return 2 * size**3 / best / 1e9


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.resolve()
    return next(candidate for candidate in (folder, *folder.parents) if candidate.is_dir())


def _unwritable(folder: Path | str) -> list[str]:
    """Problems with writing where runs and temporary files go."""
    problems = []
    for place in dict.fromkeys((_existing(Path(folder)), Path(tempfile.gettempdir()).resolve())):
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            problems.append(f"{place}: cannot be written to ({error.strerror}): give another folder or TMPDIR")
    return problems
