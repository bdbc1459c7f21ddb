"""What commands show and write: progress bars, tables, JSON on standard output, one-line errors.

Bars and errors go to standard error, so that what a command answers can be piped.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gato_lite.whole import replacing

PROGRAM: Final = "gato-lite"
LINE_EVERY_S: Final = 30.0
"""Seconds between lines of progress where there is no terminal."""

OnProgress = Callable[[int, int], None]
"""Takes how much is done, and of how much."""


def one_line(text: str) -> str:
    """`text` without line feeds and what surrounds them."""
    return " ".join(part for line in text.splitlines() if (part := line.strip()))


def print_error(message: str) -> None:
    """The one line that an error is."""
    print(f"{PROGRAM}: error: {one_line(message)}", file=sys.stderr)


def print_note(message: str) -> None:
    """A line for the person, out of the way of the answer."""
    print(message, file=sys.stderr)


@contextlib.contextmanager
def answer_only() -> Iterator[None]:
    """Keeps what libraries print during the block away from standard output, where JSON is to stand alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def to_json(value: Any) -> str:  # Any: JSON or msgspec structs
    """`value` as indented JSON; NaN and infinity, which JSON lacks, are null."""
    import msgspec

    plain = msgspec.json.decode(msgspec.json.encode(value))
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)


def print_json(value: Any) -> None:  # Any: as to_json
    """`value` on standard output, and nothing else."""
    print(to_json(value))


def refuse_to_overwrite(paths: Sequence[Path | None], *, overwrite: bool) -> None:
    """Checks before long work that what it will write is not there yet; None is what it will not write.

    Raises:
        FileExistsError: a file is there and `overwrite` is off.
    """
    present = [path for path in paths if path is not None and path.exists()]
    if present and not overwrite:
        raise FileExistsError(f"{present[0]}: already there; pass --overwrite to replace it, or name another")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def bar(what: str, unit: str) -> Iterator[OnProgress]:
    """A progress bar with a rate in `unit`s a second and the time left; takes (done, total)."""
    start = time.monotonic()
    with share_bar(what) as show:

        def count(done: int, total: int) -> None:
            elapsed = time.monotonic() - start
            rate = f"  {done / elapsed:,.1f} {unit}/s" if elapsed > 0.5 else ""
            show(done / max(total, 1), f"{done:,}/{total:,} {unit}{rate}")

        yield count


@contextlib.contextmanager
def share_bar(what: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar with the time left; takes the share that is done, in [0, 1], and a text.

    It appears with the first call and goes when the work ends. Where standard error is no terminal, it is a line every
    `LINE_EVERY_S` seconds.
    """
    if not sys.stderr.isatty():
        yield _Lines(what).show
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        TextColumn("{task.fields[left]}"),
    )
    left = _Left()
    console = Console(stderr=True)
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        task = progress.add_task(what, total=1.0, text="", left="", visible=False)
        yield lambda done, text: progress.update(task, completed=done, text=text, left=left.after(done), visible=True)


class _Lines:
    """Progress where nobody watches: a line now and then for the log."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.last = time.monotonic()
        self.left = _Left()

    def show(self, done: float, text: str) -> None:
        now = time.monotonic()
        left = self.left.after(done)
        if now - self.last < LINE_EVERY_S:
            return
        self.last = now
        print_note(f"{self.what} {done:.0%}  {text}  {left}".rstrip())


class _Left:
    """How long the rest takes, if it goes on as it has gone since the work itself began.

    What was done before (reading data, an earlier run that is resumed) says nothing about the rate.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        """Share done, and when, at the first call with progress."""

    def after(self, done: float) -> str:
        """In words; empty while nobody can know."""
        now = time.monotonic()
        if self._first is None or not self._first[0]:
            self._first = (done, now)
        before, since = self._first
        if not before < done < 1:
            return ""
        return _in_words((now - since) * (1 - done) / (done - before))


def _in_words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Columns of text on standard output, as wide as their values; `numbers` names the columns that go to the right."""
    right = {header.index(name) for name in numbers}
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(cells).rstrip())


def describe(error: OSError) -> str:
    """`FILE: what is wrong`, where the system says only a number and a phrase."""
    if error.strerror is None or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
