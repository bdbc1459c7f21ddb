"""A user's own text and pictures → a dataset of documents.

    import_source("my-texts", "data/mine")         a folder of .txt and .md files, at any depth
    import_source("my-pictures", "data/mine")      a folder with pictures and captions.csv or captions.jsonl
    import_source("pictures.tar", "data/mine")     the same in a tar or zip; KEY.png, KEY.txt as in WebDataset
    import_source("rows.parquet", "data/mine")     rows of `text`, or of `image` with `caption` or `text`
    import_source("minari:NAME", "data/mine")      episodes of a Minari dataset

Decisions:

- A captions file has the columns (or keys) `file` and `text`, and may have `group` and `split`; `file_name` and
  `caption` are understood too. It may be called metadata.csv or metadata.jsonl.
- Without one, a picture's caption is the .txt of the same name, or `text` or `caption` of the .json.
- Which documents are held out is decided by a hash of their content: it changes neither with the order of the files
  nor when files are added, and copies of one file stay on one side. Of two contents or more, one is always held out.
- Long text files are cut at paragraphs, so that a part of a single book can be held out.
- Everything is read twice, never held at once: first the hashes, then the documents.
- A file that cannot be read is left out and counted; more than one in a hundred of them is an error.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import math
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.envs.format import INFO_FILE, PictureFit
from gato_lite.train.files import Files, Folder, is_archive, open_files
from gato_lite.train.items import Item, OnBad, Reader, picture_item, read_text, text_items
from gato_lite.train.pictures import CELL, MAX_PIXELS, SUFFIXES, decode_picture, encode_png, fit
from gato_lite.train.tables import table_items

CAPTION_FILES: Final = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
"""Names that a captions file may have, the first that is there is taken."""
TEXT_SUFFIXES: Final = (".txt", ".text", ".md")
_OBJECTS: Final = (".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth", ".joblib")
"""Names of files that may hold pickled objects."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made."""

    dataset: Dataset
    """The dataset, open for reading."""
    skipped: tuple[str, ...] = ()
    """What was left out: file and reason."""
    n_test: int = 0
    """Documents held out of training, at least one of two."""


def import_source(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    size: int = 64,
    keep_aspect: bool = False,
    test_share: float = 0.05,
    licence: str | None = None,
    attribution: str | None = None,
    on_bad: OnBad = "error",
    overwrite: bool = False,
) -> Imported:
    """Makes a dataset of text files, captioned pictures or rows of them, in a folder, an archive or a Parquet file.

    Args:
        source: the folder, archive or file, or `minari:NAME`.
        out: folder of the new dataset.
        name: what the collection is called; None takes the folder's name.
        size: side in pixels of the square that pictures are fitted into, in 1..8000; a 16-pixel patch is one token.
        keep_aspect: whether pictures keep their proportions, with at most the pixels of that square, in place of a
            white margin; `size` is at least 32 then.
        test_share: share of the documents that is held out, in (0, 1).
        licence: SPDX name or words.
        attribution: who made the documents.
        on_bad: "skip" leaves out any number of unreadable documents, "error" at most one in a hundred.
        overwrite: whether a dataset in `out` may be replaced.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: nothing in it can be used, too much of it cannot be read, or an archive holds what leads out of it.
    """
    if str(source).startswith("minari:"):
        from gato_lite.envs.minari import import_minari  # its packages are an extra

        return Imported(
            dataset=import_minari(str(source).removeprefix("minari:"), out, on_bad=on_bad, overwrite=overwrite)
        )
    source = Path(source)
    how = PictureFit(side=size, keep_aspect=keep_aspect)
    _check_import(source, Path(out), how, test_share)
    reader = Reader(on_bad)
    with contextlib.ExitStack() as stack:
        items = _items_of(source, reader, stack)
        held_out, has_picture = _survey(items(), test_share)
        reader.check()
        dataset = write_documents(
            out,
            _documents(items(), held_out, how, reader),
            name=name or source.resolve().name,
            licence=licence,
            attribution=attribution,
            pictures=how if has_picture else None,
            overwrite=overwrite,
        )
    return Imported(dataset=dataset, skipped=tuple(reader.skipped.values()), n_test=reader.n_test)


def _check_import(source: Path, out: Path, how: PictureFit, test_share: float) -> None:
    if out.resolve() == source.resolve():
        raise ValueError(f"out must be another folder than the source, got {out} for both")
    if not source.exists():
        raise FileNotFoundError(f"{source}: expected a folder of text files or captioned pictures, found nothing")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got test_share={test_share}")
    if not 1 <= how.side <= math.isqrt(MAX_PIXELS):
        raise ValueError(f"size must be in 1..{math.isqrt(MAX_PIXELS)} pixels, got size={how.side}")
    if how.keep_aspect and how.side < 2 * CELL:
        raise ValueError(
            f"size must be at least {2 * CELL} pixels with keep_aspect: smaller pictures have one row or column of "
            f"{CELL}-pixel cells, got size={how.side}"
        )


def _items_of(source: Path, reader: Reader, stack: contextlib.ExitStack) -> Callable[[], Iterator[Item]]:
    """What goes through the documents at `source`, as often as it is called."""
    if source.suffix.lower() in _OBJECTS:
        raise ValueError(f"{source}: expected text, pictures or Parquet, found a file of objects; nothing is unpickled")
    if (source / INFO_FILE).is_file():
        raise ValueError(f"{source}: is a dataset already; train on it with --data {source}")
    if source.suffix.lower() == ".parquet" and source.is_file():
        return functools.partial(table_items, [source], reader)
    files = open_files(source, stack)
    captions = next((name for name in CAPTION_FILES if name in files.names), None)
    if captions is not None:
        return functools.partial(_captioned_items, files, captions, reader)
    if source.is_file() and not is_archive(source):
        return functools.partial(_text_items, files, files.names[0], reader)
    suffixes = [posixpath.splitext(name)[1].lower() for name in files.names]
    tables = [source / name for name, suffix in zip(files.names, suffixes, strict=True) if suffix == ".parquet"]
    if (
        tables and isinstance(files, Folder) and not set(suffixes) & {".txt", *SUFFIXES}
    ):  # a README.md counts for nothing
        return functools.partial(table_items, tables, reader)
    if not set(suffixes) & {*TEXT_SUFFIXES, ".json"}:
        beside = f"{', '.join(CAPTION_FILES)}, or a .txt or .json of the same name, beside them"
        hint = f"; pictures need one of {beside}" if set(suffixes) & set(SUFFIXES) else ""
        raise ValueError(f"{source}: expected text files ({', '.join(TEXT_SUFFIXES)}), found none{hint}")
    return functools.partial(_named_items, files, reader)


def _survey(items: Iterator[Item], share: float) -> tuple[set[bytes], bool]:
    """The keys that are held out, those whose hash is small, at least one of two; and whether there is a picture."""
    has_picture = False
    found: set[bytes] = set()
    for item in items:
        has_picture = has_picture or item.picture is not None
        if item.split is None:
            found.add(item.key)
    keys = sorted(found)
    limit = int(share * 2**64).to_bytes(8, "big")
    below = [key for key in keys if key[:8] < limit]
    return set(below or (keys[:1] if len(keys) > 1 else [])), has_picture


def _documents(items: Iterator[Item], held_out: set[bytes], how: PictureFit, reader: Reader) -> Iterator[Document]:
    """Every item's document with its picture and its split; at the end, judges how many could not be read."""
    reader.n_read = 0
    reader.n_test = 0
    reader.skipped.clear()
    for item in items:
        image = None
        try:
            if item.picture is not None:
                image = encode_png(fit(decode_picture(item.picture, name=item.name), how))
        except (ValueError, OSError) as error:
            reader.leave_out(item.name, error)
            continue
        split = item.split or ("test" if item.key in held_out else "train")
        reader.n_test += split == "test"
        yield item.document._replace(image=image, split=split)
    reader.check()


def _text_items(files: Files, name: str, reader: Reader) -> Iterator[Item]:
    """The pieces of one text file."""
    reader.n_read += 1
    label = f"{files.path / name}"
    try:
        text = read_text(files.read(name))
    except (ValueError, OSError) as error:
        reader.leave_out(label, error)
        return
    yield from text_items(label, text, group=posixpath.dirname(name) or None)


def _named_items(files: Files, reader: Reader) -> Iterator[Item]:
    """Every picture with the caption of the same name, and every text file that is no caption."""
    known = set(files.names)
    keys = {posixpath.splitext(name)[0] for name in files.names if name.lower().endswith(SUFFIXES)}
    captioned = {key for key in keys if f"{key}.txt" in known or f"{key}.json" in known}
    for name in files.names:
        key, suffix = posixpath.splitext(name)
        if suffix.lower() in TEXT_SUFFIXES and not (suffix == ".txt" and key in captioned):
            yield from _text_items(files, name, reader)
        elif suffix.lower() in SUFFIXES and captioned:  # pictures beside texts alone are no documents
            reader.n_read += 1
            label = f"{files.path / name}"
            try:
                row = _caption(files, key, known)
                picture = files.read(name)
                yield picture_item(label, picture, row["text"], split=row.get("split"), group=row.get("group"))
            except (ValueError, OSError) as error:
                reader.leave_out(label, error)


def _caption(files: Files, key: str, known: set[str]) -> dict[str, str]:
    """`text`, and `split` and `group` where a .json says them, of the picture called `key`."""
    row: dict[str, str] = {}
    if f"{key}.json" in known:
        try:
            row = _fields(json.loads(files.read(f"{key}.json")))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{files.path / key}.json: expected a JSON object: {error}") from error
    if f"{key}.txt" in known:
        row["text"] = read_text(files.read(f"{key}.txt"))
    if "text" not in row:
        raise ValueError(f"expected its caption in {key}.txt or as `text` or `caption` in {key}.json, found none")
    return row


def _fields(row: Any) -> dict[str, str]:  # Any: JSON
    """The fields of a caption's row, under one name each."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {str(row)[:60]!r}")
    names = {"file_name": "file", "caption": "text"}
    wanted = {name: row[name] for name in ("file_name", "caption", "file", "text", "split", "group") if row.get(name)}
    return {names.get(name, name): str(value) for name, value in wanted.items()}


def _captioned_items(files: Files, captions: str, reader: Reader) -> Iterator[Item]:
    """The rows of the captions file, in its order."""
    place = files.path / captions
    for line, row in _rows(place, files.read(captions)):
        reader.n_read += 1
        fields = _fields(row)
        file = fields.get("file", "")
        name = str(files.path / file) if file else f"{place}, line {line}"
        try:
            if not file or not fields.get("text", "").strip():
                raise ValueError(f"expected `file` and `text`, got {row}")
            inside = posixpath.normpath(file)
            if posixpath.isabs(inside) or inside.split("/")[0] == "..":
                raise ValueError(f"expected a file within {files.path}, got {file!r}")
            picture = files.read(inside)
            item = picture_item(name, picture, fields["text"], split=fields.get("split"), group=fields.get("group"))
        except (ValueError, OSError) as error:
            reader.leave_out(name, ValueError(f"{place}, line {line}: {error}"))
            continue
        yield item


def _rows(captions: Path, data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file with a header or of a file of one JSON object a line."""
    text = read_text(data)
    if captions.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            names = set(rows.fieldnames or ())
            if not (names & {"file", "file_name"} and names & {"text", "caption"}):
                raise ValueError(f"{captions}: expected a first line with `file` and `text`, got {sorted(names)}")
            for row in rows:
                yield rows.line_num, {key: value for key, value in row.items() if isinstance(value, str) and key}
        except csv.Error as error:
            raise ValueError(f"{captions}, after line {rows.line_num}: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{captions}, line {number}: expected a JSON object, got {line[:60]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{captions}, line {number}: expected a JSON object, got {line[:60]!r}")
            yield number, {key: str(value) for key, value in row.items() if value is not None}
