"""Small networks as policies: experts that `gato_lite.train.ppo` has found, whose weights are in `ppo.json`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from gato_lite.envs.experts import AnyEnv, Expert
from gato_lite.envs.policies import Array, expert_of, read_policies

WEIGHTS_FILE: Final = Path(__file__).parent / "ppo.json"
"""The networks, by the name of their environment."""
BOUND: Final = 10.0
"""Largest normalised observation."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One affine map; a hyperbolic tangent follows all but the last."""

    weights: list[list[float]]
    """(outputs, inputs)."""
    bias: list[float]


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A policy: the action is the network's answer to the normalised observation."""

    layers: list[Layer]
    mean: list[float]
    """Of each observation, over what was played."""
    std: list[float]
    """Standard deviation of each."""
    score: float
    """Mean return over the episodes that it was chosen by."""
    command: str
    """What found it."""
    steps: int
    """Of the environments, until it was found."""
    minutes: float
    """CPU minutes of the whole search."""

    def rule(self) -> Callable[[Array], Array]:
        """The action for an observation, in any range."""
        mean, std = np.array(self.mean), np.array(self.std)
        layers = [(np.array(layer.weights), np.array(layer.bias)) for layer in self.layers]

        def act(observation: Array) -> Array:
            hidden = np.clip((observation - mean) / std, -BOUND, BOUND)
            for weights, bias in layers[:-1]:
                hidden = np.tanh(weights @ hidden + bias)
            weights, bias = layers[-1]
            return np.asarray(weights @ hidden + bias)

        return act


def network_policy(name: str) -> Callable[[AnyEnv], Expert]:
    """A maker of the expert whose weights `ppo.json` has for an environment."""
    return expert_of(name, policies)


@functools.cache
def policies(path: Path = WEIGHTS_FILE) -> dict[str, Network]:
    """All policies found, by the name of their environment."""
    return read_policies(path, Network)
