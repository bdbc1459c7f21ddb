"""One leaf of a space as a column: checked values, NumPy arrays, Arrow arrays.

Every value is checked here, once, when it enters; what is on disk is raw (float32, uint8, strings) and needs no
second look. Numbers are typed flat lists of a row per episode; text is a list of strings; a Sequence, a OneOf or a
Graph, whose values vary in size, is a list of JSON strings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from gymnasium import spaces

from gato_lite.envs.claims import strings
from gato_lite.sequence import offsets_of
from gato_lite.spaces import AnySpace, is_text, lone_surrogate, value_from_json, value_to_json

Column: TypeAlias = npt.NDArray[Any] | list[Any]  # Any: the dtype and the values are the space's
Values: TypeAlias = Sequence[Any] | npt.NDArray[Any]  # Any: what an environment gave
Role: TypeAlias = Literal["observation", "action", "label"]

_INT32_MAX = 2**31 - 1


class BadValue(ValueError):  # noqa: N818  (named for what it is; it becomes an error that names the episode)
    """A value that does not belong in a column."""

    def __init__(self, step: int, text: str) -> None:
        super().__init__(text)
        self.step = step
        """Place of the value in the column."""


def column_name(role: Role, path: str) -> str:
    """Name of the Parquet column of a leaf."""
    return f"{role}/{path}" if path else role


def is_array(space: AnySpace) -> bool:
    """Whether values of the leaf `space` are arrays of one shape."""
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def per_value(space: AnySpace) -> int:
    """Entries of one value of the leaf `space` in its column."""
    return int(np.prod(space.shape or ())) if is_array(space) else 1


def stack(space: AnySpace, values: Values, role: Role) -> Column:
    """N values of the leaf `space` as a checked column: an array (N, *shape), or a list.

    Raises:
        BadValue: a value of another shape or type, not finite, or (for actions and integers) outside the space.
    """
    if is_array(space):
        return _stack_array(space, values, role)
    if not is_text(space):
        for step, value in enumerate(values):
            _check_composite(space, value, step)
        return list(values)
    known: object = object()  # a mission is one string for a whole episode
    for step, value in enumerate(values):
        if value is not known:
            _check_text(space, value, role, step)
            known = value
    return list(values)


def _stack_array(space: AnySpace, values: Values, role: Role) -> npt.NDArray[Any]:
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    try:
        array = np.array(values)
    except ValueError:  # values of several shapes
        array = np.zeros(0, object)
    if array.shape != (len(values), *shape) or array.dtype.kind not in "fiub":
        _refuse_first(values, shape, space)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            column = array.astype(dtype, copy=False)
        _refuse(values, ~np.isfinite(column), "a finite number")
    else:
        if array.dtype.kind == "f":
            raise BadValue(0, f"expected {dtype} values of {space}, got {array.dtype}")
        column = array.astype(dtype, copy=False)
        if column is not array:
            _refuse(values, column != array, f"a value of {dtype}")
    if role != "observation" or not isinstance(space, spaces.Box) or dtype.kind != "f":
        low, high = _bounds(space)
        _refuse(values, (column < low) | (column > high), f"a member of {space}")
    return column


def _bounds(space: AnySpace) -> tuple[Any, Any]:
    match space:
        case spaces.Box():
            return space.low, space.high
        case spaces.Discrete():
            return space.start, space.start + (space.n - 1)
        case spaces.MultiDiscrete():
            return space.start, space.start + (space.nvec - 1)
    return 0, 1


def _refuse_first(values: Values, shape: tuple[int, ...], space: AnySpace) -> None:
    for step, value in enumerate(values):
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.zeros(0, object)
        if array.shape != shape or array.dtype.kind not in "fiub":
            raise BadValue(step, f"expected shape {shape} of {space}, got shape {array.shape} of {array.dtype}")
    raise BadValue(0, f"expected {len(values)} values of {space}, got values of several types")


def _refuse(values: Values, bad: npt.NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        step = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        text = np.array2string(np.asarray(values[step]), threshold=8, edgeitems=3)
        raise BadValue(step, f"expected {expected}, got {text}")


def _check_text(space: AnySpace, value: Any, role: Role, step: int) -> None:
    if not isinstance(value, str):
        raise BadValue(step, f"expected a string, got {type(value).__name__}")
    if (place := lone_surrogate(value)) is not None:
        raise BadValue(step, f"expected text that UTF-8 can write, got a lone surrogate at {place}")
    if role != "observation" and not space.contains(value):
        raise BadValue(step, f"expected a member of {space}, got {value!r}")


def _check_composite(space: AnySpace, value: Any, step: int) -> None:
    try:
        text = json.dumps(value_to_json(space, value), allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise BadValue(step, f"expected finite numbers, got {value}") from error
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise BadValue(step, f"expected a member of {space}, got {value!r}") from error
    if (place := lone_surrogate(text)) is not None:
        raise BadValue(step, f"expected text that UTF-8 can write, got a lone surrogate at {place} of {text!r}")
    if not space.contains(value):
        raise BadValue(step, f"expected a member of {space}, got {value!r}")


def to_arrow(space: AnySpace, column: Column, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """A column of all rows end to end as an Arrow list array with `lengths` values in each row."""
    if is_array(space):
        array = np.ascontiguousarray(column)
        return list_array(pa.array(array.reshape(-1)), lengths * per_value(space))
    if is_text(space):
        return list_array(pa.array(column, pa.string()), lengths)
    texts = [json.dumps(value_to_json(space, value), allow_nan=False) for value in column]
    return list_array(pa.array(texts, pa.string()), lengths)


def list_array(values: pa.Array, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """`values` cut into rows of `lengths`."""
    offsets = offsets_of(lengths)
    if offsets[-1] > _INT32_MAX:
        return pa.LargeListArray.from_arrays(offsets, values)
    return pa.ListArray.from_arrays(offsets.astype(np.int32), values)


def arrow_type(space: AnySpace) -> pa.DataType:
    """Type of one value in the list that a leaf's column holds.

    Raises:
        TypeError: a dtype that Parquet has no column for.
    """
    if not is_array(space):
        return pa.string()
    dtype = np.dtype(space.dtype)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise TypeError(f"dtype of a space must be a bool, an integer or float16 to float64, got {dtype} in {space}")
    return pa.from_numpy_dtype(dtype)


def from_arrow(space: AnySpace, array: pa.Array, n_values: int) -> Column:
    """The column that `to_arrow` wrote: `n_values` values of all rows end to end; arrays are read-only.

    Raises:
        ValueError: the array holds values of another number or type.
    """
    values, expected = array.flatten(), arrow_type(space)
    stored = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if stored != expected:
        raise ValueError(f"expected values of type {expected}, found {stored}")
    n_scalars = n_values * per_value(space)
    if len(values) != n_scalars or values.null_count:
        raise ValueError(f"expected {n_scalars} values, found {len(values)}, {values.null_count} null")
    if is_array(space):
        array_of_values: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return array_of_values.reshape(n_values, *(space.shape or ()))
    texts = strings(values)
    if is_text(space):
        return texts
    try:
        return [value_from_json(space, json.loads(text)) for text in texts]
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected members of {space} as JSON, found {error!r}") from error
