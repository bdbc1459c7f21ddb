"""Datasets on disk: a folder of `dataset.json` and `part-*.parquet`, of episodes ("control") or of documents.

    dataset = Dataset.open("data/CartPole")
    episodes = dataset.read_part(0)                       # typed columns by leaf path
    lengths = dataset.lengths()                           # an index of all episodes, read without their values

Any Parquet reader opens the parts. Columns of a control part are `observation/<path>` and `action/<path>` (just
`observation` and `action` for a bare space), `reward`, `terminated`, `truncated`, `seed`, `length`, `success`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int64

from gato_lite.envs.columns import BadValue, column_name, stack
from gato_lite.envs.episodes import Episodes
from gato_lite.envs.folder import claim, sweep
from gato_lite.envs.format import (
    INFO_FILE,
    Ability,
    DatasetError,
    DatasetInfo,
    Part,
    read_info,
    write_json,
)
from gato_lite.envs.parts import (
    Document,
    Turn,
    part_name,
    read_document_rows,
    read_episodes,
    read_lengths,
    read_small_parts,
    sides,
    write_document_rows,
)
from gato_lite.fitting import PictureFit
from gato_lite.lock import FolderLock
from gato_lite.spaces import AnySpace, leaf_spaces, lone_surrogate, require_leaf, space_from_json
from gato_lite.whole import replacing

__all__ = [
    "Dataset",
    "DatasetError",
    "DatasetInfo",
    "Document",
    "Episodes",
    "Part",
    "Turn",
    "check",
    "place_of",
    "write_documents",
    "write_info",
]

_DOCUMENTS_IN_PART = 2000
_SMALL = 8192
"""Timesteps up to which parts are read together."""


class Dataset:
    """A dataset folder that is open for reading; nothing of it is changed."""

    def __init__(self, path: Path, info: DatasetInfo) -> None:
        self.path = path
        self.info = info
        self._spaces: tuple[AnySpace, AnySpace] | None = None
        if info.observation_space is not None and info.action_space is not None:
            self._spaces = space_from_json(info.observation_space), space_from_json(info.action_space)
            for space, what in zip(self._spaces, ("observation_space", "action_space"), strict=True):
                require_leaf(space, what)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The dataset in the folder `path`: its JSON is checked, and that every part is there with its size.

        Raises:
            DatasetError: which file is missing, damaged or of a later version, what was expected and found.
        """
        path = Path(path)
        info = read_info(path)
        try:
            dataset = cls(path, info)
        except ValueError as error:
            raise DatasetError(f"{path / INFO_FILE}: {error}") from error
        missing = [part.file for part in info.parts if not (path / part.file).is_file()]
        if missing:
            raise DatasetError(
                f"{path}: expected every part that {INFO_FILE} lists, found {len(missing)} of {len(info.parts)}"
                f" missing: {', '.join(missing)}; copy them here, or record again"
            )
        for part in info.parts:
            if problem := _size_problem(path, part):
                raise DatasetError(problem)
        return dataset

    @property
    def n_parts(self) -> int:
        """Parquet files."""
        return len(self.info.parts)

    @property
    def observation_space(self) -> AnySpace:
        """Space of the observations of a control dataset."""
        return self._control_spaces()[0]

    @property
    def action_space(self) -> AnySpace:
        """Space of the actions of a control dataset."""
        return self._control_spaces()[1]

    def read_part(self, index: int) -> Episodes:
        """The episodes of one part of a control dataset; its SHA-256 is verified, arrays are read-only.

        Raises:
            DatasetError: the file is damaged, or holds another number of rows or timesteps than it should.
        """
        part = self.info.parts[index]
        episodes = read_episodes(self.path / part.file, *self._control_spaces(), sha256=part.sha256)
        self._expect(part, len(episodes), int(episodes.lengths.sum()))
        return episodes

    def groups(self) -> list[list[int]]:
        """Places of all parts, neighbouring small ones together: each costs as much as thousands of values."""
        ends = np.cumsum([part.timesteps for part in self.info.parts])
        groups = np.split(np.arange(self.n_parts), np.flatnonzero(np.diff((ends - 1) // _SMALL)) + 1)
        return [group.tolist() for group in groups if len(group)]

    def read_sound_parts(self, indices: Sequence[int]) -> Episodes | None:
        """The episodes of neighbouring parts end to end, hashes and values checked as by `read_part` and `problems`.

        Returns:
            None where anything is amiss; those two, part by part, say what.
        """
        parts = [self.info.parts[index] for index in indices]
        episodes = read_small_parts(self.path, parts, *self._control_spaces())
        return None if episodes is None or any(True for _ in _episode_problems(self, episodes)) else episodes

    def problems(self, index: int, episodes: Episodes | None = None) -> list[str]:
        """Values of one part that do not fit the spaces, each with file, episode, key and step.

        Args:
            index: Place of the part.
            episodes: What `read_part` gave, where it was read already.
        """
        found = _document_problems(self, index) if self.info.kind == "documents" else None
        if found is None:
            found = _episode_problems(self, self.read_part(index) if episodes is None else episodes)
        return [f"{self.path / self.info.parts[index].file}: {text}" for text in found]

    def lengths(self) -> Int64[np.ndarray, " E"]:
        """Timesteps of every episode, in the order of the parts."""
        self._control_spaces()
        runs = [read_lengths(self.path / part.file, sha256=part.sha256) for part in self.info.parts]
        return np.concatenate([np.zeros(0, np.int64), *runs])

    def read_documents(self, split: str | None = None) -> list[Document]:
        """The documents of `split` ("train", "test"), or all of them."""
        return [row for index in range(self.n_parts) for row in self._documents(index) if split in {None, row.split}]

    def first_image(self) -> bytes | None:
        """The first picture, a PNG file, of the documents or of turns before them; parts after its own are not read."""
        documents = (row for index in range(self.n_parts) for row in self._documents(index))
        return next((turn.image for row in documents for turn in row.turns if turn.image is not None), None)

    def _documents(self, index: int) -> list[Document]:
        if self.info.kind != "documents":
            raise ValueError(f"{self.path}: expected a dataset of documents, got kind={self.info.kind!r}")
        part = self.info.parts[index]
        rows = read_document_rows(self.path / part.file, sha256=part.sha256)
        self._expect(part, len(rows), 0)
        return rows

    def _control_spaces(self) -> tuple[AnySpace, AnySpace]:
        if self._spaces is None:
            raise ValueError(f"{self.path}: expected a dataset of episodes, got kind={self.info.kind!r}")
        return self._spaces

    def _expect(self, part: Part, rows: int, timesteps: int) -> None:
        if (rows, timesteps) != (part.rows, part.timesteps):
            raise DatasetError(
                f"{self.path / part.file}: expected {part.rows} rows and {part.timesteps} timesteps,"
                f" found {rows} and {timesteps}"
            )


def write_info(path: Path, info: DatasetInfo) -> Dataset:
    """Write `dataset.json`, which makes a folder of parts a dataset; the last step of every writer.

    The parts of a dataset that it replaces are removed.
    """
    with replacing(path / INFO_FILE) as temporary:
        temporary.write_bytes(write_json(info))
    sweep(path)
    return Dataset.open(path)


def write_documents(
    out: str | Path,
    rows: Iterable[Document],
    *,
    name: str,
    licence: str | None = None,
    attribution: str | None = None,
    ability: Ability | None = None,
    pictures: PictureFit | None = None,
    generator: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Write documents as a new dataset in the folder `out`.

    Args:
        out: The folder; it is made.
        rows: Texts and captioned pictures, in the order in which they are stored.
        name: What the collection is called.
        licence: SPDX name or words.
        attribution: Who made the documents, as their licence asks it to be said.
        ability: What the documents teach, which is how they are scored; None reads it off them.
        pictures: How their pictures were fitted to a size.
        generator: What the documents were made from.
        overwrite: Whether a dataset in `out` may be replaced; it stays until the new one is whole.

    Raises:
        FileExistsError: `out` holds something, and `overwrite` is off or it is no dataset.
        ValueError: no rows, or a row that is bad; the message names its place.
    """
    out = Path(out)
    with FolderLock(out):
        first = claim(out, overwrite=overwrite)
        batches = _batches(checked_documents(rows), _DOCUMENTS_IN_PART)
        try:
            parts = [write_document_rows(out / part_name(first + n), batch) for n, batch in enumerate(batches)]
            if not parts:
                raise ValueError(f"rows of {name!r} must hold at least one document, got none")
        except BaseException:
            sweep(out)
            raise
        info = DatasetInfo(
            kind="documents",
            task=name,
            n_rows=sum(part.rows for part in parts),
            licence=licence,
            attribution=attribution,
            ability=ability,
            pictures=pictures,
            generator=dict(generator or {}),
            parts=tuple(parts),
        )
        return write_info(out, info)


def checked_documents(rows: Iterable[Document]) -> Iterator[Document]:
    """The same documents.

    Raises:
        ValueError: a row is bad; the message names its place.
    """
    for index, row in enumerate(rows):
        if problem := _document_problem(row):
            raise ValueError(f"document {index}: {problem}")
        yield row


def _document_problem(row: Document) -> str | None:
    if row.split not in {"train", "test"}:
        return f'expected split "train" or "test", got {row.split!r}'
    if row.image is None and not row.text:
        return "expected an image or text, got neither"
    if (row.prompt or row.before) and not row.text:
        return "expected an answer (text) after a prompt or after earlier turns, got none"
    for number, turn in enumerate(row.turns, 1):
        where = f"turn {number}: " if row.before else ""
        if turn.image is not None and not turn.image.startswith(b"\x89PNG\r\n\x1a\n"):
            return f"{where}expected an image as the bytes of a PNG file, got {turn.image[:8]!r}…"
        if turn == Turn():
            return f"{where}expected an image, a prompt or text, got none"
        for text in (turn.prompt, turn.text, row.group or ""):
            if (place := lone_surrogate(text)) is not None:
                return f"{where}expected text that UTF-8 can write, got a lone surrogate at {place} of {text[:40]!r}"
    return None


def _batches(rows: Iterable[Document], size: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def check(path: str | Path) -> list[str]:
    """Every problem of the dataset in `path`, each naming its file: hashes, counts and every value. Repairs nothing."""
    path = Path(path)
    try:
        dataset = Dataset(path, read_info(path))
    except ValueError as error:
        return [str(error) if str(path) in str(error) else f"{path / INFO_FILE}: {error}"]
    problems = [problem for index in range(dataset.n_parts) for problem in _part_problems(dataset, index)]
    listed = {part.file for part in dataset.info.parts}
    strays = sorted(file for file in dataset.path.glob("part-*.parquet") if file.name not in listed)
    return problems + [f"{file}: expected to be listed in {INFO_FILE}, found it is not" for file in strays]


def _size_problem(path: Path, part: Part) -> str | None:
    """Whether a part is there with its size; None if so."""
    file = path / part.file
    if not file.is_file():
        return f"{file}: expected {part.size} bytes, found no such file"
    size = file.stat().st_size
    return None if size == part.size else f"{file}: expected {part.size} bytes, found {size}: truncated or altered"


def _part_problems(dataset: Dataset, index: int) -> list[str]:
    if problem := _size_problem(dataset.path, dataset.info.parts[index]):
        return [problem]
    try:
        return dataset.problems(index)
    except DatasetError as error:
        return [str(error)]


def _document_problems(dataset: Dataset, index: int) -> Iterator[str]:
    for row, document in enumerate(dataset._documents(index)):  # noqa: SLF001  (its own module)
        if problem := _document_problem(document):
            yield f"document {row}: {problem}"


def _episode_problems(dataset: Dataset, episodes: Episodes) -> Iterator[str]:
    if (episodes.lengths < 1).any():
        yield f"episode {int(np.argmax(episodes.lengths < 1))}: expected at least one step, found none"
    if not (finite := np.isfinite(episodes.rewards)).all():
        episode, step = place_of(episodes.lengths, int(np.argmin(finite)))
        yield f"episode {episode}, reward, step {step}: expected a finite number, got {episodes.rewards[~finite][0]}"
    for role, space, columns, lengths in sides(episodes, dataset.observation_space, dataset.action_space):
        for leaf_path, leaf in leaf_spaces(space).items():
            try:
                stack(leaf, columns[leaf_path], role)
            except BadValue as error:
                episode, step = place_of(lengths, error.step)
                yield f"episode {episode}, {column_name(role, leaf_path)}, step {step}: {error}"


def place_of(lengths: Int64[np.ndarray, " E"], index: int) -> tuple[int, int]:
    """Episode, and step in it, of the value at `index` of a column that holds `lengths` values of each."""
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, index, side="right"))
    return episode, index - int(ends[episode] - lengths[episode])
