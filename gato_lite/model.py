"""`Gato`: a flat stream of tokens in, hidden states and losses out. Holds weights and nothing that changes in use.

Loss: the rows of target tokens are gathered before the last block's feed-forward layer and the vocabulary head, and
each row's softmax runs over the id range that its token belongs to (text and end, bins, discrete values).
Differs from the paper, whose softmax runs over the whole vocabulary: which range comes next is never in doubt, acting
and writing only ever choose within it, and a row of a discrete action costs a sixth of the arithmetic.

Source: Reed et al. 2022, sections 2.2 and 2.3, equation (1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor, nn

from gato_lite.attention import Backend, attend
from gato_lite.bins import smooth_table
from gato_lite.config import GatoConfig
from gato_lite.embedding import TABLE_STD, Embedding, TokenTensors, to_tensors
from gato_lite.fitting import PictureFit
from gato_lite.head import cross_entropy
from gato_lite.sequence import Stream, Tokens, within_rows
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.transformer import AttentionOver, Before, RunBlock, Transformer, run_block
from gato_lite.words import Words, last_words

if TYPE_CHECKING:
    from gato_lite.run import TaskFormat

MODALITIES = ("text", "continuous", "discrete")
"""Names of the three id ranges that a loss can be about, in the order of `Targets.modality`."""
BINS = 1
"""The modality of continuous actions."""
FILLED_UP: Final = 64
"""A CPU compiles its bfloat16 products for their shapes: tokens and target rows are filled up to a multiple of this."""


@dataclass(frozen=True, kw_only=True)
class TargetGroup:
    """The target rows of one modality."""

    modality: int
    """Index into `MODALITIES`."""
    rows: Tensor
    """(R,) tokens whose hidden state predicts."""
    classes: Tensor
    """(R,) what comes next, counted from the start of the modality's ids."""
    tasks: Tensor
    """(R,) data source of each row; on the host."""


@dataclass(frozen=True, kw_only=True)
class StreamTensors:
    """A `Stream` as tensors."""

    tokens: TokenTensors
    positions: Tensor
    """(T,) place of each token in its document."""
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]]
    """(N+1,) on the host."""
    cuts: Tensor
    """(N+1,) int32, the offsets where the tokens are."""
    targets: tuple[TargetGroup, ...]

    @property
    def n_target(self) -> int:
        """Target tokens."""
        return sum(len(group.rows) for group in self.targets)

    def filled_up(self, multiple: int) -> StreamTensors:
        """With documents more, which nothing asks for, so that the tokens are a multiple of `multiple`."""
        n_token = len(self.positions)
        n_more = -n_token % multiple
        if not n_more:
            return self
        tokens = replace(
            self.tokens, ids=F.pad(self.tokens.ids, (0, n_more)), local=F.pad(self.tokens.local, (0, n_more))
        )
        n_document = -(-n_more // FILLED_UP)  # short ones, which cost attention nothing
        ends = torch.arange(1, n_document + 1, dtype=torch.int32, device=self.cuts.device) * FILLED_UP + n_token
        return replace(
            self,
            tokens=tokens,
            positions=F.pad(self.positions, (0, n_more)),  # a context may be shorter than what is added
            offsets=np.append(
                self.offsets, np.minimum(n_token + np.arange(1, n_document + 1) * FILLED_UP, n_token + n_more)
            ),
            cuts=torch.cat([self.cuts, ends.clamp(max=n_token + n_more)]),
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> StreamTensors:
        """The same with every tensor changed that the device reads, such as moved there."""
        return StreamTensors(
            tokens=self.tokens.mapped(change),
            positions=change(self.positions),
            offsets=self.offsets,
            cuts=change(self.cuts),
            targets=tuple(
                replace(group, rows=change(group.rows), classes=change(group.classes)) for group in self.targets
            ),
        )

    def to(self, device: torch.device) -> StreamTensors:
        """The same on `device`."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What one stream cost."""

    mean: Tensor
    """Cross-entropy in nats, mean over all target tokens, bins smoothed; what is differentiated."""
    groups: tuple[tuple[TargetGroup, Tensor], ...]
    """Target rows of each modality with their own losses, (R,) nats, detached."""

    def on_host(self, other: Tensor) -> tuple[Losses, Tensor]:
        """The same on the host, detached, and one number more: in a single copy, so that it waits but once."""
        nats = [nats for _, nats in self.groups]
        whole = torch.cat([self.mean.detach()[None], other.detach()[None], *(part.float() for part in nats)]).cpu()
        mean, number, *parts = torch.split(whole, [1, 1, *map(len, nats)])
        groups = tuple((group, part) for (group, _), part in zip(self.groups, parts, strict=True))
        return Losses(mean=mean[0], groups=groups), number[0]


class Gato(nn.Module):
    """One decoder-only Transformer over text, pictures, observations and actions.

    Args:
        config: its shape.
        vocabulary: its token ids; None takes the shipped one.
        seed: of the fresh weights.

    Raises:
        ValueError: the vocabulary's size is not the configuration's.

    Example:
        >>> gato = Gato(GatoConfig.preset("lite-1m"))
    """

    def __init__(self, config: GatoConfig, vocabulary: Vocabulary | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary if vocabulary is not None else Vocabulary.shipped()
        if self.vocabulary.size != config.vocab_size:
            raise ValueError(
                f"vocab_size must be the vocabulary's, expected {self.vocabulary.size}, got {config.vocab_size}; "
                "pass GatoConfig.preset(name, vocab_size=vocabulary.size)"
            )
        self.formats: tuple[TaskFormat, ...] = ()
        """How the tasks it was trained on are spoken of; `load` fills it in."""
        self.pictures: tuple[PictureFit, ...] = ()
        """How the pictures of a prompt are fitted; `load` takes the run's. Without any all stay as they are."""
        self.embedding = Embedding(config)
        self.transformer = Transformer(config)
        generator = torch.Generator().manual_seed(seed)
        self.embedding.initialise(generator)
        self.transformer.initialise(generator)
        bins = self.vocabulary.bin_ids
        with torch.no_grad():
            self.embedding.tokens.weight[bins.start : bins.stop] = smooth_table(
                len(bins), config.d_model, TABLE_STD, generator
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.tokens.weight.device

    @property
    def n_parameters(self) -> int:
        """Trained scalars; the head shares the token table."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def n_block_parameters(self) -> int:
        """Scalars that every token is multiplied with: the blocks, without tables and encoders."""
        return sum(parameter.numel() for parameter in self.transformer.parameters())

    def token_tensors(self, tokens: Tokens, words: Words | None = None) -> TokenTensors:
        """`tokens` on this model's device, patch places in the middle of their interval.

        Args:
            tokens: any run of tokens.
            words: what was last said before each patch; None where the tokens are one document.
        """
        vocabulary = self.vocabulary
        words = self.last_words(tokens.ids, [len(tokens)]) if words is None else words
        made = to_tensors(tokens, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk, words=words, generator=None)
        return made.to(self.device) if self.device.type != "cpu" else made

    def last_words(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64] | Sequence[int]) -> Words:
        """What was last said before each patch, in documents of those lengths laid end to end."""
        return last_words(ids, lengths, n_text=self.vocabulary.text_ids.stop, patch_id=self.vocabulary.patch)

    def hidden(
        self,
        tokens: TokenTensors,
        positions: Tensor,
        attention_over: AttentionOver,
        rows: Tensor | None = None,
        before: Before | None = None,
        run: RunBlock = run_block,
    ) -> Float[Tensor, "R D"]:
        """Hidden states of `tokens`, or of the `rows` among them, under any attention.

        Training, prefilling and acting differ only in the attention and in where a token finds the one before it
        (`before`), which may be left out for documents that lie whole. `run` says how each block is run.
        """
        with torch.autocast("cpu", enabled=False):  # values keep their precision, and encoders are small
            embedded = self.embedding(tokens)
        hidden: Tensor = self.transformer(embedded, positions, attention_over, rows, before, run)
        return hidden

    def forward(
        self,
        stream: StreamTensors,
        backend: Backend = "auto",
        rows: Tensor | None = None,
        run: RunBlock = run_block,
    ) -> Float[Tensor, "R D"]:
        """Hidden states of a stream of whole documents: (T, D), or (R, D) of the tokens `rows` alone."""
        last = self.config.n_layer - 1

        def within_documents(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            mixed = attend(query, key, value, stream.offsets, backend, stream.cuts)
            return mixed.index_select(0, rows) if rows is not None and layer == last else mixed

        return self.hidden(stream.tokens, stream.positions, within_documents, rows, run=run)

    def logits(self, hidden: Float[Tensor, "R D"], ids: Tensor | slice | None = None) -> Float[Tensor, "R V"]:
        """Scores of the token ids `ids` (all of them if None) after each hidden state."""
        table = self.embedding.tokens.weight
        return F.linear(hidden, table if ids is None else table[ids])

    def loss(self, stream: StreamTensors, backend: Backend = "auto", run: RunBlock = run_block) -> Losses:
        """Cross-entropy of the stream's target tokens; `run` says how each block is run.

        Raises:
            ValueError: the stream has no target.
        """
        if not stream.targets:
            raise ValueError("a training stream needs at least one target token (text or action), got none")
        multiple = FILLED_UP if torch.is_autocast_enabled("cpu") else 1
        rows = [F.pad(group.rows, (0, -len(group.rows) % multiple)) for group in stream.targets]
        hidden = self(stream.filled_up(multiple), backend, torch.cat(rows), run)  # (R + more, D)
        groups: list[tuple[TargetGroup, Tensor]] = []
        summed: list[Tensor] = []
        for group, states in zip(stream.targets, hidden.split([len(part) for part in rows]), strict=True):
            table = self.of_classes(self.embedding.tokens.weight, group.modality)
            total, losses = cross_entropy(states, table, group.classes, smooth=group.modality == BINS)
            summed.append(total)
            groups.append((group, losses))
        mean = torch.stack(summed).sum() / stream.n_target
        return Losses(mean=mean, groups=tuple(groups))

    def of_classes(self, of_ids: Float[Tensor, "V X"], modality: int) -> Float[Tensor, "C X"]:
        """From rows of all token ids, those among which the next token of that modality is, in the order of classes."""
        parts = [of_ids[ids.start : ids.stop] for ids in self.vocabulary.class_ranges[modality]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def stream_tensors(stream: Stream, vocabulary: Vocabulary, generator: np.random.Generator | None) -> StreamTensors:
    """A stream as tensors on the host, its target rows grouped by modality.

    Args:
        stream: whole documents.
        vocabulary: names the id ranges.
        generator: draws patch places as in training; None takes the middle of each interval.

    Raises:
        ValueError: a target token is neither text, a bin nor a discrete value.
    """
    return StreamTensors(
        tokens=to_tensors(
            stream.tokens,
            patch_id=vocabulary.patch,
            chunk_id=vocabulary.chunk,
            words=last_words(
                stream.tokens.ids, stream.lengths, n_text=vocabulary.text_ids.stop, patch_id=vocabulary.patch
            ),
            generator=generator,
        ),
        positions=torch.from_numpy(within_rows(stream.lengths)),
        offsets=stream.offsets,
        cuts=torch.from_numpy(stream.offsets.astype(np.int32)),
        targets=_target_groups(stream, vocabulary),
    )


def _target_groups(stream: Stream, vocabulary: Vocabulary) -> tuple[TargetGroup, ...]:
    rows = np.flatnonzero(stream.target)
    ids = stream.labels[rows]
    document = np.searchsorted(stream.offsets, rows, side="right") - 1
    if (stream.offsets[document] == rows).any():
        raise ValueError("the first token of a document has nothing before it to be predicted from, got it as a target")
    modality, classes = np.full(len(ids), -1), ids.astype(np.int64)
    for index, id_ranges in enumerate(vocabulary.class_ranges):
        n_before = 0
        for id_range in id_ranges:
            inside = (ids >= id_range.start) & (ids < id_range.stop)
            modality[inside] = index
            classes[inside] += n_before - id_range.start
            n_before += len(id_range)
    if (modality < 0).any():
        wrong = int(ids[modality < 0][0])
        raise ValueError(f"targets must be text, bins or discrete values, got {vocabulary.describe(wrong)}")
    chosen = [np.flatnonzero(modality == index) for index in range(len(MODALITIES))]
    return tuple(
        TargetGroup(
            modality=index,
            rows=torch.from_numpy(rows[some] - 1),
            classes=torch.from_numpy(classes[some]),
            tasks=torch.from_numpy(stream.tasks[document[some]].astype(np.int64)),
        )
        for index, some in enumerate(chosen)
        if len(some)
    )
