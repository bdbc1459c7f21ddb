"""Text and pictures in any order → tokens: one layout for captions, questions, classes, translation, chat and text.

An exchange is what is shown and said, and what is answered: a picture, a prompt and an answer, any of which may be
missing. A document is one exchange or several:

    a caption            [picture] answer end
    a question           [picture] prompt answer end
    a translation        end prompt answer end
    plain text           end answer end
    in-context examples  [picture] answer end [picture] answer end …
    a conversation       end prompt answer end prompt answer end …

Every document begins with `end` or with a picture, and `end` follows every answer: it is how the model says that it is
done. Prompts and answers are encoded apart, so that a prompt has the same tokens whatever is answered.

Pieces carry their place in their prompt or answer. So an answer can tell where its prompt ends and what in it stands
where it is itself, which translations need (docs/experiments.md).

Source: Reed et al. 2022, section 2.1 (text, then images; here each where it stands).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gato_lite.fitting import Picture, PictureFit, check_picture, fit_one_of
from gato_lite.sequence import Tokens, answer_tokens, concatenate, plain, prompt_tokens
from gato_lite.tokenizers.image import PatchGrid
from gato_lite.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What is shown and said, and what is answered."""

    image: Picture | None = None
    """An (H, W, C) uint8 picture, seen before the prompt: grey, grey and alpha, RGB, or RGB and alpha."""
    prompt: str = ""
    """What is said to the model."""
    text: str = ""
    """What it answers."""


def fitted(turns: Sequence[Exchange], fits: Sequence[PictureFit]) -> list[Exchange]:
    """The same with their pictures fitted as one of `fits`; none leaves them as they are.

    Raises:
        ValueError: as `fit`.
    """
    if not fits:
        return list(turns)
    return [turn if turn.image is None else replace(turn, image=fit_one_of(turn.image, fits)) for turn in turns]


def picture_tokens(picture: Picture, vocabulary: Vocabulary, patch_size: int = 16) -> Tokens:
    """The patches of one (H, W, C) uint8 picture, in raster order.

    Raises:
        ValueError: it is not such an array.
    """
    check_picture(picture)
    height, width, channels = picture.shape
    grid = _patch_grid(height, width, channels, patch_size)
    return Tokens(
        ids=np.full(grid.n_patches, vocabulary.patch, np.int32),
        local=np.arange(1, grid.n_patches + 1, dtype=np.int16),
        pixels=grid.split(picture[None]).reshape(-1),
        patch_shapes=grid.shapes,
        patch_intervals=grid.intervals,
    )


@functools.lru_cache(maxsize=64)
def _patch_grid(height: int, width: int, channels: int, patch_size: int) -> PatchGrid:
    return PatchGrid(height, width, channels, patch_size)


def lay_out_exchanges(
    exchanges: Sequence[Exchange], vocabulary: Vocabulary, patch_size: int = 16
) -> tuple[Tokens, npt.NDArray[np.bool_]]:
    """A document, and which of its tokens (T,) are answers or the `end` after one.

    The last exchange's answer may be empty: the document then ends with its prompt and is what `generate` reads.
    """
    runs: list[Tokens] = [] if exchanges[0].image is not None else [plain([vocabulary.end])]
    answers = [np.zeros(len(runs), np.bool_)]
    for exchange in exchanges:
        shown = [] if exchange.image is None else [picture_tokens(exchange.image, vocabulary, patch_size)]
        if exchange.prompt:
            shown.append(prompt_tokens(vocabulary.text.encode(exchange.prompt)))
        runs += shown
        answers.append(np.zeros(sum(map(len, shown)), np.bool_))
        if exchange.text:
            answer = answer_tokens(vocabulary.text.encode(exchange.text))
            runs += [answer, plain([vocabulary.end])]
            answers.append(np.ones(len(answer) + 1, np.bool_))
    return concatenate(runs), np.concatenate(answers)


def text_tokens(ids: npt.NDArray[np.int32], end: int, n_prompt: int = 0) -> Tokens:
    """A stretch of plain text, which may begin and finish with `end`: a prompt of `n_prompt` pieces and an answer."""
    first = int(ids[0] == end)
    last = max(first, len(ids) - int(ids[-1] == end))
    said = min(first + n_prompt, last)
    answer = answer_tokens(ids[said:last])
    return concatenate([plain(ids[:first]), prompt_tokens(ids[first:said]), answer, plain(ids[last:])])
