"""What a run writes down about itself.

    RUN/metrics.jsonl                 a JSON object a line
    RUN/events.out.tfevents.*.gato    the same numbers for TensorBoard, a file each time that training begins

A line is written at once and whole: a kill leaves all that was said before it, in both files. Where the disk refuses,
what it did not take is kept and written with what comes next, so that a full disk alone does not end a run.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from gato_lite.model import MODALITIES, Losses
from gato_lite.run import find_run
from gato_lite.train.ranks import Ranks
from gato_lite.whole import replacing

METRICS_FILE: Final = "metrics.jsonl"
"""Lines of metrics in a run's folder."""


class Journal:
    """Writes lines of metrics, and their numbers as TensorBoard's events.

    Args:
        run: folder of the run.
        step: steps done; what an earlier, killed process told TensorBoard about later ones is void.
        silent: whether nothing is written, as on all ranks but the first.
    """

    def __init__(self, run: Path, step: int, *, silent: bool = False) -> None:
        self._lines = _Whole(run / METRICS_FILE)
        self._events = _Whole(run / f"events.out.tfevents.{time.time_ns()}.gato")
        self._silent = silent
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._write_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        started = SessionLog(status=SessionLog.START)
        self._write_event(Event(wall_time=time.time(), step=step + 1, session_log=started))

    def write(self, line: Mapping[str, Any], tags: Mapping[str, float]) -> None:  # Any: JSON
        """One line, and the same as numbers by TensorBoard's tag; `line` has to name its step."""
        if self._silent:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._lines.append(f"{json.dumps(line)}\n".encode())
        if tags:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in tags.items()]
            self._write_event(Event(wall_time=time.time(), step=line["step"], summary=Summary(value=values)))

    def _write_event(self, event: Any) -> None:  # Any: protobuf's Event has no type of its own
        """Source: the format of TFRecord files: length, its checksum, data, their checksum."""
        if self._silent:
            return
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._events.append(
            length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
        )


class _Whole:
    """A file that grows by whole records; those that the disk refuses wait for the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = b""

    def append(self, record: bytes) -> None:
        self._waiting += record
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError:
            return
        try:
            size = os.fstat(handle).st_size
            if _written(handle, self._waiting) == len(self._waiting):
                self._waiting = b""
            else:
                os.ftruncate(handle, size)
        finally:
            os.close(handle)


def _written(handle: int, data: bytes) -> int:
    """Bytes of `data` that the disk took."""
    try:
        return os.write(handle, data)
    except OSError:
        return 0


def metrics_line(text: bytes) -> dict[str, Any] | None:  # Any: JSON
    """One line of metrics; None where it is none, such as half a line of a power cut."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def read_metrics(run: Path | str) -> list[dict[str, Any]]:  # Any: JSON
    """A run's lines of metrics up to the first that is none, such as a last one that was cut."""
    path = find_run(run) / METRICS_FILE
    return [line for _, line in _whole_lines(path)] if path.is_file() else []


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for text in path.read_bytes().splitlines():
        if (line := metrics_line(text)) is None:
            return
        yield text, line


def drop_lines_after(run: Path, step: int) -> None:
    """Forgets metrics of steps that will be taken again."""
    path = run / METRICS_FILE
    if not path.is_file():
        return
    lines = _whole_lines(path)
    kept = [text for text, line in lines if isinstance(line.get("step"), int) and line["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(text + b"\n" for text in kept))


@dataclass
class Meter:
    """Sums between two lines of metrics, over all ranks."""

    sources: Sequence[str]
    """Name of each source of the mixture; several sources may be of one task."""
    sums: np.ndarray = field(init=False)  # (task, modality): nats and target tokens
    counts: np.ndarray = field(init=False)
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    """Spent waiting for the loader."""

    def __post_init__(self) -> None:
        self.names = list(dict.fromkeys(self.sources))
        self._task = np.array([self.names.index(name) for name in self.sources])
        self.sums = np.zeros((len(self.names), len(MODALITIES)))
        self.counts = np.zeros((len(self.names), len(MODALITIES)))

    @classmethod
    def restored(cls, sources: Sequence[str], state: dict[str, Any]) -> Meter:  # Any: JSON
        """The meter whose `state` a checkpoint has; empty if it was of other tasks."""
        meter = cls(sources)
        if state.get("names") == meter.names:
            meter.sums, meter.counts = np.array(state["sums"]), np.array(state["counts"])
            for key in ("tokens", "flops", "seconds", "waited_s"):
                setattr(meter, key, state[key])
        return meter

    def state(self) -> dict[str, Any]:  # Any: JSON
        """What has been summed up, as JSON."""
        rates = {key: getattr(self, key) for key in ("tokens", "flops", "seconds", "waited_s")}
        return {"names": self.names, "sums": self.sums.tolist(), "counts": self.counts.tolist(), **rates}

    def add(self, losses: Losses, tokens: int, flops: float, seconds: float, ranks: Ranks) -> None:
        """Counts one step: this rank's losses (on the host), tokens and arithmetic, to which other ranks' are added."""
        sums, counts = np.zeros_like(self.sums), np.zeros_like(self.counts)
        for group, nats in losses.groups:
            tasks = self._task[group.tasks.numpy()]
            sums[:, group.modality] += np.bincount(tasks, nats.numpy(), len(self.names))
            counts[:, group.modality] += np.bincount(tasks, minlength=len(self.names))
        both = ranks.sum_numbers(np.concatenate([sums.ravel(), counts.ravel(), [tokens, flops]]))
        self.sums += both[: sums.size].reshape(sums.shape)
        self.counts += both[sums.size : -2].reshape(counts.shape)
        self.tokens += int(both[-2])
        self.flops += float(both[-1])
        self.seconds += seconds

    def line(self) -> dict[str, Any]:  # Any: JSON
        """Means and rates."""

        def mean(sums: Any, counts: Any) -> float:  # Any: arrays of any shape
            return round(float(sums.sum() / counts.sum()), 5)

        by_task, by_modality = self.counts.sum(1), self.counts.sum(0)
        return {
            "loss": mean(self.sums, self.counts),
            "loss_by_task": {n: mean(self.sums[i], self.counts[i]) for i, n in enumerate(self.names) if by_task[i]},
            "loss_by_modality": {
                n: mean(self.sums[:, i], self.counts[:, i]) for i, n in enumerate(MODALITIES) if by_modality[i]
            },
            "tokens_per_s": round(self.tokens / max(self.seconds, 1e-9), 1),
            "target_tokens_per_s": round(float(self.counts.sum()) / max(self.seconds, 1e-9), 1),
        }


def tags_of(line: Mapping[str, Any]) -> dict[str, float]:  # Any: JSON
    """TensorBoard's tag of each number in a logged line."""
    tags: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            tags.update({f"{key}/{name}": part for name, part in value.items()})
        elif key not in ("step", "skipped"):
            tags[f"training/{key}"] = value
    return tags
