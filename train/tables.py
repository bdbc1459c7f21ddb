"""Parquet files of strangers: rows of text, of pictures, of questions or of both, as hubs of datasets keep them.

Decisions:

- Columns count as in `gato_lite.train.rows`, but the picture is `image` or `img`, bytes or a struct of `bytes`, `path`,
  and `images` is a list of them. A picture that is a path alone is left out: nothing outside the file is read.
- A number in a column `label` stands for its name where the file notes names, and for itself where not.
- A file called `test-…` or `validation-…` is held out whole, and one called `train-…` not at all.
- A row group is judged by what its header claims before it is read; see `gato_lite.envs.claims`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from gato_lite.envs.claims import claimed_bytes, string_bytes, too_large
from gato_lite.train.items import Item, Reader
from gato_lite.train.pictures import MAX_BYTES
from gato_lite.train.rows import COLUMNS, LABELS, columns_of, is_asked, row_items, split_of_file

IMAGE_COLUMNS: Final = ("image", "img", "images")
"""Names of the column of pictures, the first that is there is taken."""
_ROWS: Final = 256
"""Rows decoded at a time."""


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
    schema = table.schema_arrow
    names = schema.names
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    columns = columns_of(
        {one.name: _empty(one.type) for one in schema if one.name not in {*COLUMNS["file"], *IMAGE_COLUMNS}}
    )
    text = columns.get("text")
    if not columns.keys() & {"text", "messages", "translation"}:
        expected = ", ".join([*COLUMNS["text"], "messages, translation"])
        raise ValueError(f"{file}: expected a column {expected}, found {', '.join(names)}")
    classes = _class_names(schema, text) if text else None
    if text in LABELS and image is None and "prompt" not in columns:
        raise ValueError(f"{file}: expected a column image or prompt beside {text}, found {', '.join(names)}")
    wanted = [*columns.values(), *([image] if image else [])]
    reader.note_columns(names, wanted)
    split, place = split_of_file(file.name), 0
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
                    shown = found.pop(image) if image else []
                    if image == "images" and not shown:
                        shown = [] if is_asked(found) else [None]
                    pictures = [_picture(one) for one in (shown if isinstance(shown, list) else [shown])]
                    if text:
                        found[text] = _named(found[text], classes)
                    yield from row_items(name, found, pictures, reader, split=split)
                except ValueError as error:
                    reader.leave_out(name, error)


def _empty(kind: Any) -> Any:  # Any: an Arrow type, and a value of it
    return [] if pa.types.is_list(kind) or pa.types.is_large_list(kind) else {} if pa.types.is_struct(kind) else ""


def _class_names(schema: Any, column: str) -> list[str] | None:  # Any: an Arrow schema
    """Names of the numbers in `column`, as hubs of datasets note them; None where they do not."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _named(value: Any, classes: Sequence[str] | None) -> Any:  # Any: a value of Arrow
    """The name of a class's number; any other value as it is."""
    if classes is None or not isinstance(value, int):
        return value
    if not 0 <= value < len(classes):
        raise ValueError(f"expected one of {len(classes)} labels, from 0 on, found {value}")
    return classes[value]


def _picture(image: Any) -> bytes:  # Any: as _named
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        found = f"the path {image['path']!r} alone" if isinstance(image, dict) and image.get("path") else "none"
        raise ValueError(f"expected the bytes of a picture, found {found}")
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES >> 20} MiB, found {len(data):,} bytes")
    return data
