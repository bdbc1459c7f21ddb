"""Sokoban levels: how they are drawn, how they are solved, and which of them are kept for evaluation.

A cell is its row times the side plus its column. A solution is a shortest one in moves, found by A*.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

State: TypeAlias = tuple[int, tuple[int, ...]]
"""The player's cell, and the boxes' cells in ascending order."""

UNREACHABLE = 1 << 20


@dataclass(frozen=True)
class Level:
    """A level at its start."""

    side: int
    """Cells along each side, the outer wall included."""
    walls: frozenset[int]
    """Cells nobody enters."""
    targets: frozenset[int]
    """Cells that boxes must stand on."""
    start: State
    """Where the player and the boxes are."""

    @property
    def steps(self) -> tuple[int, int, int, int]:
        """Change of cell by each action: up, down, left, right."""
        return -self.side, self.side, -1, 1

    def planes(self, state: State) -> npt.NDArray[np.uint8]:
        """Walls, boxes, player and targets as four planes (side, side, 4) of 0 and 1."""
        planes = np.zeros((self.side * self.side, 4), np.uint8)
        planes[list(self.walls), 0] = 1
        planes[list(state[1]), 1] = 1
        planes[state[0], 2] = 1
        planes[list(self.targets), 3] = 1
        return planes.reshape(self.side, self.side, 4)

    def for_evaluation(self) -> bool:
        """Whether the level is one of the fifth kept for evaluation; so are its rotations and reflections with it."""
        planes = self.planes(self.start)
        turned = [np.rot90(planes, turns) for turns in range(4)]
        views = [view.tobytes() for one in turned for view in (one, one[::-1])]
        return hashlib.blake2b(min(views), digest_size=8).digest()[0] % 5 == 0


class Solver:
    """Shortest solutions of one level from any of its states."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.pushes = _push_distances(level)

    def solve(self, state: State) -> list[int] | None:
        """A shortest list of actions from `state` to the goal; None where there is none.

        A* in moves. The bound counts the pushes each box needs to its nearest target were it alone, and the steps to
        the nearest box; a move lowers it by at most one, so the first solution found is a shortest one.
        """
        bound = self._bound(state)
        if bound >= UNREACHABLE:
            return None
        order = count()
        frontier = [(bound, next(order), 0, state)]
        came: dict[State, tuple[State, int] | None] = {state: None}
        cost = {state: 0}
        while frontier:
            _, _, spent, current = heapq.heappop(frontier)
            if spent > cost[current]:
                continue
            if all(box in self.level.targets for box in current[1]):
                return _trace(came, current)
            for action in range(4):
                after = move(self.level, current, action)
                if after is None or spent + 1 >= cost.get(after, UNREACHABLE):
                    continue
                bound = self._bound(after)
                if bound < UNREACHABLE:
                    cost[after], came[after] = spent + 1, (current, action)
                    # The older of equals comes last: depth first among states that look equally good.
                    heapq.heappush(frontier, (spent + 1 + bound, -next(order), spent + 1, after))
        return None

    def _bound(self, state: State) -> int:
        player, boxes = state
        pushes = 0
        for box in boxes:
            pushes += self.pushes[box]
        if pushes == 0 or pushes >= UNREACHABLE:
            return pushes
        side = self.level.side
        row, column = divmod(player, side)
        return pushes + min(abs(row - box // side) + abs(column - box % side) for box in boxes) - 1


def move(level: Level, state: State, action: int) -> State | None:
    """The state after a step or a push; None where a wall or a second box is in the way."""
    player, boxes = state
    step = level.steps[action]
    ahead = player + step
    if ahead in level.walls:
        return None
    if ahead not in boxes:
        return ahead, boxes
    beyond = ahead + step
    if beyond in level.walls or beyond in boxes:
        return None
    return ahead, tuple(sorted(beyond if box == ahead else box for box in boxes))


def _push_distances(level: Level) -> list[int]:
    """Pushes from each cell to the nearest target for a box alone, found by pulling it away from the targets."""
    distances = [UNREACHABLE] * (level.side * level.side)
    queue = deque(level.targets)
    for target in level.targets:
        distances[target] = 0
    while queue:
        cell = queue.popleft()
        for step in level.steps:
            before, player = cell - step, cell - 2 * step
            if before in level.walls or player in level.walls or distances[before] < UNREACHABLE:
                continue
            distances[before] = distances[cell] + 1
            queue.append(before)
    return distances


def _trace(came: dict[State, tuple[State, int] | None], state: State) -> list[int]:
    actions: list[int] = []
    while (link := came[state]) is not None:
        state, action = link
        actions.append(action)
    return actions[::-1]


def draw_level(rng: np.random.Generator, side: int, n_boxes: int, min_length: int) -> tuple[Level, list[int]]:
    """A random level that needs at least `min_length` moves, with a shortest solution."""
    outer = {cell for cell in range(side * side) if {cell // side, cell % side} & {0, side - 1}}
    inner = [cell for cell in range(side * side) if cell not in outer]
    while True:
        n_walls = int(rng.integers(1, len(inner) // 4 + 1))
        cells = [inner[i] for i in rng.permutation(len(inner))[: n_walls + 2 * n_boxes + 1]]
        walls, boxes = frozenset(outer | set(cells[:n_walls])), cells[n_walls : n_walls + n_boxes]
        targets, player = frozenset(cells[n_walls + n_boxes : -1]), cells[-1]
        level = Level(side, walls, targets, (player, tuple(sorted(boxes))))
        solution = Solver(level).solve(level.start)
        if solution is not None and len(solution) >= min_length:
            return level, solution
