"""The words of `dataset.json`: what a dataset folder says about itself, as strict typed structs.

A reader that knows nothing but this file can train on the folder: spaces, token spec and instruction are in it.
"""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import msgspec

from gato_lite.config import TokenSpec
from gato_lite.fitting import PictureFit
from gato_lite.format_version import later_version
from gato_lite.names import unknown_field
from gato_lite.spaces import Json

FORMAT_VERSION: Final = 1
"""Version of the folder format that this code writes, and the latest that it reads."""
INFO_FILE: Final = "dataset.json"
BLOCK: Final = 100
"""Episodes in one part of a recording."""

Ability = Literal["text", "caption", "class", "question", "translation", "dialogue"]
"""What a dataset of documents teaches."""

Metric = Literal["return", "success"]
"""What a task's score is the mean of."""
OnBad = Literal["error", "skip"]
"""Whether what is bad is an error, or left out and counted."""

PART_NAME: Final = re.compile(r"part-[0-9]{6}\.parquet")
"""What the files of a dataset's parts are called."""


class DatasetError(ValueError):
    """A dataset folder that is not what it says: which file, what was expected, what was found."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Parquet file of a dataset."""

    file: str
    """Name within the folder."""
    rows: int
    """Episodes or documents."""
    timesteps: int
    """Sum of the episodes' lengths; 0 for documents."""
    size: int
    """Bytes."""
    sha256: str
    """Digest of the file, hexadecimal."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy reached over seeded episodes."""

    mean: float
    """Mean of the task's metric: return, or share of episodes with success."""
    std: float
    """Standard deviation over episodes."""
    success: float | None
    """Share of episodes with success; None where the task knows none."""
    episodes: int
    """Episodes measured."""
    length: float
    """Mean number of timesteps."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The two ends of a task's scale."""

    random: Score
    """Actions drawn from the action space."""
    expert: Score
    """The task's expert."""


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `dataset.json`."""

    format_version: int = FORMAT_VERSION
    kind: Literal["control", "documents"]
    """A row per episode, or a row per document."""
    task: str
    """Name of the task, or of the collection of documents."""
    observation_space: Json | None = None
    """As `space_to_json` writes it; None for documents."""
    action_space: Json | None = None
    """As `space_to_json` writes it; None for documents."""
    spec: TokenSpec = TokenSpec()
    """How observations become tokens."""
    instruction: str | None = None
    """What to do, in words; the first leaf of an episode's first timestep."""
    metric: Metric = "return"
    """What a score of the task is the mean of."""
    generator: dict[str, str] = {}
    """Versions of the packages that made the values, and what acted."""
    seed: int | None = None
    """First environment seed."""
    n_rows: int
    """Episodes or documents."""
    n_timesteps: int = 0
    """Sum of the episodes' lengths."""
    n_failed: int = 0
    """Episodes left out because the expert failed, raised or ran out of time."""
    n_skipped: int = 0
    """Episodes left out because a value of theirs was bad."""
    reference: Reference | None = None
    """Scores of a random policy and of the expert."""
    licence: str | None = None
    """SPDX name or words."""
    attribution: str | None = None
    """Who made the values, as their licence asks it to be said."""
    ability: Ability | None = None
    """What documents teach, which is how they are scored; None where nobody said, and for episodes."""
    pictures: PictureFit | None = None
    """How pictures were fitted as they came in; None where there are none, where nobody said, and for episodes."""
    parts: tuple[Part, ...]


def read_info(path: Path) -> DatasetInfo:
    """What the folder `path` says about itself.

    Raises:
        DatasetError: there is no whole dataset at `path`, or its `dataset.json` is damaged or of a later version.
    """
    file = path / INFO_FILE
    if not file.is_file():
        found = "a recording that was not finished" if any(path.glob("part-*")) else "none"
        raise DatasetError(f"{path}: expected a dataset ({INFO_FILE} and part-*.parquet), found {found}")
    return parse_info(file.read_bytes(), str(file))


def parse_info(data: bytes, file: str) -> DatasetInfo:
    """What a dataset says about itself in the JSON `data`.

    Args:
        data: The content of `dataset.json`.
        file: Where it stands, for errors.

    Raises:
        DatasetError: it is damaged or of a later version.
    """
    try:
        if problem := later_version(data, FORMAT_VERSION):
            raise DatasetError(f"{file}: {problem}")
        info = msgspec.json.decode(data, type=DatasetInfo)
        if problem := unknown_field("spec", msgspec.json.decode(data).get("spec", {}), TokenSpec):
            raise DatasetError(f"{file}: {problem}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{file}: expected the JSON of a dataset, found damage: {error}") from error
    _check_info(file, info)
    return info


def _check_info(file: str, info: DatasetInfo) -> None:
    for part in info.parts:
        if not PART_NAME.fullmatch(part.file):
            raise DatasetError(f"{file}: expected parts named part-000000.parquet, found {part.file!r}")
    if len({part.file for part in info.parts}) != len(info.parts):
        raise DatasetError(f"{file}: expected every part once, found one listed twice")
    for name, total, stated in (
        ("n_rows", sum(part.rows for part in info.parts), info.n_rows),
        ("n_timesteps", sum(part.timesteps for part in info.parts), info.n_timesteps),
    ):
        if total != stated:
            raise DatasetError(f"{file}: expected {name}={total}, the sum over its parts, found {name}={stated}")
    if info.kind == "control" and (info.observation_space is None or info.action_space is None):
        raise DatasetError(f"{file}: expected observation_space and action_space, found none")


def write_json(value: msgspec.Struct) -> bytes:
    """`value` as indented JSON with a last newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the installed ones among `packages`."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
