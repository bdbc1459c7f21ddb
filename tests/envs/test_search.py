from __future__ import annotations

import sys

import gymnasium as gym
import msgspec
import numpy as np
import pytest

from gato_lite.envs import ars
from gato_lite.envs.experts import Rule
from gato_lite.envs.search import Moments, episode_return
from gato_lite.train import ppo


def test_moments_are_those_of_all_rows():
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    values[:, 3] = 7
    moments = Moments(4)
    assert moments.std.tolist() == [1, 1, 1, 1]
    for rows in np.split(values, [1, 8, 30]):
        moments.add(rows)
    assert np.allclose(moments.mean, values.mean(0))
    assert np.allclose(moments.std, [*values.std(0)[:3], 1])


def test_a_bonus_is_left_out_of_the_return(follow):
    still = Rule(lambda _: np.zeros(1))
    assert episode_return(follow(), still, 0, bonus=1.0) == pytest.approx(episode_return(follow(), still, 0) - 5)


@pytest.mark.parametrize(
    "search, names, budget",
    [(ars, ("Swimmer", "Hopper"), ("--minutes", "0")), (ppo, ("Walker2d", "Ant"), ("--steps", "1"))],
)
def test_the_command_keeps_the_other_policies(tmp_path, monkeypatch, capsys, follow, search, names, budget):
    monkeypatch.setattr(ppo, "N_STEP", 32)
    monkeypatch.setattr(gym, "make", lambda _name, **_options: follow())
    out = tmp_path / "policies.json"
    for name in names:
        monkeypatch.setattr(sys, "argv", ["search", name, *budget, "--out", str(out)])
        search.main()
    stored = msgspec.json.decode(out.read_bytes())
    assert tuple(stored) == names
    assert stored[names[1]]["command"] == f"python -m {search.__name__} {names[1]} {' '.join(budget)} --seed 0"
    assert f"{names[1]}: " in capsys.readouterr().out
