from __future__ import annotations

import numpy as np

from gato_lite.envs.policies import Moments


def test_moments_are_those_of_all_rows():
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    values[:, 3] = 7
    moments = Moments(4)
    assert moments.std.tolist() == [1, 1, 1, 1]
    for rows in np.split(values, [1, 8, 30]):
        moments.add(rows)
    assert np.allclose(moments.mean, values.mean(0))
    assert np.allclose(moments.std, [*values.std(0)[:3], 1])
