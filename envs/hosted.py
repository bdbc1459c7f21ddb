"""Environments in processes of their own, so that none can take down, or hold up, the one that asks them.

All environments are in one process (`envs/host.py`) while they are quick: a step then costs one exchange however many
there are. A task whose steps are found to take long moves to further processes, so that others need not wait for it.
Nobody waits for a slot there: it is answered for when its answer has come.

When a process is lost, by its death or by a call that exceeds its limit, the environment that it was in is given up
and the process started anew. Its other episodes are played again from their seeds and actions, once they are asked to
go on. An episode moves to another process in the same way, and only if it comes to the same there.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any, Final

from gato_lite.envs.host import Asked, Host, LostError, Packed
from gato_lite.envs.stage import CALLS, Answer, Begin, Broken, Replay, Seen, Step, Turn
from gato_lite.spaces import AnySpace, Json, space_from_json

MOST_LOST: Final = 8
"""Episodes by which the process may be lost before a task is given up of which no more came to their end."""
SLOW_S: Final = 0.01
"""A step that takes longer holds up others; a model on a CPU acts for 32 of them in about as much."""
SLOW_STEPS: Final = 3
"""Steps of a task in a row that take longer before it counts as slow: a busy machine makes any one of them long."""
MOST_HOSTS: Final = 4
"""Processes, the one for quick environments included."""
MOST_MOVED: Final = 64
"""Steps of an episode that are taken again for moving it; one that has come further stays to its end."""


@dataclass
class _Log:
    """An episode so far, as it can be played again."""

    begin: Begin
    host: Host
    """Where it is."""
    actions: list[Any] = field(default_factory=list)
    total_reward: float = 0.0
    before: float = 0.0
    """The same before the last step."""


@dataclass
class _Move:
    """An episode that is being played again in another process."""

    target: Host
    shown: Packed
    """What it answered last where it is, as it was sent."""
    seen: Seen
    """The same, which nobody has been told yet."""


class HostedStage:
    """As `Stage`, whatever the environments do.

    Args:
        names: of the tasks, as `find_tasks` knows them.
        evaluation: whether environments are of the evaluation kind.
        limit_s: longest time for one call of an environment, in seconds.
        hosts: most processes; 1 keeps all environments in one, however slow some are.
        halves: whether half of a process's answers may come while it takes the other steps, where those take long.
            Who acts for half of them at a time computes more; it pays where a core is idle.
    """

    def __init__(
        self, names: Sequence[str], *, evaluation: bool, limit_s: float, hosts: int = MOST_HOSTS, halves: bool = False
    ) -> None:
        self._names, self._evaluation, self._limit_s, self._halves = list(names), evaluation, limit_s, halves
        self._most_hosts = hosts
        self._hosts: list[Host] = []
        """The first is that of quick environments; others are started when they are needed."""
        self._start()
        self._logs: dict[int, _Log] = {}
        self._turns: dict[int, Turn] = {}
        """Of slots whose answers are still to come, sent or not."""
        self._moves: dict[int, _Move] = {}
        self._ready: dict[int, Answer] = {}
        self._recent: dict[str, deque[float]] = {}
        """Seconds of the last steps of each task."""
        self._slow: set[str] = set()
        self._pinned: set[str] = set()
        """Slow tasks whose episodes came to something else where they were moved to."""
        self._spaces: dict[str, tuple[tuple[Json, Json], tuple[AnySpace, AnySpace]]] = {}
        """By task, as they were sent and as they are."""
        self._n_lost: Counter[str] = Counter()
        self._n_ended: Counter[str] = Counter()
        """Episodes by task that a process was lost by, and that came to their end."""

    def take(self, turns: Mapping[int, Turn]) -> dict[int, Answer]:
        """Each slot's turn, and what its environment answers, however long that takes.

        Raises:
            RuntimeError: as `answers`.
        """
        self.ask(turns)
        found: dict[int, Answer] = {}
        while len(found) < len(turns):
            found |= self.answers()
        return {slot: found[slot] for slot in turns}

    def ask(self, turns: Mapping[int, Turn]) -> None:
        """Asks for turns of slots all of whose answers have been heard."""
        for slot, turn in turns.items():
            if isinstance(turn, Begin):
                self._begin(slot, turn)
            elif isinstance(turn, Step):
                self._logs[slot].actions.append(turn.action)
            self._turns[slot] = turn
        self._send()

    def answers(self, *, wait_for_one: bool = True) -> dict[int, Answer]:
        """What has come; for the answers of quick environments it waits a little.

        Args:
            wait_for_one: whether to wait, however long, until there is at least one.

        Raises:
            RuntimeError: a process ends again and again while no environment is being called.
        """
        while True:
            self._send()
            is_waiting = wait_for_one and not self._ready and bool(self._turns)
            heard = self._listen(min(1.0, self._limit_s / 4) if is_waiting else self._hosts[0].patience_s)
            if not heard and not is_waiting:
                break
        ready, self._ready = self._ready, {}
        return ready

    def close(self) -> None:
        """Ends the processes; one that does not close its environments within seconds is killed."""
        for host in self._hosts:
            host.close()

    # -- asking

    def _begin(self, slot: int, turn: Begin) -> None:
        before = self._logs.pop(slot, None)
        if turn.drop and before is not None:
            before.host.spoiled.add(slot)
        self._logs[slot] = _Log(turn, self._host_of(turn.task))

    def _host_of(self, task: str) -> Host:
        """Where an episode of the task is to be."""
        if not self._is_movable(task):
            return self._hosts[0]
        load = Counter(
            id(self._moves[slot].target if slot in self._moves else log.host) for slot, log in self._logs.items()
        )
        host = min(self._hosts[1:], key=lambda host: load[id(host)], default=None)
        if (host is None or load[id(host)]) and len(self._hosts) < self._most_hosts:
            return self._start()
        assert host is not None
        return host

    def _start(self) -> Host:
        host = Host(self._names, evaluation=self._evaluation, limit_s=self._limit_s, halves=self._halves)
        self._hosts.append(host)
        return self._hosts[-1]

    def _send(self) -> None:
        """Asks every process that waits for it for all that it can be asked for."""
        for host in self._hosts:
            while not host.asked and (turns := self._turns_of(host)):
                try:
                    host.send(turns)
                except LostError as lost:
                    self._lose(host, lost)

    def _turns_of(self, host: Host) -> dict[int, Asked]:
        found: dict[int, Asked] = {}
        for slot, turn in list(self._turns.items()):
            log, move = self._logs[slot], self._moves.get(slot)
            if (log.host if move is None else move.target) is not host:
                continue
            if self._is_hopeless(log.begin.task):
                self._moves.pop(slot, None)
                self._answer(slot, self._given_up(log.begin.task))
            elif isinstance(turn, Begin):
                found[slot] = replace(turn, drop=slot in host.spoiled)
                host.spoiled.discard(slot)
            elif isinstance(turn, Replay) or slot not in host.present:
                found[slot] = Replay(log.begin, log.actions, log.before if move else log.total_reward)
            else:
                found[slot] = (turn.action,)
        return found

    # -- hearing

    def _listen(self, timeout_s: float) -> bool:
        """Hears what has come; whether anything has."""
        busy = {id(host.connection): host for host in self._hosts if host.asked}
        if not busy:
            return False
        come = {id(connection) for connection in wait([host.connection for host in busy.values()], timeout_s)}
        for key, host in busy.items():
            try:
                if key not in come:
                    host.watch()
                    continue
                for slot, (packed, seconds) in host.receive().items():
                    self._hear(host, slot, packed, seconds)
            except LostError as lost:
                self._lose(host, lost)
                come.add(key)
        return bool(come)

    def _hear(self, host: Host, slot: int, packed: Packed, seconds: float) -> None:
        """Notes an answer, and what its episode needs to be played again."""
        log = self._logs[slot]
        if slot in self._moves:
            self._arrive(slot, packed)
        elif len(packed) == 1:
            host.present.discard(slot)
            self._answer(slot, Broken(why=packed[0]))
        else:
            observation, action_mask, reward, terminated, truncated, success, stored = packed
            host.present.add(slot)
            log.before = log.total_reward
            log.total_reward += reward
            spaces = None if stored is None else self._read_spaces(log.begin.task, stored)
            seen = Seen(observation, action_mask, reward, terminated, truncated, success, spaces)
            if terminated or truncated:
                self._n_ended[log.begin.task] += 1
            elif isinstance(self._turns[slot], Step) and self._is_to_move(log, seconds):
                self._moves[slot] = _Move(self._host_of(log.begin.task), packed, seen)
                self._turns[slot] = Replay(log.begin, log.actions, log.before)
                return
            self._answer(slot, seen)

    def _answer(self, slot: int, answer: Answer) -> None:
        del self._turns[slot]
        self._ready[slot] = answer

    def _read_spaces(self, task: str, stored: tuple[Json, Json]) -> tuple[AnySpace, AnySpace]:
        known = self._spaces.get(task)
        if known is None or known[0] != stored:
            known = stored, (space_from_json(stored[0]), space_from_json(stored[1]))
            self._spaces[task] = known
        return known[1]

    # -- moving

    def _is_to_move(self, log: _Log, seconds: float) -> bool:
        """Whether an episode holds up others, as its last step took so long; learns whether its task is slow."""
        task = log.begin.task
        recent = self._recent.setdefault(task, deque(maxlen=SLOW_STEPS))
        recent.append(seconds)
        if len(recent) == SLOW_STEPS and min(recent) > SLOW_S:
            self._slow.add(task)
        return self._is_movable(task) and log.host is self._hosts[0] and len(log.actions) <= MOST_MOVED

    def _is_movable(self, task: str) -> bool:
        return task in self._slow and task not in self._pinned and self._most_hosts > 1

    def _arrive(self, slot: int, packed: Packed | None) -> None:
        """The episode has been played again elsewhere and came to `packed`, or to nothing at all."""
        log, move = self._logs[slot], self._moves.pop(slot)
        if packed is not None and pickle.dumps(packed) == pickle.dumps(move.shown):
            log.host = move.target
            log.host.present.add(slot)
        else:  # it is not a function of its seed and its actions: it goes on where it is
            self._pinned.add(log.begin.task)
            move.target.spoiled.add(slot)
        self._answer(slot, move.seen)

    # -- losing

    def _lose(self, host: Host, lost: LostError) -> None:
        """Gives up the episode that a process was lost by, and starts the process anew."""
        log, move = self._logs.get(lost.slot), self._moves.get(lost.slot)
        if move is not None and move.target is host:
            self._arrive(lost.slot, None)
        elif log is not None and lost.slot in host.asked:
            task = log.begin.task
            self._n_lost[task] += 1
            call = CALLS[lost.call] + (f" {len(log.actions)}" if CALLS[lost.call] == "step" else "")
            self._answer(lost.slot, Broken(why=f"{call} {lost.what}"))
        host.restart(lost)

    def _is_hopeless(self, task: str) -> bool:
        return self._n_lost[task] >= MOST_LOST and self._n_lost[task] > self._n_ended[task]

    def _given_up(self, task: str) -> Broken:
        return Broken(
            why=f"given up: {self._n_lost[task]} episodes of the task ended or held up their process, and only "
            f"{self._n_ended[task]} came to their end"
        )
