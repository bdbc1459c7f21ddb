"""From datasets and a recipe to a run: opens the data, prepares the run's folder, trains or resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, TypedDict, Unpack

import msgspec

from gato_lite.config import PRESETS
from gato_lite.envs.catalogue import all_tasks
from gato_lite.lock import FolderLock
from gato_lite.model import Gato
from gato_lite.run import PICTURES_KEY, RunError, load, read_run_config, read_vocabulary
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.asking import Rounds
from gato_lite.train.datasets import check_apart, make_mixture, open_data, weighted_sources
from gato_lite.train.evaluate import evaluator
from gato_lite.train.loop import Length, Progress, Trainer
from gato_lite.train.picture_fits import mixture_fits, run_fits
from gato_lite.train.plans import Plan
from gato_lite.train.ranks import ALONE, Ranks
from gato_lite.train.run_folder import is_begun, prepare_run
from gato_lite.train.settings import TrainConfig
from gato_lite.train.sources import Source


class Beginning(TypedDict, total=False):
    """What a run begins with, beside its recipe and its data."""

    init: Path | None
    """A run to begin with the weights of; the model has its shape then, and still knows its tasks. Whether it has
    learnt what is held out now is not checked."""
    text_model: Path | None
    """A SentencePiece model for the text pieces; None takes that of `init`, or the shipped one."""
    resume: bool
    """Go on from the newest checkpoint."""
    from_step: int | None
    """With `resume`, go on from this checkpoint instead; later ones are set aside, none is deleted."""
    overwrite: bool
    """Replace a run that is there."""


def train_run(
    config: TrainConfig,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    length: Length,
    plan: Plan | None = None,
    workers: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
    **beginning: Unpack[Beginning],
) -> Path:
    """Trains a run on datasets.

    Args:
        config: the recipe.
        data: dataset folders, or names of shipped ones, each with its weight in the mixture.
        out: the run's folder.
        length: steps, minutes or CPU minutes; the learning rate ends with them.
        plan: whose experts are asked in rounds; that time counts as training. None asks nobody.
        workers: processes that act in these rounds.
        on_progress: called every few steps.
        ranks: the processes that train it together.
        beginning: as `Beginning` has it.

    Raises:
        FileNotFoundError: a dataset is not there.
        FileExistsError: the folder is taken.
        BlockingIOError: another process trains this run.
        DatasetError, RunError, ValueError: something in data or run does not fit; nothing was overwritten.
    """
    if not data:
        raise ValueError("nothing to train on: give at least one dataset, such as --data my-data or --data emoji")
    check_beginning(beginning)
    with FolderLock(out) if ranks.is_first else nullcontext():
        trainer, weighted = begin(config, data, out, length=length, on_progress=on_progress, ranks=ranks, **beginning)
        if plan is None:
            trainer.train()
        else:
            rounds = Rounds(trainer, weighted, plan.parts(), plan.rounds, workers=workers)
            rounds.train(lambda: length.less(rounds.seconds, rounds.cpu_seconds))
    return out


def check_beginning(beginning: Beginning) -> None:
    """Whether a run can begin so, as far as that can be told before there are data.

    Raises:
        FileNotFoundError: there is no text model.
        ValueError: it is none, or two of them exclude each other.
    """
    init, text_model, from_step = beginning.get("init"), beginning.get("text_model"), beginning.get("from_step")
    resume = beginning.get("resume", False)
    if from_step is not None and not resume:
        raise ValueError(f"from_step={from_step} is where to resume: give resume (--resume) too")
    if init is not None and text_model is not None:
        raise ValueError(
            f"text_model: the weights of '{init}' know the pieces of that run only; leave one of the two out"
        )
    if not resume:
        _vocabulary(text_model)


def begin(
    config: TrainConfig,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    length: Length,
    on_progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
    **beginning: Unpack[Beginning],
) -> tuple[Trainer, list[tuple[Source, float]]]:
    """What is to train a run, which then knows its data and its pictures, and the weighted sources that it begins with.

    Arguments and errors as of `train_run`, but that nobody else may write into `out` meanwhile.
    """
    init, text_model, resume = beginning.get("init"), beginning.get("text_model"), beginning.get("resume", False)
    datasets = [(open_data(name), weight) for name, weight in data]
    opened = [dataset for dataset, _ in datasets]
    begun = is_begun(out, resume=resume)
    if not begun:
        check_apart(opened)
    first = None if init is None else load(init)
    if first is not None:
        config = of_shape(config, first)
    of = out if begun else init
    vocabulary = _vocabulary(text_model) if of is None else read_vocabulary(of, read_run_config(of))
    weighted = weighted_sources(datasets, vocabulary, config)
    mixture = make_mixture(weighted, vocabulary, config)
    pictures = mixture_fits(datasets) or (() if init is None else run_fits(init))
    training = {
        "data": [[str(name), weight] for name, weight in data],
        **asdict(length),
        PICTURES_KEY: msgspec.to_builtins(pictures),
        **({} if init is None else {"init": str(init)}),
        **({} if text_model is None else {"text_model": str(text_model)}),
    }
    gato = ranks.in_turns(
        lambda: prepare_run(
            config,
            opened,
            out,
            training=training,
            shape=None if first is None else first.config,
            vocabulary=vocabulary,
            known=() if first is None else first.formats,
            resume=resume or not ranks.is_first,  # the first rank makes the folder that the others read
            overwrite=beginning.get("overwrite", False),
        )
    )
    tasks = all_tasks()
    known = [tasks[task.name] for task in gato.formats if task.name in tasks and tasks[task.name].installed]
    evaluate = evaluator(known) if known else None
    trainer = Trainer(gato, mixture, out, config, length, on_progress=on_progress, evaluate=evaluate, ranks=ranks)
    if resume:
        trainer.resume(beginning.get("from_step"))
    if first is not None and not trainer.step:
        gato.load_state_dict(first.state_dict())
    return trainer, weighted


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
