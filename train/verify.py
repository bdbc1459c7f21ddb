"""Checks every hash, schema and value of a run, a checkpoint or a dataset; reads only, repairs nothing.

All problems are found, not only the first: each is a line that names the file, what was expected and what was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gato_lite.checkpoint import FOLDER, MODEL_FILE, OPTIMIZER_FILE, checkpoint_problems, list_checkpoints
from gato_lite.envs.dataset import check
from gato_lite.model import Gato
from gato_lite.run import CONFIG_FILE, RunConfig, read_run_config, read_vocabulary, weight_problems
from gato_lite.tokenizers.vocabulary import Vocabulary

_DATASET_FILE: Final = "dataset.json"
_MANIFEST_FILE: Final = "manifest.json"
_METRICS_FILE: Final = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found in one folder."""

    path: Path
    """The folder."""
    kind: Literal["run", "checkpoint", "dataset"]
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
    """Checks all that the folder holds.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds neither a run, nor a checkpoint, nor a dataset.
    """
    path = Path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise FileNotFoundError(f"{path}: expected the folder of a run, a checkpoint or a dataset, found {found}")
    if (path / _DATASET_FILE).is_file():
        parts = (part.name for part in sorted(path.glob("part-*.parquet")))
        checked = (_DATASET_FILE, *parts)
        return Verification(path=path, kind="dataset", checked=checked, problems=tuple(check(path)))
    if (path / CONFIG_FILE).is_file() or (path / FOLDER).is_dir():
        return _verify_run(path)
    if (path / _MANIFEST_FILE).is_file():
        problems = tuple(_checkpoint_problems(path, None))
        return Verification(path=path, kind="checkpoint", checked=(".",), problems=problems)
    raise ValueError(
        f"{path}: expected a run ({CONFIG_FILE}), a checkpoint ({_MANIFEST_FILE}) or a dataset ({_DATASET_FILE}), "
        "found none of them"
    )


def _verify_run(run: Path) -> Verification:
    checked = [CONFIG_FILE]
    problems: list[str] = []
    model: Gato | None = None
    try:
        config = read_run_config(run)
        checked.append("vocabulary.json")
        vocabulary = read_vocabulary(run, config)
        checked += [f"task {task.name}" for task in config.tasks]
        problems += _task_problems(run, config)
        model = _weightless(config, vocabulary)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    if (run / _METRICS_FILE).is_file():
        checked.append(_METRICS_FILE)
        problems += _metrics_problems(run / _METRICS_FILE)
    steps = list_checkpoints(run)
    if not steps:
        problems.append(f"{run / FOLDER}: expected a whole checkpoint, found none")
    whole = {f"step_{step}" for step in steps}
    others = sorted(entry.name for entry in (run / FOLDER).glob("step_*") if entry.name not in whole)
    problems += [f"{run / FOLDER / name}: expected a whole checkpoint, found no {_MANIFEST_FILE}" for name in others]
    for step in steps:
        checked.append(f"{FOLDER}/step_{step}")
        problems += _checkpoint_problems(run / FOLDER / f"step_{step}", model)
    return Verification(path=run, kind="run", checked=tuple(checked), problems=tuple(problems))


def _weightless(config: RunConfig, vocabulary: Vocabulary) -> Gato:
    """The model's names and shapes, without memory for its weights."""
    with torch.device("meta"):
        return Gato(config.model, vocabulary)


def _task_problems(run: Path, config: RunConfig) -> Iterator[str]:
    for task in config.tasks:
        try:
            _ = task.spaces
        except ValueError as error:
            yield f"{run / CONFIG_FILE}: task {task.name}: {error}"


def _checkpoint_problems(folder: Path, model: Gato | None) -> Iterator[str]:
    """Problems of the files, then of the tensors in those that are whole; shapes only where the `model` is known."""
    problems = checkpoint_problems(folder)
    yield from problems
    if problems:
        return
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        path = folder / name
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            yield f"{path}: expected safetensors, found other content ({error})"
            continue
        if name == MODEL_FILE and model is not None:
            yield from (f"{path}: {problem}" for problem in weight_problems(model, tensors))
        for key, tensor in sorted(tensors.items()):
            n_bad = int((~torch.isfinite(tensor)).sum())
            if n_bad:
                yield f"{path}: {key}: expected finite numbers, found NaN or infinity in {n_bad} of {tensor.numel()}"


def _metrics_problems(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            yield f"{path}: line {number}: expected a JSON object, found {line[:40]!r}"
