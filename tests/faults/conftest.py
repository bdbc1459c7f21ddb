"""A small dataset of three parts and a small run with two checkpoints, made once by the real commands' functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import gato_lite
from gato_lite.config import PRESETS, GatoConfig
from gato_lite.train.loop import Length
from gato_lite.train.settings import TrainConfig
from gato_lite.train.training import train_run

SMALL = GatoConfig(n_layer=1, n_head=1, d_model=16, d_ff=16, d_encoder=16)


class Steps(gym.Env[Any, Any]):
    """A few numbers for three to five steps."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 3 + (seed or 0) % 3
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._look(), float(action), self.left == 0, False, {}

    def _look(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def _small_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", SMALL)
        yield


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    """Steps of a few milliseconds."""
    return TrainConfig(preset="small", context_length=32, tokens_per_step=64, log_every=1)


@pytest.fixture(scope="session")
def whole_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """210 episodes in three parts; to be copied, not changed."""
    out = tmp_path_factory.mktemp("recorded") / "data"
    gato_lite.record(Steps(), lambda observation: int(observation[0] > 0), episodes=210, out=out, name="steps")
    return out


@pytest.fixture(scope="session")
def whole_run(whole_data: Path, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints of steps 1 and 2; to be copied, not changed."""
    out = tmp_path_factory.mktemp("trained") / "run"
    for steps in (1, 2):
        train_run(small_config, [(str(whole_data), 1.0)], out, length=Length(steps=steps), resume=steps == 2)
    return out
