"""A user's own text and pictures → a dataset of documents.

    import_source("my-texts", "data/mine")         a folder of .txt and .md files, at any depth
    import_source("my-pictures", "data/mine")      a folder with pictures and captions.csv or captions.jsonl
    import_source("minari:NAME", "data/mine")      episodes of a Minari dataset

Decisions:

- A captions file has the columns (or keys) `file` and `text`, and may have `group` and `split`; `file_name` and
  `caption` are understood too. It may be called metadata.csv or metadata.jsonl.
- Which documents are held out is decided by a hash of their content: it changes neither with the order of the files
  nor when files are added, and copies of one file stay on one side. Of two contents or more, one is always held out.
- Long text files are cut at paragraphs, so that a part of a single book can be held out.
- Everything is read twice, never held at once: first the hashes, then the documents.
- A file that cannot be read is left out and counted; more than one in a hundred of them is an error.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.train.pictures import SUFFIXES, decode_picture, encode_png, square

CAPTION_FILES: Final = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
"""Names that a captions file may have, the first that is there is taken."""
TEXT_SUFFIXES: Final = (".txt", ".text", ".md")
PIECE: Final = 32_768
"""Characters after which a text file is cut at the next paragraph."""
BAD_SHARE: Final = 0.01
"""Largest share of unreadable files that is only counted."""

OnBad = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made."""

    dataset: Dataset
    """The dataset, open for reading."""
    skipped: tuple[str, ...] = ()
    """What was left out: file and reason."""
    n_test: int = 0
    """Documents held out of training, at least one of two."""


class _Item(NamedTuple):
    """One document, before its picture is read and its split is known."""

    name: str
    """Where it comes from, for messages."""
    key: bytes
    """Hash of its content, which decides the split."""
    split: str | None
    """The split that the user asked for."""
    document: Document
    """The document, without its picture."""
    picture: Path | None = None
    """File of the picture, which is still to be read."""


@dataclass
class _Reader:
    """Goes through the files, and keeps the reasons why some were left out."""

    on_bad: OnBad
    skipped: dict[str, str] = field(default_factory=dict)
    n_files: int = 0
    n_test: int = 0
    """Documents that were held out."""

    def leave_out(self, name: str, error: Exception) -> None:
        """Notes a file that could not be read."""
        message = str(error).replace("\n", " ")
        self.skipped[name] = message if message.startswith(name) else f"{name}: {message}"

    def check(self) -> None:
        """Raises ValueError when too many files could not be read."""
        if self.on_bad == "error" and len(self.skipped) > BAD_SHARE * self.n_files:
            first = "; ".join(list(self.skipped.values())[:3])
            raise ValueError(
                f"expected at most 1 % unreadable documents, got {len(self.skipped)} of {self.n_files}; "
                f"mend them, or leave them out with on_bad='skip' (--on-bad skip): {first}"
            )


def import_source(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    size: int = 64,
    test_share: float = 0.05,
    licence: str | None = None,
    attribution: str | None = None,
    on_bad: OnBad = "error",
    overwrite: bool = False,
) -> Imported:
    """Makes a dataset of a folder of text files, a folder of captioned pictures, or one text file.

    Args:
        source: the folder or file, or `minari:NAME`.
        out: folder of the new dataset.
        name: what the collection is called; None takes the folder's name.
        size: side in pixels of the square that pictures are fitted into; a 16-pixel patch is one token.
        test_share: share of the documents that is held out, in (0, 1).
        licence: SPDX name or words.
        attribution: who made the documents.
        on_bad: "skip" leaves out any number of unreadable documents, "error" at most one in a hundred.
        overwrite: whether a dataset in `out` may be replaced.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: nothing in it can be used, or too much of it cannot be read.
    """
    if str(source).startswith("minari:"):
        from gato_lite.envs.minari import import_minari  # its packages are an extra

        return Imported(
            dataset=import_minari(str(source).removeprefix("minari:"), out, on_bad=on_bad, overwrite=overwrite)
        )
    source = Path(source)
    _check_import(source, Path(out), size, test_share)
    captions = next((source / file for file in CAPTION_FILES if (source / file).is_file()), None)
    reader = _Reader(on_bad)

    def items() -> Iterator[_Item]:
        return _text_items(source, reader) if captions is None else _picture_items(source, captions, reader)

    held_out = _held_out(items(), test_share)
    reader.check()
    dataset = write_documents(
        out,
        _documents(items(), held_out, size, reader),
        name=name or source.resolve().name,
        licence=licence,
        attribution=attribution,
        overwrite=overwrite,
    )
    return Imported(dataset=dataset, skipped=tuple(reader.skipped.values()), n_test=reader.n_test)


def _check_import(source: Path, out: Path, size: int, test_share: float) -> None:
    if out.resolve() == source.resolve():
        raise ValueError(f"out must be another folder than the source, got {out} for both")
    if not source.exists():
        raise FileNotFoundError(f"{source}: expected a folder of text files or captioned pictures, found nothing")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got test_share={test_share}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got size={size}")


def _held_out(items: Iterator[_Item], share: float) -> set[bytes]:
    """The keys that are held out: those whose hash is small, at least one where there are two."""
    keys = sorted({item.key for item in items if item.split is None})
    limit = int(share * 2**64).to_bytes(8, "big")
    below = [key for key in keys if key[:8] < limit]
    return set(below or (keys[:1] if len(keys) > 1 else []))


def _documents(items: Iterator[_Item], held_out: set[bytes], size: int, reader: _Reader) -> Iterator[Document]:
    """Every item's document with its picture and its split; at the end, judges how many could not be read."""
    reader.n_files = 0
    reader.n_test = 0
    reader.skipped.clear()
    for item in items:
        image = None
        try:
            if item.picture is not None:
                image = encode_png(square(decode_picture(item.picture), size))
        except (ValueError, OSError) as error:
            reader.leave_out(item.name, error)
            continue
        split = item.split or ("test" if item.key in held_out else "train")
        reader.n_test += split == "test"
        yield item.document._replace(image=image, split=split)
    reader.check()


def _text_items(source: Path, reader: _Reader) -> Iterator[_Item]:
    """The pieces of every text file below `source`, or of the one file that it is."""
    below = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [file for file in below if file.is_file() and (file == source or file.suffix.lower() in TEXT_SUFFIXES)]
    if not files:
        pictures = any(file.suffix.lower() in SUFFIXES for file in below)
        hint = f"; pictures need one of {', '.join(CAPTION_FILES)} beside them" if pictures else ""
        raise ValueError(f"{source}: expected text files ({', '.join(TEXT_SUFFIXES)}), found none{hint}")
    for file in files:
        reader.n_files += 1
        try:
            found = list(pieces(_read_text(file)))
        except (ValueError, OSError) as error:
            reader.leave_out(str(file), error)
            continue
        group = str(file.parent.relative_to(source)) if file.parent not in {source, source.parent} else None
        for piece in found:
            yield _Item(str(file), _hash(piece.encode()), None, Document(None, piece, group=group))


def _read_text(file: Path) -> str:
    """A text file's content in UTF-8, or UTF-16 with a byte order mark, with line feeds alone.

    Raises:
        ValueError: another encoding, or no text.
    """
    data = file.read_bytes()
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, got byte 0x{data[error.start]:02x} at {error.start}") from error
    if "\0" in text:
        raise ValueError(f"expected text, got a NUL character at {text.index(chr(0))}")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def pieces(text: str) -> Iterator[str]:
    """`text` cut at paragraphs into pieces of about `PIECE` characters, and where there is none, at `2 * PIECE`."""
    while len(text) > 2 * PIECE:
        cut = text.find("\n\n", PIECE, 2 * PIECE)
        end = cut if cut >= 0 else 2 * PIECE
        yield text[:end]
        text = text[end:].lstrip("\n")
    if text.strip():
        yield text


def _picture_items(folder: Path, captions: Path, reader: _Reader) -> Iterator[_Item]:
    """The rows of the captions file, in its order."""
    root = folder.resolve()
    for line, row in _rows(captions):
        reader.n_files += 1
        file, text = row.get("file") or row.get("file_name"), row.get("text") or row.get("caption")
        name = str(folder / file) if file else f"{captions}, line {line}"
        try:
            if not file or not text or not text.strip():
                raise ValueError(f"{captions}, line {line}: expected `file` and `text`, got {row}")
            path = (root / file).resolve()
            if not path.is_relative_to(root):
                raise ValueError(f"{captions}, line {line}: expected a file within {folder}, got {file!r}")
            split = row.get("split") or None
            if split not in {None, "train", "test"}:
                raise ValueError(f'{captions}, line {line}: expected split "train" or "test", got {split!r}')
            key = _hash(path.read_bytes())
        except (ValueError, OSError) as error:
            reader.leave_out(name, error)
            continue
        document = Document(None, text.strip(), group=row.get("group") or None)
        yield _Item(name, key, split, document, path)


def _rows(captions: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file with a header or of a file of one JSON object a line."""
    text = _read_text(captions)
    if captions.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = set(rows.fieldnames or ())
        if not (names & {"file", "file_name"} and names & {"text", "caption"}):
            raise ValueError(f"{captions}: expected a first line with `file` and `text`, got {sorted(names)}")
        try:
            for row in rows:
                yield rows.line_num, {key: value for key, value in row.items() if isinstance(value, str) and key}
        except csv.Error as error:
            raise ValueError(f"{captions}, after line {rows.line_num}: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{captions}, line {number}: expected a JSON object, got {line[:60]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{captions}, line {number}: expected a JSON object, got {line[:60]!r}")
            yield number, {key: str(value) for key, value in row.items() if value is not None}


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
