from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path

from gato_lite.checkpoint import save_checkpoint
from gato_lite.model import Gato
from gato_lite.run import RunConfig, write_run
from gato_lite.train.players import _play_share
from gato_lite.train.settings import TrainConfig


def run(tiny: str, path: Path) -> Path:
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148))
    config = RunConfig(model=gato.config, tasks=(), vocabulary=gato.vocabulary.fingerprint)
    write_run(path, config, gato.vocabulary)
    save_checkpoint(path, 1, model=gato.state_dict(), optimizer={}, state={})
    return path


def test_results_that_nobody_waits_for_any_more(tiny: str, tmp_path: Path) -> None:
    """The command was killed: its processes end without a word."""
    ours, theirs = Pipe(duplex=False)
    ours.close()
    _play_share([("toy/FrozenLake", 1_000_000_000)], (run(tiny, tmp_path / "run"), 60.0, None, True), theirs)


def test_an_error_is_told(tiny: str, tmp_path: Path) -> None:
    ours, theirs = Pipe(duplex=False)
    _play_share([("toy/FrozenLake", 1_000_000_000)], (tmp_path / "nothing", 60.0, None, True), theirs)
    assert ours.recv().startswith("FileNotFoundError: ")
