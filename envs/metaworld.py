"""The 50 tasks of Meta-World (MT50, version 3), and the scripted policies that solve them.

What differs from `gymnasium.make("Meta-World/MT1", …)`: places of objects and goals come from the seed of each reset,
not from a list of 50; an episode ends 10 steps after its first success, and has succeeded then; and the unbounded
coordinates of objects are clipped into `BOX`, a box around the table, so that they become tokens on a fine scale. As in
MT50 the goal is observed, and an episode has at most 500 steps.

Source: Yu et al. 2019, "Meta-World"; McLean et al. 2025, "Meta-World+".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding

from gato_lite.config import TokenSpec
from gato_lite.envs.experts import AnyEnv, Clipped, Expert, Rule
from gato_lite.envs.task import Task

AFTER_SUCCESS: Final = 10
"""Steps that an episode goes on after its first success."""
BOX: Final = ((-0.6, 0.0, -0.1), (0.6, 1.1, 0.6))
"""Least and greatest coordinates that an object is seen at, in metres."""
_INSTRUCTIONS: Final = {
    "assembly": "Put the ring on the peg.",
    "basketball": "Drop the ball into the basket.",
    "bin-picking": "Move the cube to the other bin.",
    "box-close": "Put the lid on the box.",
    "button-press": "Press the button ahead.",
    "button-press-topdown": "Press the button from above.",
    "button-press-topdown-wall": "Press the button from above, over the wall.",
    "button-press-wall": "Press the button behind the wall.",
    "coffee-button": "Press the coffee machine's button.",
    "coffee-pull": "Pull the mug from the coffee machine.",
    "coffee-push": "Push the mug under the coffee machine.",
    "dial-turn": "Turn the dial.",
    "disassemble": "Take the ring off the peg.",
    "door-close": "Close the door.",
    "door-lock": "Lock the door.",
    "door-open": "Open the door.",
    "door-unlock": "Unlock the door.",
    "drawer-close": "Close the drawer.",
    "drawer-open": "Open the drawer.",
    "faucet-close": "Turn the faucet off.",
    "faucet-open": "Turn the faucet on.",
    "hammer": "Drive the nail in with the hammer.",
    "hand-insert": "Put the hand into the hole.",
    "handle-press": "Press the handle down.",
    "handle-press-side": "Press the handle down from the side.",
    "handle-pull": "Pull the handle up.",
    "handle-pull-side": "Pull the handle up from the side.",
    "lever-pull": "Pull the lever up.",
    "peg-insert-side": "Put the peg into the hole in the side.",
    "peg-unplug-side": "Pull the peg out of the side.",
    "pick-out-of-hole": "Take the puck out of the hole.",
    "pick-place": "Carry the puck to the goal.",
    "pick-place-wall": "Carry the puck over the wall to the goal.",
    "plate-slide": "Slide the plate into the cabinet.",
    "plate-slide-back": "Slide the plate back out of the cabinet.",
    "plate-slide-back-side": "Slide the plate out of the cabinet sideways.",
    "plate-slide-side": "Slide the plate into the cabinet sideways.",
    "push": "Push the puck to the goal.",
    "push-back": "Pull the puck back to the goal.",
    "push-wall": "Push the puck around the wall to the goal.",
    "reach": "Reach the goal.",
    "reach-wall": "Reach the goal over the wall.",
    "shelf-place": "Put the block on the shelf.",
    "soccer": "Push the ball into the net.",
    "stick-pull": "Pull the box with the stick.",
    "stick-push": "Push the box with the stick.",
    "sweep": "Sweep the cube off the table.",
    "sweep-into": "Sweep the cube into the hole.",
    "window-close": "Close the window.",
    "window-open": "Open the window.",
}


class Seeded(gym.Wrapper[npt.NDArray[np.float64], npt.NDArray[np.float32], Any, Any]):  # Any: of the wrapped task
    """A Meta-World task whose objects and goal come from the seed, seen within bounds."""

    def __init__(self, env: Any) -> None:  # Any: metaworld's own class
        super().__init__(env)
        env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True  # noqa: SLF001
        env._partially_observable = False  # noqa: SLF001
        env.__dict__.pop("sawyer_observation_space", None)  # the one without a goal, to which it would clip
        hand, (low, high) = env._HAND_SPACE, BOX  # noqa: SLF001
        frame_low = [*hand.low, -1.0, *low, *[-1.0] * 4, *low, *[-1.0] * 4]
        frame_high = [*hand.high, 1.0, *high, *[1.0] * 4, *high, *[1.0] * 4]
        self.observation_space = spaces.Box(
            np.array([*frame_low, *frame_low, *low]), np.array([*frame_high, *frame_high, *high]), dtype=np.float64
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Objects and goal at places drawn by the seed."""
        if seed is not None:
            self.unwrapped.np_random, _ = seeding.np_random(seed)
        observation, info = self.env.reset(options=options)
        return self._within(observation), info

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """As the task's own."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._within(observation), reward, terminated, truncated, info

    def render(self) -> Any:
        """The task's own picture, turned round: its camera hangs upside down."""
        frame = self.env.render()
        return np.rot90(frame, 2) if isinstance(frame, np.ndarray) else frame

    def _within(self, observation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        assert isinstance(self.observation_space, spaces.Box)
        return np.clip(observation, self.observation_space.low, self.observation_space.high)


def table_task(name: str) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of the task `<name>-v3`."""

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        del evaluation
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        return Seeded(ALL_V3_ENVIRONMENTS[f"{name}-v3"](render_mode=render_mode, camera_name="corner2"))

    return make


def scripted(name: str) -> Callable[[AnyEnv], Expert]:
    """A maker of the policy that Meta-World brings for a task, its actions clipped into their bounds."""

    def expert(env: AnyEnv) -> Expert:
        from metaworld.policies import ENV_POLICY_MAP

        policy = ENV_POLICY_MAP[f"{name}-v3"]()

        def act(observation: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Constant.s. may be too high")  # they are, and are clipped
                return policy.get_action(observation)  # type: ignore[no-any-return]

        return Clipped(Rule(act), env.action_space)  # type: ignore[arg-type]

    return expert


TASKS: Final = tuple(
    Task(
        name=f"metaworld/{name}",
        make_env=table_task(name),
        expert=scripted(name),
        instruction=instruction,
        spec=TokenSpec(history=1),
        metric="success",
        must_succeed=True,
        stop_after_success=AFTER_SUCCESS,
        extra="robotics",
    )
    for name, instruction in _INSTRUCTIONS.items()
)
