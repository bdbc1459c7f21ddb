"""Tasks of the DeepMind Control Suite, through shimmy, and no expert.

Observations are dictionaries of named vectors, rewards are in [0, 1], and every episode has 1,000 steps unless the task
says otherwise.

Source: Tassa et al. 2018, "DeepMind Control Suite".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gymnasium as gym

from gato_lite.envs.experts import AnyEnv
from gato_lite.envs.task import Task

NAMES: Final = tuple(
    """
    acrobot-swingup acrobot-swingup_sparse ball_in_cup-catch cartpole-balance cartpole-balance_sparse cartpole-swingup
    cartpole-swingup_sparse cartpole-two_poles cartpole-three_poles cheetah-run dog-stand dog-walk dog-trot dog-run
    dog-fetch finger-spin finger-turn_easy finger-turn_hard fish-upright fish-swim hopper-stand hopper-hop
    humanoid-stand humanoid-walk humanoid-run humanoid-run_pure_state humanoid_CMU-stand humanoid_CMU-walk
    humanoid_CMU-run lqr-lqr_2_1 lqr-lqr_6_2 manipulator-bring_ball manipulator-bring_peg manipulator-insert_ball
    manipulator-insert_peg pendulum-swingup point_mass-easy point_mass-hard reacher-easy reacher-hard stacker-stack_2
    stacker-stack_4 swimmer-swimmer6 swimmer-swimmer15 walker-stand walker-walk walker-run
    """.split()
)
"""All of the suite but quadruped's four, which dm-control 1.0.28 makes with a function that NumPy 2.4 has not."""


def control(name: str) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of the task `dm_control/<name>-v0`."""

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        del evaluation
        import shimmy

        gym.register_envs(shimmy)
        return gym.make(f"dm_control/{name}-v0", disable_env_checker=True, render_mode=render_mode)

    return make


TASKS: Final = tuple(
    Task(name=f"dm/{name}", make_env=control(name), extra="deepmind", time_limit_s=300.0) for name in NAMES
)
