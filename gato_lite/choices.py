"""How likely given answers are: for classes, and for questions whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64

from gato_lite.exchange import Exchange, fitted
from gato_lite.limits import prompt_within
from gato_lite.model import Gato, stream_tensors
from gato_lite.sequence import Document, lay_out

TOKENS: Final = 8192
"""Tokens of the documents that share a forward."""


@torch.inference_mode()
def log_likelihoods(
    gato: Gato, prompts: Sequence[Sequence[Exchange]], choices: Sequence[str]
) -> Float64[np.ndarray, "N C"]:
    """(N, C) log-probability in nats of each choice and the `end` after it as the answer to each prompt.

    Args:
        gato: the model.
        prompts: the turns of each, the last without an answer; pictures are fitted as `generate` fits them.
        choices: answers, none of them empty.

    Raises:
        ValueError: there is no choice, or one is empty, or a prompt with a choice is longer than the context.

    Example:
        >>> asked = [Exchange(image=picture, prompt="what color is the shape?")]  # doctest: +SKIP
        >>> red, blue = log_likelihoods(gato, [asked], ["red", "blue"])[0]  # doctest: +SKIP
    """
    if not choices or not all(choices):
        raise ValueError(f"choices must be one or more texts, got {list(choices)}")
    documents: list[Document] = []
    for given in prompts:
        turns = fitted(given, gato.pictures)
        n_asked = len(prompt_within(gato, turns))
        for choice in choices:
            tokens = prompt_within(gato, [*turns[:-1], replace(turns[-1], text=choice)])
            target = np.arange(len(tokens)) >= n_asked
            documents.append(Document(tokens=tokens, target=target, labels=tokens.ids))
    return -document_nats(gato, documents, TOKENS).reshape(len(prompts), len(choices))


def document_nats(gato: Gato, documents: Sequence[Document], tokens_per_batch: int) -> Float64[np.ndarray, " N"]:
    """(N,) nats that each document's targets cost, which all of them have; about `tokens_per_batch` share a forward."""
    nats = np.zeros(len(documents))
    batches = np.cumsum([len(document.tokens) for document in documents]) // tokens_per_batch
    for batch in np.unique(batches):
        some = np.flatnonzero(batches == batch).tolist()
        stream = stream_tensors(lay_out([documents[index] for index in some], some), gato.vocabulary, None)
        losses = gato.loss(stream if gato.device.type == "cpu" else stream.to(gato.device))
        for group, lost in losses.groups:
            np.add.at(nats, group.tasks.numpy(), lost.double().cpu().numpy())
    return nats
