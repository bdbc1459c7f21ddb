"""Rows of a stranger's CSV, JSON or Parquet → documents: which columns count, and what they mean together.

| columns               | document                                        | ability                                  |
|-----------------------|-------------------------------------------------|------------------------------------------|
| picture, text         | a captioned picture                             | caption                                  |
| picture, label        | a picture, asked for its class                  | class                                    |
| picture, prompt, text | a question about a picture, and the answer      | question                                 |
| prompt, text          | what is said, and the reply                     | translation (by its prompt), or dialogue |
| text                  | a text, cut at paragraphs where it is long      | text                                     |

What has a picture in common, or else a prompt, is on one side of the split.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.dataset import Document
from gato_lite.spaces import lone_surrogate
from gato_lite.train.items import Item, Reader, content_hash, read_text, text_items
from gato_lite.train.templates import CLASS_PROMPT

COLUMNS: Final = {
    "file": ("file", "file_name", "image"),
    "prompt": ("prompt", "question"),
    "text": ("text", "caption", "answer", "label", "labels"),
    "group": ("group",),
    "split": ("split",),
}
"""Names of columns by what they hold, the first that is there is taken."""
LABELS: Final = ("label", "labels")
"""Columns of texts that are names of classes."""
TABLES: Final = (".csv", ".jsonl")
"""Names of files that `table_rows` reads."""
_SPLITS: Final = {"train": "train", "test": "test", "validation": "test", "valid": "test", "dev": "test"}
"""What the first word of a file's name, or a column, says of rows."""


def split_of_file(name: str) -> str | None:
    """The split of a file's rows, such as "test" for test-00000-of-00001.parquet; None where its name says none."""
    return _SPLITS.get(re.split(r"[-.]", name)[0])


def columns_of(row: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON, or values of Arrow
    """The column for each key of `COLUMNS` that there is one for; None is no value."""
    there = {name for name, value in row.items() if value is not None}
    found = {what: next((name for name in names if name in there), None) for what, names in COLUMNS.items()}
    return {what: name for what, name in found.items() if name is not None}


def row_items(
    name: str, row: Mapping[str, Any], picture: bytes | None, reader: Reader, *, split: str | None = None
) -> Iterator[Item]:  # Any: JSON, or values of Arrow
    """The documents of one row.

    Args:
        name: where it is, for messages.
        row: values by column; None is none.
        picture: its picture file.
        reader: notes which columns are used.
        split: of a row that says none.

    Raises:
        ValueError: no text, a value that cannot be stored, or another split than there is.
    """
    columns = columns_of(row)
    reader.note_columns(row, columns.values())
    found = {what: _words(column, row[column]) for what, column in columns.items()}
    if "text" not in found:
        raise ValueError(f"expected `text`, `caption`, `answer` or `label`, got {', '.join(row) or 'nothing'}")
    text, prompt, group = found["text"], found.get("prompt", "").strip(), found.get("group") or None
    if columns["text"] in LABELS and not prompt:
        if picture is None:
            raise ValueError("expected a picture or a prompt with a label, got neither")
        prompt = CLASS_PROMPT
    for words in (text, prompt, group or ""):
        if (place := lone_surrogate(words)) is not None:
            raise ValueError(f"expected text that UTF-8 can write, got a lone surrogate at {place}")
    split = found.get("split") or split
    if split is not None and split not in _SPLITS:
        raise ValueError(f'expected split "train" or "test", got {split!r}')
    split = None if split is None else _SPLITS[split]
    if picture is None and not prompt:
        yield from text_items(name, text, split=split, group=group)
        return
    if not text.strip():
        raise ValueError("expected a caption or an answer, got an empty one")
    key = content_hash(prompt.encode() if picture is None else picture)
    yield Item(name, key, split, Document(None, text.strip(), group=group, prompt=prompt), picture)


def _words(column: str, value: Any) -> str:  # Any: as row_items
    if not isinstance(value, str | int | float):
        raise ValueError(f"expected text or a number in `{column}`, found {type(value).__name__}")
    return str(value)


def table_rows(place: Path, data: bytes, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: JSON
    """(place, row) of a CSV file with a header or of a file of one JSON object a line; what is none is left out.

    Raises:
        ValueError: no text, or CSV without a column of text or with damage; the message names its place.
    """
    try:
        text = read_text(data)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if place.suffix.lower() == ".csv":
        yield from _csv_rows(place, text, reader)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            reader.n_read += 1
            name = f"{place}, line {number}"
            try:
                yield name, json_object(line)
            except ValueError as error:
                reader.leave_out(name, error)


def _csv_rows(place: Path, text: str, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: as table_rows
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
    try:
        names = rows.fieldnames or ()
        if "text" not in columns_of(dict.fromkeys(names, "")):
            expected = "a first line with `file` and `text`, or `prompt` and `text`"
            raise ValueError(f"{place}: expected {expected}, got {', '.join(names) or 'nothing'}")
        for row in rows:
            reader.n_read += 1
            yield f"{place}, line {rows.line_num}", {name: value for name, value in row.items() if name}
    except csv.Error as error:
        raise ValueError(f"{place}, after line {rows.line_num}: {error}") from error


def json_object(text: str | bytes) -> dict[str, Any]:  # Any: JSON
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, got {text[:60]!r}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {text[:60]!r}")
    return row
