"""Moves what steps read to the device while the steps before them run there.

The loader's thread copies from pinned memory on a stream of its own and marks the end of the copies by an event; a step
waits for that event on the device, not on the host. On a CPU there is nothing to move.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gato_lite.train.mixture import Part


class Transfer:
    """Copies to one device.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = None if device.type == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, part: Part) -> Part:
        """The part on the device, as soon as its copies are done there; called by the loader's thread."""
        if self._stream is None:
            return part
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            shards = tuple(shard.mapped(self._moved) for shard in part.shards)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        return replace(part, shards=shards, arrived=arrived)

    def receive(self, part: Part) -> Part:
        """The same, once the device waits for its copies before what it is told to do next; called by the step's."""
        if part.arrived is None:
            return part
        current = torch.cuda.current_stream(self._device)
        current.wait_event(part.arrived)

        def used(tensor: Tensor) -> Tensor:
            tensor.record_stream(current)  # else its memory may be filled again while the step still reads it
            return tensor

        return replace(part, shards=tuple(shard.mapped(used) for shard in part.shards), arrived=None)

    def _moved(self, tensor: Tensor) -> Tensor:
        pinned = tensor.pin_memory() if tensor.numel() else tensor
        return pinned.to(self._device, non_blocking=True)
