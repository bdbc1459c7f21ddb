from __future__ import annotations

import numpy as np
import pytest

from gato_lite.envs.atari import LONGEST, SIDE
from gato_lite.envs.catalogue import TASKS

pytest.importorskip("ale_py")


def test_a_game_ends_by_itself_or_after_five_minutes() -> None:
    """Chess, which random moves never end, and which ale-py would let run for half an hour."""
    env = TASKS["atari/VideoChess"].make()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    n, over = 0, (False, False)
    while not any(over):
        observation, _, *ends, _ = env.step(env.action_space.sample())
        over = (bool(ends[0]), bool(ends[1]))
        n += 1
    assert (n, over) == (LONGEST // 4, (False, True))
    assert observation.shape == (SIDE, SIDE, 3)
    assert observation.dtype == np.uint8
    env.close()
