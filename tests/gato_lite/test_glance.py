"""A grid looked at with what was last said: which words reach which grid, and that a rule holds for every place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gato_lite.config import GatoConfig
from gato_lite.exchange import picture_tokens
from gato_lite.model import Gato
from gato_lite.sequence import Tokens, concatenate, plain

Make = Callable[..., Gato]


def grid(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)


def embedded(gato: Gato, runs: list[Tokens], lengths: list[int]) -> torch.Tensor:
    """(P, D) embeddings of the grids."""
    tokens = concatenate(runs)
    made = gato.token_tensors(tokens, gato.last_words(tokens.ids, lengths))
    with torch.inference_mode():
        x: torch.Tensor = gato.embedding(made)
    return x[torch.from_numpy(tokens.ids == gato.vocabulary.patch)]


def test_only_the_last_words_of_the_own_document_matter(make: Make) -> None:
    gato = make(n_grid_head=3)
    picture = picture_tokens(grid(0), gato.vocabulary)

    def found(first: list[int], second: list[int]) -> torch.Tensor:
        runs = [plain(first), picture, plain(second), picture]
        return embedded(gato, runs, [len(first) + 1, len(second) + 1])

    before, other = found([1, 2], [3, 4, 5]), found([1, 2], [3, 4, 6])
    assert torch.equal(before[0], other[0])
    assert not torch.allclose(before[1], other[1], atol=1e-3)
    silent = embedded(gato, [plain([1, 2]), picture, picture], [3, 1])
    assert torch.allclose(silent[0], before[0], rtol=1e-4, atol=1e-4)  # products of another shape round otherwise
    assert torch.allclose(silent[1], embedded(gato, [picture], [1])[0], rtol=1e-4, atol=1e-4)


def test_the_order_of_the_words_matters(make: Make) -> None:
    gato = make(n_grid_head=3)
    picture = picture_tokens(grid(0), gato.vocabulary)
    there, back = (embedded(gato, [plain(words), picture], [4])[0] for words in ([1, 2, 3], [3, 2, 1]))
    assert not torch.allclose(there, back, atol=1e-3)


def test_a_fresh_glance_finds_nothing() -> None:
    shape = {"n_layer": 1, "n_head": 2, "d_model": 32, "d_ff": 64}
    gato = Gato(GatoConfig(**shape, n_grid_head=2))  # type: ignore[arg-type]
    assert gato.embedding.glance is not None
    picture = picture_tokens(grid(1), gato.vocabulary)
    with_words = embedded(gato, [plain([1, 2]), picture], [3])
    assert torch.equal(with_words, embedded(gato, [picture], [1]))


def test_large_pictures_are_not_glanced_at(make: Make) -> None:
    gato = make(n_grid_head=2)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = picture_tokens(pixels, gato.vocabulary)
    assert torch.equal(embedded(gato, [plain([1, 2]), picture], [3]), embedded(gato, [plain([4]), picture], [2]))


def test_grids_of_several_sizes_and_channels(make: Make) -> None:
    gato = make(n_grid_head=2)
    rng = np.random.default_rng(0)
    shapes = [(1, 1, 1), (8, 8, 4), (3, 7, 3), (1, 1, 1)]
    runs = [picture_tokens(rng.integers(0, 256, shape, dtype=np.uint8), gato.vocabulary) for shape in shapes]
    together = embedded(gato, [plain([7]), *runs], [1 + len(runs)])
    alone = torch.cat([embedded(gato, [plain([7]), run], [2]) for run in runs])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_every_weight_learns(make: Make) -> None:
    gato = make(n_grid_head=2)
    picture = picture_tokens(grid(2), gato.vocabulary)
    tokens = concatenate([plain([1, 2]), picture])
    gato.embedding(gato.token_tensors(tokens)).square().sum().backward()
    assert gato.embedding.glance is not None
    for name, parameter in gato.embedding.glance.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    gato.zero_grad(set_to_none=True)
