"""Held-out scores of what the model names and writes, beside what needs no understanding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import torch

from gato_lite.choices import document_nats
from gato_lite.envs.dataset import Document
from gato_lite.exchange import Exchange, text_tokens
from gato_lite.generate import generate, write_answers
from gato_lite.model import Gato
from gato_lite.sequence import Document as TokenDocument
from gato_lite.train.baselines import (
    bits_per_byte_unigram,
    bits_per_byte_xz,
    caption_scores,
    nearest_neighbour_captions,
)
from gato_lite.train.pictures import decode_picture


class CaptionExample(msgspec.Struct, frozen=True, kw_only=True):
    """One held-out picture."""

    image: bytes
    """PNG."""
    caption: str
    """What the model wrote."""
    truth: str
    style: str | None


class CaptionScore(msgspec.Struct, frozen=True, kw_only=True):
    """Naming held-out pictures."""

    exact: float
    """Share of captions that are right to the letter, apart from case."""
    token_f1: float
    n: int
    baseline_exact: float
    """The better of two: the most similar training picture, or the most similar one of another style."""
    baseline_token_f1: float
    examples: list[CaptionExample] = []


class TextExample(msgspec.Struct, frozen=True, kw_only=True):
    """One held-out text, continued."""

    prompt: str
    continuation: str
    truth: str


class TextScore(msgspec.Struct, frozen=True, kw_only=True):
    """Predicting held-out text."""

    bits_per_byte: float
    unigram: float
    """Bits per byte when pieces are coded by their frequency in the training text."""
    xz: float
    """Bits per byte that xz adds for the held-out text after the training text."""
    n_bytes: int
    examples: list[TextExample] = []


def score_captions(
    gato: Gato, train: Sequence[Document], test: Sequence[Document], *, batch: int = 64, n_example: int = 24
) -> CaptionScore:
    """Names every picture of `test`, greedily.

    Args:
        gato: the model.
        train: the pictures that the baseline chooses from.
        test: held-out pictures.
        batch: pictures that share a forward.
        n_example: pictures kept to be looked at, evenly spread.
    """
    pictures = [decode_picture(document.image) for document in test if document.image is not None]
    captions: list[str] = []
    for start in range(0, len(pictures), batch):
        some = pictures[start : start + batch]
        captions += write_answers(gato, [[Exchange(image=image)] for image in some], max_tokens=24)
    truth = [document.text for document in test]
    own = caption_scores(captions, truth)
    grouped = len({document.group for document in train}) > 1
    baselines = [
        caption_scores(nearest_neighbour_captions(train, test, other_groups=other), truth)
        for other in ((False, True) if grouped else (False,))
    ]
    best = max(baselines, key=lambda scores: scores.exact)
    chosen = np.linspace(0, len(test) - 1, min(n_example, len(test))).astype(int)
    return CaptionScore(
        exact=own.exact,
        token_f1=own.token_f1,
        n=own.n,
        baseline_exact=best.exact,
        baseline_token_f1=best.token_f1,
        examples=[
            CaptionExample(
                image=test[index].image or b"", caption=captions[index], truth=truth[index], style=test[index].group
            )
            for index in chosen
        ],
    )


@torch.inference_mode()
def bits_per_byte(gato: Gato, texts: Sequence[str], tokens_per_batch: int = 8192) -> float:
    """Bits per UTF-8 byte of `texts`, every byte counted once.

    Long texts are read in windows that overlap by half: a piece is judged with at least half a context before it, but
    for those at a document's beginning.
    """
    vocabulary = gato.vocabulary
    context = gato.config.context_length
    documents = []
    for text in texts:
        ids = np.concatenate([[vocabulary.end], vocabulary.text.encode(text)]).astype(np.int32)
        for start in range(0, max(len(ids) - context // 2, 1), context // 2):
            window = ids[start : start + context]
            target = np.arange(len(window)) >= (1 if start == 0 else context - context // 2)
            documents.append(TokenDocument(tokens=text_tokens(window, vocabulary.end), target=target, labels=window))
    nats = document_nats(gato, [document for document in documents if document.target.any()], tokens_per_batch).sum()
    return float(nats) / math.log(2) / max(sum(len(text.encode()) for text in texts), 1)


def score_text(
    gato: Gato,
    train: Sequence[str],
    test: Sequence[str],
    *,
    n_example: int = 6,
    prompt_pieces: int = 48,
    answer_pieces: int = 48,
) -> TextScore:
    """Bits per byte on held-out texts, and a few of them continued (drawn at temperature 0.8, fixed seed)."""
    vocabulary = gato.vocabulary
    examples = []
    long_enough = [text for text in test if len(text) > 600] or list(test)
    for index in np.linspace(0, len(long_enough) - 1, min(n_example, len(long_enough))).astype(int):
        ids = vocabulary.text.encode(long_enough[index])
        prompt = vocabulary.text.decode(ids[:prompt_pieces])
        examples.append(
            TextExample(
                prompt=prompt,
                continuation=generate(
                    gato, prompt, max_tokens=answer_pieces, temperature=0.8, top_p=0.95, seed=int(index)
                ),
                truth=vocabulary.text.decode(ids[prompt_pieces : prompt_pieces + answer_pieces]),
            )
        )
    return TextScore(
        bits_per_byte=bits_per_byte(gato, test),
        unigram=bits_per_byte_unigram(train, test, vocabulary.text),
        xz=bits_per_byte_xz(train, test),
        n_bytes=sum(len(text.encode()) for text in test),
        examples=examples,
    )
