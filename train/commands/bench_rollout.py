"""`gato-lite bench rollout`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from tyro.conf import arg

from gato_lite.config import ActingPrecision
from gato_lite.train.console import bar, print_table, refuse_to_overwrite, to_json, write_whole

if TYPE_CHECKING:
    from gato_lite.train.bench.rollout import ModelSpeed, StepSpeed
    from gato_lite.train.bench.rollout_paces import Pace
    from gato_lite.train.bench.rollout_ways import Comparison, Flatness

EXAMPLE: Final = "gato-lite bench rollout --json rollout.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure how fast a model acts, by one thread or on a GPU: by slots, context and action size, and other ways.

    About three minutes. The weights are fresh, so the scores mean nothing and are not shown.
    """

    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the figures there too."""
    figure: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw what a step costs by context and slots there (.svg or .png)."""
    episode: int = 10_000
    """Steps of the long episode whose cost is to stay flat."""
    precision: ActingPrecision = "float32"
    """What the model acts in in the first two tables; the others say it themselves, or are of float32."""
    threads: int = 1
    """Threads inside an operation."""
    overwrite: bool = False
    """Replace the files that are there."""


def run(options: Options) -> None:
    """Prints four tables."""
    import torch

    from gato_lite.train.bench.measure import this_machine
    from gato_lite.train.bench.rollout import measure_models, measure_sizes
    from gato_lite.train.bench.rollout_paces import measure_paces
    from gato_lite.train.bench.rollout_ways import compare, measure_flatness
    from gato_lite.train.run_folder import training_device

    if options.episode < 10 or options.threads < 1:
        raise ValueError(
            f"--episode must be at least 10 and --threads at least 1, got {options.episode} and {options.threads}"
        )
    if options.figure is not None:
        import matplotlib  # noqa: F401, ICN001 - where it is missing, now and not after minutes
    refuse_to_overwrite([options.json, options.figure], overwrite=options.overwrite)
    torch.set_num_threads(options.threads)
    with bar("steps", "sizes") as show:
        speeds = measure_sizes(options.precision, on_progress=show)
    with bar("ways", "comparisons") as show:
        ways = compare(on_progress=show)
    with bar("paces", "rounds") as show:
        paces = measure_paces(on_progress=show)
    with bar("one long episode", "tenths") as show:
        flat = measure_flatness(options.episode, on_progress=show)
    models = measure_models(options.precision)
    machine = this_machine(training_device(), options.precision)
    where = f"{machine.processor}, {machine.device}, {machine.threads} of {machine.cores} cores"
    print(f"{where}, torch {machine.torch}, {machine.precision}; fresh weights\n")
    print_speeds(speeds)
    print()
    print_models(models)
    print()
    print_ways(ways)
    print()
    print_paces(paces)
    print(
        f"\nan episode of {flat.steps:,} steps, context {flat.context}, a small model: {flat.second_tenth_ms:.2f} ms a "
        f"step in the second tenth, {flat.last_tenth_ms:.2f} in the last, ratio {flat.ratio:.2f}"
    )
    if options.json is not None:
        found: list[StepSpeed | ModelSpeed | Comparison | Pace | Flatness] = [*speeds, *models, *ways, *paces, flat]
        report = {
            "command": f"gato-lite bench rollout --precision {options.precision}",
            "machine": machine,
            "results": found,
        }
        write_whole(options.json, to_json(report) + "\n")
    if options.figure is not None:
        from gato_lite.train.bench.rollout_figure import draw

        draw(speeds, options.figure)


def print_speeds(speeds: list[StepSpeed]) -> None:
    """A row for each policy and context."""
    header = ["environment", "slots", "context", "tokens a step", "ms", "steps/s", "sustained", "environment only"]
    shares = ["model", "environment", "tokenising", "sampling"]
    rows = [
        [
            speed.what,
            f"{speed.slots}",
            f"{speed.context:,}",
            f"{speed.tokens_per_step}",
            f"{speed.milliseconds:.2f}",
            f"{speed.steps_per_second:,.0f}",
            f"{speed.sustained:,.0f}",
            f"{speed.environment_only:,.0f}",
            *(f"{getattr(speed, share):.0%}" for share in shares),
        ]
        for speed in speeds
    ]
    print_table([*header, *(f"{share} %" for share in shares)], rows, numbers=header[1:])
    print(
        "sustained: over an episode longer than the context, of which the newer half is read again whenever it is full"
    )


def print_models(models: list[ModelSpeed]) -> None:
    """A row for each number of slots and context of a model alone."""
    header = ["model alone", "slots", "context", "tokens a step", "ms", "steps/s"]
    rows = [
        [
            speed.model,
            f"{speed.slots}",
            f"{speed.context:,}",
            f"{speed.tokens_per_step}",
            f"{speed.milliseconds:.2f}",
            f"{speed.steps_per_second:,.0f}",
        ]
        for speed in models
    ]
    print_table(header, rows, numbers=header[1:])


def print_ways(ways: list[Comparison]) -> None:
    """A row for each way of a comparison."""
    rows = [
        [
            way.what,
            way.way,
            f"{1e3 * way.timing.seconds:.1f}",
            f"{way.timing.ratio:.2f}",
            f"{way.timing.ratio_low:.2f}-{way.timing.ratio_high:.2f}",
        ]
        for way in ways
    ]
    print_table(["comparison", "way", "ms", "times as fast", "lowest-highest"], rows, numbers=["ms", "times as fast"])


def print_paces(paces: list[Pace]) -> None:
    """A row for each pair of ways."""
    rows = [
        [
            pace.what,
            f"{pace.lock_step_s:.2f}",
            f"{pace.overlapped_s:.2f}",
            f"{pace.ratio:.2f}",
            f"{pace.ratio_low:.2f}-{pace.ratio_high:.2f}",
        ]
        for pace in paces
    ]
    header = ["environments", "s in lock-step", "s as played", "times as fast", "lowest-highest"]
    print_table(header, rows, numbers=header[1:4])
