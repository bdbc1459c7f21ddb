"""Encoders of patches: (P, h, w, c) uint8 pixels → (P, D) vectors, one class each behind `PatchEncoder`.

    mlp      one hidden layer over the pixels
    linear   ViT's projection (Dosovitskiy et al. 2020)
    conv     three strided convolutions
    hog      a convolution over oriented gradients and colours (Dalal & Triggs 2005)
    resnet   GATO's residual block (Reed et al. 2022, section 2.2 and appendix C.2)
    tnt      Transformer in Transformer (Han et al. 2021): attention among the patch's own sub-patches

Patches come in as uint8 and are turned into numbers here, on the device. A patch smaller than the model's patch size
(an edge patch, a 7×7 grid) is what it would be if padded with the mid-grey that encodes to zero.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gato_lite.config import MAX_CHANNELS, GatoConfig

CELL_SIDE: Final = 4
"""Side in pixels of the cells of `GradientPatch`."""
N_CELL_SIDE: Final = 8
"""Most cells in a row or column of a patch."""
N_ORIENTATION: Final = 8
"""Orientations of an edge that are told apart."""
D_CELL: Final = 128
"""Features that the convolution over the cells makes."""
CELL_SCALE: Final = 3.0
"""Factor on what a cell holds, which is mostly far below 1."""
FAINT: Final = 0.04
"""Mean gradient, of pixels in [-1, 1], that counts as little: fainter edges are not raised to full strength."""
WORD_SIDE: Final = 4
"""Side in pixels of the sub-patches of `TransformerPatch`, its visual words."""
D_WORD: Final = 32
"""Width of a visual word."""
N_WORD_HEAD: Final = 4
"""Attention heads among visual words."""
N_WORD_LAYER: Final = 2
"""Blocks over visual words."""


def patch_encoder(config: GatoConfig) -> nn.Module:
    """The encoder of `config.patch_encoder`: (P, h, w, c) uint8 with h, w ≤ `config.patch_size` to (P, D)."""
    match config.patch_encoder:
        case "mlp":
            return MlpPatch(config, config.patch_size)
        case "linear":
            return LinearPatch(config.patch_size, config.d_model)
        case "conv":
            return ConvPatch(config)
        case "hog":
            return GradientPatch(config)
        case "resnet":
            return ResNetPatch(config)
        case "tnt":
            return TransformerPatch(config)


def scale_pixels(pixels: UInt8[Tensor, "P h w c"]) -> Float[Tensor, "P h w c"]:
    """Pixels from [0, 255] to [-1, 1].

    Differs from the paper, which also divides by the square root of the patch size: the encoders' own initial scale
    makes up for it.
    """
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


class LinearPatch(nn.Module):
    """ViT's projection: a patch is a vector of its pixels."""

    def __init__(self, side: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, side, side, MAX_CHANNELS))
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, h, w, c) uint8 to (P, D)."""
        _, height, width, channels = pixels.shape
        weight = self.weight[:, :height, :width, :channels].reshape(len(self.weight), -1)
        return F.linear(scale_pixels(pixels).flatten(1), weight, self.bias)


class MlpPatch(nn.Module):
    """One hidden layer over the pixels: the cheapest non-linear patch encoder."""

    def __init__(self, config: GatoConfig, side: int) -> None:
        super().__init__()
        self.inward = LinearPatch(side, config.d_encoder)
        self.outward = nn.Linear(config.d_encoder, config.d_model)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, h, w, c) uint8 to (P, D)."""
        embedded: Tensor = self.outward(F.gelu(self.inward(pixels), approximate="tanh"))
        return embedded


class ConvPatch(nn.Module):
    """Three strided convolutions, then a projection: the cheapest learned one that tolerates a shift."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.side = config.patch_size
        widths = (MAX_CHANNELS, 32, 64, 128)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in itertools.pairwise(widths)
        )
        cells = -(-self.side // 8)
        self.inward = nn.Linear(widths[-1] * cells * cells, config.d_encoder)
        self.outward = nn.Linear(config.d_encoder, config.d_model)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, h, w, c) uint8 to (P, D)."""
        x = _padded(pixels, self.side)  # (P, 4, side, side)
        for convolution in self.convolutions:
            x = F.gelu(convolution(x), approximate="tanh")
        embedded: Tensor = self.outward(F.gelu(self.inward(x.flatten(1)), approximate="tanh"))
        return embedded


class GradientPatch(nn.Module):
    """Oriented gradients and mean colours of 4×4 cells, a strided convolution over the cells, then a hidden layer.

    What a cell holds is computed, not learned: it says where edges run and how they lean whatever the shading, and
    leaves little of a drawing style to be learnt by heart. Measured on naming emoji in an unseen style
    (docs/experiments.md), three learned convolutions in its place name fewer and cost half as much again.

    A patch of more than 8×8 cells (32 pixels) is shrunk first: finer cells name no more and cost more.
    """

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        n_cell = min(-(-config.patch_size // CELL_SIDE), N_CELL_SIDE)
        self.side = n_cell * CELL_SIDE
        self.convolution = nn.Conv2d(N_ORIENTATION + MAX_CHANNELS, D_CELL, 3, stride=2, padding=1)
        self.inward = nn.Linear(D_CELL * (-(-n_cell // 2)) ** 2, config.d_encoder)
        self.outward = nn.Linear(config.d_encoder, config.d_model)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, h, w, c) uint8 to (P, D)."""
        shrink = -(-max(pixels.shape[1:3]) // self.side)
        x = _padded(pixels, shrink * self.side)
        x = F.avg_pool2d(x, shrink) if shrink > 1 else x  # (P, 4, side, side)
        gradients = oriented_gradients(x[:, : pixels.shape[3]])  # of the channels that are there
        cells = torch.cat([gradients, F.avg_pool2d(x, CELL_SIDE)], 1)  # (P, 12, side/4, side/4)
        x = F.gelu(self.convolution(CELL_SCALE * cells), approximate="tanh")
        embedded: Tensor = self.outward(F.gelu(self.inward(x.flatten(1)), approximate="tanh"))
        return embedded


def oriented_gradients(x: Float[Tensor, "P c S S"]) -> Float[Tensor, "P O N N"]:
    """How much edge there is of each of 8 orientations in each 4×4 cell, relative to the cells around it.

    A pixel's gradient is that of the channel where it is longest, and its length is divided between the two nearest
    orientations, opposite directions being one. A cell's means are divided by the root mean square length of the 3×3
    cells around it, so that contrast does not count.

    Source: Dalal & Triggs 2005, "Histograms of oriented gradients for human detection", section 6. Differs from the
    paper: a cell is normalised once, by the block that it is in the middle of, for a quarter of the numbers.
    """
    around = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]  # (P, c, S, S)
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    strength, right, below = _longest(across, down)  # (P, 1, S, S) each
    lean = torch.atan2(below, right) * (N_ORIENTATION / math.pi)
    share = lean - torch.arange(N_ORIENTATION, device=x.device).view(-1, 1, 1)  # (P, 8, S, S)
    # In place, as fresh memory is what costs here: 1 at an orientation, 0 at the next ones, around the half circle.
    share.remainder_(N_ORIENTATION).sub_(N_ORIENTATION / 2).abs_().sub_(N_ORIENTATION / 2 - 1).clamp_(min=0.0)
    cells = F.avg_pool2d(share.mul_(strength), CELL_SIDE)  # (P, 8, S/4, S/4)
    energy = F.avg_pool2d(cells.square().sum(1, keepdim=True), 3, stride=1, padding=1)
    normalised: Tensor = cells / (energy.sqrt() + FAINT)
    return normalised


def _longest(across: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length, and both parts, of the longest among the channels' gradients (P, c, S, S): (P, 1, S, S) each.

    By comparisons, because torch.gather along so few channels takes ten times as long.
    """
    channels = zip(torch.hypot(across, down).unbind(1), across.unbind(1), down.unbind(1), strict=True)
    length, right, below = next(channels)
    for other, other_right, other_below in channels:
        longer = other > length
        right, below = torch.where(longer, other_right, right), torch.where(longer, other_below, below)
        length = torch.where(longer, other, length)
    return length[:, None], right[:, None], below[:, None]


def _padded(pixels: Tensor, side: int) -> Tensor:
    """(P, h, w, c) uint8 to (P, 4, side, side) in [-1, 1], zero where there is no pixel."""
    _, height, width, channels = pixels.shape
    x = scale_pixels(pixels).permute(0, 3, 1, 2)  # (P, c, h, w)
    return F.pad(x, (0, side - width, 0, side - height, 0, MAX_CHANNELS - channels))


class ResNetPatch(nn.Module):
    """GATO's residual convolution block (pre-activation, group norm, GELU), then a projection of 4×4 cells.

    Differs from the paper, which does not say how the block's output becomes one vector: features are averaged over
    a 4×4 grid before the projection, because projecting all 16×16×64 of them would be most of the model.
    """

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.side = config.patch_size
        n_features = 64
        self.stem = nn.Conv2d(MAX_CHANNELS, n_features, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(32, n_features) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(n_features, n_features, 3, padding=1) for _ in range(2))
        self.outward = nn.Linear(n_features * 16, config.d_model)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, h, w, c) uint8 to (P, D)."""
        x = self.stem(_padded(pixels, self.side))  # (P, 64, side, side)
        branch = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            branch = convolution(F.gelu(norm(branch)))
        embedded: Tensor = self.outward(F.adaptive_avg_pool2d(x + branch, 4).flatten(1))
        return embedded


class TransformerPatch(nn.Module):
    """Transformer in Transformer: a patch is a sentence of visual words, which attend to each other.

    The words' last states, laid end to end and projected, are added to the patch's own linear projection.
    Differs from the paper, whose inner blocks stand between the outer ones: all of them come before the first outer
    block here, so that a picture costs its inner attention once, when it is embedded, and never again from the cache.

    Source: Han et al. 2021, "Transformer in Transformer", section 2.2, equations (3) to (8).
    """

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.n_side = -(-side // WORD_SIDE)
        n_word = self.n_side**2
        self.whole = LinearPatch(side, config.d_model)
        self.word = nn.Linear(WORD_SIDE * WORD_SIDE * MAX_CHANNELS, D_WORD)
        self.places = nn.Parameter(torch.empty(n_word, D_WORD))
        self.blocks = nn.ModuleList(WordBlock() for _ in range(N_WORD_LAYER))
        self.norm = nn.LayerNorm(D_WORD, bias=False)
        self.outward = nn.Linear(n_word * D_WORD, config.d_model, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, h, w, c) uint8 to (P, D)."""
        n, n_patch = self.n_side, len(pixels)
        x = _padded(pixels, n * WORD_SIDE)  # (P, 4, side, side)
        x = x.view(n_patch, MAX_CHANNELS, n, WORD_SIDE, n, WORD_SIDE).permute(0, 2, 4, 1, 3, 5)
        words = self.word(x.reshape(n_patch, n * n, -1)) + self.places  # (P, n², 32)
        for block in self.blocks:
            words = block(words)
        embedded: Tensor = self.whole(pixels) + self.outward(self.norm(words).flatten(1))
        return embedded

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """The places; the rest is initialised like every encoder."""
        self.places.normal_(0.0, 0.5, generator=generator)


class WordBlock(nn.Module):
    """One pre-norm block over the visual words of each patch; all of them see all others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(D_WORD, bias=False)
        self.query_key_value = nn.Linear(D_WORD, 3 * D_WORD, bias=False)
        self.attention_out = nn.Linear(D_WORD, D_WORD, bias=False)
        self.norm_feed_forward = nn.LayerNorm(D_WORD, bias=False)
        self.feed_forward_in = nn.Linear(D_WORD, 4 * D_WORD, bias=False)
        self.feed_forward_out = nn.Linear(4 * D_WORD, D_WORD, bias=False)

    def forward(self, words: Float[Tensor, "P N W"]) -> Float[Tensor, "P N W"]:
        """The words after they have read each other."""
        n_patch, n_word, width = words.shape
        qkv = self.query_key_value(self.norm_attention(words)).view(n_patch, n_word, 3, N_WORD_HEAD, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (P, H, N, K)
        read = F.scaled_dot_product_attention(query, key, value)
        words = words + self.attention_out(read.transpose(1, 2).reshape(n_patch, n_word, width))
        hidden = self.feed_forward_in(self.norm_feed_forward(words))
        update: Tensor = self.feed_forward_out(F.gelu(hidden, approximate="tanh"))
        return words + update
