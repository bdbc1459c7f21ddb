"""Tokens → vectors: a table for ids, an encoder for patches, an encoder for chunks, and where each token stands.

Source: Reed et al. 2022, section 2.2 and appendix C.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from gato_lite.config import CHUNK_WIDTH, GatoConfig
from gato_lite.glance import Glance, WordTensors
from gato_lite.patches import LinearPatch, MlpPatch, TransformerPatch, patch_encoder
from gato_lite.sequence import PATCH_PLACES, TEXT_PLACES, Tokens, patch_places
from gato_lite.words import Words

TABLE_STD: Final = 0.02
"""Standard deviation of the numbers in a new table."""


@dataclass(frozen=True, kw_only=True)
class PatchGroup:
    """All patches of one shape in a stream."""

    pixels: UInt8[Tensor, "P h w c"]
    rows: Tensor
    """(P,) tokens of the stream that these patches are."""
    places: Tensor
    """(P, 2) row and column indices in the image, quantised to 128."""
    runs: Tensor
    """(P,) run of `TokenTensors.words` that each patch follows; −1 for none."""


@dataclass(frozen=True, kw_only=True)
class TokenTensors:
    """`Tokens` as tensors, ready for the embedding; made in the loader, moved to the device in one go."""

    ids: Tensor
    """(T,) int64."""
    local: Tensor
    """(T,) int64."""
    patch_groups: tuple[PatchGroup, ...]
    chunks: Tensor
    """(C, 32) float32."""
    chunk_rows: Tensor
    """(C,) tokens of the stream that the chunks are."""
    words: WordTensors
    """What was last said before the patches."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TokenTensors:
        """The same with every tensor changed, such as moved to a device; pixels stay bytes."""
        return TokenTensors(
            ids=change(self.ids),
            local=change(self.local),
            patch_groups=tuple(
                PatchGroup(
                    pixels=change(group.pixels),
                    rows=change(group.rows),
                    places=change(group.places),
                    runs=change(group.runs),
                )
                for group in self.patch_groups
            ),
            chunks=change(self.chunks),
            chunk_rows=change(self.chunk_rows),
            words=self.words.mapped(change),
        )

    def to(self, device: torch.device) -> TokenTensors:
        """The same on `device`."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))


def to_tensors(
    tokens: Tokens, *, patch_id: int, chunk_id: int, words: Words, generator: np.random.Generator | None
) -> TokenTensors:
    """`tokens` as tensors.

    Args:
        tokens: any run of tokens.
        patch_id: the vocabulary's patch token.
        chunk_id: the vocabulary's chunk token.
        words: what was last said before each patch.
        generator: draws patch places as in training; None takes the middle of each interval, as in evaluation.
    """
    return TokenTensors(
        ids=torch.from_numpy(tokens.ids.astype(np.int64)),
        local=torch.from_numpy(tokens.local.astype(np.int64)),
        patch_groups=_patch_groups(tokens, patch_id, words, generator) if len(tokens.patch_shapes) else (),
        chunks=torch.from_numpy(np.require(tokens.chunks, None, ["C", "W"])),
        chunk_rows=torch.from_numpy(np.flatnonzero(tokens.ids == chunk_id)),
        words=WordTensors(
            ids=torch.from_numpy(words.ids),
            runs=torch.from_numpy(words.runs),
            places=torch.from_numpy(words.places),
            n_run=int(words.runs[-1]) + 1 if len(words.runs) else 0,
        ),
    )


def _patch_groups(
    tokens: Tokens, patch_id: int, words: Words, generator: np.random.Generator | None
) -> tuple[PatchGroup, ...]:
    """The patches of `tokens` by their shapes; arguments as of `to_tensors`."""
    places = patch_places(tokens.patch_intervals, generator)
    rows = np.flatnonzero(tokens.ids == patch_id)
    sides = tokens.patch_shapes.astype(np.int64)
    codes = sides @ (1 << 32, 1 << 16, 1)  # sorted as their shapes, and much faster
    _, first_of, group_of = np.unique(codes, return_index=True, return_inverse=True)
    shapes = tokens.patch_shapes[first_of]
    sizes = sides.prod(1)
    starts = np.cumsum(sizes) - sizes
    groups = []
    for index, shape in enumerate(shapes):
        members = np.flatnonzero(group_of == index)
        if len(shapes) == 1:
            pixels = tokens.pixels
        else:
            pixels = tokens.pixels[starts[members][:, None] + np.arange(int(shape.prod()))]
        groups.append(
            PatchGroup(
                pixels=torch.from_numpy(np.require(pixels, None, ["C", "W"]).reshape(len(members), *shape.tolist())),
                rows=torch.from_numpy(rows[members]),
                places=torch.from_numpy(places[members]),
                runs=torch.from_numpy(words.of_patch[members]),
            )
        )
    return tuple(groups)


class Embedding(nn.Module):
    """Vectors of a run of tokens: (T, D)."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.n_local, self.n_text_local = config.n_local, config.n_text_local
        self.locals = nn.Embedding(config.n_local + 2 * config.n_text_local, config.d_model)
        self.patch_rows = nn.Embedding(PATCH_PLACES, config.d_model)
        self.patch_columns = nn.Embedding(PATCH_PLACES, config.d_model)
        self.grid_size = min(config.grid_size, config.patch_size)
        self.grids = MlpPatch(config, self.grid_size) if self.grid_size else None
        self.glance = Glance(config, self.grid_size) if self.grid_size and config.n_grid_head else None
        self.patches = patch_encoder(config)
        self.chunk_inward = nn.Linear(CHUNK_WIDTH, config.d_encoder)
        self.chunk_outward = nn.Linear(config.d_encoder, config.d_model)

    def forward(self, tokens: TokenTensors) -> Float[Tensor, "T D"]:
        """Vectors of `tokens`.

        Raises:
            ValueError: a patch is larger than the model's patch size.
        """
        x: Tensor = self.tokens(tokens.ids) + self.locals(self._local_rows(tokens.local))  # (T, D)
        asked = None
        if self.glance is not None and len(tokens.words.ids):
            asked = self.glance.queries(tokens.words, self.tokens.weight)
        for group in tokens.patch_groups:
            if max(group.pixels.shape[1:3]) > self.patch_size:
                raise ValueError(
                    f"patches may be at most {self.patch_size}×{self.patch_size} pixels (GatoConfig.patch_size), "
                    f"got {group.pixels.shape[1]}×{group.pixels.shape[2]}; lower TokenSpec.patch_size"
                )
            position = self.patch_rows(group.places[:, 0]) + self.patch_columns(group.places[:, 1])
            x = x.index_add(0, group.rows, (self._encoded(group, asked) + position).to(x.dtype))
        if len(tokens.chunks):
            with torch.autocast(x.device.type, enabled=False):  # in bfloat16 a metre would be known to 4 mm
                encoded = self.chunk_outward(F.gelu(self.chunk_inward(tokens.chunks), approximate="tanh"))
            x = x.index_add(0, tokens.chunk_rows, encoded.to(x.dtype))
        return x

    def _local_rows(self, local: Int64[Tensor, " T"]) -> Int64[Tensor, " T"]:
        """Rows of `locals`: places in observations, then in prompts, then in answers; the last of each is shared."""
        rows = local.clamp(0, self.n_local - 1)
        if not self.n_text_local:
            return rows
        place, last = -1 - local, self.n_text_local - 1
        answer = (place - TEXT_PLACES).clamp(0, last) + self.n_text_local
        said = torch.where(place < TEXT_PLACES, place.clamp(max=last), answer)
        return torch.where(local < 0, self.n_local + said, rows)

    def _encoded(self, group: PatchGroup, asked: Tensor | None) -> Float[Tensor, "P D"]:
        """The patches of a group without their places; `asked` are the queries of the runs of words, (R, H, Q)."""
        if self.grids is None or max(group.pixels.shape[1:3]) > self.grid_size:
            encoded: Tensor = self.patches(group.pixels)
            return encoded
        whole: Tensor = self.grids(group.pixels)
        if self.glance is None:
            return whole
        if asked is not None:
            asked = asked[group.runs.clamp(min=0)] * (group.runs >= 0)[:, None, None]  # (P, H, Q)
        glanced: Tensor = whole + self.glance(group.pixels, whole, asked)
        return glanced

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Small tables, encoders whose output has the scale of a table's row."""
        for table in (self.tokens, self.locals, self.patch_rows, self.patch_columns):
            table.weight.normal_(0.0, TABLE_STD, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | LinearPatch):
                module.weight.normal_(0.0, module.weight[0].numel() ** -0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, TransformerPatch):
                module.initialise(generator)
        if self.glance is not None:
            self.glance.initialise(generator)
