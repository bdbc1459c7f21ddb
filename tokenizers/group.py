"""The leaves of a space of any nesting, in token order, and the ways between values, columns and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from gato_lite.spaces import AnySpace, escape_key, leaf_keys
from gato_lite.tokenizers.leaf import Cursor, Leaf, LegalIds, Values, name_of
from gato_lite.tokenizers.ragged import Block, interleave

Columns = Mapping[str, Values]
"""A column of values for each leaf path."""


class Group:
    """One space as its leaves."""

    def __init__(self, space: AnySpace, path: str, leaves: Sequence[Leaf], dropped: Sequence[str] = ()) -> None:
        self.space: Final = space
        self.path: Final = path
        self.leaves: Final = tuple(leaves)
        self.dropped: Final = tuple(dropped)
        """Paths of leaves that are not tokenized."""
        keys = {joined(path, relative): route for relative, route in leaf_keys(space).items()}
        self._routes: Final = [(leaf.path, keys[leaf.path]) for leaf in self.leaves]
        counts = [leaf.n_tokens for leaf in self.leaves]
        self.n_tokens: Final = None if None in counts else sum(count or 0 for count in counts)

    def flatten(self, value: Any) -> dict[str, Any]:
        """The leaf values in `value`, by path."""
        return {path: self._follow(value, route) for path, route in self._routes}

    def unflatten(self, values: Mapping[str, Any]) -> Any:
        """The value whose leaf values these are."""
        if self.dropped:
            raise ValueError(
                f"expected a tokenizer that keeps every leaf to build a value, got one that drops "
                f"{', '.join(map(repr, self.dropped))}; build it without TokenSpec.leaves"
            )
        return _unflatten(self.space, self.path, values)

    def columns(self, rows: Sequence[Any]) -> dict[str, Values]:
        """Values of the space as a column per leaf."""
        flat = [self.flatten(row) for row in rows]
        return {leaf.path: leaf.column([row[leaf.path] for row in flat]) for leaf in self.leaves}

    def encode_leaves(self, columns: Columns) -> list[Block]:
        """The tokens of each leaf's column."""
        return [leaf.encode(columns[leaf.path]) for leaf in self.leaves]

    def encode(self, rows: Sequence[Any]) -> Block:
        """The tokens of values of the space, a row each."""
        blocks = self.encode_leaves(self.columns(rows))
        return interleave(blocks) if blocks else Block(ids=np.zeros(0, np.int32), lengths=np.zeros(len(rows), np.int64))

    def decode(self, cursor: Cursor) -> Any:
        """Reads one value off the cursor."""
        return self.unflatten({leaf.path: leaf.decode(cursor) for leaf in self.leaves})

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        """As `Leaf.legal`, for all leaves."""
        for leaf in self.leaves:
            found = leaf.legal(ids, at)
            if not isinstance(found, int):
                return found
            at = found
        return at

    def ranges(self) -> list[tuple[int, int]] | None:
        """As `Leaf.ranges`, for all leaves."""
        found: list[tuple[int, int]] = []
        for leaf in self.leaves:
            part = leaf.ranges()
            if part is None:
                return None
            found += part
        return found

    def _follow(self, value: Any, route: tuple[str | int, ...]) -> Any:
        """What lies in `value` where `route` leads."""
        space, path = self.space, self.path
        for key in route:
            if isinstance(space, spaces.Tuple):
                if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
                    got = f"{len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__
                    raise ValueError(f"{name_of(path)}: expected a tuple of {len(space.spaces)} values, got {got}")
                space = space.spaces[int(key)]
            elif isinstance(space, spaces.Dict):
                if not isinstance(value, Mapping) or key not in value:
                    got = f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
                    raise ValueError(f"{name_of(path)}: expected a mapping with the key '{key}', got {got}")
                if not value.keys() <= space.spaces.keys():
                    got = f"keys {sorted(map(str, value))}"
                    raise ValueError(f"{name_of(path)}: expected no keys but {sorted(space.spaces)}, got {got}")
                space = space.spaces[str(key)]
            value, path = value[key], joined(path, escape_key(str(key)))
        return value


def joined(path: str, more: str) -> str:
    """`more` of a path after `path`, either of which may be empty."""
    return f"{path}/{more}" if path and more else path or more


def _unflatten(space: AnySpace, path: str, values: Mapping[str, Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _unflatten(part, joined(path, escape_key(key)), values) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_unflatten(part, joined(path, str(i)), values) for i, part in enumerate(space.spaces))
    return values[path]
