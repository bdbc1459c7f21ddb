"""Held-out text: what its bytes cost a model, beside what does not understand it, and how the model goes on with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from gato_lite.choices import document_nats
from gato_lite.envs.dataset import Document
from gato_lite.exchange import text_tokens
from gato_lite.generate import generate
from gato_lite.model import Gato
from gato_lite.sequence import Document as TokenDocument
from gato_lite.train.baselines import bits_per_byte_unigram, bits_per_byte_xz
from gato_lite.train.document_scores import Answer, DocumentScore
from gato_lite.train.ngram import bits_per_byte_ngram
from gato_lite.train.templates import ABILITIES

EXAMPLES: Final = 6
"""Texts that are continued."""
PIECES: Final = 48
"""Pieces of a prompt, and of what is written after it."""
LONG: Final = 600
"""Characters beyond which a text is rather taken: there is enough of it to go on with."""


def text_score(gato: Gato, train: Sequence[Document], test: Sequence[Document]) -> DocumentScore:
    """Bits per byte of held-out texts, and a few of them continued."""
    known, asked = ([document.text for document in documents] for documents in (train, test))
    return DocumentScore(
        ability="text",
        metric=ABILITIES["text"],
        mean=bits_per_byte(gato, asked),
        n=len(test),
        baselines={
            "xz": bits_per_byte_xz(known, asked),
            "byte 5-gram": bits_per_byte_ngram(known, asked),
            "piece frequencies": bits_per_byte_unigram(known, asked, gato.vocabulary.text),
        },
        examples=_continued(gato, [document for document in test if len(document.text) > LONG] or test),
    )


def _continued(gato: Gato, documents: Sequence[Document]) -> list[Answer]:
    """Some texts, evenly spread, that the model goes on with: drawn at temperature 0.8, with a fixed seed."""
    text = gato.vocabulary.text
    places = np.linspace(0, len(documents) - 1, min(EXAMPLES, len(documents))).astype(int).tolist()
    prompts, truths = [], []
    for place in places:
        ids = text.encode(documents[place].text)
        n = min(PIECES, len(ids) // 2, gato.config.context_length // 2)
        prompts.append(text.decode(ids[:n]))
        truths.append(text.decode(ids[n : n + PIECES]))
    written = generate(gato, prompts, max_tokens=PIECES, temperature=0.8, top_p=0.95)
    return [
        Answer(image=None, prompt=prompt, answer=answer, truth=truth, group=documents[place].group)
        for place, prompt, answer, truth in zip(places, prompts, written, truths, strict=True)
    ]


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
