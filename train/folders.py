"""A user's own text and pictures → a dataset of documents.

    import_source("my-texts", "data/mine")         a folder of .txt and .md files, at any depth
    import_source("my-pictures", "data/mine")      a folder with pictures and captions.csv or captions.jsonl
    import_source("my-classes", "data/mine")       a folder with a folder of pictures for each class
    import_source("pictures.tar", "data/mine")     the same in a tar or zip; KEY.png, KEY.txt as in WebDataset
    import_source("rows.jsonl", "data/mine")       rows of `text`, or of `prompt` and `text`; a .csv has them too
    import_source("rows.parquet", "data/mine")     the same, or rows of `image` with `text`, `label` or a question
    import_source("minari:NAME", "data/mine")      episodes of a Minari dataset

Decisions:

- A captions file has the columns (or keys) `file` and `text`, and may have `prompt`, `group` and `split`; what else is
  understood, `gato_lite.train.rows` says. It may be called metadata.csv or metadata.jsonl. A column that no document
  is made of is named in `Imported.unused`.
- Without one, a picture's caption is the .txt or .caption of the same name, or `text` of the .json; its class the .cls,
  or, where there is nothing but pictures, the folder that it is in.
- What documents teach is what most of them look like, unless `ability` says it.
- Which documents are held out is decided by a hash of their content: it changes neither with the order of the files
  nor when files are added, and copies of one file stay on one side. Of two contents or more, one is always held out.
- Long text files are cut at paragraphs, so that a part of a single book can be held out.
- Everything is read twice, never held at once: first the hashes, then the documents.
- A file that cannot be read is left out and counted; more than one in a hundred of them is an error.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.dataset import Dataset, Document, Turn, write_documents
from gato_lite.envs.format import INFO_FILE, Ability, OnBad
from gato_lite.fitting import CELL, MAX_PIXELS, PictureFit, fit
from gato_lite.train.files import Files, Folder, Shards, is_archive, open_files
from gato_lite.train.items import Item, Reader, in_share, read_text, text_items
from gato_lite.train.pictures import SUFFIXES, decode_picture, encode_png
from gato_lite.train.rows import (
    SPLITS,
    TABLES,
    columns_of,
    is_asked,
    json_object,
    row_items,
    split_of_file,
    table_rows,
    words_in,
)
from gato_lite.train.tables import table_items
from gato_lite.train.templates import apparent_ability

CAPTION_FILES: Final = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
"""Names that a captions file may have, the first that is there is taken."""
TEXT_SUFFIXES: Final = (".txt", ".text", ".md")
_BESIDE: Final = (".txt", ".caption", ".json", ".cls")
"""Names of files that hold a caption or a class, beside the picture of that name."""
_OBJECTS: Final = (".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth", ".joblib")
"""Names of files that may hold pickled objects."""

SIZE: Final = 64
"""Side in pixels of the square that pictures are fitted into, if nothing else is said."""
TEST_SHARE: Final = 0.05
"""Share of the documents that is held out, if nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made."""

    dataset: Dataset
    """The dataset, open for reading."""
    skipped: tuple[str, ...] = ()
    """What was left out: file and reason."""
    unused: tuple[str, ...] = ()
    """Columns and keys that no document is made of."""
    n_test: int = 0
    """Documents held out of training, at least one of two."""
    notes: tuple[str, ...] = ()
    """What else is to be told."""


def import_source(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    size: int = SIZE,
    keep_aspect: bool = False,
    test_share: float = TEST_SHARE,
    licence: str | None = None,
    attribution: str | None = None,
    ability: Ability | None = None,
    on_bad: OnBad = "error",
    overwrite: bool = False,
) -> Imported:
    """Makes a dataset of text files, captioned pictures or rows of them, in a folder, an archive or a file of rows.

    Args:
        source: the folder, archive or file, or `minari:NAME`.
        out: folder of the new dataset.
        name: what the collection, or the task of episodes, is called; None takes the folder's name, or Minari's task.
        size: side in pixels of the square that pictures are fitted into, in 1..8000; a 16-pixel patch is one token.
        keep_aspect: whether pictures keep their proportions, with at most the pixels of that square, in place of a
            white margin; `size` is at least 32 then.
        test_share: share of the documents that is held out, in (0, 1).
        licence: SPDX name or words.
        attribution: who made the documents; for episodes None takes Minari's authors.
        ability: what the documents teach, which is how they are scored; None takes what most of them look like.
        on_bad: "skip" leaves out any number of unreadable documents, "error" at most one in a hundred.
        overwrite: whether a dataset in `out` may be replaced.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: nothing in it can be used, too much of it cannot be read, an archive holds what leads out of it, or
            an option of documents is given for episodes.
    """
    if str(source).startswith("minari:"):
        given = {"size": size != SIZE, "keep_aspect": keep_aspect, "test_share": test_share != TEST_SHARE}
        _refuse_options(source, **given, ability=ability is not None)
        return _import_episodes(source, out, name, licence, attribution, on_bad, overwrite=overwrite)
    source = Path(source)
    how = PictureFit(side=size, keep_aspect=keep_aspect)
    _check_import(source, Path(out), how, test_share)
    reader = Reader(on_bad)
    with contextlib.ExitStack() as stack:
        items = _items_of(source, reader, stack)
        held_out, has_picture, apparent = _survey(items(), test_share)
        reader.check()
        dataset = write_documents(
            out,
            _documents(items(), held_out, how, reader),
            name=name or source.resolve().name,
            licence=licence,
            attribution=attribution,
            ability=ability or apparent,
            pictures=how if has_picture else None,
            overwrite=overwrite,
        )
    unused = tuple(name for name, used in reader.columns.items() if not used)
    return Imported(dataset=dataset, skipped=tuple(reader.skipped.values()), unused=unused, n_test=reader.n_test)


def _refuse_options(source: str | Path, **given: bool) -> None:
    """Raises a ValueError where an option of documents is given for episodes."""
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise ValueError(
            f"{source}: expected no option of documents for episodes, got {', '.join(wrong)}: leave it out"
        )


def _import_episodes(
    source: str | Path, out: str | Path, task: str | None, licence: str | None, attribution: str | None,
    on_bad: OnBad, *, overwrite: bool,
) -> Imported:  # fmt: skip
    """A dataset of Minari."""
    from gato_lite.envs.minari import import_minari  # its packages are an extra

    notes: list[str] = []
    dataset = import_minari(
        str(source).removeprefix("minari:"),
        out,
        task=task,
        licence=licence,
        attribution=attribution,
        on_bad=on_bad,
        overwrite=overwrite,
        on_note=notes.append,
    )
    return Imported(dataset=dataset, notes=tuple(notes))


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
        return functools.partial(_row_items, files, [captions], reader)
    suffixes = [posixpath.splitext(name)[1].lower() for name in files.names]
    if source.is_file() and not is_archive(source) and suffixes[0] not in TABLES:
        return functools.partial(_text_items, files, files.names[0], reader)
    by_suffix = list(zip(files.names, suffixes, strict=True))
    kinds = {
        suffix for name, suffix in by_suffix if posixpath.basename(name).lower() != "readme.md"
    }  # it counts for nothing
    parquet = [source / name for name, suffix in by_suffix if suffix == ".parquet"]
    if parquet and isinstance(files, Folder) and not kinds & {".txt", *SUFFIXES}:
        return functools.partial(table_items, parquet, reader)
    tables = [name for name, suffix in by_suffix if suffix in TABLES]
    if tables and not kinds & {*TEXT_SUFFIXES, *SUFFIXES}:
        return functools.partial(_row_items, files, tables, reader)
    classes = _classes([name for name, suffix in by_suffix if suffix in SUFFIXES])
    if classes and not kinds & {*TEXT_SUFFIXES, *_BESIDE, *TABLES} and not isinstance(files, Shards):
        return functools.partial(_class_items, files, classes, reader)
    if not set(suffixes) & {*TEXT_SUFFIXES, *_BESIDE}:
        beside = f"{', '.join(CAPTION_FILES)}, or a {', '.join(_BESIDE)} of the same name, beside them"
        hint = f"; pictures need one of {beside}, or a folder for each class" if set(suffixes) & set(SUFFIXES) else ""
        raise ValueError(f"{source}: expected text files ({', '.join(TEXT_SUFFIXES)}), found none{hint}")
    return functools.partial(_named_items, files, reader)


def _classes(pictures: Sequence[str]) -> dict[str, tuple[str | None, str]]:
    """Split, None where none is said, and class of each picture: `cats/1.png`, or `train/cats/1.png`.

    Returns:
        Nothing where not all of them are in a folder of their class, or there are not two classes.
    """
    found: dict[str, tuple[str | None, str]] = {}
    for name in pictures:
        *above, label = name.split("/")[:-1] or [""]
        if not label or label in SPLITS or label.startswith(".") or len(above) > 1 or not SPLITS.keys() >= {*above}:
            return {}
        found[name] = (above[0] if above else None, label)
    return found if len({label for _, label in found.values()}) > 1 else {}


def _class_items(files: Files, classes: Mapping[str, tuple[str | None, str]], reader: Reader) -> Iterator[Item]:
    """Every picture with the class that its folder is called by."""
    for name, (split, label) in classes.items():
        reader.n_read += 1
        place = f"{files.path / name}"
        try:
            yield from row_items(place, {"label": label}, [files.read(name)], reader, split=split)
        except (ValueError, OSError) as error:
            reader.leave_out(place, error)


def _survey(items: Iterator[Item], share: float) -> tuple[set[bytes], bool, Ability | None]:
    """The keys that are held out, those whose hash is small, at least one of two; whether there is a picture; and what
    most documents teach, None where there is none.
    """
    found: set[bytes] = set()
    abilities: collections.Counter[Ability] = collections.Counter()
    has_picture = False
    for item in items:
        has_picture = has_picture or any(turn.image is not None for turn in item.document.turns)
        abilities[apparent_ability(item.document)] += 1
        if item.split is None:
            found.add(item.key)
    keys = sorted(found)
    below = [key for key in keys if in_share(key, share)]
    held_out = set(below or (keys[:1] if len(keys) > 1 else []))
    return held_out, has_picture, max(abilities, key=abilities.__getitem__, default=None)


def _documents(items: Iterator[Item], held_out: set[bytes], how: PictureFit, reader: Reader) -> Iterator[Document]:
    """Every item's document with its pictures and its split; at the end, judges how many could not be read."""
    reader.n_read = 0
    reader.n_test = 0
    reader.skipped.clear()
    for item in items:
        try:
            *before, last = [_fitted(turn, how, item.name) for turn in item.document.turns]
        except (ValueError, OSError) as error:
            reader.leave_out(item.name, error)
            continue
        split = item.split or ("test" if item.key in held_out else "train")
        reader.n_test += split == "test"
        yield item.document._replace(image=last.image, before=tuple(before), split=split)
    reader.check()


def _fitted(turn: Turn, how: PictureFit, name: str) -> Turn:
    if turn.image is None:
        return turn
    return turn._replace(image=encode_png(fit(decode_picture(turn.image, name=name), how)))


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
    captioned = {key for key in keys if any(f"{key}{suffix}" in known for suffix in _BESIDE)}
    for name in files.names:
        key, suffix = posixpath.splitext(name)
        if suffix.lower() in TEXT_SUFFIXES and not (suffix == ".txt" and key in captioned):
            yield from _text_items(files, name, reader)
        elif suffix.lower() in SUFFIXES and captioned:  # pictures beside texts alone are no documents
            reader.n_read += 1
            label = f"{files.path / name}"
            try:
                yield from row_items(label, _caption(files, key, known), [files.read(name)], reader)
            except (ValueError, OSError) as error:
                reader.leave_out(label, error)


def _caption(files: Files, key: str, known: set[str]) -> dict[str, Any]:  # Any: JSON
    """The row that the files beside the picture called `key` make."""
    row: dict[str, Any] = {}
    if f"{key}.json" in known:
        try:
            row = json_object(files.read(f"{key}.json"))
        except ValueError as error:
            raise ValueError(f"{files.path / key}.json: {error}") from error
    for suffix in (".caption", ".txt"):
        if f"{key}{suffix}" in known:
            row["text"] = read_text(files.read(f"{key}{suffix}"))
    if f"{key}.cls" in known and "text" not in columns_of(row):
        row["label"] = read_text(files.read(f"{key}.cls")).strip()
    if not row:
        raise ValueError(f"expected its caption in {key}.txt or as `text` in {key}.json, or its class in {key}.cls")
    return row


def _row_items(files: Files, tables: Sequence[str], reader: Reader) -> Iterator[Item]:
    """The rows of captions files, or of other files of rows, in their order."""
    for table in tables:
        place = files.path / table
        split = split_of_file(posixpath.basename(table))
        for name, row in table_rows(place, files.read(table), reader):
            try:
                inside = _files(files, row, needed=table in CAPTION_FILES)
                pictures = [files.read(file) for file in inside]
                shown = ", ".join([name, *inside])  # for the pictures, which are decoded later
                yield from row_items(shown, row, pictures, reader, split=split)
            except (ValueError, OSError) as error:
                reader.leave_out(name, error)


def _files(files: Files, row: Mapping[str, Any], *, needed: bool) -> list[str]:  # Any: JSON
    """The pictures that a row of a table names; none where it has a prompt without one, or nothing but text.

    Raises:
        ValueError: none is named where one is `needed`, or one that is elsewhere.
    """
    column = columns_of(row).get("file")
    named = (row[column] if column else None) or []
    if not named and (needed or column) and not is_asked(row):
        raise ValueError(f"expected `file` and `text`, or `prompt` and `text`, got {str(row)[:200]}")
    found = []
    for file in named if isinstance(named, list) else [named]:
        inside = posixpath.normpath(words_in(column or "", file))
        if posixpath.isabs(inside) or inside.split("/")[0] in {"..", "."}:
            raise ValueError(f"expected a file within {files.path}, got {file!r}")
        found.append(inside)
    return found
