"""Both ends of every range, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

F32 = np.finfo(np.float32).max


@pytest.mark.parametrize("action", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_whole_integer_types_round_trip(vocabulary: Vocabulary, dtype: type, action: bool) -> None:
    info = np.iinfo(dtype)
    space = spaces.Box(np.full(3, info.min, dtype), np.full(3, info.max, dtype), dtype=dtype)
    tokenizer = SpaceTokenizer(space, vocabulary, action=action)
    for value in (info.min, info.max, info.max // 2, info.min + 1):
        array = np.array([value, info.max, info.min], dtype)
        decoded = tokenizer.decode(tokenizer.encode(array))
        assert decoded.dtype == dtype
        assert np.array_equal(decoded, array)
    assert tokenizer.n_tokens == 3 * {1: 1, 2: 2, 4: 4, 8: 7}[np.dtype(dtype).itemsize]


@pytest.mark.parametrize(
    "space", [spaces.Discrete(5, start=-2), spaces.Discrete(2**62, start=-(2**61)), spaces.Discrete(1)]
)
def test_both_ends_of_a_discrete_space(vocabulary: Vocabulary, space: spaces.Discrete) -> None:
    tokenizer = SpaceTokenizer(space, vocabulary, action=True)
    for value in (int(space.start), int(space.start) + int(space.n) - 1):
        decoded = tokenizer.decode(tokenizer.encode(value))
        assert decoded == value
        assert isinstance(decoded, np.int64)
    with pytest.raises(ValueError, match=rf"^the value: expected a value in {space.start}\.\.\S+, got "):
        tokenizer.encode(int(space.start) - 1)


def test_booleans_and_multi_binary(vocabulary: Vocabulary) -> None:
    for space in (spaces.Box(np.zeros(2, bool), np.ones(2, bool), dtype=bool), spaces.MultiBinary(2)):
        tokenizer = SpaceTokenizer(space, vocabulary, action=True)
        decoded = tokenizer.decode(tokenizer.encode(np.array([True, False])))
        assert decoded.tolist() == [1, 0]
        assert space.contains(decoded)


def test_a_continuous_action_stays_in_its_bins_and_bounds(vocabulary: Vocabulary) -> None:
    space = spaces.Box(
        np.array([-1, 0, -np.inf, 5, -3e38], np.float32), np.array([1, 0.1, np.inf, 5, 3e38], np.float32)
    )
    tokenizer = SpaceTokenizer(space, vocabulary, action=True)
    high = tokenizer.encode(np.array([1, 0.1, 1e9, 5, 3e38], np.float32))
    low = tokenizer.encode(np.array([-1, 0, -np.inf, 5, -3e38], np.float32))
    first, last = vocabulary.bin_ids[0], vocabulary.bin_ids[-1]
    assert high.ids.tolist() == [last, last, last, first + 512, last]
    assert low.ids.tolist() == [first, first, first, first + 512, first]
    assert high.local.tolist() == [0] * 5
    decoded = tokenizer.decode(high)
    assert space.contains(decoded)
    assert decoded[0] == np.float32(1 - 1 / 1024)
    assert decoded[3] == 5
    assert tokenizer.legal_ranges == [(first, last + 1)] * 5


def test_a_float64_action_is_compared_in_the_spaces_precision(vocabulary: Vocabulary) -> None:
    space = spaces.Box(0.1, 0.7, (1,), np.float32)
    tokenizer = SpaceTokenizer(space, vocabulary, action=True)
    tokenizer.encode(np.array([0.1]))
    tokenizer.encode(np.array([0.7]))
    with pytest.raises(ValueError, match=r"^the value: expected a value in 0\.1\S*, got 0\.75$"):
        tokenizer.encode(np.array([0.75]))


def test_chunks_of_a_long_vector(vocabulary: Vocabulary) -> None:
    space = spaces.Box(-np.inf, np.inf, (33,), np.float64)
    tokenizer = SpaceTokenizer(space, vocabulary)
    value = np.linspace(-300, 300, 33)
    tokens = tokenizer.encode(value)
    assert tokens.ids.tolist() == [vocabulary.chunk] * 2
    assert tokens.chunks.shape == (2, 32)
    assert tokens.chunks.dtype == np.float32
    assert (tokens.chunks[1, 1:] == 0).all()
    np.testing.assert_allclose(tokenizer.decode(tokens), value, rtol=1e-5, atol=1e-8)


def test_infinite_observations(vocabulary: Vocabulary) -> None:
    space = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))
    tokens = SpaceTokenizer(space, vocabulary).encode(np.array([np.inf, -np.inf], np.float32))
    assert tokens.chunks[0, 0] == 1
    assert -10 < tokens.chunks[0, 1] < -9
    decoded = SpaceTokenizer(space, vocabulary).decode(tokens)
    assert decoded[0] == 1
    assert decoded[1] < -0.99 * F32


def test_an_observation_beyond_its_bounds_is_kept(vocabulary: Vocabulary) -> None:
    tokens = SpaceTokenizer(spaces.Box(-1, 1, (1,)), vocabulary).encode(np.array([1.5], np.float32))
    assert tokens.chunks[0, 0] == 1.5


def test_the_papers_bins_for_an_observation(vocabulary: Vocabulary) -> None:
    spec = TokenSpec(kinds=(("", "bins"),))
    tokenizer = SpaceTokenizer(spaces.Box(-300, 300, (3,)), vocabulary, spec=spec)
    tokens = tokenizer.encode(np.array([0, 256, -300], np.float32))
    assert (tokens.ids - vocabulary.bin_ids[0]).tolist() == [512, 1023, 0]
    assert len(tokens.chunks) == 0


@pytest.mark.parametrize("action", [False, True])
def test_nan_is_refused_by_name(vocabulary: Vocabulary, action: bool) -> None:
    tokenizer = SpaceTokenizer(spaces.Dict(speed=spaces.Box(-1, 1, (2,))), vocabulary, action=action)
    with pytest.raises(ValueError, match="^leaf 'speed': expected a number, got nan at scalar 1$"):
        tokenizer.encode({"speed": np.array([0, np.nan], np.float32)})
    with pytest.raises(ValueError, match="^leaf 'speed': expected a number, got nan at scalar 0 in value 1$"):
        tokenizer.encode_many({"speed": np.array([[0, 0], [np.nan, 1]], np.float32)})


REFUSED: list[tuple[spaces.Space[Any], Any, str]] = [
    (spaces.Box(-1, 1, (2,)), np.zeros(3), "the value: expected shape (2,), got (3,)"),
    (spaces.Box(-1, 1, (2,)), np.array(["a", "b"]), "the value: expected numbers, got dtype <U1"),
    (spaces.Box(0, 9, (2,), np.int32), np.array([1.0, 2.0]), "the value: expected integers, got dtype float64"),
    (spaces.Box(0, 9, (2,), np.int32), np.array([1, 10]), "the value: expected a value in 0..9, got 10 at scalar 1"),
    (spaces.Discrete(4), 4, "the value: expected a value in 0..3, got 4"),
    (spaces.Discrete(4), 1.0, "the value: expected integers, got dtype float64"),
    (spaces.Discrete(4), None, "the value: expected integers, got dtype object"),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "the value: expected a value in 0..2, got 3 at scalar 1"),
    (
        spaces.Box(0, 255, (2, 2), np.uint8),
        np.full((2, 2), 256),
        "the value: expected a value in 0..255, got 256 at scalar 0",
    ),
    (spaces.Text(5), 3, "the value: expected a string, got int 3"),
]


@pytest.mark.parametrize("space, value, message", REFUSED)
def test_what_is_refused(vocabulary: Vocabulary, space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SpaceTokenizer(space, vocabulary).encode(value)
    assert str(caught.value) == message


def test_images_become_patches(vocabulary: Vocabulary) -> None:
    space = spaces.Box(0, 255, (20, 33, 3), np.uint8)
    tokenizer = SpaceTokenizer(space, vocabulary)
    image = np.random.default_rng(0).integers(256, size=(20, 33, 3), dtype=np.uint8)
    tokens = tokenizer.encode(image)
    assert tokens.ids.tolist() == [vocabulary.patch] * 6
    assert tokens.local.tolist() == [1, 2, 3, 4, 5, 6]
    assert tokens.patch_shapes[5].tolist() == [4, 1, 3]
    decoded = tokenizer.decode(tokens)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, image)
    small = SpaceTokenizer(space, vocabulary, spec=TokenSpec(patch_size=8))
    assert small.n_tokens == 15


def test_a_symbolic_grid_is_scaled_to_full_range_and_back(vocabulary: Vocabulary) -> None:
    space = spaces.Box(0, 255, (7, 7, 3), np.uint8)
    tokenizer = SpaceTokenizer(space, vocabulary, spec=TokenSpec(pixel_high=(10, 5, 3)))
    grid = np.random.default_rng(0).integers([11, 6, 4], size=(7, 7, 3)).astype(np.uint8)
    grid[0, 0] = (10, 5, 3)
    tokens = tokenizer.encode(grid)
    assert tokens.ids.tolist() == [vocabulary.patch]
    assert tokens.pixels[:3].tolist() == [255, 255, 255]
    assert np.array_equal(tokenizer.decode(tokens), grid)
    grid[3, 3, 1] = 6
    with pytest.raises(ValueError, match=r"^the value: expected a value in 0\.\.5, got 6 at scalar 73$"):
        tokenizer.encode(grid)


@pytest.mark.parametrize("high", range(1, 256))
def test_scaling_is_exact_for_every_range(vocabulary: Vocabulary, high: int) -> None:
    values = np.resize(np.arange(high + 1, dtype=np.uint8), (16, 16))
    tokenizer = SpaceTokenizer(spaces.Box(0, 255, (16, 16), np.uint8), vocabulary, spec=TokenSpec(pixel_high=(high,)))
    assert np.array_equal(tokenizer.decode(tokenizer.encode(values)), values)


def test_channels_of_a_scaled_image_must_fit(vocabulary: Vocabulary) -> None:
    with pytest.raises(
        ValueError, match=r"^the value: expected pixel_high with 3 channels as in \(7, 7, 3\), got \(4,\)$"
    ):
        SpaceTokenizer(spaces.Box(0, 255, (7, 7, 3), np.uint8), vocabulary, spec=TokenSpec(pixel_high=(4,)))


def test_bytes_as_chunks_are_exact(vocabulary: Vocabulary) -> None:
    space = spaces.Box(0, 255, (128,), np.uint8)
    tokenizer = SpaceTokenizer(space, vocabulary, spec=TokenSpec(kinds=(("", "chunks"),)))
    value = np.random.default_rng(0).integers(256, size=128, dtype=np.uint8)
    tokens = tokenizer.encode(value)
    assert len(tokens) == 4
    assert np.array_equal(tokenizer.decode(tokens), value)


def test_wide_integers_cannot_be_chunks(vocabulary: Vocabulary) -> None:
    space = spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max - 1, (2,), np.int64)
    with pytest.raises(ValueError, match=r"within ±2\*\*53 for chunks or bins, got bounds .*; use the kind 'integer'$"):
        SpaceTokenizer(space, vocabulary, spec=TokenSpec(kinds=(("", "chunks"),)))
