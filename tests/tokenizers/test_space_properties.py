"""Properties over generated spaces, nested up to three levels, as observations and as actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_lite.sequence import Tokens
from gato_lite.tokenizers.continuous import Squash
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

INTEGERS = (np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64)


@st.composite
def float_boxes(
    draw: st.DrawFn, shapes: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (3,), (2, 3), (35,))
) -> spaces.Box:
    shape = draw(st.sampled_from(shapes))
    edges = st.sampled_from([-np.inf, -1e3, -1.0, 0.0, 0.5, 1.0, 250.0, np.inf])
    size = int(np.prod(shape))
    pairs = [sorted((draw(edges), draw(edges))) for _ in range(min(size, 3))] * max(size, 1)
    low, high = (np.array([pair[end] for pair in pairs[:size]], np.float64).reshape(shape) for end in (0, 1))
    # An infinite bound on the wrong side leaves no finite value.
    low, high = np.where(low == np.inf, 0, low), np.where(high == -np.inf, 0, high)
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype)


@st.composite
def integer_boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(st.sampled_from(INTEGERS))
    # Gymnasium's own sampling goes wrong near the ends of 64 bits; test_leaves.py has those.
    least, most = max(int(np.iinfo(dtype).min), -(2**62)), min(int(np.iinfo(dtype).max), 2**62)
    edges = st.integers(least, most)
    ends = sorted((draw(edges), draw(edges)))
    return spaces.Box(*(np.full(2, end, dtype) for end in ends), dtype=dtype)


IMAGES = st.builds(
    lambda h, w, c: spaces.Box(0, 255, (h, w, *c), np.uint8),
    st.integers(2, 20),
    st.integers(2, 20),
    st.sampled_from([(), (1,), (3,), (4,)]),
)
DISCRETE = st.builds(
    lambda n, start: spaces.Discrete(n, start=start),
    st.sampled_from([1, 2, 1024, 1025, 3_000_000]),
    st.sampled_from([0, -7, 10**12]),
)
MULTI = st.builds(spaces.MultiDiscrete, st.sampled_from([[3], [2, 5000], [[1, 2], [3, 4]]]))
BINARY = st.builds(spaces.MultiBinary, st.sampled_from([1, 4, (2, 3)]))
TEXT = st.builds(
    lambda least, more, charset: spaces.Text(least + more, min_length=least, charset=charset),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from(["abc the", "\u2581 x", "é\U0001f600\n", "0123456789", frozenset("qwe")]),
)
LEAVES = st.one_of(float_boxes(), integer_boxes(), DISCRETE, MULTI, BINARY, TEXT, IMAGES)
# Gymnasium warns when it takes a batch of shapeless floats apart.
ELEMENTS = st.one_of(float_boxes(((1,), (3,), (2, 3))), DISCRETE)
GRAPHS = st.builds(spaces.Graph, ELEMENTS, st.one_of(st.none(), ELEMENTS))
KEYS = st.lists(st.sampled_from(["a", "b", "a/b", "a.b", "", "~1", "é"]), min_size=0, max_size=3, unique=True)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        KEYS.flatmap(
            lambda keys: st.tuples(*[inner] * len(keys)).map(lambda p: spaces.Dict(dict(zip(keys, p, strict=True))))
        ),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.lists(inner, min_size=1, max_size=3).map(spaces.OneOf),
        inner.map(spaces.Sequence),
        GRAPHS,
    )


SPACES = st.one_of(
    LEAVES, nested(LEAVES), nested(nested(LEAVES)), ELEMENTS.map(lambda s: spaces.Sequence(s, stack=True))
)


def assert_same(space: spaces.Space[Any], value: Any, other: Any, *, role: str) -> None:
    """Exact for everything but floats, and those within half a bin (actions) or float32 (chunks) of squashed values."""
    match space:
        case spaces.Dict():
            for key, part in space.spaces.items():
                assert_same(part, value[key], other[key], role=role)
        case spaces.Tuple():
            for part, a, b in zip(space.spaces, value, other, strict=True):
                assert_same(part, a, b, role=role)
        case spaces.OneOf():
            assert value[0] == other[0]
            assert_same(space.spaces[value[0]], value[1], other[1], role=role)
        case spaces.Sequence():
            assert len(value) == len(other)
            for a, b in zip(value, other, strict=True):
                assert_same(space.feature_space, a, b, role=role)
        case spaces.Graph():
            for a, b in zip(value.nodes, other.nodes, strict=True):
                assert_same(space.node_space, a, b, role=role)
            assert (value.edges is None) == (other.edges is None)
            if value.edges is not None:
                assert np.array_equal(value.edge_links, other.edge_links)
                for a, b in zip(value.edges, other.edges, strict=True):
                    assert_same(space.edge_space, a, b, role=role)
        case spaces.Box() if space.dtype.kind == "f":
            squash = Squash(space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float))
            a, b = (squash.forward(np.asarray(v, np.float64).reshape(1, -1)) for v in (value, other))
            scale = np.finfo(space.dtype).eps * 8
            tolerance = scale + (1 / 1024 if role == "action" else 1e-6)
            assert np.abs(np.clip(a, -1, 1) - np.clip(b, -1, 1)).max(initial=0) <= tolerance
        case _:
            assert np.array_equal(value, other)
            assert np.asarray(value).dtype == np.asarray(other).dtype or isinstance(value, str)


@settings(max_examples=120)
@given(space=SPACES, seed=st.integers(0, 2**31), role=st.sampled_from(["observation", "action"]))
def test_values_round_trip(vocabulary: Vocabulary, space: spaces.Space[Any], seed: int, role: str) -> None:
    space.seed(seed)
    value = space.sample()
    tokenizer = SpaceTokenizer(space, vocabulary, action=role == "action")
    tokens = tokenizer.encode(value)
    other = tokenizer.decode(tokens)
    assert space.contains(other)
    assert_same(space, value, other, role=role)
    assert tokens.ids.min(initial=0) >= 0
    assert tokens.ids.max(initial=0) < len(vocabulary)
    assert len(tokens) == tokenizer.n_tokens or tokenizer.n_tokens is None
    expected = np.zeros(len(tokens)) if role == "action" else np.arange(1, len(tokens) + 1)
    assert np.array_equal(tokens.local, expected)


@settings(max_examples=60)
@given(space=SPACES, seed=st.integers(0, 2**31), role=st.sampled_from(["observation", "action"]))
def test_many_at_once_are_each_in_turn(vocabulary: Vocabulary, space: spaces.Space[Any], seed: int, role: str) -> None:
    space.seed(seed)
    values = [space.sample() for _ in range(4)]
    tokenizer = SpaceTokenizer(space, vocabulary, action=role == "action")
    tokens, lengths, repeats = tokenizer.encode_many(tokenizer.stack(values))
    singly = [tokenizer.encode(value) for value in values]
    if tokenizer.leaves:
        assert lengths.tolist() == [len(run) for run in singly]
    assert not repeats.any()
    for name in Tokens.__dataclass_fields__:
        joined = np.concatenate([getattr(run, name) for run in singly])
        assert np.array_equal(getattr(tokens, name), joined)
        assert getattr(tokens, name).dtype == joined.dtype


@settings(max_examples=80)
@given(space=SPACES, seed=st.integers(0, 2**31))
def test_whatever_is_legal_is_a_member(vocabulary: Vocabulary, space: spaces.Space[Any], seed: int) -> None:
    rng, tokenizer = np.random.default_rng(seed), SpaceTokenizer(space, vocabulary, action=True)
    counts = 1023  # as many ids as a count has: short ones keep this test short
    ids: list[int] = []
    while len(legal := tokenizer.legal(ids)):
        assert legal.dtype == np.int32
        if tokenizer.legal_ranges is not None:
            start, stop = tokenizer.legal_ranges[len(ids)]
            assert legal.tolist() == list(range(start, stop))
        options = legal[:3] if len(legal) == counts else legal
        ids.append(int(rng.choice([options[0], options[-1], rng.choice(options)])))
    assert tokenizer.n_tokens in (None, len(ids))
    tokens = Tokens(ids=np.array(ids, np.int32), local=np.zeros(len(ids), np.int16))
    value = tokenizer.decode(tokens)
    assert space.contains(value)


@settings(max_examples=40)
@given(space=SPACES, seed=st.integers(0, 2**31))
def test_demonstrations_are_legal(vocabulary: Vocabulary, space: spaces.Space[Any], seed: int) -> None:
    space.seed(seed)
    tokenizer = SpaceTokenizer(space, vocabulary, action=True)
    ids = tokenizer.encode(space.sample()).ids
    places = range(len(ids)) if len(ids) < 60 else [*range(50), len(ids) - 1]
    for place in places:
        assert ids[place] in tokenizer.legal(ids[:place])
    assert len(tokenizer.legal(ids)) == 0


@pytest.mark.parametrize("role", ["observation", "action"])
def test_a_space_without_leaves(vocabulary: Vocabulary, role: str) -> None:
    tokenizer = SpaceTokenizer(spaces.Dict({"a": spaces.Tuple([])}), vocabulary, action=role == "action")
    tokens = tokenizer.encode({"a": ()})
    assert len(tokens) == 0
    assert tokenizer.n_tokens == 0
    assert tokenizer.decode(tokens) == {"a": ()}
