"""Small datasets that tests damage, and environments that misbehave."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs.record import record

SPACE = spaces.Dict(
    {
        "words": spaces.Text(20, charset="abc "),
        "picture": spaces.Box(0, 255, (3, 4, 3), np.uint8),
        "pair": spaces.Tuple([spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(5, start=-2)]),
        "bag": spaces.Sequence(spaces.Discrete(3)),
    }
)


class Random(gym.Env):
    """Random observations; every episode has 3 + seed % 4 steps; `spoil` may change what is observed."""

    observation_space = SPACE
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, spoil=None):
        self.spoil = spoil
        self.seed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = 0 if seed is None else seed
        self.observation_space.seed(self.seed)
        self.n_steps = 0
        return self._observe(), {}

    def step(self, action):
        self.n_steps += 1
        ended = self.n_steps == 3 + self.seed % 4
        return self._observe(), 0.5, ended, False, {"is_success": ended} if ended else {}

    def _observe(self):
        observation = self.observation_space.sample()
        return self.spoil(self, observation) if self.spoil else observation


@pytest.fixture
def make_env():
    return Random


@pytest.fixture
def folder(tmp_path):
    """A dataset of 12 episodes by random actions."""
    env = Random()
    env.action_space.seed(1)
    record(env, lambda _: env.action_space.sample(), episodes=12, out=tmp_path / "data", seed=3)
    return tmp_path / "data"
