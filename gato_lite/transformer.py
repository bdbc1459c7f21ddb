"""Pre-norm decoder over a flat stream.

The blocks know nothing of documents, batches or caches: how a token sees others, and which one is before it, are
functions that the caller passes. Training passes `attend` over the documents; acting passes attention over a
key/value cache.

Decisions:
- to each token's vector the one before it is added, channel by channel by a learned share (`token_shift`; Peng et al.
  2023, "RWKV", section 3, here once and not in every block). What followed the last mention of something is then found
  by one layer in place of two: docs/experiments.md has what that is worth. Differs from the paper.
- queries and keys are normalised head by head (`head_norm`; Dehghani et al. 2023, "Scaling Vision Transformers to 22
  Billion Parameters", section 2), here with one gain for both. Differs from the paper.
- rotary positions (Su et al. 2021), phases computed in float64: in float32 they drift by 0.003 at position 1e5
- layer norm without bias: the only norm with a fused CPU kernel in both directions
- squared ReLU in the feed-forward layer; it needs no transcendental. Differs from the paper's GEGLU.
- projections back into the residual stream start at zero, so that every block starts as the identity

Source: Vaswani et al. 2017; Reed et al. 2022, section 2.3 and Table 5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gato_lite.config import GatoConfig

SHARPNESS: Final = 1.2
"""First gain of normalised queries and keys."""

AttentionOver = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query (T, H, K), key (T, G, K), value (T, G, K)) to what each token read, (T, H, K).

In the last layer, where only the hidden states of some `rows` are asked for, what those read: (R, H, K)."""

Turns = tuple[Tensor, Tensor]
"""Cosines and signed sines of each token's phases, (T, H K) each; see `turns_of`."""

Before = Callable[[Tensor], Tensor]
"""Vectors of tokens, (T, D), to those of the tokens before them in their documents, zeros where there is none."""


def rotation_table(n_positions: int, d_head: int, base: float = 10_000.0) -> Float[Tensor, "n_positions 2 half"]:
    """(C, 2, K/2) cosine and sine of each position's phases, computed in float64.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    frequency = base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    phase = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequency
    return torch.stack([phase.cos(), phase.sin()], 1).to(torch.float32)  # (C, 2, K/2)


class Block(nn.Module):
    """One pre-norm decoder block."""

    def __init__(self, config: GatoConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.n_key_head = config.n_key_head
        n_head_in = config.n_head + 2 * config.n_key_head
        self.norm_attention = nn.LayerNorm(config.d_model, bias=False)
        self.norm_head = nn.LayerNorm(config.d_head, bias=False) if config.head_norm else None
        self.query_key_value = nn.Linear(config.d_model, n_head_in * config.d_head, bias=False)
        self.attention_out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.norm_feed_forward = nn.LayerNorm(config.d_model, bias=False)
        self.feed_forward_in = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.feed_forward_out = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, turns: Turns, attention_over: AttentionOver, rows: Tensor | None = None) -> Tensor:
        """(T, D) to (T, D), or to (R, D), the tokens `rows` alone; `turns` are of H + G heads."""
        turned, value = self.before_attention(x, turns)
        query, key = turned.split_with_sizes([self.n_head, self.n_key_head], 1)
        mixed = attention_over(self.layer, query, key, value)
        return self.after_attention(x if rows is None else x.index_select(0, rows), mixed)

    def before_attention(self, x: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
        """(T, D) to queries and then keys, turned, (T, H + G, K), and values, (T, G, K)."""
        n_token = len(x)
        n_turned = self.n_head + self.n_key_head  # queries, then keys; the values that follow are not turned
        qkv = self.query_key_value(self.norm_attention(x)).view(n_token, n_turned + self.n_key_head, -1)
        facing, value = qkv.split_with_sizes([n_turned, self.n_key_head], 1)
        facing = facing.to(turns[0].dtype)  # float32, as attention on a CPU is
        facing = facing if self.norm_head is None else self.norm_head(facing)
        turned = rotate(facing, turns)  # (T, H + G, K)
        return turned.to(qkv.dtype) if x.is_cuda else turned, value

    def after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        """(R, D) and what these tokens read, (R, H, K), to (R, D)."""
        x = x + self.attention_out(mixed.reshape(x.shape))
        hidden = squared_relu(self.feed_forward_in(self.norm_feed_forward(x)))
        update: Tensor = self.feed_forward_out(hidden)
        return x + update


RunBlock = Callable[[Block, Tensor, Turns, AttentionOver, Tensor | None], Tensor]
"""Runs a block on the arguments of its `forward`: as it stands, compiled, or without keeping what it computes."""


def run_block(
    block: Block, x: Tensor, turns: Turns, attention_over: AttentionOver, rows: Tensor | None = None
) -> Tensor:
    """Runs a block as it stands."""
    out: Tensor = block(x, turns, attention_over, rows)
    return out


def turns_of(rotation: Float[Tensor, "T 2 half"], n_head: int) -> Turns:
    """What `rotate` multiplies `n_head` heads with, written out once for all layers: rows without steps are fast."""
    cosine, sine = rotation.unbind(1)  # (T, K/2) each
    return cosine.repeat(1, 2 * n_head), torch.cat([-sine, sine], 1).repeat(1, n_head)


def rotate(x: Float[Tensor, "T H K"], turns: Turns) -> Float[Tensor, "T H K"]:
    """Queries and keys turned by their positions' phases."""
    if not torch.is_grad_enabled():  # a function of autograd's costs acting as much as the turning itself
        return _turned(x, *turns, 1.0)
    turned: Tensor = _Rotation.apply(x, *turns)  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    """Turns by a phase, and on the way back by its negative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turned(x, cosine, sine, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turned(gradient, cosine, sine, -1.0), None, None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> Tensor:
    first, second = x.chunk(2, -1)
    swapped = torch.cat([second, first], -1).flatten(1)  # (T, H K)
    return (x.flatten(1) * cosine).addcmul_(swapped, sine, value=sign).view(x.shape)


def squared_relu(x: Tensor) -> Tensor:
    """The square of what is above zero; may overwrite `x`, since these are the largest tensors of a block."""
    if not torch.is_grad_enabled():
        return F.relu(x, inplace=True).square_()
    squared: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
    return squared


class _SquaredReLU(torch.autograd.Function):
    """Two passes over memory on the way back, where autograd takes five."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.addcmul(gradient.new_zeros(()), gradient, positive, value=2.0)


def before_each(positions: Int64[Tensor, " T"]) -> Before:
    """Finds the tokens before each of documents that lie whole, one after another."""
    return lambda x: F.pad(x, (0, 0, 1, 0))[:-1] * (positions > 0)[:, None]


class Transformer(nn.Module):
    """L blocks and a last norm."""

    rotation: Tensor

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(config.d_model)) if config.token_shift else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.n_turned = config.n_head + config.n_key_head
        """Heads of queries and of keys."""
        self.register_buffer("rotation", rotation_table(config.context_length, config.d_head), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """What the matrices of the blocks are kept in."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        return block.query_key_value.weight.dtype

    def multiply_in(self, dtype: torch.dtype) -> None:
        """Keeps the matrices of the blocks in float32 or bfloat16; what bfloat16 has rounded stays rounded.

        Norms and the residual stream stay float32. For acting and writing: steps of training would be rounded away.
        """
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                part.to(dtype)

    def forward(
        self,
        x: Float[Tensor, "T D"],
        positions: Int64[Tensor, " T"],
        attention_over: AttentionOver,
        rows: Int64[Tensor, " R"] | None = None,
        before: Before | None = None,
        run: RunBlock = run_block,
    ) -> Float[Tensor, "R D"]:
        """Hidden states of the tokens `x` at `positions` of their documents.

        Args:
            x: embedded tokens.
            positions: of each in its document.
            attention_over: what each token reads.
            rows: tokens whose hidden states are asked for, all of them if None; the last block computes no others.
            before: finds the tokens before each; None is right only where the documents lie whole, one after another.
            run: how each block is run.
        """
        if self.shift is not None:
            x = x + self.shift * (before or before_each(positions))(x)
        turns = turns_of(self.rotation[positions], self.n_turned)
        last = len(self.blocks) - 1
        narrow = self.dtype is torch.bfloat16  # autocast then rounds what meets such a matrix, and what is attended to
        with torch.autocast(x.device.type, torch.bfloat16) if narrow else contextlib.nullcontext():
            for layer, block in enumerate(self.blocks):
                assert isinstance(block, Block)
                x = run(block, x, turns, attention_over, rows if layer == last else None)
        hidden: Tensor = self.norm(x)
        return hidden

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Normal weights of variance 1/fan-in; zero for projections back into the residual stream.

        What a token takes of the one before it begins anywhere in [-1, 1), so that the channels differ from the start.
        """
        if self.shift is not None:
            self.shift.uniform_(-1.0, 1.0, generator=generator)
        for block in self.blocks:
            assert isinstance(block, Block)
            for inward in (block.query_key_value, block.feed_forward_in):
                inward.weight.normal_(0.0, inward.in_features**-0.5, generator=generator)
            if block.norm_head is not None:
                block.norm_head.weight.fill_(SHARPNESS)
            block.attention_out.weight.zero_()
            block.feed_forward_out.weight.zero_()
