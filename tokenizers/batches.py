"""Gymnasium's batches of values, as stacked Sequences and Graphs hold them, ↔ single values.

Gymnasium's own functions warn about shapeless floats and give None for an empty batch of a space of another package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.leaf import name_of


def batched(space: AnySpace, elements: Sequence[Any]) -> Any:
    """Values of `space` as Gymnasium batches them: arrays stacked, dictionaries and tuples of batches, else a tuple."""
    match space:
        case spaces.Dict():
            return {key: batched(part, [element[key] for element in elements]) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(batched(part, [element[i] for element in elements]) for i, part in enumerate(space.spaces))
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return np.array(elements, space.dtype).reshape(len(elements), *(space.shape or ()))
    return tuple(elements)


def unbatched(space: AnySpace, batch: Any, path: str) -> list[Any]:
    """The values of `space` in a batch of them."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        if not isinstance(batch, (np.ndarray, tuple, list)) or (isinstance(batch, np.ndarray) and not batch.ndim):
            raise ValueError(f"{name_of(path)}: expected a batch of values of {space}, got {batch!r}")
        return list(batch)
    is_dict = isinstance(space, spaces.Dict)
    parts: dict[Any, AnySpace] = dict(space.spaces if isinstance(space, spaces.Dict) else enumerate(space.spaces))
    found = dict(batch) if isinstance(batch, Mapping) else dict(enumerate(batch)) if isinstance(batch, tuple) else {}
    if isinstance(batch, Mapping) != is_dict or found.keys() != parts.keys():
        form = "mapping" if is_dict else "tuple"
        raise ValueError(f"{name_of(path)}: expected a {form} of batches of {space}, got {batch!r}")
    columns = [unbatched(part, found[key], path) for key, part in parts.items()]
    if len({len(column) for column in columns}) > 1:
        lengths = [len(column) for column in columns]
        raise ValueError(f"{name_of(path)}: expected batches of one length, got {lengths} for {list(parts)}")
    rows = list(zip(*columns, strict=True))
    return [dict(zip(parts, row, strict=True)) for row in rows] if is_dict else list(rows)
