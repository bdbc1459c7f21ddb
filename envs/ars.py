"""Linear policies for MuJoCo's walkers, found by augmented random search: the experts whose weights are in `ars.json`.

    python -m gato_lite.envs.ars HalfCheetah --minutes 5

searches for so many CPU minutes on one thread, from a seed, and keeps the best policy that it met: the one with the
highest mean return over a few episodes.

Source: Mania et al. 2018, "Simple random search of static linear policies is competitive for reinforcement learning",
algorithm 2, V2-t; the settings are of its table 9.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from gato_lite.envs.experts import AnyEnv, Expert
from gato_lite.envs.policies import Array, Moments, expert_of, keep_policy, read_policies

WEIGHTS_FILE: Final = Path(__file__).parent / "ars.json"
"""The policies, by the name of their environment."""
_COMMAND: Final = "python -m gato_lite.envs.ars"


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the search in one environment."""

    n_direction: int
    """Directions tried in each iteration, both ways."""
    n_best: int
    """Of these, how many the step follows."""
    step_size: float
    """Length of a step."""
    noise: float
    """Standard deviation of the directions tried."""
    bonus: float = 0.0
    """Reward of a step for staying alive, which the search leaves out: else it finds how to stand still."""


SEARCHES: Final = {
    "Swimmer": Search(n_direction=2, n_best=1, step_size=0.02, noise=0.03),
    "HalfCheetah": Search(n_direction=16, n_best=4, step_size=0.02, noise=0.03),
    "Hopper": Search(n_direction=8, n_best=4, step_size=0.01, noise=0.025, bonus=1.0),
    "Walker2d": Search(n_direction=20, n_best=15, step_size=0.03, noise=0.025, bonus=1.0),
    "Ant": Search(n_direction=30, n_best=15, step_size=0.015, noise=0.025, bonus=1.0),
    "Pusher": Search(n_direction=16, n_best=4, step_size=0.02, noise=0.03),
}


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


def linear_policy(name: str) -> Callable[[AnyEnv], Expert]:
    """A maker of the expert whose weights `ars.json` has for an environment."""
    return expert_of(name, policies)


@functools.cache
def policies(path: Path = WEIGHTS_FILE) -> dict[str, Linear]:
    """All policies found, by the name of their environment."""
    return read_policies(path, Linear)


def play(env: AnyEnv, weights: Array, statistics: Moments, seed: int, *, learn: bool, bonus: float = 0.0) -> float:
    """Sum of rewards, each less `bonus`, of one episode; `learn` adds its observations to `statistics`."""
    observation, _ = env.reset(seed=seed)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    mean, std = statistics.mean.copy(), statistics.std
    total, ended = 0.0, False
    while not ended:
        if learn:
            statistics.add(observation[None])
        action = np.clip(weights @ ((observation - mean) / std), low, high)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward) - bonus
        ended = terminated or truncated
    return total


def _ascent(
    env: AnyEnv, settings: Search, weights: Array, statistics: Moments, generator: np.random.Generator
) -> Array:
    """What one iteration adds to the weights: the best directions, each by how much better it is than its opposite."""
    directions = generator.normal(size=(settings.n_direction, *weights.shape))
    seeds = generator.integers(2**31, size=settings.n_direction)

    def tried(direction: Array, sign: int, env_seed: int) -> float:
        there = weights + sign * settings.noise * direction
        return play(env, there, statistics, env_seed, learn=True, bonus=settings.bonus)

    returns = np.array(
        [
            [tried(direction, sign, int(env_seed)) for sign in (1, -1)]
            for direction, env_seed in zip(directions, seeds, strict=True)
        ]
    )  # (directions, 2)
    chosen = np.argsort(-returns.max(1))[: settings.n_best]
    spread = max(float(returns[chosen].std()), 1e-8)
    ascent = np.einsum("d,dao->ao", returns[chosen, 0] - returns[chosen, 1], directions[chosen])
    return np.asarray(settings.step_size / (len(chosen) * spread) * ascent)


def search(
    env: AnyEnv,
    settings: Search,
    *,
    minutes: float,
    seed: int,
    command: str = "",
    on_iteration: Callable[[int, float], None] | None = None,
) -> Linear:
    """The best linear policy met in so many CPU minutes.

    Args:
        env: The environment.
        settings: Of the search.
        minutes: CPU minutes of this process; the last iteration is finished.
        seed: Of directions and episodes.
        command: To be noted with the policy.
        on_iteration: Called with the iteration and the score after it.
    """
    generator = np.random.default_rng(seed)
    shape = (env.action_space.shape[0], env.observation_space.shape[0])  # type: ignore[index]
    weights, statistics = np.zeros(shape), Moments(shape[1])
    best: Linear | None = None
    end = time.process_time() + 60 * minutes
    iteration = 0
    while best is None or time.process_time() < end:
        weights = weights + _ascent(env, settings, weights, statistics, generator)
        iteration += 1
        seeds = generator.integers(2**31, size=4)
        score = float(np.mean([play(env, weights, statistics, int(env_seed), learn=False) for env_seed in seeds]))
        if best is None or score > best.score:
            best = Linear(
                weights=weights.tolist(),
                mean=statistics.mean.tolist(),
                std=statistics.std.tolist(),
                score=score,
                command=command,
                iterations=iteration,
            )
        if on_iteration is not None:
            on_iteration(iteration, score)
    return best


def main() -> None:
    """Run from the command line."""
    import gymnasium as gym

    parser = argparse.ArgumentParser(prog=_COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(SEARCHES), metavar="NAME", help=", ".join(sorted(SEARCHES)))
    parser.add_argument("--minutes", type=float, required=True, help="CPU minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE, help="file of policies; others in it stay")
    options = parser.parse_args()
    command = f"{_COMMAND} {options.name} --minutes {options.minutes:g} --seed {options.seed}"
    found = search(
        gym.make(f"{options.name}-v5", disable_env_checker=True),
        SEARCHES[options.name],
        minutes=options.minutes,
        seed=options.seed,
        command=command,
        on_iteration=lambda iteration, score: print(f"{options.name} {iteration} {score:.1f}", flush=True),
    )
    keep_policy(options.out, options.name, found)
    print(f"{options.name}: {found.score:.1f} after {found.iterations} iterations, in {options.out}")


if __name__ == "__main__":
    main()
