"""Tasks of other suites, seen as pictures: levels of BabyAI, Sokoban, and CartPole. Their experts read the state.

A picture is few patches of 16×16 pixels: 16 for a level of 56×56 pixels, of which a cell takes 8, and 8 for CartPole.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.envs import babyai, classic, sokoban
from gato_lite.envs.experts import AnyEnv, Expert, Rule
from gato_lite.envs.task import Task

CELL: Final = 8
"""Pixels along each side of a cell."""
HEIGHT, WIDTH = 32, 64
"""Pixels of CartPole's picture."""
FRAMES: Final = 3
"""Pictures of CartPole seen together, one in each channel.

The last two show the speeds before the last action, which stands before the picture in the stream: from both, a linear
rule on the places of cart and pole finds 88 % of the expert's actions, from the newest picture alone 75 %.
"""
_LEVELS: Final = ("GoToRedBallGrey", "GoToObj", "GoToLocal", "OpenRedDoor", "PickupLoc")


class LevelPicture(gym.ObservationWrapper[Any, Any, Any]):  # Any: a Dict observation
    """A BabyAI level whose 7×7 cells are drawn."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        inner = env.observation_space
        assert isinstance(inner, spaces.Dict)
        side = 7 * CELL
        self.observation_space = spaces.Dict({**inner.spaces, "image": spaces.Box(0, 255, (side, side, 3), np.uint8)})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The same with the picture of what the agent sees."""
        level: Any = self.unwrapped  # Any: minigrid has no types
        return {**observation, "image": level.get_frame(tile_size=CELL, agent_pov=True)}


class SokobanPicture(gym.ObservationWrapper[npt.NDArray[np.uint8], Any, Any]):  # Any: a move, and planes
    """Sokoban, drawn."""

    def __init__(self, env: sokoban.Sokoban) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (env.side * CELL, env.side * CELL, 3), np.uint8)

    def observation(self, observation: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The level as (side · 8, side · 8, 3) pixels."""
        return sokoban.draw(observation, CELL)


class CartPolePicture(gym.Wrapper[npt.NDArray[np.uint8], Any, Any, Any]):  # Any: CartPole's own
    """CartPole as (32, 64, 3) pixels: the last three pictures, the newest in the last channel."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (HEIGHT, WIDTH, FRAMES), np.uint8)
        self._frames: deque[npt.NDArray[np.uint8]] = deque(maxlen=FRAMES)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """The first picture, three times."""
        state, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([draw_cart_pole(state[0], state[2])] * FRAMES)
        return np.stack(self._frames, axis=-1), info

    def step(self, action: Any) -> tuple[npt.NDArray[np.uint8], Any, bool, bool, dict[str, Any]]:
        """The newest picture takes the place of the oldest."""
        state, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(draw_cart_pole(state[0], state[2]))
        return np.stack(self._frames, axis=-1), reward, terminated, truncated, info


def draw_cart_pole(position: float, angle: float) -> npt.NDArray[np.uint8]:
    """Cart and pole as (32, 64) grey pixels, edges smooth, so that a movement of a hundredth of a pixel is seen.

    Args:
        position: of the cart, in -2.4..2.4 m, which is the picture's width.
        angle: of the pole from upright, in radians.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    centre = WIDTH / 2 + position * WIDTH / 5.2
    right, down = columns - centre, rows - (HEIGHT - 4)
    cart = np.maximum(abs(right) - 4, abs(down) - 2)
    along = np.clip(right * np.sin(angle) - down * np.cos(angle), 0, 24)
    pole = np.hypot(right - along * np.sin(angle), down + along * np.cos(angle)) - 1
    shade = np.maximum(0.5 * np.clip(0.5 - cart, 0, 1), np.clip(0.5 - pole, 0, 1))
    return np.asarray((255 * shade).round(), np.uint8)


def _level(name: str) -> Task:
    make = babyai.level(name)
    return Task(
        name=f"pixels/{name}",
        make_env=lambda evaluation, render_mode: LevelPicture(make(evaluation, render_mode)),
        expert=babyai.in_room,
        modality="vision",
        spec=TokenSpec(leaves=("image", "mission"), once=("mission",)),
        metric="success",
        must_succeed=True,
        extra="babyai",
    )


def _sokoban(evaluation: bool, render_mode: str | None) -> AnyEnv:
    return SokobanPicture(sokoban.Sokoban(evaluation=evaluation, render_mode=render_mode))


def _cart_pole(evaluation: bool, render_mode: str | None) -> AnyEnv:
    return CartPolePicture(classic.gymnasium_task("CartPole-v1")(evaluation, render_mode))


def cart_pole(env: AnyEnv) -> Expert:
    """The expert of CartPole, which reads the state behind the picture."""
    rule = classic.cart_pole(env)
    state: Any = env.unwrapped  # Any: CartPole's state is not among Gymnasium's types
    return Rule(lambda _: rule.act(state.state, None))


TASKS: Final = (
    *(_level(name) for name in _LEVELS),
    Task(
        name="pixels/Sokoban7x7",
        make_env=_sokoban,
        expert=sokoban.planner,
        modality="vision",
        instruction="Push the drawn box home.",
        metric="success",
        must_succeed=True,
    ),
    Task(
        name="pixels/CartPole",
        make_env=_cart_pole,
        expert=cart_pole,
        modality="vision",
        instruction="Balance the drawn pole.",
        part_episodes=20,
    ),
)
