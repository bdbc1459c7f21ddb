from __future__ import annotations

import numpy as np

from gato_lite.envs.ars import Search, acting, search
from gato_lite.envs.search import Moments, episode_return

SETTINGS = Search(n_direction=8, n_best=4, step_size=0.05, noise=0.1)


def test_one_iteration_is_a_step_uphill(follow):
    def mean_return(weights, moments):
        return np.mean([episode_return(follow(), acting(follow(), weights, moments), seed) for seed in range(20)])

    found = search(follow(), SETTINGS, minutes=0, seed=0)
    statistics = Moments(2)
    statistics.mean = np.array(found.mean)
    statistics.count, statistics.squares = 1, np.array(found.std) ** 2
    assert mean_return(np.array(found.weights), statistics) > mean_return(np.zeros((1, 2)), Moments(2)) + 0.05
    assert found.weights[0][0] > abs(found.weights[0][1])
    assert found.iterations == 1


def test_the_same_seed_finds_the_same(follow):
    first, again, other = (search(follow(), SETTINGS, minutes=0, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.weights != other.weights
