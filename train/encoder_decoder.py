"""What translations are measured against: the encoder–decoder Transformer that all of this comes from.

    python -m gato_lite.train.encoder_decoder RUN --cpu-minutes 60

trains torch's `nn.Transformer` on the data of a run, with the run's text pieces, as many parameters as the run's model
has, and the CPU time that is given, and scores it on the same held-out sentences with the same metrics. It is what one
would write first, done well: sentences of like length share a batch, so that little is padding; AdamW with warm-up and
cosine; norms before the layers; the table of pieces shared by both sides and the head; matrices multiplied in bfloat16
where ours are; datasets in the shares that they have in the run.

Source: Vaswani et al. 2017, "Attention is all you need".
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
import tyro
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tyro.conf import Positional, arg

from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Document
from gato_lite.run import load, read_run_config
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.train.abilities import ability_of, documents_of_run, held_out, translation_score
from gato_lite.train.console import bar, print_json, share_bar, to_json, write_whole
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.memory import keep_freed_memory
from gato_lite.train.optimiser import schedule
from gato_lite.train.peak import matmul_dtype
from gato_lite.train.shelf import dataset_folder

POOL: Final = 8192
"""Pairs that are sorted by length together, then cut into batches."""
TOKENS: Final = 4096
"""Tokens of the longest pair of a batch, times its pairs; padding may bring a few more."""
MAX_LENGTH: Final = 192
"""Tokens of the longest side that is trained on."""
MAX_ANSWER: Final = 128
"""Pieces of the longest answer that is written."""
WARMUP_STEPS: Final = 100
"""Steps over which the rate rises, as in `TrainConfig`."""
BATCH: Final = 128
"""Sentences that are translated together."""


class Pair(NamedTuple):
    """What is asked and what is answered, as pieces."""

    source: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]


class EncoderDecoder(nn.Module):
    """`nn.Transformer` between a shared table of pieces, sinusoidal positions, and a head that is that table.

    Args:
        n_pieces: of the text model; three ids follow them: begin, end and padding.
        d_model: width.
        n_head: attention heads.
        d_ff: width of the feed-forward layers.
        n_encoder: layers that read.
        n_decoder: layers that write.
    """

    positions: Tensor

    def __init__(self, n_pieces: int, *, d_model: int, n_head: int, d_ff: int, n_encoder: int, n_decoder: int) -> None:
        super().__init__()
        self.begin, self.end, self.padding = n_pieces, n_pieces + 1, n_pieces + 2
        self.table = nn.Embedding(n_pieces + 3, d_model)
        nn.init.normal_(self.table.weight, std=d_model**-0.5)
        layer = nn.TransformerEncoderLayer(d_model, n_head, d_ff, dropout=0.0, batch_first=True, norm_first=True)
        self.transformer = nn.Transformer(
            d_model,
            n_head,
            num_decoder_layers=n_decoder,
            dim_feedforward=d_ff,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
            custom_encoder=nn.TransformerEncoder(  # as nn.Transformer makes it, but for a warning about nested tensors
                layer, n_encoder, nn.LayerNorm(d_model), enable_nested_tensor=False
            ),
        )
        self.register_buffer("positions", sinusoids(MAX_LENGTH + 1, d_model), persistent=False)

    def forward(self, source: Int64[Tensor, "B S"], target: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Hidden states that predict what follows each token of `target`; rows are padded at the right."""
        memory, unread = self.read(source)
        return self.write(memory, unread, target)

    def read(self, source: Int64[Tensor, "B S"]) -> tuple[Tensor, Tensor]:
        """What the encoder makes of the sources (B, S, D), and which of their places are padding (B, S).

        An empty source is read as one token of padding, because attention to nothing is undefined.
        """
        padding = source == self.padding
        padding[:, 0] = False
        memory: Tensor = self.transformer.encoder(self._embedded(source), src_key_padding_mask=padding)
        return memory, padding

    def write(self, memory: Tensor, unread: Tensor, target: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The decoder's hidden states; padding stands at the right, where no causal token sees it."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        hidden: Tensor = self.transformer.decoder(
            self._embedded(target), memory, tgt_mask=mask, memory_key_padding_mask=unread, tgt_is_causal=True
        )
        return hidden

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Scores of the pieces and of the end."""
        return F.linear(hidden, self.table.weight[: self.padding])

    def _embedded(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.table(ids) * self.table.embedding_dim**0.5 + self.positions[: ids.shape[1]]
        return embedded

    @torch.no_grad()
    def translate(self, sources: Sequence[npt.NDArray[np.int32]], max_tokens: int) -> list[list[int]]:
        """The likeliest pieces one after another, until the end; one batch."""
        memory, unread = self.read(self._padded(sources))
        written = torch.full((len(sources), 1), self.begin)
        done = torch.zeros(len(sources), dtype=torch.bool)
        while written.shape[1] <= max_tokens and not done.all():
            scores = self.logits(self.write(memory, unread, written)[:, -1])
            scores[:, self.begin] = -torch.inf
            chosen = torch.where(done, self.padding, scores.argmax(-1))
            done |= chosen == self.end
            written = torch.cat([written, chosen[:, None]], 1)
        return [[piece for piece in row if piece < self.begin] for row in written[:, 1:].tolist()]

    def batch(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
        """Sources (B, S), targets after `begin` (B, T), and what follows each (B, T)."""
        source = self._padded([pair.source for pair in pairs])
        given = self._padded([np.append(np.int32(self.begin), pair.target) for pair in pairs])
        wanted = self._padded([np.append(pair.target, np.int32(self.end)) for pair in pairs])
        return source, given, wanted

    def _padded(self, runs: Sequence[npt.NDArray[np.int32]]) -> Tensor:
        rows = np.full((len(runs), max(1, *map(len, runs))), self.padding, np.int64)
        for row, run in zip(rows, runs, strict=True):
            row[: len(run)] = run
        return torch.from_numpy(rows)


def sinusoids(n_positions: int, d_model: int) -> Float[Tensor, "n D"]:
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017, section 3.5)."""
    frequency = 10_000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    phase = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequency
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(1).to(torch.float32)


def like(config: GatoConfig, n_pieces: int, n_parameters: int) -> EncoderDecoder:
    """The encoder–decoder of a model's width whose parameters are nearest to `n_parameters`; it reads as deep as it
    writes, or one layer deeper.
    """
    shapes = [(deep + more, deep) for deep in range(1, config.n_layer + 1) for more in (0, 1)]

    def made(n_encoder: int, n_decoder: int) -> EncoderDecoder:
        return EncoderDecoder(
            n_pieces,
            d_model=config.d_model,
            n_head=config.n_head,
            d_ff=config.d_ff,
            n_encoder=n_encoder,
            n_decoder=n_decoder,
        )

    def distance(shape: tuple[int, int]) -> int:
        with torch.device("meta"):
            return abs(n_weights(made(*shape)) - n_parameters)

    return made(*min(shapes, key=distance))


def n_weights(module: nn.Module) -> int:
    """Trained scalars of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def batches(pairs: Sequence[Pair], generator: np.random.Generator) -> Iterator[list[Pair]]:
    """Pairs of like length together, in random order, epoch after epoch, without end."""
    while True:
        order = generator.permutation(len(pairs))
        for start in range(0, len(order), POOL):
            some = order[start : start + POOL].tolist()
            pool = sorted((pairs[index] for index in some), key=lambda pair: (len(pair.target), len(pair.source)))
            cut: list[list[Pair]] = [[]]
            longest = 0
            for pair in pool:
                longest = max(longest, len(pair.source) + len(pair.target) + 1)
                if longest * (len(cut[-1]) + 1) > TOKENS and cut[-1]:
                    cut.append([])
                    longest = len(pair.source) + len(pair.target) + 1
                cut[-1].append(pair)
            for index in generator.permutation(len(cut)).tolist():
                yield cut[index]


def encode(documents: Sequence[Document], text: TextTokenizer) -> list[Pair]:
    """The prompts and answers of documents as pieces."""
    return [Pair(text.encode(document.prompt), text.encode(document.text)) for document in documents]


@contextmanager
def autocast_of(dtype: torch.dtype) -> Iterator[None]:
    """Products in `dtype`; in bfloat16, attention is made of them too, because torch's fused one is slow backwards."""
    if dtype is torch.float32:
        yield
        return
    with torch.autocast("cpu", dtype), sdpa_kernel(SDPBackend.MATH):
        yield


def weights_of(run: Path) -> dict[Path, float]:
    """The weight of each dataset of a run, by its folder; those that are not where they were are left out."""
    weights: dict[Path, float] = {}
    for name, weight in read_run_config(run).training["data"]:
        with suppress(FileNotFoundError):
            weights[dataset_folder(name)] = weight
    return weights


def repeated(datasets: Sequence[Sequence[Pair]], weights: Sequence[float]) -> list[Pair]:
    """All pairs, those of a dataset as often as brings its share of the pieces nearest to its weight, at least once.

    Args:
        datasets: their pairs.
        weights: shares of the pieces, as in a run.
    """
    lengths = [sum(len(side) for pair in pairs for side in pair) for pairs in datasets]
    wanted = [weight / max(length, 1) for weight, length in zip(weights, lengths, strict=True)]
    times = [max(1, round(share / min(wanted))) for share in wanted]
    return [pair for pairs, n in zip(datasets, times, strict=True) for pair in [*pairs] * n]


def train(
    model: EncoderDecoder, pairs: Sequence[Pair], *, cpu_minutes: float, learning_rate: float, seed: int
) -> dict[str, float]:
    """Trains for that much CPU time of this process; how many steps, tokens and epochs that was.

    Raises:
        ValueError: there is no pair that is short enough, or no time.
    """
    if not 0 < cpu_minutes < math.inf:
        raise ValueError(f"cpu_minutes must be a positive number, got cpu_minutes={cpu_minutes}")
    fitting = [pair for pair in pairs if max(map(len, pair)) <= MAX_LENGTH]
    if not fitting:
        raise ValueError(f"expected sentences of at most {MAX_LENGTH} pieces to learn from, got none")
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01, fused=True
    )
    dtype = matmul_dtype(torch.device("cpu"))
    keep_freed_memory()
    begun = time.process_time()
    n_pair = n_token = step = 0
    mean = math.nan
    with share_bar("training the encoder–decoder") as show:
        for step, some in enumerate(batches(fitting, np.random.default_rng(seed))):
            done = (time.process_time() - begun) / (60 * cpu_minutes)
            if done >= 1:
                break
            source, given, wanted = model.batch(some)
            kept = wanted != model.padding
            with autocast_of(dtype):
                scores = model.logits(model(source, given)[kept]).float()
                loss = F.cross_entropy(scores, wanted[kept])
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * schedule(done, step, WARMUP_STEPS)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            n_pair += len(some)
            n_token += sum(map(len, (part for pair in some for part in pair)))
            mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
            show(done, f"step {step:,}  loss {mean:.3f}")
    return {"steps": step, "tokens": n_token, "epochs": n_pair / len(fitting), "loss": mean}


def score(model: EncoderDecoder, documents: Sequence[Document], text: TextTokenizer) -> DocumentScore:
    """ChrF and BLEU of greedy translations."""
    answers = [""] * len(documents)
    sources = [pair.source[:MAX_LENGTH] for pair in encode(documents, text)]
    order = sorted(range(len(documents)), key=lambda index: len(sources[index]))
    with bar("translating", "sentences") as show:
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            for index, pieces in zip(some, model.translate([sources[i] for i in some], MAX_ANSWER), strict=True):
                answers[index] = text.decode(np.asarray(pieces, np.int32))
            show(start + len(some), len(order))
    return translation_score(documents, answers)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train an encoder–decoder on a run's translations for some CPU time, and score it on the same sentences."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Run whose data, text pieces and number of parameters it has."""
    cpu_minutes: Annotated[float, arg(metavar="M")] = 60.0
    """CPU time of the training, all threads together."""
    documents: int = 1000
    """Most held-out sentences of each dataset."""
    learning_rate: float = 1e-3
    """Peak of AdamW."""
    seed: int = 0
    """Of weights, batches and the choice of held-out sentences."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """File for the scores."""


def main(options: Options) -> None:
    """Trains, scores and prints.

    Raises:
        ImportError: sacrebleu, of the extra `eval`, is missing.
        ValueError: the run has no translations, or an option is out of range.
    """
    import sacrebleu  # noqa: F401 - an extra: that it is missing is told before the training

    torch.manual_seed(options.seed)
    gato = load(options.run)
    found = {name: data for name, data in documents_of_run(options.run).items() if ability_of(data) == "translation"}
    if not found:
        raise ValueError(f"{options.run}: expected a run that was trained on translations, found none")
    asked = {name: held_out(data, options.documents, options.seed) for name, data in found.items()}
    text = gato.vocabulary.text
    weights = weights_of(options.run)
    model = like(gato.config, text.n_pieces, gato.n_parameters)
    pairs = repeated(
        [encode(data.read_documents("train"), text) for data in found.values()],
        [weights[data.path] for data in found.values()],
    )
    trained = train(
        model, pairs, cpu_minutes=options.cpu_minutes, learning_rate=options.learning_rate, seed=options.seed
    )
    model.eval()
    scores = {name: score(model, documents, text) for name, documents in asked.items()}
    result = {
        "run": str(options.run),
        "n_parameters": {"encoder-decoder": n_weights(model), "run": gato.n_parameters},
        "cpu_minutes": options.cpu_minutes,
        "training": trained,
        "scores": scores,
    }
    print_json(result)
    if options.json is not None:
        write_whole(options.json, to_json(result))


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"encoder_decoder: error: {error}")
