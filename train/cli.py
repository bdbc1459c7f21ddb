"""The command line: finds the command, reads its options, and says in one line what went wrong.

Decisions:

- Nothing heavy is imported until a command runs, so that `gato-lite --help` answers at once. Each command is a module
  of `gato_lite.train.commands` with `Options`, a dataclass that tyro turns into the command's options, `EXAMPLE`, which
  ends its help and runs, and `run`, which returns None or an exit code.
- Exit codes: 0 done, 1 the work failed or found problems, 2 the input was wrong, 130 Ctrl-C, 143 SIGTERM; training
  saves before either of the last two.
- What a user can mend is one line on standard error. Anything else is a bug of ours and keeps its traceback; so does
  every error where the environment variable GATO_LITE_TRACEBACK is set.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any, Final

from gato_lite import __version__
from gato_lite.names import unknown_name
from gato_lite.train.console import PROGRAM, describe, one_line, print_error

DONE: Final = 0
FAILED: Final = 1
WRONG_INPUT: Final = 2
INTERRUPTED: Final = 130
TERMINATED: Final = 143
BROKEN_PIPE: Final = 141


@dataclass(frozen=True)
class Command:
    """One line of the help."""

    module: str
    """Within `gato_lite.train.commands`."""
    summary: str


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command("demo", "record, train, evaluate, caption, write: one model and its report"),
    "tasks": Command("tasks", "list the tasks: modality, expert, scores, what to install"),
    "record": Command("record", "record experts' episodes of tasks as datasets"),
    "data info": Command("data_info", "say what datasets hold"),
    "data check": Command("data_check", "check every hash and every value of a dataset"),
    "data fetch": Command("data_fetch", "fetch pictures, questions, translations or text by pip, npm or apt"),
    "data import": Command("data_import", "make a dataset of text files, captioned pictures or Minari episodes"),
    "data export": Command("data_export", "write a dataset of episodes in another format"),
    "data text-model": Command("data_text_model", "train a SentencePiece model on text"),
    "train": Command("train", "train a model on datasets"),
    "eval": Command("eval", "score a run on episodes that it never saw"),
    "play": Command("play", "play a task with a run's weights, and film it"),
    "prompt": Command("prompt", "continue a text, or name a picture"),
    "inspect": Command("inspect", "show a run or a dataset token by token"),
    "bench rollout": Command("bench_rollout", "measure how fast a model acts, by slots, context and action size"),
    "bench train": Command("bench_train", "measure training steps, and what single decisions are worth"),
    "bench data": Command("bench_data", "measure how fast data become streams, and how soon commands answer"),
    "bench patches": Command("bench_patches", "measure which patch encoder suits one's pictures"),
    "verify": Command("verify", "check every hash and schema of a run or a dataset; repairs nothing"),
    "doctor": Command("doctor", "versions, extras, device, speed, disk, and what is wrong with them"),
}
"""All commands, in the order of the help."""
_GROUPS: Final = {name.split()[0] for name in COMMANDS if " " in name}

_EXTRA_OF: Final = {
    "ale_py": "atari",
    "box2d": "control",
    "h5py": "minari",
    "imageio_ffmpeg": "video",
    "matplotlib": "demo",
    "metaworld": "robotics",
    "minari": "minari",
    "minigrid": "babyai",
    "mujoco": "control",
    "pygame": "video",
    "resvg_py": "svg",
    "sacrebleu": "eval",
}
"""The extra that brings a package."""
_BOX: Final = re.compile(r"\x1b\[[0-9;]*m|[─│╭╮╰╯├┤]")
_RAISED: Final = re.compile(r'File "([^"]+)", line \d+, in .+\n +(raise\b)?')
"""Each frame of a traceback: its file, and whether it stands at a `raise`."""


class _Terminated(BaseException):
    """SIGTERM came."""


class UsageError(ValueError):
    """The words after `gato-lite` make no sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: the words after the program's name; None takes those of this process.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on standard output, where answers stand
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without emoji is no reason to stop
    try:
        with _terminable():
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except (KeyboardInterrupt, _Terminated) as stop:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
    except BrokenPipeError:  # `gato-lite tasks | head` has read enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        told = _explain(error)
        if told is None or os.environ.get("GATO_LITE_TRACEBACK"):
            raise
        message, code = told
        print_error(message)
    return code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, its worker processes first, so that nobody waits for their work."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if "multiprocessing" in sys.modules:
            for worker in sys.modules["multiprocessing"].active_children():
                worker.terminate()
        raise _Terminated

    try:
        previous = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in {"-h", "--help", "help"}:
        print(_listing(tuple(COMMANDS)))
        return DONE if args else WRONG_INPUT
    if args[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return DONE
    name, rest = _command(args)
    if name in _GROUPS:
        print(_listing(tuple(full for full in COMMANDS if full.startswith(f"{name} ")), name))
        return DONE if rest else WRONG_INPUT
    try:
        Path.cwd()
    except FileNotFoundError:  # in which MKL ends the process without an exception
        raise FileNotFoundError("the current folder was deleted: cd to one that is there") from None
    module = importlib.import_module(f"gato_lite.train.commands.{COMMANDS[name].module}")
    options = _read(name, module.Options, module.EXAMPLE, rest)
    if options is None:
        return DONE
    code: int | None = module.run(options)
    return DONE if code is None else code


def _command(args: list[str]) -> tuple[str, list[str]]:
    """Name of the command, or of a group whose listing is asked for, and the words after it."""
    first, *rest = args
    if first in _GROUPS:
        if not rest or rest[0] in {"-h", "--help"}:
            return first, rest
        full = f"{first} {rest[0]}"
        if full not in COMMANDS:
            known = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
            raise UsageError(unknown_name(f"'{PROGRAM} {first}' command", rest[0], known))
        return full, rest[1:]
    if first not in COMMANDS:
        known = sorted({name.split()[0] for name in COMMANDS})
        raise UsageError(unknown_name("command", first, known))
    return first, rest


def _listing(names: tuple[str, ...], group: str | None = None) -> str:
    width = max(map(len, names))
    example = f"{PROGRAM} {names[0]} --help" if group else f"{PROGRAM} demo --out runs/demo --minutes 10"
    return "\n".join(
        [
            f"usage: {PROGRAM} {group or ''}{' ' if group else ''}COMMAND [OPTIONS]",
            "",
            *(f"  {name:{width}}  {COMMANDS[name].summary}" for name in names),
            "",
            f"`{PROGRAM} COMMAND --help` lists a command's options; exit codes are 0 done, 1 failed, 2 wrong input.",
            "",
            "Example:",
            f"  {example}",
        ]
    )


def _read(name: str, options: type[Any], example: str, args: list[str]) -> Any | None:  # Any: the command's Options
    """The options in `args`; None when help was asked for, and has been printed.

    Raises:
        UsageError: they do not fit; the message is tyro's in one line.
    """
    import tyro

    prog = f"{PROGRAM} {name}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(options, prog=prog, args=_gathered(options, args), config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as end:
        if end.code:
            raise UsageError(f"{_unboxed(printed.getvalue())}; see {prog} --help") from None
    print("\nExample:", *example.strip().splitlines(), sep="\n  ")
    return None


def _gathered(options: type[Any], args: list[str]) -> list[str]:
    """`args` with the values of a repeated option in one place: `--data a --data b` is `--data a b`."""
    many = {
        f"--{field.name.replace('_', '-')}"
        for field in fields(options)
        if "tuple[" in str(field.type) and "UseAppendAction" not in str(field.type)
    }
    values: dict[str, list[str]] = {}
    others: list[str] = []
    open_option: str | None = None
    for arg in args:
        option, equals, value = arg.partition("=")
        if option in many:
            values.setdefault(option, []).extend([value] if equals else [])
            open_option = None if equals else option
        elif open_option is not None and not arg.startswith("--"):
            values[open_option].append(arg)
        else:
            open_option = None
            others.append(arg)
    return [*others, *(word for option, found in values.items() for word in (option, *found))]


def _unboxed(text: str) -> str:
    """What stands in the box that tyro draws around an error, without the hint at its end."""
    lines = []
    for line in text.splitlines()[1:]:  # the first is the box's title
        bare = _BOX.sub(" ", line).strip(" |")
        if bare.startswith("For full helptext"):
            break
        lines.append(bare if any(map(str.isalnum, bare)) else ";")  # a rule between two messages
    return re.sub(r"[ ;]*;[ ;]*", "; ", one_line("\n".join(lines))).strip("; ")


def _explain(error: Exception) -> tuple[str, int] | None:
    """What to tell the user, and the exit code; None for a bug."""
    if isinstance(error, ImportError):
        return _explain_import(error)
    if isinstance(error, OSError):
        wrong = isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError)
        return describe(error), WRONG_INPUT if wrong else FAILED
    if isinstance(error, ValueError):
        return str(error), WRONG_INPUT
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if "gymnasium.error.Error" in names:  # an unknown environment, or one whose package is missing
        extras = {extra for package, extra in _EXTRA_OF.items() if package.replace("_py", "") in str(error).lower()}
        return "; or: ".join(
            [str(error), *(f"pip install 'gato_lite[{extra}]'" for extra in sorted(extras))]
        ), WRONG_INPUT
    if isinstance(error, RuntimeError) and _is_ours(error):  # such as TrainingStoppedError, or a worker that died
        return str(error), FAILED
    if isinstance(error, TypeError) and _is_ours(error):  # a space or value of a kind that has no tokens
        return str(error), WRONG_INPUT
    return None


def _is_ours(error: Exception) -> bool:
    """Whether a `raise` in this package made the error, so that its words are meant for the user.

    What a worker process raised carries its own traceback as the cause.
    """
    cause = error.__cause__
    remote = cause is not None and type(cause).__name__ == "_RemoteTraceback"
    trace = str(cause) if remote else "".join(traceback.format_tb(error.__traceback__))
    raised = _RAISED.findall(trace)
    return bool(raised) and raised[-1][0].startswith(str(Path(__file__).parent.parent)) and bool(raised[-1][1])


def _explain_import(error: ImportError) -> tuple[str, int] | None:
    """A package that an extra brings is the user's to install; any other import is ours to mend."""
    package = (error.name or "").split(".")[0]
    if "pip install" in str(error):
        return str(error), WRONG_INPUT
    if package in _EXTRA_OF:
        return f"the package {package} is missing: pip install 'gato_lite[{_EXTRA_OF[package]}]'", WRONG_INPUT
    return None


if __name__ == "__main__":
    sys.exit(main())
