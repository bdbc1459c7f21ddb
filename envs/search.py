"""What the searches for policies share: the moments of observations, returns of episodes, and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from gato_lite.envs.experts import AnyEnv, Expert
from gato_lite.envs.policies import Array, Policy, keep_policy


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


def episode_return(env: AnyEnv, expert: Expert, seed: int, *, bonus: float = 0.0) -> float:
    """Sum of rewards, each less `bonus`, of one episode."""
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(expert.act(observation, None))
        total += float(reward) - bonus
        ended = terminated or truncated
    return total


def mean_return(env: AnyEnv, expert: Expert, generator: np.random.Generator) -> float:
    """What a policy is chosen by: the mean return of four episodes, whose seeds are drawn."""
    seeds = generator.integers(2**31, size=4)
    return float(np.mean([episode_return(env, expert, int(seed)) for seed in seeds]))


def search_as_told(
    module: str,
    about: str | None,
    names: Iterable[str],
    out: Path,
    budget: tuple[str, type, str],
    search: Callable[..., Policy],
) -> None:
    """Searches for what the command line names, and keeps what is found.

    Args:
        module: That is run.
        about: What it does, in its first line.
        names: Environments that may be named.
        out: File of policies, if the command line names no other.
        budget: What the search may take: an option, its type and its help.
        search: Takes a maker of the environment, its name and the budget, and by keyword `seed`, `command` and
            `on_score`, which is called with how far it is and the score.
    """
    import gymnasium as gym

    known, (option, kind, meaning) = sorted(names), budget
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(about or "").splitlines()[0])
    parser.add_argument("name", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument(f"--{option}", dest="budget", type=kind, required=True, help=meaning)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=out, help="file of policies; others in it stay")
    options = parser.parse_args()
    name = options.name
    found = search(
        lambda: gym.make(f"{name}-v5", disable_env_checker=True),
        name,
        options.budget,
        seed=options.seed,
        command=f"python -m {module} {name} --{option} {options.budget:.12g} --seed {options.seed}",
        on_score=lambda so_far, score: print(f"{name} {so_far:,} {score:.1f}", flush=True),
    )
    keep_policy(options.out, name, found)
    print(f"{name}: {found.score:.1f}, in {options.out}")
