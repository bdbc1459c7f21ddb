"""Keys and values of what has been read, and the two ways to read on: whole documents, or a few tokens a row.

One `Decoder` serves acting and writing. Each of its B rows is a document of its own with its own cursor; rows never
see each other. A read takes any number of tokens for any of the rows, and no context is ever computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor

from gato_lite.attention import attend
from gato_lite.model import Gato
from gato_lite.sequence import Tokens, concatenate


class Decoder:
    """Reads tokens into B rows of a key/value cache.

    Args:
        gato: the model; its weights are read, never changed.
        n_row: rows, B.
        context_length: tokens a row can hold; None takes the model's.

    Raises:
        ValueError: `context_length` is above the model's.
    """

    def __init__(self, gato: Gato, n_row: int, context_length: int | None = None) -> None:
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
        shape = (config.n_layer, n_row, self.context_length, config.n_head, config.d_head)
        dtype = gato.transformer.norm.weight.dtype
        self._keys = torch.zeros(shape, dtype=dtype, device=gato.device)  # (L, B, C, H, K)
        self._values = torch.zeros(shape, dtype=dtype, device=gato.device)  # (L, B, C, H, K)

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
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[order])])
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths[order])
        slots = np.repeat(np.asarray(rows, np.int64)[order], lengths[order]) * self.context_length + positions
        slots_tensor = torch.from_numpy(slots).to(self.gato.device)

        def over_documents(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self._write(layer, slots_tensor, key, value)
            return attend(query, key, value, offsets)

        tokens = self.gato.token_tensors(concatenate([documents[index] for index in order]))
        hidden = self.gato.hidden(tokens, torch.from_numpy(positions).to(self.gato.device), over_documents)
        self.cursors[np.asarray(rows)] = lengths
        last = np.empty(len(order), np.int64)
        last[order] = offsets[1:] - 1
        return hidden[torch.from_numpy(last).to(self.gato.device)]

    @torch.inference_mode()
    def read(self, rows: Sequence[int], tokens: Tokens, counts: Sequence[int]) -> Float[Tensor, "n D"]:
        """Appends tokens to rows.

        Args:
            rows: distinct rows, in the order of their tokens.
            tokens: all new tokens, row after row.
            counts: tokens of each row, at least one.

        Returns:
            (n, D) hidden state after each row's last new token.

        Raises:
            ValueError: a row gets no token, or more than it has room for.
        """
        device = self.gato.device
        row_array, count_array = np.asarray(rows, np.int64), np.asarray(counts, np.int64)
        before = self.cursors[row_array]
        self._check_room(rows, before, count_array)
        ends = np.cumsum(count_array)
        within = np.arange(ends[-1]) - np.repeat(ends - count_array, count_array)
        positions = np.repeat(before, count_array) + within
        token_rows = np.repeat(row_array, count_array)
        slots = torch.from_numpy(token_rows * self.context_length + positions).to(device)
        n_new, n_seen = int(count_array.max()), int((before + count_array).max())
        even = len(rows) == self.n_row and (count_array == n_new).all() and (np.diff(row_array) == 1).all()
        padded = None if even else torch.from_numpy(token_rows * n_new + within).to(device)
        mask = self._mask(row_array, before, count_array, n_new, n_seen, device)

        def over_cache(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self._write(layer, slots, key, value)
            if padded is not None:
                spread = query.new_zeros(self.n_row * n_new, *query.shape[1:])
                query = spread.index_copy_(0, padded, query)
            q = query.view(self.n_row, n_new, *query.shape[1:]).transpose(1, 2)  # (B, H, n, K)
            k = self._keys[layer, :, :n_seen].transpose(1, 2)  # (B, H, seen, K)
            v = self._values[layer, :, :n_seen].transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)  # (B, n, H, K)
            flat = mixed.reshape(self.n_row * n_new, *query.shape[1:])
            return flat if padded is None else flat[padded]

        hidden = self.gato.hidden(self.gato.token_tensors(tokens), torch.from_numpy(positions).to(device), over_cache)
        self.cursors[row_array] = before + count_array
        return hidden[torch.from_numpy(ends - 1).to(device)]

    def forget(self, rows: Sequence[int]) -> None:
        """Empties rows."""
        self.cursors[np.asarray(rows, np.int64)] = 0

    def _write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        self._keys[layer].view(-1, *key.shape[1:]).index_copy_(0, slots, key.to(self._keys.dtype))
        self._values[layer].view(-1, *value.shape[1:]).index_copy_(0, slots, value.to(self._values.dtype))

    def _mask(
        self,
        rows: np.ndarray[tuple[int], np.dtype[np.int64]],
        before: np.ndarray[tuple[int], np.dtype[np.int64]],
        counts: np.ndarray[tuple[int], np.dtype[np.int64]],
        n_new: int,
        n_seen: int,
        device: torch.device,
    ) -> Tensor | None:
        """(B, 1, n, seen) what each new token may see; rows that read nothing look at their first place."""
        if n_new == 1 and len(rows) == self.n_row and (before + 1 == n_seen).all():
            return None
        visible_until = np.zeros((self.n_row, n_new), np.int64)
        steps = np.minimum(np.arange(n_new), counts[:, None] - 1)
        visible_until[rows] = before[:, None] + steps
        visible = np.arange(n_seen) <= visible_until[:, :, None]
        return torch.from_numpy(visible[:, None]).to(device)

    def _check_room(
        self,
        rows: Sequence[int],
        before: np.ndarray[tuple[int], np.dtype[np.int64]],
        counts: np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> None:
        if len(counts) == 0 or (counts < 1).any():
            raise ValueError("every row that reads must get at least one token, got none")
        if (before + counts > self.context_length).any():
            row = int(np.argmax(before + counts))
            raise ValueError(
                f"row {rows[row]} holds {before[row]} tokens and was given {counts[row]} more; "
                f"its context is {self.context_length} tokens"
            )
