"""BabyAI levels of minigrid, and the bot that solves them.

Levels print while they are generated, and give their mission in a space that cannot be stored: both are mended here.
Episodes end after `MAX_STEPS` where the level's own limit is later (441 to 576 steps in OpenDoor, UnlockLocal and
GoToDoor): success by then is what counts.

Source: Chevalier-Boisvert et al. 2019, "BabyAI"; minigrid.
"""

from __future__ import annotations

import contextlib
import io
import string
from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from gato_lite.config import TokenSpec
from gato_lite.envs.babyai_planner import Planner
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError

MAX_STEPS: Final = 128
"""Time limit of every level in steps."""
MISSION: Final = spaces.Text(256, charset=string.ascii_lowercase + " ,")
"""Missions are lower-case sentences of at most 120 characters in these levels."""
SPEC: Final = TokenSpec(leaves=("image", "mission"), once=("mission",), pixel_high=(10, 5, 3))
"""The 7×7 grid is one patch, its object, colour and state codes scaled to the full range; the mission comes once."""


class Quiet(gym.Wrapper[Any, Any, Any, Any]):  # Any: a Dict observation
    """A level that prints nothing and whose mission is a `Text`."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        inner = env.observation_space
        assert isinstance(inner, spaces.Dict)
        self.observation_space = spaces.Dict({**inner.spaces, "mission": MISSION})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new level; rejected ones are not printed."""
        with contextlib.redirect_stdout(io.StringIO()):
            return self.env.reset(seed=seed, options=options)


class Bot:
    """The planner of `babyai_planner` where it knows a way; from where it knows none, minigrid's bot.

    The bot knows the whole level and follows what was really done.
    """

    def __init__(self, env: AnyEnv) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self.env = env
        self.planner = Planner(env)
        self.make: Callable[[Any], Any] = BabyAIBot  # Any: minigrid has no types
        self.bot: Any = None

    def reset(self) -> None:
        """Read the mission of the level that the environment is in."""
        self.bot = None
        self.planner.reset()

    def act(self, observation: Any, previous_action: Any) -> Any:
        """The next action of the bot's plan, planned again after an action that was not its own."""
        del observation
        try:
            if self.bot is None:
                planned = self.planner.act()
                if planned is not None:
                    return planned
                self.bot = self.make(self.env)
                previous_action = None  # a new bot has planned nothing yet
            return int(self.bot.replan(None if previous_action is None else int(previous_action)))
        except ExpertFailedError:
            raise
        except Exception as error:  # the bot's own failures are of every kind
            raise ExpertFailedError(f"the BabyAI bot is lost: {type(error).__name__}: {error}") from error


def level(name: str) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of the level `BabyAI-<name>-v0`; levels come from the seed, so evaluation seeds give unseen ones."""

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        del evaluation
        import minigrid  # noqa: F401  (registers the levels)

        environment = gym.make(f"BabyAI-{name}-v0", disable_env_checker=True, render_mode=render_mode)
        return TimeLimit(Quiet(environment), MAX_STEPS)

    return make


def bot(env: AnyEnv) -> Expert:
    """The bot of minigrid for `env`."""
    return Bot(env)
