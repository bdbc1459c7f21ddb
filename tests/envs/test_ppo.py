from __future__ import annotations

import itertools
import re
import sys
from types import SimpleNamespace

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs import ppo
from gato_lite.envs.ppo import Layer, Moments, Network, Played, advantages, answer, learn, network_policy, policies


class Follow(gym.Env):
    """Five steps; the reward is higher the nearer the action is to the first of two random observations."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-1, 1, (1,))
    is_cut = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.float32))
        reward = 1 - float(abs(action[0] - self.seen[0]))
        self.n_steps += 1
        ends = self.n_steps == 5
        return self._observe(), reward, ends and not self.is_cut, ends and self.is_cut, {}

    def _observe(self):
        self.seen = self.np_random.uniform(-0.5, 0.5, 2)
        return self.seen


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(ppo, "N_STEP", 32)


def returns_of(act, n=20):
    env = Follow()
    totals = []
    for seed in range(n):
        observation, _ = env.reset(seed=seed)
        rewards = []
        while len(rewards) < 5:
            observation, reward, *_ = env.step(np.clip(act(observation), -1, 1))
            rewards.append(reward)
        totals.append(sum(rewards))
    return np.mean(totals)


def test_it_learns(short, monkeypatch):
    monkeypatch.setattr(ppo, "BATCH", 64)
    monkeypatch.setattr(ppo, "LEARNING_RATE", 2e-3)
    seconds = itertools.count()
    monkeypatch.setattr(ppo, "time", SimpleNamespace(process_time=lambda: next(seconds)))
    told = []
    network = learn(Follow, minutes=0.5, seed=0, on_iteration=lambda steps, score: told.append((steps, score)))
    assert [steps for steps, _ in told] == [2560, 5120, 7680]  # 30 iterations of a second each
    assert returns_of(answer(network)) > 4.5 > returns_of(lambda _: np.zeros(1)) + 0.5
    assert network.score == max(score for _, score in told)
    assert network.steps in [steps for steps, _ in told]


def test_the_same_seed_finds_the_same(short):
    first, again, other = (learn(Follow, minutes=0, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.layers != other.layers


def test_advantages_are_sums_of_discounted_surprises():
    rewards = np.array([[1.0], [2.0], [4.0], [8.0]])
    ended = np.array([[False], [True], [False], [False]])
    values = np.array([[0.5], [0.25], [1.0], [2.0], [3.0]])
    surprises = [1 + 0.99 * 0.25 - 0.5, 2 - 0.25, 4 + 0.99 * 2 - 1, 8 + 0.99 * 3 - 2]
    decay = 0.99 * 0.95
    expected = [surprises[0] + decay * surprises[1], surprises[1], surprises[2] + decay * surprises[3], surprises[3]]
    played = Played(np.zeros((5, 1, 1)), np.zeros((4, 1, 1)), rewards, ended)
    assert np.allclose(advantages(played, values)[:, 0], expected)


def test_a_cut_episode_is_worth_what_was_still_to_come(short, monkeypatch):
    monkeypatch.setattr(Follow, "is_cut", True)
    players = ppo.Players([Follow()], np.random.default_rng(0))
    bare = players.play(lambda seen: np.zeros((len(seen), 1)), lambda seen: np.zeros(len(seen)))
    players = ppo.Players([Follow()], np.random.default_rng(0))
    valued = players.play(lambda seen: np.zeros((len(seen), 1)), lambda seen: np.full(len(seen), 7.0))
    assert np.array_equal(bare.ended[:, 0], np.arange(1, 33) % 5 == 0)
    assert np.allclose(valued.rewards - bare.rewards, 0.99 * 7 * bare.ended)


def test_moments():
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    values[:, 3] = 7
    moments = Moments(4)
    for rows in np.split(values, [1, 8, 30]):
        moments.add(rows)
    assert np.allclose(moments.mean, values.mean(0))
    assert np.allclose(moments.std, [*values.std(0)[:3], 1])


def test_an_answer_is_the_networks():
    network = Network(
        layers=[
            Layer(weights=[[1.0, 0.0], [0.0, 2.0]], bias=[0.5, 0.0]),
            Layer(weights=[[3.0, -1.0]], bias=[0.25]),
        ],
        mean=[1.0, 0.0],
        std=[2.0, 1e-3],
        score=0.0,
        command="",
        steps=0,
    )
    expected = 3 * np.tanh(1.0 + 0.5) - np.tanh(20.0) + 0.25
    assert np.allclose(answer(network)(np.array([3.0, 5.0])), [expected])


def test_the_shipped_policies_say_where_they_come_from():
    assert set(policies()) <= set(ppo.NAMES)
    for name, policy in policies().items():
        assert policy.command.startswith(f"python -m gato_lite.envs.ppo {name} --minutes ")
        assert np.shape(policy.layers[0].weights)[1] == len(policy.mean) == len(policy.std)


def test_a_policy_that_is_not_there():
    with pytest.raises(ValueError, match=re.escape("Unknown policy 'Snake'")):
        network_policy("Snake")(Follow())


def test_the_command_keeps_the_other_policies(tmp_path, monkeypatch, capsys, short):
    monkeypatch.setattr(gym, "make", lambda _name, **_options: Follow())
    out = tmp_path / "ppo.json"
    for name in ("Walker2d", "Ant"):
        monkeypatch.setattr(sys, "argv", ["ppo", name, "--minutes", "0", "--out", str(out)])
        ppo.main()
    stored = msgspec.json.decode(out.read_bytes())
    assert list(stored) == ["Walker2d", "Ant"]
    assert stored["Ant"]["command"] == "python -m gato_lite.envs.ppo Ant --minutes 0 --seed 0"
    assert "Ant: " in capsys.readouterr().out
