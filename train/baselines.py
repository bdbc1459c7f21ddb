"""What a model has to beat: naming by the most similar picture, and compressing text without understanding it."""

from __future__ import annotations

import collections
import lzma
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32

from gato_lite.envs.dataset import Document
from gato_lite.fitting import square
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.train.document_scores import is_right
from gato_lite.train.pictures import decode_picture

_SIDE: Final = 32
_BLOCK: Final = 256
_LN2: Final = float(np.log(2.0))


class CaptionScores(NamedTuple):
    """How well predicted captions match the true ones."""

    exact: float
    """Share of captions that are right to the letter, apart from case and spaces at the ends."""
    token_f1: float
    """Mean F1 of the words of prediction and truth, each as often as it occurs."""
    n: int
    """Captions scored."""


def caption_scores(predicted: Sequence[str], truth: Sequence[str]) -> CaptionScores:
    """Exact match and token F1 of `predicted` against `truth`, pair by pair.

    Raises:
        ValueError: no captions, or not as many predictions as truths.
    """
    if not truth or len(predicted) != len(truth):
        raise ValueError(f"expected one prediction for each of at least 1 caption, got {len(predicted)}/{len(truth)}")
    pairs = [(a.lower().strip(), b.lower().strip()) for a, b in zip(predicted, truth, strict=True)]
    exact = sum(map(is_right, predicted, truth)) / len(pairs)
    return CaptionScores(exact, sum(_token_f1(a.split(), b.split()) for a, b in pairs) / len(pairs), len(pairs))


def nearest_neighbour_captions(
    train: Sequence[Document], test: Sequence[Document], *, other_groups: bool = False
) -> list[str]:
    """The caption of the most similar training picture, for each of the `test` pictures.

    Similar is the smallest squared difference of RGB values at 32 × 32 pixels.

    Args:
        train: captioned pictures to choose from.
        test: pictures to name.
        other_groups: whether to choose only among pictures of another group than the picture's own, by what stands
            before a "/" in it (a drawing style). This is the stronger baseline where the test hides one style of a
            thing: its name is only found there.

    Raises:
        ValueError: nothing to choose from, or a document without a picture.
    """
    known, asked = _pixels(train), _pixels(test)
    groups = np.array([style_of(document) for document in train])
    if other_groups and len({*groups.tolist()}) < 2:
        raise ValueError("other_groups needs training pictures of at least two groups")
    if not len(known):
        raise ValueError("expected at least one training picture, got none")
    squares = (known**2).sum(1)  # (N,)
    captions = []
    for start in range(0, len(asked), _BLOCK):
        distances = squares - 2 * asked[start : start + _BLOCK] @ known.T  # (B, N), up to a constant of each row
        if other_groups:
            own = np.array([style_of(document) for document in test[start : start + _BLOCK]])
            distances[own[:, None] == groups] = np.inf
        captions += [train[i].text for i in distances.argmin(1).tolist()]
    return captions


def style_of(document: Document) -> str:
    """What stands before a "/" in the group of a document: "noto" of "noto/Objects"; "" without a group."""
    return (document.group or "").partition("/")[0]


def bits_per_byte_unigram(train: Sequence[str], test: Sequence[str], tokenizer: TextTokenizer) -> float:
    """Bits per UTF-8 byte of `test` when each piece is coded by its frequency in `train`, one added to each count."""
    ids = [tokenizer.encode(text) for text in train]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int32), *ids]), minlength=tokenizer.n_pieces) + 1.0
    nats = -np.log(counts / counts.sum())
    total = sum(float(nats[tokenizer.encode(text)].sum()) for text in test)
    return total / _LN2 / _n_bytes(test)


def bits_per_byte_xz(train: Sequence[str], test: Sequence[str]) -> float:
    """Bits per UTF-8 byte that xz (preset 9, extreme) needs for `test` once it has read `train`.

    That is the growth of the compressed size when `test` is put behind `train`; a few seconds for 5 MB.
    """
    known, asked = ("\n\n".join(texts).encode() for texts in (train, test))
    preset = 9 | lzma.PRESET_EXTREME
    grown = len(lzma.compress(known + b"\n\n" + asked, preset=preset)) - len(lzma.compress(known, preset=preset))
    return 8 * grown / _n_bytes(test)


def _token_f1(predicted: list[str], truth: list[str]) -> float:
    shared = sum((collections.Counter(predicted) & collections.Counter(truth)).values())
    return 2 * shared / (len(predicted) + len(truth)) if shared else float(predicted == truth)


def _pixels(documents: Sequence[Document]) -> Float32[np.ndarray, "N D"]:
    """Every picture at the same size as a row of numbers in [-0.5, 0.5]."""
    rows = np.zeros((len(documents), _SIDE * _SIDE * 3), np.float32)
    for i, document in enumerate(documents):
        if document.image is None:
            raise ValueError(f"document {i} ({document.text[:40]!r}): expected a picture, got text alone")
        rows[i] = square(decode_picture(document.image), _SIDE).reshape(-1) / np.float32(255) - np.float32(0.5)
    return rows


def _n_bytes(texts: Sequence[str]) -> int:
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise ValueError("expected at least one byte of held-out text, got none")
    return size
