from __future__ import annotations

import re

import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs.episodes import BadEpisodeError, EpisodeBuilder, concatenate_episodes

FLOATS = spaces.Box(-np.inf, np.inf, (2,))


def build(observation_space, action_space, observations, actions, rewards=None):
    builder = EpisodeBuilder(observation_space, action_space)
    builder.start(observations[0], seed=7)
    for i, action in enumerate(actions):
        builder.step(action, observations[i + 1], 1.0 if rewards is None else rewards[i])
    return builder.finish(terminated=True, truncated=False)


def test_an_episode_has_one_observation_more_than_actions():
    episode = build(FLOATS, spaces.Discrete(3), [np.zeros(2), np.ones(2), np.full(2, 2.0)], [2, 0])
    assert episode.observations[""].shape == (3, 2)
    assert episode.observations[""].dtype == np.float32
    assert episode.actions[""].tolist() == [2, 0]
    assert episode.actions[""].dtype == np.int64
    assert (len(episode), episode.lengths.tolist(), episode.seeds.tolist()) == (1, [2], [7])


def test_an_array_that_the_environment_writes_again_is_copied():
    buffer = np.zeros(2, np.float32)
    builder = EpisodeBuilder(FLOATS, spaces.Discrete(2))
    builder.start(buffer, seed=0)
    buffer += 1
    builder.step(0, buffer, 0.0)
    buffer += 1
    assert builder.finish(terminated=True, truncated=False).observations[""].tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    "observation_space, action_space, observations, actions, message",
    [
        (FLOATS, spaces.Discrete(2), [[0, 0], [np.nan, 0]], [0], "observation, step 1: expected a finite number, got"),
        (FLOATS, spaces.Discrete(2), [[0, 0], [np.inf, 0]], [0], "observation, step 1: expected a finite number, got"),
        (FLOATS, spaces.Discrete(2), [[0, 0], [1e39, 0]], [0], "observation, step 1: expected a finite number, got"),
        (FLOATS, spaces.Discrete(2), [[0, 0], [0]], [0], r"observation, step 1: expected shape (2,)"),
        (FLOATS, spaces.Discrete(2), [[0, 0], ["a", "b"]], [0], r"observation, step 1: expected shape (2,)"),
        (FLOATS, spaces.Discrete(2), [[0, 0], [0, 0]], [2], "action, step 0: expected a member of Discrete(2), got 2"),
        (FLOATS, spaces.Discrete(2), [[0, 0], [0, 0]], [0.5], "action, step 0: expected int64 values of Discrete(2)"),
        (FLOATS, spaces.Box(-1, 1, (1,)), [[0, 0], [0, 0]], [[1.5]], "action, step 0: expected a member of Box"),
        (spaces.Discrete(3), spaces.Discrete(2), [0, 3], [0], "observation, step 1: expected a member of Discrete(3)"),
        (
            spaces.Box(0, 255, (1,), np.uint8),
            spaces.Discrete(2),
            [[0], [256]],
            [0],
            "observation, step 1: expected a value of uint8, got [256]",
        ),
        (spaces.Text(4), spaces.Discrete(2), ["a", 3], [0], "observation, step 1: expected a string, got int"),
        (spaces.Text(4), spaces.Discrete(2), ["a", "\ud800"], [0], "lone surrogate at 0"),
        (spaces.Text(4), spaces.Text(2, charset="a"), ["a", "b"], ["ab"], "action, step 0: expected a member of Text"),
        (
            spaces.Dict(a=FLOATS),
            spaces.Discrete(2),
            [{"a": [0, 0]}, {}],
            [0],
            "observation/a, step 1: expected a member",
        ),
        (
            spaces.Sequence(spaces.Discrete(2)),
            spaces.Discrete(2),
            [(0,), (5,)],
            [0],
            "observation, step 1: expected a member of Sequence",
        ),
    ],
)
def test_a_bad_value_is_named(observation_space, action_space, observations, actions, message):
    with pytest.raises(BadEpisodeError, match=re.escape(message)):
        build(observation_space, action_space, observations, actions)


def test_a_bad_reward_is_named():
    with pytest.raises(BadEpisodeError, match="^reward, step 1: expected a finite number, got nan$"):
        build(spaces.Discrete(2), spaces.Discrete(2), [0, 0, 0], [0, 0], [1.0, float("nan")])


def test_an_empty_episode_is_refused():
    with pytest.raises(BadEpisodeError, match="^the episode is empty: expected at least one step$"):
        build(spaces.Discrete(2), spaces.Discrete(2), [0], [])


def test_labels_are_for_all_steps_or_none():
    builder = EpisodeBuilder(spaces.Discrete(2), spaces.Discrete(2))
    builder.start(0, seed=0)
    builder.label(1)
    builder.step(0, 1, 0.0)
    builder.step(0, 1, 0.0)
    with pytest.raises(BadEpisodeError, match=r"^label: expected one for each of 2 steps or none, got 1$"):
        builder.finish(terminated=True, truncated=False)


def test_step_needs_a_start():
    with pytest.raises(RuntimeError, match="step was called before start"):
        EpisodeBuilder(spaces.Discrete(2), spaces.Discrete(2)).step(0, 0, 0.0)


def test_concatenation_keeps_order_and_text():
    space = spaces.Text(4)
    runs = [build(space, spaces.Discrete(2), list(words), [0] * (len(words) - 1)) for words in ("abc", "de")]
    both = concatenate_episodes(runs)
    assert both.observations[""] == list("abcde")
    assert both.lengths.tolist() == [2, 1]
    assert both.success is None


def test_a_reward_that_float32_cannot_hold_is_named():
    with pytest.raises(BadEpisodeError, match=r"reward, step 1: expected a finite number, got 1e\+300"):
        build(FLOATS, spaces.Discrete(2), np.zeros((3, 2)), [0, 0], [0.0, 1e300])
