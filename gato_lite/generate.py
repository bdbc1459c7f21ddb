"""Prompts → text: captions, answers and continuations, many at once without padding.

A prompt is laid out as training documents are (`gato_lite.exchange`), and ends where the answer begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch

from gato_lite.cache import Decoder
from gato_lite.exchange import Exchange, Picture, lay_out_exchanges
from gato_lite.model import Gato
from gato_lite.sampling import Sampler
from gato_lite.sequence import Tokens, plain


@overload
def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings too; it is taken as one prompt
    gato: Gato, prompt: str = ..., image: Picture | None = ..., *, max_tokens: int = ..., temperature: float = ...,
    top_p: float = ..., seed: int = ..., on_text: Callable[[str], None] | None = ...,
) -> str: ...  # fmt: skip
@overload
def generate(
    gato: Gato, prompt: Sequence[str], image: Sequence[Picture | None] | None = ..., *, max_tokens: int = ...,
    temperature: float = ..., top_p: float = ..., seed: int = ..., on_text: Callable[[str], None] | None = ...,
) -> list[str]: ...  # fmt: skip
@torch.inference_mode()
def generate(
    gato: Gato,
    prompt: str | Sequence[str] = "",
    image: Picture | Sequence[Picture | None] | None = None,
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> str | list[str]:
    """What the model writes after a prompt, up to its `end` token.

    Args:
        gato: the model.
        prompt: text to continue, or a list of them, which share every forward; "" with a picture asks for a caption.
        image: (H, W, 1 to 4) uint8 picture before the text; for a list of prompts a list.
        max_tokens: most pieces to write, at least 1.
        temperature: 0 takes the likeliest piece; above 0 pieces are drawn.
        top_p: draws come from the fewest pieces whose probabilities sum to it.
        seed: of the draws.
        on_text: for one prompt, called with each new stretch of text as it is written.

    Returns:
        The text that follows the prompt, without the prompt; a list for a list.

    Raises:
        ValueError: an argument is out of range, or a prompt fills the whole context.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    single = isinstance(prompt, str)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    images = [image] * len(prompts) if image is None or isinstance(image, np.ndarray) else list(image)
    if len(images) != len(prompts):
        raise ValueError(
            f"expected a picture (or None) for each prompt, got {len(prompts)} prompts, {len(images)} pictures"
        )
    if not prompts:
        return []
    vocabulary = gato.vocabulary
    documents = [
        lay_out_exchanges([Exchange(image=picture, prompt=text)], vocabulary, gato.config.patch_size)[0]
        for text, picture in zip(prompts, images, strict=True)
    ]
    for document in documents:
        if len(document) >= gato.config.context_length:
            raise ValueError(
                f"the prompt is {len(document)} tokens, but the context holds {gato.config.context_length} with the "
                "answer; shorten the text or shrink the picture"
            )
    written = _write(gato, documents, max_tokens, Sampler(temperature, seed, top_p), on_text if single else None)
    texts = [vocabulary.text.decode(np.asarray(ids, np.int32)) for ids in written]
    return texts[0] if single else texts


def _write(
    gato: Gato,
    documents: Sequence[Tokens],
    max_tokens: int,
    sampler: Sampler,
    on_text: Callable[[str], None] | None,
) -> list[list[int]]:
    """Pieces that follow each document; rows that reach `end` drop out of the forward."""
    vocabulary = gato.vocabulary
    longest = min(gato.config.context_length, max(map(len, documents)) + max_tokens)
    decoder = Decoder(gato, len(documents), longest)
    legal = np.array([*vocabulary.text_ids, vocabulary.end], np.int32)
    written: list[list[int]] = [[] for _ in documents]
    rows = list(range(len(documents)))
    hidden = decoder.read_documents(rows, documents)
    shown = ""
    while rows:
        for row, chosen in zip(list(rows), sampler.choose(gato, hidden, [legal] * len(rows)), strict=True):
            if chosen == vocabulary.end:
                rows.remove(row)
                continue
            written[row].append(int(chosen))
            if len(written[row]) == max_tokens:
                rows.remove(row)
        if on_text is not None:
            text = vocabulary.text.decode(np.asarray(written[0], np.int32))
            whole = not rows or not text.endswith("\ufffd")  # a character of several byte pieces is shown as one
            if whole and text != shown:
                on_text(text[len(shown) :])
                shown = text
        if rows:
            hidden = _read_on(decoder, rows, documents, written)
    return written


def _read_on(
    decoder: Decoder, rows: Sequence[int], documents: Sequence[Tokens], written: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Reads each row's last piece; a row whose context is full keeps its newer half."""
    full = [row for row in rows if decoder.cursors[row] == decoder.context_length]
    going = [row for row in rows if decoder.cursors[row] < decoder.context_length]
    hidden: dict[int, torch.Tensor] = {}
    if full:
        keep = decoder.context_length // 2
        tails = []
        for row in full:
            document = documents[row]
            ids = [*(document.ids.tolist() if not len(document.patch_shapes) else []), *written[row]]
            tails.append(plain(ids[-keep:]))
        hidden.update(zip(full, decoder.read_documents(full, tails), strict=True))
    if going:
        states = decoder.read(going, plain([written[row][-1] for row in going]), [1] * len(going))
        hidden.update(zip(going, states, strict=True))
    return torch.stack([hidden[row] for row in rows])
