"""From datasets and a recipe to a run: opens the data, writes the run's folder, trains or resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from gato_lite.envs.catalogue import all_tasks
from gato_lite.envs.dataset import Dataset, Turn
from gato_lite.lock import FolderLock
from gato_lite.model import Gato
from gato_lite.run import (
    CONFIG_FILE,
    TEXT_MODEL_FILE,
    VOCABULARY_FILE,
    RunConfig,
    RunError,
    TaskFormat,
    read_run_config,
    read_vocabulary,
    write_run,
)
from gato_lite.spaces import space_to_json
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.evaluate import evaluator
from gato_lite.train.exchanges import ExchangeSource
from gato_lite.train.loop import Length, Progress, Trainer
from gato_lite.train.mixture import Mixture
from gato_lite.train.ranks import ALONE, Ranks
from gato_lite.train.settings import TrainConfig
from gato_lite.train.shelf import dataset_folder
from gato_lite.train.sources import ControlSource, Source, TextSource

RUN_ENTRIES: Final = frozenset(
    {CONFIG_FILE, VOCABULARY_FILE, TEXT_MODEL_FILE, "metrics.jsonl", "checkpoints", "report.html", "films"}
)
"""Names of what is written into a run's folder, TensorBoard's events apart."""


def open_data(name: str) -> Dataset:
    """A dataset folder, or one of the shipped datasets ("emoji", "text") by its name.

    Raises:
        FileNotFoundError: it is neither.
    """
    return Dataset.open(dataset_folder(name))


def sources_of(dataset: Dataset, vocabulary: Vocabulary, config: TrainConfig) -> list[Source]:
    """The sources in a dataset: one for control; for documents one of exchanges, one of plain text, or both.

    Raises:
        ValueError: the dataset has nothing to train on.
    """
    if dataset.info.kind == "control":
        return [ControlSource(dataset, vocabulary)]
    documents = [(row, document) for row, document in enumerate(dataset.read_documents()) if document.split == "train"]
    texts = {row: document.text for row, document in documents if document.turns == (Turn(text=document.text),)}
    others = {row: document for row, document in documents if row not in texts}
    name, origin = dataset.info.task, str(dataset.path)
    found: list[Source] = []
    if others:
        found.append(
            ExchangeSource(
                list(others.values()),
                vocabulary,
                name=name,
                patch_size=config.model(vocabulary.size).patch_size,
                augment=config.augment,
                all_text=config.loss_on == "text",
                n_example=config.n_example,
                origin=origin,
                rows=list(others),
            )
        )
    if texts:
        own_name = name if not others else f"{name}/text"
        found.append(TextSource(list(texts.values()), vocabulary, name=own_name, origin=origin, rows=list(texts)))
    if not found:
        raise ValueError(f"dataset '{dataset.path}' has no document in its train split; import more documents")
    return found


def formats_of(datasets: Sequence[Dataset]) -> tuple[TaskFormat, ...]:
    """The format of each control task, the first dataset of a task deciding."""
    formats: dict[str, TaskFormat] = {}
    for dataset in datasets:
        info = dataset.info
        if info.kind == "control" and info.task not in formats:
            formats[info.task] = TaskFormat(
                name=info.task,
                observation_space=space_to_json(dataset.observation_space),
                action_space=space_to_json(dataset.action_space),
                spec=info.token_spec,
                instruction=info.instruction,
            )
    return tuple(formats.values())


def weighted_sources(
    data: Sequence[tuple[Dataset, float]],
    vocabulary: Vocabulary,
    config: TrainConfig,
    on_dataset: Callable[[int, int], None] | None = None,
) -> list[tuple[Source, float]]:
    """Sources with their weights; a dataset of exchanges and of texts divides its weight equally."""
    weighted: list[tuple[Source, float]] = []
    for index, (dataset, weight) in enumerate(data):
        found = sources_of(dataset, vocabulary, config)
        weighted += [(source, weight / len(found)) for source in found]
        if on_dataset is not None:
            on_dataset(index + 1, len(data))
    return weighted


def make_mixture(weighted: Sequence[tuple[Source, float]], vocabulary: Vocabulary, config: TrainConfig) -> Mixture:
    """The mixture of weighted sources that the recipe asks for."""
    return Mixture(
        [source for source, _ in weighted],
        [weight for _, weight in weighted],
        vocabulary,
        tokens_per_step=config.tokens_per_step,
        context_length=config.context_length,
        seed=config.seed,
    )


def prepare_run(
    config: TrainConfig,
    datasets: Sequence[Dataset],
    out: Path,
    *,
    training: dict[str, Any],
    vocabulary: Vocabulary | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Gato:
    """The folder of a run, new or to be resumed, and its model with fresh weights.

    Raises:
        FileExistsError: there is a run and neither `resume` nor `overwrite` was asked for, or something that no run
            writes, which is never deleted.
        RunError: the run to be resumed is of another model.
    """
    if (out / CONFIG_FILE).exists() and resume:
        stored = read_run_config(out)
        vocabulary = read_vocabulary(out, stored)
        _check_same(out / CONFIG_FILE, stored.training, {**asdict(config), **training})
        gato = Gato(stored.model, vocabulary, seed=config.seed).to(training_device())
        gato.formats = stored.tasks
        return gato
    begun = resume and out.exists() and not _run_entries(out)[1]  # killed before its configuration was there
    if out.exists() and any(map(len, _run_entries(out))) and not begun:
        if not overwrite:
            raise FileExistsError(
                f"'{out}' is not empty; go on with --resume, replace it with --overwrite, or use another --out"
            )
        _check_only_a_run(out)
    vocabulary = vocabulary if vocabulary is not None else Vocabulary.shipped()
    gato = Gato(config.model(vocabulary.size), vocabulary, seed=config.seed).to(training_device())
    if out.exists():
        _clear_run(out)
    gato.formats = formats_of(datasets)
    run_config = RunConfig(
        model=gato.config,
        tasks=gato.formats,
        vocabulary=vocabulary.fingerprint,
        training={**asdict(config), **training},
    )
    write_run(out, run_config, vocabulary)
    return gato


def _run_entries(out: Path) -> tuple[list[Path], list[Path]]:
    """What a run writes, and everything else, in a folder; its lock is neither."""
    ours: list[Path] = []
    others: list[Path] = []
    for entry in sorted(entry for entry in out.iterdir() if entry.name != FolderLock.NAME):
        known = entry.name in RUN_ENTRIES or entry.name.startswith("events.out.tfevents.")
        partial = entry.name.startswith(".") and entry.name.endswith(".partial")
        (ours if known or partial else others).append(entry)
    return ours, others


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
    """Raises a RunError that names what the run to be resumed was trained with and is asked to change."""
    asked = msgspec.to_builtins(asked)
    free = ("steps", "minutes", "accumulate", "log_every", "checkpoint_every_s", "evaluate_every_s")
    changed = [name for name in asked if name not in free and stored.get(name) != asked[name]]
    if changed:
        told = "; ".join(f"{name} was {stored.get(name)}, got {asked[name]}" for name in changed[:4])
        raise RunError(f"{file}: --resume needs the recipe, options and data that began the run: {told}")


def train_run(
    config: TrainConfig,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    length: Length,
    resume: bool = False,
    from_step: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Trains a run on datasets.

    Args:
        config: the recipe.
        data: dataset folders, or names of shipped ones, each with its weight in the mixture.
        out: the run's folder.
        length: steps or minutes; the learning rate ends with them.
        resume: go on from the newest checkpoint.
        from_step: with `resume`, go on from this checkpoint instead; later ones are set aside, none is deleted.
        overwrite: replace a run that is there.
        on_progress: called every few steps.
        ranks: the processes that train it together.

    Raises:
        FileNotFoundError: a dataset is not there.
        FileExistsError: the folder is taken.
        BlockingIOError: another process trains this run.
        DatasetError, RunError, ValueError: something in data or run does not fit; nothing was overwritten.
    """
    if not data:
        raise ValueError("nothing to train on: give at least one dataset, such as --data my-data or --data emoji")
    if from_step is not None and not resume:
        raise ValueError(f"from_step={from_step} is where to resume: give resume (--resume) too")
    with FolderLock(out) if ranks.is_first else nullcontext():
        return _train_run(
            config,
            data,
            out,
            length=length,
            resume=resume,
            from_step=from_step,
            overwrite=overwrite,
            on_progress=on_progress,
            ranks=ranks,
        )


def _train_run(
    config: TrainConfig,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    length: Length,
    resume: bool,
    from_step: int | None,
    overwrite: bool,
    on_progress: Callable[[Progress], None] | None,
    ranks: Ranks,
) -> Path:
    """`train_run` in a folder that nobody else writes into."""
    datasets = [(open_data(name), weight) for name, weight in data]
    vocabulary = (
        read_vocabulary(out, read_run_config(out)) if resume and (out / CONFIG_FILE).exists() else Vocabulary.shipped()
    )
    mixture = make_mixture(weighted_sources(datasets, vocabulary, config), vocabulary, config)
    training = {
        "data": [[str(name), weight] for name, weight in data],
        "steps": length.steps,
        "minutes": length.minutes,
    }
    gato: Gato | None = None
    for turn in range(2):  # the first rank makes the folder that the others read
        if ranks.is_first == (turn == 0):
            gato = prepare_run(
                config,
                [dataset for dataset, _ in datasets],
                out,
                training=training,
                vocabulary=vocabulary,
                resume=resume or not ranks.is_first,
                overwrite=overwrite,
            )
        ranks.wait()
    assert gato is not None
    tasks = all_tasks()
    known = [tasks[task.name] for task in gato.formats if task.name in tasks and tasks[task.name].installed]
    evaluate = evaluator(known) if known else None
    trainer = Trainer(gato, mixture, out, config, length, on_progress=on_progress, evaluate=evaluate, ranks=ranks)
    if resume:
        trainer.resume(from_step)
    trainer.train()
    return out
