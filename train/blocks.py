"""How a training step runs the model's blocks: as they stand, compiled, or computed again in the backward pass.

A block is compiled in two parts, what comes before attention and what comes after it. Attention between them is one
kernel that a compiler can neither see into nor join to anything, and outside it may look at the documents' lengths on
the host. All that the parts are compiled for is then how many tokens come in, and streams are filled up to one number
of tokens (`fixed_tokens`). The last block computes the target rows alone after attention, filled up to a multiple: a
few numbers in all, each compiled once. All layers share what was compiled.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gato_lite.model import FILLED_UP
from gato_lite.transformer import AttentionOver, Block, RunBlock, Turns

C_COMPILERS: Final = ("gcc", "clang")
"""Any of which Triton takes, where the environment variable CC does not name another."""


def fixed_tokens(tokens_per_step: int, n_shard: int, context_length: int) -> int:
    """Tokens that a shard of a step is filled up to: a multiple of 64 that no shard is larger than.

    A step ends with the document that reaches `tokens_per_step`, and dealing its documents out, each to who has least,
    makes no shard larger than the mean by more than one of them.

    Args:
        tokens_per_step: of all shards together.
        n_shard: shards of a step, over all ranks.
        context_length: longest document.
    """
    most = -(-tokens_per_step // n_shard) + context_length
    return -(-most // FILLED_UP) * FILLED_UP


def default_compiler(device: torch.device) -> str | None:
    """What compiles blocks on that device; None where it does not pay (a CPU), or what it needs is missing.

    That is Triton, which wants a GPU of compute capability 7.0 on, and for its launchers a C compiler and Python's
    header files.
    """
    if device.type != "cuda":
        return None
    able = (
        torch.cuda.get_device_capability(device) >= (7, 0)
        and importlib.util.find_spec("triton") is not None
        and ("CC" in os.environ or any(map(shutil.which, C_COMPILERS)))
        and Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file()
    )
    return "inductor" if able else None


def compiled(compiler: str, rows_multiple: int) -> RunBlock:
    """Runs blocks compiled.

    Args:
        compiler: a backend of `torch.compile`.
        rows_multiple: what the rows that the last block computes are filled up to a multiple of.

    Whatever was compiled before, for streams of other sizes, is forgotten: a function may be compiled eight times in a
    process, and the ninth is an error.
    """
    torch.compiler.reset()
    # Not dynamic: the second shape would make it compile for any, which is slower than for the few there are.
    before = torch.compile(_before_attention, backend=compiler, fullgraph=True, dynamic=False)
    after = torch.compile(_after_attention, backend=compiler, fullgraph=True, dynamic=False)

    def run(block: Block, x: Tensor, turns: Turns, attention_over: AttentionOver, rows: Tensor | None = None) -> Tensor:
        d_head = turns[0].shape[1] // (block.n_head + block.n_key_head)
        cosine, sine = (part[:, :d_head] for part in turns)  # of one head; all have the same
        mixed = attention_over(block.layer, *before(block, x, cosine, sine))
        if rows is None:
            return after(block, x, mixed)
        n_more = -len(rows) % rows_multiple
        x, mixed = F.pad(x.index_select(0, rows), (0, 0, 0, n_more)), F.pad(mixed, (0, 0, 0, 0, 0, n_more))
        return after(block, x, mixed)[: len(rows)]

    return run


def _before_attention(block: Block, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, of which none is a view: those would be cut outside what is compiled.

    The phases are those of one head, (T, K): here they are repeated without being written out.
    """
    n_turned = block.n_head + block.n_key_head
    turned, value = block.before_attention(x, (cosine.repeat(1, n_turned), sine.repeat(1, n_turned)))
    return turned[:, : block.n_head].contiguous(), turned[:, block.n_head :].contiguous(), value.contiguous()


def _after_attention(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    return block.after_attention(x, mixed)


def checkpointed(run: RunBlock) -> RunBlock:
    """Runs blocks by `run`, and again in the backward pass: of each only what goes in is kept, for a third more time.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost", section 4.
    """

    def run_again(
        block: Block, x: Tensor, turns: Turns, attention_over: AttentionOver, rows: Tensor | None = None
    ) -> Tensor:
        out: Tensor = checkpoint(
            run, block, x, turns, attention_over, rows, use_reentrant=False, preserve_rng_state=False
        )
        return out

    return run_again


def n_compiled() -> int:
    """Graphs that this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
