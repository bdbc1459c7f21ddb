from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.attention import attend
from gato_lite.config import GatoConfig
from gato_lite.transformer import Block, Transformer, rotate, rotation_table, squared_relu, turns_of

CONFIG = GatoConfig(n_layer=2, n_head=2, d_model=16, d_ff=32, context_length=64, token_shift=True, head_norm=True)


def run(transformer: Transformer, x: torch.Tensor) -> torch.Tensor:
    offsets = np.array([0, len(x)])
    return transformer(x, torch.arange(len(x)), lambda _layer, q, k, v: attend(q, k, v, offsets))


def test_phases_are_computed_in_float64() -> None:
    """At position 100,000 a phase computed in float32 is off by about 0.003; here only the last rounding is."""
    position, d_head = 100_000, 64
    table = rotation_table(position + 1, d_head)
    assert table.shape == (position + 1, 2, d_head // 2)
    assert table.dtype == torch.float32
    for pair in range(d_head // 2):
        phase = position * 10_000.0 ** (-2 * pair / d_head)
        assert table[position, 0, pair].item() == pytest.approx(math.cos(phase), abs=2e-7)
        assert table[position, 1, pair].item() == pytest.approx(math.sin(phase), abs=2e-7)


def test_position_zero_is_not_turned() -> None:
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rotate(x, turns_of(rotation_table(1, 8), 3)), x)


def test_squared_relu_and_its_gradient() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.equal(squared_relu(x), x.relu().square())
    torch.autograd.gradcheck(squared_relu, x)
    with torch.no_grad():
        assert torch.equal(squared_relu(x.clone()), x.relu().square())


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_products_depend_on_distance_alone(first: int, second: int, shift: int) -> None:
    table = rotation_table(1100, 16)
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, 1, 16, generator=generator) for _ in range(2))

    def product(row: int, column: int) -> float:
        return float((rotate(query, turns_of(table[[row]], 1)) * rotate(key, turns_of(table[[column]], 1))).sum())

    assert product(first, second) == pytest.approx(product(first + shift, second + shift), abs=1e-4)


def test_turning_keeps_lengths() -> None:
    x = torch.randn(50, 3, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, turns_of(rotation_table(50, 8), 3))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_turning_is_two_numbers_as_one_complex_one_and_back_by_the_same_phase() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    table = rotation_table(50, 8).double()
    phase = torch.complex(table[:, 0], table[:, 1])[:, None]  # (T, 1, K/2)
    expected = torch.complex(*x.detach().chunk(2, -1)) * phase
    turned = rotate(x, turns_of(table, 3))
    torch.testing.assert_close(torch.complex(*turned.detach().chunk(2, -1)), expected)
    assert torch.autograd.gradcheck(lambda part: rotate(part, turns_of(table, 3)), x)


def test_a_fresh_block_is_the_identity() -> None:
    transformer = Transformer(CONFIG)
    transformer.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(5, 16)
    assert transformer.shift is not None
    assert transformer.shift.min() < -0.3 < 0.3 < transformer.shift.max()
    shifted = x + transformer.shift * torch.cat([torch.zeros(1, 16), x[:-1]])
    torch.testing.assert_close(run(transformer, x), transformer.norm(shifted))


def test_a_later_token_moves_no_earlier_one() -> None:
    transformer = Transformer(CONFIG)
    torch.nn.init.normal_(transformer.blocks[0].attention_out.weight)  # type: ignore[union-attr, arg-type]
    x = torch.randn(9, 16)
    moved = x.clone()
    moved[6:] = torch.randn(3, 16)
    before, after = run(transformer, x), run(transformer, moved)
    torch.testing.assert_close(before[:6], after[:6], atol=1e-6, rtol=0)
    assert not torch.allclose(before[6:], after[6:])


def test_only_the_rows_asked_for_are_computed() -> None:
    transformer = Transformer(CONFIG)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    x, rows, offsets = torch.randn(9, 16), torch.tensor([2, 7]), np.array([0, 9])

    def over_rows(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mixed = attend(q, k, v, offsets)
        return mixed[rows] if layer == 1 else mixed

    some = transformer(x, torch.arange(9), over_rows, rows)
    torch.testing.assert_close(some, run(transformer, x)[rows])


def test_the_table_is_not_stored() -> None:
    assert not [name for name in Transformer(CONFIG).state_dict() if "rotation" in name]


def test_gradients_reach_every_weight() -> None:
    transformer = Transformer(CONFIG)
    run(transformer, torch.randn(6, 16)).square().sum().backward()
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_token_is_read_with_the_one_before_it_in_its_document() -> None:
    """Fresh blocks are the identity, so that what comes out is the last norm of what goes in."""
    transformer = Transformer(CONFIG)
    transformer.initialise(torch.Generator().manual_seed(0))
    assert transformer.shift is not None
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    share = torch.linspace(-1, 1, 16)
    with torch.no_grad():
        transformer.shift.copy_(share)
        hidden = transformer(x, torch.tensor([0, 1, 0, 1, 2]), lambda _layer, q, _k, _v: q)
    expected = torch.stack([x[0], x[1] + share * x[0], x[2], x[3] + share * x[2], x[4] + share * x[3]])
    torch.testing.assert_close(hidden, transformer.norm(expected))


@pytest.mark.parametrize("head_norm", [False, True])
def test_normalised_heads_do_not_see_lengths(head_norm: bool) -> None:
    transformer = Transformer(replace(CONFIG, head_norm=head_norm))
    with torch.no_grad():
        for index, parameter in enumerate(transformer.parameters()):
            parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(index))
        x = torch.randn(12, 16, generator=torch.Generator().manual_seed(9))
        before = run(transformer, x)
        block = transformer.blocks[0]
        assert isinstance(block, Block)
        block.query_key_value.weight[:32].mul_(7.0)  # of the queries and keys
        assert torch.allclose(before, run(transformer, x), atol=1e-3) == head_norm


def test_phases_stay_float32_where_matmuls_are_half_precision() -> None:
    types: list[torch.dtype] = []

    def over(_layer: int, *heads: torch.Tensor) -> torch.Tensor:
        types.extend(part.dtype for part in heads)
        return heads[0]

    with torch.autocast("cpu", torch.bfloat16):
        hidden = Transformer(CONFIG)(torch.randn(3, 16), torch.arange(3), over)
    assert types == [torch.float32, torch.float32, torch.bfloat16] * CONFIG.n_layer
    assert hidden.dtype == torch.float32
