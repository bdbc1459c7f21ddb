from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from gato_lite.config import GatoConfig
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.model import Gato
from gato_lite.train import films as films_module
from gato_lite.train.films import UndrawnError, film_episode, film_name, film_tasks
from gato_lite.train.rollout import play


@pytest.fixture
def gato() -> Gato:
    return Gato(GatoConfig(n_layer=1, n_head=1, d_model=8, d_ff=8, d_encoder=8, context_length=64)).eval()


def test_a_model_is_filmed_in_each_task(gato: Gato, tmp_path: Path) -> None:
    tasks = find_tasks(["toy/FrozenLakeNotSlippery", "toy/Taxi"])
    seen: list[tuple[int, int]] = []
    films = film_tasks(gato, tasks, tmp_path, on_film=lambda done, total: seen.append((done, total)))
    assert films == {task.name: tmp_path / film_name(task.name) for task in tasks}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-FrozenLakeNotSlippery.mp4", "toy-Taxi.mp4"]
    assert all(path.stat().st_size < 150_000 for path in films.values())
    assert seen == [(1, 2), (2, 2)]


def test_film_names_are_file_names() -> None:
    assert film_name("classic/CartPole") == "classic-CartPole.mp4"
    assert film_name("gym:ALE/Pong-v5") == "gym-ALE-Pong-v5.mp4"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_episode_is_filmed_as_it_is_played(gato: Gato, tmp_path: Path, temperature: float) -> None:
    (task,) = find_tasks(["toy/FrozenLakeNotSlippery"])
    outcome = film_episode(gato, task, tmp_path / "lake.mp4", seed=10**9, temperature=temperature)
    assert [outcome] == play(gato, [(task, 10**9)], n_slot=1, temperature=temperature, seed=10**9)
    assert (tmp_path / "lake.mp4").stat().st_size > 1000


def test_a_long_episode_is_played_beyond_its_film(gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = find_tasks(["classic/MountainCar"])
    long = film_episode(gato, task, tmp_path / "long.mp4", seed=10**9)
    monkeypatch.setattr(films_module, "EPISODE_SECONDS", 1.0)
    assert film_episode(gato, task, tmp_path / "short.mp4", seed=10**9) == long
    assert long.length == 200
    assert (tmp_path / "short.mp4").stat().st_size < (tmp_path / "long.mp4").stat().st_size


def test_a_task_that_cannot_be_filmed_is_left_out(
    gato: Gato, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (lake,) = find_tasks(["toy/FrozenLakeNotSlippery"])
    hot = Task(name="mine/Hot", make_env=lambda evaluation, mode: Faulty(lake.make_env(evaluation, mode)))
    assert list(film_tasks(gato, [hot, lake], tmp_path)) == [lake.name]
    assert capsys.readouterr().err.startswith("gato-lite: mine/Hot cannot be filmed: step 1 raised RuntimeError: ")


class Faulty(gym.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> Any:
        raise RuntimeError("the motor is hot")


def test_what_an_environment_raises_names_it(gato: Gato, tmp_path: Path) -> None:
    (lake,) = find_tasks(["toy/FrozenLakeNotSlippery"])
    task = Task(name="mine/Hot", make_env=lambda evaluation, mode: Faulty(lake.make_env(evaluation, mode)))
    expected = "mine/Hot cannot be filmed: step 1 raised RuntimeError: the motor is hot; leave out the film"
    with pytest.raises(UndrawnError, match=expected):
        film_episode(gato, task, tmp_path / "hot.mp4", seed=0)
    assert not list(tmp_path.iterdir())
