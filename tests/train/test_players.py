from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path

import pytest

from gato_lite.checkpoint import save_checkpoint
from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.model import Gato
from gato_lite.run import RunConfig, write_run
from gato_lite.train.players import _play_share, play_in_processes
from gato_lite.train.rollout import jobs_of
from gato_lite.train.settings import TrainConfig


def run(tiny: str, path: Path) -> Path:
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148))
    config = RunConfig(model=gato.config, tasks=(), vocabulary=gato.vocabulary.fingerprint)
    write_run(path, config, gato.vocabulary)
    save_checkpoint(path, 1, model=gato.state_dict(), optimizer={}, state={})
    return path


def test_results_that_nobody_waits_for_any_more(tiny: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command was killed: its processes end without a word."""
    ours, theirs = Pipe(duplex=False)
    ours.close()
    _play_share([("toy/FrozenLake", 1_000_000_000)], (run(tiny, tmp_path / "run"), "float32", 60.0, None, True), theirs)
    assert capfd.readouterr() == ("", "")


def test_an_error_is_told(tiny: str, tmp_path: Path) -> None:
    ours, theirs = Pipe(duplex=False)
    _play_share([("toy/FrozenLake", 1_000_000_000)], (tmp_path / "nothing", "float32", 60.0, None, True), theirs)
    error = ours.recv()
    assert isinstance(error, FileNotFoundError)
    assert "holds no run: expected the file" in str(error)


def test_a_damaged_run_is_told_as_in_one_process(tiny: str, tmp_path: Path) -> None:
    """One line and an exit code that say that the input is wrong, whatever the number of processes."""
    folder = run(tiny, tmp_path / "run")
    weights = next(folder.glob("checkpoints/*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    jobs = jobs_of(find_tasks(["toy/FrozenLake"]), 1, EVALUATION_SEED)
    told = []
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
            play_in_processes(folder, jobs, workers=workers)
        told.append(str(caught.value))
    assert told[0] == told[1]
