"""`SpaceTokenizer`: values of any Gymnasium space ↔ tokens.

What a leaf becomes is read off its space and may be overridden by a `TokenSpec`. Within a timestep leaves are ordered
text, images, then tensors, keys lexicographic inside each.

Source: Reed et al. 2022, section 2.1.
Differs from the paper: vectors and grids take few tokens (chunks and patches) by default, because on a CPU the length
of an episode in tokens is what training costs; `TokenSpec(kinds=((path, "bins"),))` is the paper's encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from gato_lite.config import TokenSpec
from gato_lite.names import unknown_name
from gato_lite.sequence import ACTION_LOCAL, Tokens, within_rows
from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.build import build_group
from gato_lite.tokenizers.leaf import Cursor, Leaf, Values, name_of
from gato_lite.tokenizers.ragged import Block, interleave
from gato_lite.tokenizers.vocabulary import Vocabulary

_LARGEST_LOCAL: Final = np.iinfo(np.int16).max


class SpaceTokenizer:
    """Values of one space ↔ tokens, as observations or as actions.

    Example:
        >>> tokenizer = SpaceTokenizer(gymnasium.spaces.Discrete(4), action=True)
        >>> tokenizer.decode(tokenizer.encode(3))
        3
    """

    def __init__(
        self,
        space: AnySpace,
        vocabulary: Vocabulary | None = None,
        *,
        spec: TokenSpec | None = None,
        action: bool = False,
    ) -> None:
        """Plans the leaves of `space`.

        Args:
            space: any Gymnasium space, or a space of strings.
            vocabulary: token ids, those that come with the package by default.
            spec: how the leaves of an observation become tokens; an action's follow from its space alone.
            action: whether values are actions: integers, bins and text only, checked to be in the space.

        Raises:
            TypeError: `space` holds a space of an unknown class.
            ValueError: `spec` names a leaf that `space` does not have, or a kind that does not fit it.
        """
        self.space: Final = space
        self.vocabulary: Final = Vocabulary.shipped() if vocabulary is None else vocabulary
        self.spec: Final = TokenSpec() if spec is None or action else spec
        self.action: Final = action
        self._group: Final = build_group(space, self.vocabulary, self.spec, action=action)
        self.leaves: Final[tuple[Leaf, ...]] = self._group.leaves
        """Leaves in token order; each has a path, a kind, a space and n_tokens (None where it varies)."""
        self.n_tokens: Final[int | None] = self._group.n_tokens
        """Tokens of a value, None where it varies."""
        self.legal_ranges: Final = self._group.ranges() if action else None
        """Legal (start, stop) ids of each token of an action where none depends on the ones before, else None."""
        paths = [leaf.path for leaf in self.leaves]
        for path in self.spec.once:
            if path not in paths:
                raise ValueError(unknown_name("leaf in TokenSpec.once", path, paths))

    def encode(self, value: Any) -> Tokens:
        """The tokens of one value.

        Raises:
            ValueError: the value is not of the space's form, or is NaN, or is an action or integer out of bounds.
        """
        block = self._group.encode([value])
        return block.tokens(self._local(block.lengths))

    def decode(self, tokens: Tokens) -> Any:
        """The value that `tokens` hold: exact for text, images and integers, within half a bin for bins.

        Raises:
            ValueError: the tokens are not those of a value; the message says where.
        """
        cursor = Cursor(tokens, self.vocabulary)
        value = self._group.decode(cursor)
        if cursor.left():
            got = f"{cursor.left()} more from {self.vocabulary.describe(int(tokens.ids[cursor.at]))} on"
            raise ValueError(f"expected {cursor.at} tokens of a value, got {got}")
        return value

    def encode_many(
        self, columns: Mapping[str, Values]
    ) -> tuple[Tokens, Int64[np.ndarray, " N"], Bool[np.ndarray, " T"]]:
        """The tokens of N values at once: what training uses.

        Args:
            columns: by leaf path, an array (N, *shape) or, for text and for leaves of varying size, a list of N values.
                Leaves that the spec drops are ignored.

        Returns:
            All tokens, the number of tokens of each value, and for each token whether its leaf is in `TokenSpec.once`
            and has the same value as in the row before.
        """
        n_rows = self._check_columns(columns)
        blocks = self._group.encode_leaves(columns)
        if not blocks:
            return _no_tokens(), np.zeros(n_rows, np.int64), np.zeros(0, bool)
        block = interleave(blocks)
        return block.tokens(self._local(block.lengths)), block.lengths, self._repeats(columns, blocks)

    def flatten(self, value: Any) -> dict[str, Any]:
        """The leaf values in `value`, by path; without those that the spec drops."""
        return self._group.flatten(value)

    def unflatten(self, values: Mapping[str, Any]) -> Any:
        """The value whose leaf values these are."""
        return self._group.unflatten(values)

    def stack(self, values: Sequence[Any]) -> dict[str, Values]:
        """Values as the columns that `encode_many` takes."""
        return self._group.columns(values)

    def legal(self, prefix: Sequence[int] | Int32[np.ndarray, " K"]) -> Int32[np.ndarray, " L"]:
        """Ids that may follow the legal ids `prefix` of an action, none where the action is complete.

        Whatever is chosen from them, the decoded action is in the space.
        """
        if not self.action:
            raise ValueError("expected a tokenizer of actions, got one of observations; build it with action=True")
        found = self._group.legal([int(token) for token in prefix], 0)
        if isinstance(found, int):
            if found < len(prefix):
                raise ValueError(f"expected at most the {found} tokens of an action, got {len(prefix)}")
            return np.zeros(0, np.int32)
        return found

    def __repr__(self) -> str:
        leaves = ", ".join(f"{leaf.path or 'value'}: {leaf.kind}" for leaf in self.leaves)
        return f"SpaceTokenizer({'action' if self.action else 'observation'}; {leaves})"

    def _check_columns(self, columns: Mapping[str, Values]) -> int:
        """The number of rows, which all columns share."""
        known = [leaf.path for leaf in self.leaves]
        for path in columns:
            if path not in known and path not in self._group.dropped:
                raise ValueError(unknown_name("leaf", path, [*known, *self._group.dropped]))
        for path in known:
            if path not in columns:
                raise ValueError(f"{name_of(path)}: expected a column for it, got columns {sorted(columns)}")
            if len(columns[path]) != len(columns[known[0]]):
                expected = f"{len(columns[known[0]])} values as in '{known[0]}'"
                raise ValueError(f"{name_of(path)}: expected {expected}, got {len(columns[path])}")
        return len(columns[known[0]]) if known else 0

    def _local(self, lengths: Int64[np.ndarray, " N"]) -> np.ndarray:
        """(T,) local indices of rows of these lengths."""
        if self.action:
            return np.full(int(lengths.sum()), ACTION_LOCAL, np.int16)
        return np.minimum(within_rows(lengths) + 1, _LARGEST_LOCAL).astype(np.int16)

    def _repeats(self, columns: Mapping[str, Values], blocks: Sequence[Block]) -> Bool[np.ndarray, " T"]:
        """(T,) whether each token's leaf is written once and equals the row before."""
        total = sum(len(block.ids) for block in blocks)
        if not self.spec.once:
            return np.zeros(total, bool)
        n_rows = len(blocks[0].lengths)
        flags = []
        for leaf, block in zip(self.leaves, blocks, strict=True):
            same = np.zeros(n_rows, bool)
            if leaf.path in self.spec.once:
                same[1:] = _equals_before(columns[leaf.path])
            flags.append(Block(ids=np.repeat(same, block.lengths).astype(np.int32), lengths=block.lengths))
        return interleave(flags).ids.astype(bool)


def _no_tokens() -> Tokens:
    return Tokens(ids=np.zeros(0, np.int32), local=np.zeros(0, np.int16))


def _equals_before(column: Values) -> Bool[np.ndarray, " M"]:
    """Whether each value but the first equals the one before it."""
    if isinstance(column, np.ndarray) and column.dtype != object:
        same = column[1:] == column[:-1]
        return np.asarray(same.all(axis=tuple(range(1, same.ndim))))
    pairs = zip(column, list(column)[1:], strict=False)
    return np.array([a is b or _is_equal(a, b) for a, b in pairs], bool)


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_is_equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_is_equal, a, b))
    return bool(np.array_equal(a, b))
