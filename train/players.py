"""Episodes of a run's newest checkpoint, played by several processes.

Each process has its own copy of the weights and its own slots, and its environments in further processes. One that dies
is started anew with what it has not finished; greedy actions and seeds make that the same episodes (in float32).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

import torch

from gato_lite.config import ActingPrecision
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.workers import start_process
from gato_lite.run import load
from gato_lite.train.cores import usable_cores
from gato_lite.train.prompts import read_prompts
from gato_lite.train.rollout import Outcome, deal, play

SLOTS: Final = 32
"""Environments that act together in one process."""
TIME_LIMIT_S: Final = 60.0
"""Longest time for one call of an environment; making one may import a simulator."""
MOST_STARTS: Final = 3
"""Times that a process is started without finishing an episode."""

Job = tuple[str, int]
"""Task name and environment seed."""
_Setting = tuple[Path, ActingPrecision, float, Mapping[str, Path] | None, bool]
"""Run, precision, time limit, prompts, and whether there is a core for each process of environments."""


class _Player:
    """One process, and what it has left to play."""

    def __init__(self, jobs: Sequence[Job], setting: _Setting) -> None:
        self._setting = setting
        self.left = dict.fromkeys(jobs)
        self.n_starts = 0
        """Since it last finished an episode."""
        self.start()

    def start(self) -> None:
        """Begins with all that is left."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_play_share, args=(list(self.left), self._setting, theirs), daemon=True)
        start_process(self.process)
        theirs.close()
        self.n_starts += 1

    def start_again(self) -> None:
        """Replaces a process that died.

        Raises:
            RuntimeError: it does nothing but die.
        """
        self.process.join()
        if self.n_starts >= MOST_STARTS:
            raise RuntimeError(
                f"an evaluation process died {self.n_starts} times without finishing an episode (exit code "
                f"{self.process.exitcode}); see what it wrote above, and run with fewer workers if memory ran out"
            )
        self.start()

    def finished(self, outcome: Outcome) -> None:
        """Notes an episode."""
        self.left.pop((outcome.task, outcome.seed))
        self.n_starts = 0


def play_in_processes(
    run: Path,
    jobs: Sequence[tuple[Task, int]],
    *,
    workers: int,
    limit_s: float = TIME_LIMIT_S,
    prompts: Mapping[str, Path] | None = None,
    precision: ActingPrecision = "float32",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Plays one episode for each (task, environment seed), greedily.

    Args:
        run: its folder.
        jobs: distinct.
        workers: processes that act; 1 stays in this one.
        limit_s: longest time for one call of an environment, in seconds.
        prompts: dataset of each task, of which a demonstration is read before each episode; None acts without.
        precision: what the model acts in.
        on_progress: called with episodes done and in all.

    Raises:
        ValueError: the run is damaged.
        OSError: a file of it cannot be read.
        RuntimeError: a process fails, or dies again and again.
    """
    outcomes: list[Outcome] = []

    def book(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if on_progress is not None:
            on_progress(len(outcomes), len(jobs))

    setting: _Setting = (run, precision, limit_s, prompts, usable_cores() >= 2 * workers)
    if workers == 1:
        return _play(jobs, setting, book)
    shares = deal([(task.name, seed) for task, seed in jobs], workers)
    players = [_Player(share, setting) for share in shares if share]
    try:
        while playing := [player for player in players if player.left]:
            ready = wait([player.connection for player in playing])
            for player in playing:
                if player.connection not in ready:
                    continue
                try:
                    item = player.connection.recv()
                except (EOFError, ConnectionError):
                    player.start_again()
                    continue
                if isinstance(item, Exception):
                    raise item
                player.finished(item)
                book(item)
    finally:
        for player in players:
            player.process.terminate()
    return outcomes


def _play(jobs: Sequence[tuple[Task, int]], setting: _Setting, on_episode: Callable[[Outcome], None]) -> list[Outcome]:
    """Plays the jobs; a prompt may fill half the context, and a timestep has two tokens or more."""
    run, precision, limit_s, prompts, halves = setting
    gato = load(run, precision=precision)
    shown = None if prompts is None else read_prompts(prompts, gato.vocabulary, gato.config.context_length // 4)
    return play(gato, jobs, n_slot=SLOTS, prompts=shown, limit_s=limit_s, halves=halves, on_episode=on_episode)


def _play_share(share: Sequence[Job], setting: _Setting, results: Connection) -> None:
    torch.set_num_threads(1)
    try:
        by_name = {task.name: task for task in find_tasks(dict.fromkeys(name for name, _ in share))}
        jobs = [(by_name[name], seed) for name, seed in share]
        _play(jobs, setting, results.send)
    except ConnectionError:
        return  # whoever wanted the results has been killed
    except OSError as error:
        results.send(error)
    except ValueError as error:  # such as a damaged run; some of its kinds cannot be sent
        results.send(ValueError(str(error)))
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        results.send(RuntimeError(f"{type(error).__name__}: {error}"))
