"""What every test runs under: array shapes checked, one thread, properties drawn the same each time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny, and so are the machines

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

_SHAPED = re.compile(r"\b(Bool|Complex|Float|Inexact|Int|Num|Real|Shaped|UInt)\d*\[")


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked, if its signature names the shape of an array.

    Others stay as they are: a test may hand them a fake. So do the few with hints that cannot be checked at run time,
    which are `Self` and protocols.
    """
    if not any(_SHAPED.search(str(hint)) for hint in getattr(function, "__annotations__", {}).values()):
        return function
    try:
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)  # an int will do for a float
    except BeartypeDecorHintException:
        return function


def shaped_modules() -> list[str]:
    """Import names of our files that name shapes at all; what is checked runs several times slower."""
    root = Path(__file__).parent.parent / "gato_lite"
    folders = (root, root / "envs", root / "tokenizers", root / "train")
    files = [file for folder in folders for file in folder.glob("*.py")]
    shaped = [file.relative_to(root).with_suffix("") for file in files if "jaxtyping" in file.read_text("utf-8")]
    return [".".join(("gato_lite", *path.parts)) for path in shaped]


# The hook takes the checker by its import path, and has to be there before our modules are imported.
sys.modules["shape_checks"] = ModuleType("shape_checks")
sys.modules["shape_checks"].check = check  # type: ignore[attr-defined]
install_import_hook(shaped_modules(), "shape_checks.check")


@pytest.fixture
def follow() -> type:
    """Five steps; the reward is higher the nearer the action is to the first of two random observations."""
    import gymnasium as gym
    from gymnasium import spaces

    class Follow(gym.Env):
        observation_space = spaces.Box(-np.inf, np.inf, (2,))
        action_space = spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.n_steps = 0
            return self._observe(), {}

        def step(self, action):
            assert self.action_space.contains(np.asarray(action, np.float32))
            reward = 1 - float(abs(action[0] - self.seen[0]))
            self.n_steps += 1
            return self._observe(), reward, self.n_steps == 5, False, {}

        def _observe(self):
            self.seen = self.np_random.uniform(-0.5, 0.5, 2)
            return self.seen

    return Follow
