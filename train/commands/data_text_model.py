"""`gato-lite data text-model`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import refuse_to_overwrite

EXAMPLE: Final = "gato-lite data text-model emoji text --pieces 2048 --out small.model"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a SentencePiece model (BPE, byte fallback) on text.

    `gato-lite train … --text-model FILE` trains with it; in Python, `Vocabulary(TextTokenizer.from_file(FILE))`.
    """

    files: Positional[Annotated[tuple[str, ...], arg(metavar="FILE …")]]
    """Text files, folders of them, datasets of documents, or the shipped emoji and text."""
    out: Annotated[Path, arg(metavar="FILE")]
    """File of the model."""
    pieces: int = 4096
    """Size of its vocabulary."""
    overwrite: bool = False
    """Replace the file."""


def run(options: Options) -> None:
    """Trains and writes the model."""
    from gato_lite.tokenizers.text import TextTokenizer, train_text_model
    from gato_lite.train.console import bar
    from gato_lite.whole import replacing

    if not options.files:
        raise ValueError("expected text to learn from: files, folders, or datasets such as text")
    refuse_to_overwrite([options.out], overwrite=options.overwrite)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    n_bytes = 0

    def counted() -> Iterator[str]:
        nonlocal n_bytes
        with bar("reading", "sources") as show:
            for index, source in enumerate(options.files):
                for text in _texts(source):
                    n_bytes += len(text.encode())
                    yield text
                show(index + 1, len(options.files))

    with replacing(options.out) as temporary:
        model = TextTokenizer(train_text_model(counted(), options.pieces, temporary))
    print(f"{options.out}: {model.n_pieces} pieces learnt from {n_bytes:,} bytes of text")


def _texts(source: str) -> Iterator[str]:
    """The texts of a dataset, a text file or a folder of text files."""
    from gato_lite.envs.dataset import Dataset
    from gato_lite.train.folders import TEXT_SUFFIXES
    from gato_lite.train.shelf import INFO_FILE, dataset_folder

    path = dataset_folder(source)
    if (path / INFO_FILE).is_file():
        for document in Dataset.open(path).read_documents("train"):
            yield from (text for turn in document.turns for text in (turn.prompt, turn.text) if text)
        return
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in below if file == path or (file.is_file() and file.suffix.lower() in TEXT_SUFFIXES)]
    if not files:
        raise FileNotFoundError(f"{source}: expected text files ({', '.join(TEXT_SUFFIXES)}), found none")
    for file in files:
        try:
            yield file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: expected text in UTF-8, got byte 0x{error.object[error.start]:02x}") from error
