from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gato_lite.envs.recording import record_task
from gato_lite.train import new_task
from gato_lite.train.loop import Length
from gato_lite.train.new_task import Options
from gato_lite.train.settings import TrainConfig
from gato_lite.train.training import train_run

torch.set_num_threads(1)

NEW, OLD = "toy/FrozenLake", "toy/Blackjack"
"""Their episodes are short, whatever is done."""


@pytest.fixture
def options(tmp_path: Path, tiny: str) -> Options:
    """Little of everything, from a tiny run that has seen `OLD`."""
    record_task(OLD, 2, tmp_path / "cards")
    config = TrainConfig(preset=tiny, tokens_per_step=64)
    train_run(config, [(str(tmp_path / "cards"), 1.0)], tmp_path / "run", length=Length(steps=1))
    return Options(
        task=NEW,
        out=tmp_path / "out",
        init=tmp_path / "run",
        demonstrations=(2,),
        steps=1,
        rate=2.0,
        episodes=2,
        old=(OLD,),
        old_episodes=2,
        rehearse=(OLD,),
        rehearse_episodes=2,
    )


def test_curves_go_on_where_they_stopped(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def count(config: TrainConfig, data: list[tuple[str, float]], run: Path, **given: object) -> Path:
        trained.append(run.name)
        shares = [share for _, share in data]
        assert shares == ([1.0, pytest.approx(1 / 3)] if run.name.startswith("rehearsed") else [1.0])
        assert (given["init"] is None) == run.name.startswith("nothing")
        assert config.learning_rate == (3e-3 if run.name.startswith("nothing") else 2e-3)
        return train_run(config, data, run, **given)

    monkeypatch.setattr(new_task, "train_run", count)
    new_task.main(options)
    assert trained == ["tuned-2-seed_0", "nothing-2-seed_0", "rehearsed-2-seed_0"]
    new_task.main(replace(options, demonstrations=(2, 3)))
    assert len(trained) == len(set(trained)) == 3 * 2
    stored = json.loads((options.out / "curve.json").read_text())
    assert (stored["task"], stored["metric"], stored["rehearsed"]) == (NEW, "success", [OLD])
    assert stored["random"] < stored["expert"] < 1.0
    assert [point["demonstrations"] for point in stored["curves"]["tuned"]] == [2, 3]
    with_old = [(cell["way"], cell["demonstrations"]) for cell in stored["cells"] if cell["old"]]
    assert with_old == [("before", 0), ("tuned", 2), ("rehearsed", 2), ("tuned", 3), ("rehearsed", 3)]
    figure = (options.out / "curve.svg").read_text()
    assert all(words in figure for words in (NEW, f"{OLD} *", "from nothing", "random actions"))


def test_a_seed_has_demonstrations_of_its_own(options: Options) -> None:
    first, again, other = (new_task._demonstrations(options, 2, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert json.loads((other / "dataset.json").read_text())["seed"] == new_task.SEED_STEP


def test_other_settings_need_another_folder(options: Options) -> None:
    new_task._keep_settings(options)
    new_task._keep_settings(replace(options, seeds=3))
    with pytest.raises(ValueError, match="expected the options that the folder began with: steps was 1, got 2$"):
        new_task.learn(replace(options, steps=2))


def test_a_task_without_an_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("gym:CartPole-v1: expected a task with an expert to learn from")):
        new_task.learn(Options(task="gym:CartPole-v1", out=tmp_path))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"seeds": 0}, "seeds must be at least 1, got seeds=0"),
        ({"demonstrations": ()}, "demonstrations must be numbers of at least 1, got ()"),
        ({"ways": ("before",)}, "ways must be some of tuned, nothing, rehearsed, got ('before',)"),
        ({"rate": 0.0}, "rate must be a positive number, got rate=0.0"),
        ({"rehearse_share": 1.0}, "rehearse_share must be in (0, 1), got 1.0"),
    ],
)
def test_options_out_of_range(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Options(task=NEW, out=tmp_path, **changed)
