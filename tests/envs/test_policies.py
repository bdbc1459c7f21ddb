from __future__ import annotations

import re

import numpy as np
import pytest

from gato_lite.envs.ars import SEARCHES
from gato_lite.envs.policies import (
    LINEAR_FILE,
    NETWORK_FILE,
    Layer,
    Linear,
    Network,
    linear_policy,
    network_policy,
    policies,
)
from gato_lite.train.ppo import DEVIATIONS


def test_a_rule_is_the_networks():
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
        minutes=0.0,
    )
    expected = 3 * np.tanh(1.0 + 0.5) - np.tanh(20.0) + 0.25  # the second observation is clipped
    assert np.allclose(network.rule()(np.array([3.0, 5.0])), [expected])


@pytest.mark.parametrize(
    "path, kind, names, command",
    [
        (LINEAR_FILE, Linear, SEARCHES, "python -m gato_lite.envs.ars {} --minutes "),
        (NETWORK_FILE, Network, DEVIATIONS, "python -m gato_lite.train.ppo {} --steps "),
    ],
)
def test_the_shipped_policies_say_where_they_come_from(path, kind, names, command):
    found = policies(path, kind)
    assert len(found) >= 2
    assert found.keys() <= names.keys()
    for name, policy in found.items():
        assert policy.command.startswith(command.format(name))
        first = policy.weights if kind is Linear else policy.layers[0].weights
        assert np.shape(first)[1] == len(policy.mean) == len(policy.std)
        assert kind is Linear or 0 < policy.minutes <= 20


@pytest.mark.parametrize("policy", [linear_policy, network_policy])
def test_a_policy_that_is_not_there(policy, follow):
    with pytest.raises(ValueError, match=re.escape("Unknown policy 'Snake'")):
        policy("Snake")(follow())
