"""Gymnasium's classic control and toy text tasks, and an expert for each.

Every expert is a short rule. Mean returns are in `scores.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import TimeLimit

from gato_lite.config import TokenSpec
from gato_lite.envs.experts import AnyEnv, Expert, Rule, value_iteration
from gato_lite.envs.format import Metric
from gato_lite.envs.task import MakeEnv, Task

CLIFF_STEPS = 100
"""CliffWalking has no time limit of its own; the shortest way is 13 steps."""


def gymnasium_task(environment: str, **kwargs: Any) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of a registered environment, the same for training and evaluation: their seeds differ."""

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        del evaluation
        try:
            return gym.make(environment, disable_env_checker=True, render_mode=render_mode, **kwargs)
        except ImportError as error:  # one that moved to another package, or the module before the colon
            raise ValueError(f"gym:{environment}: {error}{_newest_version(environment)}") from error

    return make


def _newest_version(environment: str) -> str:
    """Words that point to the latest registered version of an environment, where it is another."""
    name = environment.rpartition("-v")[0]
    newest = max(
        (spec for spec in gym.registry.values() if name and spec.id.rpartition("-v")[0] == name),
        key=lambda spec: spec.version or 0,
        default=None,
    )
    return "" if newest is None or newest.id == environment else f" Or take gym:{newest.id}"


def cliff_walking(evaluation: bool, render_mode: str | None) -> AnyEnv:
    """CliffWalking, cut after `CLIFF_STEPS`."""
    return TimeLimit(gymnasium_task("CliffWalking-v1")(evaluation, render_mode), CLIFF_STEPS)


def cart_pole(env: AnyEnv) -> Expert:
    """A linear rule on position, speed, angle and angular speed."""
    del env
    return Rule(lambda o: int(0.1 * o[0] + 0.3 * o[1] + 3.0 * o[2] + o[3] > 0))


def acrobot(env: AnyEnv) -> Expert:
    """Torque along the second joint's speed, less 0.4 of the first's, pumps energy in.

    The second's alone reaches -93 over 200 episodes, some of them 400 steps long; with the first's it is -78.
    """
    del env
    return Rule(lambda o: 2 if o[5] - 0.4 * o[4] > 0 else 0)


def mountain_car(env: AnyEnv) -> Expert:
    """Push right between two curves in the plane of position and speed, left outside."""
    del env

    def rule(observation: npt.NDArray[np.float32]) -> int:
        x, speed = float(observation[0]), float(observation[1])
        low = min(-0.09 * (x + 0.25) ** 2 + 0.03, 0.3 * (x + 0.9) ** 4 - 0.008)
        return 2 if low <= speed <= -0.07 * (x + 0.38) ** 2 + 0.07 else 0

    return Rule(rule)


def mountain_car_continuous(env: AnyEnv) -> Expert:
    """Full force along the speed."""
    del env
    return Rule(lambda o: np.array([1.0 if o[1] >= 0 else -1.0], np.float32))


def pendulum(env: AnyEnv) -> Expert:
    """Pump energy until near the top, then hold there by feedback on angle and speed.

    Of 54 settings of the two gains, the pumping and the switch, measured over 20 episodes, this one is within 0.1 of
    the best mean return.
    """
    del env

    def rule(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        cosine, sine, speed = map(float, observation)
        if cosine > 0.9:
            torque = -8.0 * float(np.arctan2(sine, cosine)) - 2.0 * speed
        else:
            energy = speed**2 / 6 + 5 * (cosine - 1)  # 0 at rest upright, with Gymnasium's m = l = 1, g = 10
            torque = -2.0 * energy * (1.0 if speed >= 0 else -1.0)
        return np.array([min(max(torque, -2.0), 2.0)], np.float32)

    return Rule(rule)


def blackjack(env: AnyEnv) -> Expert:
    """The basic strategy of a game in which one can only draw or stay.

    Stay from 17 on, from 13 where the dealer shows 2 to 6 (12 where 4 to 6); with an ace that counts 11 from 19 on,
    from 18 where the dealer shows 2 to 8.

    Source: Thorp 1966, "Beat the Dealer", chapter 3.
    """
    del env

    def rule(observation: tuple[int, int, int]) -> int:
        total, dealer, usable_ace = map(int, observation)
        if usable_ace:
            return int(total < (18 if 2 <= dealer <= 8 else 19))
        if 2 <= dealer <= 6:
            return int(total < (12 if dealer >= 4 else 13))
        return int(total < 17)

    return Rule(rule)


def _classic(name: str, environment: str, expert: Callable[[AnyEnv], Expert], instruction: str) -> Task:
    return Task(
        name=f"classic/{name}",
        make_env=gymnasium_task(environment),
        expert=expert,
        instruction=instruction,
        spec=TokenSpec(history=4),
    )


def _toy(
    name: str,
    make: MakeEnv,
    instruction: str,
    metric: Metric = "return",
    expert: Callable[[AnyEnv], Expert] = value_iteration,
) -> Task:
    return Task(name=f"toy/{name}", make_env=make, expert=expert, instruction=instruction, metric=metric)


_slippery, _dry = (gymnasium_task("FrozenLake-v1", is_slippery=slippery) for slippery in (True, False))
TASKS: Final = (
    _classic("CartPole", "CartPole-v1", cart_pole, "Balance the pole."),
    _classic("Acrobot", "Acrobot-v1", acrobot, "Swing the tip up high."),
    _classic("MountainCar", "MountainCar-v0", mountain_car, "Rock the car uphill."),
    _classic(
        "MountainCarContinuous",
        "MountainCarContinuous-v0",
        mountain_car_continuous,
        "Rock the car uphill with any force.",
    ),
    _classic("Pendulum", "Pendulum-v1", pendulum, "Hold the pendulum upright."),
    _toy("FrozenLake", _slippery, "Cross the slippery lake.", "success"),
    _toy("FrozenLakeNotSlippery", _dry, "Cross the dry frozen lake.", "success"),
    _toy("FrozenLake8x8", gymnasium_task("FrozenLake8x8-v1"), "Cross the wide slippery lake.", "success"),
    _toy("Taxi", gymnasium_task("Taxi-v4"), "Take the passenger there."),
    _toy("CliffWalking", cliff_walking, "Walk along the cliff."),
    _toy("Blackjack", gymnasium_task("Blackjack-v1"), "Draw cards, or stay.", expert=blackjack),
)
