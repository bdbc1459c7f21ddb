"""A model of a few thousand weights, all of them drawn: fresh blocks are the identity and would hide a mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gato_lite.attention import attend
from gato_lite.config import GatoConfig
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.sequence import Tokens
from gato_lite.tokenizers.vocabulary import Vocabulary


def make_gato(context_length: int = 256, seed: int = 0, **changes: object) -> Gato:
    shape = {"n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 64, "d_encoder": 16, "n_grid_head": 2, "n_text_local": 5}
    shape |= {"context_length": context_length, "token_shift": True, "head_norm": True}
    gato = Gato(GatoConfig(**{**shape, **changes}))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in gato.named_parameters():
            scale = 0.5 if "embedding" in name and parameter.ndim == 2 else parameter.shape[-1] ** -0.5
            parameter.normal_(0.0, scale, generator=generator)
            if "norm" in name:
                parameter.add_(1.0)
    return gato.eval()


@pytest.fixture(scope="session")
def make() -> Callable[..., Gato]:
    """Makes such a model; its arguments are `context_length`, `seed` and fields of its configuration."""
    return make_gato


@pytest.fixture(scope="session")
def gato() -> Gato:
    """One for tests that do not change it."""
    return make_gato()


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary.shipped()


@pytest.fixture(scope="session")
def uncached() -> Callable[[Gato, Tokens], torch.Tensor]:
    """Hidden state after the last of some tokens, by one forward over all of them with the reference attention."""

    @torch.inference_mode()
    def last_hidden(gato: Gato, tokens: Tokens) -> torch.Tensor:
        offsets = np.array([0, len(tokens)])
        positions = torch.arange(len(tokens))
        hidden = gato.hidden(
            gato.token_tensors(tokens), positions, lambda _layer, q, k, v: attend(q, k, v, offsets, "dense")
        )
        return hidden[-1]

    return last_hidden


@pytest.fixture(scope="session")
def count_reads() -> Callable[[Policy], list[int]]:
    """Makes a list that fills with the number of tokens of each read of a policy, negative of whole documents."""

    def counting(policy: Policy) -> list[int]:
        reads: list[int] = []
        read, whole = policy._decoder.read, policy._decoder.read_documents

        def counted(rows: Any, tokens: Any, *more: Any) -> torch.Tensor:
            reads.append(len(tokens))
            return read(rows, tokens, *more)

        def counted_whole(rows: Any, documents: Any) -> torch.Tensor:
            reads.append(-sum(map(len, documents)))
            return whole(rows, documents)

        policy._decoder.read = counted  # type: ignore[method-assign]
        policy._decoder.read_documents = counted_whole  # type: ignore[method-assign]
        return reads

    return counting
