from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gato_lite.envs.experts import Rule
from gato_lite.envs.policies import expert_of
from gato_lite.envs.search import mean_return
from gato_lite.train import ppo
from gato_lite.train.ppo import Learner, Played, Players, advantages, learn

N_STEP = 32


class Count(gym.Env):
    """Observes how many of its three steps were made, and rewards each with 1."""

    observation_space = spaces.Box(0, 3, (1,))
    action_space = spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self, is_cut):
        self.is_cut = is_cut

    def reset(self, *, seed=None, options=None):
        self.n_steps = 0
        return np.zeros(1), {}

    def step(self, action):
        self.n_steps += 1
        ends = self.n_steps == 3
        return np.array([float(self.n_steps)]), 1.0, ends and not self.is_cut, ends and self.is_cut, {}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(ppo, "N_STEP", N_STEP)


def test_it_learns(monkeypatch, follow):
    def score(expert):
        return mean_return(follow(), expert, np.random.default_rng(0))

    monkeypatch.setattr(ppo, "BATCH", 64)
    monkeypatch.setattr(ppo, "LEARNING_RATE", 2e-3)
    told = []
    network = learn(follow, steps=7_600, seed=0, on_score=lambda steps, score: told.append((steps, score)))
    assert [steps for steps, _ in told] == [2560, 5120, 7680]
    assert score(expert_of(network, follow())) > 4.5 > score(Rule(lambda _: np.zeros(1))) + 0.5
    assert (network.steps, network.score) in told
    assert network.score == max(score for _, score in told)


def test_the_best_is_kept_and_not_the_last(monkeypatch, follow):
    scores = iter([3.0, 1.0, float("nan")])
    monkeypatch.setattr(ppo, "mean_return", lambda *_: next(scores))
    found = learn(follow, steps=30 * ppo.N_ENV * N_STEP, seed=0)
    assert (found.score, found.steps) == (3.0, 10 * ppo.N_ENV * N_STEP)


def test_returns_that_are_no_numbers_are_no_policy(monkeypatch, follow):
    monkeypatch.setattr(ppo, "mean_return", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="expected the return of some episode to be a number"):
        learn(follow, steps=0, seed=0)


def test_the_same_seed_finds_the_same(follow):
    steps = 3 * ppo.N_ENV * N_STEP
    before = torch.random.get_rng_state()
    first, again, other = (learn(follow, steps=steps, seed=seed) for seed in (3, 3, 4))
    assert first.layers == again.layers
    assert (first.mean, first.score) == (again.mean, again.score)
    assert first.layers != other.layers
    assert torch.equal(before, torch.random.get_rng_state())


def test_advantages_are_sums_of_discounted_surprises():
    rewards = np.array([[1.0], [2.0], [4.0], [8.0]])
    ended = np.array([[False], [True], [False], [False]])
    values = np.array([[0.5], [0.25], [1.0], [2.0], [3.0]])
    surprises = [1 + 0.99 * 0.25 - 0.5, 2 - 0.25, 4 + 0.99 * 2 - 1, 8 + 0.99 * 3 - 2]
    decay = 0.99 * 0.95
    expected = [surprises[0] + decay * surprises[1], surprises[1], surprises[2] + decay * surprises[3], surprises[3]]
    played = Played(np.zeros((5, 1, 1)), np.zeros((4, 1, 1)), rewards, ended)
    assert np.allclose(advantages(played, values)[:, 0], expected)


@pytest.mark.parametrize("is_cut", [True, False])
def test_only_a_cut_episode_is_worth_what_was_still_to_come_where_it_was_cut(is_cut):
    def played(value):
        players = Players([Count(is_cut)], np.random.default_rng(0))
        players.normalised = lambda observations: observations
        return players.play(lambda seen: np.zeros((len(seen), 1)), value)

    bare, valued = played(lambda seen: np.zeros(len(seen))), played(lambda seen: 7 * seen[:, 0])
    ends = np.arange(1, N_STEP + 1) % 3 == 0
    assert np.array_equal(bare.ended[:, 0], ends)
    assert bare.observations[:5, 0, 0].tolist() == [0, 1, 2, 0, 1]
    assert np.allclose((valued.rewards - bare.rewards)[:, 0], 0.99 * 7 * 3 * ends * is_cut)


def test_rewards_are_shares_of_the_deviation_of_the_return():
    players = Players([Count(is_cut=False)], np.random.default_rng(0))
    rewards = players.play(lambda seen: np.zeros((len(seen), 1)), lambda seen: np.zeros(len(seen))).rewards[:, 0]
    seen = np.tile([1, 1.99, 1 + 0.99 * 1.99], 11)[:N_STEP]
    assert rewards[0] == 1  # nothing has varied yet
    assert np.allclose(rewards[1:], [1 / seen[: n + 1].std() for n in range(1, N_STEP)])


def test_likelihoods_are_those_of_a_normal_distribution():
    learner = Learner(3, 2, deviation=0.5, seed=0)
    assert torch.allclose(learner.log_std.exp(), torch.tensor(0.5))
    with torch.no_grad():
        learner.log_std.copy_(torch.tensor([-1.0, 0.5]))
        observations, actions = torch.randn(6, 3), torch.randn(6, 2)
        ours = learner._log_likelihood(observations, actions)
        theirs = torch.distributions.Normal(learner.actor(observations), learner.log_std.exp()).log_prob(actions).sum(1)
    assert torch.allclose(ours - theirs, (ours - theirs)[0].expand(6), atol=1e-5)
    drawn = np.array([learner.act(np.zeros((1, 3)), np.random.default_rng(seed))[0] for seed in range(2_000)])
    assert np.allclose(drawn.std(0), np.exp([-1.0, 0.5]), rtol=0.1)


def one_update(monkeypatch, *, advantage, left=1.0, clip=ppo.CLIP, seed=0):
    """How likely what was done is before and after an update, and the critic's error before and after."""
    monkeypatch.setattr(ppo, "CLIP", clip)
    generator = np.random.default_rng(seed)
    learner = Learner(3, 2, deviation=0.5, seed=0)
    played = Played(
        generator.normal(size=(N_STEP + 1, 8, 3)),
        generator.normal(size=(N_STEP, 8, 2)),
        advantage * np.sign(generator.normal(size=(N_STEP, 8))),
        np.ones((N_STEP, 8), np.bool_),
    )
    observations, actions = (
        torch.as_tensor(x.reshape(N_STEP * 8, -1), dtype=torch.float32)
        for x in (played.observations[:-1], played.actions)
    )

    def measured():
        with torch.no_grad():
            likelihood = learner._log_likelihood(observations, actions)
        return likelihood, np.square(learner.value(played.observations[:-1]) - played.rewards).mean()

    before, error_before = measured()
    learner.learn(played, left, np.random.default_rng(0))
    after, error_after = measured()
    return (after - before).exp(), torch.as_tensor(played.rewards.reshape(-1)), error_before, error_after


def test_an_update_makes_good_actions_likelier_and_the_critic_better(monkeypatch):
    ratio, gain, error_before, error_after = one_update(monkeypatch, advantage=1.0)
    assert ratio[gain > 0].mean() > 1 > ratio[gain < 0].mean()
    assert error_after < 0.98 * error_before


def test_an_update_is_clipped_and_its_rate_falls(monkeypatch):
    monkeypatch.setattr(ppo, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(ppo, "BATCH", 64)
    far, *_ = one_update(monkeypatch, advantage=1.0, clip=1e9)
    near, *_ = one_update(monkeypatch, advantage=1.0, clip=0.05)
    slow, *_ = one_update(monkeypatch, advantage=1.0, clip=1e9, left=0.1)
    assert near.log().abs().mean() < 0.7 * far.log().abs().mean()
    assert slow.log().abs().mean() < 0.7 * far.log().abs().mean()
