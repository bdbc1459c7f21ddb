"""How fast a training step is, and how near to what the machine can do.

A step is what the training loop does with a stream: loss, gradient, clipping, AdamW (at rate zero, so that the weights
stay). On a GPU its blocks are compiled, as in training, and how many graphs that took is counted. Its share of the
matmul peak is that of the peak measured just before it, the median over rounds; what counts as arithmetic is said in
`gato_lite.train.utilisation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import torch

from gato_lite.config import PRESETS, GatoConfig, Precision
from gato_lite.envs.dataset import Dataset
from gato_lite.model import Gato, StreamTensors
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.bench.train_data import STREAM_TOKENS, mixture_of
from gato_lite.train.blocks import default_compiler
from gato_lite.train.console import OnProgress
from gato_lite.train.gradient import Gradient
from gato_lite.train.mixture import Mixture
from gato_lite.train.optimiser import Optimiser
from gato_lite.train.peak import datasheet_peak, device_name, matmul_dtype, matmul_peak
from gato_lite.train.settings import TrainConfig
from gato_lite.train.utilisation import step_flops

SMALL: Final = GatoConfig(
    n_layer=4, n_head=4, d_model=256, d_ff=1024, context_length=256, token_shift=True, head_norm=True
)
"""Four layers of width 256: the size at which other trainers were measured on CartPole."""
SMALL_NAME: Final = "4 layers of 256"
TOKENS_ON_CUDA: Final = {"gato-79m": 65_536, "gato-364m": 32_768, "gato-1.18b": 16_384}
"""Tokens in a stream on a GPU, for documents of at most 1,024, as in the paper: enough work, and 80 GB hold it."""
SMALL_TOKENS_ON_CUDA: Final = 65_536
"""The same of every other model, for documents of at most 256."""
N_OTHER: Final = 8
"""Streams, of other documents, for which nothing should be compiled anew."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One model's training step on one workload."""

    model: str
    workload: str
    tokens: int
    """Of the stream."""
    documents: int
    seconds: float
    """Median time of a step."""
    tokens_per_s: float
    target_tokens_per_s: float
    timesteps_per_s: float | None
    """Environment steps learnt from; None where the workload has other data too."""
    peak_share: float
    """Arithmetic of the step over what matmuls do in the same time, median over rounds."""
    peak_share_low: float
    peak_share_high: float
    datasheet_share: float | None
    """The same over the peak that the GPU's maker states; None where that is not known."""
    compiled: int
    """Graphs compiled for the first step."""
    recompiled: int
    """Graphs compiled for other streams after it."""
    rounds: int


def fresh_gato(config: GatoConfig, device: torch.device) -> Gato:
    """A model whose blocks do something: fresh ones are the identity, and their zeros could hide a mistake."""
    gato = Gato(config).to(device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in gato.transformer.named_parameters():
            if name.endswith("_out.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return gato


def training_of(model: str, device: torch.device) -> TrainConfig:
    """How a preset, or the model called `SMALL_NAME`, is trained here: streams of a size that suits the device."""
    preset = model if model in PRESETS else TrainConfig().preset
    if device.type == "cpu":
        return TrainConfig(preset=preset, tokens_per_step=STREAM_TOKENS)
    if model in TOKENS_ON_CUDA:
        return TrainConfig(preset=preset, tokens_per_step=TOKENS_ON_CUDA[model], context_length=1024)
    return TrainConfig(preset=preset, tokens_per_step=SMALL_TOKENS_ON_CUDA)


def config_of(model: str, device: torch.device) -> GatoConfig:
    """The shape of a preset at the context of training, or of the model called `SMALL_NAME`."""
    return (
        SMALL
        if model == SMALL_NAME
        else GatoConfig.preset(model, context_length=training_of(model, device).context_length)
    )


def gradient_of(gato: Gato, config: TrainConfig, precision: Precision = "auto") -> Gradient:
    """As training computes it, in one shard: threads, if there are several, divide each operation."""
    return Gradient(
        gato,
        1 if gato.device.type == "cpu" else config.tokens_per_step,
        precision=precision,
        compiler=default_compiler(gato.device),
        checkpoint_activations=config.checkpoints_activations,
    )


def training_step(gato: Gato, shards: Sequence[StreamTensors], gradient: Gradient) -> Callable[[], float]:
    """One step of the training loop on always the same stream; waits for the device and gives the loss."""
    optimiser = Optimiser(gato, name="adamw", learning_rate=1e-3, matrix_learning_rate=1e-2, weight_decay=0.01)

    def step() -> float:
        mean = gradient.backward(shards).mean
        torch.nn.utils.clip_grad_norm_(gato.parameters(), 1.0, foreach=True)
        optimiser.step(0.0)
        if gato.device.type == "cuda":
            torch.cuda.synchronize(gato.device)
        return float(mean)

    return step


def measure_speeds(
    models: Sequence[str],
    workloads: Mapping[str, Sequence[Dataset]],
    device: torch.device,
    *,
    rounds: int = 4,
    precision: Precision = "auto",
    on_progress: OnProgress = lambda _done, _total: None,
) -> list[Speed]:
    """Every model on every workload, and `SMALL` on control; with the threads that torch has now.

    Args:
        models: presets.
        workloads: datasets of each.
        device: where to train.
        rounds: steps that count of each; one before them does not.
        precision: what matrices are multiplied in, those of the peak too.
        on_progress: told how many (model, workload) pairs are done.
    """
    vocabulary = Vocabulary.shipped()
    pairs = [(model, workload) for model in models for workload in workloads]
    pairs += [(SMALL_NAME, "control")] if "control" in workloads else []
    speeds = []
    for done, (model, workload) in enumerate(pairs):
        on_progress(done, len(pairs))
        config = training_of(model, device)
        mixture = mixture_of(workloads[workload], vocabulary, config.tokens_per_step, config.context_length)
        speeds.append(_speed(model, workload, mixture, device, rounds, precision))
    on_progress(len(pairs), len(pairs))
    return speeds


def _speed(
    model: str, workload: str, mixture: Mixture, device: torch.device, rounds: int, precision: Precision
) -> Speed:
    gato = fresh_gato(config_of(model, device), device)
    stream = mixture.stream(0).to(device)
    with gradient_of(gato, training_of(model, device), precision) as gradient:
        step = training_step(gato, [stream], gradient)
        step()
        n_compiled = gradient.n_compiled
        for other in range(1, N_OTHER + 1 if gradient.compiles else 1):
            gradient.backward([mixture.stream(other)])
        seconds, shares = [], []
        for _ in range(rounds):
            peak = matmul_peak(device, 0.2, precision)
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
            shares.append(step_flops(gato, stream) / seconds[-1] / peak)
        n_recompiled = gradient.n_compiled - n_compiled
    median = float(np.median(seconds))
    stated = datasheet_peak(device_name(device), matmul_dtype(device, precision))
    only_control = workload in {"control", "babyai"}  # one action token a timestep
    return Speed(
        model=model,
        workload=workload,
        tokens=len(stream.positions),
        documents=len(stream.offsets) - 1,
        seconds=median,
        tokens_per_s=len(stream.positions) / median,
        target_tokens_per_s=stream.n_target / median,
        timesteps_per_s=stream.n_target / median if only_control else None,
        peak_share=float(np.median(shares)),
        peak_share_low=min(shares),
        peak_share_high=max(shares),
        datasheet_share=None if stated is None else step_flops(gato, stream) / median / stated,
        compiled=n_compiled,
        recompiled=n_recompiled,
        rounds=rounds,
    )
