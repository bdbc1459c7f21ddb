from __future__ import annotations

from pathlib import Path

from gato_lite.config import GatoConfig
from gato_lite.envs.catalogue import find_tasks
from gato_lite.model import Gato
from gato_lite.train.films import film_name, film_tasks


def test_a_model_is_filmed_in_each_task(tmp_path: Path) -> None:
    gato = Gato(GatoConfig(n_layer=1, n_head=1, d_model=8, d_ff=8, d_encoder=8, context_length=64)).eval()
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
