"""Asking the experts about the states that the model itself reaches.

A model trained on experts' episodes alone has never seen the states its own mistakes lead to. Here it acts, the task's
expert says at every timestep what it would have done, and both go into a dataset: the action taken as history, the
expert's as label.

Source: Ross et al. 2011, "A reduction of imitation learning and structured prediction to no-regret online learning"
(DAgger).
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.episodes import EpisodeBuilder, Episodes
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError, time_limit
from gato_lite.envs.recording import about_task, folder_name
from gato_lite.envs.seeds import RELABEL_SEED
from gato_lite.envs.writer import DatasetWriter
from gato_lite.run import load
from gato_lite.train.rollout import Outcome, deal, play

SLACK: Final = 2.5
"""An episode is cut when it is this many times as long as the expert's are: a model that is lost stays so."""
SHORTEST: Final = 16
"""Timesteps that an episode may always have."""
LONGEST: Final = 200
"""Timesteps that no episode may exceed."""
LOOK_EVERY_S: Final = 0.5
"""Seconds between looks at how far the processes are."""


@dataclass
class Labeller:
    """Watches one episode and writes down what the expert would have done."""

    kept: dict[str, list[Episodes]]
    """Finished episodes by task; shared by all watchers of a rollout."""
    experts: dict[int, Expert] = field(default_factory=dict)
    """The expert of each environment by its id, made once; shared likewise."""
    _builder: EpisodeBuilder | None = None
    _expert: Expert | None = None
    _previous: Any = None
    finished: bool = False
    """Whether the expert is lost, or the episode is much longer than the expert's."""
    _task: str = ""
    _longest: int = 0
    _limit_s: float = 0.0
    _lost: bool = field(default=False)

    def begin(self, task: Task, env: AnyEnv, observation: Any, seed: int) -> None:
        """A new episode; its expert is asked from now on."""
        assert task.expert is not None
        self._task, self._limit_s = task.name, task.time_limit_s
        self._builder = EpisodeBuilder(env.observation_space, env.action_space)
        self._builder.start(observation, seed)
        if id(env) not in self.experts:
            self.experts[id(env)] = task.expert(env)
        self._expert = self.experts[id(env)]
        self._expert.reset()
        self._previous, self._lost = None, False
        length = task.expert_score.length if task.expert_score is not None else LONGEST
        self._longest = max(SHORTEST, min(LONGEST, round(SLACK * length)))

    def look(self, observation: Any) -> None:
        """Asks the expert; where it is lost (a Sokoban box in a corner) or hangs, the episode is kept up to there."""
        assert self._builder is not None
        assert self._expert is not None
        if self._lost:
            return
        try:
            with time_limit(self._limit_s):
                action = self._expert.act(observation, self._previous)
            self._builder.label(action)
        except ExpertFailedError:
            self._lost = self.finished = True

    def step(self, action: Any, observation: Any, reward: float) -> None:
        """Notes the action taken."""
        assert self._builder is not None
        self._previous = action
        if not self._lost:
            self._builder.step(action, observation, reward)
            self.finished = self._builder.n_timesteps >= self._longest

    def end(self, *, terminated: bool, truncated: bool, outcome: Outcome) -> None:
        """Keeps the episode."""
        assert self._builder is not None
        if self._builder.n_timesteps:
            episode = self._builder.finish(
                terminated=terminated and not self._lost,
                truncated=truncated or self._lost,
                success=outcome.success,
            )
            self.kept.setdefault(self._task, []).append(episode)


def relabel(
    run: Path,
    wanted: Mapping[str, int],
    out: Path,
    *,
    seed: int,
    temperature: float = 0.5,
    workers: int = 2,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[dict[str, Path], dict[str, float]]:
    """Lets the run's newest checkpoint act and writes one labelled dataset for each task.

    Args:
        run: a run with a checkpoint.
        wanted: episodes of each task, by name; the tasks have an expert.
        out: folder for the datasets, each in a subfolder.
        seed: number of the round; each has environment seeds of its own.
        temperature: of the model's actions; above 0 it wanders a little further.
        workers: processes; 1 stays in this one.
        on_progress: called with episodes done and in all, now and then.

    Returns:
        The dataset of each task (a task without a whole episode is left out), and the share of episodes with success
        of each task that knows it.
    """
    first = RELABEL_SEED + seed * 1_000_000
    jobs = [(name, first + index) for index in range(max(wanted.values())) for name in wanted if index < wanted[name]]
    if workers == 1:
        n_done = itertools.count(1)
        found = [_relabel_share(run, jobs, temperature, seed, lambda _: on_progress(next(n_done), len(jobs)))]
    else:
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        with ProcessPoolExecutor(workers, context, _begin, (counter,)) as pool:
            asked = [pool.submit(_relabel_share, run, share, temperature, seed) for share in deal(jobs, workers)]
            while wait(asked, timeout=LOOK_EVERY_S).not_done:
                on_progress(counter.value, len(jobs))
            found = [future.result() for future in asked]
        on_progress(len(jobs), len(jobs))
    written = {}
    for task in find_tasks(list(wanted)):
        runs = [episode for kept, _ in found for episode in kept.get(task.name, [])]
        if runs:
            runs.sort(key=lambda episode: int(episode.seeds[0]))
            path = out / folder_name(task.name)
            _write(path, task, runs)
            written[task.name] = path
    outcomes = [outcome for _, played in found for outcome in played if outcome.success is not None]
    solved = {
        name: float(np.mean([bool(outcome.success) for outcome in outcomes if outcome.task == name]))
        for name in dict.fromkeys(outcome.task for outcome in outcomes)
    }
    return written, solved


_COUNTERS: Final[list[Any]] = []  # Any: multiprocessing names no type for it
"""Of a process that shares the work: where it counts its episodes."""


def _begin(counter: Any) -> None:  # Any: as above
    torch.set_num_threads(1)
    _COUNTERS.append(counter)


def _count(_: Outcome) -> None:
    with _COUNTERS[0].get_lock():
        _COUNTERS[0].value += 1


def _relabel_share(
    run: Path,
    share: Sequence[tuple[str, int]],
    temperature: float,
    seed: int,
    on_episode: Callable[[Outcome], None] = _count,
) -> tuple[dict[str, list[Episodes]], list[Outcome]]:
    by_name = {task.name: task for task in find_tasks(sorted({name for name, _ in share}))}
    kept: dict[str, list[Episodes]] = {}
    experts: dict[int, Expert] = {}
    played = play(
        load(run),
        [(by_name[name], env_seed) for name, env_seed in share],
        temperature=temperature,
        seed=seed,
        evaluation=False,
        watch=lambda: Labeller(kept, experts),
        on_episode=on_episode,
    )
    return kept, played


def _write(path: Path, task: Task, runs: Sequence[Episodes]) -> None:
    """A control dataset of labelled episodes."""
    env = task.make(False)
    about = about_task(task, int(runs[0].seeds[0]), "the model's own actions, labelled by the expert")
    with DatasetWriter(path, env.observation_space, env.action_space, about) as writer:
        for run in runs:
            writer.add(run)
        writer.finish()
    env.close()
