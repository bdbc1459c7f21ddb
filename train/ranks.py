"""The processes that train one model together: one alone, or those that `torchrun` started.

    torchrun --nproc-per-node 2 -m gato_lite.train.cli train quick --data my-data --out runs/mine --minutes 2

Every rank draws the same documents of a step, which are a function of (seed, step), and takes its share of them. The
gradients are added, so that all ranks take the same step. On unlike processors or GPUs that wants a `precision`: by
itself each rank multiplies in what its own is fast at, and Muon's steps differ. The first rank alone writes; what it
decides by its clock, the others are told. The data and the run's folder have to be there for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among all."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Processes in all."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` added up over all ranks; the same bits on each."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_numbers(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The same of numbers on the host."""
        if self.size == 1:
            return numbers
        summed: npt.NDArray[np.float64] = self.sum(_on_wire(numbers)).cpu().numpy()
        return summed

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number over all ranks."""
        if self.size == 1:
            return list(numbers)
        tensor = _on_wire(np.array(numbers, np.float64))
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        found: list[float] = tensor.tolist()
        return found

    def wait(self) -> None:
        """Goes on when all ranks are here."""
        self.largest([0.0])

    def in_turns(self, make: Callable[[], Made]) -> Made:
        """What `make` gives on each rank, called by the others when the first is done: it writes what they read."""
        if self.is_first:
            made = make()
        self.wait()
        return made if self.is_first else make()


ALONE: Final = Ranks()
"""One process."""


def _on_wire(numbers: npt.NDArray[np.float64]) -> Tensor:
    """Numbers where the ranks' connection takes them from."""
    return torch.from_numpy(numbers).to("cuda" if dist.get_backend() == "nccl" else "cpu")


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that `torchrun` started, connected; this process alone where it did not.

    On CUDA each takes the device of its number on its machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), size=size)
    finally:
        dist.destroy_process_group()
