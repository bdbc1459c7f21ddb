"""A tiny preset, and a dataset of a small environment, recorded once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import gato_lite
from gato_lite import transformer
from gato_lite.config import PRESETS, GatoConfig, TokenSpec
from gato_lite.envs.dataset import Dataset
from gato_lite.tokenizers.vocabulary import Vocabulary

TINY = GatoConfig(
    n_layer=2, n_head=2, d_model=64, d_ff=128, d_encoder=32, n_text_local=64, token_shift=True, head_norm=True
)


class Corridor(gym.Env[Any, Any]):
    """Walk to the side that the sign shows; the sign, a grid and a goal are said at every step."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            goal=spaces.Box(-1, 1, (2,)),
            grid=spaces.Box(0, 255, (3, 7), np.uint8),
            sign=spaces.Text(8, min_length=0, charset="leftrigh "),
        )
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.length = 3, 0
        self.side = int(self.np_random.integers(2))
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += int(action) - 1
        self.length += 1
        ended = self.place in (0, 6)
        reached = ended and (self.place == 6) == bool(self.side)
        return self._look(), float(reached), ended, self.length >= 12, {"is_success": reached}

    def _look(self) -> dict[str, Any]:
        grid = np.zeros((3, 7), np.uint8)
        grid[1, self.place] = 255
        sign = ("left", "right")[self.side] if self.length < 2 else ""
        return {"goal": np.full(2, self.side * 2.0 - 1.0, np.float32), "grid": grid, "sign": sign}


SPEC = TokenSpec(once=("goal", "sign"), separator=True)


@pytest.fixture(scope="session")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty episodes: a step at a time, with a wait at the start for every third."""
    out = tmp_path_factory.mktemp("data") / "corridor"
    generator = np.random.default_rng(0)

    def walk(observation: dict[str, Any]) -> int:
        return 1 if generator.random() < 0.2 else 2 * int(observation["goal"][0] > 0)

    gato_lite.record(
        Corridor(), walk, episodes=40, out=out, seed=0, name="corridor", spec=SPEC, instruction="Follow the sign."
    )
    return Dataset.open(out)


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer measures the machine for a quarter of a second; one test of that is enough."""
    monkeypatch.setattr("gato_lite.train.loop.matmul_peak", lambda _device, precision: 1e9)


@pytest.fixture
def corridor_env() -> Corridor:
    return Corridor()


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary.shipped()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a preset of few weights."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    return "tiny"


@pytest.fixture
def compilable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks without the tests' own checks of shapes, which no compiler sees through; nothing compiled before."""
    for name, part in list(vars(transformer).items()):
        if isinstance(part, FunctionType):
            monkeypatch.setattr(transformer, name, inspect.unwrap(part))
        elif isinstance(part, type) and part.__module__ == transformer.__name__:
            for method, function in list(vars(part).items()):
                if isinstance(function, FunctionType) and method != "initialise":  # whose no_grad is a wrapper too
                    monkeypatch.setattr(part, method, inspect.unwrap(function))
                elif isinstance(function, staticmethod):
                    monkeypatch.setattr(part, method, staticmethod(inspect.unwrap(function.__func__)))
    torch.compiler.reset()
    yield
    torch.compiler.reset()
