from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.sequence import (
    ACTION_LOCAL,
    TEXT_PLACES,
    Document,
    Tokens,
    answer_tokens,
    concatenate,
    lay_out,
    offsets_of,
    patch_places,
    place_numbers,
    plain,
    prompt_tokens,
    ranges,
    select,
    split,
    within_rows,
)
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

MIXED = spaces.Dict(
    image=spaces.Box(0, 255, (20, 18, 3), np.uint8),
    goal=spaces.Box(-1, 1, (40,)),
    door=spaces.Discrete(4),
    grid=spaces.Box(0, 255, (5, 4), np.uint8),
)


def mixed(vocabulary: Vocabulary, n: int) -> list[Tokens]:
    MIXED.seed(n)
    tokenizer = SpaceTokenizer(MIXED, vocabulary)
    return [tokenizer.encode(MIXED.sample()) for _ in range(n)]


def assert_same(a: Tokens, b: Tokens) -> None:
    for name in ("ids", "local", "pixels", "patch_shapes", "patch_intervals", "chunks"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def document(length: int, task: int = 0) -> Document:
    ids = np.arange(length, dtype=np.int32) + 100 * task
    return Document(tokens=plain(ids), target=np.arange(length) > 0, labels=ids)


def test_plain_tokens_have_no_place() -> None:
    tokens = plain([3, 1])
    assert tokens.ids.dtype == np.int32
    assert tokens.local.tolist() == [ACTION_LOCAL, ACTION_LOCAL]
    assert len(tokens) == 2
    assert len(plain([])) == 0


def test_places_are_counted_from_one() -> None:
    ids = np.zeros(TEXT_PLACES + 1, np.int32)
    runs = [plain([5]), prompt_tokens(ids), answer_tokens(ids[:2], 7), answer_tokens(ids[:2], TEXT_PLACES - 1)]
    tokens = concatenate(runs)
    places = [0, *range(1, TEXT_PLACES + 1), TEXT_PLACES, 8, 9, TEXT_PLACES, TEXT_PLACES]
    assert tokens.local.dtype == np.int16
    assert place_numbers(tokens.local).tolist() == places
    assert place_numbers(np.array([1, 32_767], np.int16)).tolist() == [1, 32_767]


def test_concatenate_nothing() -> None:
    empty = concatenate([])
    assert len(empty) == 0
    assert empty.chunks.shape == (0, 32)


def test_split_undoes_concatenate(vocabulary: Vocabulary) -> None:
    runs = mixed(vocabulary, 4)
    runs.insert(2, plain([]))
    whole = concatenate(runs)
    lengths = np.array([len(run) for run in runs])
    for a, b in zip(split(whole, lengths, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk), runs, strict=True):
        assert_same(a, b)


@given(st.lists(st.booleans(), min_size=10, max_size=10))
def test_select_keeps_the_content_of_what_it_keeps(keep: list[bool]) -> None:
    """Ten tokens: 4 patches of the image, 1 of the grid, 1 integer, 2 chunks, and 2 actions."""
    vocabulary = Vocabulary.shipped()
    tokens = concatenate([mixed(vocabulary, 1)[0], plain([vocabulary.bin_ids[0], vocabulary.bin_ids[1]])])
    assert len(tokens) == 10
    flags = np.array(keep)
    ids = {"patch_id": vocabulary.patch, "chunk_id": vocabulary.chunk}
    singles = split(tokens, np.ones(10, np.int64), **ids)
    assert_same(
        select(tokens, flags, **ids),
        concatenate([plain([]), *(single for single, kept in zip(singles, flags, strict=True) if kept)]),
    )


def test_a_stream_is_sorted_by_length_and_keeps_its_documents_whole() -> None:
    stream = lay_out([document(5, 0), document(2, 1), document(9, 2), document(2, 3)], range(4))
    assert stream.lengths.tolist() == [2, 2, 5, 9]
    assert stream.offsets.tolist() == [0, 2, 4, 9, 18]
    assert stream.tasks.tolist() == [1, 3, 0, 2]
    assert stream.tokens.ids[4:9].tolist() == [0, 1, 2, 3, 4]
    assert stream.labels[9:].tolist() == list(range(200, 209))
    assert stream.target.sum() == 18 - 4


def test_sources_that_are_not_one_for_each_document() -> None:
    with pytest.raises(ValueError, match="expected a source for each of 2 documents, got 3"):
        lay_out([document(5), document(2)], [0, 1, 2])


def test_an_empty_stream() -> None:
    stream = lay_out([])
    assert stream.offsets.tolist() == [0]
    assert len(stream.tokens) == 0


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_stream_holds_every_token_once(lengths: list[int]) -> None:
    stream = lay_out([document(length, task) for task, length in enumerate(lengths)], range(len(lengths)))
    assert stream.lengths.tolist() == sorted(lengths)
    for start, stop, task in zip(stream.offsets[:-1], stream.offsets[1:], stream.tasks, strict=True):
        assert stream.tokens.ids[start:stop].tolist() == [100 * task + place for place in range(lengths[task])]


def test_patch_places_of_the_paper() -> None:
    """Appendix C.3: rows 0 to 16 of 80 are places 0 to 25 of 128, columns 16 to 32 of 64 are places 32 to 63."""
    intervals = np.array([[0.0, 16 / 80, 16 / 64, 32 / 64]], np.float32)
    assert patch_places(intervals, None).tolist() == [[12, 47]]
    drawn = np.concatenate([patch_places(intervals, np.random.default_rng(seed)) for seed in range(600)])
    assert (drawn.min(0) == [0, 32]).all()
    assert (drawn.max(0) == [25, 63]).all()


def test_patch_places_at_both_ends() -> None:
    intervals = np.array([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.999, 1.0]], np.float32)
    for seed in range(50):
        places = patch_places(intervals, np.random.default_rng(seed))
        assert places.shape == (2, 2)
        assert places.min() >= 0
        assert places.max() < 128
    assert patch_places(np.zeros((0, 4), np.float32), None).shape == (0, 2)


@pytest.mark.parametrize("n", [1, 3])
def test_places_are_drawn_the_same_for_the_same_seed(n: int) -> None:
    intervals = np.tile(np.array([[0.0, 1.0, 0.0, 1.0]], np.float32), (n, 1))
    a, b = (patch_places(intervals, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(a, b)


def test_ranges_end_to_end() -> None:
    assert ranges(np.array([3, 7, 0]), np.array([5, 7, 3])).tolist() == [3, 4, 0, 1, 2]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_places_within_rows() -> None:
    assert within_rows(np.array([2, 0, 3, 1])).tolist() == [0, 1, 0, 1, 2, 0]
    assert within_rows(np.zeros(0, np.int64)).tolist() == []


def test_offsets() -> None:
    assert offsets_of([2, 0, 3]).tolist() == [0, 2, 2, 5]
    assert offsets_of(np.array([True, False, True])).tolist() == [0, 1, 1, 2]
    assert offsets_of([]).dtype == offsets_of(np.zeros(3, np.int32)).dtype == np.int64
