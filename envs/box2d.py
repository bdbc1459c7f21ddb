"""Gymnasium's Box2D tasks, and the rules that Gymnasium itself plays them by.

The walker's rule keeps no balance: most of its episodes end in a fall. Only those that reach the
end are demonstrations.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gato_lite.config import TokenSpec
from gato_lite.envs.classic import gymnasium_task
from gato_lite.envs.experts import AnyEnv, Expert, Rule
from gato_lite.envs.task import Task

ARRIVED: Final = 200.0
"""Return of a walk that reaches the end; one that falls has lost 100."""


def lander(env: AnyEnv) -> Expert:
    """Keep the angle towards the pad and the height in proportion to the distance from it, by feedback."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    def rule(observation: Any) -> Any:
        action = heuristic(env, observation)  # type: ignore[no-untyped-call]
        return action.astype(np.float32) if isinstance(action, np.ndarray) else int(action)

    return Rule(rule)


class Walker:
    """Three phases for each step: stand on one leg, put the other down, push off."""

    def __init__(self, env: AnyEnv) -> None:
        from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics

        self.make = BipedalWalkerHeuristics
        self.dtype = env.action_space.dtype
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self.rule = self.make()

    def act(self, observation: Any, previous_action: Any) -> Any:
        """The next action of the gait."""
        del previous_action
        return np.asarray(self.rule.step_heuristic(observation), self.dtype)  # type: ignore[no-untyped-call]


def walker(env: AnyEnv) -> Expert:
    """The walker for `env`."""
    return Walker(env)


TASKS: Final = (
    Task(
        name="box2d/LunarLander",
        make_env=gymnasium_task("LunarLander-v3"),
        expert=lander,
        instruction="Land between the flags.",
        spec=TokenSpec(history=4),
        least_return=200.0,
        extra="control",
    ),
    Task(
        name="box2d/LunarLanderContinuous",
        make_env=gymnasium_task("LunarLander-v3", continuous=True),
        expert=lander,
        instruction="Land between the flags with any thrust.",
        spec=TokenSpec(history=1),
        least_return=200.0,
        extra="control",
    ),
    Task(
        name="box2d/BipedalWalker",
        make_env=gymnasium_task("BipedalWalker-v3"),
        expert=walker,
        instruction="Walk to the end on two legs.",
        spec=TokenSpec(history=1),
        least_return=ARRIVED,
        extra="control",
    ),
)
