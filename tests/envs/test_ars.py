from __future__ import annotations

import re
import sys

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs import ars
from gato_lite.envs.ars import SEARCHES, Search, linear_policy, play, policies, search
from gato_lite.envs.policies import Moments

SETTINGS = Search(n_direction=8, n_best=4, step_size=0.05, noise=0.1)


class Follow(gym.Env):
    """Five steps; the reward is higher the nearer the action is to the first of two random observations."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return self._observe(), {}

    def step(self, action):
        reward = 1 - float(abs(action[0] - self.seen[0]))
        self.n_steps += 1
        return self._observe(), reward, False, self.n_steps == 5, {}

    def _observe(self):
        self.seen = self.np_random.uniform(-0.5, 0.5, 2)
        return self.seen


def test_one_iteration_is_a_step_uphill():
    found = search(Follow(), SETTINGS, minutes=0, seed=0)
    still = Moments(2)
    before = np.mean([play(Follow(), np.zeros((1, 2)), still, seed, learn=False) for seed in range(20)])
    statistics = Moments(2)
    statistics.mean = np.array(found.mean)
    statistics.count, statistics.squares = 1, np.array(found.std) ** 2
    after = np.mean([play(Follow(), np.array(found.weights), statistics, seed, learn=False) for seed in range(20)])
    assert after > before + 0.05
    assert found.weights[0][0] > abs(found.weights[0][1])
    assert found.iterations == 1


def test_the_same_seed_finds_the_same():
    first, again, other = (search(Follow(), SETTINGS, minutes=0, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.weights != other.weights


def test_a_bonus_is_left_out_of_the_return():
    args = (np.zeros((1, 2)), Moments(2), 0)
    whole = play(Follow(), *args, learn=False)
    assert play(Follow(), *args, learn=False, bonus=1.0) == pytest.approx(whole - 5)


def test_the_shipped_policies_say_where_they_come_from():
    for name, policy in policies().items():
        assert policy.command.startswith(f"python -m gato_lite.envs.ars {name} --minutes ")
        assert np.shape(policy.weights)[1] == len(policy.mean) == len(policy.std)
    assert policies().keys() <= SEARCHES.keys()


def test_a_policy_that_is_not_there():
    with pytest.raises(ValueError, match=re.escape("Unknown policy 'Snake'")):
        linear_policy("Snake")(Follow())


def test_the_command_keeps_the_other_policies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gym, "make", lambda _name, **_options: Follow())
    out = tmp_path / "ars.json"
    for name in ("Swimmer", "Hopper"):
        monkeypatch.setattr(sys, "argv", ["ars", name, "--minutes", "0", "--out", str(out)])
        ars.main()
    stored = msgspec.json.decode(out.read_bytes())
    assert list(stored) == ["Swimmer", "Hopper"]
    assert stored["Hopper"]["command"] == "python -m gato_lite.envs.ars Hopper --minutes 0 --seed 0"
    assert "Hopper: " in capsys.readouterr().out
