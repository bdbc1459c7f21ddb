"""An expert of BabyAI's levels that look into one room: it decides by what the agent can see.

minigrid's bot breaks ties between equally short ways by the compass and explores by its own map of the level; a model
that sees an egocentric 7×7 view can hardly learn either. This planner turns right until it has seen a target, and walks
the shortest way to the nearest one that it has seen, forward before left before right where ways are equally short.

Source: Chevalier-Boisvert et al. 2019, "BabyAI", section 3.3 (missions and their verifiers).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from gato_lite.envs.experts import AnyEnv

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)
DIRECTIONS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Steps of a forward move, by minigrid's direction index."""
LOOK_AROUND: Final = 3
"""Turns after which all four directions have been seen."""

Cell = tuple[int, int]
Pose = tuple[int, int, int]
"""Column, row, direction."""


class Planner:
    """Plans in the level that an environment is in; one decision at a time.

    Args:
        env: a BabyAI level.
    """

    def __init__(self, env: AnyEnv) -> None:
        self.level: Any = env.unwrapped  # Any: minigrid has no types
        self._turned = 0
        """Turns taken to find a target."""
        self._seen: set[Cell] = set()
        """Cells of the mission's objects that have been in view."""

    def reset(self) -> None:
        """Begin an episode."""
        self._turned = 0
        self._seen = set()

    def act(self) -> int | None:
        """The next action; None where this planner knows no way: an order of several parts, a blocked target."""
        order, carried = self.level.instrs, self.level.carrying
        parts = [getattr(order, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(order, name)]
        self._seen |= {cell for part in parts for cell in self._places(part) if self.level.in_view(*cell)}
        match type(order).__name__:
            case "GoToInstr":
                return self._reach(self._places(order.desc), done=None)
            case "OpenInstr":
                doors = [door for door in order.desc.obj_set if not door.is_locked]
                return self._reach([self._place(door) for door in doors if not door.is_open], done=TOGGLE)
            case "PickupInstr" if carried is None:
                return self._reach(self._places(order.desc), done=PICK_UP)
            case "PutNextInstr" if carried is None:
                return self._reach(self._places(order.desc_move), done=PICK_UP)
            case "PutNextInstr" if any(carried is wanted for wanted in order.desc_move.obj_set):
                return self._reach(self._places(order.desc_fixed), done=DROP, beside=True)
            case "PickupInstr" | "PutNextInstr":  # something else is in its hands
                return self._walk(self._is_free, DROP)
        return None

    def _places(self, description: Any) -> list[Cell]:
        """Where the objects that a description means are now."""
        return [self._place(wanted) for wanted in description.obj_set if wanted is not self.level.carrying]

    def _place(self, wanted: Any) -> Cell:
        place = wanted.cur_pos if wanted.cur_pos is not None else wanted.init_pos
        return int(place[0]), int(place[1])

    def _reach(self, targets: list[Cell], *, done: int | None, beside: bool = False) -> int | None:
        """Towards the nearest target that has been seen, then `done`; a turn to the right while none has.

        Args:
            targets: cells to face.
            done: what to do when facing one; None if facing it is all.
            beside: whether to face a free cell beside a target, and not the target.
        """
        seen = [cell for cell in targets if cell in self._seen]
        if targets and not seen and self._turned < LOOK_AROUND:
            self._turned += 1
            return RIGHT
        for chosen in (seen, targets):
            wanted = set(chosen)
            if beside:
                wanted = {cell for place in chosen for cell in _neighbours(place) if self._is_free(cell)}
            action = self._walk(wanted.__contains__, done) if wanted else None
            if action is not None:
                return action
        return None

    def _walk(self, faces: Callable[[Cell], bool], done: int | None) -> int | None:
        """First action of the shortest way to a pose whose front cell satisfies `faces`; `done` when it is there.

        Breadth first over poses, forward before left before right.
        """
        column, row = self.level.agent_pos
        start = (int(column), int(row), int(self.level.agent_dir))
        if faces(_front(start)):
            return done
        waiting: deque[tuple[Pose, int | None]] = deque([(start, None)])
        known = {start}
        while waiting:
            pose, first = waiting.popleft()
            for action in (FORWARD, LEFT, RIGHT):
                reached = self._after(pose, action)
                if reached is None or reached in known:
                    continue
                known.add(reached)
                if faces(_front(reached)):
                    return action if first is None else first
                waiting.append((reached, action if first is None else first))
        return None

    def _after(self, pose: Pose, action: int) -> Pose | None:
        column, row, direction = pose
        if action == FORWARD:
            ahead = _front(pose)
            return (*ahead, direction) if self._is_open(ahead) else None
        return column, row, (direction + (1 if action == RIGHT else -1)) % 4

    def _is_open(self, cell: Cell) -> bool:
        """Whether the agent can stand there."""
        found = self.level.grid.get(*cell)
        return found is None or bool(found.can_overlap())

    def _is_free(self, cell: Cell) -> bool:
        """Whether something can be dropped there."""
        return self.level.grid.get(*cell) is None and cell != tuple(self.level.agent_pos)


def _front(pose: Pose) -> Cell:
    column, row, direction = pose
    across, down = DIRECTIONS[direction]
    return column + across, row + down


def _neighbours(cell: Cell) -> list[Cell]:
    return [(cell[0] + across, cell[1] + down) for across, down in DIRECTIONS]
