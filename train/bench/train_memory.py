"""Peak memory of a training step, beside what has to be there on paper.

On a CPU a fresh process makes the model, remembers what it holds, and reads the system's high-water mark of its
resident memory after two steps; on a GPU the allocator knows. On paper: weights, gradients and AdamW's two moments,
16 bytes a parameter, and what the backward pass reads again, in float32 (see `activation_bytes`).
"""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import torch

from gato_lite.model import Gato, StreamTensors
from gato_lite.train.bench.train import config_of, fresh_gato, gradient_of, training_of, training_step


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one model's training step."""

    model: str
    workload: str
    peak: int
    """Measured, of the model and everything a step makes; what the program and torch take by themselves left out."""
    parameters: int
    """On paper: weights, gradients, two moments."""
    activations: int
    """On paper."""


def measure_memory(model: str, workload: str, stream: StreamTensors, device: torch.device) -> Memory | None:
    """Peak memory of steps on `stream` with one thread; None where the system does not tell."""
    if device.type == "cpu" and not Path("/proc/self/status").exists():
        return None
    gato = Gato(config_of(model, device))
    if device.type == "cuda":
        peak = _peak(model, stream, device)
    else:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(_peak, model, stream, device).result()
    return Memory(
        model=model,
        workload=workload,
        peak=peak,
        parameters=16 * gato.n_parameters,
        activations=activation_bytes(gato, stream, checkpointed=training_of(model, device).checkpoints_activations),
    )


def activation_bytes(gato: Gato, stream: StreamTensors, *, checkpointed: bool = False) -> int:
    """Float32 numbers that the backward pass of a stream reads again, as bytes.

    A token and block: the input and output of two norms, queries, keys and values, the first two again turned, keys and
    values once more where heads share them, what attention read, and the hidden layer, rectified and squared. A target
    row: its logits and their softmax. What follows the last block's attention counts for the target rows alone;
    encoders are left out. Of blocks that are computed again, what goes into each counts, and all of one.
    """
    config = gato.config
    d_key = config.n_key_head * config.d_head
    shared = 2 * config.d_model if d_key < config.d_model else 0
    before = 4 * config.d_model + 3 * d_key + shared  # numbers a token and block
    after = 3 * config.d_model + 2 * config.d_ff
    n_token, n_target = len(stream.positions), stream.n_target
    blocks = config.n_layer * before * n_token + after * ((config.n_layer - 1) * n_token + n_target)
    if checkpointed:
        blocks = (config.n_layer * config.d_model + before + after) * n_token
    n_class = [sum(map(len, ids)) for ids in gato.vocabulary.class_ranges]
    head = sum(2 * n_class[group.modality] * len(group.rows) for group in stream.targets)
    return 4 * (blocks + head)


def _peak(model: str, stream: StreamTensors, device: torch.device) -> int:
    """Bytes that a model and two of its steps add to this process, or to the GPU, at most."""
    torch.set_num_threads(1)
    torch.ones(256, 256) @ torch.ones(256, 256)  # the matmul library's own buffers
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = _status("VmRSS")
    gato = fresh_gato(config_of(model, device), device)
    with gradient_of(gato, training_of(model, device)) as gradient:
        step = training_step(gato, [stream], gradient)
        step()
        step()
    after = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")
    return after - before


def _status(field: str) -> int:
    """A size in bytes from this process's status."""
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    assert match is not None
    return int(match[1]) * 1024
