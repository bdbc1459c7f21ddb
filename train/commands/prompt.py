"""`gato-lite prompt`."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import msgspec
from tyro.conf import Positional, UseAppendAction, arg

from gato_lite.train.console import describe, print_json, print_note

if TYPE_CHECKING:
    from gato_lite.exchange import Exchange
    from gato_lite.fitting import Picture, PictureFit
    from gato_lite.model import Gato

EXAMPLE: Final = """\
gato-lite train quick --out runs/words --minutes 2
gato-lite prompt runs/words "The king said" --max-tokens 40 --temperature 0.8
gato-lite prompt generalist --image digit.png "Which class is this?"
gato-lite prompt generalist "Translate to Italian: extensive documentation;"
echo '{"prompt": "The king"}' | gato-lite prompt runs/words --requests - --max-tokens 8"""

SHIPPED_SIZE: Final = 32
"""Side in pixels of the shipped pictures."""
MOST_CHARACTERS: Final = 1_000_000
"""Of a line that is read; far more than a context holds."""
BATCH: Final = 64
"""Requests that are read, and answered together, before the next."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Continue a text, name a picture, answer a question, or talk."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of the run; or generalist, which comes with the package."""
    text: Positional[Annotated[str, arg(metavar="TEXT")]] = ""
    """What to continue or to answer; after a picture, a question about it ("Which class is this?" for its class) or the
    beginning of its caption."""
    image: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="PNG")] = ()
    """A picture that stands before the text; may be given several times."""
    choice: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """An answer to choose from; give each of them."""
    chat: bool = False
    """Answer line after line of standard input, all of them one conversation; `/image PNG` shows a picture."""
    requests: Annotated[Path | None, arg(metavar="FILE")] = None
    """Answer many at once: each line is a JSON object with prompt, image (or a list of them) and before, a list of
    earlier turns with prompt, image and text; - is standard input. A line that cannot be answered becomes an object of
    line and error."""
    max_tokens: int = 64
    """Most pieces to write."""
    temperature: float = 0.0
    """0 writes the likeliest piece each time; above 0 pieces are drawn."""
    top_p: float = 1.0
    """Draw from the fewest pieces whose probabilities sum to this."""
    seed: int = 0
    """Of the draws."""
    beams: int = 1
    """Above 1, a beam search for the likeliest answer keeps so many; it is written when it is whole."""
    stop: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """A text before which an answer ends; may be given several times."""
    image_size: Annotated[int | None, arg(metavar="N")] = None
    """Side in pixels of the square that pictures are fitted into, or whose area they have at most if the run's pictures
    kept their aspect; None leaves those of a size that the run was trained on, and takes the commonest for others."""
    json: bool = False
    """Write JSON; with --choice it says the log-likelihood of each in nats."""

    def __post_init__(self) -> None:
        ways = {
            "TEXT or --image": bool(self.text or self.image),
            "--chat": self.chat,
            "--requests": bool(self.requests),
        }
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"expected one of {', '.join(ways)}, got {' and '.join(given)}")
        if self.chat and self.choice:
            raise ValueError("--choice answers one prompt or --requests, got --chat with it")
        if self.chat and self.beams != 1:
            raise ValueError("--beams answers one prompt or --requests, got --chat with it")


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One line of `--requests`, or a turn before it."""

    prompt: str = ""
    image: str | list[str] | None = None
    """Its file; of several the last is the prompt's own and the others stand before it, as with --image."""
    text: str = ""
    """What was answered, of a turn before."""
    before: list[Request] = []


def run(options: Options) -> int:
    """Writes the text as it comes, or all of it as JSON; 1 if a request could not be answered."""
    from gato_lite.exchange import Exchange
    from gato_lite.generate import generate
    from gato_lite.run import load

    gato = load(options.run)
    see = _eyes(options, gato)
    how: dict[str, Any] = {  # Any: options
        name: getattr(options, name) for name in ("max_tokens", "temperature", "top_p", "seed", "stop", "beams")
    }
    generate(gato, [], choices=options.choice or None, **how)  # what no prompt can have is refused at once
    if options.chat:
        return _chat(options, gato, see)
    if options.requests is not None:
        return _answer(options, see, lambda asked: _said(gato, asked, options.choice, how), options.requests)
    shown = [see(path) for path in options.image]
    before = [Exchange(image=picture) for picture in shown[:-1]]
    image = shown[-1] if shown else None
    if not options.json and not options.choice and options.beams == 1:
        generate(gato, options.text, image, before=before, on_text=_write, **how)
        print()
        return 0
    (said,) = _said(gato, [[*before, Exchange(image=image, prompt=options.text)]], options.choice, how)
    if options.json:
        images = [str(path) for path in options.image]
        path = images[0] if len(images) == 1 else images or None
        print_json({"prompt": options.text, "image": path, **said, "seed": options.seed})
    else:
        print(said["text"])
    return 0


def _said(
    gato: Gato, asked: Sequence[Sequence[Exchange]], choices: Sequence[str], how: dict[str, Any]
) -> list[dict[str, Any]]:  # Any: JSON
    """The text after each prompt, and how likely each of given answers is."""
    from gato_lite.choices import log_likelihoods
    from gato_lite.generate import generate

    if choices:
        return [
            {"text": choices[int(nats.argmax())], "log_likelihoods": dict(zip(choices, nats.tolist(), strict=True))}
            for nats in log_likelihoods(gato, asked, choices)
        ]
    prompts, images = [turns[-1].prompt for turns in asked], [turns[-1].image for turns in asked]
    texts = generate(gato, prompts, images, before=[turns[:-1] for turns in asked], **how)
    return [{"text": text} for text in texts]


def _eyes(options: Options, gato: Gato) -> Callable[[Path], Picture]:
    """What turns a file into a picture such as the run was trained on, small enough for many to wait."""
    from gato_lite.fitting import fit_one_of
    from gato_lite.train.pictures import decode_picture

    @functools.cache
    def fits() -> tuple[PictureFit, ...]:
        gato.pictures = _fits_of(options, gato)
        return gato.pictures

    if options.image_size is not None:
        fits()

    def see(path: Path) -> Picture:
        picture = decode_picture(path)
        first, *others = fits()
        if others and not any(how.leaves(*picture.shape[:2]) for how in fits()):
            sides = " and ".join(str(how.side) for how in others)
            print_note(
                f"{path}: fitted to {first.side} pixels; the run has learnt pictures of {sides} too, which "
                f"--image-size {others[0].side} takes"
            )
        return fit_one_of(picture, fits())

    return see


def _fits_of(options: Options, gato: Gato) -> tuple[PictureFit, ...]:
    """How a prompt's pictures are fitted: as the run's were, to another size where that is asked for."""
    from gato_lite.fitting import PictureFit
    from gato_lite.train.picture_fits import run_fits

    fits = run_fits(options.run)
    size = options.image_size
    if size is None and fits:
        return fits
    if size is None:
        print_note(
            f"no pictures are known that '{options.run}' was trained on: fitting into squares of {SHIPPED_SIZE} "
            "pixels, as the shipped ones; --image-size N takes others"
        )
        size = SHIPPED_SIZE
    largest = gato.config.patch_size * math.isqrt(gato.config.context_length - 1)
    if not 1 <= size <= largest:
        raise ValueError(f"--image-size must be in 1..{largest}, what the run's context holds, got {size}")
    return (PictureFit(side=size, keep_aspect=bool(fits) and fits[0].keep_aspect),)


def _chat(options: Options, gato: Gato, see: Callable[[Path], Picture]) -> int:
    """Answers line after line; one that cannot be answered leaves the conversation as it was. 1 if there was one."""
    from gato_lite.chat import Chat

    chat = Chat(gato, temperature=options.temperature, top_p=options.top_p, seed=options.seed)
    image: Picture | None = None
    failed = 0
    told = None if options.json else _write
    for line in _lines("you> "):
        word, _, rest = line.partition(" ")
        try:
            if word == "/image":
                image = see(Path(rest.strip()))
                continue
            text = chat.say(line, image, max_tokens=options.max_tokens, stop=options.stop, on_text=told)
        except (ValueError, OSError) as error:
            failed, why = 1, describe(error) if isinstance(error, OSError) else str(error)
            if options.json:
                _write(json.dumps({"prompt": line, "error": why}, ensure_ascii=False) + "\n")
            else:
                print_note(f"gato-lite: {why}")
            continue
        image = None
        _write((json.dumps({"prompt": line, "text": text}, ensure_ascii=False) if options.json else "") + "\n")
    return failed


def _lines(greeting: str) -> Iterator[str]:
    """Lines of standard input that say something; a terminal is greeted before each."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _write(greeting)
    for number, line in enumerate(_bounded(sys.stdin), 1):
        _check_length(line, f"standard input, line {number}: ")
        if line.strip():
            yield line.strip()
        if is_terminal:
            _write(greeting)


def _bounded(stream: TextIO) -> Iterator[str]:
    """The lines of a stream; of one that could exhaust the memory only the beginning, which is too long."""
    while line := stream.readline(MOST_CHARACTERS + 1):
        rest = line
        while len(rest) > MOST_CHARACTERS and not rest.endswith("\n"):
            rest = stream.readline(MOST_CHARACTERS + 1)
        yield line


def _check_length(line: str, where: str = "") -> None:
    if len(line) > MOST_CHARACTERS:
        raise ValueError(f"{where}expected at most {MOST_CHARACTERS:,} characters, got more; shorten it")


Say = Callable[[Sequence[Sequence["Exchange"]]], list[dict[str, Any]]]  # Any: JSON
"""What is said to each of some prompts."""


def _answer(options: Options, see: Callable[[Path], Picture], say: Say, file: Path) -> int:
    """Answers every request, a batch of them at once, a JSON object a line in their order; 1 if one has an error."""
    failed = 0
    lines = _request_lines(file)
    while some := list(itertools.islice(lines, BATCH)):
        read = [_read(line, see) for _, line in some]
        said = iter(_said_to_each(say, [turns for _, turns in read if turns]))
        for (number, _), (told, turns) in zip(some, read, strict=True):
            answer = told | next(said) if turns else told
            failed |= "error" in answer
            if "error" in answer:
                answer = {"line": number, "error": answer["error"]}
            else:
                answer["seed"] = options.seed
            _write(json.dumps(answer, ensure_ascii=False) + "\n")
    return int(failed)


def _said_to_each(say: Say, asked: Sequence[Sequence[Exchange]]) -> list[dict[str, Any]]:  # Any: JSON
    """What is said to each; a prompt that is refused, which all are before any is answered, leaves the others."""
    try:
        return say(asked)
    except ValueError as error:
        if len(asked) == 1:
            return [{"error": str(error)}]
    half = len(asked) // 2
    return _said_to_each(say, asked[:half]) + _said_to_each(say, asked[half:])


def _request_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers; a byte that is no UTF-8 is no reason to stop."""
    with contextlib.ExitStack() as stack:
        if str(file) != "-":
            stream: TextIO = stack.enter_context(file.open(encoding="utf-8", errors="surrogateescape"))
        else:
            stream = sys.stdin
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="surrogateescape")
        yield from ((number, line) for number, line in enumerate(_bounded(stream), 1) if line.strip())


def _read(line: str, see: Callable[[Path], Picture]) -> tuple[dict[str, Any], list[Exchange]]:  # Any: JSON
    """What the answer to a request repeats of it, and its turns; or its error, and none."""
    try:
        _check_length(line)
        try:
            request = msgspec.json.decode(line, type=Request)
        except ValueError as error:
            raise ValueError(f'expected a request such as {{"prompt": "…"}}: {error}') from error
        if request.text or any(turn.before for turn in request.before):
            raise ValueError("expected `text` in the turns of `before` alone, and no `before` there")
        turns = [exchange for turn in (*request.before, request) for exchange in _exchanges(turn, see)]
    except (ValueError, OSError) as error:
        return {"error": describe(error) if isinstance(error, OSError) else str(error)}, []
    return {"prompt": request.prompt, "image": request.image}, turns


def _exchanges(turn: Request, see: Callable[[Path], Picture]) -> list[Exchange]:
    from gato_lite.exchange import Exchange

    files = [turn.image] if isinstance(turn.image, str) else turn.image or []
    seen: list[Picture | None] = [see(Path(file)) for file in files]
    *before, image = seen or [None]
    return [*(Exchange(image=other) for other in before), Exchange(image=image, prompt=turn.prompt, text=turn.text)]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
