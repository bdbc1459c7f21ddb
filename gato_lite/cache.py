"""Keys and values of what has been read, and the two ways to read on: whole documents, or a few tokens a row.

One `Decoder` serves acting and writing. Each of its B rows is a document of its own with its own cursor; rows never
see each other. A read takes any number of tokens for any of the rows, and no context is ever computed twice.

Decisions:
- a head's keys lie together, (B, G, C, K), so that attention reads them without a copy
- rows that lie side by side and hold about as much share an attention call; others have their own and pay for their
  own context only
- the last layer computes only the tokens whose hidden state is asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from gato_lite.attention import attend, attend_last, attend_rows
from gato_lite.fixed_reads import MOST_NEW, FixedReads, write
from gato_lite.model import Gato
from gato_lite.sequence import Tokens, concatenate, offsets_of, ranges, within_rows
from gato_lite.transformer import Before
from gato_lite.words import Words, last_run

CALL_WORTH: Final = 64
"""Positions of padding that cost a row less than an attention call of its own."""
SHORT: Final = 64
"""Most tokens of a row, of its window's beginning too, that a CPU had better read together with other rows' few."""
PASS: Final = 2048
"""Tokens of whole documents that a CPU reads at once: what a layer makes of more does not stay in its caches."""


@dataclass(frozen=True)
class _Run:
    """Neighbouring rows that share an attention call; each reads n tokens."""

    rows: slice
    tokens: slice
    """Of the read."""
    n_new: int
    """n."""
    n_wanted: int
    """Last tokens of each row whose hidden state is asked for."""
    n_seen: int
    """Positions of the longest row, with the new ones."""
    mask: Tensor | None
    """What each new token may see, 0 or -inf: (n, seen), or (b, 1, n, seen) where rows hold different counts."""


class Decoder:
    """Reads tokens into B rows of a key/value cache.

    Args:
        gato: the model; its weights are read, never changed.
        n_row: rows, B.
        context_length: tokens a row can hold; None takes the model's.
        fixed: whether short reads take one of a few fixed shapes (`FixedReads`); None does so on CUDA.

    Raises:
        ValueError: `context_length` is above the model's.
    """

    def __init__(self, gato: Gato, n_row: int, context_length: int | None = None, *, fixed: bool | None = None) -> None:
        config = gato.config
        self.context_length = config.context_length if context_length is None else context_length
        if not 1 <= self.context_length <= config.context_length:
            raise ValueError(
                f"context_length must be in 1..{config.context_length} (the model's), got {context_length}"
            )
        self.gato = gato
        self.n_row = n_row
        self.cursors = np.zeros(n_row, np.int64)
        """(B,) tokens that each row holds."""
        fixed = gato.device.type == "cuda" if fixed is None else fixed
        n_held = n_row + fixed  # a row more, for tokens that fill up a fixed shape
        shape = (config.n_layer, n_held, config.n_key_head, self.context_length, config.d_head)
        self._dtype = gato.transformer.dtype
        self._keys = torch.zeros(shape, dtype=self._dtype, device=gato.device)  # (L, B, G, C, K)
        self._values = torch.zeros(shape, dtype=self._dtype, device=gato.device)  # (L, B, G, C, K)
        n_kept = self.context_length if config.token_shift else 0
        self._vectors = gato.transformer.norm.weight.new_zeros(n_held, n_kept, config.d_model)  # (B, C, D)
        self._ids = np.zeros((n_row, self.context_length), np.int32)
        """(B, C) tokens that each row holds, up to its cursor."""
        self._causal: dict[int, Tensor] = {}
        """By n, (n, C): what each of the last n of C tokens may see."""
        self._fixed = FixedReads(gato, self._keys, self._values, self._vectors) if fixed else None
        self.short = MOST_NEW if fixed else SHORT
        """Tokens of a row beyond which `read_documents` is the better way to read a window from its start."""

    @torch.inference_mode()
    def read_documents(self, rows: Sequence[int], documents: Sequence[Tokens]) -> Float[Tensor, "n D"]:
        """Replaces what the given rows hold by whole documents; the cost is that of one training forward.

        Args:
            rows: distinct rows.
            documents: one for each row, at least one token long.

        Returns:
            (n, D) hidden state after each document's last token.

        Raises:
            ValueError: a document is empty or longer than the context.
        """
        lengths = np.array([len(document) for document in documents], np.int64)
        self._check_room(rows, np.zeros(len(lengths), np.int64), lengths)
        order = np.argsort(lengths, kind="stable")  # equal lengths share an attention call
        passes = (np.cumsum(lengths[order]) - 1) // PASS if self.gato.device.type == "cpu" else np.zeros(len(order))
        hidden = [
            self._read_pass(np.asarray(rows, np.int64)[chosen], [documents[index] for index in chosen], lengths[chosen])
            for chosen in np.split(order, np.flatnonzero(np.diff(passes)) + 1)
        ]
        self.cursors[np.asarray(rows)] = lengths
        return torch.cat(hidden)[torch.from_numpy(np.argsort(order)).to(self.gato.device)]

    def _read_pass(
        self, rows: npt.NDArray[np.int64], documents: Sequence[Tokens], lengths: npt.NDArray[np.int64]
    ) -> Tensor:
        """(n, D) hidden states after documents, the shortest first, that are read in one forward."""
        offsets, positions = offsets_of(lengths), within_rows(lengths)
        owners = np.repeat(rows, lengths)
        slots = self._slots(owners, positions)
        ends = torch.from_numpy(offsets[1:] - 1).to(self.gato.device)
        cuts = torch.from_numpy(offsets.astype(np.int32)).to(self.gato.device)
        last_layer = self.gato.config.n_layer - 1

        def over_documents(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self._write(layer, slots, key, value)
            if layer == last_layer:
                return attend_last(query, key, value, offsets)
            return attend(query, key, value, offsets, cuts=cuts)

        tokens = concatenate(documents)
        self._ids[owners, positions] = tokens.ids
        made = self.gato.token_tensors(tokens, self.gato.last_words(tokens.ids, lengths))
        moved = torch.from_numpy(positions).to(self.gato.device)
        return self.gato.hidden(made, moved, over_documents, ends, self._before(owners, positions))

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], tokens: Tokens, counts: Sequence[int], wanted: Sequence[int] | None = None
    ) -> Float[Tensor, "n D"]:
        """Appends tokens to rows.

        Args:
            rows: distinct rows, in the order of their tokens; attention is cheapest where they ascend.
            tokens: all new tokens, row after row.
            counts: tokens of each row, at least one.
            wanted: last tokens of each row whose hidden state is asked for, in 1..count; one of each if None.

        Returns:
            (n, D) hidden states after the wanted tokens, row after row.

        Raises:
            ValueError: a row gets no token, or more than it has room for.
        """
        device = self.gato.device
        row_array, count_array = np.asarray(rows, np.int64), np.asarray(counts, np.int64)
        before = self.cursors[row_array]
        self._check_room(rows, before, count_array)
        ends = np.cumsum(count_array)
        positions = ranges(before, before + count_array)
        owners = np.repeat(row_array, count_array)
        n_wanted = np.ones(len(ends), np.int64) if wanted is None else np.asarray(wanted, np.int64)
        kept = ranges(ends - n_wanted, ends)
        some = None if len(kept) == ends[-1] else torch.from_numpy(kept).to(device, non_blocking=True)
        made = self.gato.token_tensors(tokens, self._words(row_array, tokens.ids, count_array))
        self._ids[owners, positions] = tokens.ids
        if self._fixed is not None and count_array.max() <= MOST_NEW:
            states = self._fixed.read(self.gato.embedding(made), owners, positions, count_array)
            hidden = states if some is None else states[some]
        else:
            slots = self._slots(owners, positions)
            runs = self._runs(row_array, before, count_array, n_wanted)
            last_layer = self.gato.config.n_layer - 1

            def over_cache(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                self._write(layer, slots, key, value)
                mixed = [self._attend(layer, run, query, last=layer == last_layer) for run in runs]
                return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

            moved = torch.from_numpy(positions).to(device)
            hidden = self.gato.hidden(made, moved, over_cache, some, self._before(owners, positions))
        self.cursors[row_array] = before + count_array
        return hidden

    def _attend(self, layer: int, run: _Run, query: Tensor, *, last: bool) -> Tensor:
        """What the tokens of one run read from the cache: (b n, H, K), or of the wanted ones in the last layer."""
        _, n_head, d_head = query.shape
        n_query = run.n_wanted if last else run.n_new
        q = query[run.tokens].view(-1, run.n_new, n_head, d_head)[:, run.n_new - n_query :].transpose(1, 2)
        k = self._keys[layer, run.rows, :, : run.n_seen]  # (b, G, seen, K)
        v = self._values[layer, run.rows, :, : run.n_seen]
        mask = run.mask if run.mask is None or n_query == run.n_new else run.mask[..., run.n_new - n_query :, :]
        return attend_rows(q, k, v, mask)

    def _words(self, rows: npt.NDArray[np.int64], ids: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> Words:
        """What was last said before each new patch, in what a row holds or among what is new."""
        vocabulary = self.gato.vocabulary
        if not (ids == vocabulary.patch).any():
            return self.gato.last_words(ids[:0], counts[:0])
        runs = []
        lengths = np.empty(len(rows), np.int64)
        for index, (row, new) in enumerate(zip(rows.tolist(), np.split(ids, np.cumsum(counts)[:-1]), strict=True)):
            said = last_run(
                self._ids[row, : self.cursors[row]], n_text=vocabulary.text_ids.stop, other_id=vocabulary.separator
            )
            runs += [said, new]
            lengths[index] = len(said) + len(new)
        return self.gato.last_words(np.concatenate(runs), lengths)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Replaces what rows hold by what other rows hold: all of a source, in the target at the same place.

        Raises:
            ValueError: a row is both written and read.
        """
        if not set(sources).isdisjoint(targets):
            raise ValueError(f"no row can be copied and replaced at once, got {list(sources)} to {list(targets)}")
        for source, target in zip(sources, targets, strict=True):
            held = self.cursors[source]
            for cache in (self._keys, self._values):
                cache[:, target, :, :held] = cache[:, source, :, :held]
            self._vectors[target, :held] = self._vectors[source, :held]
            self._ids[target, :held] = self._ids[source, :held]
            self.cursors[target] = held

    def rewind(self, row: int, n_token: int) -> None:
        """Forgets the last tokens of a row."""
        if not 0 <= n_token <= self.cursors[row]:
            raise ValueError(f"row {row} holds {self.cursors[row]} tokens and cannot forget {n_token}")
        self.cursors[row] -= n_token

    def forget(self, rows: Sequence[int]) -> None:
        """Empties rows."""
        self.cursors[np.asarray(rows, np.int64)] = 0

    def _slots(self, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Tensor:
        """(T G) places in a layer of the cache, of each token's heads in turn."""
        n_head = self.gato.config.n_key_head
        heads = rows[:, None] * n_head + np.arange(n_head)
        return torch.from_numpy((heads * self.context_length + positions[:, None]).reshape(-1)).to(self.gato.device)

    def _before(self, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Before | None:
        """Finds the tokens before each, what a row holds and what it reads now among them; None if nobody asks."""
        if not self.gato.config.token_shift:
            return None
        device = self.gato.device
        slots = torch.from_numpy(rows * self.context_length + positions).to(device)
        begins = torch.from_numpy(positions == 0).to(device)[:, None]
        held = self._vectors.view(-1, self._vectors.shape[-1])  # (B C, D)

        def before(x: Tensor) -> Tensor:
            held.index_copy_(0, slots, x.to(held.dtype))
            return held[(slots - 1).clamp(min=0)].masked_fill_(begins, 0.0)

        return before

    def _write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        write(self._keys[layer], slots, key)
        write(self._values[layer], slots, value)

    def _runs(
        self,
        rows: npt.NDArray[np.int64],
        before: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.int64],
    ) -> list[_Run]:
        """The attention calls of a read."""
        joins = (np.diff(rows) == 1) & (np.diff(counts) == 0) & (np.diff(wanted) == 0)
        joined, lengths, ends = joins.tolist(), before.tolist(), np.cumsum(counts).tolist()
        runs = []
        start = 0
        for stop in range(1, len(rows) + 1):
            first = lengths[start]
            if stop < len(rows) and joined[stop - 1] and abs(lengths[stop] - first) <= max(CALL_WORTH, first // 8):
                continue
            n_new, held = int(counts[start]), before[start:stop]
            n_seen = int(held.max()) + n_new
            runs.append(
                _Run(
                    rows=slice(int(rows[start]), int(rows[stop - 1]) + 1),
                    tokens=slice(ends[start] - n_new, ends[stop - 1]),
                    n_new=n_new,
                    n_wanted=int(wanted[start]),
                    n_seen=n_seen,
                    mask=self._mask(held, n_new, n_seen),
                )
            )
            start = stop
        return runs

    def _mask(self, before: npt.NDArray[np.int64], n_new: int, n_seen: int) -> Tensor | None:
        if (before == before[0]).all():
            if n_new == 1:
                return None
            if n_new not in self._causal:
                until = np.arange(self.context_length - n_new, self.context_length)
                self._causal[n_new] = self._as_mask(np.arange(self.context_length) <= until[:, None])
            return self._causal[n_new][:, self.context_length - n_seen :]
        until = before[:, None] + np.arange(n_new)
        return self._as_mask((np.arange(n_seen) <= until[:, :, None])[:, None])

    def _as_mask(self, visible: npt.NDArray[np.bool_]) -> Tensor:
        seen = torch.from_numpy(visible).to(self.gato.device)
        return torch.zeros(seen.shape, dtype=self._dtype, device=seen.device).masked_fill_(~seen, -torch.inf)

    def _check_room(
        self,
        rows: Sequence[int],
        before: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
    ) -> None:
        if len(counts) == 0 or (counts < 1).any():
            raise ValueError("every row that reads must get at least one token, got none")
        if (before + counts > self.context_length).any():
            row = int(np.argmax(before + counts))
            raise ValueError(
                f"row {rows[row]} holds {before[row]} tokens and was given {counts[row]} more; "
                f"its context is {self.context_length} tokens"
            )
