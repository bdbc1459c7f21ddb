"""Tasks that no recipe trains on, for `python -m gato_lite.train.new_task`: docs/experiments.md has what came of it.

    export GATO_LITE_TASKS=benchmarks/held_out.py
    gato-lite tasks --suite held

`held_out.scores.json` beside this file is their scale, written by `python -m gato_lite.envs.reference 'held/*'`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym

from gato_lite.config import TokenSpec
from gato_lite.envs import babyai, sokoban
from gato_lite.envs.experts import AnyEnv, ExpertFailedError
from gato_lite.envs.pixels import LevelPicture
from gato_lite.envs.task import Task

LEFT, RIGHT, FORWARD = 0, 1, 2
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Steps in the four directions that minigrid counts: right, down, left, up."""
Pose = tuple[int, int, int]
"""Column, row and direction."""


class Walker:
    """The fewest turns and steps to the goal on cells without lava or walls; it sees the whole level."""

    def __init__(self, env: AnyEnv) -> None:
        self.env = env

    def reset(self) -> None:
        """Nothing is kept: a way is looked for at every step."""

    def act(self, observation: Any, previous_action: Any) -> int:  # noqa: ARG002  (the protocol's signature)
        """The first action of a shortest way from where the agent is."""
        level: Any = self.env.unwrapped  # Any: minigrid has no types
        start: Pose = (*map(int, level.agent_pos), int(level.agent_dir))
        first: dict[Pose, int] = {start: -1}
        queue = deque([start])
        while queue:
            pose = queue.popleft()
            column, row, direction = pose
            cell = level.grid.get(column, row)
            if cell is not None and cell.type == "goal":
                return first[pose]
            right, down = AHEAD[direction]
            ahead = level.grid.get(column + right, row + down)
            ways = [(FORWARD, (column + right, row + down, direction))] if ahead is None or ahead.type == "goal" else []
            ways += [(LEFT, (column, row, (direction - 1) % 4)), (RIGHT, (column, row, (direction + 1) % 4))]
            for action, reached in ways:
                if reached not in first:
                    first[reached] = action if pose == start else first[pose]
                    queue.append(reached)
        raise ExpertFailedError("expected a way to the goal, found none")


def make_crossings(evaluation: bool, render_mode: str | None) -> AnyEnv:
    """MiniGrid's LavaCrossingS9N3: three rivers of lava, each with a gap, before a green square."""
    del evaluation
    import minigrid  # noqa: F401  (registers the levels)

    inner = gym.make("MiniGrid-LavaCrossingS9N3-v0", disable_env_checker=True, render_mode=render_mode)
    return gym.wrappers.TimeLimit(babyai.Quiet(inner, babyai.MISSION), babyai.ROOM_STEPS)


def make_door_picture(evaluation: bool, render_mode: str | None) -> AnyEnv:
    """BabyAI's OpenDoor with its 7×7 cells drawn."""
    return LevelPicture(babyai.level("OpenDoor")(evaluation, render_mode))


rivers = Task(
    name="held/LavaCrossings",
    make_env=make_crossings,
    expert=Walker,
    modality="vision",
    spec=babyai.SPEC,
    metric="success",
    must_succeed=True,
    extra="babyai",
)
door = Task(
    name="held/OpenDoorPicture",
    make_env=make_door_picture,
    expert=babyai.in_room,
    modality="vision",
    spec=TokenSpec(leaves=("image", "mission"), once=("mission",)),
    metric="success",
    must_succeed=True,
    extra="babyai",
)
boxes = Task(
    name="held/SokobanThreeBoxes",
    make_env=sokoban.sokoban(7, 3, 120),
    expert=sokoban.planner,
    modality="vision",
    spec=sokoban.SPEC,
    instruction="Push all three boxes home.",
    metric="success",
    must_succeed=True,
)
