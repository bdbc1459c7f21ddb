"""What the training benchmark trains on: shipped data, and a few episodes recorded on the spot.

| workload | documents |
|---|---|
| control  | CartPole by its expert: a chunk and an action each timestep, windows of 256 tokens |
| babyai   | three BabyAI levels by their bot: short episodes of an instruction, then a grid, a direction, an action |
| text     | the shipped English texts |
| mixed    | all of these and the shipped emoji with their names, an equal share of the tokens each |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gato_lite.envs.catalogue import TASKS
from gato_lite.envs.dataset import Dataset
from gato_lite.envs.record import record_tasks
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.console import OnProgress
from gato_lite.train.datasets import make_mixture, open_data, weighted_sources
from gato_lite.train.mixture import Mixture
from gato_lite.train.settings import TrainConfig

STREAM_TOKENS: Final = 4096
"""Tokens in a stream, up to the end of its last document; on a GPU more (`train.training_of`)."""
SHORT_STREAM_TOKENS: Final = 1024
"""Of a stream that is also computed in wasteful ways."""

EPISODES: Final[dict[str, dict[str, int]]] = {
    "control": {"classic/CartPole": 30},
    "babyai": {"babyai/GoToLocal": 60, "babyai/GoToObj": 60, "babyai/PickupLoc": 60},
}
"""Episodes to record of each task of a workload."""


def record_workloads(out: Path, on_progress: OnProgress) -> dict[str, list[Dataset]]:
    """Datasets of each workload, those of environments that are not installed left out.

    Args:
        out: folder for the recordings.
        on_progress: told how many episodes are done.
    """
    wanted = {workload: {n: e for n, e in tasks.items() if TASKS[n].installed} for workload, tasks in EPISODES.items()}
    recorded = record_tasks(
        {name: episodes for tasks in wanted.values() for name, episodes in tasks.items()}, out, on_progress=on_progress
    )
    found = {w: [recorded[name].dataset for name in tasks] for w, tasks in wanted.items() if tasks}
    found["text"] = [open_data("text")]
    found["mixed"] = [*(dataset for part in found.values() for dataset in part), open_data("emoji")]
    return found


def mixture_of(
    datasets: Sequence[Dataset], vocabulary: Vocabulary, tokens: int = STREAM_TOKENS, context_length: int = 256
) -> Mixture:
    """Streams of about that many tokens of these datasets: each kind of data an equal share of the tokens."""
    config = TrainConfig(tokens_per_step=tokens, context_length=context_length)
    suites = [dataset.info.task.split("/")[0] for dataset in datasets]
    data = [(dataset, 1.0 / suites.count(suite)) for dataset, suite in zip(datasets, suites, strict=True)]
    return make_mixture(weighted_sources(data, vocabulary, config), vocabulary, config)
