"""Gymnasium spaces, and values of them, as plain JSON: what a dataset or a run stores beside its arrays.

Every space of Gymnasium is covered at any nesting. JSON knows no infinity, so an unbounded side of a Box is the string
"inf" or "-inf"; every other bound is written exactly. A space of strings that is not `gymnasium.spaces.Text`
(minigrid's `MissionSpace` is one) has no alphabet to store and becomes a `FreeText`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

AnySpace: TypeAlias = spaces.Space[Any]  # Any: a space of whatever an environment observes or takes
Json: TypeAlias = dict[str, Any]  # Any: nested JSON

MAX_SCALARS = 2**26
"""Scalars of the largest value that a stored space may have; a few bytes of JSON can claim any number."""
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict, Tuple, OneOf, Sequence, Graph"


class FreeText(spaces.Space[str]):
    """All strings, with no alphabet and no longest length."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: None = None, probability: None = None) -> str:  # noqa: ARG002  (Gymnasium's signature)
        """A short random word, for tests and random policies."""
        letters = self.np_random.integers(ord("a"), ord("z") + 1, size=int(self.np_random.integers(0, 9)))
        return "".join(map(chr, letters))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string."""
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeText)

    def __hash__(self) -> int:
        return hash(FreeText)

    def __repr__(self) -> str:
        return "FreeText()"


def is_text(space: AnySpace) -> bool:
    """Whether members of `space` are strings."""
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def lone_surrogate(text: str) -> int | None:
    """Where `text` has half of a pair of surrogates, which no encoding of Unicode can write; None where it has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def escape_key(key: str) -> str:
    """`key` as one part of a leaf path, in which "/" joins parts, "." is not used and no part is empty."""
    return key.replace("~", "~0").replace("/", "~1").replace(".", "~2") or "~"


def leaf_spaces(space: AnySpace) -> dict[str, AnySpace]:
    """The leaves of nested Dict and Tuple spaces by path, dictionary keys in lexicographic order.

    A path is the escaped keys (positions in a Tuple) joined by "/"; that of a bare space is "". A Sequence, a OneOf
    and a Graph are leaves: the number of values in them varies.

    Example:
        >>> list(leaf_spaces(spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple([spaces.Discrete(3)]))))
        ['a/0', 'b']
    """
    return {"/".join(map(escape_key, map(str, keys))): leaf for keys, leaf in _leaves(space)}


def require_leaf(space: AnySpace, what: str) -> None:
    """Refuses a space that has no value to see or to choose.

    Args:
        space: any space.
        what: how the message speaks of it, such as "action space".

    Raises:
        ValueError: `space` is an empty Dict or Tuple, or holds nothing else.
    """
    if not _leaves(space):
        raise ValueError(f"{what}: expected at least one leaf, got {space}; Discrete(1) is a space with nothing to say")


def leaf_keys(space: AnySpace) -> dict[str, tuple[str | int, ...]]:
    """The keys that lead to each leaf of `space`, by path."""
    return {"/".join(map(escape_key, map(str, keys))): keys for keys, _ in _leaves(space)}


def _leaves(space: AnySpace) -> list[tuple[tuple[str | int, ...], AnySpace]]:
    children: list[tuple[str | int, AnySpace]]
    if isinstance(space, spaces.Dict):
        children = [(key, space.spaces[key]) for key in sorted(space.spaces)]
    elif isinstance(space, spaces.Tuple):
        children = list(enumerate(space.spaces))
    else:
        return [((), space)]
    return [((key, *keys), leaf) for key, child in children for keys, leaf in _leaves(child)]


def space_to_json(space: AnySpace) -> Json:
    """`space` as JSON that `space_from_json` turns back into an equal space.

    Raises:
        TypeError: a space of a class that Gymnasium does not have.
    """
    match space:
        case spaces.Box():
            low = _bounds_to_json(space.low, space.bounded_below, "-inf")
            high = _bounds_to_json(space.high, space.bounded_above, "inf")
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            start = space.start.tolist()
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Text():
            lengths = {"min_length": space.min_length, "max_length": space.max_length}
            return {"type": "Text", **lengths, "charset": "".join(space.character_list)}
        case spaces.Dict():
            return {"type": "Dict", "spaces": {key: space_to_json(child) for key, child in space.spaces.items()}}
        case spaces.Tuple() | spaces.OneOf():
            return {"type": type(space).__name__, "spaces": [space_to_json(child) for child in space.spaces]}
        case spaces.Sequence():
            return {"type": "Sequence", "space": space_to_json(space.feature_space), "stack": space.stack}
        case spaces.Graph():
            edges = None if space.edge_space is None else space_to_json(space.edge_space)
            return {"type": "Graph", "node_space": space_to_json(space.node_space), "edge_space": edges}
    if is_text(space):
        return {"type": "FreeText"}
    raise TypeError(f"space must be one of {SUPPORTED}, or of strings, got {type(space).__name__}: {space}")


def space_from_json(stored: Mapping[str, Any]) -> AnySpace:
    """The space that `space_to_json` wrote.

    Raises:
        ValueError: `stored` is no such JSON; the message says which part.
    """
    try:
        return _space_from_json(stored)
    except RecursionError as error:
        raise ValueError("space must be JSON that space_to_json wrote, got one nested too deep to read") from error
    except (KeyError, TypeError, AttributeError, AssertionError, OverflowError) as error:
        raise ValueError(f"space must be JSON that space_to_json wrote, got {stored!r}: {error!r}") from error


def _space_from_json(stored: Mapping[str, Any]) -> AnySpace:
    match stored["type"]:
        case "Box":
            dtype, shape = np.dtype(stored["dtype"]), tuple(stored["shape"])
            _check_shape(shape)
            if dtype.kind not in "fiub":
                raise ValueError(f"dtype of a Box must be a number or bool, got '{stored['dtype']}'")
            low, high = _bounds_from_json(stored["low"], shape, dtype), _bounds_from_json(stored["high"], shape, dtype)
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            dtype = np.dtype(stored["dtype"])
            return spaces.Discrete(stored["n"], start=dtype.type(stored["start"]), dtype=dtype.type)
        case "MultiDiscrete":
            dtype = np.dtype(stored["dtype"])
            nvec, start = np.array(stored["nvec"], dtype), np.array(stored["start"], dtype)
            return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start)
        case "MultiBinary":
            shape = stored["shape"]
            _check_shape(shape)
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case "Text":
            return spaces.Text(stored["max_length"], min_length=stored["min_length"], charset=stored["charset"])
        case "FreeText":
            return FreeText()
        case "Dict":
            return spaces.Dict([(key, _space_from_json(child)) for key, child in stored["spaces"].items()])
        case "Tuple":
            return spaces.Tuple([_space_from_json(child) for child in stored["spaces"]])
        case "OneOf":
            return spaces.OneOf([_space_from_json(child) for child in stored["spaces"]])
        case "Sequence":
            return spaces.Sequence(_space_from_json(stored["space"]), stack=stored["stack"])
        case "Graph":
            edges = stored["edge_space"]
            nodes: Any = _space_from_json(stored["node_space"])  # Any: a Graph checks that it is a Box or Discrete
            return spaces.Graph(nodes, None if edges is None else _space_from_json(edges))
    raise ValueError(f"type of a stored space must be one of {SUPPORTED}, FreeText, got {stored['type']!r}")


def _check_shape(shape: Sequence[int]) -> None:
    if math.prod(shape) > MAX_SCALARS:
        raise ValueError(f"shape of a stored space must hold at most {MAX_SCALARS:,} scalars, got {list(shape)}")


def value_to_json(space: AnySpace, value: Any) -> Any:
    """A member of `space` as JSON; numbers are exact."""
    match space:
        case spaces.Dict():
            return {key: value_to_json(child, value[key]) for key, child in space.spaces.items()}
        case spaces.Tuple():
            return [value_to_json(child, part) for child, part in zip(space.spaces, value, strict=True)]
        case spaces.OneOf():
            return [int(value[0]), value_to_json(space.spaces[int(value[0])], value[1])]
        case spaces.Sequence():
            elements = gym.vector.utils.iterate(space.stacked_feature_space, value) if space.stack else value
            return [value_to_json(space.feature_space, element) for element in elements]
        case spaces.Graph():
            edges, links = value.edges, value.edge_links
            return {
                "nodes": np.asarray(value.nodes).tolist(),
                "edges": None if edges is None else np.asarray(edges).tolist(),
                "edge_links": None if links is None else np.asarray(links).tolist(),
            }
    return str(value) if is_text(space) else np.asarray(value).tolist()


def value_from_json(space: AnySpace, stored: Any) -> Any:
    """The member of `space` that `value_to_json` wrote."""
    match space:
        case spaces.Dict():
            return {key: value_from_json(child, stored[key]) for key, child in space.spaces.items()}
        case spaces.Tuple():
            return tuple(value_from_json(child, part) for child, part in zip(space.spaces, stored, strict=True))
        case spaces.OneOf():
            return np.int64(stored[0]), value_from_json(space.spaces[stored[0]], stored[1])
        case spaces.Sequence():
            elements = tuple(value_from_json(space.feature_space, element) for element in stored)
            return _stacked(space, elements) if space.stack else elements
        case spaces.Graph():
            return _graph(space, stored)
        case spaces.Discrete():
            return np.asarray(stored, space.dtype)[()]
    return str(stored) if is_text(space) else np.array(stored, space.dtype).reshape(space.shape or ())


def _stacked(space: spaces.Sequence, elements: Sequence[Any]) -> Any:
    empty: Any = gym.vector.utils.create_empty_array(space.feature_space, len(elements))  # Any: as deep as the space
    return gym.vector.utils.concatenate(space.feature_space, elements, empty)


def _graph(space: spaces.Graph, stored: Mapping[str, Any]) -> spaces.GraphInstance:
    def rows(part: AnySpace | None, values: list[Any] | None) -> Any:
        if part is None or values is None:
            return None
        return np.array(values, part.dtype).reshape(len(values), *(part.shape or ()))

    links = stored["edge_links"]
    edge_links = None if links is None else np.array(links, np.int32).reshape(-1, 2)
    edges = rows(space.edge_space, stored["edges"])
    return spaces.GraphInstance(nodes=rows(space.node_space, stored["nodes"]), edges=edges, edge_links=edge_links)


def _bounds_to_json(bounds: Any, bounded: Any, infinity: str) -> Any:
    if bounds.size and np.all(bounded == bounded.flat[0]) and np.all(bounds == bounds.flat[0]):
        return bounds.flat[0].item() if bounded.flat[0] else infinity
    return [value.item() if finite else infinity for value, finite in zip(bounds.flat, bounded.flat, strict=True)]


def _bounds_from_json(stored: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    values = stored if isinstance(stored, list) else [stored]
    if isinstance(stored, list) and len(values) != math.prod(shape):
        raise ValueError(f"a Box of shape {shape} needs {math.prod(shape)} bounds, got {len(values)}")
    infinite = any(isinstance(value, str) for value in values)
    if dtype.kind in "iub" and not infinite:
        bounds = np.array(values, dtype)  # 64-bit integers would lose digits as floats
    else:
        bounds = np.array([float(value) for value in values]).astype(dtype if dtype.kind == "f" else float)
    return bounds.reshape(shape) if isinstance(stored, list) else np.full(shape, bounds[0])
