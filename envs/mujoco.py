"""Gymnasium's MuJoCo tasks: balancing by linear-quadratic regulation, reaching by inverse kinematics, and moving along
by linear policies that a random search has found (`ars.py`, weights in `ars.json`), or, where it found none, by small
networks (`train/ppo.py`, weights in `ppo.json`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gato_lite.config import TokenSpec
from gato_lite.envs.classic import gymnasium_task
from gato_lite.envs.experts import AnyEnv, Clipped, Expert, Rule
from gato_lite.envs.policies import linear_policy, network_policy
from gato_lite.envs.task import Task

ARM: Final = (0.1, 0.11)
"""Lengths of Reacher's upper arm and forearm in metres."""
STIFFNESS, DAMPING = 0.3, 0.05
"""Torque for a radian of error in a joint of Reacher, and against a radian a second."""

Matrix = npt.NDArray[np.floating[Any]]


def regulator(state_cost: float = 1.0, action_cost: float = 0.01) -> Callable[[AnyEnv], Expert]:
    """A maker of linear feedback that keeps a MuJoCo environment at rest in the pose where all coordinates are zero.

    Args:
        state_cost: Of each coordinate and speed squared.
        action_cost: Of each control squared.
    """

    def expert(env: AnyEnv) -> Expert:
        simulation: Any = env.unwrapped  # Any: MuJoCo's model and state
        dynamics, effect = _linearised(simulation.model, simulation.frame_skip)
        gain = _riccati_gain(dynamics, effect, state_cost, action_cost)

        def rule(_observation: Any) -> Matrix:
            return np.asarray(-gain @ np.concatenate([simulation.data.qpos, simulation.data.qvel]))

        return Clipped(Rule(rule), env.action_space)  # type: ignore[arg-type]

    return expert


def _linearised(model: Any, n_step: int) -> tuple[Matrix, Matrix]:
    """How state and control change the state after `n_step` steps, near rest: (n, n) and (n, controls).

    By finite differences in a copy of the model that integrates by Euler's method: MuJoCo refuses them for Runge-Kutta.
    """
    import mujoco

    model = copy.copy(model)
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    data = mujoco.MjData(model)
    n = 2 * model.nv
    once, pushed = np.zeros((n, n)), np.zeros((n, model.nu))
    mujoco.mjd_transitionFD(model, data, 1e-6, True, once, pushed, None, None)
    dynamics, effect = np.eye(n), np.zeros((n, model.nu))
    for _ in range(n_step):
        dynamics, effect = once @ dynamics, once @ effect + pushed
    return dynamics, effect


def _riccati_gain(dynamics: Matrix, effect: Matrix, state_cost: float, action_cost: float) -> Matrix:
    """Gain K of the control -K x with the least sum of costs, by iterating Riccati's equation."""
    n, n_control = effect.shape
    value: Matrix = state_cost * np.eye(n)
    gain: Matrix = np.zeros((n_control, n))
    for _ in range(1_000):
        gain = np.linalg.solve(action_cost * np.eye(n_control) + effect.T @ value @ effect, effect.T @ value @ dynamics)
        value = np.asarray(state_cost * np.eye(n) + dynamics.T @ value @ (dynamics - effect @ gain))
    return gain


def reacher(env: AnyEnv) -> Expert:
    """Joint angles that put the fingertip on the target (law of cosines), and a spring and damper towards them."""
    simulation: Any = env.unwrapped  # Any: MuJoCo's state
    upper, fore = ARM

    def rule(_observation: Any) -> Matrix:
        joints, (x, y), speeds = simulation.data.qpos[:2], simulation.data.qpos[2:4], simulation.data.qvel[:2]
        cosine = np.clip((x * x + y * y - upper**2 - fore**2) / (2 * upper * fore), -1, 1)
        elbow = np.arccos(cosine) * (1 if joints[1] >= 0 else -1)
        shoulder = np.arctan2(y, x) - np.arctan2(fore * np.sin(elbow), upper + fore * np.cos(elbow))
        error = np.array([(shoulder - joints[0] + np.pi) % (2 * np.pi) - np.pi, elbow - joints[1]])
        return np.asarray(STIFFNESS * error - DAMPING * speeds)

    return Clipped(Rule(rule), env.action_space)  # type: ignore[arg-type]


def _task(
    name: str, expert: Callable[[AnyEnv], Expert], instruction: str, *, least_return: float | None = None
) -> Task:
    """A task; `least_return` is of a demonstration where the expert sometimes falls: four fifths of its mean, as Reed
    et al. 2022, section 3.1, have it.
    """
    return Task(
        name=f"mujoco/{name}",
        make_env=gymnasium_task(f"{name}-v5"),
        expert=expert,
        instruction=instruction,
        spec=TokenSpec(history=1),
        least_return=least_return,
        extra="control",
        time_limit_s=60.0,
    )


TASKS: Final = (
    _task("InvertedPendulum", regulator(), "Balance the pole on the rail."),
    _task("InvertedDoublePendulum", regulator(), "Balance both poles on the rail."),
    _task("Reacher", reacher, "Touch the target with the fingertip."),
    _task("Swimmer", linear_policy("Swimmer"), "Swim ahead."),
    _task("HalfCheetah", linear_policy("HalfCheetah"), "Run ahead on two legs.", least_return=2_400.0),
    _task("Hopper", linear_policy("Hopper"), "Hop ahead on one leg."),
    _task("Walker2d", network_policy("Walker2d"), "Walk ahead on two legs."),
    _task("Ant", network_policy("Ant"), "Walk ahead on four legs.", least_return=3_600.0),
    _task("Pusher", linear_policy("Pusher"), "Push the cylinder onto the target."),
)
