"""Prompts → text: captions, answers, translations and continuations, many at once without padding.

A prompt is laid out as training documents are (`gato_lite.exchange`), and ends where the answer begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast, overload

import numpy as np
import torch

from gato_lite import limits
from gato_lite.beams import search
from gato_lite.choices import log_likelihoods
from gato_lite.exchange import Exchange, fitted
from gato_lite.fitting import Picture
from gato_lite.limits import check_beams, check_max_tokens, prompt_within
from gato_lite.model import Gato
from gato_lite.sampling import Sampler
from gato_lite.writing import Writer

Turns = Sequence[Exchange]
"""Earlier exchanges of one prompt."""


@overload
def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings too; it is taken as one prompt
    gato: Gato, prompt: str = ..., image: Picture | None = ..., *, before: Turns = ...,
    choices: Sequence[str] | None = ..., max_tokens: int = ..., temperature: float = ..., top_p: float = ...,
    seed: int = ..., stop: str | Sequence[str] = ..., on_text: Callable[[str], None] | None = ..., beams: int = ...,
) -> str: ...  # fmt: skip
@overload
def generate(
    gato: Gato, prompt: Sequence[str], image: Sequence[Picture | None] | None = ..., *,
    before: Turns | Sequence[Turns] = ..., choices: Sequence[str] | None = ..., max_tokens: int = ...,
    temperature: float = ..., top_p: float = ..., seed: int = ..., stop: str | Sequence[str] = ...,
    on_text: Callable[[str], None] | None = ..., beams: int = ...,
) -> list[str]: ...  # fmt: skip
@torch.inference_mode()
def generate(
    gato: Gato,
    prompt: str | Sequence[str] = "",
    image: Picture | Sequence[Picture | None] | None = None,
    *,
    before: Turns | Sequence[Turns] = (),
    choices: Sequence[str] | None = None,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    beams: int = 1,
) -> str | list[str]:
    """What the model writes after a prompt, up to its `end` token.

    Args:
        gato: the model.
        prompt: text to continue, or a list of them, of which as many share every forward as `CACHE_TOKENS` tokens of
            cache allow; "" with a picture asks for a caption.
        image: (H, W, 1 to 4) uint8 picture before the text, of any size: grey, grey and alpha, RGB, or RGB and alpha;
            for a list of prompts a list, or one for all. It is fitted as the run's pictures were (`Gato.pictures`), to
            their size and as RGB on white; one that already is such a picture stays as it is. A model that is no run's,
            or whose run has no pictures, sees it as it is given.
        before: earlier exchanges, such as examples with their answers, their pictures fitted too; for a list of prompts
            one run for all or a list.
        choices: answers to choose from; the likeliest is returned and nothing else is written. How likely each is says
            `log_likelihoods`.
        max_tokens: most pieces to write, in 1..`MOST_TOKENS`.
        temperature: 0 takes the likeliest piece; above 0 pieces are drawn.
        top_p: draws come from the fewest pieces whose probabilities sum to it.
        seed: of the draws.
        stop: a text, or several, before whose first occurrence the answer ends.
        on_text: for one prompt, called with each new stretch of text as it is written.
        beams: above 1, in 2..`MOST_BEAMS`, a beam search for the likeliest answer keeps so many (`gato_lite.beams`).

    Returns:
        The text that follows the prompt, without the prompt; a list for a list.

    Raises:
        ValueError: an argument is out of range, or a prompt fills the whole context: none is ever cut.
    """
    _check_alone(beams, temperature=temperature > 0.0, choices=choices is not None, on_text=on_text is not None)
    single = isinstance(prompt, str)
    asked = _exchanges([prompt] if isinstance(prompt, str) else list(prompt), image, before)
    if choices is not None:
        check_max_tokens(max_tokens)
        texts = [choices[index] for index in log_likelihoods(gato, asked, choices).argmax(1)]
    else:
        texts = write_answers(
            gato,
            [fitted(turns, gato.pictures) for turns in asked],
            max_tokens=max_tokens,
            sampler=Sampler(temperature, seed, top_p),
            stop=[stop] if isinstance(stop, str) else stop,
            on_text=on_text if single else None,
            beams=beams,
        )
    return texts[0] if single else texts


def _check_alone(beams: int, **others: bool) -> None:
    """Checks that nothing that is given goes against a search for the likeliest answer."""
    check_beams(beams)
    if beams > 1 and any(others.values()):
        *first, last = others
        given = " and ".join(name for name, is_given in others.items() if is_given)
        raise ValueError(
            f"beams={beams} searches for the likeliest answer: expected neither {', '.join(first)} nor {last} with it, "
            f"got {given}"
        )


@torch.inference_mode()
def write_answers(
    gato: Gato,
    asked: Sequence[Sequence[Exchange]],
    *,
    max_tokens: int,
    sampler: Sampler | None = None,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    beams: int = 1,
) -> list[str]:
    """As `generate` without choices, after exchanges whose pictures are seen as they are.

    Args:
        gato: the model.
        asked: the turns of each prompt, the last without an answer.
        max_tokens: as of `generate`.
        sampler: chooses the pieces; None takes the likeliest.
        stop: texts before which an answer ends.
        on_text: called with each new stretch of the text of a single prompt.
        beams: as of `generate`.

    Raises:
        ValueError: as `generate`.
    """
    check_max_tokens(max_tokens)
    check_beams(beams)
    if "" in stop:
        raise ValueError("stop must be one or more characters, got ''")
    if not asked:
        return []
    documents = [prompt_within(gato, turns) for turns in asked]
    longest = min(gato.config.context_length, max(map(len, documents)) + max_tokens)
    sampler = Sampler() if sampler is None else sampler
    n_prompt = max(1, limits.CACHE_TOKENS // (longest * beams))
    texts: list[str] = []
    for start in range(0, len(documents), n_prompt):
        some = documents[start : start + n_prompt]
        writer = Writer(gato, len(some) * beams, longest)
        hidden = writer.read(range(0, len(some) * beams, beams), some)
        if beams > 1:
            texts += search(gato, writer, hidden, beams, max_tokens, stop=stop)
        else:
            texts += writer.write(hidden, max_tokens, sampler, stop=stop, on_text=on_text)
    return texts


def _exchanges(
    prompts: Sequence[str], image: Picture | Sequence[Picture | None] | None, before: Turns | Sequence[Turns]
) -> list[list[Exchange]]:
    """All turns of each prompt, its own last and without an answer."""
    is_list = isinstance(image, Sequence) and not isinstance(image, str)
    images = (
        list(cast("Sequence[Picture | None]", image)) if is_list else [cast("Picture | None", image)] * len(prompts)
    )
    for picture in images:
        if picture is not None and not isinstance(picture, np.ndarray):
            raise TypeError(
                f"expected a picture as an array of uint8, (H, W, 1 to 4), got {type(picture).__name__}; "
                "of a file np.asarray(PIL.Image.open(file).convert('RGB')) is one"
            )
    if len(images) != len(prompts):
        raise ValueError(
            f"expected a picture (or None) for each prompt, got {len(prompts)} prompts, {len(images)} pictures"
        )
    earlier = [list(before)] * len(prompts) if all(isinstance(turn, Exchange) for turn in before) else list(before)
    if len(earlier) != len(prompts):
        raise ValueError(
            f"expected a run of earlier exchanges for each prompt, got {len(prompts)} prompts, {len(earlier)} runs"
        )
    return [
        [*turns, Exchange(image=picture, prompt=text)]  # type: ignore[misc]  # a run of exchanges, as checked above
        for text, picture, turns in zip(prompts, images, earlier, strict=True)
    ]
