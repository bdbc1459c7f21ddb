"""What a Parquet file claims to hold, judged by its footer before a value is read.

Repeated values shrink to nothing on disk: 4 million zeros are 627 bytes. So a few kilobytes can ask for all of the
memory that a machine has, and a reader that trusts them is killed by the system without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

MAX_BYTES: Final = 4 * 2**30
"""Bytes of values in the largest part, row group or HDF5 episode that is read, and in the largest part written."""

_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Bytes of a value of each physical type in memory, of a string its offset alone."""
_NARROW: Final = {"INT_8": 1, "UINT_8": 1, "INT_16": 2, "UINT_16": 2}
"""The same of integers that are stored wider than they are."""


def claimed_bytes(metadata: Any, row_groups: Iterable[int]) -> int:
    """Bytes that the values of some row groups take in memory, strings that occur often once.

    Args:
        metadata: A `pyarrow.parquet.FileMetaData`; Any, because pyarrow has no types.
        row_groups: Which.
    """
    schema = metadata.schema
    widths = []
    for index in range(metadata.num_columns):
        column = schema.column(index)
        width = _NARROW.get(column.converted_type) or _WIDTHS.get(column.physical_type)
        widths.append(column.length if width is None else width)
    total = 0
    for row_group in row_groups:
        group = metadata.row_group(row_group)
        for index, width in enumerate(widths):
            column = group.column(index)
            total += max(column.total_uncompressed_size, column.num_values * width)
    return total


def too_large(what: str, n_bytes: int) -> str | None:
    """What is wrong with so many bytes in memory; None where nothing is."""
    if n_bytes <= MAX_BYTES:
        return None
    return f"{what}: expected at most {MAX_BYTES / 2**30:.0f} GiB of values, found {n_bytes / 2**30:,.1f} GiB claimed"


def string_bytes(array: Any) -> int:
    """Bytes of all dictionary-encoded strings in an Arrow array, however deep, were each one written out."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(string_bytes, array.flatten()))
    return string_bytes(array.flatten()) if pa.types.is_list(kind) else 0


def plain_type(kind: Any) -> Any:
    """An Arrow type with no dictionary in it."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    return pa.list_(plain_type(kind.value_type)) if pa.types.is_list(kind) else kind


def strings(array: Any) -> list[Any]:
    """The values of a column of strings, dictionary-encoded or not; of the former each distinct one is one object.

    Raises:
        ValueError: written out they are more than `MAX_BYTES`.
    """
    if problem := too_large("strings", string_bytes(array)):
        raise ValueError(problem)
    if not pa.types.is_dictionary(array.type):
        return list(array.to_pylist())
    words = array.dictionary.to_pylist()
    return [words[code] for code in array.indices.to_numpy(zero_copy_only=False)]
