"""Checks every hash, schema and value of a run, a checkpoint or a dataset; reads only, repairs nothing.

All problems are found, not only the first: each is a line that names the file, what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gato_lite.checkpoint import (
    FOLDER,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    checkpoint_problems,
    checkpoint_step,
    list_checkpoints,
    read_state,
)
from gato_lite.envs.dataset import check
from gato_lite.envs.format import INFO_FILE
from gato_lite.model import Gato
from gato_lite.run import (
    CONFIG_FILE,
    RunConfig,
    read_run_config,
    read_vocabulary,
    run_and_step,
    vocabulary_problem,
    weight_problems,
)
from gato_lite.tensor_files import is_pickle, not_finite, read_tensors
from gato_lite.train.metrics import METRICS_FILE, metrics_line

Kind = Literal["run", "checkpoint", "dataset", "weights", "folder"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found at one path."""

    path: Path
    """The folder, or the file."""
    kind: Kind
    """What it holds."""
    checked: tuple[str, ...]
    """Files and folders that were looked at, relative to `path`."""
    problems: tuple[str, ...]
    """What is wrong, a line each; empty when all is whole."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """The same as JSON values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "ok": self.ok,
            "checked": list(self.checked),
            "problems": list(self.problems),
        }


def verify(path: Path | str) -> Verification:
    """Checks all that is at `path`: a run, a checkpoint, a dataset, a file of weights, or a folder of such.

    A file of a checkpoint or of a dataset is judged with the others of its folder.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is something else.
    """
    path = Path(path)
    if path.is_file():
        return _verify_file(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected a run, a checkpoint, a dataset or a file of weights, found nothing")
    if (path / INFO_FILE).is_file():
        parts = (part.name for part in sorted(path.glob("part-*.parquet")))
        return Verification(path=path, kind="dataset", checked=(INFO_FILE, *parts), problems=tuple(check(path)))
    if (path / CONFIG_FILE).is_file() or (path / FOLDER).is_dir():
        return _verify_run(path)
    if (path / MANIFEST_FILE).is_file() or checkpoint_step(path) is not None:
        run = run_and_step(path)[0]
        model = _model_of(run, []) if run != path else None
        return _found(path, "checkpoint", ["."], _checkpoint_problems(path, model))
    found = [verify(child) for child in sorted(path.iterdir()) if child.is_dir() and _is_known(child)]
    if not found:
        raise ValueError(
            f"{path}: expected a run ({CONFIG_FILE}), a checkpoint ({MANIFEST_FILE}), a dataset ({INFO_FILE}) or a "
            "folder of them, found none of them"
        )
    checked = [f"{each.path.name}/{name}" for each in found for name in each.checked]
    return _found(path, "folder", checked, (problem for each in found for problem in each.problems))


def _found(path: Path, kind: Kind, checked: Iterable[str], problems: Iterable[str]) -> Verification:
    return Verification(path=path, kind=kind, checked=tuple(checked), problems=tuple(problems))


def _is_known(folder: Path, depth: int = 2) -> bool:
    """Whether `verify` finds something to judge in a folder."""
    if any((folder / name).exists() for name in (INFO_FILE, CONFIG_FILE, FOLDER, MANIFEST_FILE)):
        return True
    return depth > 0 and any(child.is_dir() and _is_known(child, depth - 1) for child in folder.iterdir())


def _verify_file(path: Path) -> Verification:
    """Judges a file's folder where it belongs to one, else its tensors."""
    for sign in (INFO_FILE, MANIFEST_FILE, CONFIG_FILE):
        if (path.parent / sign).is_file():
            return verify(path.parent)
    if is_pickle(path):
        problems = [f"{path}: expected safetensors, found a pickle, which can run code when loaded: refused"]
    elif path.suffix == ".safetensors":
        problems = list(_tensor_problems(path))
    else:
        raise ValueError(f"{path}: expected a run, a checkpoint, a dataset or a .safetensors file, found another file")
    return _found(path, "weights", (path.name,), problems)


def _tensor_problems(path: Path, model: Gato | None = None) -> Iterator[str]:
    """What is wrong with the tensors in a file; names and shapes only where the `model` is known."""
    try:
        tensors = read_tensors(path)
    except ValueError as error:
        yield str(error)
        return
    problems = [*([] if model is None else weight_problems(model, tensors)), *not_finite(tensors)]
    yield from (f"{path}: {problem}" for problem in problems)


def _verify_run(run: Path) -> Verification:
    checked = [CONFIG_FILE]
    problems: list[str] = []
    model = _model_of(run, problems)
    if model is not None:
        checked += ["vocabulary.json", *(f"task {task.name}" for task in model.formats)]
    if (run / METRICS_FILE).is_file():
        checked.append(METRICS_FILE)
        problems += _metrics_problems(run / METRICS_FILE)
    steps = list_checkpoints(run)
    if not steps:
        problems.append(f"{run / FOLDER}: expected a whole checkpoint, found none")
    whole = {f"step_{step}" for step in steps}
    others = sorted(entry.name for entry in (run / FOLDER).glob("step_*") if entry.name not in whole)
    problems += [f"{run / FOLDER / name}: expected a whole checkpoint, found no {MANIFEST_FILE}" for name in others]
    for step in steps:
        checked.append(f"{FOLDER}/step_{step}")
        problems += _checkpoint_problems(run / FOLDER / f"step_{step}", model)
    return Verification(path=run, kind="run", checked=tuple(checked), problems=tuple(problems))


def _model_of(run: Path, problems: list[str]) -> Gato | None:
    """The run's model without memory for its weights; None where `problems`, which grow, keep it from being known."""
    try:
        config = read_run_config(run)
        vocabulary = read_vocabulary(run, config)
        problems += _task_problems(run, config)
        with torch.device("meta"):
            model = Gato(config.model, vocabulary)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return None
    model.formats = config.tasks
    return model


def _task_problems(run: Path, config: RunConfig) -> Iterator[str]:
    for task in config.tasks:
        try:
            _ = task.spaces
        except ValueError as error:
            yield f"{run / CONFIG_FILE}: task {task.name}: {error}"


def _checkpoint_problems(folder: Path, model: Gato | None) -> Iterator[str]:
    """Problems of the files, then of what is in those that are whole."""
    problems = checkpoint_problems(folder)
    yield from problems
    if problems:
        return
    yield from _tensor_problems(folder / MODEL_FILE, model)
    yield from _tensor_problems(folder / OPTIMIZER_FILE)
    try:
        state = read_state(folder)
    except ValueError as error:
        yield str(error)
        return
    if model is not None and (problem := vocabulary_problem(model, state)):
        yield f"{folder / STATE_FILE}: {problem}"


def _metrics_problems(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if metrics_line(line) is None:
            yield f"{path}: line {number}: expected a JSON object, found {line[:40]!r}"
