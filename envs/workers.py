"""Recording blocks in worker processes, which may hang or die without costing more than the episode that did it.

Each worker says which seed it plays. One that is beyond its episode's limit of CPU time, or waits much longer, is
killed, in whatever code it hangs, and the seed counts as failed. One that dies is replaced and its block begun again; a
seed that was being played at two deaths counts as failed. Since a block is a function of its seeds, what is recorded is
the same as without the accident.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, TypeAlias

from gato_lite.envs.blocks import TIME_LIMIT, WORKER_DIED, Block, GivenUpError, Made, Studio, record_block
from gato_lite.envs.episodes import BadEpisodeError
from gato_lite.envs.experts import WALL_PER_CPU

Outcome: TypeAlias = Made | GivenUpError | BadEpisodeError
"""Of a block: its part, or why its task is given up."""

_IDLE: Final = -1
"""In place of a seed where no episode is being played."""
_LOOK_EVERY_S: Final = 0.2
_GRACE_S: Final = 1.0
"""Time, of the CPU and by the clock, in which a worker ends an episode that is beyond its limit by itself."""
_MAX_LOST: Final = 10
"""Seeds of a block that may hang or end a worker before its task is given up."""
_MAX_DEATHS: Final = 3
"""Deaths of workers on a block outside its episodes before its task is given up."""
_PR_SET_PDEATHSIG: Final = 1


def record_blocks(
    blocks: Sequence[Block], workers: int | None, on_kept: Callable[[int], object]
) -> Generator[tuple[Block, Outcome]]:
    """Make the parts of `blocks`, in the order in which they become whole; of a task given up no more are begun.

    Args:
        blocks: What to record.
        workers: Processes; None stays in this one, where an episode that hangs in C code is not ended.
        on_kept: Called now and then with the number of episodes in blocks that are not whole yet.
    """
    if workers is None:
        yield from _record_here(blocks, on_kept)
    elif blocks:
        yield from _Crew(blocks, workers).record(on_kept)


def _record_here(blocks: Sequence[Block], on_kept: Callable[[int], object]) -> Iterator[tuple[Block, Outcome]]:
    given_up: set[str] = set()
    with contextlib.closing(Studio()) as studio:
        for block in blocks:
            if block.task in given_up:
                continue
            try:
                yield block, record_block(block, studio, notice=lambda _, kept: on_kept(kept))
            except (GivenUpError, BadEpisodeError) as error:
                given_up.add(block.task)
                yield block, error


class _Queue:
    """Blocks that wait, by task."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._waiting: dict[str, collections.deque[Block]] = {}
        for block in blocks:
            self._waiting.setdefault(block.task, collections.deque()).append(block)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def take(self, task: str | None) -> Block:
        """The next block of `task`, whose environment the worker has; else of the task that has most waiting."""
        mine = self._waiting.get(task or "") or max(self._waiting.values(), key=len)
        return mine.popleft()

    def put_back(self, block: Block) -> None:
        """It is the next one again, unless its task was dropped."""
        if block.task in self._waiting:
            self._waiting[block.task].appendleft(block)

    def drop(self, task: str) -> None:
        """No block of `task` is taken any more."""
        self._waiting.pop(task, None)


def start_process(process: BaseProcess) -> None:
    """Starts a process; SIGTERM or Ctrl-C that come meanwhile are acted on afterwards.

    A process whose parent leaves it half-told what to do complains with a traceback.
    """
    came: list[int] = []
    handlers: dict[int, Any] = {}  # Any: a function, or a number that stands for one
    with contextlib.suppress(ValueError):  # not the main thread, which alone acts on signals
        for each in (signal.SIGTERM, signal.SIGINT):
            handlers[each] = signal.signal(each, lambda received, _frame: came.append(received))
    try:
        process.start()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for received in came:
        signal.raise_signal(received)


class _Worker:
    """A process that records a block at a time, as its parent sees it."""

    def __init__(self, context: SpawnContext) -> None:
        self.connection, theirs = context.Pipe()
        self.shared: Any = context.RawArray("q", [_IDLE, 0])  # Any: a ctypes array: seed being played, episodes kept
        self.process = context.Process(target=_work, args=(theirs, self.shared))
        start_process(self.process)
        theirs.close()
        self.block: Block | None = None
        self.task: str | None = None
        self._seed, self._waited, self._looked, self._used = _IDLE, 0.0, 0.0, 0.0

    @property
    def kept(self) -> int:
        """Episodes of the running block."""
        return 0 if self.block is None else int(self.shared[1])

    def begin(self, block: Block, lost: Mapping[int, str]) -> None:
        """Give it a block."""
        self.block, self.task = block, block.task
        self.shared[:] = [_IDLE, 0]
        self._seed, self._looked = _IDLE, time.monotonic()
        with contextlib.suppress(ConnectionError):  # it has died: the next answer says so
            self.connection.send((block, dict(lost)))

    def answer(self) -> Outcome | Exception | None:
        """What became of the block; None where the process died."""
        try:
            outcome: Outcome | Exception = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            return None
        self.block = None
        return outcome

    def overdue_seed(self) -> int | None:
        """The seed whose episode is beyond its time limit; None while all is well.

        A stretch in which this process did not look, such as one in which it was stopped, counts as a short one.
        """
        assert self.block is not None
        now, seed, used = time.monotonic(), int(self.shared[0]), _cpu_seconds(self.process.pid)
        if seed != self._seed:
            self._seed, self._waited, self._used = seed, 0.0, used
        else:
            self._waited += min(now - self._looked, 5 * _LOOK_EVERY_S)
        self._looked = now
        limit = self.block.time_limit_s
        overdue = used - self._used > limit + _GRACE_S or self._waited > limit * WALL_PER_CPU + _GRACE_S
        return seed if seed != _IDLE and overdue else None

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Crew:
    """The workers of one recording, the blocks that wait for them, and the seeds that were lost."""

    def __init__(self, blocks: Sequence[Block], n_workers: int) -> None:
        self.queue = _Queue(blocks)
        self.n_workers = min(n_workers, len(blocks))
        self.workers: list[_Worker] = []
        self.lost: dict[Block, dict[int, str]] = {block: {} for block in blocks}
        self.deaths: collections.Counter[tuple[Block, int]] = collections.Counter()

    def record(self, on_kept: Callable[[int], object]) -> Iterator[tuple[Block, Outcome]]:
        """As `record_blocks`."""
        context = multiprocessing.get_context("spawn")
        try:
            while self.queue or any(worker.block for worker in self.workers):
                idle = [worker for worker in self.workers if worker.block is None]
                missing = min(self.n_workers - len(self.workers), len(self.queue) - len(idle))
                new = [_Worker(context) for _ in range(missing)]
                self.workers += new
                for worker in (idle + new)[: len(self.queue)]:
                    block = self.queue.take(worker.task)
                    worker.begin(block, self.lost[block])
                ready = wait([worker.connection for worker in self.workers if worker.block], _LOOK_EVERY_S)
                yield from self._look(ready)
                on_kept(sum(worker.kept for worker in self.workers))
        finally:
            for worker in self.workers:
                worker.end()

    def _look(self, ready: Sequence[object]) -> Iterator[tuple[Block, Outcome]]:
        for worker in [worker for worker in self.workers if worker.block is not None]:
            block = worker.block
            assert block is not None
            outcome: Outcome | Exception | None = None
            if worker.connection in ready:
                outcome = worker.answer() or self._died(worker, block)
            elif (seed := worker.overdue_seed()) is not None:
                outcome = self._hangs(worker, block, seed)
            if isinstance(outcome, Made | GivenUpError | BadEpisodeError):
                if not isinstance(outcome, Made):
                    self.queue.drop(block.task)
                yield block, outcome
            elif outcome is not None:
                raise outcome

    def _hangs(self, worker: _Worker, block: Block, seed: int) -> GivenUpError | None:
        worker.end()
        return self._replace(worker, block, seed, TIME_LIMIT)

    def _died(self, worker: _Worker, block: Block) -> GivenUpError | None:
        seed = int(worker.shared[0])
        self.deaths[block, seed] += 1
        if seed == _IDLE and self.deaths[block, seed] == _MAX_DEATHS:
            self.workers.remove(worker)
            return GivenUpError(
                f"{block.task}: its workers died {_MAX_DEATHS} times outside an episode, the last by"
                f" {_how_it_ended(worker.process.exitcode)}; what is whole is kept: the same command goes on there"
            )
        again = seed != _IDLE and self.deaths[block, seed] > 1
        return self._replace(worker, block, seed, WORKER_DIED if again else None)

    def _replace(self, worker: _Worker, block: Block, seed: int, reason: str | None) -> GivenUpError | None:
        """Leaves the block to another worker, without `seed` where there is a reason."""
        self.workers.remove(worker)
        if reason is not None:
            self.lost[block][seed] = reason
        if len(self.lost[block]) > _MAX_LOST:
            return GivenUpError(
                f"{block.task}: more than {_MAX_LOST} episodes of one block hung or ended their process,"
                f" the last: seed {seed}: {reason}, {_how_it_ended(worker.process.exitcode)}"
            )
        self.queue.put_back(block)
        return None


def _cpu_seconds(pid: int | None) -> float:
    """CPU time that a process has used so far, of all its threads; 0 where the system has no /proc to tell it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")  # in user's code and in the system's


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def _work(connection: Connection, shared: Any) -> None:  # Any: as _Worker.shared
    """What a worker process does until its parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    _end_with_parent()

    def notice(seed: int, kept: int) -> None:
        shared[1] = kept
        shared[0] = seed

    studio = Studio()
    while True:
        try:
            block, lost = connection.recv()
        except EOFError:
            return
        outcome: Outcome | Exception
        try:
            outcome = record_block(block, studio, lost, notice)
        except (GivenUpError, BadEpisodeError, OSError) as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  (whatever it is, the parent says it; it may hold what cannot be sent)
            outcome = RuntimeError(f"{block.task}: {type(error).__name__}: {error}")
        shared[0] = _IDLE
        connection.send(outcome)


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, also from a hang in C code where the system can do that."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
