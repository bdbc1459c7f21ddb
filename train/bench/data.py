"""How fast data becomes streams, and how soon a command answers.

Each source is followed from Parquet on disk to `StreamTensors` by one thread: reading alone, opening (reading and
making tokens), then as many streams as the source has tokens. Data are made on the spot, the same on every machine but
for what experts do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.envs.record import record_task
from gato_lite.fitting import square
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.bench.measure import take_turns
from gato_lite.train.datasets import open_data, sources_of
from gato_lite.train.mixture import Mixture
from gato_lite.train.pictures import decode_picture, encode_png
from gato_lite.train.settings import TrainConfig

TOKENS_PER_STEP: Final = 4096
CONTEXT_LENGTH: Final = 256
N_PICTURES: Final = 500
PICTURE_SIDE: Final = 64


class SourceSpeed(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="source"):
    """One kind of source."""

    kind: str
    dataset: str
    documents: int
    """Drawn: as many as have the tokens of the dataset."""
    tokens: int
    """Of those documents."""
    megabytes: float
    """UTF-8 bytes of text, pixels, or observations and actions, in the dataset."""
    read_s: float
    """Parquet to arrays or strings, checksums verified and values checked; the file is in the system's cache."""
    tokenise_s: float
    """Arrays, strings or PNG files to tokens, once a run."""
    draw_s: float
    """Tokens to streams, once for every document drawn."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.read_s + self.tokenise_s + self.draw_s


class StartUp(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="start_up"):
    """How long one thing takes from a cold process."""

    what: str
    seconds: float
    """Median."""
    limit_s: float
    """What it should stay below."""


def measure_sources(
    *, rounds: int = 3, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[SourceSpeed]:
    """The speed of each kind of source, by one thread.

    Args:
        rounds: passes over each; the median counts.
        on_progress: told how many sources are done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            makers = list(_datasets(Path(folder)))
            found = []
            for index, (kind, make) in enumerate(makers):
                on_progress(index, len(makers))
                found.append(measure_source(kind, make(), rounds))
            on_progress(len(makers), len(makers))
            return found
    finally:
        torch.set_num_threads(threads)


def _datasets(folder: Path) -> Iterator[tuple[str, Callable[[], Dataset]]]:
    """Kind and dataset of each source, made when it is its turn."""
    from gato_lite.envs.catalogue import TASKS

    grid = "babyai/GoToLocal" if TASKS["babyai/GoToLocal"].installed else "sokoban/Sokoban7x7"
    yield "vectors", lambda: record_task("classic/CartPole", 100, folder / "vectors")
    yield "grids", lambda: record_task(grid, 1000, folder / "grids")
    yield "text", lambda: open_data("text")
    yield f"pictures {PICTURE_SIDE}×{PICTURE_SIDE}", lambda: _pictures(folder / "pictures")


def _pictures(out: Path) -> Dataset:
    """Some of the shipped pictures at another size."""
    documents = open_data("emoji").read_documents("train")[:N_PICTURES]
    rows = (
        Document(encode_png(square(decode_picture(document.image or b""), PICTURE_SIDE)), document.text)
        for document in documents
    )
    return write_documents(out, rows, name="pictures")


def measure_source(kind: str, dataset: Dataset, rounds: int = 3) -> SourceSpeed:
    """The speed of one dataset's documents; the caller sees to the number of threads."""
    vocabulary = Vocabulary.shipped()
    config = TrainConfig(augment="recoloured", context_length=CONTEXT_LENGTH)
    sources = sources_of(dataset, vocabulary, config)
    mixture = Mixture(
        sources,
        [1.0] * len(sources),
        vocabulary,
        tokens_per_step=TOKENS_PER_STEP,
        context_length=CONTEXT_LENGTH,
        seed=0,
    )
    held = int(sum(getattr(source, "n_tokens", 0) for source in sources)) or round(
        mixture.mean_length * dataset.info.n_rows
    )
    n_step = -(-held // TOKENS_PER_STEP)
    timings = take_turns(
        {
            "read": lambda: _read(dataset),
            "open": lambda: sources_of(dataset, vocabulary, config),
            "draw": lambda: [mixture.stream(step) for step in range(n_step)],
        },
        rounds=rounds,
    )
    streams = [mixture.stream(step) for step in range(n_step)]
    return SourceSpeed(
        kind=kind,
        dataset=dataset.info.task,
        documents=sum(len(stream.offsets) - 1 for stream in streams),
        tokens=sum(len(stream.tokens.ids) for stream in streams),
        megabytes=_bytes(dataset) / 1e6,
        read_s=timings["read"].seconds,
        tokenise_s=max(0.0, timings["open"].seconds - timings["read"].seconds),
        draw_s=timings["draw"].seconds,
    )


def _read(dataset: Dataset) -> None:
    if dataset.info.kind == "documents":
        dataset.read_documents("train")
        return
    for group in dataset.groups():
        dataset.read_sound_parts(group)


def _bytes(dataset: Dataset) -> int:
    """Bytes of what a dataset says, as it stands in memory."""
    if dataset.info.kind == "control":
        return sum(dataset.read_part(part).n_bytes for part in range(dataset.n_parts))
    documents = dataset.read_documents("train")
    pixels = sum(decode_picture(document.image).nbytes for document in documents if document.image is not None)
    return pixels + sum(len(document.text.encode()) for document in documents)


def measure_start_up(
    *, rounds: int = 3, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[StartUp]:
    """Times of whole processes: importing the package, the help, and a run of one training step on shipped data.

    Args:
        rounds: processes of each; the median counts. The run is begun once.
        on_progress: told how many processes are done.
    """
    program = "import sys; from gato_lite.train.cli import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory() as folder:
        run = ["train", "quick", "--data", "emoji", "text", "--out", f"{folder}/run", "--steps", "1"]
        plans: list[tuple[str, float, int, list[str]]] = [
            ("import gato_lite", 0.2, rounds, ["-c", "import gato_lite"]),
            ("gato-lite --help", 0.5, rounds, ["-c", program, "--help"]),
            ("gato-lite train, one step and its checkpoint", 10.0, 1, ["-c", program, *run]),
        ]
        total = sum(repeats for _, _, repeats, _ in plans)
        done, found = 0, []
        for what, limit, repeats, arguments in plans:
            seconds = []
            for _ in range(repeats):
                seconds.append(time_process(arguments))
                done += 1
                on_progress(done, total)
            found.append(StartUp(what=what, seconds=float(np.median(seconds)), limit_s=limit))
        return found


def time_process(arguments: list[str]) -> float:
    """Seconds that Python takes with these arguments.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise RuntimeError(f"expected `python {' '.join(arguments)}` to run, it failed: {ended.stderr.strip()[-300:]}")
    return seconds
