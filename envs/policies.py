"""Policies that searches have found: linear ones and small networks, in files, by the name of their environment."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gato_lite.envs.experts import AnyEnv, Clipped, Expert, Rule
from gato_lite.names import unknown_name
from gato_lite.whole import replacing

Array = npt.NDArray[np.float64]

LINEAR_FILE: Final = Path(__file__).parent / "ars.json"
"""Linear policies, which `gato_lite.envs.ars` has found."""
NETWORK_FILE: Final = Path(__file__).parent / "ppo.json"
"""Networks, which `gato_lite.train.ppo` has found."""
BOUND: Final = 10.0
"""Largest normalised observation of a network."""


class Policy(Protocol):
    """What a search has found."""

    @property
    def score(self) -> float:
        """Mean return over the episodes that it was chosen by."""

    def rule(self) -> Callable[[Array], Array]:
        """The action for an observation, in any range."""


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """A policy: the action is `weights` times the normalised observation."""

    weights: list[list[float]]
    """(actions, observations)."""
    mean: list[float]
    """Of each observation, over the search."""
    std: list[float]
    """Standard deviation of each."""
    score: float
    """Mean return over the episodes that it was chosen by."""
    command: str
    """What found it."""
    iterations: int
    """How many iterations were made."""

    def rule(self) -> Callable[[Array], Array]:
        """The action for an observation, in any range."""
        weights, mean, std = np.array(self.weights), np.array(self.mean), np.array(self.std)
        return lambda observation: weights @ ((observation - mean) / std)


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


@functools.cache
def policies(path: Path, kind: type[Policy]) -> dict[str, Any]:  # Any: of that kind
    """All policies in a file, by the name of their environment; none where there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, kind]) if path.is_file() else {}  # type: ignore[valid-type]


def keep_policy(path: Path, name: str, found: Policy) -> None:
    """Puts one policy into a file; others in it stay."""
    kept = {**policies(path, type(found)), name: found}
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(kept) + b"\n")
    policies.cache_clear()


def expert_of(policy: Policy, env: AnyEnv) -> Expert:
    """The expert that acts by a policy, within the bounds of the environment's actions."""
    return Clipped(Rule(policy.rule()), env.action_space)  # type: ignore[arg-type]


def found_policy(name: str, path: Path, kind: type[Policy]) -> Callable[[AnyEnv], Expert]:
    """A maker of the expert whose policy a file has for the environment `name`; it is read when one is made."""

    def expert(env: AnyEnv) -> Expert:
        known = policies(path, kind)
        if name not in known:
            raise ValueError(unknown_name("policy", name, known))
        return expert_of(known[name], env)

    return expert


linear_policy: Final = functools.partial(found_policy, path=LINEAR_FILE, kind=Linear)
network_policy: Final = functools.partial(found_policy, path=NETWORK_FILE, kind=Network)
