"""The folder of a run: what is written into it, what may be replaced, and a new or resumed run's model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Dataset
from gato_lite.lock import FolderLock
from gato_lite.model import Gato
from gato_lite.run import (
    CONFIG_FILE,
    PICTURES_KEY,
    TEXT_MODEL_FILE,
    VOCABULARY_FILE,
    RunConfig,
    RunError,
    TaskFormat,
    read_run_config,
    read_vocabulary,
    task_format,
    write_run,
)
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.asking import FOLDER as ASKED_FOLDER
from gato_lite.train.loop import Length
from gato_lite.train.metrics import METRICS_FILE
from gato_lite.train.settings import TrainConfig
from gato_lite.whole import final_name

RUN_ENTRIES: Final = frozenset(
    {
        CONFIG_FILE,
        VOCABULARY_FILE,
        TEXT_MODEL_FILE,
        METRICS_FILE,
        "checkpoints",
        ASKED_FOLDER,
        "report.html",
        "films",
    }
)
"""Names of what is written into a run's folder, TensorBoard's events apart."""
LENGTHS: Final = tuple(field.name for field in fields(Length))
"""How long a run is: one of these."""
FREE: Final = frozenset(
    {
        *LENGTHS,
        "accumulate",
        "compile",
        "checkpoint_activations",
        "log_every",
        "checkpoint_every_s",
        "evaluate_every_s",
        PICTURES_KEY,
    }
)
"""What a resumed run may change: how long it is, how its steps are computed, and how often it tells of itself."""


def formats_of(datasets: Sequence[Dataset]) -> tuple[TaskFormat, ...]:
    """The format of each control task, the first dataset of a task deciding."""
    formats: dict[str, TaskFormat] = {}
    for dataset in datasets:
        info = dataset.info
        if info.kind == "control" and info.task not in formats:
            formats[info.task] = task_format(
                info.task, dataset.observation_space, dataset.action_space, info.spec, info.instruction
            )
    return tuple(formats.values())


def prepare_run(
    config: TrainConfig,
    datasets: Sequence[Dataset],
    out: Path,
    *,
    training: dict[str, Any],
    shape: GatoConfig | None = None,
    vocabulary: Vocabulary | None = None,
    known: Sequence[TaskFormat] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Gato:
    """The folder of a run, new or to be resumed, and its model with fresh weights.

    Args:
        config: the recipe.
        datasets: what it trains on.
        out: the folder.
        training: what else the run is to remember of how it was trained.
        shape: of the model; None takes the recipe's.
        vocabulary: of the model; None takes the shipped one.
        known: formats of tasks that the model knows already.
        resume: take the run that is there.
        overwrite: replace it.

    Raises:
        FileExistsError: there is a run and neither `resume` nor `overwrite` was asked for, or something that no run
            writes, which is never deleted.
        RunError: the run to be resumed is of another model.
    """
    if is_begun(out, resume=resume):
        return _take_up(config, out, training)
    _check_free(out, resume=resume, overwrite=overwrite)
    vocabulary = vocabulary if vocabulary is not None else Vocabulary.shipped()
    shape = config.model(vocabulary.size) if shape is None else shape
    gato = Gato(shape, vocabulary, seed=config.seed).to(training_device())
    if out.exists():
        _clear_run(out)
    formats = {task.name: task for task in (*known, *formats_of(datasets))}
    gato.formats = tuple(formats.values())
    run_config = RunConfig(
        model=gato.config,
        tasks=gato.formats,
        vocabulary=vocabulary.fingerprint,
        training={**asdict(config), **training},
    )
    write_run(out, run_config, vocabulary)
    return gato


def is_begun(out: Path, *, resume: bool) -> bool:
    """Whether there is a run in `out` to be gone on with; where there is none, `resume` begins one."""
    return resume and (out / CONFIG_FILE).exists()


def _take_up(config: TrainConfig, out: Path, training: dict[str, Any]) -> Gato:  # Any: as RunConfig.training
    """The model of the run that is there, with fresh weights; the run then says how long it is now."""
    stored = read_run_config(out)
    if "published" in stored.training:
        raise RunError(
            f"'{out}' is a published run, which has no optimizer state to go on from; begin another run with its "
            f"weights: --init {out} --out RUN"
        )
    vocabulary = read_vocabulary(out, stored)
    _check_same(out / CONFIG_FILE, stored.training, {**asdict(config), **training})
    gato = Gato(stored.model, vocabulary, seed=config.seed).to(training_device())
    gato.formats = stored.tasks
    lengths = {key: training[key] for key in LENGTHS if key in training}
    if any(stored.training.get(key) != value for key, value in lengths.items()):
        write_run(out, msgspec.structs.replace(stored, training={**stored.training, **lengths}), vocabulary)
    return gato


def _run_entries(out: Path) -> tuple[list[Path], list[Path]]:
    """What a run writes, and everything else, in a folder; its lock is neither."""
    ours: list[Path] = []
    others: list[Path] = []
    for entry in sorted(entry for entry in out.iterdir() if entry.name != FolderLock.NAME):
        known = final_name(entry.name) in RUN_ENTRIES or entry.name.startswith("events.out.tfevents.")
        (ours if known else others).append(entry)
    return ours, others


def _check_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises a FileExistsError where a run in `out` would replace something that it may not."""
    begun = resume and out.exists() and not _run_entries(out)[1]  # killed before its configuration was there
    if out.exists() and any(map(len, _run_entries(out))) and not begun:
        if not overwrite:
            raise FileExistsError(
                f"'{out}' is not empty; go on with --resume, replace it with --overwrite, or use another --out"
            )
        _check_only_a_run(out)


def _check_only_a_run(out: Path) -> None:
    """Raises a FileExistsError where `out` is no run, or holds more than a run."""
    _, others = _run_entries(out)
    if others:
        raise FileExistsError(
            f"'{out}' holds '{others[0].name}', which no run writes and --overwrite does not delete; move it, or use "
            "another --out"
        )
    if not (out / VOCABULARY_FILE).is_file() or not (out / CONFIG_FILE).is_file():
        raise FileExistsError(f"'{out}' holds something that is not a run; delete it yourself or use another --out")


def _clear_run(out: Path) -> None:
    """Deletes what a run wrote, the folder itself left in place."""
    for entry in _run_entries(out)[0]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def training_device() -> torch.device:
    """A CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_same(file: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises a RunError that names what the run to be resumed was trained with and is asked to change.

    What a run does not name it has as it is by default: options that came after it began.
    """
    stored = {**msgspec.to_builtins(asdict(TrainConfig())), **stored}
    asked = msgspec.to_builtins(asked)
    changed = [name for name in asked if name not in FREE and stored.get(name) != asked[name]]
    if changed:
        told = "; ".join(f"{name} was {stored.get(name)}, got {asked[name]}" for name in changed[:4])
        raise RunError(f"{file}: --resume needs the recipe, options and data that began the run: {told}")
