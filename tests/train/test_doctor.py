from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from gato_lite.train import doctor, peak
from gato_lite.train.cores import usable_cores
from gato_lite.train.doctor import diagnose, render


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Requirements by package and versions of installed packages, in place of the real ones."""
    table = {
        "gato_lite": [
            "numpy>=2.0",
            'tomli; python_version < "3"',
            'minigrid>=3.2; extra == "babyai"',
            'gato_lite[babyai,video]; extra == "demo"',
            'gymnasium[classic]; extra == "video"',
        ],
        "gymnasium": ['pygame>=2; extra == "classic"', 'swig; python_version < "3" and extra == "classic"'],
    }
    versions = {"gato_lite": "0.1.0", "numpy": "2.1", "gymnasium": "1.4", "minigrid": "3.1"}
    extras = {"gato_lite": ["babyai", "demo", "test", "video"]}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    class Message:
        def get_all(self, _field: str) -> list[str]:
            return extras["gato_lite"]

    monkeypatch.setattr(metadata, "requires", table.get)
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "metadata", lambda _name: Message())
    return table


def test_extras_say_what_is_missing(requirements) -> None:
    extras = {extra.name: extra for extra in doctor._extras()}
    assert list(extras) == ["babyai", "demo", "video"]
    assert extras["babyai"].missing == ("expected minigrid>=3.2, found 3.1",)
    assert extras["video"].missing == ("expected pygame>=2, found none",)
    assert extras["demo"].missing == extras["babyai"].missing + extras["video"].missing
    assert extras["demo"].command == "pip install 'gato_lite[demo]'"


def test_a_core_dependency_that_is_too_old_is_a_problem(requirements, tmp_path: Path) -> None:
    requirements["gato_lite"][0] = "numpy>=9"
    diagnosis = diagnose(tmp_path, seconds=0)
    assert diagnosis.problems == (
        "expected numpy>=9, found 2.1: pip install -U 'gato_lite'",
        "extra babyai: expected minigrid>=3.2, found 3.1: pip install 'gato_lite[babyai]'",
    )
    assert diagnosis.versions["numpy"] == "2.1"


def test_this_machine(tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path / "not" / "made", seconds=0.01)
    assert diagnosis.n_cores >= 1
    assert diagnosis.matmul_gflops > 0.1
    assert f"in a matrix product of {diagnosis.matmul_dtype}" in render(diagnosis)
    assert diagnosis.versions["torch"] == torch.__version__
    assert not any("expected" in problem for problem in diagnosis.problems)
    assert json.loads(json.dumps(diagnosis.to_json()))["disk_bytes"] == diagnosis.disk_bytes
    text = render(diagnosis)
    for word in ("versions  gato_lite 0.1.0", "device    c", "GFLOP/s", "extras    ", "problem   "):
        assert word in text


def test_the_speed_is_that_of_what_training_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(peak, "matmul_dtype", lambda *_, dtype=dtype: dtype)
        name = str(dtype).removeprefix("torch.")
        assert f"GFLOP/s in a matrix product of {name}\n" in render(diagnose(tmp_path, seconds=0))


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    diagnosis = diagnose(tmp_path, seconds=0)
    assert diagnosis.extras == ()
    assert "gato_lite is imported but not installed" in diagnosis.problems[0]


def test_problems_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(free=10**8))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 10**9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)

    def refuse(dir: Path) -> None:  # noqa: A002
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = "\n".join(diagnose(tmp_path, seconds=0).problems)
    assert "torch uses 4096 threads on " in found
    assert "0.1 GB free, a run and its data want 2 GB" in found
    assert "1.0 GB of memory free, training wants 2 GB" in found
    assert f"{tmp_path.resolve()}: cannot be written to (Permission denied)" in found


def test_an_extra_that_is_missing_is_shown_with_its_command(requirements, tmp_path: Path) -> None:
    text = render(diagnose(tmp_path, seconds=0))
    assert "video  not installed: pip install 'gato_lite[video]'" in text
    assert "babyai  not installed" not in text


def told(tmp_path: Path, **settings: str) -> str:
    """What the command says in another process with such settings."""
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent.parent}"
    environ = {**os.environ, "PYTHONPATH": path, **settings}
    program = [sys.executable, "-m", "gato_lite.train.cli", "doctor"]
    found = subprocess.run(program, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    return found.stdout


def install(folder: Path, name: str, version: str) -> None:
    metadata_folder = folder / f"{name}-{version}.dist-info"
    metadata_folder.mkdir()
    (metadata_folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize("name", ["sentencepiece", "jaxtyping", "safetensors", "msgspec"])
def test_what_training_imports_may_be_missing(name: str, tmp_path: Path) -> None:
    install(tmp_path, name, "0.0")
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n")
    text = told(tmp_path)
    assert f"problem   expected {name}>=0." in text
    assert "GFLOP/s" in text


def test_broken_settings(tmp_path: Path) -> None:
    install(tmp_path, "metaworld", "3.1.1")
    install(tmp_path, "mujoco", "4.0.0")
    cores = usable_cores()
    text = told(tmp_path, OMP_NUM_THREADS=str(cores + 2), TMPDIR="/nowhere")
    for problem in (
        "extra robotics: expected mujoco==3.3.0, found 4.0.0: pip install 'gato_lite[robotics]'",
        f"OMP_NUM_THREADS={cores + 2} is more than the {cores} cores: set OMP_NUM_THREADS={cores}",
        "TMPDIR is '/nowhere', which is no folder, and passed over: make it, or unset it",
    ):
        assert f"problem   {problem}\n" in text
    assert "robotics  not installed" not in text


def test_a_torch_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so: cannot open\\nshared object file')\n")
    text = told(tmp_path, OMP_NUM_THREADS="two")
    assert "problem   torch cannot be imported (libcudart.so: cannot open shared object file): pip install" in text
    assert "problem   OMP_NUM_THREADS is 'two', no number of threads, and ignored: set it, or unset it" in text
    assert "device    unknown, " in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this system")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write into the folder meets the error of a full disk, from the system itself."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    found = diagnose(tmp_path, seconds=0).problems
    assert (
        f"{tmp_path.resolve()}: cannot be written to (No space left on device): give another folder or TMPDIR" in found
    )
