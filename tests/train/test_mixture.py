from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.envs.dataset import Dataset
from gato_lite.envs.dataset import Document as StoredDocument
from gato_lite.model import StreamTensors
from gato_lite.sequence import Document, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.exchanges import ExchangeSource
from gato_lite.train.mixture import Mixture, _shares
from gato_lite.train.pictures import encode_png
from gato_lite.train.sources import ControlSource, Source, TextSource


@dataclass
class Fixed:
    """Documents of one length."""

    name: str
    length: int

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        rows = generator.integers(0, 4096, (n, self.length)).astype(np.int32)
        return [Document(tokens=plain(ids), target=np.arange(self.length) > 0, labels=ids) for ids in rows]


def mixture(
    sources: list[Source], weights: list[float], *, tokens: int = 200, context: int = 64, seed: int = 0
) -> Mixture:
    return Mixture(
        sources, weights, Vocabulary.shipped(), tokens_per_step=tokens, context_length=context, seed=seed
    )  # fmt: skip


def everything(corridor: Dataset) -> list[Source]:
    vocabulary = Vocabulary.shipped()
    shown = [np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8) for seed in range(3)]
    captioned = [StoredDocument(encode_png(pixels), name) for pixels, name in zip(shown, "abc", strict=True)]
    return [
        ControlSource(corridor, vocabulary),
        TextSource(["word " * 200, "short"], vocabulary, name="text"),
        ExchangeSource(captioned, vocabulary, name="pictures", augment="recoloured"),
    ]


def flat(stream: StreamTensors) -> list[torch.Tensor]:
    tokens = stream.tokens
    groups = [part for group in tokens.patch_groups for part in (group.pixels, group.rows, group.places)]
    targets = [part for group in stream.targets for part in (group.rows, group.classes, group.tasks)]
    return [
        tokens.ids,
        tokens.local,
        tokens.chunks,
        tokens.chunk_rows,
        stream.positions,
        torch.from_numpy(stream.offsets),
        *groups,
        *targets,
    ]


def assert_same(a: StreamTensors, b: StreamTensors) -> None:
    for one, other in zip(flat(a), flat(b), strict=True):
        assert torch.equal(one, other)


def test_a_stream_is_a_function_of_seed_and_step(corridor: Dataset) -> None:
    first, second = (mixture(everything(corridor), [1.0, 1.0, 1.0]) for _ in range(2))
    steps = [3, 0, 7, 3]
    made = [first.stream(step) for step in steps]
    assert_same(made[0], made[3])
    for step, stream in zip(reversed(steps), reversed(made), strict=True):
        assert_same(second.stream(step), stream)
    assert not torch.equal(made[0].tokens.ids, made[1].tokens.ids)
    other = mixture(everything(corridor), [1.0, 1.0, 1.0], seed=1)
    assert not torch.equal(other.stream(3).tokens.ids, made[0].tokens.ids)


def parted(stream: StreamTensors) -> list[bytes]:
    """Ids, local indices and the pixels and places of the patches of each document."""
    offsets = stream.offsets.tolist()
    found = []
    for start, stop in itertools.pairwise(offsets):
        part = stream.tokens.ids[start:stop].numpy().tobytes() + stream.tokens.local[start:stop].numpy().tobytes()
        for group in stream.tokens.patch_groups:
            inside = (group.rows >= start) & (group.rows < stop)
            part += group.pixels[inside].numpy().tobytes() + group.places[inside].numpy().tobytes()
        found.append(part)
    return found


@pytest.mark.parametrize("n_shard", [2, 3, 50])
def test_shards_hold_the_documents_of_the_one_stream(corridor: Dataset, n_shard: int) -> None:
    made = mixture(everything(corridor), [1.0, 1.0, 1.0], tokens=500)
    for step in range(4):
        shards = made.shards(step, n_shard)
        assert len(shards) <= n_shard
        assert sorted(part for shard in shards for part in parted(shard)) == sorted(parted(made.stream(step)))
        sizes = [len(shard.tokens.ids) for shard in shards]
        assert n_shard > 3 or max(sizes) - min(sizes) <= 64


def test_streams_are_sorted_ragged_and_full(corridor: Dataset) -> None:
    made = mixture(everything(corridor), [1.0, 2.0, 0.5])
    for step in range(20):
        stream = made.stream(step)
        lengths = np.diff(stream.offsets)
        assert stream.offsets[0] == 0
        assert stream.offsets[-1] == len(stream.tokens.ids) == len(stream.positions)
        assert (np.diff(lengths) >= 0).all()
        assert lengths.max() <= 64
        assert 200 <= lengths.sum() < 200 + 64
        assert stream.positions.tolist() == [place for length in lengths for place in range(length)]
        assert {int(task) for group in stream.targets for task in group.tasks} <= {0, 1, 2}


def test_weights_are_shares_of_tokens() -> None:
    made = mixture([Fixed("short", 4), Fixed("long", 40)], [1.0, 3.0])
    tokens = np.zeros(2)
    for step in range(300):
        lengths = np.diff(made.stream(step).offsets)
        tokens += [lengths[lengths == 4].sum(), lengths[lengths == 40].sum()]
    assert tokens[1] / tokens.sum() == pytest.approx(0.75, abs=0.03)


def test_tasks_are_numbered_as_the_sources() -> None:
    made = mixture([Fixed("a", 5), Fixed("b", 9)], [1.0, 1.0])
    stream = made.stream(0)
    group = stream.targets[0]
    document = np.searchsorted(stream.offsets, group.rows.numpy(), side="right") - 1
    assert group.tasks.tolist() == [int(np.diff(stream.offsets)[index] == 9) for index in document]


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -2.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_weights_that_are_not_positive(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=re.escape("weights must be positive, got [")):
        mixture([Fixed("a", 5), Fixed("b", 9)], weights)


def test_sources_without_weights() -> None:
    with pytest.raises(ValueError, match="expected a weight for each source, got 0 sources, 0 weights"):
        mixture([], [])
    with pytest.raises(ValueError, match="expected a weight for each source, got 1 sources, 2 weights"):
        mixture([Fixed("a", 5)], [1.0, 1.0])


@pytest.mark.parametrize("n_wrong", [-1, 1])
def test_a_source_that_draws_another_number_is_named(n_wrong: int) -> None:
    class Wrong(Fixed):
        def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
            return super().draw(generator, context_length, n + n_wrong if n < 100 else n)

    with pytest.raises(ValueError, match=r"source 'odd': expected to draw \d+ documents, got \d+"):
        mixture([Wrong("odd", 8)], [1.0]).stream(0)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 16))
def test_documents_are_dealt_out_evenly(lengths: list[int], n_share: int) -> None:
    lengths.sort()
    shares = _shares(lengths, min(n_share, len(lengths)))
    assert sorted(itertools.chain(*shares)) == list(range(len(lengths)))
    assert all(share == sorted(share) and share for share in shares)
    held = [sum(lengths[index] for index in share) for share in shares]
    assert max(held) <= sum(lengths) / len(shares) + max(lengths)
    for whole, share in zip(held, shares, strict=True):
        assert whole - min(lengths[index] for index in share) <= min(held)  # what came last came to who had least


def test_short_documents_level_what_long_ones_left() -> None:
    lengths = [*[19] * 100, 256, 256, 256]
    held = [sum(lengths[index] for index in share) for share in _shares(lengths, 2)]
    assert max(held) - min(held) <= 19
