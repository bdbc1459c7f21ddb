"""From datasets and a recipe to a run: opens the data, writes the run's folder, trains or resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from gato_lite.config import PRESETS, GatoConfig
from gato_lite.envs.catalogue import all_tasks
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
    load,
    read_run_config,
    read_vocabulary,
    write_run,
)
from gato_lite.spaces import space_to_json
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.asking import FOLDER as ASKED_FOLDER
from gato_lite.train.asking import Rounds
from gato_lite.train.datasets import check_apart, make_mixture, open_data, weighted_sources
from gato_lite.train.evaluate import evaluator
from gato_lite.train.loop import Length, Progress, Trainer
from gato_lite.train.picture_fits import mixture_fit, run_fit
from gato_lite.train.plans import Plan
from gato_lite.train.ranks import ALONE, Ranks
from gato_lite.train.settings import TrainConfig

RUN_ENTRIES: Final = frozenset(
    {
        CONFIG_FILE,
        VOCABULARY_FILE,
        TEXT_MODEL_FILE,
        "metrics.jsonl",
        "checkpoints",
        ASKED_FOLDER,
        "report.html",
        "films",
    }
)
"""Names of what is written into a run's folder, TensorBoard's events apart."""
LENGTHS: Final = ("steps", "minutes", "cpu_minutes")
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
            formats[info.task] = TaskFormat(
                name=info.task,
                observation_space=space_to_json(dataset.observation_space),
                action_space=space_to_json(dataset.action_space),
                spec=info.token_spec,
                instruction=info.instruction,
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
    if (out / CONFIG_FILE).exists() and resume:
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
        if any(stored.training.get(key) != value for key, value in lengths.items()):  # may be said anew
            write_run(out, msgspec.structs.replace(stored, training={**stored.training, **lengths}), vocabulary)
        return gato
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


def _run_entries(out: Path) -> tuple[list[Path], list[Path]]:
    """What a run writes, and everything else, in a folder; its lock is neither."""
    ours: list[Path] = []
    others: list[Path] = []
    for entry in sorted(entry for entry in out.iterdir() if entry.name != FolderLock.NAME):
        known = entry.name in RUN_ENTRIES or entry.name.startswith("events.out.tfevents.")
        partial = entry.name.startswith(".") and entry.name.endswith(".partial")
        (ours if known or partial else others).append(entry)
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


def train_run(
    config: TrainConfig,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    length: Length,
    init: Path | None = None,
    text_model: Path | None = None,
    resume: bool = False,
    from_step: int | None = None,
    overwrite: bool = False,
    plan: Plan | None = None,
    workers: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Trains a run on datasets.

    Args:
        config: the recipe.
        data: dataset folders, or names of shipped ones, each with its weight in the mixture.
        out: the run's folder.
        length: steps, minutes or CPU minutes; the learning rate ends with them.
        init: a run to begin with the weights of; the model has its shape then, and still knows its tasks. Whether it
            has learnt what `data` holds out is not checked.
        text_model: a SentencePiece model for the text pieces; None takes that of `init`, or the shipped one.
        resume: go on from the newest checkpoint.
        from_step: with `resume`, go on from this checkpoint instead; later ones are set aside, none is deleted.
        overwrite: replace a run that is there.
        plan: whose experts are asked in rounds; that time counts as training. None asks nobody.
        workers: processes that act in these rounds.
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
    check_beginning(init=init, text_model=text_model, resume=resume, from_step=from_step)
    with FolderLock(out) if ranks.is_first else nullcontext():
        return _train_run(
            config,
            data,
            out,
            length=length,
            init=init,
            text_model=text_model,
            resume=resume,
            from_step=from_step,
            overwrite=overwrite,
            plan=plan,
            workers=workers,
            on_progress=on_progress,
            ranks=ranks,
        )


def check_beginning(*, init: Path | None, text_model: Path | None, resume: bool, from_step: int | None) -> None:
    """Whether a run can begin so, as far as that can be told before there are data; arguments as of `train_run`.

    Raises:
        FileNotFoundError: there is no text model.
        ValueError: it is none, or two of them exclude each other.
    """
    if from_step is not None and not resume:
        raise ValueError(f"from_step={from_step} is where to resume: give resume (--resume) too")
    if init is not None and text_model is not None:
        raise ValueError(
            f"text_model: the weights of '{init}' know the pieces of that run only; leave one of the two out"
        )
    if not resume:
        _vocabulary(text_model)


def _train_run(
    config: TrainConfig,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    length: Length,
    init: Path | None,
    text_model: Path | None,
    resume: bool,
    from_step: int | None,
    overwrite: bool,
    plan: Plan | None,
    workers: int,
    on_progress: Callable[[Progress], None] | None,
    ranks: Ranks,
) -> Path:
    """`train_run` in a folder that nobody else writes into."""
    datasets = [(open_data(name), weight) for name, weight in data]
    begun = resume and (out / CONFIG_FILE).exists()
    if not begun:
        check_apart([dataset for dataset, _ in datasets])
    first = None if init is None else load(init)
    if first is not None:
        config = of_shape(config, first)
    of = out if begun else init
    vocabulary = _vocabulary(text_model) if of is None else read_vocabulary(of, read_run_config(of))
    weighted = weighted_sources(datasets, vocabulary, config)
    mixture = make_mixture(weighted, vocabulary, config)
    pictures = mixture_fit(datasets) or (None if init is None else run_fit(init))
    training = {
        "data": [[str(name), weight] for name, weight in data],
        "steps": length.steps,
        "minutes": length.minutes,
        "cpu_minutes": length.cpu_minutes,
        PICTURES_KEY: msgspec.to_builtins(pictures),
        **({} if init is None else {"init": str(init)}),
        **({} if text_model is None else {"text_model": str(text_model)}),
    }
    gato: Gato | None = None
    for turn in range(2):  # the first rank makes the folder that the others read
        if ranks.is_first == (turn == 0):
            gato = prepare_run(
                config,
                [dataset for dataset, _ in datasets],
                out,
                training=training,
                shape=None if first is None else first.config,
                vocabulary=vocabulary,
                known=() if first is None else first.formats,
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
    if first is not None and not trainer.step:
        gato.load_state_dict(first.state_dict())
    if plan is None:
        trainer.train()
    else:
        rounds = Rounds(trainer, weighted, plan.parts(), plan.rounds, workers=workers)
        rounds.train(lambda: length.less(rounds.seconds, rounds.cpu_seconds))
    return out


def _vocabulary(text_model: Path | None) -> Vocabulary:
    """The vocabulary with those text pieces.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is no text model.
    """
    if text_model is None:
        return Vocabulary.shipped()
    if not text_model.is_file():
        raise FileNotFoundError(f"{text_model}: expected a text model, found no file; make one with data text-model")
    try:
        return Vocabulary(TextTokenizer.from_file(text_model))
    except ValueError as error:
        raise ValueError(f"{text_model}: {error}") from error


_LATER: Final = ("n_text_local", "token_shift", "head_norm", "n_kv_head")
"""Parts of a shape that a recipe takes from the run it begins with: in older runs of a preset they are others."""


def of_shape(config: TrainConfig, gato: Gato) -> TrainConfig:
    """The recipe for a model of the shape of `gato`; what came later than the first runs is no part of a recipe.

    Raises:
        RunError: no preset has that shape.
    """
    shape = gato.config
    for preset in PRESETS:
        changed = replace(
            config,
            preset=preset,
            patch_encoder=shape.patch_encoder,
            patch_size=shape.patch_size,
            context_length=shape.context_length,
        )
        given = changed.model(gato.vocabulary.size)
        if replace(given, **{name: getattr(shape, name) for name in _LATER}) == shape:
            return changed
    raise RunError(f"expected a run whose model has the shape of a preset to begin with, found {shape}")
