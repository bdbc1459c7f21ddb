from __future__ import annotations

import re
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from gato_lite.envs.experts import ExpertFailedError
from gato_lite.envs.sokoban import Planner, Sokoban
from gato_lite.envs.sokoban_level import Level, Solver, draw_level, move


def level_of(*rows: str) -> Level:
    """A level as players write it: # wall, . target, $ box, * box on target, @ player, + player on target."""
    side, text = len(rows), "".join(rows)
    cells = {kind: [i for i, c in enumerate(text) if c in kind] for kind in ("#", ".*+", "$*", "@+")}
    return Level(side, frozenset(cells["#"]), frozenset(cells[".*+"]), (cells["@+"][0], tuple(cells["$*"])))


def breadth_first(level: Level) -> int | None:
    """Length of a shortest solution, found without any bound."""
    queue, seen = deque([(level.start, 0)]), {level.start}
    while queue:
        state, n_moves = queue.popleft()
        if set(state[1]) == level.targets:
            return n_moves
        for action in range(4):
            after = move(level, state, action)
            if after is not None and after not in seen:
                seen.add(after)
                queue.append((after, n_moves + 1))
    return None


def test_gymnasium_finds_no_fault():
    check_env(Sokoban(), skip_render_check=True)


@pytest.mark.parametrize("n_boxes", [1, 2])
def test_solutions_are_shortest(n_boxes):
    rng = np.random.default_rng(n_boxes)
    for _ in range(15):
        level, solution = draw_level(rng, 7, n_boxes, 4)
        assert len(solution) == breadth_first(level)


def test_a_known_level():
    level = level_of("#####", "#@$.#", "#   #", "#   #", "#####")
    assert Solver(level).solve(level.start) == [3]
    level = level_of("#####", "#.  #", "# $ #", "#  @#", "#####")
    assert len(Solver(level).solve(level.start)) == breadth_first(level) == 5


def test_a_box_in_a_corner_has_no_solution():
    level = level_of("#####", "#$ .#", "# @ #", "#   #", "#####")
    assert Solver(level).solve(level.start) is None


@pytest.mark.parametrize("n_boxes", [1, 2])
def test_the_planner_takes_the_optimal_number_of_moves(n_boxes):
    env = Sokoban(n_boxes=n_boxes)
    planner = Planner(env)
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        planner.reset()
        n_moves, terminated, action = 0, False, None
        while not terminated:
            action = planner.act(observation, action)
            observation, reward, terminated, truncated, _ = env.step(action)
            n_moves += 1
            assert reward == terminated
            assert not truncated
        assert n_moves == info["optimal"]


def test_the_planner_plans_again_off_its_plan():
    env = Sokoban()
    env.reset(seed=3)
    planner = Planner(env)
    rng = np.random.default_rng(0)
    for _ in range(5):
        planner.act(None, None)
        env.step(int(rng.integers(4)))
    optimal = len(Solver(env.level).solve(env.state))
    for n_moves in range(optimal):
        assert set(env.state[1]) != env.level.targets, n_moves
        env.step(planner.act(None, None))
    assert set(env.state[1]) == env.level.targets


def test_the_planner_says_when_it_is_lost():
    env = Sokoban()
    env.reset(seed=0)
    env.level = level_of("#####", "#$ .#", "# @ #", "#   #", "#####")
    env.state = env.level.start
    with pytest.raises(ExpertFailedError, match="a box is stuck"):
        Planner(env).act(None, None)


def test_training_and_evaluation_levels_are_disjoint():
    drawn = {}
    for evaluation in (False, True):
        env = Sokoban(evaluation=evaluation)
        levels = [env.reset(seed=seed)[0].tobytes() for seed in range(300)]
        assert len(set(levels)) > 290
        drawn[evaluation] = set(levels)
    assert not drawn[False] & drawn[True]


def test_a_turned_level_is_on_the_same_side():
    level, _ = draw_level(np.random.default_rng(5), 7, 1, 4)
    planes = level.planes(level.start)
    for turned in (np.rot90(planes), planes[:, ::-1], planes.transpose(1, 0, 2)):
        cells = turned.reshape(49, 4)
        wall, box, player, target = (np.flatnonzero(cells[:, i]).tolist() for i in range(4))
        other = Level(7, frozenset(wall), frozenset(target), (player[0], tuple(box)))
        assert other.for_evaluation() == level.for_evaluation()


def test_levels_come_from_the_seed():
    left, right = Sokoban(), Sokoban()
    assert np.array_equal(left.reset(seed=11)[0], right.reset(seed=11)[0])
    assert not np.array_equal(left.reset(seed=11)[0], right.reset(seed=12)[0])


def test_the_time_limit_truncates():
    env = Sokoban(max_steps=3)
    env.reset(seed=0)
    env.level = level_of("#####", "#@ $#", "#  .#", "#   #", "#####")
    env.state = env.level.start
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_observations_are_planes():
    level = level_of("#####", "#@$ #", "# * #", "# . #", "#####")
    planes = level.planes(level.start)
    assert planes.sum((0, 1)).tolist() == [16, 2, 1, 2]
    assert planes[1, 1].tolist() == [0, 0, 1, 0]
    assert planes[2, 2].tolist() == [0, 1, 0, 1]


def test_pixels():
    env = Sokoban(render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (224, 224, 3)
    assert Sokoban().render() is None


def test_bad_arguments_are_told():
    message = "expected side ≥ 5 and 1 ≤ n_boxes ≤ (side - 2)²/6, got side=5, n_boxes=4"
    with pytest.raises(ValueError, match=re.escape(message)):
        Sokoban(side=5, n_boxes=4)
    with pytest.raises(RuntimeError, match="step was called before reset"):
        Sokoban().step(0)
    assert isinstance(Sokoban(), gym.Env)
