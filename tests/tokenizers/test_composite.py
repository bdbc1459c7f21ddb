from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance

from gato_lite.config import TokenSpec
from gato_lite.sequence import Tokens
from gato_lite.spaces import FreeText
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary


def discrete(vocabulary: Vocabulary, *values: int) -> list[int]:
    return [vocabulary.discrete_ids[value] for value in values]


def test_a_sequence_is_a_count_and_its_elements(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Sequence(spaces.Discrete(5)), vocabulary)
    assert tokenizer.encode((4, 0, 2)).ids.tolist() == discrete(vocabulary, 3, 4, 0, 2)
    assert tokenizer.encode(()).ids.tolist() == discrete(vocabulary, 0)
    assert tokenizer.decode(tokenizer.encode(())) == ()
    assert [leaf.path for leaf in tokenizer.leaves] == [""]


@pytest.mark.parametrize("length", [1022, 1023, 1024, 2046, 5000])
def test_long_sequences(vocabulary: Vocabulary, length: int) -> None:
    tokenizer = SpaceTokenizer(spaces.Sequence(spaces.Discrete(5)), vocabulary)
    value = tuple(np.random.default_rng(0).integers(5, size=length))
    tokens = tokenizer.encode(value)
    assert len(tokens) == length + 1 + length // 1023
    assert tokenizer.decode(tokens) == value


def test_an_action_sequence_fits_one_count(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Sequence(spaces.Discrete(5)), vocabulary, action=True)
    assert len(tokenizer.legal([])) == 1023
    assert len(tokenizer.encode((1,) * 1022)) == 1023
    with pytest.raises(ValueError, match="^the value: expected at most 1022 values in an action, got 1023$"):
        tokenizer.encode((1,) * 1023)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_stacked_sequence(vocabulary: Vocabulary, length: int) -> None:
    element = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3), c=FreeText())
    space = spaces.Sequence(element, stack=True)
    value = {"a": np.full((length, 2), 0.5, np.float32), "b": np.arange(length), "c": ("x y",) * length}
    tokenizer = SpaceTokenizer(space, vocabulary)
    decoded = tokenizer.decode(tokenizer.encode(value))
    np.testing.assert_allclose(decoded["a"], value["a"])
    assert decoded["b"].tolist() == value["b"].tolist()
    assert decoded["c"] == value["c"]
    assert space.contains(decoded)


@pytest.mark.parametrize(
    "value, message",
    [
        (3, "expected a mapping of batches of Dict.*, got 3"),
        ({"a": np.zeros(2, int)}, "expected a mapping of batches of Dict.*, got {'a': "),
        ({"a": np.zeros(2, int), "b": 7}, "expected a batch of values of Discrete.3., got 7"),
        (
            {"a": np.zeros(2, int), "b": np.zeros(3, int)},
            r"expected batches of one length, got \[2, 3\] for \['a', 'b'\]",
        ),
    ],
)
def test_batches_of_another_form(vocabulary: Vocabulary, value: Any, message: str) -> None:
    space = spaces.Sequence(spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(3)), stack=True)
    with pytest.raises(ValueError, match=f"^the value: {message}"):
        SpaceTokenizer(space, vocabulary).encode(value)


def test_empty_texts_in_a_sequence(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Sequence(FreeText()), vocabulary)
    value = ("", "the ball", "", "")
    assert tokenizer.decode(tokenizer.encode(value)) == value


def test_a_choice(vocabulary: Vocabulary) -> None:
    space = spaces.OneOf([spaces.Discrete(3), spaces.MultiDiscrete([2, 2])])
    tokenizer = SpaceTokenizer(space, vocabulary, action=True)
    columns = tokenizer.stack([(0, 2), (1, np.array([1, 0])), (np.int64(0), 1)])
    tokens, lengths, _ = tokenizer.encode_many(columns)
    assert lengths.tolist() == [2, 3, 2]
    assert tokens.ids.tolist() == discrete(vocabulary, 0, 2, 1, 1, 0, 0, 1)
    assert tokenizer.legal([]).tolist() == discrete(vocabulary, 0, 1)
    assert tokenizer.legal(discrete(vocabulary, 1, 1)).tolist() == discrete(vocabulary, 0, 1)
    assert len(tokenizer.legal(discrete(vocabulary, 0, 1))) == 0
    same = SpaceTokenizer(spaces.OneOf([spaces.Discrete(3), spaces.Discrete(9)]), vocabulary)
    assert same.n_tokens == 2


GRAPH = spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(4))


@pytest.mark.parametrize(
    "nodes, edges, links",
    [
        (3, None, None),
        (1, [], np.zeros((0, 2), np.int32)),
        (3, [3, 0], [[0, 2], [1, 1]]),
        (0, None, None),
        (0, [], np.zeros((0, 2), np.int32)),
        (1500, [1, 2], [[0, 1499], [1024, 1023]]),
    ],
)
def test_graphs(vocabulary: Vocabulary, nodes: int, edges: Any, links: Any) -> None:
    graph = GraphInstance(
        nodes=np.full((nodes, 2), 0.25, np.float32),
        edges=None if edges is None else np.array(edges, np.int64),
        edge_links=None if links is None else np.array(links, np.int32),
    )
    tokenizer = SpaceTokenizer(GRAPH, vocabulary)
    decoded = tokenizer.decode(tokenizer.encode(graph))
    for name in ("nodes", "edges", "edge_links"):
        a, b = getattr(graph, name), getattr(decoded, name)
        assert (a is None and b is None) or (np.array_equal(a, b) and a.dtype == b.dtype)
    assert GRAPH.contains(decoded)


def test_graphs_of_different_sizes_at_once(vocabulary: Vocabulary) -> None:
    GRAPH.seed(0)
    graphs = [GRAPH.sample(num_nodes=n, num_edges=e) for n, e in ((1, 0), (1100, 3), (2, 5))]
    tokenizer = SpaceTokenizer(GRAPH, vocabulary)
    tokens, lengths, _ = tokenizer.encode_many({"": graphs})
    ends = np.cumsum(lengths)
    for graph, start, stop in zip(graphs, ends - lengths, ends, strict=True):
        assert np.array_equal(tokens.ids[start:stop], tokenizer.encode(graph).ids)


def test_what_is_inside_has_a_path(vocabulary: Vocabulary) -> None:
    space = spaces.Dict(
        g=GRAPH,
        o=spaces.OneOf([spaces.Box(-1, 1, (2,)), spaces.Discrete(2)]),
        s=spaces.Sequence(spaces.Box(-1, 1, (2,))),
    )
    spec = TokenSpec(kinds=(("s/*", "bins"), ("g/nodes", "bins"), ("o/0", "bins")))
    tokenizer = SpaceTokenizer(space, vocabulary, spec=spec)
    assert vocabulary.chunk not in tokenizer.encode(space.sample()).ids
    with pytest.raises(ValueError, match=r"^Unknown leaf in TokenSpec.kinds 's/\+'. .*s/\*"):
        SpaceTokenizer(space, vocabulary, spec=TokenSpec(kinds=(("s/+", "bins"),)))
    with pytest.raises(ValueError, match="^leaf 's': expected no kind for Sequence.*, got 'bins'$"):
        SpaceTokenizer(space, vocabulary, spec=TokenSpec(kinds=(("s", "bins"),)))


NODES = np.zeros((2, 2), np.float32)
EDGES = np.zeros(1, np.int64)
REFUSED: list[tuple[spaces.Space[Any], Any, str]] = [
    (spaces.Sequence(spaces.Discrete(2)), 3, "the value: expected a tuple of values, got int 3"),
    (spaces.Sequence(spaces.Discrete(2)), "01", "the value: expected a tuple of values, got str '01'"),
    (spaces.Sequence(spaces.Discrete(2)), (0, 2), "leaf '*': expected a value in 0..1, got 2 in value 1"),
    (spaces.OneOf([spaces.Discrete(2)]), 1, "the value: expected a pair (choice, value), got 1"),
    (spaces.OneOf([spaces.Discrete(2)]), (1, 1), "the value: expected a choice in 0..0, got 1"),
    (GRAPH, 5, "the value: expected a GraphInstance with nodes, got int 5"),
    (
        GRAPH,
        GraphInstance(NODES, EDGES, np.array([[0, 2]])),
        "the value: expected edge_links in 0..1, got 2",
    ),
    (
        GRAPH,
        GraphInstance(NODES, EDGES, np.zeros((2, 2), int)),
        "the value: expected edge_links of shape (1, 2) and of integers, got int64 (2, 2)",
    ),
    (
        spaces.Graph(spaces.Box(-1, 1, (2,)), None),
        GraphInstance(NODES, EDGES, np.zeros((1, 2), int)),
        "the value: expected no edges, as its space has none, got array([0])",
    ),
]


@pytest.mark.parametrize("space, value, message", REFUSED)
def test_what_is_refused(vocabulary: Vocabulary, space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SpaceTokenizer(space, vocabulary).encode(value)
    assert str(caught.value) == message


def test_links_beyond_the_nodes_are_refused(vocabulary: Vocabulary) -> None:
    space = spaces.Graph(spaces.Discrete(2), spaces.Discrete(2))
    ids = np.array(discrete(vocabulary, 1, 2, 0, 0, 0, 1), np.int32)
    with pytest.raises(ValueError, match=r"^the value: expected edge_links in 0\.\.0, got 1$"):
        SpaceTokenizer(space, vocabulary).decode(Tokens(ids=ids, local=np.zeros(6, np.int16)))
