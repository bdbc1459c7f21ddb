"""A weighted mixture of sources: the stream of step n is a pure function of (seed, n).

Nothing is remembered between steps, so a resumed run sees the same data. A stream is cut into parts for threads, for
gradient accumulation and for ranks; the documents and their order are those of the step, however many parts there are.

Source: Reed et al. 2022, section 2.3 and appendix C (sampling by weight).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from gato_lite.model import StreamTensors, stream_tensors
from gato_lite.sequence import PATCH_PLACES, Document, lay_out, patch_places
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.ranks import ALONE, Ranks
from gato_lite.train.sources import Source, mean_length


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one rank reads in one training step."""

    step: int
    shards: tuple[StreamTensors, ...]
    """Each with a target, unless the whole step has none; a rank may be left with none where documents are few."""
    n_target: int
    """Target tokens of the whole step, over all ranks."""
    arrived: torch.cuda.Event | None = None
    """After which the shards are on their device; None where nothing is on its way."""

    @property
    def n_tokens(self) -> int:
        """Tokens of this rank."""
        return sum(len(shard.positions) for shard in self.shards)


class Mixture:
    """Streams of about `tokens_per_step` tokens, drawn from weighted sources.

    Args:
        sources: where documents come from.
        weights: share of each source in the *tokens*, up to a common factor.
        vocabulary: of the model.
        tokens_per_step: a stream ends with the document that reaches this many tokens.
        context_length: longest document in tokens.
        seed: of everything drawn.

    Raises:
        ValueError: no source, or a weight that is not positive.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        vocabulary: Vocabulary,
        *,
        tokens_per_step: int,
        context_length: int,
        seed: int,
    ) -> None:
        if not sources or len(sources) != len(weights):
            raise ValueError(f"expected a weight for each source, got {len(sources)} sources, {len(weights)} weights")
        if any(not np.isfinite(weight) or weight <= 0 for weight in weights):
            raise ValueError(f"weights must be positive, got {list(weights)}; leave a source out instead")
        self.sources = list(sources)
        self.vocabulary = vocabulary
        self.tokens_per_step = tokens_per_step
        self.context_length = context_length
        self.seed = seed
        lengths = [mean_length(source, context_length) for source in sources]
        shares = np.array(weights, np.float64) / lengths
        shares /= shares.sum()
        self._ends = np.cumsum(shares)
        self.mean_length = float(shares @ lengths)
        """Tokens of a document, all sources together."""

    def stream(self, step: int) -> StreamTensors:
        """The stream of training step `step`."""
        return self.shards(step, 1)[0]

    def shards(self, step: int, n_shard: int) -> tuple[StreamTensors, ...]:
        """The stream of training step `step`, its documents dealt out to at most `n_shard` streams of like size."""
        return self.part(step, n_shard).shards

    def part(self, step: int, n_shard: int, ranks: Ranks = ALONE) -> Part:
        """What one of the ranks reads in training step `step`.

        Args:
            step: from 0.
            n_shard: streams that each rank's documents are dealt out to, at most.
            ranks: this rank among all.
        """
        documents, sources, generator = self._documents(step)
        # Places are drawn before the documents are dealt out, so that shards change nothing.
        centres = _centres(np.concatenate([document.tokens.patch_intervals for document in documents]), generator)
        ends = np.cumsum([len(document.tokens.patch_intervals) for document in documents]).tolist()
        lengths = [len(document.tokens) for document in documents]
        shares = _shares(lengths, min(n_shard * ranks.size, len(documents)))
        streams = []
        for share in shares[ranks.rank :: ranks.size]:
            stream = lay_out([documents[index] for index in share], [sources[index] for index in share])
            if len(stream.tokens.patch_intervals):
                own = [centres[(ends[index - 1] if index else 0) : ends[index]] for index in share]
                stream = replace(stream, tokens=replace(stream.tokens, patch_intervals=np.concatenate(own)))
            streams.append(stream_tensors(stream, self.vocabulary, None))
        n_target = sum(int(np.count_nonzero(document.target)) for document in documents)
        trained = tuple(stream for stream in streams if stream.targets or not n_target)
        return Part(step=step, shards=trained, n_target=n_target)

    def rows(self, step: int) -> dict[str, list[int]]:
        """Rows of each dataset that the stream of training step `step` was made of, for who looks for a bad one."""
        found: dict[str, set[int]] = {}
        documents, sources, _ = self._documents(step)
        for document, source in zip(documents, sources, strict=True):
            found.setdefault(document.origin or self.sources[source].name, set()).update(document.rows)
        return {origin: sorted(rows) for origin, rows in sorted(found.items())}

    def _documents(self, step: int) -> tuple[list[Document], list[int], np.random.Generator]:
        """The documents of a training step, shortest first, the source of each, and the generator that drew them."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        documents, sources = self._draw(generator, step)
        order = sorted(range(len(documents)), key=lambda index: len(documents[index].tokens))
        return [documents[index] for index in order], [sources[index] for index in order], generator

    def _draw(self, generator: np.random.Generator, step: int) -> tuple[list[Document], list[int]]:
        """Documents up to the one that reaches the step's tokens, drawn many at once by their sources, and these."""
        documents: list[Document] = []
        sources: list[int] = []
        missing = self.tokens_per_step
        while missing > 0:
            n = 1 + int(missing / self.mean_length)
            chosen = np.minimum(self._ends.searchsorted(generator.random(n), side="right"), len(self.sources) - 1)
            drawn: dict[int, Iterator[Document]] = {}
            for index in np.unique(chosen).tolist():
                source, n_here = self.sources[index], int(np.count_nonzero(chosen == index))
                try:
                    found = source.draw(generator, self.context_length, n_here)
                except OSError as error:  # the system names no source, and often no file
                    what = f"{error.strerror or error}, as source '{source.name}' drew for step {step}"
                    raise OSError(error.errno, what, error.filename) from error
                if len(found) != n_here:
                    raise ValueError(f"source '{source.name}': expected to draw {n_here} documents, got {len(found)}")
                drawn[index] = iter(found)
            for index in chosen.tolist():
                if missing <= 0:  # a few too many were drawn
                    break
                documents.append(next(drawn[index]))
                sources.append(index)
                missing -= len(documents[-1].tokens)
        return documents, sources


def _centres(intervals: npt.NDArray[np.float32], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """(P, 4) intervals with a place drawn in each as both ends."""
    centres = (patch_places(intervals, generator) + 0.5) / PATCH_PLACES  # (P, 2)
    drawn: npt.NDArray[np.float32] = centres[:, [0, 0, 1, 1]].astype(np.float32)
    return drawn


def _shares(lengths: Sequence[int], n_share: int) -> list[list[int]]:
    """Which documents, shortest first, each share gets: from the longest on they are dealt out to who has least so far.

    So no share is larger than the mean by more than one document, and short ones level what long ones left unequal.
    Source: Graham 1969, "Bounds on multiprocessing timing anomalies" (longest processing time first).
    """
    shares: list[list[int]] = [[] for _ in range(n_share)]
    held = [(0, share) for share in range(n_share)]
    for index in reversed(range(len(lengths))):
        n_token, share = held[0]
        heapq.heapreplace(held, (n_token + lengths[index], share))
        shares[share].append(index)
    return [share[::-1] for share in shares]
