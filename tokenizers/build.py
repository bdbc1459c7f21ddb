"""Which leaf a space becomes: the one place that decides a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gymnasium import spaces

from gato_lite.config import MAX_CHANNELS, LeafKind, TokenSpec
from gato_lite.names import unknown_name
from gato_lite.spaces import SUPPORTED, AnySpace, FreeText, is_text, leaf_spaces
from gato_lite.tokenizers.composite import Count, GraphLeaf, OneOfLeaf, SequenceLeaf
from gato_lite.tokenizers.group import Group, joined
from gato_lite.tokenizers.leaf import Leaf, name_of
from gato_lite.tokenizers.leaves import BinLeaf, ChunkLeaf, ImageLeaf, IntegerLeaf
from gato_lite.tokenizers.strings import TextLeaf
from gato_lite.tokenizers.vocabulary import Vocabulary

_ORDER: Final[Mapping[str, int]] = {"text": 0, "image": 1}
"""Rank within a timestep (GATO section 2.1); tensors come last."""


def build_group(space: AnySpace, vocabulary: Vocabulary, spec: TokenSpec, *, action: bool) -> Group:
    """The leaves of `space` in token order, with what `spec` keeps of them.

    Raises:
        TypeError: a space of an unknown class.
        ValueError: `spec` names a leaf that is not there, or a kind that does not fit it.
    """
    builder = _Builder(vocabulary, spec, action=action)
    found = leaf_spaces(space)
    for path in spec.leaves or ():
        if path not in found:
            raise ValueError(unknown_name("leaf in TokenSpec.leaves", path, found))
    dropped = [] if spec.leaves is None else [path for path in found if path not in spec.leaves]
    group = builder.group(space, "", dropped)
    for path in builder.kinds:
        if path not in builder.paths and path not in dropped:
            raise ValueError(unknown_name("leaf in TokenSpec.kinds", path, builder.paths))
    return group


@dataclass
class _Builder:
    """What all leaves of one tokenizer share."""

    vocabulary: Vocabulary
    spec: TokenSpec
    action: bool
    paths: list[str] = field(default_factory=list)
    """Paths of all leaves built, those inside other leaves included."""

    @property
    def kinds(self) -> dict[str, LeafKind]:
        """Kinds by path that the spec asks for."""
        return dict(self.spec.kinds)

    def group(self, space: AnySpace, path: str, dropped: list[str] | None = None, *, inside: bool = False) -> Group:
        """A space at `path`; `inside` another leaf every text has an end."""
        kept = [
            (joined(path, relative), part)
            for relative, part in leaf_spaces(space).items()
            if relative not in (dropped or ())
        ]
        texts = [leaf_path for leaf_path, part in kept if is_text(part)]
        leaves = [
            self.leaf(part, leaf_path, has_end=inside or self.action or leaf_path in texts[:-1])
            for leaf_path, part in kept
        ]
        leaves.sort(key=lambda leaf: _ORDER.get(leaf.kind, 2))  # a stable sort: paths stay in order
        return Group(space, path, leaves, dropped or ())

    def leaf(self, space: AnySpace, path: str, *, has_end: bool) -> Leaf:
        """The leaf of a space that is neither Dict nor Tuple."""
        self.paths.append(path)
        if isinstance(space, (spaces.Sequence, spaces.OneOf, spaces.Graph)):
            return self.composite(space, path)
        kind = self.kind(space, path)
        match kind:
            case "text":
                return TextLeaf(path, space, self.vocabulary, action=self.action, has_end=has_end)
            case "integer":
                return IntegerLeaf(path, space, self.vocabulary)
        assert isinstance(space, spaces.Box)
        match kind:
            case "image":
                size, high = self.spec.patch_size, self.spec.pixel_high
                return ImageLeaf(path, space, self.vocabulary, patch_size=size, pixel_high=high)
            case "chunks":
                return ChunkLeaf(path, space, self.vocabulary)
        return BinLeaf(path, space, self.vocabulary, action=self.action)

    def composite(self, space: spaces.Sequence | spaces.OneOf[Any] | spaces.Graph, path: str) -> Leaf:
        """The leaf of a space whose values hold others; theirs have the paths "*", "0", "1", … or "nodes", "edges"."""
        if path in self.kinds:
            raise ValueError(f"{name_of(path)}: expected no kind for {space}, got '{self.kinds[path]}'")
        count = Count(path, self.vocabulary, action=self.action)
        match space:
            case spaces.Sequence():
                element = self.group(space.feature_space, joined(path, "*"), inside=True)
                return SequenceLeaf(path, space, element, count)
            case spaces.OneOf():
                parts = [self.group(part, joined(path, str(i)), inside=True) for i, part in enumerate(space.spaces)]
                return OneOfLeaf(path, space, parts, self.vocabulary)
        nodes = self.group(space.node_space, joined(path, "nodes"), inside=True)
        edges = None if space.edge_space is None else self.group(space.edge_space, joined(path, "edges"), inside=True)
        return GraphLeaf(path, space, nodes, edges, count)

    def kind(self, space: AnySpace, path: str) -> LeafKind:
        """The kind of a leaf: what the spec says, else what suits its space."""
        possible = self.possible(space)
        kind = self.kinds.get(path, possible[0])
        if kind not in possible:
            expected = " or ".join(possible)
            raise ValueError(f"{name_of(path)}: expected a kind that fits {space}: {expected}; got '{kind}'")
        return kind

    def possible(self, space: AnySpace) -> list[LeafKind]:
        """The kinds that fit a space, the default first."""
        if is_text(space):
            if self.action and not isinstance(space, (spaces.Text, FreeText)):
                name = type(space).__name__
                raise TypeError(f"expected a Text or FreeText space for an action, whose members are known, got {name}")
            return ["text"]
        match space:
            case spaces.Box() if space.dtype.kind == "f":
                return ["bins"] if self.action else ["chunks", "bins"]
            case spaces.Box() if self.action:
                return ["integer"]
            case spaces.Box() if space.dtype == "uint8" and len(space.shape) in (2, 3):
                channels = space.shape[2] if len(space.shape) == 3 else 1
                usual = min(space.shape[:2]) >= 2 and channels in (1, 3, 4)
                if usual:
                    return ["image", "integer", "chunks", "bins"]
                if 1 <= channels <= MAX_CHANNELS and min(space.shape) >= 1:
                    return ["integer", "image", "chunks", "bins"]
                return ["integer", "chunks", "bins"]
            case spaces.Box():
                return ["integer", "chunks", "bins"]
            case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
                return ["integer"]
        raise TypeError(f"expected a space of {SUPPORTED}, or of strings, got {type(space).__name__}: {space}")
