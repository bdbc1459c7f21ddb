from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gato_lite.checkpoint import list_checkpoints, load_checkpoint
from gato_lite.envs.dataset import Dataset
from gato_lite.envs.recording import record_tasks
from gato_lite.run import RunError
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.asking import FOLDER, Rounds
from gato_lite.train.datasets import make_mixture, open_data, weighted_sources
from gato_lite.train.loop import Length, Progress, Trainer
from gato_lite.train.plans import Part, Plan
from gato_lite.train.run_folder import prepare_run
from gato_lite.train.settings import TrainConfig
from gato_lite.train.training import train_run

NAME = "toy/CliffWalking"
PLAN = Plan(tasks=[{NAME: Part(20, 2.0, asked=3)}], rounds=(0.25, 0.5))
STEPS = 12


@pytest.fixture
def config(tiny: str) -> TrainConfig:
    return TrainConfig(preset=tiny, context_length=64, tokens_per_step=128, warmup_steps=2)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_tasks({NAME: 20}, tmp_path_factory.mktemp("data"))[NAME].dataset.path


@pytest.fixture
def begin(config: TrainConfig, recorded: Path) -> Callable[[Path], Rounds]:
    """Opens or resumes the run in a folder."""

    def make(run: Path) -> Rounds:
        data = [(open_data(str(recorded)), 2.0)]
        gato = prepare_run(config, [data[0][0]], run, training={}, resume=True)
        weighted = weighted_sources(data, gato.vocabulary, config)
        mixture = make_mixture(weighted, gato.vocabulary, config)
        trainer = Trainer(gato, mixture, run, config, Length(steps=STEPS))
        trainer.resume()
        return Rounds(trainer, weighted, PLAN.parts(), PLAN.rounds)

    return make


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run).model


def test_the_model_is_asked_about_in_rounds(begin: Callable[[Path], Rounds], tmp_path: Path) -> None:
    rounds = begin(tmp_path / "run")
    rounds.train(lambda: Length(steps=STEPS))
    asked = sorted((tmp_path / "run" / FOLDER).iterdir())
    assert [folder.name for folder in asked] == ["step_3", "step_6"]
    assert [source.name for source in rounds.trainer.mixture.sources] == [NAME] * 3
    assert rounds.seconds > 0
    seeds = [set(Dataset.open(folder / "toy-CliffWalking").read_part(0).seeds.tolist()) for folder in asked]
    assert all(len(found) == 3 for found in seeds), "as many episodes as asked for"
    assert not seeds[0] & seeds[1], "new levels in each round"
    assert list_checkpoints(tmp_path / "run")[-1] == STEPS


def test_a_run_of_a_step_is_asked_about_once(begin: Callable[[Path], Rounds], tmp_path: Path) -> None:
    rounds = begin(tmp_path / "run")
    rounds.train(lambda: Length(steps=1))
    assert [folder.name for folder in (tmp_path / "run" / FOLDER).iterdir()] == ["step_1"]
    assert len(rounds.trainer.mixture.sources) == 2


def test_whoever_watches_is_told_of_asking(begin: Callable[[Path], Rounds], tmp_path: Path) -> None:
    rounds = begin(tmp_path / "run")
    told: list[Progress] = []
    rounds.trainer._on_progress = told.append
    rounds.train(lambda: Length(steps=STEPS))
    assert [now.asked for now in told if now.asked] == [(1, 3), (2, 3), (3, 3)] * 2
    words: list[str] = []
    next(now for now in told if now.asked).show(lambda _done, text: words.append(text))
    assert words[0].endswith("asking the experts: 1 of 3 episodes")


@pytest.mark.parametrize("workers", [1, 2])
def test_asking_counts_its_cpu_time(begin: Callable[[Path], Rounds], tmp_path: Path, workers: int) -> None:
    """That of the processes that act, too."""
    rounds = begin(tmp_path / "run")
    rounds._workers = workers
    rounds.trainer.train(0.25)
    rounds._ask()
    assert 0.0 < rounds.cpu_seconds < 2 * workers * rounds.seconds + 1.0
    if workers > 1:  # starting them takes seconds, of which this process sees nothing
        assert rounds.cpu_seconds > 1.0
    assert begin(tmp_path / "run").cpu_seconds == pytest.approx(rounds.cpu_seconds, abs=0.001)


@pytest.mark.parametrize(
    "length, asking, expected",
    [
        (Length(minutes=9.0), (60.0, 1.0), True),
        (Length(cpu_minutes=9.0), (60.0, 1.0), False),
        (Length(cpu_minutes=9.0), (1.0, 60.0), True),
        (Length(steps=9), (60.0, 60.0), False),
    ],
)
def test_asking_may_take_a_third(
    begin: Callable[[Path], Rounds], tmp_path: Path, length: Length, asking: tuple[float, float], expected: bool
) -> None:
    rounds = begin(tmp_path / "run")
    rounds.trainer.length = length
    rounds.seconds, rounds.cpu_seconds = asking
    rounds.trainer.elapsed_s = rounds.trainer.cpu_s = 10.0
    assert rounds._is_slow() == expected


def test_a_run_of_cpu_minutes_asks_too(recorded: Path, config: TrainConfig, tmp_path: Path) -> None:
    length = Length(cpu_minutes=1.5 / 60)
    run = train_run(config, [(str(recorded), 1.0)], tmp_path / "run", length=length, plan=PLAN)
    assert len(list((run / FOLDER).glob("step_*/asked.json"))) >= 1
    assert load_checkpoint(run).state["cpu_s"] <= 2.5


def test_a_resumed_run_takes_up_its_rounds(begin: Callable[[Path], Rounds], tmp_path: Path) -> None:
    """Stopped after the first round and killed in the second, it ends with the same weights."""
    begin(tmp_path / "whole").train(lambda: Length(steps=STEPS))
    stopped = tmp_path / "stopped"
    first = begin(stopped)
    first.trainer.train(0.25)
    first._ask()
    first.trainer.train(0.5)
    (stopped / FOLDER / ".step_6.partial" / "toy-CliffWalking").mkdir(parents=True)
    again = begin(stopped)
    assert again.seconds == pytest.approx(first.seconds, abs=0.001)
    assert len(again.trainer.mixture.sources) == 2
    again.train(lambda: Length(steps=STEPS))
    found, expected = weights(stopped), weights(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_rounds_after_the_checkpoint_are_asked_again(begin: Callable[[Path], Rounds], tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run).train(lambda: Length(steps=STEPS))
    shutil.rmtree(run / "checkpoints")
    rounds = begin(run)
    assert len(rounds.trainer.mixture.sources) == 1
    rounds.train(lambda: Length(steps=STEPS))
    assert len(rounds.trainer.mixture.sources) == 3


def test_a_damaged_round_is_named(begin: Callable[[Path], Rounds], tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run).train(lambda: Length(steps=STEPS))
    (run / FOLDER / "step_3" / "asked.json").write_text("{")
    with pytest.raises(RunError, match=r"asked/step_3/asked.json: expected a round"):
        begin(run)


def test_asking_counts_towards_the_minutes(config: TrainConfig, recorded: Path, tmp_path: Path) -> None:
    train_run(config, [(str(recorded), 1.0)], tmp_path / "run", length=Length(minutes=0.05), plan=PLAN)
    assert list((tmp_path / "run" / FOLDER).glob("step_*/toy-CliffWalking/dataset.json"))


def test_weights_of_another_run_to_begin_with(config: TrainConfig, recorded: Path, tmp_path: Path) -> None:
    """It takes them, the model's shape and what the model knows; without a step they are as they were."""
    train_run(config, [(str(recorded), 1.0)], tmp_path / "first", length=Length(steps=4))
    other = record_tasks({"toy/FrozenLake": 20}, tmp_path / "data")["toy/FrozenLake"].dataset.path
    still = TrainConfig(tokens_per_step=128, learning_rate=1e-12, matrix_learning_rate=1e-12, weight_decay=0.0)
    train_run(still, [(str(other), 1.0)], tmp_path / "second", length=Length(steps=2), init=tmp_path / "first")
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    from gato_lite.run import load

    assert [task.name for task in load(tmp_path / "second").formats] == [NAME, "toy/FrozenLake"]
    assert Vocabulary.shipped().fingerprint == load(tmp_path / "second").vocabulary.fingerprint
