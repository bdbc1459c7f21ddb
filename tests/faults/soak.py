"""Record → train → evaluate in a loop, killed at random moments and started again, for as long as one likes.

    python tests/faults/soak.py --hours 2 --seed 0 --out DIR      a cycle takes about a minute
    python tests/faults/soak.py --plot-only --out DIR             the summary and the figure so far

Every command is a real process. It is killed by SIGKILL, SIGTERM or Ctrl-C at a moment drawn between its start and a
little after its usual end, up to three times, and started again with the words that a user would type. Sometimes a bit
is flipped in the newest checkpoint, or in a copy of a dataset. What was recorded, trained or evaluated twice or not at
all is counted; in every fourth cycle all of it is done again without kills, and has to give the same bytes.

Beside the cycles one process trains and one evaluates and acts, all the time; their memory is sampled every ten
seconds.

    DIR/cycles.jsonl      a line for each cycle
    DIR/memory.jsonl      a line for each process and sample
    DIR/summary.json      totals, and how much memory grew
    DIR/memory.png        the figure

Linux alone. One thread each, at low priority, so that it can run beside other work.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from soak_child import TASKS
from soak_long import LongLived
from soak_process import Ended, Kill, Watch, run
from soak_report import report

SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHECKED_FILES: Final = ("model.safetensors", "optimizer.safetensors", "state.json")
EPISODES: Final = 400
STEPS: Final = 150
AGAIN_EVERY: Final = 4
"""Cycles between those that are done again without kills."""
MAY_END: Final = {None: {0}, "SIGKILL": {0, -9}, "SIGTERM": {0, -15, 143}, "SIGINT": {0, -2, 130}}
"""Exit codes that are right after each signal: it may come before the command listens, or when it is done."""


class Cycle:
    """One round of record, train, evaluate, with its counts.

    Args:
        folder: an empty folder, deleted at the end.
        number: of the cycle.
        usual_s: how long each command takes when nothing kills it; brought up to date.
        rng: decides what happens when.
    """

    def __init__(self, folder: Path, number: int, usual_s: dict[str, float], rng: random.Random) -> None:
        self.folder = folder
        self.number = number
        self.rng = rng
        self.data = folder / "data"
        self.trained = folder / "run"
        self.kills: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.lost: dict[str, list[int]] = {"SIGKILL": [], "SIGTERM": [], "SIGINT": []}
        self.peak_mb: dict[str, float] = {}
        self.problems: list[str] = []
        self._usual_s = usual_s

    def run(self) -> None:
        """All of it; what is wrong is among the problems."""
        self.folder.mkdir(parents=True)
        again = self.number % AGAIN_EVERY == 0
        self._record(again=again)
        if self.rng.random() < 0.5:
            self._flip_data()
        self._train(again=again)
        self._evaluate(again=again)
        for words in (["verify", str(self.trained)], ["data", "check", str(self.data)]):
            self._expect(words, {0})

    def line(self) -> dict[str, Any]:  # Any: JSON
        """The counts as JSON."""
        return {
            "cycle": self.number,
            "kills": dict(self.kills),
            "ends": dict(self.ends),
            **dict(self.counts),
            "steps_lost": self.lost,
            "peak_mb": {name: round(peak, 1) for name, peak in self.peak_mb.items()},
            "problems": self.problems,
        }

    def problem(self, text: str) -> None:
        """Notes what should not have happened."""
        self.problems.append(text)
        print(f"cycle {self.number}: PROBLEM: {text}", flush=True)

    def _record(self, *, again: bool) -> None:
        words = ["record", *TASKS, "--episodes", str(EPISODES), "--seed", str(self.number * 10_000)]
        words += ["--workers", str(self.rng.choice((1, 2))), "--out"]
        seen: dict[Path, str] = {}

        def look() -> None:
            for file in sorted(self.data.glob("*/part-*.parquet")):
                self.counts["episodes_committed_before_a_restart"] += len(self._seeds(file))
                seen[file] = _sha256(file)

        self._until_done([*words, str(self.data)], look)
        self.counts["parts_kept_by_restarts"] += len(seen)
        self.counts["parts_changed_by_restarts"] += sum(
            not file.is_file() or _sha256(file) != old for file, old in seen.items()
        )
        for folder in sorted(self.data.iterdir()):
            seeds = [seed for file in folder.glob("part-*.parquet") for seed in self._seeds(file)]
            self.counts["episodes"] += len(seeds)
            self.counts["episodes_missing"] += max(EPISODES - len(seeds), 0)
            self.counts["episodes_doubled"] += len(seeds) - len(set(seeds))
        self._expect(["data", "check", str(self.data)], {0})
        if again:
            self._expect([*words, str(self.folder / "data-again")], {0})
            self._same("recordings", self.data, self.folder / "data-again", "*/part-*.parquet")

    def _seeds(self, part: Path) -> list[int]:
        """Environment seeds of a part's episodes, read by Parquet's own reader."""
        try:
            return list(pq.read_table(part, columns=["seed"])["seed"].to_pylist())
        except (OSError, ValueError) as error:
            self.problem(f"{part.name}: a part that is there cannot be read: {error}")
            return []

    def _train(self, *, again: bool) -> None:
        words = ["train", "soak", "--data", str(self.data), "emoji", "--steps", str(STEPS), "--out"]
        logged, sent = 0, "SIGKILL"

        def look() -> None:
            nonlocal logged, sent
            sent = max(self.lost, key=lambda name: self.kills[f"train {name}"] - before[name])
            before.update({name: self.kills[f"train {name}"] for name in self.lost})
            logged = max(_steps(self.trained), default=0)
            self.lost[sent].append(logged - max(_checkpoints(self.trained), default=0))
            if _checkpoints(self.trained) and self.rng.random() < 0.35:
                self._flip_checkpoint([*words, str(self.trained), "--resume"])

        before = dict.fromkeys(self.lost, 0)
        self._until_done([*words, str(self.trained)], look, resume=["--resume"])
        steps = _steps(self.trained)
        self.counts["steps"] += len(set(steps))
        self.counts["steps_missing"] += len(set(range(1, STEPS + 1)) - set(steps))
        self.counts["steps_doubled"] += len(steps) - len(set(steps))
        if again:
            self._expect([*words, str(self.folder / "run-again")], {0})
            self._same("weights", self.trained, self.folder / "run-again", f"checkpoints/step_{STEPS}/*.safetensors")

    def _evaluate(self, *, again: bool) -> None:
        scores = self.folder / "scores.json"
        words = ["eval", str(self.trained), "--episodes", "4", "--workers", str(self.rng.choice((1, 2)))]

        def look() -> None:
            if scores.is_file():
                json.loads(scores.read_text("utf-8"))  # whole or absent

        self._until_done([*words, "--overwrite", "--json", str(scores)], look)
        found = json.loads(scores.read_text("utf-8"))["tasks"]
        self.counts["episodes_evaluated"] += sum(score["episodes"] for score in found.values())
        self.counts["episodes_not_evaluated"] += 4 * len(TASKS) - sum(score["episodes"] for score in found.values())
        if again:
            other = self.folder / "again" / "scores.json"
            words[1] = str(self.folder / "run-again")
            self._expect([*words, "--json", str(other)], {0})
            self._same("scores", scores.parent, other.parent, "scores.json")

    def _until_done(self, words: list[str], look: Callable[[], None], resume: list[str] | None = None) -> None:
        """Runs a command until it ends well, up to three times with a kill on the way; `look` after each kill."""
        name = words[0]
        for _ in range(self.rng.choice((0, 1, 2, 3, 3))):
            number = self.rng.choice(SIGNALS)
            kill = Kill(number, self.rng.uniform(0.0, 1.1 * self._usual_s[name]))
            extra = (resume or []) if _began(words) else []
            ended = self._run([*words, *extra], kill)
            if ended.code == 0:
                return
            self.kills[f"{name} {number.name}"] += 1
            look()
            self.counts[f"{name}_restarts"] += 1
        extra = (resume or []) if _began(words) else []
        ended = self._run([*words, *extra])
        self._usual_s[name] = (self._usual_s[name] + ended.seconds) / 2
        if ended.code:
            raise RuntimeError(f"{name} did not end well after its restart: exit {ended.code}")

    def _run(self, words: list[str], kill: Kill | None = None, may_end: set[int] | None = None) -> Ended:
        """One child, with everything about its end noted."""
        name = " ".join(words[:2]) if words[0] == "data" else words[0]
        ended = run(words, self.folder / "log.txt", kill)
        self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), ended.peak_mb)
        self.ends[f"{name} {ended.killed or 'not killed'}: {ended.code}"] += 1
        last = ended.text.strip().rpartition("\n")[2]
        if ended.hung:
            self.problem(f"{name}: hung")
        elif ended.code not in (may_end or MAY_END[ended.killed]):
            self.problem(f"{name}, {ended.killed}: exit {ended.code}: {last}")
        elif "Traceback" in ended.text and "KeyboardInterrupt" not in ended.text:
            self.problem(f"{name}, {ended.killed}: a traceback: {last}")
        if ended.orphans:
            self.problem(f"{name}, {ended.killed}: {ended.orphans} of its processes did not end")
        return ended

    def _expect(self, words: list[str], codes: set[int]) -> Ended:
        return self._run(words, may_end=codes)

    def _same(self, what: str, one: Path, other: Path, pattern: str) -> None:
        """Counts files that are equal, byte by byte, in two folders."""
        files = [file.relative_to(one) for file in sorted(one.glob(pattern))]
        equal = bool(files) and all(
            (other / file).is_file() and _sha256(one / file) == _sha256(other / file) for file in files
        )
        self.counts[f"{what}_compared"] += 1
        if not equal:
            self.problem(f"{what}: killed and not killed differ in {one} and {other}")

    def _flip_data(self) -> None:
        """Flips a bit in a copy of a dataset: `data check` or `verify` has to see it."""
        copy = self.folder / "copy"
        shutil.copytree(self.rng.choice(sorted(self.data.iterdir())), copy)
        place = self._flip(self.rng.choice(sorted(copy.glob("part-*.parquet"))))
        ended = self._expect([*self.rng.choice((["verify"], ["data", "check"])), str(copy)], {1})
        self.counts["dataset_flips"] += 1
        self.counts["dataset_flips_caught"] += ended.code == 1
        if ended.code == 0:
            self.problem(f"a flip was not seen: {place}")
        shutil.rmtree(copy)

    def _flip_checkpoint(self, resume: list[str]) -> None:
        """Flips a bit in the newest checkpoint: `verify` has to see it, and --resume must not go on from it."""
        newest = max(_checkpoints(self.trained))
        file = self.trained / "checkpoints" / f"step_{newest}" / self.rng.choice(CHECKED_FILES)
        whole = file.read_bytes()
        place = self._flip(file)
        self.counts["checkpoint_flips"] += 1
        verified = self._expect(["verify", str(self.trained)], {1})
        ended = self._expect(resume, {0, 1, 2})
        told = file.parent.name in ended.text and "gato-lite: " in ended.text
        if ended.code == 0 and verified.code == 1:
            self.counts["checkpoint_flips_passed_over"] += 1  # it went on from an older one, or began anew
        elif told and verified.code == 1:
            self.counts["checkpoint_flips_refused"] += 1
            file.write_bytes(whole)
        else:
            self.problem(f"a flip was not seen: {place}")

    def _flip(self, file: Path) -> str:
        data = bytearray(file.read_bytes())
        at, bit = self.rng.randrange(len(data)), self.rng.randrange(8)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        return f"{file}, byte {at}, bit {bit}"


def _began(words: list[str]) -> bool:
    """Whether the command's folder of a run is there, so that it is to be resumed."""
    return words[0] == "train" and (Path(words[-1]) / "config.json").is_file()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _checkpoints(trained: Path) -> list[int]:
    return [int(file.parent.name[5:]) for file in trained.glob("checkpoints/step_*/manifest.json")]


def _steps(trained: Path) -> list[int]:
    """Steps in the metrics; a line that a kill cut short is passed over."""
    file = trained / "metrics.jsonl"
    steps = []
    for line in file.read_text("utf-8").splitlines() if file.is_file() else []:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        steps += [found["step"]] if "loss" in found else []
    return steps


def soak(out: Path, hours: float, seed: int) -> None:
    """Cycles until the time is over; a line for each."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    about = {"began": began, "hours": hours, "seed": seed, "cycle_steps": STEPS, "cycle_episodes": EPISODES}
    (out / "about.json").write_text(json.dumps(about), "utf-8")
    rng = random.Random(seed)
    usual_s = {"record": 5.0, "train": 15.0, "eval": 5.0}
    watch = Watch(out / "memory.jsonl")
    with LongLived(out / "long", watch, hours * 3600) as long_lived:
        number = 0
        while time.time() < began + hours * 3600:
            cycle = Cycle(out / "cycle", number, usual_s, rng)
            start = time.time()
            try:
                cycle.run()
            except Exception as error:  # noqa: BLE001  (counted, and the next cycle goes on)
                cycle.problem(f"{type(error).__name__}: {error}")
            line = {"t": round(start - began, 1), "seconds": round(time.time() - start, 1), **cycle.line()}
            line |= {"long": long_lived.look(), "disk_mb": round(_size(out) / 1e6, 1)}
            with (out / "cycles.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if cycle.problems:
                (out / "cycle").rename(out / f"cycle-{number}-with-problems")
            else:
                shutil.rmtree(out / "cycle")
            number += 1
    watch.close()
    (out / "about.json").write_text(json.dumps({**about, "ended": time.time(), "long": long_lived.ended}), "utf-8")


def _size(folder: Path) -> int:
    size = 0
    for place, _, files in os.walk(folder):  # passes over folders that go while it looks
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                size += (Path(place) / file).stat().st_size
    return size


def main() -> None:
    """Reads the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot-only", action="store_true", help="write the summary and the figure of what is in DIR")
    options = parser.parse_args()
    if not options.plot_only:
        os.nice(max(15 - os.nice(0), 0))
        os.environ["OMP_NUM_THREADS"] = "1"
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the processes it started are ended
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs behind ignore Ctrl-C
        soak(options.out.resolve(), options.hours, options.seed)
    print(report(options.out))


if __name__ == "__main__":
    main()
