"""Parts of a step on their way to the device."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from gato_lite.exchange import picture_tokens
from gato_lite.model import StreamTensors, stream_tensors
from gato_lite.sequence import Document, concatenate, lay_out, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.mixture import Part
from gato_lite.train.transfer import Transfer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def stream() -> StreamTensors:
    """Words, a picture of several patches, a grid, and a target."""
    vocabulary = Vocabulary.shipped()
    generator = np.random.default_rng(0)
    shown = picture_tokens(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8), vocabulary)
    grid = picture_tokens(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8), vocabulary)
    tokens = concatenate([plain([1, 2, 3]), shown, grid, plain([4, vocabulary.end])])
    target = tokens.ids == vocabulary.end
    return stream_tensors(
        lay_out([Document(tokens=tokens, target=target, labels=tokens.ids)] * 3), vocabulary, np.random.default_rng(0)
    )


def tensors(value: Any) -> dict[str, torch.Tensor]:  # Any: dataclasses, tuples and what they hold
    """Every tensor in it, by where it is; what stays on the host left out."""
    if isinstance(value, torch.Tensor):
        return {"": value}
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.name != "tasks"}
    elif isinstance(value, tuple):
        parts = {str(index): part for index, part in enumerate(value)}
    else:
        return {}
    return {f"{name}/{rest}": tensor for name, part in parts.items() for rest, tensor in tensors(part).items()}


def test_every_tensor_of_a_stream_moves_and_pixels_move_as_bytes() -> None:
    whole = stream()
    seen: list[torch.Tensor] = []

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor.clone()

    copied = whole.mapped(moved)
    before, after = tensors(whole), tensors(copied)
    assert len(before) == len(seen) > 15
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor)
        assert after[name].data_ptr() != tensor.data_ptr() or not tensor.numel()
    pixels = [tensor for name, tensor in before.items() if name.endswith("pixels/")]
    assert len(pixels) > 1
    assert all(tensor.dtype == torch.uint8 for tensor in pixels)
    assert [group.tasks.device.type for group in copied.targets] == ["cpu"]
    assert copied.tokens.words.n_run == whole.tokens.words.n_run == int(whole.tokens.words.runs[-1]) + 1


def test_on_a_cpu_nothing_moves() -> None:
    part = Part(step=0, shards=(stream(),), n_target=3)
    transfer = Transfer(torch.device("cpu"))
    assert transfer.receive(transfer.send(part)) is part


@needs_cuda
def test_parts_arrive_before_they_are_read() -> None:
    """Many parts sent ahead, while the device is kept busy and memory that was read is given back."""
    device = torch.device("cuda", torch.cuda.current_device())
    transfer = Transfer(device)
    expected = tensors(stream())
    parts = [transfer.send(Part(step=step, shards=(stream(),), n_target=3)) for step in range(20)]
    assert all(part.arrived is not None for part in parts)
    busy = torch.randn(2048, 2048, device=device)
    while parts:
        busy = busy @ busy / 2048
        (shard,) = transfer.receive(parts.pop(0)).shards
        for name, tensor in tensors(shard).items():
            assert tensor.device == device
            assert torch.equal(tensor.cpu(), expected[name])
