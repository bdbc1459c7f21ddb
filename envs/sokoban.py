"""Sokoban as a Gymnasium environment: push every box onto a target.

Levels are solvable, come from the seed, and `info["optimal"]` is the least number of moves. A fifth of all levels,
chosen by a hash of the layout, appears only with `evaluation=True`, the others only without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError
from gato_lite.envs.sokoban_level import Level, Solver, State, draw_level, move
from gato_lite.envs.task import Task

SPEC: Final = TokenSpec(pixel_high=(1, 1, 1, 1))
"""The four planes are the channels of one patch."""

_TILE = 32
_FLOOR, _WALL, _TARGET = (222, 214, 202), (88, 92, 104), (214, 90, 84)
_BOX, _BOX_DONE, _PLAYER = (186, 132, 74), (112, 158, 84), (62, 104, 178)


class Sokoban(gym.Env[npt.NDArray[np.uint8], np.int64]):
    """One level an episode: +1 and the end when all boxes stand on targets, 0 otherwise.

    Observations are (side, side, 4) planes of 0 and 1: walls, boxes, player, targets. Actions are up, down, left,
    right; an action against a wall or a stuck box changes nothing.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012  (Gymnasium's attribute)

    def __init__(
        self,
        *,
        side: int = 7,
        n_boxes: int = 1,
        min_length: int = 4,
        max_steps: int = 60,
        evaluation: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if side < 5 or not 1 <= n_boxes <= (side - 2) ** 2 // 6:
            raise ValueError(f"expected side ≥ 5 and 1 ≤ n_boxes ≤ (side - 2)²/6, got side={side}, n_boxes={n_boxes}")
        self.side, self.n_boxes, self.min_length, self.max_steps = side, n_boxes, min_length, max_steps
        self.evaluation = evaluation
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 1, (side, side, 4), np.uint8)
        self.action_space = spaces.Discrete(4)
        self.level: Level | None = None
        self.state: State = (0, ())
        self.n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Draw a level of the right side of the split."""
        super().reset(seed=seed, options=options)
        while True:
            level, solution = draw_level(self.np_random, self.side, self.n_boxes, self.min_length)
            if level.for_evaluation() == self.evaluation:
                break
        self.level, self.state, self.n_steps = level, level.start, 0
        return level.planes(self.state), {"optimal": len(solution)}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move, or push the box ahead."""
        if self.level is None:
            raise RuntimeError("step was called before reset")
        self.state = move(self.level, self.state, int(action)) or self.state
        self.n_steps += 1
        solved = all(box in self.level.targets for box in self.state[1])
        truncated = not solved and self.n_steps >= self.max_steps
        return self.level.planes(self.state), float(solved), solved, truncated, {}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The level as (side · 32, side · 32, 3) pixels."""
        if self.render_mode is None or self.level is None:
            return None
        return draw(self.level.planes(self.state), _TILE)


def draw(planes: npt.NDArray[np.uint8], cell: int) -> npt.NDArray[np.uint8]:
    """A level as pixels.

    Args:
        planes: (side, side, 4) of 0 and 1: walls, boxes, player, targets.
        cell: pixels along each side of a cell, a divisor of 32.

    Returns:
        (side · cell, side · cell, 3) pixels.
    """
    every, n_row, n_column = _TILE // cell, *planes.shape[:2]
    tiles = [[_tile(*planes[r, c].astype(bool).tolist()) for c in range(n_column)] for r in range(n_row)]
    rows = [np.concatenate(row, axis=1) for row in tiles]
    return np.concatenate(rows, axis=0)[every // 2 :: every, every // 2 :: every]


@functools.cache
def _tile(wall: bool, box: bool, player: bool, target: bool) -> npt.NDArray[np.uint8]:
    tile = np.full((_TILE, _TILE, 3), _WALL if wall else _FLOOR, np.uint8)
    y, x = np.mgrid[:_TILE, :_TILE] - (_TILE - 1) / 2
    distance = np.hypot(x, y)
    if wall:
        tile[[0, _TILE // 2], :] = tile[: _TILE // 2, 8] = tile[_TILE // 2 :, 24] = (70, 74, 86)
    else:
        tile[[0, -1], :] = tile[:, [0, -1]] = (206, 197, 184)
    if target:
        tile[(distance > 6) & (distance < 10)] = _TARGET
    if box:
        reach = np.maximum(abs(x), abs(y))
        colour = _BOX_DONE if target else _BOX
        tile[reach < 12] = colour
        tile[((reach > 9) | (abs(abs(x) - abs(y)) < 1.5)) & (reach < 12)] = tuple(part * 3 // 4 for part in colour)
    if player:
        tile[distance < 11] = _PLAYER
        tile[(np.hypot(abs(x) - 4, y + 2) < 2.2)] = (250, 250, 250)
    return tile


class Planner:
    """An expert that follows a shortest plan and plans again when the level is in a state off its plan."""

    def __init__(self, env: AnyEnv) -> None:
        self.env = env
        self.solver: Solver | None = None
        self.plan: dict[State, int] = {}

    def reset(self) -> None:
        """Forget the last level's plan."""
        self.solver, self.plan = None, {}

    def act(self, observation: Any, previous_action: Any) -> Any:
        """The next move of the plan from where the level is now."""
        del observation, previous_action
        sokoban = self.env.unwrapped
        assert isinstance(sokoban, Sokoban)
        assert sokoban.level is not None
        if self.solver is None:
            self.solver = Solver(sokoban.level)
        if sokoban.state not in self.plan:
            self._plan_from(self.solver, sokoban.state)
        return self.plan[sokoban.state]

    def _plan_from(self, solver: Solver, state: State) -> None:
        actions = solver.solve(state)
        if not actions:
            raise ExpertFailedError("the level cannot be solved from here: a box is stuck")
        current: State | None = state
        for action in actions:
            assert current is not None
            self.plan[current] = action
            current = move(solver.level, current, action)


def sokoban(side: int, n_boxes: int, max_steps: int) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of levels of `side`×`side` cells."""

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        return Sokoban(side=side, n_boxes=n_boxes, max_steps=max_steps, evaluation=evaluation, render_mode=render_mode)

    return make


def planner(env: AnyEnv) -> Expert:
    """The planner for `env`."""
    return Planner(env)


def _task(name: str, side: int, n_boxes: int, max_steps: int, instruction: str) -> Task:
    return Task(
        name=f"sokoban/{name}",
        make_env=sokoban(side, n_boxes, max_steps),
        expert=planner,
        modality="vision",
        spec=SPEC,
        instruction=instruction,
        metric="success",
        must_succeed=True,
    )


TASKS: Final = (
    _task("Sokoban7x7", 7, 1, 60, "Push the box home."),
    _task("Sokoban7x7TwoBoxes", 7, 2, 100, "Push both boxes home."),
    _task("Sokoban8x8TwoBoxes", 8, 2, 120, "Push both boxes home in a wide store."),
)
