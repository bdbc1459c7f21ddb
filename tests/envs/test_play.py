from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs.catalogue import Task
from gato_lite.envs.episodes import EpisodeBuilder
from gato_lite.envs.experts import Clipped, ExpertFailedError, Rule
from gato_lite.envs.play import play_episode


class Reached(gym.Env):
    """Says `success` at step 3 alone, ends by itself at step 9, and notes what it was given."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32))

    def reset(self, *, seed=None, options=None):
        self.n_steps, self.taken = 0, []
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n_steps += 1
        self.taken.append(action)
        return np.zeros(1, np.float32), 0.0, self.n_steps == 9, False, {"success": self.n_steps == 3}


def play(env, expert, **fields):
    task = Task(name="test/Reached", make_env=lambda _evaluation, _mode: env, **fields)
    return play_episode(task, task.make(), expert, EpisodeBuilder(env.observation_space, env.action_space), seed=0)


STILL = Rule(lambda observation: np.zeros(2, np.float32))


@pytest.mark.parametrize("steps, length, truncated", [(0, 3, True), (2, 5, True), (6, 9, False), (50, 9, False)])
def test_an_episode_is_cut_so_many_steps_after_its_first_success(steps, length, truncated):
    episode = play(Reached(), STILL, stop_after_success=steps)
    assert episode.lengths.tolist() == [length]
    assert (bool(episode.truncated[0]), bool(episode.terminated[0])) == (truncated, not truncated)
    assert episode.success.all()


def test_without_a_cut_the_last_step_decides():
    episode = play(Reached(), STILL)
    assert (episode.lengths.tolist(), episode.success.tolist()) == ([9], [False])


def test_what_is_clipped_is_played_stored_and_handed_back():
    class Wild:
        def __init__(self):
            self.before = []

        def reset(self):
            self.before.clear()

        def act(self, observation, previous_action):
            self.before.append(previous_action)
            return [7.0, -7.0] if len(self.before) % 2 else np.array([0.25, 0.25])

    env, wild = Reached(), Wild()
    episode = play(env, Clipped(wild, env.action_space))
    expected = np.array([[1.0, 0.0], [0.25, 0.25]] * 5, np.float32)[:9]
    assert np.array_equal(episode.actions[""], expected)
    assert np.array_equal(env.taken, expected)
    assert np.array_equal(wild.before[1:], expected[:8])
    assert all(env.action_space.contains(action) for action in env.taken)


def test_the_limit_may_be_another_than_the_tasks():
    def hang(observation):
        while True:
            pass

    task = Task(name="test/Hang", make_env=lambda _evaluation, _mode: Reached())
    env = task.make()
    builder = EpisodeBuilder(env.observation_space, env.action_space)
    with pytest.raises(ExpertFailedError, match="longer than its limit of 0.05 s"):
        play_episode(task, env, Rule(hang), builder, seed=0, limit_s=0.05)
