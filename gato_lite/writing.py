"""Rows of text in progress, each with its own past in the cache: what captions, continuations and chats share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gato_lite.cache import Decoder
from gato_lite.model import Gato
from gato_lite.sampling import Sampler
from gato_lite.sequence import Tokens, answer_tokens, concatenate


class Writer:
    """Reads and writes in B rows that never see each other.

    A row without room forgets: it keeps the newer half of a context of its text, read again, and none of its pictures.

    Args:
        gato: the model.
        n_row: rows, B.
        context_length: tokens a row can hold; None takes the model's.
    """

    def __init__(self, gato: Gato, n_row: int, context_length: int | None = None) -> None:
        self._gato = gato
        self._decoder = Decoder(gato, n_row, context_length)
        self._said: list[list[tuple[int, int]]] = [[] for _ in range(n_row)]
        """Text and `end` tokens that each row has read, as ids and local indices."""
        self._unread: list[Tokens | None] = [None] * n_row
        """What each row told last and has not read, if its answer was cut there: nothing has asked for it."""
        self.legal = np.concatenate(gato.vocabulary.class_ranges[0], dtype=np.int32)
        """Ids that may be written."""

    def read(self, rows: Sequence[int], runs: Sequence[Tokens]) -> Float[Tensor, "n D"]:
        """Reads a run of tokens into each row, after what was written there.

        Returns:
            (n, D) hidden state after each row's last token.

        Raises:
            ValueError: a run is empty or longer than the context.
        """
        decoder, patch = self._decoder, self._gato.vocabulary.patch
        length = decoder.context_length
        anew, going = [], []
        documents = []
        runs = [self._after_unread(row, run) for row, run in zip(rows, runs, strict=True)]
        for index, (row, run) in enumerate(zip(rows, runs, strict=True)):
            self._unread[row] = None
            if decoder.cursors[row] and decoder.cursors[row] + len(run) <= length:
                going.append(index)
            else:
                kept = self._said[row][-max(length // 2 - len(run), 0) :] if length // 2 > len(run) else []
                documents.append(concatenate([_tokens(kept), run]) if kept else run)
                anew.append(index)
            text = run.ids != patch
            self._said[row] += zip(run.ids[text].tolist(), run.local[text].tolist(), strict=True)
        states = []
        if anew:
            states.append(decoder.read_documents([rows[index] for index in anew], documents))
        if going:
            tokens = concatenate([runs[index] for index in going])
            states.append(decoder.read([rows[index] for index in going], tokens, [len(runs[index]) for index in going]))
        return torch.cat(states)[np.argsort([*anew, *going])]

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Replaces what the target rows have read by what the source rows have; no row is both."""
        self._decoder.copy(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._said[target], self._unread[target] = list(self._said[source]), self._unread[source]

    def write(
        self,
        hidden: Float[Tensor, "B D"],
        max_tokens: int,
        sampler: Sampler,
        *,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """What follows in each row, up to `end`, to a text in `stop`, or to `max_tokens` pieces.

        Args:
            hidden: state after each row's last token.
            max_tokens: most pieces of a row.
            sampler: chooses them; rows that are done drop out of the forward.
            stop: a row ends before the first of them, and keeps nothing from there on.
            on_text: called with each new stretch of the first row's text; with `stop`, of what can be no part of one.
        """
        vocabulary = self._gato.vocabulary
        written: list[list[int]] = [[] for _ in self._said]
        texts = [""] * len(written)
        rows = list(range(len(written)))
        shown = 0
        while rows:
            for row, chosen in zip(
                list(rows), sampler.choose(self._gato, hidden, [self.legal] * len(rows)), strict=True
            ):
                done = chosen == vocabulary.end
                if not done:
                    written[row].append(int(chosen))
                    done = len(written[row]) == max_tokens
                if done or stop or (row == 0 and on_text is not None):
                    texts[row] = vocabulary.text.decode(written[row])
                    cut = min((place for place in map(texts[row].find, stop) if place >= 0), default=None)
                    if cut is not None:
                        texts[row], done = texts[row][:cut], True
                if done:
                    rows.remove(row)
                    if chosen != vocabulary.end:
                        self._leave(row, written[row], texts[row])
            if on_text is not None:
                upto = len(texts[0]) if 0 not in rows else _settled(texts[0], stop)
                if upto > shown:
                    on_text(texts[0][shown:upto])
                    shown = upto
            if rows:
                hidden = self.read(rows, [last_piece(written[row]) for row in rows])
        return texts

    def _leave(self, row: int, pieces: Sequence[int], told: str) -> None:
        """Leaves a cut answer as it was told: pieces beyond are forgotten, what is left of it is to be read."""
        text = self._gato.vocabulary.text
        kept = len(pieces)
        while not told.startswith(text.decode(pieces[:kept])):
            kept -= 1
        if kept == len(pieces):
            self._unread[row] = last_piece(pieces)
            return
        beyond = len(pieces) - 1 - kept
        self._decoder.rewind(row, min(beyond, int(self._decoder.cursors[row])))
        del self._said[row][len(self._said[row]) - beyond :]
        rest = text.encode(told[len(text.decode(pieces[:kept])) :])  # a stop may begin within a piece
        self._unread[row] = answer_tokens(rest, kept) if len(rest) else None

    def _after_unread(self, row: int, run: Tokens) -> Tokens:
        """A run after what its row has not read, which is left out where there is no room for both."""
        unread = self._unread[row]
        if unread is None or len(unread) + len(run) > self._decoder.context_length:
            return run
        return concatenate([unread, run])


def _tokens(said: Sequence[tuple[int, int]]) -> Tokens:
    ids, local = zip(*said, strict=True)
    return Tokens(ids=np.array(ids, np.int32), local=np.array(local, np.int16))


def last_piece(answer: Sequence[int]) -> Tokens:
    """The last piece of an answer."""
    return answer_tokens(np.array(answer[-1:], np.int32), len(answer) - 1)


def _settled(text: str, stop: Sequence[str]) -> int:
    """Characters of `text` that nothing that follows can change or make a part of a text in `stop`."""
    upto = len(text) - (1 if text.endswith("\ufffd") else 0)  # a character of several byte pieces is shown as one
    for word in stop:
        begun = next((n for n in range(min(len(word) - 1, upto), 0, -1) if text[:upto].endswith(word[:n])), 0)
        upto -= begun
    return upto
