"""`gato-lite prompt`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import msgspec
from tyro.conf import Positional, UseAppendAction, arg

from gato_lite.train.console import print_json, print_note

if TYPE_CHECKING:
    from gato_lite.envs.format import PictureFit
    from gato_lite.exchange import Exchange, Picture
    from gato_lite.model import Gato

EXAMPLE: Final = """\
gato-lite train quick --out runs/words --minutes 2
gato-lite prompt runs/words "The king said" --max-tokens 40 --temperature 0.8
echo '{"prompt": "The king"}' | gato-lite prompt runs/words --requests - --max-tokens 8"""

SHIPPED_SIZE: Final = 32
"""Side in pixels of the shipped pictures."""
MOST_CHARACTERS: Final = 1_000_000
"""Of a line that is read; far more than a context holds."""
BATCH: Final = 64
"""Requests that share a forward."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Continue a text, name a picture, answer a question, or talk."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of the run; or generalist, which comes with the package."""
    text: Positional[Annotated[str, arg(metavar="TEXT")]] = ""
    """What to continue or to answer; after a picture, a question about it or the beginning of its caption."""
    image: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="PNG")] = ()
    """A picture that stands before the text; may be given several times."""
    choice: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """An answer to choose from; give each of them."""
    chat: bool = False
    """Answer line after line of standard input, all of them one conversation; `/image PNG` shows a picture."""
    requests: Annotated[Path | None, arg(metavar="FILE")] = None
    """Answer many at once: each line is a JSON object with prompt, image and before, a list of earlier turns with
    prompt, image and text; - is standard input."""
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
    kept their aspect; None takes the size of the pictures the run was trained on."""
    json: bool = False
    """Write JSON."""

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
    image: str | None = None
    text: str = ""
    """What was answered, of a turn before."""
    before: list[Request] = []


def run(options: Options) -> None:
    """Writes the text as it comes, or all of it as JSON."""
    from gato_lite.generate import generate
    from gato_lite.run import load

    gato = load(options.run)
    see = _eyes(options, gato)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("temperature", "top_p", "seed")}  # Any: options
    if options.chat:
        _chat(options, gato, see, how)
        return
    if options.requests is not None:
        _answer(options, gato, see, how)
        return
    shown = [see(path) for path in options.image]
    streamed = not options.json and not options.choice and options.beams == 1
    text = generate(
        gato,
        options.text,
        shown[-1] if shown else None,
        before=_pictures(shown[:-1]),
        choices=options.choice or None,
        max_tokens=options.max_tokens,
        stop=options.stop,
        on_text=_write if streamed else None,
        beams=options.beams,
        **how,
    )
    if options.json:
        images = [str(path) for path in options.image]
        image = images[0] if len(images) == 1 else images or None
        print_json({"prompt": options.text, "image": image, "text": text, "seed": options.seed})
    else:
        print("" if streamed else text)


def _eyes(options: Options, gato: Gato) -> Callable[[Path], Picture]:
    """What turns a file into a picture such as the run was trained on, once it is known that there is one."""
    from gato_lite.train.pictures import decode_picture, fit

    known: list[PictureFit] = []

    def see(path: Path) -> Picture:
        pixels = decode_picture(path)
        if not known:
            known.append(_fit_of(options, gato))
        return fit(pixels, known[0])

    return see


def _fit_of(options: Options, gato: Gato) -> PictureFit:
    """How a prompt's pictures are fitted: as the run's were, to another size where that is asked for."""
    from gato_lite.envs.format import PictureFit
    from gato_lite.train.picture_fits import run_fit

    how = run_fit(options.run)
    if how is None and options.image_size is None:
        print_note(
            f"no pictures are known that '{options.run}' was trained on: fitting into squares of {SHIPPED_SIZE} "
            "pixels, as the shipped ones; --image-size N takes others"
        )
    how = how or PictureFit(side=SHIPPED_SIZE)
    side = how.side if options.image_size is None else options.image_size
    largest = gato.config.patch_size * math.isqrt(gato.config.context_length - 1)
    if not 1 <= side <= largest:
        raise ValueError(f"--image-size must be in 1..{largest}, what the run's context holds, got {side}")
    return PictureFit(side=side, keep_aspect=how.keep_aspect)


def _pictures(pictures: Sequence[Picture]) -> list[Exchange]:
    from gato_lite.exchange import Exchange

    return [Exchange(image=picture) for picture in pictures]


def _chat(options: Options, gato: Gato, see: Callable[[Path], Picture], how: dict[str, Any]) -> None:
    from gato_lite.chat import Chat

    chat = Chat(gato, **how)
    image: Picture | None = None
    for line in _lines("you> "):
        word, _, rest = line.partition(" ")
        if word == "/image":
            image = see(Path(rest.strip()))
            continue
        told = None if options.json else _write
        text = chat.say(line, image, max_tokens=options.max_tokens, stop=options.stop, on_text=told)
        image = None
        if options.json:
            sys.stdout.write(json.dumps({"prompt": line, "text": text}, ensure_ascii=False))
        sys.stdout.write("\n")
        sys.stdout.flush()


def _lines(greeting: str) -> Iterator[str]:
    """Lines of standard input that say something; a terminal is greeted before each."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _write(greeting)
    for line in _bounded(sys.stdin, "standard input"):
        if line.strip():
            yield line.strip()
        if is_terminal:
            _write(greeting)


def _bounded(stream: TextIO, name: str) -> Iterator[str]:
    """The lines of a stream, none of which may exhaust the memory."""
    number = 0
    while line := stream.readline(MOST_CHARACTERS + 1):
        number += 1
        if len(line) > MOST_CHARACTERS:
            raise ValueError(
                f"{name}, line {number}: expected at most {MOST_CHARACTERS:,} characters, got more; shorten it"
            )
        yield line


def _answer(options: Options, gato: Gato, see: Callable[[Path], Picture], how: dict[str, Any]) -> None:
    """Answers every request, as many at once as share a forward, a JSON object a line in their order."""
    from gato_lite.generate import generate

    requests = list(_requests(options.requests))
    for start in range(0, len(requests), BATCH):
        some = requests[start : start + BATCH]
        turns = [[_exchange(turn, see) for turn in (*request.before, request)] for request in some]
        texts = generate(
            gato,
            [request.prompt for request in some],
            [own[-1].image for own in turns],
            before=[own[:-1] for own in turns],
            choices=options.choice or None,
            max_tokens=options.max_tokens,
            stop=options.stop,
            beams=options.beams,
            **how,
        )
        for request, text in zip(some, texts, strict=True):
            answer = {"prompt": request.prompt, "image": request.image, "text": text, "seed": options.seed}
            _write(json.dumps(answer, ensure_ascii=False) + "\n")


def _requests(file: Path | None) -> Iterator[Request]:
    if file is None or str(file) == "-":
        yield from _read_requests(sys.stdin, "standard input")
    else:
        with file.open(encoding="utf-8") as stream:
            yield from _read_requests(stream, str(file))


def _read_requests(stream: TextIO, name: str) -> Iterator[Request]:
    for number, line in enumerate(_bounded(stream, name), 1):
        if line.strip():
            try:
                request = msgspec.json.decode(line, type=Request)
            except msgspec.MsgspecError as error:
                raise ValueError(
                    f'{name}, line {number}: expected a request such as {{"prompt": "…"}}: {error}'
                ) from error
            if request.text or any(turn.before for turn in request.before):
                raise ValueError(
                    f"{name}, line {number}: expected `text` in the turns of `before` alone, and no `before` there"
                )
            yield request


def _exchange(turn: Request, see: Callable[[Path], Picture]) -> Exchange:
    from gato_lite.exchange import Exchange

    image = None if turn.image is None else see(Path(turn.image))
    return Exchange(image=image, prompt=turn.prompt, text=turn.text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
