"""How fast a model acts: steps a second by slots, context and action size, and where the time goes.

The weights are drawn afresh, which costs what trained ones cost: actions are random legal ones, played in real
Gymnasium environments. A context is filled with copies of a slot's first timestep; what it holds costs nothing either.
"""

# ruff: noqa: SLF001 - the policy's own parts are what is timed

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import gymnasium as gym
import msgspec
import numpy as np
import torch

from gato_lite.cache import Decoder
from gato_lite.config import ActingPrecision, GatoConfig, TokenSpec
from gato_lite.envs.experts import AnyEnv
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.run import PRECISIONS
from gato_lite.sequence import plain
from gato_lite.train.run_folder import training_device

Found = TypeVar("Found")

SHAPE: Final = {
    "n_layer": 4,
    "n_head": 4,
    "n_kv_head": 2,
    "d_model": 256,
    "d_ff": 1024,
    "token_shift": True,
    "head_norm": True,
}
"""Of the model that is timed: blocks as those of lite-5m."""
BINS: Final = TokenSpec(kinds=(("", "bins"),))
"""A token for each scalar, as in the paper: CartPole takes 5 tokens a step."""
MIXED: Final = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1")
"""Environments that by default take two tokens a step each."""
SIZES: Final = ((1, 64), (1, 1024), (1, 4096), (8, 64), (8, 1024), (8, 4096), (32, 64), (32, 256), (32, 1024), (64, 64),
                (64, 1024))  # fmt: skip
"""(slots, tokens of context) that are timed."""
ALONE: Final = ((8, 256),)
"""(slots, tokens of context) at which a model is timed alone."""
ALONE_ON_CUDA: Final = ((8, 256), (512, 256), (512, 1024))
"""The same on a GPU."""


class Arm(gym.Env[np.ndarray, np.ndarray]):
    """Six joints that follow their commands: an environment of six continuous action dimensions."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (6,))
        self.action_space = gym.spaces.Box(-1, 1, (6,))
        self.joints = np.zeros(6, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Joints anywhere."""
        super().reset(seed=seed, options=options)
        self.joints = self.np_random.uniform(-1, 1, 6).astype(np.float32)
        return self.joints, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A tenth of the way to the command; never ends."""
        self.joints = self.joints + np.float32(0.1) * (action - self.joints)
        return self.joints, 0.0, False, False, {}


class StepSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one context."""

    what: str
    slots: int
    context: int
    """Tokens that each slot held, at most."""
    tokens_per_step: int
    """Of one slot."""
    milliseconds: float
    """Median time of one step of all slots, environments included."""
    steps_per_second: float
    """Environment steps of all slots together."""
    sustained: float
    """Of an episode longer than the context: mean of steps at half and at all of it, with the reading of the newer half
    again whenever it is full."""
    environment_only: float
    """Steps a second of the environments alone, under random actions."""
    model: float
    """Share of the time in the model, in [0, 1]; so the next three."""
    environment: float
    tokenising: float
    sampling: float


class ModelSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """A model alone: reads of a few tokens for every slot, without environments, tokenising or sampling."""

    model: str
    slots: int
    context: int
    """Tokens that each slot held, at most."""
    tokens_per_step: int
    """Of one slot."""
    milliseconds: float
    """Median time of one read for all slots."""
    steps_per_second: float
    """Of all slots together, where a step is one read."""


def fresh(
    context_length: int,
    precision: ActingPrecision = "float32",
    **changes: Any,  # Any: fields of the configuration
) -> Gato:
    """A model of `SHAPE` where training would be, with every weight drawn, also those that start at zero."""
    shape = {**SHAPE, "context_length": context_length, **changes}
    return _drawn(GatoConfig(**shape), precision)


def _drawn(config: GatoConfig, precision: ActingPrecision) -> Gato:
    gato = Gato(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in gato.transformer.named_parameters():
            if name.endswith("_out.weight"):
                weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)
    gato.transformer.multiply_in(PRECISIONS[precision])
    return gato.to(training_device())


def _wait(device: torch.device) -> None:
    """Until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Players:
    """Environments and the policy that acts in them; `step` is what is timed."""

    def __init__(self, gato: Gato, make: Sequence[Callable[[], AnyEnv]], **options: Any) -> None:
        self.envs = [build() for build in make]
        self.shown = [env.reset(seed=seed)[0] for seed, env in enumerate(self.envs)]
        self.policy = Policy(
            gato,
            [env.observation_space for env in self.envs],
            [env.action_space for env in self.envs],
            **{"temperature": 1.0, "spec": TokenSpec(), **options},
        )
        self.spent = dict.fromkeys(("model", "tokenising", "sampling", "environment"), 0.0)
        policy = self.policy
        policy._decoder.read = self._timed("model", policy._decoder.read)  # type: ignore[method-assign]
        policy._decoder.read_documents = self._timed("model", policy._decoder.read_documents)  # type: ignore[method-assign]
        policy._see = self._timed("tokenising", policy._see)  # type: ignore[method-assign]
        for slot in policy._slots:
            slot.act = self._timed("tokenising", slot.act)  # type: ignore[method-assign]
        policy._sampler.choose = self._timed("sampling", policy._sampler.choose)  # type: ignore[method-assign]
        self.step()
        self.tokens_per_step = len(policy.window(0)) - len(policy._slots[0].prefix)

    def step(self) -> None:
        """One action in every environment; what ends begins again, in the same context."""
        actions = self.policy.act(self.shown)
        start = time.perf_counter()
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            self.shown[index], _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                self.shown[index] = env.reset()[0]
        self.spent["environment"] += time.perf_counter() - start

    def fill(self, n_token: int) -> None:
        """Makes every slot's context about `n_token` long, and reads it."""
        for slot in self.policy._slots:
            last = slot.timesteps[-1]
            slot.timesteps = [last] * max(1, n_token // last.length(first=False))
            slot.unread = []
        self.policy._decoder.forget(range(self.policy.n_slot))
        self.step()

    def timed_steps(self, n_token: int, n_step: int) -> list[float]:
        """Seconds of each of some steps after a context of about `n_token` tokens."""
        self.fill(n_token)
        self.step()
        self.spent = dict.fromkeys(self.spent, 0.0)
        seconds = []
        for _ in range(n_step):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return seconds

    def reread(self) -> float:
        """Seconds of a step in which every slot drops the older half of its context."""
        start = time.perf_counter()
        self.policy._decoder.cursors[:] = self.policy._decoder.context_length
        self.step()
        return time.perf_counter() - start

    def _timed(self, part: str, call: Callable[..., Found]) -> Callable[..., Found]:
        def timed(*args: Any, **named: Any) -> Found:
            start = time.perf_counter()
            found = call(*args, **named)
            _wait(self.policy.gato.device)
            self.spent[part] += time.perf_counter() - start
            return found

        return timed


def make_of(name: str) -> Callable[[], AnyEnv]:
    """Makes Gymnasium's environment `name`."""
    return Arm if name == "Arm" else lambda: gym.make(name)


def measure_steps(gato: Gato, name: str, n_slot: int, context: int, rounds: int = 12, **options: Any) -> StepSpeed:
    """Times `n_slot` environments `name` at a context of at most `context` tokens."""
    players = Players(gato, [make_of(name)] * n_slot, context_length=context, **options)
    per_step = players.tokens_per_step
    rounds = max(2, min(rounds, context // per_step - 3))
    half = float(np.median(players.timed_steps(context // 2, rounds)))
    seconds = players.timed_steps(context - (rounds + 3) * per_step, rounds)
    total, median = sum(seconds), float(np.median(seconds))
    shares = {part: spent / total for part, spent in players.spent.items()}
    again = max(0.0, players.reread() - half) / max(1, context // 2 // per_step)
    return StepSpeed(
        what=name,
        slots=n_slot,
        context=context,
        tokens_per_step=per_step,
        milliseconds=1e3 * median,
        steps_per_second=n_slot / median,
        sustained=n_slot / ((half + median) / 2 + again),
        environment_only=environment_limit(name, n_slot),
        **shares,
    )


@torch.inference_mode()
def measure_model(
    model: str,
    n_slot: int,
    context: int,
    n_token: int = 2,
    rounds: int = 12,
    precision: ActingPrecision = "float32",
) -> ModelSpeed:
    """Times reads of `n_token` tokens for every slot of a preset, at a context of at most `context` tokens.

    Two tokens, an observation and an action, are what a step of CartPole takes by default.
    """
    gato = _drawn(GatoConfig.preset(model, context_length=context), precision)
    decoder = Decoder(gato, n_slot)
    tokens = plain(
        np.random.default_rng(0).integers(0, gato.vocabulary.bin_ids.stop, n_slot * n_token).astype(np.int32)
    )
    slots, counts = range(n_slot), [n_token] * n_slot
    decoder.cursors[:] = context - (rounds + 3) * n_token  # what is held costs the same whatever it is
    seconds = []
    for turn in range(rounds + 3):
        start = time.perf_counter()
        decoder.read(slots, tokens, counts)
        _wait(gato.device)
        if turn >= 3:
            seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    return ModelSpeed(
        model=model,
        slots=n_slot,
        context=context,
        tokens_per_step=n_token,
        milliseconds=1e3 * median,
        steps_per_second=n_slot / median,
    )


def measure_models(precision: ActingPrecision = "float32") -> list[ModelSpeed]:
    """`lite-5m` alone, for as many slots as the device is made for."""
    on_cuda = training_device().type == "cuda"
    return [measure_model("lite-5m", *size, precision=precision) for size in (ALONE_ON_CUDA if on_cuda else ALONE)]


def environment_limit(name: str, n_slot: int, seconds: float = 0.1) -> float:
    """Steps a second of environments stepped in turn under random actions, drawn beforehand."""
    envs = [make_of(name)() for _ in range(n_slot)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    actions = [envs[0].action_space.sample() for _ in range(64)]
    n_step, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for env in envs:
            _, _, terminated, truncated, _ = env.step(actions[n_step % 64])
            n_step += 1
            if terminated or truncated:
                env.reset()
    return n_step / (time.perf_counter() - start)


def measure_sizes(
    precision: ActingPrecision = "float32", on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[StepSpeed]:
    """CartPole with a token for each scalar, at `SIZES`; then by default, and six action dimensions."""
    speeds = []
    others = [("CartPole-v1", 32, 256), ("CartPole-v1", 32, 1024), ("Arm", 1, 64), ("Arm", 32, 64)]
    gato = fresh(max(context for _, context in SIZES), precision)
    for done, (n_slot, context) in enumerate(SIZES):
        speeds.append(measure_steps(gato, "CartPole-v1", n_slot, context, spec=BINS))
        on_progress(done + 1, len(SIZES) + len(others))
    for done, (name, n_slot, context) in enumerate(others):
        speeds.append(measure_steps(gato, name, n_slot, context))
        on_progress(len(SIZES) + done + 1, len(SIZES) + len(others))
    return speeds
