"""The one owner of token ids: text pieces | continuous bins | discrete values | specials.

Ranges follow one another, so they are disjoint by construction. A checkpoint stores the JSON and the text model and
refuses weights of another vocabulary by the fingerprint.

Source: Reed et al. 2022, section 2.1 (text in [0, 32000), bins and discrete values in ranges of their own).
Differs from the paper: discrete values have ids of their own rather than those of the first text pieces, because
otherwise a word and an action share an embedding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Final

import numpy as np
from jaxtyping import Int, Int8

from gato_lite.tokenizers.text import TextTokenizer

KINDS: Final = ("text", "bin", "discrete", "separator", "end", "patch", "chunk")
"""What an id can be, in the order of the ids."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Every id range of one model.

    Example:
        >>> len(Vocabulary.shipped())
        6148
    """

    text: TextTokenizer
    """The text pieces, ids from 0."""
    n_bins: int = 1024
    """Bins of a continuous scalar."""
    n_discrete: int = 1024
    """Values of a discrete token, the base of an integer's digits."""

    def __post_init__(self) -> None:
        for name in ("n_bins", "n_discrete"):
            if not 2 <= getattr(self, name) <= 1 << 20:
                raise ValueError(f"{name} must be in 2..{1 << 20}, got {name}={getattr(self, name)}")

    @classmethod
    @cache
    def shipped(cls) -> Vocabulary:
        """The vocabulary that comes with the package."""
        model = resources.files("gato_lite") / "data" / "text.model"
        return cls(TextTokenizer(model.read_bytes()))

    @classmethod
    def from_files(cls, json_bytes: bytes, model_bytes: bytes) -> Vocabulary:
        """The vocabulary that `to_json` and `text.model_bytes` described, checked against them.

        Raises:
            ValueError: the JSON is not a vocabulary's, or the text model is not the one it names.
        """
        try:
            stored = json.loads(json_bytes)
            sizes = {name: int(stored[name][1]) - int(stored[name][0]) for name in ("bins", "discrete")}
            expected = str(stored["text_sha256"])
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"expected a vocabulary's JSON with 'bins', 'discrete' and 'text_sha256', got {json_bytes[:80]!r}"
            ) from error
        found = hashlib.sha256(model_bytes).hexdigest()
        if found != expected:
            raise ValueError(f"the text model is not the vocabulary's: expected SHA-256 {expected}, got {found}")
        vocabulary = cls(TextTokenizer(model_bytes), n_bins=sizes["bins"], n_discrete=sizes["discrete"])
        if stored != json.loads(vocabulary.to_json()):
            raise ValueError(f"the vocabulary's ranges do not follow: expected {vocabulary.to_json()}, got {stored}")
        return vocabulary

    def to_json(self) -> str:
        """Ranges, specials and the text model's SHA-256, the same text for the same vocabulary."""
        ranges = {name: [ids.start, ids.stop] for name, ids in self._ranges.items()}
        specials = {name: getattr(self, name) for name in KINDS[3:]}
        return json.dumps(
            {**ranges, **specials, "size": self.size, "text_sha256": self.text.sha256},
            sort_keys=True,
            separators=(",", ":"),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `to_json()`, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def text_ids(self) -> range:
        """Ids of the text pieces."""
        return range(self.text.n_pieces)

    @cached_property
    def bin_ids(self) -> range:
        """Ids of the bins of continuous scalars."""
        return range(self.text_ids.stop, self.text_ids.stop + self.n_bins)

    @cached_property
    def discrete_ids(self) -> range:
        """Ids of the discrete values."""
        return range(self.bin_ids.stop, self.bin_ids.stop + self.n_discrete)

    @property
    def separator(self) -> int:
        """Id between an observation and its action."""
        return self.discrete_ids.stop

    @property
    def end(self) -> int:
        """Id that ends a text."""
        return self.discrete_ids.stop + 1

    @property
    def patch(self) -> int:
        """Id that stands for an image patch."""
        return self.discrete_ids.stop + 2

    @property
    def chunk(self) -> int:
        """Id that stands for a chunk of continuous scalars."""
        return self.discrete_ids.stop + 3

    @cached_property
    def class_ranges(self) -> tuple[tuple[range, ...], ...]:
        """Ids among which a target is, in the order of its classes: text and its end, bins, discrete values."""
        return (self.text_ids, range(self.end, self.end + 1)), (self.bin_ids,), (self.discrete_ids,)

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.discrete_ids.stop + 4

    def kind(self, ids: Int[np.ndarray, "*T"]) -> Int8[np.ndarray, "*T"]:
        """The place in `KINDS` of each of `ids`."""
        stops = [self.text_ids.stop, self.bin_ids.stop, self.separator, self.end, self.patch, self.chunk]
        return np.searchsorted(stops, ids, side="right").astype(np.int8)

    def describe(self, token: int) -> str:
        """What `token` stands for, in words: "text '▁ball'", "byte 0x0A", "bin 512", "discrete 3", "patch"."""
        token = int(token)
        if not 0 <= token < self.size:
            return f"no token ({token} is not in 0..{self.size - 1})"
        if token in self.text_ids:
            piece = self.text.pieces[token]
            is_byte = token in self.text.byte_ids.values()
            return f"byte {piece[1:-1]}" if is_byte else f"text '{piece}'"
        for name, ids in (("bin", self.bin_ids), ("discrete", self.discrete_ids)):
            if token in ids:
                return f"{name} {token - ids.start}"
        return KINDS[3 + token - self.separator]

    @property
    def _ranges(self) -> dict[str, range]:
        return {"text": self.text_ids, "bins": self.bin_ids, "discrete": self.discrete_ids}

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Vocabulary({self.size} ids, fingerprint {self.fingerprint[:8]})"
