from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gato_lite.envs.catalogue import find_tasks
from gato_lite.train.rollout import Outcome
from gato_lite.train.saved_scores import read_scores, require_shared
from gato_lite.train.scores import Scores, summarise


def played(success: list[bool], failed: tuple[int, ...] = ()) -> Scores:
    """Scores of episodes of FrozenLake from seed 10 on."""
    outcomes = [
        Outcome(
            task="toy/FrozenLake",
            seed=seed,
            total_reward=0.0,
            length=5,
            success=won,
            failed="it broke" if seed - 10 in failed else None,
        )
        for seed, won in enumerate(success, 10)
    ]
    return summarise(find_tasks(["toy/FrozenLake"]), outcomes, 10)


@pytest.mark.parametrize("task, seed, episodes", [("toy/Taxi", 10, 3), ("toy/FrozenLake", 14, 9)])
def test_scores_that_share_no_episode_are_told_before_the_work(task: str, seed: int, episodes: int) -> None:
    other = played([True] * 4)
    require_shared(other, "b.json", ["toy/FrozenLake", task], 13, 1)
    with pytest.raises(
        ValueError, match=f"b.json: expected .* from seed {seed}, found toy/FrozenLake from seed 10; eva"
    ):
        require_shared(other, "b.json", [task], seed, episodes)


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    scores = played([True, False, True], failed=(1,))
    assert scores.values == {"toy/FrozenLake": [1.0, None, 1.0]}
    file = tmp_path / "scores.json"
    file.write_bytes(msgspec.json.encode(scores))
    assert read_scores(file) == scores
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(scores, values={})))
    with pytest.raises(ValueError, match=r'scores.json: expected the values of single episodes under "values"'):
        read_scores(file)
    file.write_text('{"tasks": 3}')
    with pytest.raises(
        ValueError, match=r"scores.json: expected scores as `gato-lite eval --json` writes them: .*tasks"
    ):
        read_scores(file)
