"""The planner of BabyAI's rooms: it solves levels, repeats itself, decides alike in states that look alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gato_lite.envs.babyai_planner import DROP, FORWARD, LEFT, PICK_UP, RIGHT, Planner
from gato_lite.envs.catalogue import TASKS

pytest.importorskip("minigrid")

ROOMS = ("GoToRedBallGrey", "GoToRedBall", "GoToObj", "GoToLocal", "OpenDoor", "OpenRedDoor", "PickupLoc", "GoToDoor")


def made(name: str, seed: int) -> tuple[Any, Any, Planner]:
    """A level, its first observation, and a planner."""
    env = TASKS[f"babyai/{name}"].make()
    observation, _ = env.reset(seed=seed)
    planner = Planner(env)
    planner.reset()
    return env, observation, planner


def followed(env: Any, planner: Planner, first: list[int] | None = None) -> tuple[list[int | None], bool]:
    """The planner's actions, and whether they solved the level; the actions of `first` are done in place of its own."""
    actions: list[int | None] = []
    for step in range(100):
        wanted = planner.act()
        actions.append(wanted)
        if wanted is None:
            return actions, False
        done = first[step] if first and step < len(first) else wanted
        _, reward, terminated, truncated, _ = env.step(done)
        if terminated or truncated:
            return actions, float(reward) > 0
    return actions, False


@pytest.mark.parametrize("name", [*ROOMS, "PutNextLocal"])
def test_it_solves_levels_in_few_steps(name: str) -> None:
    for seed in range(12):
        env, _, planner = made(name, seed)
        actions, solved = followed(env, planner)
        assert solved or actions[-1] is None  # a target shut in by other objects is the bot's
        assert len(actions) <= 40


def test_it_decides_alike_every_time() -> None:
    runs = []
    for _ in range(2):
        env, _, planner = made("PutNextLocal", 3)
        runs.append(followed(env, planner)[0])
    assert runs[0] == runs[1]
    assert PICK_UP in runs[0]
    assert runs[0][-1] == DROP


def test_it_finds_its_way_back_from_other_actions() -> None:
    for seed in range(8):
        env, _, planner = made("GoToLocal", seed)
        _, solved = followed(env, planner, first=[LEFT, FORWARD, FORWARD, RIGHT, FORWARD])
        assert solved


def test_it_turns_right_until_it_sees_a_target() -> None:
    for seed in range(30):
        env, _, planner = made("GoToRedBall", seed)
        level = env.unwrapped
        (place,) = {tuple(ball.cur_pos) for ball in level.instrs.desc.obj_set}
        action = planner.act()
        if not level.in_view(*place):
            assert action == RIGHT
            return
    pytest.fail("expected a level among 30 that hides its ball at first")


def test_it_puts_down_what_it_was_not_asked_for() -> None:
    for seed in range(30):
        env, _, planner = made("PickupLoc", seed)
        level = env.unwrapped
        wanted = level.instrs.desc.obj_set
        others = [cell for cell in level.grid.grid if cell is not None and cell.can_pickup() and cell not in wanted]
        if not others:
            continue
        level.carrying = others[0]
        level.grid.set(*others[0].cur_pos, None)
        others[0].cur_pos = np.array([-1, -1])
        actions, solved = followed(env, planner)
        assert DROP in actions
        assert solved
        return
    pytest.fail("expected a level among 30 with something else to carry")


def test_it_leaves_locked_doors_to_the_bot() -> None:
    _, _, planner = made("UnlockLocal", 0)
    assert planner.act() is None
