"""Acting and writing in bfloat16: what float32 says of the same rounded weights, up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import gato_lite
from gato_lite.alone import last_hidden
from gato_lite.cache import Decoder
from gato_lite.checkpoint import save_checkpoint
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.run import RunConfig, write_run
from gato_lite.sequence import Tokens, concatenate, plain

Uncached = Callable[[Gato, Tokens], torch.Tensor]
ROUNDED = 0.04
"""Of hidden states, whose scale is 1: 8 bits of a number are kept, eight matrices after one another; 0.025 was seen."""
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def drawn(n: int, seed: int) -> Tokens:
    return plain(np.random.default_rng(seed).integers(0, 6000, n).astype(np.int32))


def in_bfloat16(gato: Gato) -> Gato:
    narrow = copy.deepcopy(gato)
    narrow.transformer.multiply_in(torch.bfloat16)
    return narrow


def of_rounded_weights(narrow: Gato) -> Gato:
    """The same numbers, multiplied in float32."""
    wide = copy.deepcopy(narrow)
    wide.transformer.multiply_in(torch.float32)
    return wide


def test_only_the_matrices_of_blocks_are_narrow(gato: Gato) -> None:
    narrow = in_bfloat16(gato)
    kept = {name for name, weight in narrow.named_parameters() if weight.dtype is torch.bfloat16}
    assert kept == {
        f"transformer.blocks.{layer}.{name}.weight"
        for layer in range(gato.config.n_layer)
        for name in ("query_key_value", "attention_out", "feed_forward_in", "feed_forward_out")
    }
    assert all(weight.dtype is torch.float32 for name, weight in narrow.named_parameters() if name not in kept)
    for name in kept:
        assert torch.equal(narrow.get_parameter(name), gato.get_parameter(name).bfloat16())
    assert gato.transformer.dtype is torch.float32


def test_what_blocks_hand_on_is_wide(gato: Gato) -> None:
    narrow = in_bfloat16(gato)
    handed_on: list[torch.dtype] = []
    for block in narrow.transformer.blocks:
        block.register_forward_hook(lambda _block, _inputs, out: handed_on.append(out.dtype))
    decoder = Decoder(narrow, 2, 64)
    decoder.read_documents([0, 1], [drawn(9, 0), drawn(4, 1)])
    decoder.read([0, 1], drawn(3, 2), [1, 2])
    assert handed_on == [torch.float32] * 4
    assert decoder._vectors.dtype is torch.float32


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("changes", [{}, {"n_head": 4, "n_kv_head": 2}, {"token_shift": False, "head_norm": False}])
def test_reads_are_one_forward(
    make: Callable[..., Gato], uncached: Uncached, changes: dict[str, object], fixed: bool
) -> None:
    """Whole documents, then a few tokens for rows of equal and unequal lengths."""
    narrow = in_bfloat16(make(**changes))
    wide = of_rounded_weights(narrow)
    decoder = Decoder(narrow, 4, 200, fixed=fixed)
    assert decoder._keys.dtype is decoder._values.dtype is torch.bfloat16
    held = [drawn(length, row) for row, length in enumerate((9, 9, 12, 150))]
    states = decoder.read_documents(range(4), held)
    assert states.dtype is torch.float32
    for counts in ([1, 1, 1, 1], [3, 3, 3, 3], [2, 2, 1, 4], None):
        for tokens, state in zip(held, states, strict=True):
            assert (state - uncached(wide, tokens)).abs().max() < ROUNDED
            assert (last_hidden(narrow, tokens)[0] - uncached(wide, tokens)).abs().max() < ROUNDED
        if counts is not None:
            new = [drawn(count, 7 + row) for row, count in enumerate(counts)]
            states = decoder.read(range(4), concatenate(new), counts)
            held = [concatenate([old, more]) for old, more in zip(held, new, strict=True)]


def test_a_policy_chooses_from_its_window(gato: Gato, uncached: Uncached) -> None:
    """Three slots of two joints, through overflows of their contexts."""
    narrow = in_bfloat16(gato)
    wide = of_rounded_weights(narrow)
    seen, done = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
    policy = Policy(narrow, [seen] * 3, [done] * 3, context_length=24, draft=False)
    choose = policy._sampler.choose
    differences: list[float] = []

    def checked(gato: Gato, hidden: torch.Tensor, *more: Any) -> np.ndarray:
        for slot, state in enumerate(hidden):
            differences.append(float((state - uncached(wide, policy.window(slot))).abs().max()))
        return choose(gato, hidden, *more)

    policy._sampler.choose = checked  # type: ignore[method-assign]
    generator = np.random.default_rng(0)
    for _ in range(20):
        actions = policy.act(list(generator.uniform(-1, 1, (3, 3)).astype(np.float32)))
        assert all(done.contains(action) for action in actions)
    assert len(differences) == 20 * 3 * 2
    assert 0 < max(differences) < ROUNDED


def test_a_run_is_loaded_so(tmp_path: Path, gato: Gato) -> None:
    write_run(tmp_path, RunConfig(model=gato.config, vocabulary=gato.vocabulary.fingerprint), gato.vocabulary)
    save_checkpoint(tmp_path, 1, model=gato.state_dict(), optimizer={}, state={})
    narrow = gato_lite.load(tmp_path, precision="bfloat16")
    assert narrow.transformer.dtype is torch.bfloat16
    for name, weight in in_bfloat16(gato).named_parameters():
        assert torch.equal(narrow.get_parameter(name), weight)
    assert gato_lite.load(tmp_path).transformer.dtype is torch.float32
    assert len(gato_lite.generate(narrow, "red and", max_tokens=4, seed=1)) > 0
    with pytest.raises(ValueError, match="Unknown precision 'float16'. Did you mean .*bfloat16"):
        gato_lite.load(tmp_path, precision="float16")  # type: ignore[arg-type]


@needs_cuda
def test_graphs_are_ordinary_reads(make: Callable[..., Gato]) -> None:
    narrow = in_bfloat16(make(d_model=128, n_head=2)).cuda()
    decoders = [Decoder(narrow, 4, 100, fixed=fixed) for fixed in (False, True)]
    documents = [drawn(length, length) for length in (9, 4, 30, 2)]
    for one, other in zip(*([decoder.read_documents(range(4), documents)] for decoder in decoders), strict=True):
        torch.testing.assert_close(other, one, atol=ROUNDED, rtol=0)
    for counts in ([1, 1, 1, 1], [3, 1, 2, 16]):
        new = concatenate([drawn(count, 7 + count) for count in counts])
        one, other = (decoder.read(range(4), new, counts) for decoder in decoders)
        assert one.isfinite().all()
        torch.testing.assert_close(other, one, atol=ROUNDED, rtol=0)
