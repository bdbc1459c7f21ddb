"""Checkpoints that are whole or absent: folders of safetensors and JSON, verified whenever they are read.

`RUN/checkpoints/step_N/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and `manifest.json` (size and
SHA-256 of the other three). Decisions:

- A checkpoint is written to a hidden folder, every file and folder is fsynced, and one rename makes it visible. A kill
  at any moment leaves the old ones, or the old ones and the new one.
- Older ones go only after the new one is whole, and each leaves by a rename before its files are deleted.
- NaN and infinity are never saved and never loaded: a model that has them is lost, the checkpoint before it is not.
- Nothing is unpickled. A file that looks like a pickle is refused by name, since loading one runs its code.
- Hashes find damage, not malice: whoever can change a file can change the manifest beside it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gato_lite import __version__
from gato_lite.format_version import later_version
from gato_lite.tensor_files import is_pickle, not_finite, read_finite_tensors, shortened, storable
from gato_lite.whole import file_sha256, sync

FORMAT_VERSION: Final = 1
"""Version of the folder's format; a reader refuses later ones."""
FOLDER: Final = "checkpoints"
"""Folder of a run that holds its checkpoints."""
MODEL_FILE: Final = "model.safetensors"
"""Weights in a checkpoint's folder."""
OPTIMIZER_FILE: Final = "optimizer.safetensors"
"""Optimizer tensors in a checkpoint's folder."""

STATE_FILE: Final = "state.json"
"""The training loop's own state in a checkpoint's folder."""
MANIFEST_FILE: Final = "manifest.json"
"""Sizes and hashes of the others; a checkpoint without it is none."""
_NAMES: Final = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)
_STEP: Final = re.compile(r"step_(0|[1-9][0-9]*)")


class NotFiniteError(RuntimeError):
    """What was to be saved holds NaN or infinity; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one checkpoint holds."""

    path: Path
    """Folder it was read from."""
    step: int
    """Training steps done."""
    model: dict[str, torch.Tensor]
    """Weights by name, on the CPU."""
    optimizer: dict[str, torch.Tensor]
    """Optimizer tensors by name; empty when they were not asked for."""
    state: dict[str, Any]  # Any: whatever JSON the training loop put there
    """The training loop's own state."""


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and hash of one file."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal SHA-256."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `manifest.json` says."""

    format_version: int
    """Version of the folder's format."""
    gato_lite: str
    """Version of the package that wrote it."""
    step: int
    """Training steps done."""
    files: dict[str, FileRecord]
    """The other files of the folder."""


def save_checkpoint(
    run: Path | str,
    step: int,
    *,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],  # Any: JSON values
    keep: int = 2,
) -> Path:
    """Writes `RUN/checkpoints/step_N` and then deletes older checkpoints beyond the newest `keep`.

    A checkpoint of the same step is replaced. One process at a time may write to a run.

    Args:
        run: Folder of the run.
        step: Training steps done, at least 0.
        model: Weights by name.
        optimizer: Optimizer tensors by name.
        state: JSON-able values; NaN and infinity are refused.
        keep: Checkpoints to keep, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: `step` or `keep` is out of range, or `state` is not JSON.
        NotFiniteError: a tensor holds NaN or infinity.
        OSError: the disk refused; no checkpoint was lost.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"a checkpoint needs step ≥ 0 and keep ≥ 1, got step={step}, keep={keep}")
    try:
        encoded = json.dumps(dict(state), allow_nan=False, indent=1).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"a checkpoint's state must be JSON without NaN or infinity: {error}") from error
    folder = Path(run) / FOLDER
    if problems := [*not_finite(model), *not_finite(optimizer)]:
        known = list_checkpoints(run)
        kept = f"the newest checkpoint is still that of step {known[-1]}" if known else "there is no checkpoint yet"
        raise NotFiniteError(f"{folder / f'step_{step}'}: not saved, {shortened(problems)}; {kept}")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    partial = _hidden(folder, step)
    partial.mkdir()
    try:
        _write_files(partial, step, model, optimizer, encoded)
        target = folder / f"step_{step}"
        if target.exists():
            _remove(target)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(folder)
    sync(folder.parent)
    older = [other for other in list_checkpoints(run) if other < step]
    for other in older[: max(0, len(older) - (keep - 1))]:
        _remove(folder / f"step_{other}")
    return target


def _write_files(
    folder: Path, step: int, model: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor], state: bytes
) -> None:
    """A checkpoint's files, the manifest last, all of them on the disk."""
    _save_tensors(model, folder / MODEL_FILE)
    _save_tensors(optimizer, folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_bytes(state)
    paths = {name: folder / name for name in _NAMES}
    files = {name: FileRecord(size=path.stat().st_size, sha256=file_sha256(path)) for name, path in paths.items()}
    manifest = Manifest(format_version=FORMAT_VERSION, gato_lite=__version__, step=step, files=files)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    for name in (*_NAMES, MANIFEST_FILE):
        sync(folder / name)
    sync(folder)


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes a safetensors file; what the system refuses is an OSError, in place of the library's own error."""
    try:
        save_file(storable(tensors), path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def list_checkpoints(run: Path | str) -> list[int]:
    """Steps of the run's checkpoints, ascending; half-written ones are not among them."""
    folder = Path(run) / FOLDER
    if not folder.is_dir():
        return []
    found = (_STEP.fullmatch(entry.name) for entry in folder.iterdir() if (entry / MANIFEST_FILE).is_file())
    return sorted(int(match[1]) for match in found if match)


def checkpoint_step(folder: Path) -> int | None:
    """The step of the run's checkpoint that `folder` is; None where it is none."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match and folder.parent.name == FOLDER else None


def load_checkpoint(path: Path | str, *, step: int | None = None, with_optimizer: bool = True) -> Checkpoint:
    """Reads a checkpoint and verifies the size and hash of every file it takes.

    Args:
        path: A run, or the folder of one checkpoint.
        step: Which of a run's checkpoints; None takes the newest.
        with_optimizer: Whether to read the optimizer too; False leaves it empty.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: a file is missing, altered, truncated, a pickle, or of a later format; the message names the file,
            what was expected and found, and an older checkpoint that is intact.
    """
    folder = _find(Path(path), step)
    try:
        return _read(folder, with_optimizer=with_optimizer)
    except ValueError as error:
        raise ValueError(f"{error}{_intact_before(folder)}") from error


def set_aside_after(run: Path | str, step: int) -> list[Path]:
    """Renames the checkpoints after `step` to `aside_step_N`, which no reader takes and no writer deletes."""
    folder = Path(run) / FOLDER
    moved = []
    for later in [other for other in list_checkpoints(run) if other > step]:
        target = folder / f"aside_step_{later}"
        for number in itertools.count(2):  # it may have been gone back from before
            if not target.exists():
                break
            target = folder / f"aside_step_{later}_{number}"
        moved.append((folder / f"step_{later}").rename(target))
    if moved:
        sync(folder)
    return moved


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the checkpoint in `folder`.

    Raises:
        ValueError: it is missing, not a manifest, of a later format, or of another step than the folder's name says.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ValueError(f"{path}: missing, so this checkpoint was never finished{_other_weights(folder)}")
    try:
        data = path.read_bytes()
        if problem := later_version(data, FORMAT_VERSION):
            raise ValueError(f"{path}: {problem}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a checkpoint's manifest, found other content ({error})") from error
    if set(manifest.files) != set(_NAMES):
        raise ValueError(f"{path}: expected the files {', '.join(_NAMES)}, found {', '.join(sorted(manifest.files))}")
    match = _STEP.fullmatch(folder.name)
    if match and int(match[1]) != manifest.step:
        raise ValueError(f"{path}: expected step {match[1]} as the folder's name says, found step {manifest.step}")
    return manifest


def checkpoint_problems(folder: Path, names: Collection[str] = _NAMES) -> list[str]:
    """What is wrong with the files of the checkpoint in `folder`, a line each; empty when it is intact."""
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    found = (_file_problem(folder / name, manifest.files[name]) for name in _NAMES if name in names)
    return [problem for problem in found if problem]


def _find(path: Path, step: int | None) -> Path:
    """The folder of the checkpoint that `path` and `step` mean."""
    if path.is_file():
        kind = "a pickle, which can run code when loaded" if is_pickle(path) else "a file"
        raise ValueError(f"{path}: expected the folder of a run or checkpoint with safetensors, found {kind}")
    if _STEP.fullmatch(path.name) and path.is_dir():
        return path
    steps = list_checkpoints(path)
    if not steps:
        raise FileNotFoundError(f"{path}: expected a run with a whole checkpoint in {FOLDER}/, found none")
    if step is None:
        return path / FOLDER / f"step_{steps[-1]}"
    if step not in steps:
        known = ", ".join(str(known) for known in steps)
        raise FileNotFoundError(f"{path}: no checkpoint of step {step}; there are those of steps {known}")
    return path / FOLDER / f"step_{step}"


def _read(folder: Path, *, with_optimizer: bool) -> Checkpoint:
    """The checkpoint in `folder`, once its files are found to be those of the manifest."""
    manifest = read_manifest(folder)
    problems = checkpoint_problems(folder, _NAMES if with_optimizer else (MODEL_FILE, STATE_FILE))
    if problems:
        raise ValueError("; ".join(problems))
    return Checkpoint(
        path=folder,
        step=manifest.step,
        model=read_finite_tensors(folder / MODEL_FILE),
        optimizer=read_finite_tensors(folder / OPTIMIZER_FILE) if with_optimizer else {},
        state=read_state(folder),
    )


def _intact_before(folder: Path) -> str:
    """Words that point to the newest intact checkpoint older than `folder`, or nothing."""
    damaged = checkpoint_step(folder)
    if damaged is None:
        return ""
    for step in reversed([step for step in list_checkpoints(folder.parent.parent) if step < damaged]):
        previous = folder.parent / f"step_{step}"
        with contextlib.suppress(ValueError):
            _read(previous, with_optimizer=True)
            return (
                f". The previous checkpoint step_{step} is intact: train on from it with --resume --from-step {step},"
                f" or give {previous} in place of the run"
            )
    return ". No older checkpoint is intact"


def _file_problem(path: Path, expected: FileRecord) -> str | None:
    """What is wrong with one file, or None."""
    if not path.is_file():
        return f"{path}: expected {expected.size} bytes, found no file{_other_weights(path.parent)}"
    if is_pickle(path):
        return f"{path}: expected safetensors or JSON, found a pickle, which can run code when loaded: refused"
    size = path.stat().st_size
    if size != expected.size:
        return f"{path}: expected {expected.size} bytes, found {size}: the file is truncated or altered"
    if (found := file_sha256(path)) != expected.sha256:
        return f"{path}: expected SHA-256 {expected.sha256}, found {found}: the file is altered"
    return None


def _other_weights(folder: Path) -> str:
    """A word on pickled weights that lie where safetensors should."""
    names = sorted(e.name for e in folder.iterdir() if e.suffix in {".pt", ".pth", ".bin", ".pkl", ".ckpt"})
    return f" ({', '.join(names)} is a pickle, which can run code when loaded: refused)" if names else ""


def read_state(folder: Path) -> dict[str, Any]:  # Any: JSON
    """`state.json` of the checkpoint in `folder`; integers of any size stay exact, as generators' states need.

    Raises:
        ValueError: it is no JSON object.
    """
    path = folder / STATE_FILE
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found other content ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _hidden(folder: Path, step: int) -> Path:
    """A new name that `list_checkpoints` does not take for a checkpoint's."""
    return folder / f".step_{step}.{secrets.token_hex(4)}"


def _remove(checkpoint: Path) -> None:
    """Deletes a checkpoint so that it is never seen half there."""
    match = _STEP.fullmatch(checkpoint.name)
    hidden = _hidden(checkpoint.parent, int(match[1]) if match else 0)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _remove_leftovers(folder: Path) -> None:
    """Deletes what a killed process left half-written or half-deleted."""
    for entry in folder.glob(".step_*"):
        shutil.rmtree(entry, ignore_errors=True)
