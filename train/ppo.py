"""Small networks for MuJoCo's walkers that no linear policy is found for, learnt by proximal policy optimisation: the
experts whose weights are in `envs/ppo.json`.

    python -m gato_lite.train.ppo Walker2d --steps 4000000

learns from so many steps on one thread, from a seed, and keeps the best policy that it met: the one with the highest
mean return over a few episodes without noise.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms". Orthogonal weights, normalised observations and
rewards as shares of the return's deviation: Engstrom et al. 2020, "Implementation matters in deep policy gradients".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Generator, Tensor, nn

from gato_lite.envs.experts import AnyEnv
from gato_lite.envs.policies import BOUND, NETWORK_FILE, Array, Layer, Network, expert_of
from gato_lite.envs.search import Moments, mean_return, search_as_told

DEVIATIONS: Final = {"Ant": 0.5, "Walker2d": 1.0}
"""Environments that one was looked for in, with the deviation of the first actions from their mean: where wide ones
cost more than a step is worth, what is learnt first is how to fall."""
N_ENV: Final = 8
"""Environments that are played side by side."""
N_STEP: Final = 512
"""Steps of each between two updates."""
BATCH: Final = 256
"""Steps of a minibatch."""
N_EPOCH: Final = 10
"""Times that every step is learnt from."""
WIDTH: Final = 64
"""Of the two hidden layers, of actor and critic each."""
LEARNING_RATE: Final = 3e-4
"""At the beginning; it falls to nothing at the end."""
DISCOUNT: Final = 0.99
TRACE: Final = 0.95
"""λ of generalised advantage estimation (Schulman et al. 2016)."""
CLIP: Final = 0.2
"""How far a minibatch may move an action's probability ratio."""
LARGEST_REWARD: Final = 10.0
"""In deviations of the return."""


class Played(NamedTuple):
    """Steps of all environments, T of each of N; observations are normalised, rewards scaled."""

    observations: Array
    """(T + 1, N, observation)."""
    actions: Array
    """(T, N, action), before they are clipped."""
    rewards: Array
    """(T, N); where an episode was cut, with the discounted value of where it was."""
    ended: npt.NDArray[np.bool_]
    """(T, N): whether another episode follows."""


class Players:
    """The environments, and what is known of their observations and rewards."""

    def __init__(self, envs: list[AnyEnv], generator: np.random.Generator) -> None:
        self.envs, self.generator = envs, generator
        low, high = envs[0].action_space.low, envs[0].action_space.high  # type: ignore[attr-defined]
        self.bounds = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self.seen = Moments(envs[0].observation_space.shape[0])  # type: ignore[index]
        self.returned = Moments(1)
        self.returns = np.zeros(len(envs))
        self.observations = np.array([self._begin(env) for env in envs])

    def _begin(self, env: AnyEnv) -> Array:
        return np.asarray(env.reset(seed=int(self.generator.integers(2**31)))[0], np.float64)

    def normalised(self, observations: Array) -> Array:
        """What a network is given of observations (…, observation)."""
        return np.clip((observations - self.seen.mean) / self.seen.std, -BOUND, BOUND)

    def play(self, act: Callable[[Array], Array], value: Callable[[Array], Array]) -> Played:
        """The next steps.

        Args:
            act: Actions (N, action) for normalised observations (N, observation).
            value: What is still to come (N,) after normalised observations.
        """
        n_action, shape = len(self.bounds[0]), (N_STEP, len(self.envs))
        actions, rewards, ended = np.empty((*shape, n_action)), np.empty(shape), np.empty(shape, np.bool_)
        observations = np.empty((N_STEP + 1, *self.observations.shape))
        for t in range(N_STEP):
            self.seen.add(self.observations)
            observations[t] = self.normalised(self.observations)
            actions[t] = act(observations[t])
            cut = np.zeros(len(self.envs), np.bool_)
            for k, env in enumerate(self.envs):
                self.observations[k], rewards[t, k], terminated, truncated, _ = env.step(
                    np.clip(actions[t, k], *self.bounds)
                )
                ended[t, k], cut[k] = terminated or truncated, truncated and not terminated
            rewards[t] = self._scaled(rewards[t], ended[t])
            if cut.any():
                rewards[t] += DISCOUNT * cut * value(self.normalised(self.observations))
            for k, env in enumerate(self.envs):
                if ended[t, k]:
                    self.observations[k] = self._begin(env)
        observations[-1] = self.normalised(self.observations)
        return Played(observations, actions, rewards, ended)

    def _scaled(self, rewards: Array, ended: npt.NDArray[np.bool_]) -> Array:
        """Rewards as shares of the standard deviation of the discounted return."""
        self.returns = self.returns * DISCOUNT + rewards
        self.returned.add(self.returns[:, None])
        self.returns[ended] = 0
        return np.clip(rewards / self.returned.std, -LARGEST_REWARD, LARGEST_REWARD)


def advantages(played: Played, values: Array) -> Array:
    """How much better each step was than the critic thought (T, N): generalised advantage estimation.

    Args:
        played: The steps.
        values: Of each observation, and of the one after the last (T + 1, N).
    """
    found, following = np.zeros_like(played.rewards), np.zeros(played.rewards.shape[1])
    for t in reversed(range(len(found))):
        goes_on = ~played.ended[t]
        surprise = played.rewards[t] + DISCOUNT * goes_on * values[t + 1] - values[t]
        following = surprise + DISCOUNT * TRACE * goes_on * following
        found[t] = following
    return found


class Learner:
    """Actor, critic, and the steps of gradient descent on them."""

    def __init__(self, n_observation: int, n_action: int, *, deviation: float, seed: int) -> None:
        weights = Generator().manual_seed(seed)
        self.actor = _layers(n_observation, n_action, 0.01, weights)
        self.critic = _layers(n_observation, 1, 1.0, weights)
        self.log_std = nn.Parameter(torch.full((n_action,), math.log(deviation)))
        self.parameters = [*self.actor.parameters(), *self.critic.parameters(), self.log_std]
        self.optimiser = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, eps=1e-5)

    def act(self, observations: Array, generator: np.random.Generator) -> Array:
        """Actions drawn for observations (N, observation)."""
        mean = self._numbers(self.actor, observations)
        std = np.exp(self.log_std.detach().numpy())
        return np.asarray(mean + std * generator.normal(size=mean.shape))

    def value(self, observations: Array) -> Array:
        """What is still to come after observations (…, observation)."""
        return self._numbers(self.critic, observations)[..., 0]

    def learn(self, played: Played, left: float, generator: np.random.Generator) -> None:
        """A few epochs on what was played, with `left` of the time still to come."""
        values = self.value(played.observations)
        advantage = advantages(played, values)
        target = advantage + values[:-1]
        flat = (played.observations[:-1], played.actions, advantage, target)
        observations, actions, gain, aim = (
            torch.as_tensor(x.reshape(played.rewards.size, -1), dtype=torch.float32) for x in flat
        )
        with torch.no_grad():
            before = self._log_likelihood(observations, actions)
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * left
        for _ in range(N_EPOCH):
            for rows in torch.split(torch.from_numpy(generator.permutation(len(gain))), BATCH):
                ratio = (self._log_likelihood(observations[rows], actions[rows]) - before[rows]).exp()
                better = gain[rows, 0]
                better = (better - better.mean()) / (better.std() + 1e-8)
                objective = torch.minimum(ratio * better, ratio.clamp(1 - CLIP, 1 + CLIP) * better).mean()
                loss = 0.5 * F.mse_loss(self.critic(observations[rows]), aim[rows]) - objective
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.parameters, 0.5)
                self.optimiser.step()

    def layers(self) -> list[Layer]:
        """The actor, to be written down with five digits."""
        rounded = np.vectorize(lambda x: float(f"{x:.5g}"), otypes=[np.float64])
        arrays = [rounded(parameter.detach().numpy()).tolist() for parameter in self.actor.parameters()]
        return [Layer(weights=weights, bias=bias) for weights, bias in zip(arrays[::2], arrays[1::2], strict=True)]

    def _log_likelihood(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Of actions, but for a constant."""
        distance: Tensor = (actions - self.actor(observations)) / self.log_std.exp()
        return -(0.5 * distance.square() + self.log_std).sum(-1)

    def _numbers(self, network: nn.Sequential, observations: Array) -> Array:
        with torch.no_grad():
            return np.asarray(network(torch.as_tensor(observations, dtype=torch.float32)), np.float64)


def _layers(n_in: int, n_out: int, scale: float, generator: Generator) -> nn.Sequential:
    """Two hidden layers; the last begins with weights of length `scale`."""
    sizes, gains = (n_in, WIDTH, WIDTH, n_out), (2**0.5, 2**0.5, scale)
    parts: list[nn.Module] = []
    for size, following, gain in zip(sizes, sizes[1:], gains, strict=False):
        linear = nn.utils.skip_init(nn.Linear, size, following)  # type: ignore[no-untyped-call]  # draws nothing
        nn.init.orthogonal_(linear.weight, gain, generator)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def learn(
    make_env: Callable[[], AnyEnv],
    *,
    steps: int,
    seed: int,
    deviation: float = 1.0,
    command: str = "",
    on_score: Callable[[int, float], None] | None = None,
) -> Network:
    """The best policy met in so many steps.

    Args:
        make_env: Makes the environment: Box to Box.
        steps: Of the environments, all together; the last update is finished.
        seed: Of weights, noise and episodes.
        deviation: Of the first actions from their mean.
        command: To be noted with the policy.
        on_score: Called with the steps made and the mean return after them, every tenth update.

    Raises:
        ValueError: no return was a number.
    """
    start = time.process_time()
    generator = np.random.default_rng(seed)
    judge = make_env()
    players = Players([make_env() for _ in range(N_ENV)], generator)
    learner = Learner(len(players.seen.mean), len(players.bounds[0]), deviation=deviation, seed=seed)
    best: Network | None = None
    n_update = max(1, -(-steps // (N_ENV * N_STEP)))
    for update in range(1, n_update + 1):
        played = players.play(lambda observations: learner.act(observations, generator), learner.value)
        learner.learn(played, 1 - (update - 1) / n_update, generator)
        if update % 10 and update < n_update:
            continue
        found = Network(
            layers=learner.layers(),
            mean=players.seen.mean.tolist(),
            std=players.seen.std.tolist(),
            score=-math.inf,
            command=command,
            steps=update * N_ENV * N_STEP,
            minutes=0.0,
        )
        score = mean_return(judge, expert_of(found, judge), generator)
        if score > (-math.inf if best is None else best.score):
            best = msgspec.structs.replace(found, score=score)
        if on_score is not None:
            on_score(found.steps, score)
    if best is None:
        raise ValueError("expected the return of some episode to be a number, got none")
    return msgspec.structs.replace(best, minutes=round((time.process_time() - start) / 60, 2))


def main() -> None:
    """Run from the command line."""
    torch.set_num_threads(1)
    search_as_told(
        "gato_lite.train.ppo",
        __doc__,
        DEVIATIONS,
        NETWORK_FILE,
        ("steps", int, "of the environments, all together"),
        lambda make_env, name, steps, **how: learn(make_env, steps=steps, deviation=DEVIATIONS[name], **how),
    )


if __name__ == "__main__":
    main()
