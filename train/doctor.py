"""What this machine brings to a run, and what is wrong with it: versions, extras, device, threads, speed, disk.

Nothing is changed and nothing is fetched. The peak is a matrix product, in what training takes here, timed for a third
of a second. torch is imported late and may fail to: that is told too.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

from gato_lite import __version__
from gato_lite.train.console import one_line
from gato_lite.train.cores import processor_name, usable_cores

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

    mismatched: tuple[str, ...] = ()
    """Those of them for which another version is installed."""

    @property
    def broken(self) -> bool:
        """Whether it is installed, but in versions that do not fit."""
        return bool(self.mismatched) and self.mismatched == self.missing

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
    n_threads: int | None
    """Threads of one torch operation; None where torch cannot be imported."""
    matmul_dtype: str | None
    """What training multiplies matrices in there; None where torch cannot be imported."""
    matmul_gflops: float | None
    """Billion floating-point operations a second in such a product."""
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
    n_cores = usable_cores()
    memory = _free_memory()
    disk = shutil.disk_usage(_existing(Path(folder))).free
    extras = _extras()
    torch_problem = _torch_problem()
    problems = [f"{problem}: pip install -U '{_PACKAGE}'" for problem in _unmet(_requirements(None))]
    if _installed(_PACKAGE) is None:
        problems.append(f"{_PACKAGE} is imported but not installed, so its extras are unknown: pip install -e .")
    problems += [f"extra {each.name}: {'; '.join(each.missing)}: {each.command}" for each in extras if each.broken]
    if torch_problem is not None:
        problems.append(torch_problem)
    n_threads = None if torch_problem else _torch_threads()
    problems += _thread_problems(n_threads, n_cores)
    if disk < _LOW_DISK:
        problems.append(f"{Path(folder).resolve()}: {disk / 1e9:.1f} GB free, a run and its data want 2 GB: free some")
    if memory is not None and memory < _LOW_MEMORY:
        problems.append(f"{memory / 1e9:.1f} GB of memory free, training wants 2 GB: close other programs")
    problems += _unwritable(folder)
    device = "unknown" if torch_problem else _device()
    dtype, gflops = (None, None) if torch_problem else _speed(device.split(" ")[0], seconds)
    return Diagnosis(
        versions=_versions(),
        extras=extras,
        device=device,
        n_cores=n_cores,
        n_threads=n_threads,
        matmul_dtype=dtype,
        matmul_gflops=gflops,
        memory_bytes=memory,
        disk_bytes=disk,
        problems=tuple(problems),
    )


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as text for a person."""
    missing = [extra for extra in diagnosis.extras if extra.missing and not extra.broken]
    installed = [extra.name for extra in diagnosis.extras if not extra.missing]
    memory = "" if diagnosis.memory_bytes is None else f", {diagnosis.memory_bytes / 1e9:.1f} GB of memory free"
    speed = "unknown"
    if diagnosis.matmul_gflops is not None:
        speed = f"{diagnosis.matmul_gflops:.0f} GFLOP/s in a matrix product of {diagnosis.matmul_dtype}"
    threads = "threads unknown" if diagnosis.n_threads is None else f"{diagnosis.n_threads} threads"
    width = max((len(extra.name) for extra in missing), default=0)
    return "\n".join(
        [
            "versions  " + ", ".join(f"{name} {version}" for name, version in diagnosis.versions.items()),
            f"device    {diagnosis.device}, {diagnosis.n_cores} cores, {threads}{memory}",
            f"speed     {speed}",
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
    found = []
    for name in sorted(names):
        missing = _unmet(_requirements(name))
        mismatched = tuple(each for each in missing if not each.endswith(", found none"))
        found.append(Extra(name=name, missing=tuple(missing), mismatched=mismatched))
    return tuple(found)


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


def _torch_problem() -> str | None:
    """Why torch cannot be imported, or None."""
    try:
        importlib.import_module("torch")
    except Exception as error:  # noqa: BLE001  (a broken package may raise anything)
        return f"torch cannot be imported ({one_line(str(error))}): pip install --force-reinstall torch"
    return None


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _thread_problems(n_threads: int | None, n_cores: int) -> list[str]:
    problems = []
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked and not (asked.isdecimal() and int(asked)):
        problems.append(f"OMP_NUM_THREADS is '{asked}', no number of threads, and ignored: set it, or unset it")
    elif asked and int(asked) > n_cores:
        problems.append(f"OMP_NUM_THREADS={asked} is more than the {n_cores} cores: set OMP_NUM_THREADS={n_cores}")
    if n_threads is not None and n_threads > n_cores:
        problems.append(
            f"torch uses {n_threads} threads on {n_cores} cores, which slows it down: set OMP_NUM_THREADS={n_cores}"
        )
    return problems


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({processor_name()})"


def _free_memory() -> int | None:
    if sys.platform != "linux":
        return None
    match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text("utf-8"))
    return int(match[1]) * 1024 if match else None


def _speed(device: str, seconds: float) -> tuple[str, float]:
    """What training multiplies matrices in on that device, and how fast that is, in GFLOP/s."""
    import torch

    from gato_lite.train.peak import matmul_dtype, matmul_peak

    place = torch.device(device)
    return str(matmul_dtype(place)).removeprefix("torch."), matmul_peak(place, seconds) / 1e9


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.resolve()
    return next(candidate for candidate in (folder, *folder.parents) if candidate.is_dir())


def _unwritable(folder: Path | str) -> list[str]:
    """Problems with writing where runs and temporary files go."""
    problems = []
    asked = os.environ.get("TMPDIR")
    if asked and not Path(asked).is_dir():
        problems.append(f"TMPDIR is '{asked}', which is no folder, and passed over: make it, or unset it")
    for place in dict.fromkeys((_existing(Path(folder)), Path(tempfile.gettempdir()).resolve())):
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(bytes(2**16))
                file.flush()
        except OSError as error:
            problems.append(f"{place}: cannot be written to ({error.strerror}): give another folder or TMPDIR")
    return problems
