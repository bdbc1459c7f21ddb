"""`gato-lite bench train`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from tyro.conf import arg

from gato_lite.config import Precision
from gato_lite.train.console import OnProgress, bar, print_note, print_table, refuse_to_overwrite, to_json, write_whole

if TYPE_CHECKING:
    import torch

    from gato_lite.envs.dataset import Dataset
    from gato_lite.train.bench.train import Speed
    from gato_lite.train.bench.train_compare import Comparison, Threads
    from gato_lite.train.bench.train_memory import Memory

EXAMPLE: Final = "gato-lite bench train --preset lite-1m --rounds 2 --json speed.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure training steps: rates, the share of the matmul peak, and what single decisions are worth.

    About two minutes with one thread; on a GPU, where there is one, with larger streams and compiled blocks. Nothing is
    left behind.
    """

    preset: Annotated[tuple[str, ...], arg(metavar="NAME …")] = ("lite-1m", "lite-5m")
    """Model presets."""
    rounds: int = 4
    """Steps that count of each measurement."""
    precision: Precision = "auto"
    """What steps and the peak multiply matrices in: auto is what training takes on this device. What single decisions
    are worth is measured in float32 on a CPU in any case."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the figures there too."""
    overwrite: bool = False
    """Replace FILE."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.preset:
            raise ValueError(f"need at least one preset and --rounds 1, got {self.preset} and {self.rounds}")


def run(options: Options) -> None:
    """Prints four tables."""
    import torch

    from gato_lite.config import GatoConfig
    from gato_lite.train.bench.measure import this_machine
    from gato_lite.train.bench.train import measure_speeds
    from gato_lite.train.bench.train_data import EPISODES, record_workloads
    from gato_lite.train.run_folder import training_device

    for name in options.preset:
        GatoConfig.preset(name)  # an unknown one is told before anything is recorded
    refuse_to_overwrite([options.json], overwrite=options.overwrite)
    device = training_device()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            with bar("recording", "episodes") as show:
                workloads = record_workloads(Path(folder), show)
            for missing in set(EPISODES) - set(workloads):
                print_note(
                    f"left out: {missing}, whose environments are not installed; pip install 'gato_lite[{missing}]'"
                )
            with bar("steps", "measurements") as show:
                speeds = measure_speeds(
                    options.preset,
                    workloads,
                    device,
                    rounds=options.rounds,
                    precision=options.precision,
                    on_progress=show,
                )
            machine = this_machine(device, options.precision)
            where = f"{machine.processor}, {machine.device}, one thread of {machine.cores} cores"
            print(f"{where}, torch {machine.torch}, {machine.precision}\n")
            print_speeds(speeds)  # before what follows, which may find a difference or run out of memory
            with bar("decisions", "comparisons") as show:
                compared, second, memory = _decisions(workloads, options, device, show)
    finally:
        torch.set_num_threads(threads)
    print_comparisons(compared)
    print_threads_and_memory(second, memory)
    if options.json is not None:
        results: list[Any] = [*speeds, *compared, *([second] if second else []), *memory]  # Any: one struct or another
        report = {"command": "gato-lite bench train", "machine": machine, "results": results}
        write_whole(options.json, to_json(report) + "\n")


def _decisions(
    workloads: Mapping[str, Sequence[Dataset]], options: Options, device: torch.device, show: OnProgress
) -> tuple[list[Comparison], Threads | None, list[Memory]]:
    """Comparisons on the first preset, the second thread's gain on it, and every preset's memory."""
    from gato_lite.tokenizers.vocabulary import Vocabulary
    from gato_lite.train.bench import train_compare as ways
    from gato_lite.train.bench.train import config_of, fresh_gato, training_of
    from gato_lite.train.bench.train_data import SHORT_STREAM_TOKENS, mixture_of
    from gato_lite.train.bench.train_memory import measure_memory
    from gato_lite.train.blocks import default_compiler
    from gato_lite.train.cores import usable_cores

    vocabulary, rounds = Vocabulary.shipped(), options.rounds
    gato = fresh_gato(config_of(options.preset[0], device), device)
    short = "babyai" if "babyai" in workloads else "control"
    mixed = mixture_of(workloads["mixed"], vocabulary)
    stream = mixed.stream(0).to(device)
    brief = mixture_of(workloads[short], vocabulary, SHORT_STREAM_TOKENS).stream(0).to(device)
    compiler = default_compiler(device)
    total = 5 + len(options.preset)
    compared: list[Comparison] = []
    for what, losses in (
        ("attention, mixed", ways.attention_losses(gato, stream)),
        (f"head, {short}", ways.head_losses(gato, brief)),
        (f"padding, {short}", ways.padding_losses(gato, brief)),
        *([("blocks, mixed", ways.block_losses(gato, stream, compiler))] if compiler is not None else []),
    ):
        show(len({row.what for row in compared}), total)
        compared += ways.compare(what, gato, losses, rounds=rounds)
    second = None
    if device.type == "cpu" and usable_cores() > 1:
        second = ways.measure_threads(gato, mixed.shards(0, 1), mixed.shards(0, 2), rounds, options.precision)
    found = []
    for index, name in enumerate(options.preset):
        show(5 + index, total)
        config = training_of(name, device)
        drawn = mixture_of(workloads["mixed"], vocabulary, config.tokens_per_step, config.context_length)
        found.append(measure_memory(name, "mixed", drawn.stream(0), device))
    return compared, second, [memory for memory in found if memory is not None]


def print_speeds(speeds: Sequence[Speed]) -> None:
    """A row for each model and workload."""
    header = ["model", "workload", "ms a step", "tokens/s", "target tokens/s", "timesteps/s", "of matmul peak"]
    header += ["of datasheet", "compiled", "anew"] if any(speed.compiled for speed in speeds) else []
    rows = [
        [
            speed.model,
            speed.workload,
            f"{speed.seconds * 1e3:,.0f}",
            f"{speed.tokens_per_s:,.0f}",
            f"{speed.target_tokens_per_s:,.0f}",
            "" if speed.timesteps_per_s is None else f"{speed.timesteps_per_s:,.0f}",
            f"{speed.peak_share:.2f} ({speed.peak_share_low:.2f}-{speed.peak_share_high:.2f})",
            "" if speed.datasheet_share is None else f"{speed.datasheet_share:.2f}",
            f"{speed.compiled}",
            f"{speed.recompiled}",
        ][: len(header)]
        for speed in speeds
    ]
    print_table(header, rows, numbers=header[2:6])


def print_comparisons(compared: Sequence[Comparison]) -> None:
    """A row for each way of computing the same."""
    header = ["decision", "variant", "ms", "times as fast", "lowest", "highest", "largest difference"]
    rows = [
        [
            row.what,
            row.variant,
            f"{row.timing.seconds * 1e3:,.0f}",
            f"{row.timing.ratio:.2f}",
            f"{row.timing.ratio_low:.2f}",
            f"{row.timing.ratio_high:.2f}",
            f"{row.error:.0e}",
        ]
        for row in compared
    ]
    print()
    print_table(header, rows, numbers=header[2:])


def print_threads_and_memory(second: Threads | None, memory: Sequence[Memory]) -> None:
    """What the second thread adds, and a row of megabytes for each model."""
    if second is not None:
        print(
            f"\nsecond thread: a step {second.step_gain:.2f} times as fast, a matmul {second.matmul_gain:.2f} times; "
            f"{second.gain_share:.2f} of the matmul's gain"
        )
    if memory:
        header = ["model", "peak MB", "parameters, gradients, moments", "activations on paper", "peak over paper"]
        rows = [
            [
                row.model,
                f"{row.peak / 1e6:,.0f}",
                f"{row.parameters / 1e6:,.0f}",
                f"{row.activations / 1e6:,.0f}",
                f"{row.peak / (row.parameters + row.activations):.2f}",
            ]
            for row in memory
        ]
        print()
        print_table(header, rows, numbers=header[1:])
