from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gato_lite.checkpoint import save_checkpoint
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.model import Gato
from gato_lite.run import RunConfig, load, task_format, write_run
from gato_lite.train import players
from gato_lite.train.evaluate import evaluate_run
from gato_lite.train.settings import TrainConfig


def tasks(*names: str) -> list[Task]:
    return find_tasks(list(names))


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Path:
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148))
    formats = []
    for task in tasks("classic/CartPole", "toy/FrozenLake"):
        env = task.make()
        formats.append(task_format(task.name, env.observation_space, env.action_space, task.spec, task.instruction))
    config = RunConfig(model=gato.config, tasks=tuple(formats), vocabulary=gato.vocabulary.fingerprint)
    write_run(tmp_path / "run", config, gato.vocabulary)
    save_checkpoint(tmp_path / "run", 1, model=gato.state_dict(), optimizer={}, state={})
    return tmp_path / "run"


def test_a_run_is_evaluated_on_its_tasks(run: Path) -> None:
    progress: list[tuple[int, int]] = []
    alone = evaluate_run(run, episodes=3, workers=1, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 6) for done in range(1, 7)]
    assert list(alone.tasks) == ["classic/CartPole", "toy/FrozenLake"]
    assert all(found.episodes == 3 and found.seed == EVALUATION_SEED for found in alone.tasks.values())
    assert evaluate_run(run, ["toy/FrozenLak?"], episodes=3, workers=1).tasks == {
        "toy/FrozenLake": alone.tasks["toy/FrozenLake"]
    }
    together = evaluate_run(run, episodes=3, workers=2)
    assert together == alone  # greedy: how the work is dealt out does not matter


def test_a_run_acts_in_bfloat16(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(run: Path, precision: str) -> Gato:
        asked.append(precision)
        return load(run, precision=precision)  # type: ignore[arg-type]

    monkeypatch.setattr(players, "load", noted)
    scores = evaluate_run(run, ["classic/CartPole"], episodes=2, workers=1, precision="bfloat16")
    assert asked == [scores.precision] == ["bfloat16"]
    assert scores.tasks["classic/CartPole"].episodes == 2


def test_a_worker_that_fails_is_told_of(run: Path) -> None:
    (weights,) = run.glob("checkpoints/step_*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    try:
        with pytest.raises(ValueError, match="model.safetensors"):
            evaluate_run(run, episodes=1, workers=2)
    finally:
        weights.write_bytes(whole)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 5}, f"evaluation seeds begin at {EVALUATION_SEED}, so that no training data has them; got seed=5"),
        ({"episodes": 0}, "episodes and workers must be at least 1, got episodes=0, workers=2"),
        ({"workers": 0}, "episodes and workers must be at least 1, got episodes=100, workers=0"),
        ({"tasks": ["classic/CartPol"]}, "Unknown task 'classic/CartPol'. Did you mean classic/CartPole"),
    ],
)
def test_arguments_that_cannot_be(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_run(run, **options)
