"""Pre-norm decoder over a flat stream.

The blocks know nothing of documents, batches or caches: how a token sees others is a function that the caller
passes. Training passes `attend` over the documents; acting passes attention over a key/value cache.

Decisions:
- rotary positions (Su et al. 2021), phases computed in float64: in float32 they drift by 0.003 at position 1e5
- layer norm without bias: the only norm with a fused CPU kernel in both directions
- squared ReLU in the feed-forward layer; it needs no transcendental. Differs from the paper's GEGLU.
- projections back into the residual stream start at zero, so that every block starts as the identity

Source: Vaswani et al. 2017; Reed et al. 2022, section 2.3 and Table 5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gato_lite.config import GatoConfig

AttentionOver = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query, key, value), each (T, H, K), to what each token read, (T, H, K)."""


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
        self.norm_attention = nn.LayerNorm(config.d_model, bias=False)
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.attention_out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.norm_feed_forward = nn.LayerNorm(config.d_model, bias=False)
        self.feed_forward_in = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.feed_forward_out = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, attention_over: AttentionOver) -> Tensor:
        """(T, D) to (T, D); `rotation` is (T, 2, K/2)."""
        n_token, d_model = x.shape
        qkv = self.query_key_value(self.norm_attention(x)).view(n_token, 3, self.n_head, -1)  # (T, 3, H, K)
        query, key = rotate(qkv[:, :2], rotation).unbind(1)  # (T, H, K) each
        mixed = attention_over(self.layer, query, key, qkv[:, 2])
        x = x + self.attention_out(mixed.reshape(n_token, d_model))
        hidden = self.feed_forward_in(self.norm_feed_forward(x))
        update: Tensor = self.feed_forward_out(F.relu(hidden).square())
        return x + update


def rotate(x: Float[Tensor, "T two H K"], rotation: Float[Tensor, "T 2 half"]) -> Float[Tensor, "T two H K"]:
    """Queries and keys turned by their positions' phases."""
    cosine, sine = rotation[:, None, None, 0], rotation[:, None, None, 1]  # (T, 1, 1, K/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1).to(x.dtype)


class Transformer(nn.Module):
    """L blocks and a last norm."""

    rotation: Tensor

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.register_buffer("rotation", rotation_table(config.context_length, config.d_head), persistent=False)

    def forward(
        self, x: Float[Tensor, "T D"], positions: Int64[Tensor, " T"], attention_over: AttentionOver
    ) -> Float[Tensor, "T D"]:
        """Hidden states of the tokens `x` at `positions` of their documents."""
        rotation = self.rotation[positions]  # (T, 2, K/2)
        for block in self.blocks:
            x = block(x, rotation, attention_over)
        hidden: Tensor = self.norm(x)
        return hidden

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Normal weights of variance 1/fan-in; zero for projections back into the residual stream."""
        for block in self.blocks:
            assert isinstance(block, Block)
            for inward in (block.query_key_value, block.feed_forward_in):
                inward.weight.normal_(0.0, inward.in_features**-0.5, generator=generator)
            block.attention_out.weight.zero_()
            block.feed_forward_out.weight.zero_()
