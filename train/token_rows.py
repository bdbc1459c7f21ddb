"""Tokens one by one, for people and programs: what each stands for, what it is of, whether the loss asks for it."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gato_lite.config import CHUNK_WIDTH
from gato_lite.sequence import Tokens, place_numbers, plain
from gato_lite.tokenizers.leaf import Cursor, Leaf
from gato_lite.tokenizers.vocabulary import KINDS, Vocabulary

STYLES: Final = {
    "text": "cyan",
    "bin": "magenta",
    "discrete": "yellow",
    "separator": "white",
    "end": "bright_black",
    "patch": "green",
    "chunk": "blue",
}
"""Colour of each kind of token in a terminal."""

_PLANES: Final = np.array([[88, 92, 104], [186, 132, 74], [62, 104, 178], [214, 90, 84]], np.float64)
"""Colours of four planes of 0 and 255 that are no RGBA picture."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One token of a stream."""

    position: int
    """Place in the document, from 0."""
    id: int
    """Vocabulary id."""
    kind: str
    """One of `KINDS` of `gato_lite.tokenizers.vocabulary`."""
    description: str
    """What the id stands for, in words."""
    local: int
    """Place in the observation, prompt or answer, from 1; 0 for all others."""
    is_target: bool
    """Whether the loss counts the prediction of this token."""
    leaf: str
    """What it is a part of: "instruction", "observation/<path>", "action/<path>", "picture", "prompt", "answer"."""
    patch: npt.NDArray[np.uint8] | None = None
    """(height, width, channels) pixels of a patch."""
    values: tuple[float, ...] = ()
    """Of a chunk its scalars as the model reads them, squashed to [-1, 1]; of a bin the value at its centre."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """The same as JSON values, a patch as a PNG in base64."""
        row: dict[str, Any] = {
            "position": self.position,
            "id": self.id,
            "kind": self.kind,
            "description": self.description,
            "local": self.local,
            "target": self.is_target,
            "leaf": self.leaf,
        }
        if self.values:
            row["values"] = [round(value, 6) for value in self.values]
        if self.patch is not None:
            png = base64.b64encode(patch_png(self.patch)).decode()
            row["patch"] = {"shape": list(self.patch.shape), "png": png}
        return row


@dataclass(frozen=True, kw_only=True)
class TokenStream:
    """The tokens of one timestep or document."""

    name: str
    """Of the task or the collection."""
    about: str
    """What is shown, for people."""
    rows: tuple[TokenRow, ...]
    n_tokens: int
    """Tokens in all, of which `rows` are the first."""

    @property
    def n_targets(self) -> int:
        """Rows that the loss asks for."""
        return sum(row.is_target for row in self.rows)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """The same as JSON values."""
        counts = {"n_tokens": self.n_tokens, "n_targets": self.n_targets}
        return {"name": self.name, "about": self.about, **counts, "tokens": [row.to_json() for row in self.rows]}


def token_rows(
    tokens: Tokens,
    target: npt.NDArray[np.bool_],
    leaves: Sequence[tuple[str, Leaf | None]],
    vocabulary: Vocabulary,
) -> list[TokenRow]:
    """A row for each of the T tokens.

    Args:
        tokens: of one document.
        target: (T,) which of them the loss asks for.
        leaves: what each is a part of, and the leaf of its space if it is of one.
        vocabulary: names the ids.
    """
    kinds, places = vocabulary.kind(tokens.ids), place_numbers(tokens.local).tolist()
    patches, chunks, scalars = iter(_patches(tokens)), iter(tokens.chunks), _bin_values(tokens, leaves, vocabulary)
    before: Counter[str] = Counter()
    rows: list[TokenRow] = []
    for position, (token, (name, leaf)) in enumerate(zip(tokens.ids.tolist(), leaves, strict=True)):
        kind = KINDS[kinds[position]]
        values: tuple[float, ...] = ()
        if kind == "chunk":
            size = CHUNK_WIDTH if leaf is None else int(np.prod(leaf.space.shape or ())) - CHUNK_WIDTH * before[name]
            values = tuple(next(chunks)[: max(size, 1)].tolist())
        elif name in scalars:
            values = (next(scalars[name]),)
        before[name] += 1
        rows.append(
            TokenRow(
                position=position,
                id=token,
                kind=kind,
                description=vocabulary.describe(token),
                local=places[position],
                is_target=bool(target[position]),
                leaf=name,
                patch=next(patches) if kind == "patch" else None,
                values=values,
            )
        )
    return rows


def _bin_values(
    tokens: Tokens, leaves: Sequence[tuple[str, Leaf | None]], vocabulary: Vocabulary
) -> dict[str, Iterator[float]]:
    """What the bins of each leaf decode to."""
    found: dict[str, Iterator[float]] = {}
    for name, leaf in dict(leaves).items():
        if leaf is not None and leaf.kind == "bins":
            own = np.array([other == name for other, _ in leaves])
            value = np.asarray(leaf.decode(Cursor(plain(tokens.ids[own]), vocabulary)))
            found[name] = map(float, value.reshape(-1))
    return found


def _patches(tokens: Tokens) -> Iterator[npt.NDArray[np.uint8]]:
    start = 0
    for height, width, channels in tokens.patch_shapes.astype(int).tolist():
        stop = start + height * width * channels
        yield tokens.pixels[start:stop].reshape(height, width, channels)  # (H, W, C)
        start = stop


def patch_rgb(patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A patch of 1 to 4 channels as (H, W, 3) pixels for people; four symbolic planes get a colour each."""
    channels = patch.shape[2]
    if channels == 3:
        return patch
    if channels < 3:
        return np.repeat(patch[:, :, :1], 3, axis=2)  # (H, W, 3)
    if np.isin(patch, (0, 255)).all():
        canvas = np.full((*patch.shape[:2], 3), 226, np.float64)
        for plane, colour in enumerate(_PLANES):
            canvas[patch[:, :, plane] > 0] = colour
        return canvas.astype(np.uint8)
    alpha = patch[:, :, 3:].astype(np.float64) / 255
    return (patch[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def patch_png(patch: npt.NDArray[np.uint8]) -> bytes:
    """A small PNG of a patch, a pixel for each of its own."""
    buffer = io.BytesIO()
    Image.fromarray(patch_rgb(patch)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def to_json(streams: Sequence[TokenStream]) -> str:
    """All `streams` as a JSON list."""
    return json.dumps([stream.to_json() for stream in streams], indent=1, ensure_ascii=False)


def render(stream: TokenStream) -> RenderableType:
    """`stream` for a terminal: a row per token, patches as little pictures, targets marked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("pos", "id"):
        table.add_column(header, justify="right", style="dim")
    table.add_column("what it stands for", overflow="fold")
    table.add_column("leaf", style="dim")
    table.add_column("place", justify="right", style="dim")
    table.add_column("loss", justify="center")
    for row in stream.rows:
        place = str(row.local) if row.local else "·"
        mark = Text("◆", style="bold red") if row.is_target else Text("·", style="dim")
        table.add_row(str(row.position), str(row.id), _described(row), row.leaf, place, mark)
    title = Text.assemble((stream.name, "bold"), "  ", (stream.about, "dim"))
    left = stream.n_tokens - len(stream.rows)
    foot = f"{stream.n_tokens} tokens" + (f", {left} not shown" if left else "")
    foot += f" · ◆ {stream.n_targets} that the loss asks for · place: in its observation, prompt or answer"
    return Group(title, table, Text(foot, style="dim"), "")


def _described(row: TokenRow) -> Text:
    text = Text(row.description, style=STYLES[row.kind])
    if row.values:
        text.append("  " + " ".join(f"{value:.3g}" for value in row.values), style="default")
    if row.patch is not None:
        height, width, channels = row.patch.shape
        text.append(f" {height}×{width}×{channels}\n", style="dim")
        text.append_text(_blocks(patch_rgb(row.patch)))
    return text


def _blocks(pixels: npt.NDArray[np.uint8]) -> Text:
    """Pixels as half blocks, two rows of them in a line, at most 16 wide."""
    step = -(-max(pixels.shape[:2]) // 16)
    small = pixels[::step, ::step]
    lines = []
    for upper in range(0, len(small), 2):
        line = Text()
        for column in range(small.shape[1]):
            colours = [
                "#{:02x}{:02x}{:02x}".format(*small[row, column]) for row in range(upper, upper + 2) if row < len(small)
            ]
            line.append("▀", style=colours[0] if len(colours) == 1 else f"{colours[0]} on {colours[1]}")
        lines.append(line)
    return Text("\n").join(lines)
