"""Short reads into a key/value cache in a few fixed shapes, each recorded once as a CUDA graph and then replayed.

A small model's forward is hundreds of kernels that each take a GPU less time than a CPU takes to start it. A recorded
graph starts them all at once, but only with the shapes and the memory that it was recorded with. So a read of a few
tokens for any of the rows is made one of n tokens for every row, over the first S positions of the cache: n is even (or
1), S a power of two (or the whole context). What is filled up is written into a row of the cache that nobody reads.
Which tokens there are, and where, is data: two numbers a token, on the device.

Embedding stays outside, since patches and chunks come in any number. On a CPU the same function runs as it stands:
nothing is won there, and tests hold it to the ordinary reads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gato_lite.attention import attend_rows
from gato_lite.model import Gato
from gato_lite.sequence import within_rows

MOST_NEW: Final = 16
"""Tokens of a row beyond which a read is long enough to be started kernel by kernel."""
LEAST_SEEN: Final = 64
"""Fewest positions of the cache that are attended to."""
N_WARM_UP: Final = 3
"""Forwards before one is recorded, in which libraries choose their kernels and take their memory."""


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A graph and the memory it works on."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    where: Tensor
    hidden: Tensor


class FixedReads:
    """Reads tokens that are embedded into the rows of a cache, whose last row holds nothing of anybody.

    Args:
        gato: the model.
        keys: (L, B+1, G, C, K).
        values: (L, B+1, G, C, K).
        vectors: (B+1, C, D) embedded tokens, which the next are read with; of no use without `token_shift`.
    """

    def __init__(self, gato: Gato, keys: Tensor, values: Tensor, vectors: Tensor) -> None:
        self._gato = gato
        self._keys = keys
        self._values = values
        self._vectors = vectors
        self._n_row = keys.shape[1] - 1
        self._context_length = keys.shape[3]
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._shapes: set[tuple[int, int]] = set()

    @property
    def n_shape(self) -> int:
        """Shapes (n, S) that were read so far; on CUDA as many graphs."""
        return len(self._shapes)

    def read(
        self,
        embedded: Float[Tensor, "T D"],
        owners: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
    ) -> Float[Tensor, "T D"]:
        """Hidden states after tokens that go into rows of the cache.

        Args:
            embedded: the tokens, row after row.
            owners: (T,) row of each.
            positions: (T,) place of each in its row.
            counts: tokens of each row that reads, at most `MOST_NEW`.
        """
        n_new = _even(int(counts.max()))
        n_seen = min(self._context_length, max(LEAST_SEEN, _power_of_two(int(positions.max()) + 1)))
        places = owners * n_new + within_rows(counts)
        where = np.zeros((2, self._n_row * n_new), np.int64)
        where[0] = self._n_row
        where[:, places] = owners, positions
        self._shapes.add((n_new, n_seen))
        device = embedded.device
        index = torch.from_numpy(places).to(device, non_blocking=True)
        if device.type == "cpu":
            x = embedded.new_zeros(where.shape[1], embedded.shape[1]).index_copy_(0, index, embedded)
            return self._forward(x, torch.from_numpy(where), n_new, n_seen).index_select(0, index)
        if (n_new, n_seen) not in self._recorded:
            self._recorded[n_new, n_seen] = self._record(n_new, n_seen, embedded)
        recorded = self._recorded[n_new, n_seen]
        recorded.x.index_copy_(0, index, embedded)
        recorded.where.copy_(torch.from_numpy(where), non_blocking=True)
        recorded.graph.replay()
        return recorded.hidden.index_select(0, index)  # what the graph wrote is written anew by the next replay

    def _forward(
        self, x: Float[Tensor, "Bn D"], where: Int64[Tensor, "2 Bn"], n_new: int, n_seen: int
    ) -> Float[Tensor, "Bn D"]:
        """Hidden states of n tokens for each row; `where` has the row and the position of each.

        Every shape is that of the arguments, and nothing is read on the host.
        """
        owners, positions = where
        config = self._gato.config
        n_row, n_head = self._n_row, config.n_key_head
        heads = owners[:, None] * n_head + torch.arange(n_head, device=x.device)
        slots = (heads * self._context_length + positions[:, None]).flatten()  # (B n G)
        hidden_from = torch.arange(n_seen, device=x.device) > positions.view(n_row, 1, n_new, 1)  # (B, 1, n, S)
        mask = self._keys.new_zeros(hidden_from.shape).masked_fill_(hidden_from, -torch.inf)

        def over_cache(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            write(self._keys[layer], slots, key)
            write(self._values[layer], slots, value)
            q = query.view(n_row, n_new, *query.shape[1:]).transpose(1, 2)  # (B, H, n, K)
            k, v = (cache[layer, :n_row, :, :n_seen] for cache in (self._keys, self._values))  # (B, G, S, K)
            return attend_rows(q, k, v, mask)

        held = self._vectors.view(-1, self._vectors.shape[-1])  # (B C + C, D)
        places = owners * self._context_length + positions

        def before(new: Tensor) -> Tensor:
            held.index_copy_(0, places, new.to(held.dtype))
            return held[(places - 1).clamp(min=0)].masked_fill_((positions == 0)[:, None], 0.0)

        hidden: Tensor = self._gato.transformer(x, positions, over_cache, None, before if config.token_shift else None)
        return hidden

    def _record(self, n_new: int, n_seen: int, like: Tensor) -> _Recorded:
        """The forward of that shape as a graph; meanwhile tokens of nobody are read."""
        x = like.new_zeros(self._n_row * n_new, like.shape[1])
        where = torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
        where[0] = self._n_row
        with torch.cuda.device(x.device):
            aside = _aside(x.device)
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(N_WARM_UP):
                    self._forward(x, where, n_new, n_seen)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            pool = next((other.graph.pool() for other in self._recorded.values()), None)
            # Other threads, such as the loader's, may go on with their copies.
            with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                hidden = self._forward(x, where, n_new, n_seen)
        return _Recorded(graph=graph, x=x, where=where, hidden=hidden)


@functools.cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """Where all graphs of a device are recorded: cuBLAS keeps memory of its own, megabytes, for every stream."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def write(cache: Tensor, slots: Int64[Tensor, " TG"], new: Tensor) -> None:
    """Puts each token's heads, (T, G, K), into their places in a layer of a cache, (B, G, C, K)."""
    width = new.shape[-1]
    cache.view(-1, width).index_copy_(0, slots, new.reshape(-1, width).to(cache.dtype))


def _even(n: int) -> int:
    """The next even number, or 1."""
    return n if n == 1 else n + n % 2


def _power_of_two(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()
