"""Leaves whose size varies because they hold other values: Sequence, OneOf, Graph.

A count or a choice comes first, then the tokens of what it counts or chooses, each element its own leaves in token
order. A count of at most 1022 is one discrete token; the largest discrete value means "1023 more, and read on".

Differs from the paper: GATO has no values of varying size, because its tasks have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.sequence import within_rows
from gato_lite.tokenizers.batches import batched, unbatched
from gato_lite.tokenizers.group import Group
from gato_lite.tokenizers.leaf import Cursor, LegalIds, Values, name_of
from gato_lite.tokenizers.ragged import Block, interleave, plain, regroup, spread
from gato_lite.tokenizers.vocabulary import Vocabulary


class SequenceLeaf:
    """Any number of values of one space."""

    kind: Final = "sequence"
    n_tokens: Final = None

    def __init__(self, path: str, space: spaces.Sequence, element: Group, count: Count) -> None:
        self.path: Final = path
        self.space: Final = space
        self._element: Final = element
        self._count: Final = count

    def column(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def encode(self, column: Values) -> Block:
        rows = [self._elements(value) for value in column]
        sizes = np.array([len(row) for row in rows], np.int64)
        elements = self._element.encode([element for row in rows for element in row])
        return interleave([self._count.encode(sizes), regroup(elements, sizes)])

    def decode(self, cursor: Cursor) -> Any:
        elements = tuple(self._element.decode(cursor) for _ in range(self._count.decode(cursor)))
        return batched(self.space.feature_space, elements) if self.space.stack else elements

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        if at == len(ids):
            return self._count.legal()
        return legal_elements(self._element, self._count.read(ids[at]), ids, at + 1)

    def ranges(self) -> list[tuple[int, int]] | None:
        return None

    def _elements(self, value: Any) -> Sequence[Any]:
        if self.space.stack:
            return unbatched(self.space.feature_space, value, self.path)
        if not isinstance(value, (tuple, list, np.ndarray)):
            raise ValueError(f"{name_of(self.path)}: expected a tuple of values, got {type(value).__name__} {value!r}")
        return tuple(value)


class OneOfLeaf:
    """A choice among spaces, and a value of the one chosen."""

    kind: Final = "oneof"

    def __init__(self, path: str, space: spaces.OneOf[Any], parts: Sequence[Group], vocabulary: Vocabulary) -> None:
        self.path: Final = path
        self.space: Final = space
        self._parts: Final = tuple(parts)
        if len(parts) > vocabulary.n_discrete:
            raise ValueError(f"{name_of(path)}: expected at most {vocabulary.n_discrete} spaces, got {len(parts)}")
        first = vocabulary.discrete_ids.start
        self._ids: Final = range(first, first + len(parts))
        sizes = {part.n_tokens for part in parts}
        size = sizes.pop() if len(sizes) == 1 else None
        self.n_tokens: Final = None if size is None else 1 + size

    def column(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def encode(self, column: Values) -> Block:
        choices = np.array([self._choice(value) for value in column], np.int64)
        blocks = [plain((choices[:, None] + self._ids.start).astype(np.int32))]
        for choice, part in enumerate(self._parts):
            rows = np.flatnonzero(choices == choice)
            if len(rows):
                blocks.append(spread(part.encode([column[row][1] for row in rows]), rows, len(column)))
        return interleave(blocks)

    def decode(self, cursor: Cursor) -> tuple[np.int64, Any]:
        choice = int(cursor.take(1, self._ids, self.path)[0])
        return np.int64(choice), self._parts[choice].decode(cursor)

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        if at == len(ids):
            return np.arange(self._ids.start, self._ids.stop, dtype=np.int32)
        return self._parts[self._ids.index(ids[at])].legal(ids, at + 1)

    def ranges(self) -> list[tuple[int, int]] | None:
        return None

    def _choice(self, value: Any) -> int:
        if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[0], (int, np.integer)):
            raise ValueError(f"{name_of(self.path)}: expected a pair (choice, value), got {value!r}")
        if not 0 <= value[0] < len(self._parts):
            raise ValueError(f"{name_of(self.path)}: expected a choice in 0..{len(self._parts) - 1}, got {value[0]}")
        return int(value[0])


class GraphLeaf:
    """Nodes, and edges that link them."""

    kind: Final = "graph"
    n_tokens: Final = None

    def __init__(self, path: str, space: spaces.Graph, nodes: Group, edges: Group | None, count: Count) -> None:
        self.path: Final = path
        self.space: Final = space
        self._nodes: Final = nodes
        self._edges: Final = edges
        self._count: Final = count

    def column(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def encode(self, column: Values) -> Block:
        graphs = [self._checked(value) for value in column]
        nodes = [unbatched(self.space.node_space, graph.nodes, self.path) for graph in graphs]
        n_nodes = np.array([len(row) for row in nodes], np.int64)
        node_tokens = regroup(self._nodes.encode([node for row in nodes for node in row]), n_nodes)
        counts = self._count.encode(n_nodes)
        if self._edges is None:
            return interleave([counts, node_tokens])
        edges = [self._edge_values(graph) for graph in graphs]
        n_edges = np.array([len(row) for row in edges], np.int64)
        edge_tokens = regroup(self._edges.encode([edge for row in edges for edge in row]), n_edges)
        has_edges = np.array([graph.edges is not None for graph in graphs], np.int64)
        links = [self._links(*row) for row in zip(graphs, n_nodes.tolist(), n_edges.tolist(), strict=True)]
        link_tokens = self._count.encode_places(np.concatenate([[], *links]).astype(np.int64), n_nodes, 2 * n_edges)
        return interleave([counts, self._count.encode(n_edges + has_edges), node_tokens, edge_tokens, link_tokens])

    def decode(self, cursor: Cursor) -> spaces.GraphInstance:
        n_nodes = self._count.decode(cursor)
        n_edges = self._count.decode(cursor) - 1 if self._edges is not None else -1
        nodes = batched(self.space.node_space, [self._nodes.decode(cursor) for _ in range(n_nodes)])
        if self._edges is None or n_edges < 0:
            return spaces.GraphInstance(nodes=nodes, edges=None, edge_links=None)
        assert self.space.edge_space is not None
        edges = batched(self.space.edge_space, [self._edges.decode(cursor) for _ in range(n_edges)])
        links = self._count.decode_places(cursor, n_nodes, 2 * n_edges)
        return spaces.GraphInstance(nodes=nodes, edges=edges, edge_links=links.astype(np.int32).reshape(-1, 2))

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        if at == len(ids):
            return self._count.legal()
        n_nodes, at = self._count.read(ids[at]), at + 1
        n_edges = -1
        if self._edges is not None:
            if at == len(ids):  # a graph without nodes can have no edges: none, or an empty array of them
                return self._count.legal(None if n_nodes else 1)
            n_edges, at = self._count.read(ids[at]) - 1, at + 1
        found = legal_elements(self._nodes, n_nodes, ids, at)
        if not isinstance(found, int) or self._edges is None or n_edges < 0:
            return found
        found = legal_elements(self._edges, n_edges, ids, found)
        if not isinstance(found, int) or len(ids) >= found + 2 * n_edges:
            return found if not isinstance(found, int) else found + 2 * n_edges
        return self._count.legal(n_nodes - 1)

    def ranges(self) -> list[tuple[int, int]] | None:
        return None

    def _checked(self, value: Any) -> spaces.GraphInstance:
        name = name_of(self.path)
        if not isinstance(value, spaces.GraphInstance) or value.nodes is None:
            raise ValueError(f"{name}: expected a GraphInstance with nodes, got {type(value).__name__} {value!r}")
        if (value.edges is None) != (value.edge_links is None):
            raise ValueError(f"{name}: expected both edges and edge_links or neither, got {value!r}")
        if value.edges is not None and self._edges is None:
            raise ValueError(f"{name}: expected no edges, as its space has none, got {value.edges!r}")
        return value

    def _edge_values(self, graph: spaces.GraphInstance) -> list[Any]:
        if graph.edges is None or self.space.edge_space is None:
            return []
        return unbatched(self.space.edge_space, graph.edges, self.path)

    def _links(self, graph: spaces.GraphInstance, n_nodes: int, n_edges: int) -> npt.NDArray[Any]:
        links = np.zeros((0, 2), np.int64) if graph.edge_links is None else np.asarray(graph.edge_links)
        if links.shape != (n_edges, 2) or links.dtype.kind not in "iu":
            expected = f"edge_links of shape ({n_edges}, 2) and of integers"
            raise ValueError(f"{name_of(self.path)}: expected {expected}, got {links.dtype} {links.shape}")
        if links.size and not (links.min() >= 0 and links.max() < n_nodes):
            wrong = links[(links < 0) | (links >= n_nodes)][0]
            raise ValueError(f"{name_of(self.path)}: expected edge_links in 0..{n_nodes - 1}, got {wrong}")
        return links.reshape(-1)


class Count:
    """How many elements follow, and places among them, as discrete tokens."""

    def __init__(self, path: str, vocabulary: Vocabulary, *, action: bool) -> None:
        self._path: Final = path
        self._ids: Final = vocabulary.discrete_ids
        self._more: Final = len(self._ids) - 1
        """The digit that adds this many and reads on."""
        self._is_action: Final = action

    def encode(self, counts: npt.NDArray[np.int64]) -> Block:
        """Counts, one a row: as many times "more" as needed, then the rest."""
        if self._is_action and (counts >= self._more).any():
            expected = f"at most {self._more - 1} values in an action"
            raise ValueError(f"{name_of(self._path)}: expected {expected}, got {counts.max()}")
        lengths = counts // self._more + 1
        ids = np.full(int(lengths.sum()), self._ids.start + self._more, np.int32)
        ids[np.cumsum(lengths) - 1] = self._ids.start + counts % self._more
        return Block(ids=ids, lengths=lengths)

    def decode(self, cursor: Cursor) -> int:
        """Reads one count."""
        count = 0
        while (digit := int(cursor.take(1, self._ids, self._path)[0])) == self._more:
            count += digit
        return count + digit

    def legal(self, most: int | None = None) -> LegalIds:
        """Tokens of the counts (or places) 0..most; by default of every count, which ends the action at some time."""
        stop = self._more if most is None else min(most + 1, self._more)
        return np.arange(self._ids.start, self._ids.start + stop, dtype=np.int32)

    def read(self, token: int) -> int:
        """The count that `token` of an action writes."""
        return token - self._ids.start

    def encode_places(
        self, places: npt.NDArray[np.int64], n_nodes: npt.NDArray[np.int64], per_row: npt.NDArray[np.int64]
    ) -> Block:
        """Places among each row's nodes, per_row[n] of them for row n, in as many digits as its nodes need."""
        base = len(self._ids)
        digits = np.array([self._n_digits(count) for count in n_nodes.tolist()], np.int64)  # (N,)
        each = np.repeat(digits, per_row)  # digits of each place
        power = np.repeat(each, each) - 1 - within_rows(each)
        ids = np.repeat(places, each) // base**power % base + self._ids.start
        return Block(ids=ids.astype(np.int32), lengths=digits * per_row)

    def decode_places(self, cursor: Cursor, n_nodes: int, count: int) -> npt.NDArray[np.int64]:
        """Reads `count` places among `n_nodes` nodes."""
        width = self._n_digits(n_nodes)
        digits = cursor.take(count * width, self._ids, self._path).astype(np.int64).reshape(count, width)
        places = digits @ len(self._ids) ** np.arange(width - 1, -1, -1)
        if count and places.max() >= n_nodes:
            raise ValueError(f"{name_of(self._path)}: expected edge_links in 0..{n_nodes - 1}, got {places.max()}")
        return np.asarray(places)

    def _n_digits(self, n_nodes: int) -> int:
        width = 1
        while n_nodes > len(self._ids) ** width:
            width += 1
        return width


def legal_elements(element: Group, count: int, ids: Sequence[int], at: int) -> LegalIds | int:
    """As `Leaf.legal`, for `count` values in a row."""
    if element.n_tokens is not None:
        whole = min(count, (len(ids) - at) // element.n_tokens) if element.n_tokens else count
        at, count = at + whole * element.n_tokens, count - whole
    for _ in range(count):
        found = element.legal(ids, at)
        if not isinstance(found, int):
            return found
        at = found
    return at
