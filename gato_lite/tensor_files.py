"""Tensors in safetensors files: what may be written, and what is refused when read.

Nothing here unpickles: a pickle is known by its first bytes and refused by name, whatever its file is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of torch.save's zip file and of pickle protocols 2 to 5."""


def is_pickle(path: Path) -> bool:
    """Whether the file starts like a pickle or like torch.save's zip file."""
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLES)


def read_finite_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, all of them finite."""
    tensors = read_tensors(path)
    if problems := not_finite(tensors):
        raise ValueError(f"{path}: {shortened(problems)}")
    return tensors


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, whatever their values.

    Raises:
        ValueError: it is none, or its header does not fit its bytes.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, found other content ({error})") from error


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The tensors that hold NaN or infinity, a line each."""
    found = []
    for name, tensor in sorted(tensors.items()):
        wide = tensor.detach() if tensor.dtype.itemsize > 1 else tensor.detach().float()  # no isfinite of 8-bit floats
        n_bad = int((~torch.isfinite(wide)).sum())
        if n_bad:
            found.append(f"{name}: expected finite numbers, found NaN or infinity in {n_bad} of {tensor.numel()}")
    return found


def shortened(problems: Sequence[str], most: int = 8) -> str:
    """Problems in one line: the first few, and how many more there are."""
    rest = len(problems) - most
    return "; ".join(problems[:most]) + (f"; and {rest} more, which `gato-lite verify` lists" if rest > 0 else "")


def storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as safetensors wants them: on the CPU, contiguous, none sharing memory with another."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        pointer = plain.untyped_storage().data_ptr()
        stored[name] = plain.clone() if pointer in seen else plain
        seen.add(pointer)
    return stored
