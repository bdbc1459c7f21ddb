"""The search for linear policies for MuJoCo's walkers, by augmented random search; those found are in `ars.json`.

    python -m gato_lite.envs.ars HalfCheetah --minutes 5

searches for so many CPU minutes on one thread, from a seed, and keeps the best policy that it met: the one with the
highest mean return over a few episodes.

Source: Mania et al. 2018, "Simple random search of static linear policies is competitive for reinforcement learning",
algorithm 2, V2-t; the settings are of its table 9.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from gato_lite.envs.experts import AnyEnv, Rule
from gato_lite.envs.policies import LINEAR_FILE, Array, Linear
from gato_lite.envs.search import Moments, episode_return, mean_return, search_as_told


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


def acting(env: AnyEnv, weights: Array, statistics: Moments, *, learn: bool = False) -> Rule:
    """What acts in one episode by the moments known at its beginning; `learn` adds its observations to them."""
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    mean, std = statistics.mean.copy(), statistics.std

    def act(observation: Array) -> Array:
        if learn:
            statistics.add(observation[None])
        return np.clip(weights @ ((observation - mean) / std), low, high)

    return Rule(act)


def _ascent(
    env: AnyEnv, settings: Search, weights: Array, statistics: Moments, generator: np.random.Generator
) -> Array:
    """What one iteration adds to the weights: the best directions, each by how much better it is than its opposite."""
    directions = generator.normal(size=(settings.n_direction, *weights.shape))
    seeds = generator.integers(2**31, size=settings.n_direction)

    def tried(direction: Array, sign: int, env_seed: int) -> float:
        there = weights + sign * settings.noise * direction
        return episode_return(env, acting(env, there, statistics, learn=True), env_seed, bonus=settings.bonus)

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
    on_score: Callable[[int, float], None] | None = None,
) -> Linear:
    """The best linear policy met in so many CPU minutes.

    Args:
        env: The environment.
        settings: Of the search.
        minutes: CPU minutes of this process; the last iteration is finished.
        seed: Of directions and episodes.
        command: To be noted with the policy.
        on_score: Called with the iteration and the score after it.
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
        score = mean_return(env, acting(env, weights, statistics), generator)
        if best is None or score > best.score:
            best = Linear(
                weights=weights.tolist(),
                mean=statistics.mean.tolist(),
                std=statistics.std.tolist(),
                score=score,
                command=command,
                iterations=iteration,
            )
        if on_score is not None:
            on_score(iteration, score)
    return best


def main() -> None:
    """Run from the command line."""
    search_as_told(
        "gato_lite.envs.ars",
        __doc__,
        SEARCHES,
        LINEAR_FILE,
        ("minutes", float, "CPU minutes"),
        lambda make_env, name, minutes, **how: search(make_env(), SEARCHES[name], minutes=minutes, **how),
    )


if __name__ == "__main__":
    main()
