"""Parquet files of strangers: rows of text, or of pictures with captions, as hubs of datasets keep them.

Decisions:

- The text or caption is the column `text` or `caption`; the picture is `image`, bytes or a struct of `bytes`, `path`.
  A picture that is a path alone is left out: nothing outside the file is read.
- `group` and `split` columns count as in a captions file. A file called `test-…` or `validation-…` is held out whole,
  and one called `train-…` not at all.
- A row group is judged by what its header claims before it is read; see `gato_lite.envs.claims`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from gato_lite.envs.claims import claimed_bytes, string_bytes, too_large
from gato_lite.train.items import Item, Reader, picture_item, text_items
from gato_lite.train.pictures import MAX_BYTES

TEXT_COLUMNS: Final = ("text", "caption")
"""Names of the column of texts or captions, the first that is there is taken."""
IMAGE_COLUMN: Final = "image"
_ROWS: Final = 256
"""Rows decoded at a time."""
_SPLITS: Final = {"train": "train", "test": "test", "validation": "test", "valid": "test", "dev": "test"}
"""What the first word of a file's name says of its rows."""


def table_items(files: Sequence[Path], reader: Reader) -> Iterator[Item]:
    """The rows of Parquet files, in their order.

    Raises:
        ValueError: a file is damaged, has no such column, or claims more than may be read; the message names it.
    """
    for file in files:
        try:
            metadata = pq.read_metadata(file)
            leaves = map(metadata.schema.column, range(metadata.num_columns))
            strings = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            with pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=strings) as table:
                yield from _rows(file, table, reader)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file}: expected a whole Parquet file, found damage: {error}") from error


def _rows(file: Path, table: Any, reader: Reader) -> Iterator[Item]:  # Any: a ParquetFile; pyarrow has no types
    names = table.schema_arrow.names
    text = next((name for name in TEXT_COLUMNS if name in names), None)
    if text is None:
        raise ValueError(f"{file}: expected a column {' or '.join(TEXT_COLUMNS)}, found {', '.join(names)}")
    wanted = [name for name in (text, IMAGE_COLUMN, "group", "split") if name in names]
    split, place = _SPLITS.get(file.name.partition("-")[0].removesuffix(".parquet")), 0
    for row_group in range(table.num_row_groups):
        if problem := too_large(f"{file}, row group {row_group}", claimed_bytes(table.metadata, [row_group])):
            raise ValueError(problem)
        n_bytes = 0
        for batch in table.iter_batches(_ROWS, row_groups=[row_group], columns=wanted, use_threads=False):
            n_bytes += sum(map(string_bytes, batch.columns))
            if problem := too_large(f"{file}, row group {row_group}", n_bytes):
                raise ValueError(problem)
            for row in range(len(batch)):
                name, place = f"{file}, row {place}", place + 1
                reader.n_read += 1
                try:  # one value at a time: a row may be any size, and another may be no UTF-8
                    found = {column: batch.column(column)[row].as_py() for column in wanted}
                    yield from _items(name, found.pop(text), found, split)
                except ValueError as error:
                    reader.leave_out(name, error)


def _items(name: str, text: Any, row: dict[str, Any], split: str | None) -> Iterator[Item]:
    """The documents of one row."""
    group = None if row.get("group") is None else str(row["group"])
    split = split if row.get("split") is None else _SPLITS.get(str(row["split"]), str(row["split"]))
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    if IMAGE_COLUMN not in row:
        yield from text_items(name, text, split=split, group=group)
        return
    image = row[IMAGE_COLUMN]
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        found = f"the path {image['path']!r} alone" if isinstance(image, dict) and image.get("path") else "none"
        raise ValueError(f"expected the bytes of a picture, found {found}")
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES >> 20} MiB, found {len(data):,} bytes")
    yield picture_item(name, data, text, split=split, group=group)
