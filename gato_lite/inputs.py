"""What an environment shows a policy, checked: in bounds, finite, and who it was that did otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Text
from gymnasium.vector.utils import iterate

from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.leaf import Values, name_of
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.strings import require_text

SLACK: Final = 10
"""Ranges of a scalar by which it may lie outside its bounds, where its token is that of the bound. Environments
overshoot what they declare: the goals of Meta-World lie up to 0.9 ranges outside, in every step."""


class ObservationError(ValueError):
    """An environment showed what a policy cannot act on.

    Attributes:
        slot: which environment.
        task: its name, where the policy was given one.
        step: timesteps of the episode before it.
        why: what was expected and what was got, by leaf.
    """

    def __init__(self, *, slot: int, task: str | None, step: int, why: str) -> None:
        named = f" ({task})" if task is not None else ""
        super().__init__(f"slot {slot}{named}, step {step}: {why}")
        self.slot, self.task, self.step, self.why = slot, task, step, f"step {step}: {why}"


class SpaceCheck:
    """Holds observations to their space in what the tokenizer lets pass.

    These are continuous values, which only have to be near, texts, and values of varying size.
    """

    def __init__(self, tokenizer: SpaceTokenizer) -> None:
        self._ends: list[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
        self._texts: list[tuple[str, AnySpace]] = []
        self._varying: list[tuple[str, AnySpace]] = []
        largest = np.finfo(np.float64).max  # beyond which there is only infinity
        for leaf in tokenizer.leaves:
            if leaf.kind in ("chunks", "bins") and isinstance(leaf.space, Box):
                low, high = (
                    np.clip(end.astype(np.float64), -largest, largest) for end in (leaf.space.low, leaf.space.high)
                )
                with np.errstate(over="ignore"):
                    slack = SLACK * (high - low)
                    ends = np.maximum(low - slack, -largest), np.minimum(high + slack, largest)
                self._ends.append((leaf.path, *ends))
            elif isinstance(leaf.space, Text):
                self._texts.append((leaf.path, leaf.space))
            elif leaf.kind in ("sequence", "oneof", "graph"):
                self._varying.append((leaf.path, leaf.space))

    def hold(self, columns: Mapping[str, Values]) -> None:
        """Raises a ValueError that names the first value that is not in its space, or far outside its bounds.

        Infinity is far outside; NaN passes.
        """
        for path, low, high in self._ends:
            column = columns[path]
            if column.dtype.kind not in "fiub":
                continue  # the tokenizer says so
            outside = (column < low) | (column > high)
            if outside.any():
                _, *place = np.argwhere(outside)[0].tolist()
                bounds = f"{low[tuple(place)]:g}..{high[tuple(place)]:g}"
                where = f" at {place}" if place else ""
                raise ValueError(
                    f"{name_of(path)}: expected a finite value, at most {SLACK} times its range outside its bounds "
                    f"({bounds}), got {column[outside][0]}{where}"
                )
        for path, space in self._texts:
            for text in columns[path]:
                require_text(space, text, path)
        for path, space in self._varying:
            for value in columns[path]:
                if not space.contains(value):
                    raise ValueError(f"{name_of(path)}: expected a member of {space}, got {value!r:.200}")


def listed(name: str, values: Any, n_slot: int, batch: AnySpace | None = None) -> list[Any]:
    """What each slot was given: the elements of a sequence, or of a member of the space `batch`.

    Raises:
        ValueError: there is not one for each slot.
    """
    try:
        found = list(values if batch is None else iterate(batch, values))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise ValueError(f"expected {n_slot} {name}, one for each slot, got {type(values).__name__}") from None
    if len(found) != n_slot:
        raise ValueError(f"expected {n_slot} {name}, one for each slot, got {len(found)}")
    return found


def per_slot(name: str, value: Any, n_slot: int) -> list[Any]:
    """A value for each slot, from a list of them or from one for all.

    Raises:
        ValueError: a list has another length.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n_slot
    if len(values) != n_slot:
        raise ValueError(f"expected {n_slot} values of {name}, one for each slot, got {len(values)}")
    return values


def allowed_values(mask: Any, space: AnySpace, ranges: list[tuple[int, int]] | None) -> npt.NDArray[np.int32]:
    """Ids of the values of a Discrete action that `mask` allows.

    Args:
        mask: 0 or 1 for each value.
        space: of the actions.
        ranges: legal ids of each token of an action, where there is a fixed number of them.

    Raises:
        ValueError: it is no such mask, or allows nothing.
    """
    values = np.asarray(mask)
    n_value = None if ranges is None or len(ranges) != 1 else ranges[0][1] - ranges[0][0]
    fits = n_value is not None and values.shape == (n_value,) and values.dtype.kind in "biuf"
    if not fits or not ((values == 0) | (values == 1)).all() or not values.any():
        counted = "" if n_value is None else f"{n_value} "
        raise ValueError(
            f"action_mask must be 0 or 1 for each of the {counted}values of a Discrete action and allow at least one, "
            f"got {mask!r} for {space}"
        )
    assert ranges is not None
    return (ranges[0][0] + np.flatnonzero(values)).astype(np.int32)
