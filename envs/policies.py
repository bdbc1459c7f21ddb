"""What the searches for policies share: files of what they found, and the moments of observations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from gato_lite.envs.experts import AnyEnv, Clipped, Expert, Rule
from gato_lite.envs.folder import replacing
from gato_lite.names import unknown_name

Array = npt.NDArray[np.float64]


class Policy(Protocol):
    """What a search has found."""

    def rule(self) -> Callable[[Array], Array]:
        """The action for an observation, in any range."""


Found = TypeVar("Found", bound=Policy)


def read_policies(path: Path, kind: type[Found]) -> dict[str, Found]:
    """All policies in a file, by the name of their environment; none where there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, kind]) if path.is_file() else {}  # type: ignore[valid-type]


def keep_policy(path: Path, name: str, found: Found) -> None:
    """Puts one policy into a file; others in it stay."""
    kept = {**read_policies(path, type(found)), name: found}
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(kept) + b"\n")


def expert_of(name: str, policies: Callable[[], dict[str, Found]]) -> Callable[[AnyEnv], Expert]:
    """A maker of the expert that acts by one of the policies found.

    Args:
        name: of the environment.
        policies: all that there are; read when the expert is made.
    """

    def expert(env: AnyEnv) -> Expert:
        known = policies()
        if name not in known:
            raise ValueError(unknown_name("policy", name, known))
        return Clipped(Rule(known[name].rule()), env.action_space)  # type: ignore[arg-type]

    return expert


class Moments:
    """Running mean and variance of rows (Chan et al. 1979)."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(size), np.zeros(size)

    def add(self, rows: Array) -> None:
        """Takes rows (N, size) into account."""
        n, mean = len(rows), rows.mean(0)
        total, difference = self.count + n, mean - self.mean
        self.mean = self.mean + difference * n / total
        self.squares = self.squares + ((rows - mean) ** 2).sum(0) + difference**2 * self.count * n / total
        self.count = total

    @property
    def std(self) -> Array:
        """Standard deviation; 1 where nothing has varied yet."""
        std = np.sqrt(self.squares / max(self.count, 1))
        return np.where(std < 1e-7, 1.0, std)
