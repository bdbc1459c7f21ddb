"""Captions, questions, translations and conversations as training documents: whole exchanges, never cut in between.

What is the same at every draw is made once: token ids of all documents end to end, and every different picture,
decoded. Drawing a document is then slicing, and cutting its pictures into patches, varied before where that is wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8
from PIL import Image

from gato_lite.envs.dataset import Document as StoredDocument
from gato_lite.envs.dataset import Turn
from gato_lite.exchange import Exchange, lay_out_exchanges, picture_tokens, text_tokens
from gato_lite.fitting import Picture
from gato_lite.sequence import TEXT_PLACES, Document, Tokens, concatenate, offsets_of, select
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.pictures import decode_picture
from gato_lite.train.settings import Augment
from gato_lite.train.sources import PROMPT_SHARE

WHITE: Final = (255, 255, 255)


class ExchangeSource:
    """Documents of exchanges: a picture, a prompt and an answer each, any of which may be missing.

    Where nothing was asked, as of a caption, a first part of the last answer is a prompt in `PROMPT_SHARE` of the
    draws, so that the model goes on with the beginning of a caption. The loss asks for all of it.

    Args:
        documents: as they are stored.
        vocabulary: of the model.
        name: shown in logs.
        patch_size: side of a patch in pixels, the model's.
        augment: how each draw varies the pictures, see `vary`.
        all_text: whether prompts are predicted too, not the answers alone.
        n_example: most other documents, drawn anew each time, that stand before a document as examples.
        piece_noise: share of the pieces of answers that are read as any other piece.
        origin: the dataset they are from.
        rows: of each document in that dataset; None counts them.

    Raises:
        ValueError: there is no document.
    """

    def __init__(
        self,
        documents: Sequence[StoredDocument],
        vocabulary: Vocabulary,
        *,
        name: str,
        patch_size: int = 16,
        augment: Augment = "none",
        all_text: bool = False,
        n_example: int = 0,
        piece_noise: float = 0.0,
        origin: str = "",
        rows: Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self._origin = origin
        self._rows: list[int] = []
        self._vocabulary = vocabulary
        self._patch_size = patch_size
        self._augment = augment
        self._n_example = n_example
        self._piece_noise = piece_noise
        self._pictures: list[Picture] = []
        decoded: dict[bytes, int] = {}
        ids: list[npt.NDArray[np.int32]] = []
        local: list[npt.NDArray[np.int16]] = []
        target: list[npt.NDArray[np.bool_]] = []
        self._shown: list[tuple[int, ...]] = []
        """Pictures of each document."""
        unasked: list[int] = []
        for row, document in zip(range(len(documents)) if rows is None else rows, documents, strict=True):
            shown = tuple(self._decoded(turn.image, decoded) for turn in document.turns if turn.image is not None)
            tokens, answers = lay_out_exchanges(self._exchanges(document.turns, shown), vocabulary, patch_size)
            if all_text:
                answers = (tokens.ids < vocabulary.text_ids.stop) | (tokens.ids == vocabulary.end)
                answers[0] = False
            if not answers.any():
                continue  # a picture without a word teaches nothing
            self._rows.append(row)
            ids.append(tokens.ids)
            local.append(tokens.local)
            target.append(answers)
            self._shown.append(shown)
            last = document.turns[-1]
            is_piece = tokens.local[-2::-1] < -TEXT_PLACES  # of an answer, from its last on
            unasked.append(int(is_piece.argmin()) if last.text and not last.prompt else 0)
        if not ids:
            raise ValueError(f"source '{name}' is empty, expected at least one document with an answer")
        self._ids, self._local, self._target = np.concatenate(ids), np.concatenate(local), np.concatenate(target)
        self._starts = offsets_of([len(run) for run in ids])
        self._shortest = np.array([len(run) - int(run[::-1].argmin()) + 1 for run in target])
        """Tokens of each document up to the first of its last answer, that one included."""
        self._unasked = np.array(unasked)
        """Pieces of the last answer of each document where nothing was asked, else 0."""

    def _decoded(self, image: bytes, decoded: dict[bytes, int]) -> int:
        """Index of a picture; copies of one are kept once."""
        if image not in decoded:
            decoded[image] = len(self._pictures)
            self._pictures.append(decode_picture(image))
        return decoded[image]

    def _exchanges(self, turns: Sequence[Turn], shown: Sequence[int]) -> list[Exchange]:
        pictures = iter(shown)
        return [
            Exchange(
                image=None if turn.image is None else self._pictures[next(pictures)], prompt=turn.prompt, text=turn.text
            )
            for turn in turns
        ]

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._ids)

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        """Documents, with examples before them where there is room; the last answer is cut at the context's end.

        Raises:
            ValueError: no document has room for its answer.
        """
        fitting = np.flatnonzero(self._shortest <= context_length)
        if not len(fitting):
            shortest = int(self._shortest.min())
            raise ValueError(
                f"the shortest document of '{self.name}' needs {shortest} tokens up to its answer, but a document has "
                f"at most {context_length}; raise context_length, or shrink the pictures or prompts"
            )
        chosen = fitting[generator.integers(len(fitting), size=n)]
        n_prompt = np.zeros(n, np.int64)
        if self._unasked.any():
            first = generator.integers(np.maximum(self._unasked[chosen], 1))
            n_prompt = first * (generator.random(n) < PROMPT_SHARE)
        n_example = generator.integers(self._n_example + 1, size=n).tolist() if self._n_example else [0] * n
        return [
            self._document(
                index, n_said, self._examples(generator, index, count, context_length), generator, context_length
            )
            for index, n_said, count in zip(chosen.tolist(), n_prompt.tolist(), n_example, strict=True)
        ]

    def _examples(self, generator: np.random.Generator, index: int, count: int, context_length: int) -> list[int]:
        """At most `count` other documents that fit whole before document `index`."""
        examples: list[int] = []
        room = context_length - int(self._starts[index + 1] - self._starts[index])
        for other in generator.integers(len(self._shown), size=count).tolist():
            length = int(self._starts[other + 1] - self._starts[other])
            if other != index and length <= room:
                examples.append(other)
                room -= length
        return examples

    def _document(
        self, index: int, n_prompt: int, examples: Sequence[int], generator: np.random.Generator, context_length: int
    ) -> Document:
        tokens, target = self._tokens(index, generator)
        if n_prompt:
            begin = len(tokens) - 1 - int(self._unasked[index])
            said = text_tokens(tokens.ids[begin:], self._vocabulary.end, n_prompt)
            tokens = replace(tokens, local=np.concatenate([tokens.local[:begin], said.local]))
        if len(tokens) > context_length:  # pictures all stand before the last answer, which is what is cut
            tokens = Tokens(
                ids=tokens.ids[:context_length],
                local=tokens.local[:context_length],
                pixels=tokens.pixels,
                patch_shapes=tokens.patch_shapes,
                patch_intervals=tokens.patch_intervals,
            )
            target = target[:context_length]
        if examples:
            parts = [self._tokens(example, generator) for example in examples]
            runs = [self._following(part) for part in (*parts, (tokens, target))[1:]]
            tokens = concatenate([parts[0][0], *(run for run, _ in runs)])
            target = np.concatenate([parts[0][1], *(mask for _, mask in runs)])
        rows = tuple(self._rows[made_of] for made_of in (*examples, index))
        labels = tokens.ids
        if self._piece_noise:
            tokens = replace(tokens, ids=self._misread(tokens, target, generator))
        return Document(tokens=tokens, target=target, labels=labels, origin=self._origin, rows=rows)

    def _misread(
        self, tokens: Tokens, target: npt.NDArray[np.bool_], generator: np.random.Generator
    ) -> npt.NDArray[np.int32]:
        """Ids with some of the pieces of answers become others, as a model's own answer has wrong ones.

        Source: Wang et al. 2018, "SwitchOut". Differs from the paper: answers alone, and as many on average in each.
        """
        ids, n_piece = tokens.ids, self._vocabulary.text_ids.stop
        answered = target & (tokens.local < -TEXT_PLACES)
        wrong = answered & (ids < n_piece) & (generator.random(len(ids)) < self._piece_noise)
        return np.where(wrong, generator.integers(n_piece, size=len(ids), dtype=np.int32), ids)

    def _following(self, part: tuple[Tokens, npt.NDArray[np.bool_]]) -> tuple[Tokens, npt.NDArray[np.bool_]]:
        """A document that follows another, whose `end` is beginning enough."""
        tokens, target = part
        keep = np.ones(len(tokens), np.bool_)
        keep[0] = tokens.ids[0] != self._vocabulary.end
        ids = self._vocabulary
        return select(tokens, keep, patch_id=ids.patch, chunk_id=ids.chunk), target[keep]

    def _tokens(self, index: int, generator: np.random.Generator) -> tuple[Tokens, npt.NDArray[np.bool_]]:
        place = slice(int(self._starts[index]), int(self._starts[index + 1]))
        pictures = [self._pictures[picture] for picture in self._shown[index]]
        if self._augment != "none":
            recolour = self._augment == "recoloured"
            pictures = [vary(picture, generator, recolour=recolour) for picture in pictures]
        seen = concatenate([picture_tokens(picture, self._vocabulary, self._patch_size) for picture in pictures])
        return replace(seen, ids=self._ids[place], local=self._local[place]), self._target[place]


def vary(
    picture: UInt8[np.ndarray, "H W 3"], generator: np.random.Generator, *, recolour: bool
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture a little turned, scaled and shifted, with white where nothing was.

    Args:
        picture: (H, W, 3).
        generator: draws up to 14° of turn, a quarter of scale, 7 % of shift, and saturation, contrast and tint.
        recolour: whether saturation, contrast and tint change too; not where colours are asked about.
    """
    height, width, _ = picture.shape
    turn = generator.uniform(-0.25, 0.25)
    across, down = generator.uniform(0.75, 1.25, 2)
    a, b, d, e = across * np.cos(turn), -np.sin(turn), np.sin(turn), down * np.cos(turn)
    shift_x, shift_y = generator.uniform(-0.075, 0.075, 2) * (width, height)
    x, y = (width - 1) / 2, (height - 1) / 2  # turned about the centre
    affine = (a, b, x - a * x - b * y + shift_x, d, e, y - d * x - e * y + shift_y)
    moved = Image.fromarray(picture).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR, fillcolor=WHITE
    )
    if not recolour:
        return np.asarray(moved)
    saturation, contrast = generator.uniform(0.0, 1.4), generator.uniform(0.6, 1.4)
    tint = generator.uniform(-38.0, 38.0, 3) + 127.5 * (1 - contrast)
    grey, own = contrast * (1 - saturation) / 3, contrast * saturation
    rows = [[grey + own * (row == column) for column in range(3)] + [float(tint[row])] for row in range(3)]
    recoloured = moved.convert("RGB", tuple(itertools.chain.from_iterable(rows)))  # one pass, clipped to 0..255
    return np.asarray(recoloured)
