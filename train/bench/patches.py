"""Which patch encoder suits one's pictures: each trains the same model for as long, then names held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

import msgspec

from gato_lite.config import PatchEncoder
from gato_lite.names import unknown_name
from gato_lite.run import load
from gato_lite.train.abilities import held_out, score_documents
from gato_lite.train.datasets import open_data
from gato_lite.train.loop import Length, Progress
from gato_lite.train.metrics import read_metrics
from gato_lite.train.pictures import decode_picture
from gato_lite.train.recipes import find_recipe
from gato_lite.train.run_folder import training_device
from gato_lite.train.training import train_run

PATCH_SIZES: Final[dict[PatchEncoder, int]] = {"hog": 64, "conv": 32, "mlp": 32, "resnet": 16, "linear": 16, "tnt": 16}
"""Side of the patches that each encoder is meant for; 16 is that of the papers (GATO, ViT, TNT)."""


class EncoderScore(msgspec.Struct, frozen=True, kw_only=True):
    """What one encoder came to."""

    encoder: PatchEncoder
    patch_size: int
    """Pixels."""
    n_parameters: int
    """Of the encoder alone."""
    steps: int
    tokens_per_s: float
    loss: float
    """Training loss at the end, nats."""
    metric: str
    mean: float
    low: float | None
    high: float | None
    n: int
    """Held-out documents that were scored."""
    more: dict[str, float]


def find_encoder(text: str) -> tuple[PatchEncoder, int]:
    """An encoder and its patch size from "hog" or "hog@32".

    Raises:
        ValueError: no encoder has that name, or the size is no number.
    """
    name, at, size = text.partition("@")
    known: tuple[PatchEncoder, ...] = get_args(PatchEncoder)
    for encoder in known:
        if name == encoder and (not at or size.isdecimal()):
            return encoder, int(size) if at else PATCH_SIZES[encoder]
    if name in known:
        raise ValueError(f"expected a patch encoder and a patch size in pixels such as {name}@32, got {text!r}")
    raise ValueError(unknown_name("patch encoder", name, known))


def check(chosen: Sequence[tuple[PatchEncoder, int]], data: str, *, recipe: str, documents: int) -> None:
    """Checks what would fail only after the first encoders have trained.

    Raises:
        ValueError: there is no encoder, the dataset holds no picture out, a number is out of range, or the first
            picture has more patches than the context holds.
    """
    if not chosen:
        raise ValueError("expected at least one patch encoder, got none")
    dataset = open_data(data)
    images = [] if dataset.info.kind != "documents" else [row.image for row in held_out(dataset, documents, seed=0)]
    first = next((image for image in images if image is not None), None)
    if first is None:
        raise ValueError(f"{data}: expected a dataset with pictures in its test split, found none")
    height, width = decode_picture(first).shape[:2]
    config = find_recipe(recipe)
    for encoder, side in chosen:
        length = replace(config, patch_encoder=encoder, patch_size=side).model(vocab_size=1).context_length
        n_patch = -(-height // side) * -(-width // side)
        if n_patch >= length:
            raise ValueError(
                f"{data}: a picture of {height} × {width} pixels is {n_patch:,} patches for {encoder}@{side}, but the "
                f"recipe '{recipe}' has a context of {length} tokens; give it larger patches, or leave it out"
            )


def score_encoder(
    encoder: PatchEncoder,
    patch_size: int,
    data: str,
    out: Path,
    *,
    recipe: str,
    minutes: float,
    documents: int,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> EncoderScore:
    """Trains a model with that encoder from nothing, and scores it on the data's held-out documents.

    Args:
        encoder: that is tried.
        patch_size: side of its patches in pixels.
        data: a dataset of pictures.
        out: folder of the run.
        recipe: everything else of how it is trained.
        minutes: of training: CPU time, or by the clock on a GPU.
        documents: most held-out documents.
        seed: of weights, batches and the choice of documents.
        on_progress: called every few steps.
    """
    config = replace(find_recipe(recipe), patch_encoder=encoder, patch_size=patch_size, seed=seed)
    on_cpu = training_device().type == "cpu"
    length = Length(cpu_minutes=minutes) if on_cpu else Length(minutes=minutes)
    train_run(config, [(data, 1.0)], out, length=length, on_progress=on_progress)
    gato = load(out)
    score = score_documents(gato, open_data(data), n=documents, seed=seed)
    last = next(line for line in reversed(read_metrics(out)) if "loss" in line and "tokens_per_s" in line)
    return EncoderScore(
        encoder=encoder,
        patch_size=patch_size,
        n_parameters=sum(parameter.numel() for parameter in gato.embedding.patches.parameters()),
        steps=int(last["step"]),
        tokens_per_s=last["tokens_per_s"],
        loss=last["loss"],
        metric=score.metric,
        mean=score.mean,
        low=score.low,
        high=score.high,
        n=score.n,
        more=score.more,
    )
