"""`gato-lite train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import bar, print_note, share_bar
from gato_lite.train.shelf import SHIPPED

if TYPE_CHECKING:
    from gato_lite.train.loop import Progress
    from gato_lite.train.plans import Plan
    from gato_lite.train.ranks import Ranks
    from gato_lite.train.settings import TrainConfig

EXAMPLE: Final = """\
gato-lite record classic/CartPole --episodes 100 --out data
gato-lite train quick --data data emoji=0.5 text=0.5 --out runs/first --minutes 2
gato-lite train generalist --out runs/generalist --minutes 60
gato-lite train generalist --add data/en-it=6 data/easy-vqa=2 --out runs/both --minutes 60
gato-lite train pictures --data data/fashion-mnist --set patch_encoder=tnt patch_size=16 --out runs/tnt --minutes 5"""
DEFAULT_MINUTES: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one model on datasets: episodes, captioned pictures, text, in any mixture."""

    recipe: Positional[Annotated[str, arg(metavar="RECIPE")]]
    """How to train: quick, pictures, captions, words or tune on data of your own; demo, babyai, metaworld, control or
    generalist record their experts first."""
    data: Annotated[tuple[str, ...] | None, arg(metavar="DIR[=WEIGHT] …")] = None
    """Datasets, or folders of datasets, each with its share of the tokens; emoji and text, which come with the package,
    where the recipe records nothing itself."""
    add: Annotated[tuple[str, ...], arg(metavar="DIR[=WEIGHT] …")] = ()
    """Datasets beside those: translations or questions for the model of a recipe that records its own; emoji=0 leaves
    out the shipped ones."""
    recordings: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for what the recipe records; data/RECIPE if not given. What is there already is not recorded again."""
    out: Annotated[Path, arg(metavar="RUN")]
    """Folder of the run."""
    minutes: Annotated[float | None, arg(metavar="M")] = None
    """Minutes to train for; 10 where neither --steps nor --cpu-minutes is given."""
    cpu_minutes: Annotated[float | None, arg(metavar="M")] = None
    """Minutes of the first process's CPU time to train for, all its threads together: a busy machine takes longer, and
    trains as much."""
    steps: Annotated[int | None, arg(metavar="N")] = None
    """Steps to train for, in place of minutes."""
    preset: Annotated[str | None, arg(metavar="NAME")] = None
    """Model preset in place of the recipe's: lite-1m, lite-2m, lite-5m, lite-20m, gato-79m, gato-364m, gato-1.18b."""
    text_model: Annotated[Path | None, arg(metavar="FILE")] = None
    """Text pieces of its own, made by data text-model, for a language other than English; None takes the shipped."""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE …")] = ()
    """Settings in place of the recipe's: patch_encoder, patch_size, context_length, tokens_per_step, optimiser,
    learning_rate, loss_on, n_example and all others of gato_lite.train.settings.TrainConfig."""
    accumulate: Annotated[int | None, arg(metavar="N")] = None
    """Parts of a step that go through the model one after another: less memory, the same result up to rounding."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Of weights and batches; None takes the recipe's."""
    init: Annotated[Path | None, arg(metavar="RUN")] = None
    """Begin with the weights of this run, and with its model's shape; generalist comes with the package."""
    resume: bool = False
    """Go on from the newest checkpoint in RUN, with the same recipe and data."""
    from_step: Annotated[int | None, arg(metavar="N")] = None
    """With --resume: go on from the checkpoint of step N; later ones are set aside, none is deleted."""
    overwrite: bool = False
    """Replace the run that is in RUN."""


def run(options: Options) -> int:
    """Trains, alone or with the ranks that torchrun started; the exit code of a signal, once the run is saved."""
    from dataclasses import replace

    from gato_lite.train.loop import Interrupted
    from gato_lite.train.ranks import joined
    from gato_lite.train.recipes import find_recipe
    from gato_lite.train.settings import with_settings

    config = find_recipe(options.recipe)
    if options.resume and options.overwrite:
        raise ValueError("expected --resume or --overwrite, got both")
    config = replace(
        with_settings(config, options.set),
        **{name: value for name in ("preset", "seed", "accumulate") if (value := getattr(options, name)) is not None},
    )
    _check_shape(options, config)
    with joined() as ranks:
        try:
            last = _train(options, config, ranks)
        except Interrupted as end:
            if ranks.is_first:
                print_note(f"gato-lite: stopped and saved in {options.out}; the same command with --resume goes on")
            return int(str(end.code))
        if not ranks.is_first:
            return 0
    so_far = (
        " as long already"
        if last is None
        else f" for {last.step:,} steps, {last.elapsed_s / 60:.1f} minutes, to loss {last.loss:.3f}"
    )
    print(f"{options.out}: trained{so_far}; next: gato-lite eval {options.out}")
    return 0


def _check_shape(options: Options, config: TrainConfig) -> None:
    """Refuses what was asked of a model whose shape is that of the run it begins with, and is another."""
    from gato_lite.run import read_run_config

    if options.init is None:
        return
    first = read_run_config(options.init)
    asked = [setting.partition("=")[0] for setting in options.set] + ["preset"] * (options.preset is not None)
    for name in ("preset", "patch_encoder", "patch_size", "context_length"):
        has = first.training.get(name) if name == "preset" else getattr(first.model, name)
        if name in asked and getattr(config, name) != has:
            raise ValueError(
                f"{name}: expected that of the run to begin with, '{options.init}', which is {has}, got "
                f"{getattr(config, name)}; leave one of the two out"
            )


def _train(options: Options, config: TrainConfig, ranks: Ranks) -> Progress | None:
    """Records what the recipe needs, and trains; where the run stood last."""
    from gato_lite.train.cores import usable_cores
    from gato_lite.train.datasets import check_apart, open_data
    from gato_lite.train.loop import Length
    from gato_lite.train.plans import PLANS, find_plan
    from gato_lite.train.run_folder import is_begun
    from gato_lite.train.shelf import weighted
    from gato_lite.train.training import Beginning, check_beginning, train_run

    beginning = Beginning(
        init=options.init,
        text_model=options.text_model,
        resume=options.resume,
        from_step=options.from_step,
        overwrite=options.overwrite,
    )
    check_beginning(beginning)
    given = (options.steps, options.minutes, options.cpu_minutes)
    length = Length(minutes=DEFAULT_MINUTES) if given == (None,) * 3 else Length(*given)
    plan = find_plan(options.recipe) if options.data is None and options.recipe in PLANS else None
    data = weighted(options.add, weighted(options.data or SHIPPED) if plan is None else [*plan.documents.items()])
    if not is_begun(options.out, resume=options.resume):
        check_apart([open_data(name) for name, _ in data])  # before anything is recorded
    if plan is not None:
        data = [*ranks.in_turns(lambda: _record(options, plan)), *data]
    last: Progress | None = None
    with share_bar("training") as show:
        show(0.0, "reading the data")

        def on_progress(now: Progress) -> None:
            nonlocal last
            last = now if now.asked is None else last
            if ranks.is_first:
                now.show(show)

        train_run(
            config,
            data,
            options.out,
            length=length,
            plan=plan,
            workers=usable_cores(),
            on_progress=on_progress,
            ranks=ranks,
            **beginning,
        )
    return last


def _record(options: Options, plan: Plan) -> list[tuple[str, float]]:
    """The plan's recordings with their weights."""
    from gato_lite.train.cores import usable_cores
    from gato_lite.train.plans import record_plan

    out = Path("data") / options.recipe if options.recordings is None else options.recordings
    with bar(f"recording into {out}", "episodes") as show:
        return record_plan(plan, out, workers=usable_cores(), on_progress=show)
