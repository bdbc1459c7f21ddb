from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from gato_lite.config import PatchEncoder
from gato_lite.embedding import Embedding, TokenTensors, to_tensors
from gato_lite.exchange import picture_tokens
from gato_lite.model import Gato
from gato_lite.patches import scale_pixels
from gato_lite.sequence import TEXT_PLACES, Tokens, concatenate, plain

ENCODERS = get_args(PatchEncoder)
PLACES = [(-1, -TEXT_PLACES), (-1 - TEXT_PLACES, -2 * TEXT_PLACES)]
"""First and last local index of prompts and of answers."""


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def tensors(gato: Gato, tokens: Tokens, seed: int | None = None) -> TokenTensors:
    generator = None if seed is None else np.random.default_rng(seed)
    vocabulary = gato.vocabulary
    words = gato.last_words(tokens.ids, [len(tokens)])
    return to_tensors(tokens, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk, words=words, generator=generator)


def test_pixels_from_minus_one_to_one() -> None:
    pixels = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    assert scale_pixels(pixels).flatten().tolist() == [-1.0, 1.0]
    assert scale_pixels(pixels).dtype == torch.float32
    assert pixels.flatten().tolist() == [0, 255]


def test_patches_are_grouped_by_shape_and_keep_their_places(gato: Gato) -> None:
    pictures = [picture(20, 20, seed=1), picture(7, 7, 1, seed=2), picture(20, 20, seed=3)]
    runs = [picture_tokens(pixels, gato.vocabulary) for pixels in pictures]
    made = tensors(gato, concatenate([plain([5]), runs[0], plain([6, 7]), runs[1], runs[2]]))
    assert made.ids.dtype == torch.int64
    rows = {tuple(group.pixels.shape): group.rows.tolist() for group in made.patch_groups}
    assert rows == {
        (1, 7, 7, 1): [7],
        (2, 16, 16, 3): [1, 8],
        (2, 16, 4, 3): [2, 9],
        (2, 4, 16, 3): [3, 10],
        (2, 4, 4, 3): [4, 11],
    }
    for group in made.patch_groups:
        if group.pixels.shape[1:] == (16, 4, 3):
            assert np.array_equal(group.pixels[1].numpy(), pictures[2][:16, 16:])


def test_chunks_find_their_tokens(gato: Gato) -> None:
    tokens = Tokens(
        ids=np.array([3, gato.vocabulary.chunk, gato.vocabulary.chunk], np.int32),
        local=np.array([1, 2, 3], np.int16),
        chunks=np.arange(64, dtype=np.float32).reshape(2, 32),
    )
    made = tensors(gato, tokens)
    assert made.chunk_rows.tolist() == [1, 2]
    moved = replace(tokens, chunks=tokens.chunks + np.array([[0.0], [1.0]], np.float32))
    before, after = gato.embedding(made), gato.embedding(tensors(gato, moved))
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2])


def test_places_in_observations_prompts_and_answers_have_rows_of_their_own(make: Callable[..., Gato]) -> None:
    """The last place of each is shared by those beyond; without places of texts theirs is that of actions."""
    embedding = make(n_local=4, n_text_local=3).embedding
    observed = torch.tensor([0, 1, 2, 3, 4, 99])
    prompt, answer = (torch.tensor([start, start - 1, start - 2, start - 3, last]) for start, last in PLACES)
    assert len(embedding.locals.weight) == 4 + 2 * 3
    assert embedding._local_rows(observed).tolist() == [0, 1, 2, 3, 3, 3]
    assert embedding._local_rows(prompt).tolist() == [4, 5, 6, 6, 6]
    assert embedding._local_rows(answer).tolist() == [7, 8, 9, 9, 9]
    without = make(n_local=4, n_text_local=0).embedding
    assert len(without.locals.weight) == 4
    assert without._local_rows(observed).tolist() == [0, 1, 2, 3, 3, 3]
    assert without._local_rows(torch.cat([prompt, answer])).tolist() == [0] * 10


def test_read_only_arrays_are_taken(gato: Gato) -> None:
    """Columns that come from a file are read-only, and PyTorch warns of those."""
    tokens = picture_tokens(picture(16, 16), gato.vocabulary)
    ids, chunks = np.array([gato.vocabulary.chunk], np.int32), np.ones((1, 32), np.float32)
    for run in (tokens, Tokens(ids=ids, local=np.ones(1, np.int16), chunks=chunks)):
        for field in ("ids", "local", "pixels", "patch_shapes", "patch_intervals", "chunks"):
            getattr(run, field).flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            vectors = gato.embedding(tensors(gato, run))
        assert vectors.shape == (len(run), gato.config.d_model)
        assert torch.isfinite(vectors).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_small_patch_is_one_padded_with_mid_grey(make: Callable[..., Gato], encoder: str) -> None:
    """Mid-grey lies between 127 and 128, so that patches of both bound what the smaller one becomes."""
    embedding = Embedding(make(patch_encoder=encoder, grid_size=0).config)
    embedding.initialise(torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(picture(9, 5, 2))[None]
    small = embedding.patches(pixels)
    sides = []
    for grey in (127, 128):
        full = torch.full((1, 16, 16, 4), grey, dtype=torch.uint8)
        full[:, :9, :5, :2] = pixels
        sides.append(embedding.patches(full))
    torch.testing.assert_close(small, (sides[0] + sides[1]) / 2, atol=2e-3, rtol=0.0)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("shape", [(16, 16, 3), (7, 7, 3), (1, 1, 1), (2, 16, 4)])
def test_patches_of_any_shape_have_gradients(make: Callable[..., Gato], encoder: str, shape: tuple[int, ...]) -> None:
    gato = make(patch_encoder=encoder)
    embedded = gato.embedding(tensors(gato, picture_tokens(picture(*shape), gato.vocabulary)))
    assert embedded.shape == (1, 32)
    embedded.square().sum().backward()
    module = gato.embedding.grids if max(shape[:2]) <= 8 else gato.embedding.patches
    assert module is not None
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    gato.zero_grad()


def test_symbolic_grids_have_an_encoder_of_their_own(make: Callable[..., Gato]) -> None:
    gato = make(patch_encoder="resnet", grid_size=8)
    tokens = tensors(gato, picture_tokens(picture(7, 7), gato.vocabulary))
    before = gato.embedding(tokens)
    with torch.no_grad():
        for parameter in gato.embedding.patches.parameters():
            parameter.zero_()
    assert torch.equal(gato.embedding(tokens), before)
    assert make(grid_size=0).embedding.grids is None


def test_where_a_patch_is_counts(gato: Gato) -> None:
    tokens = picture_tokens(np.zeros((16, 32, 3), np.uint8), gato.vocabulary)
    left, right = gato.embedding(tensors(gato, replace(tokens, local=np.ones(2, np.int16))))
    assert not torch.allclose(left, right)


def test_places_are_drawn_in_training_and_fixed_in_evaluation(gato: Gato) -> None:
    tokens = picture_tokens(picture(16, 16), gato.vocabulary)
    middle = tensors(gato, tokens).patch_groups[0].places.tolist()
    assert middle == [[63, 63]]
    drawn = {tuple(tensors(gato, tokens, seed).patch_groups[0].places[0].tolist()) for seed in range(20)}
    assert len(drawn) > 10
    assert all(0 <= place < 128 for pair in drawn for place in pair)


def test_late_places_share_the_last_local_index(make: Callable[..., Gato]) -> None:
    gato = make(n_local=4)
    ids = np.full(6, 9, np.int32)
    embedded = gato.embedding(tensors(gato, Tokens(ids=ids, local=np.array([0, 1, 2, 3, 4, 500], np.int16))))
    assert torch.equal(embedded[3], embedded[4])
    assert torch.equal(embedded[3], embedded[5])
    assert not torch.equal(embedded[2], embedded[3])


def test_a_patch_too_large_for_the_model(gato: Gato) -> None:
    tokens = picture_tokens(picture(17, 3), gato.vocabulary, patch_size=20)
    expected = "patches may be at most 16×16 pixels (GatoConfig.patch_size), got 17×3; lower TokenSpec.patch_size"
    with pytest.raises(ValueError, match=re.escape(expected)):
        gato.embedding(tensors(gato, tokens))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_fresh_encoders_have_the_scale_of_their_input(make: Callable[..., Gato], encoder: str) -> None:
    embedding = Embedding(make(patch_encoder=encoder, grid_size=0, d_encoder=64).config)
    embedding.initialise(torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(np.stack([picture(16, 16, seed=seed) for seed in range(20)]))
    assert 0.01 < float(embedding.patches(pixels).detach().std()) < 2.0
    assert float(embedding.tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
