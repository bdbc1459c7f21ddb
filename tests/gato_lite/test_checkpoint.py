from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gato_lite import checkpoint
from gato_lite.checkpoint import checkpoint_problems, list_checkpoints, load_checkpoint, save_checkpoint
from gato_lite.whole import file_sha256


def save(run: Path, step: int, **changes: object) -> Path:
    generator = torch.Generator().manual_seed(step)
    weights = {"head": torch.randn(3, 2, generator=generator), "empty": torch.zeros(0)}
    arguments = {
        "model": weights,
        "optimizer": {"step": torch.tensor(step), "moment": torch.full((3, 2), 0.5, dtype=torch.bfloat16)},
        "state": {"seed": 2**127 + step, "loss": 0.1, "names": ["a", "é"]},
    }
    return save_checkpoint(run, step, **{**arguments, **changes})  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step_7"
    assert sorted(entry.name for entry in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    for source in (tmp_path, path):
        found = load_checkpoint(source)
        assert found.step == 7
        assert found.path == path
        assert torch.equal(found.model["head"], torch.randn(3, 2, generator=torch.Generator().manual_seed(7)))
        assert found.model["empty"].shape == (0,)
        assert found.optimizer["moment"].dtype == torch.bfloat16
        assert found.optimizer["step"].item() == 7
        assert found.state == {"seed": 2**127 + 7, "loss": 0.1, "names": ["a", "é"]}
    assert load_checkpoint(tmp_path, with_optimizer=False).optimizer == {}


def test_shared_and_strided_weights_are_stored(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    save(tmp_path, 0, model={"a": weight, "b": weight, "c": weight.T, "d": weight[1]})
    model = load_checkpoint(tmp_path).model
    assert torch.equal(model["a"], weight)
    assert torch.equal(model["b"], weight)
    assert torch.equal(model["c"], weight.T)
    assert torch.equal(model["d"], weight[1])


def test_keeps_the_newest(tmp_path: Path) -> None:
    for step in (0, 5, 10, 100):
        save(tmp_path, step, keep=3)
    assert list_checkpoints(tmp_path) == [5, 10, 100]
    save(tmp_path, 101, keep=1)
    assert list_checkpoints(tmp_path) == [101]
    assert list_checkpoints(tmp_path / "nowhere") == []
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step_101"]


def test_the_same_step_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, 3)
    save(tmp_path, 3, state={"again": True})
    assert load_checkpoint(tmp_path).state == {"again": True}


def test_half_written_ones_are_not_listed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "step_1", folder / ".step_2.abcd")
    shutil.copytree(folder / "step_1", folder / "step_3", ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copytree(folder / "step_1", folder / "step_04")
    assert list_checkpoints(tmp_path) == [1]
    with pytest.raises(ValueError, match="manifest.json: missing, so this checkpoint was never finished"):
        load_checkpoint(folder / "step_3")
    save(tmp_path, 5)
    assert not (folder / ".step_2.abcd").exists()


def test_a_failure_at_any_moment_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, limit = 0, 0

    def failing(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > limit:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return call

    save(tmp_path, 1, keep=1)
    for name in ("fsync", "mkdir", "rename"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(checkpoint, "save_file", failing(checkpoint.save_file))
    monkeypatch.setattr(shutil, "rmtree", failing(shutil.rmtree))
    while True:
        calls = 0
        try:
            save(tmp_path, 2, keep=1)
        except OSError:
            monkeypatch.undo()
            steps = list_checkpoints(tmp_path)
            assert steps in ([1], [1, 2], [2])
            for step in steps:
                assert load_checkpoint(tmp_path, step=step).optimizer["step"].item() == step
            shutil.rmtree(tmp_path / "checkpoints")
            save(tmp_path, 1, keep=1)
            limit += 1
            for name in ("fsync", "mkdir", "rename"):
                monkeypatch.setattr(os, name, failing(getattr(os, name)))
            monkeypatch.setattr(checkpoint, "save_file", failing(checkpoint.save_file))
            monkeypatch.setattr(shutil, "rmtree", failing(shutil.rmtree))
        else:
            break
    assert limit > 8
    assert list_checkpoints(tmp_path) == [2]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_kill_leaves_whole_checkpoints(tmp_path: Path) -> None:
    program = (
        "import itertools, sys, torch\n"
        "from gato_lite.checkpoint import save_checkpoint\n"
        "for step in itertools.count():\n"
        "    weights = {'w': torch.full((100_000,), float(step))}\n"
        "    save_checkpoint(sys.argv[1], step, model=weights, optimizer={}, state={'step': step})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not list_checkpoints(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    steps = list_checkpoints(tmp_path)
    assert steps
    for step in steps:
        found = load_checkpoint(tmp_path, step=step)
        assert found.state == {"step": step}
        assert torch.equal(found.model["w"], torch.full((100_000,), float(step)))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    intact = save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = path.read_bytes()
    hint = re.escape(
        ". The previous checkpoint step_1 is intact: train on from it with --resume --from-step 1, "
        f"or give {intact} in place of the run"
    )

    path.write_bytes(data[:-1])
    message = f"{path}: expected {len(data)} bytes, found {len(data) - 1}: the file is truncated or altered"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}{hint}$"):
        load_checkpoint(tmp_path)

    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{name}: expected SHA-256 \w{{64}}, found \w{{64}}: the file is altered"):
        load_checkpoint(tmp_path)

    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(ValueError, match=f"{name}: .* found a pickle, which can run code when loaded: refused"):
        load_checkpoint(tmp_path)

    path.rename(path.with_name("model.pt"))
    assert checkpoint_problems(path.parent) == [
        (
            f"{path}: expected {len(data)} bytes, found no file "
            "(model.pt is a pickle, which can run code when loaded: refused)"
        )
    ]
    assert checkpoint_problems(intact) == []


def test_no_older_one_is_intact(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="No older checkpoint is intact"):
        load_checkpoint(tmp_path)


def altered_manifest(path: Path, **changes: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_a_later_format_says_what_to_install(tmp_path: Path) -> None:
    altered_manifest(save(tmp_path, 2), format_version=9, gato_lite="9.1.0", new_field=[1])
    with pytest.raises(ValueError, match="version 9 needs gato-lite ≥ 9.1.0, .* pip install -U 'gato_lite>=9.1.0'"):
        load_checkpoint(tmp_path)


def test_a_manifest_is_held_to_its_schema(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    altered_manifest(path, step=3)
    with pytest.raises(ValueError, match="expected step 2 as the folder's name says, found step 3"):
        load_checkpoint(tmp_path)
    altered_manifest(path, step=2, files={"../../../etc/passwd": {"size": 1, "sha256": ""}})
    with pytest.raises(ValueError, match=r"expected the files model.safetensors, .*, found \.\./"):
        load_checkpoint(tmp_path)
    (path / "manifest.json").write_bytes(b'{"format_version": 1,')
    with pytest.raises(ValueError, match="expected a checkpoint's manifest, found other content"):
        load_checkpoint(tmp_path)


def test_content_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    for name, text in (("model.safetensors", "hello, world"), ("state.json", "[1]")):
        (path / name).write_text(text)
        files = json.loads((path / "manifest.json").read_text())["files"]
        altered_manifest(path, files={**files, name: {"size": len(text), "sha256": file_sha256(path / name)}})
        with pytest.raises(ValueError, match=f"{name}: expected "):
            load_checkpoint(tmp_path)
        save(tmp_path, 2)


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a run with a whole checkpoint in checkpoints/, found none"):
        load_checkpoint(tmp_path)
    save(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 3; there are those of steps 4"):
        load_checkpoint(tmp_path, step=3)
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(
        ValueError, match="expected the folder of a run or checkpoint with safetensors, found a pickle, which can"
    ):
        load_checkpoint(weights)


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs step ≥ 0 and keep ≥ 1, got step=-1, keep=2"):
        save(tmp_path, -1)
    for bad in (float("nan"), {1, 2}):
        with pytest.raises(ValueError, match="state must be JSON without NaN or infinity"):
            save(tmp_path, 1, state={"bad": bad})
    assert list_checkpoints(tmp_path) == []
