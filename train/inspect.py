"""The stream of one timestep or document, token by token: what the model reads and where the loss asks for an answer.

    for stream in inspect_path("data/babyai-GoToObj"):     # a dataset of episodes or documents, or a run
        console.print(render(stream))

A dataset of episodes gives the first timestep of its first episode, one of documents its first picture and its first
text. A run gives a timestep of each task it was trained on: the first observation of a new episode where the task's
environment is installed, else a random member of its spaces; the action is a random one.
"""

from __future__ import annotations

import base64
import fnmatch
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gato_lite.config import CHUNK_WIDTH
from gato_lite.envs.dataset import Dataset, Document
from gato_lite.envs.format import INFO_FILE
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.exchange import Exchange, lay_out_exchanges
from gato_lite.names import unknown_name
from gato_lite.run import CONFIG_FILE, TaskFormat, read_run_config, read_vocabulary
from gato_lite.sequence import Tokens, concatenate, plain
from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.leaf import Cursor, Leaf, Values
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import KINDS, Vocabulary
from gato_lite.train.episodes import tokenise_episodes, without_last
from gato_lite.train.pictures import decode_picture

MAX_TEXT_TOKENS: Final = 40
"""Tokens of a text document that are shown; the rest is only counted."""

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
    """Place within the observation, from 1; 0 for all others."""
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


def inspect_path(path: Path | str, *, tasks: Sequence[str] | None = None, row: int | None = None) -> list[TokenStream]:
    """The streams of a dataset or of a run.

    Args:
        path: folder of either.
        tasks: names of a run's tasks; None takes all of them.
        row: of a dataset the episode or document of that number, counted over all parts; None takes the first.

    Raises:
        FileNotFoundError: the folder is neither.
        ValueError: a task or row that there is none of, or a damaged folder; the message names the file.
    """
    path = Path(path)
    if (path / CONFIG_FILE).is_file():
        return _run_streams(path, tasks)
    if (path / INFO_FILE).is_file():
        dataset = Dataset.open(path)
        vocabulary = Vocabulary.shipped()
        if row is not None and not 0 <= row < dataset.info.n_rows:
            raise ValueError(f"{path}: expected a row from 0 to {dataset.info.n_rows - 1}, got {row}")
        if dataset.info.kind == "control":
            return [control_stream(dataset, vocabulary, row or 0)]
        documents = dataset.read_documents()
        which = "first" if row is None else f"row {row}:"
        return document_streams(
            documents if row is None else [documents[row]], vocabulary, name=dataset.info.task, which=which
        )
    raise FileNotFoundError(f"'{path}' is neither a run ({CONFIG_FILE}) nor a dataset ({INFO_FILE})")


def control_stream(dataset: Dataset, vocabulary: Vocabulary, row: int = 0) -> TokenStream:
    """The first timestep of one episode, counted over all parts, of a dataset of episodes.

    Raises:
        ValueError: the dataset has no such episode, or is of another kind.
    """
    if not dataset.n_parts:
        raise ValueError(f"dataset '{dataset.path}' has no episode; record some first")
    ends = np.cumsum([part.rows for part in dataset.info.parts])
    part = int(ends.searchsorted(row, side="right"))
    episodes = dataset.read_part(part)
    before = int(episodes.lengths[: row - (int(ends[part - 1]) if part else 0)].sum())
    first = slice(before, before + 1)
    info = dataset.info
    return timestep_stream(
        {path: column[first] for path, column in without_last(episodes.observations, episodes.lengths).items()},
        {path: column[first] for path, column in episodes.actions.items()},
        SpaceTokenizer(dataset.observation_space, vocabulary, spec=info.token_spec),
        SpaceTokenizer(dataset.action_space, vocabulary, action=True),
        name=info.task,
        about=f"first timestep of {f'episode {row}' if row else 'the first recorded episode'}",
        instruction=info.instruction,
    )


def timestep_stream(
    observations: Mapping[str, Values],
    actions: Mapping[str, Values],
    observation_tokenizer: SpaceTokenizer,
    action_tokenizer: SpaceTokenizer,
    *,
    name: str,
    about: str,
    instruction: str | None,
) -> TokenStream:
    """One timestep as training lays it out.

    Args:
        observations: by leaf path a column of one value.
        actions: likewise.
        observation_tokenizer: of the task.
        action_tokenizer: of the task.
        name: of the task.
        about: where the values come from.
        instruction: what to do, in words; it comes first.
    """
    vocabulary = observation_tokenizer.vocabulary
    separator = observation_tokenizer.spec.separator
    episode = tokenise_episodes(
        observations,
        actions,
        None,
        np.ones(1, np.int64),
        observation_tokenizer=observation_tokenizer,
        action_tokenizer=action_tokenizer,
        vocabulary=vocabulary,
        separator=separator,
    )
    tokens, is_action, _ = episode.window(0, 1)
    words = vocabulary.text.encode(instruction) if instruction else np.zeros(0, np.int32)
    leaves = [
        *[("instruction", None)] * len(words),
        *_leaf_of_each("observation", observation_tokenizer, observations),
        *[("separator", None)] * separator,
        *_leaf_of_each("action", action_tokenizer, actions),
    ]
    target = np.concatenate([np.zeros(len(words), np.bool_), is_action])
    rows = _rows(concatenate([plain(words), tokens]), target, leaves, vocabulary)
    return TokenStream(name=name, about=about, rows=tuple(rows), n_tokens=len(rows))


def document_streams(
    documents: Sequence[Document], vocabulary: Vocabulary, *, name: str, patch_size: int = 16, which: str = "first"
) -> list[TokenStream]:
    """The first document of each kind (plain text, picture, question, conversation); `patch_size` is the model's."""
    firsts: dict[str, Document] = {}
    for document in documents:
        firsts.setdefault(_kind(document), document)
    streams = []
    for kind, document in firsts.items():
        exchanges = [
            Exchange(
                image=None if turn.image is None else decode_picture(turn.image), prompt=turn.prompt, text=turn.text
            )
            for turn in document.turns
        ]
        tokens, answers = lay_out_exchanges(exchanges, vocabulary, patch_size)
        places = np.where(tokens.ids == vocabulary.patch, "picture", np.where(answers, "answer", "prompt"))
        leaves: list[tuple[str, Leaf | None]] = [(str(place), None) for place in places]
        rows = _rows(tokens, answers, leaves, vocabulary)
        n_patch = int((tokens.ids == vocabulary.patch).sum())
        shown = tuple(rows[: max(n_patch, 1) + MAX_TEXT_TOKENS])
        streams.append(TokenStream(name=name, about=f"{which} {kind}", rows=shown, n_tokens=len(rows)))
    return streams


def _kind(document: Document) -> str:
    if document.before:
        return "document of several turns"
    if document.prompt:
        return "question" if document.image is None else "question about a picture"
    return "text" if document.image is None else "picture with its caption"


def _run_streams(run: Path, tasks: Sequence[str] | None) -> list[TokenStream]:
    config = read_run_config(run)
    vocabulary = read_vocabulary(run, config)
    known = {task.name: task for task in config.tasks}
    chosen: dict[str, TaskFormat] = {} if tasks is not None else known
    for pattern in tasks or ():
        matches = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(unknown_name("trained task", pattern, known))
        chosen.update({name: known[name] for name in matches})
    return [_task_stream(task, vocabulary) for task in chosen.values()]


def _task_stream(task: TaskFormat, vocabulary: Vocabulary) -> TokenStream:
    observation_space, action_space = task.spaces
    observation_tokenizer = SpaceTokenizer(observation_space, vocabulary, spec=task.spec)
    action_tokenizer = SpaceTokenizer(action_space, vocabulary, action=True)
    observation, about = _first_observation(task.name, observation_space)
    action_space.seed(0)
    columns = observation_tokenizer.stack([observation])
    for leaf in observation_tokenizer.leaves:
        if leaf.kind == "image" and task.spec.pixel_high is not None:  # random members know nothing of it
            columns[leaf.path] = np.minimum(columns[leaf.path], np.array(task.spec.pixel_high, np.uint8))
    return timestep_stream(
        columns,
        action_tokenizer.stack([action_space.sample()]),
        observation_tokenizer,
        action_tokenizer,
        name=task.name,
        about=about,
        instruction=task.instruction,
    )


def _first_observation(task: str, space: AnySpace) -> tuple[Any, str]:  # Any: a member of the space
    """What a new episode shows, or a random member of the space where the environment cannot be made here."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.envs.task import imported_module

    try:
        if imported_module(task) is not None:  # a file may not choose what is imported
            raise ValueError(task)
        env = find_tasks([task])[0].make(True)
    except (ValueError, ImportError):
        space.seed(0)
        return (
            space.sample(),
            "random members of its spaces (the environment is not installed, or would import a module)",
        )
    observation, _ = env.reset(seed=EVALUATION_SEED)
    env.close()
    return observation, "first timestep of a new episode, with a random action"


def _leaf_of_each(
    role: str, tokenizer: SpaceTokenizer, columns: Mapping[str, Values]
) -> Iterator[tuple[str, Leaf | None]]:
    """Name and leaf of each token of one value."""
    for leaf in tokenizer.leaves:
        name = f"{role}/{leaf.path}" if leaf.path else role
        for _ in range(int(leaf.encode(columns[leaf.path]).lengths.sum())):
            yield name, leaf


def _rows(
    tokens: Tokens,
    target: npt.NDArray[np.bool_],
    leaves: Sequence[tuple[str, Leaf | None]],
    vocabulary: Vocabulary,
) -> list[TokenRow]:
    kinds = vocabulary.kind(tokens.ids)
    patches, chunks = iter(_patches(tokens)), iter(tokens.chunks)
    rows: list[TokenRow] = []
    for position, (token, (name, leaf)) in enumerate(zip(tokens.ids.tolist(), leaves, strict=True)):
        kind = KINDS[kinds[position]]
        before = sum(row.leaf == name for row in rows)
        values: tuple[float, ...] = ()
        if kind == "chunk":
            size = CHUNK_WIDTH if leaf is None else int(np.prod(leaf.space.shape or ())) - CHUNK_WIDTH * before
            values = tuple(next(chunks)[: max(size, 1)].tolist())
        elif leaf is not None and leaf.kind == "bins":
            values = (_bin_values(leaf, tokens, leaves, name, vocabulary)[before],)
        rows.append(
            TokenRow(
                position=position,
                id=token,
                kind=kind,
                description=vocabulary.describe(token),
                local=int(tokens.local[position]),
                is_target=bool(target[position]),
                leaf=name,
                patch=next(patches) if kind == "patch" else None,
                values=values,
            )
        )
    return rows


def _bin_values(
    leaf: Leaf, tokens: Tokens, leaves: Sequence[tuple[str, Leaf | None]], name: str, vocabulary: Vocabulary
) -> list[float]:
    """What the bins of `leaf` decode to."""
    own = np.array([other == name for other, _ in leaves])
    value: npt.NDArray[Any] = leaf.decode(Cursor(plain(tokens.ids[own]), vocabulary))  # Any: of the leaf's dtype
    return [float(scalar) for scalar in np.asarray(value).reshape(-1)]


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
    foot += f" · ◆ {stream.n_targets} that the loss asks for · place: within the observation"
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
