"""A weighted mixture of sources: the stream of step n is a pure function of (seed, n).

Nothing is remembered between steps, so a resumed run, or another number of loader workers, sees the same data. The
next streams are made in a thread while the model works on this one.

Source: Reed et al. 2022, section 2.3 and appendix C (sampling by weight).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import numpy.typing as npt

from gato_lite.model import StreamTensors, stream_tensors
from gato_lite.sequence import PATCH_PLACES, Document, lay_out, patch_places
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.sources import Source, mean_length


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
        generator = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        documents = sorted(self._draw(generator), key=lambda document: len(document.tokens))
        # Places are drawn before the documents are dealt out, so that shards change nothing.
        centres = _centres(np.concatenate([document.tokens.patch_intervals for document in documents]), generator)
        ends = np.cumsum([len(document.tokens.patch_intervals) for document in documents]).tolist()
        streams = []
        for rest in range(min(n_shard, len(documents))):
            share = range(len(documents) - 1 - rest, -1, -n_shard)[::-1]  # ascending, the longest to the first
            stream = lay_out([documents[index] for index in share])
            if len(stream.tokens.patch_intervals):
                own = [centres[(ends[index - 1] if index else 0) : ends[index]] for index in share]
                stream = replace(stream, tokens=replace(stream.tokens, patch_intervals=np.concatenate(own)))
            streams.append(stream_tensors(stream, self.vocabulary, None))
        return tuple(stream for stream in streams if stream.targets) or tuple(streams)

    def _draw(self, generator: np.random.Generator) -> list[Document]:
        """Documents up to the one that reaches the step's tokens, drawn by their source many at once."""
        documents: list[Document] = []
        missing = self.tokens_per_step
        while missing > 0:
            n = 1 + int(missing / self.mean_length)
            chosen = np.minimum(self._ends.searchsorted(generator.random(n), side="right"), len(self.sources) - 1)
            drawn: list[Document | None] = [None] * n
            for index in np.unique(chosen).tolist():
                places = np.flatnonzero(chosen == index).tolist()
                found = self.sources[index].draw(generator, self.context_length, len(places))
                for place, document in zip(places, found, strict=True):
                    drawn[place] = replace(document, task=index)
            for document in drawn:
                assert document is not None
                if missing > 0:  # else there were a few too many
                    documents.append(document)
                    missing -= len(document.tokens)
        return documents


def _centres(intervals: npt.NDArray[np.float32], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """(P, 4) intervals with a place drawn in each as both ends."""
    centres = (patch_places(intervals, generator) + 0.5) / PATCH_PLACES  # (P, 2)
    drawn: npt.NDArray[np.float32] = centres[:, [0, 0, 1, 1]].astype(np.float32)
    return drawn


class Prefetch:
    """Makes the shards of steps `first`, `first + 1`, … in a thread, a few steps ahead of the reader.

    Example:
        >>> with Prefetch(mixture, first=0) as steps:  # doctest: +SKIP
        ...     shards = next(steps)
    """

    def __init__(self, mixture: Mixture, first: int, *, n_shard: int = 1, n_ahead: int = 3) -> None:
        self.waited_s = 0.0
        """Seconds that the reader has waited for a stream."""
        self._mixture = mixture
        self._n_shard = n_shard
        self._ready: queue.Queue[tuple[StreamTensors, ...] | BaseException] = queue.Queue(maxsize=n_ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(first,), name="gato-lite-loader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def __iter__(self) -> Iterator[tuple[StreamTensors, ...]]:
        return self

    def __next__(self) -> tuple[StreamTensors, ...]:
        start = time.perf_counter()
        made = self._ready.get()
        self.waited_s += time.perf_counter() - start
        if isinstance(made, BaseException):
            raise made
        return made

    def _make(self, step: int) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(self._mixture.shards(step, self._n_shard))
            except BaseException as error:  # noqa: BLE001 - handed to the reader, which raises it
                self._ready.put(error)
                return
            step += 1
