"""Faults 41 and 42: prompts that are too large, and many at once."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gato_lite import limits
from gato_lite.cache import Decoder
from gato_lite.chat import Chat
from gato_lite.checkpoint import save_checkpoint
from gato_lite.config import GatoConfig
from gato_lite.generate import generate
from gato_lite.model import Gato
from gato_lite.run import RunConfig, write_run
from gato_lite.train.cli import main

CONTEXT = 48


@pytest.fixture(scope="module")
def gato() -> Gato:
    config = GatoConfig(n_layer=2, n_head=2, d_model=32, d_ff=64, d_encoder=32, context_length=CONTEXT, vocab_size=6148)
    gato = Gato(config).eval()
    with torch.no_grad():  # a fresh block is the identity, in which nothing could leak
        for name, weight in gato.named_parameters():
            if weight.ndim == 2 and not name.startswith("embedding"):
                weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return gato


@pytest.fixture(scope="module")
def run(gato: Gato, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, RunConfig(model=gato.config, tasks=(), vocabulary=gato.vocabulary.fingerprint), gato.vocabulary)
    save_checkpoint(folder, 1, model=gato.state_dict(), optimizer={}, state={})
    return folder


@pytest.mark.parametrize("say", [generate, lambda gato, *prompt: Chat(gato).say(*prompt)])
def test_a_huge_prompt_is_refused_before_it_is_tokenised(gato: Gato, say: Callable[..., str]) -> None:
    """Memory stays far below what its tokens would take."""
    text, picture = "word " * 20_000_000, np.broadcast_to(np.uint8(7), (20_000, 20_000, 3))
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"the prompt has 100,000,000 characters, but the context holds 48 tokens of at"
    ):
        say(gato, text)
    expected = "a picture of 20000 × 20000 pixels is 1,562,500 tokens, but the context holds 48; shrink the picture"
    with pytest.raises(ValueError, match=expected):
        say(gato, "", picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    with pytest.raises(ValueError, match="max_tokens must be in 1..16384, got 1000000000"):
        say(gato, "a", None, max_tokens=10**9) if say is generate else Chat(gato).say("a", max_tokens=10**9)


def test_the_largest_prompt_that_fits_is_answered(gato: Gato) -> None:
    """One token less than the context; a token more is refused, not cut."""
    pieces = gato.vocabulary.text
    text = "a" * next(n for n in range(1000) if len(pieces.encode("a" * n)) == CONTEXT - 2)
    assert isinstance(generate(gato, text, max_tokens=3), str)
    with pytest.raises(
        ValueError, match="the prompt is 48 tokens, but the context holds 48 with the answer; shorten the"
    ):
        generate(gato, text + " b", max_tokens=3)


def test_the_longest_answer_keeps_within_its_memory(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of many contexts forgets the older half each time; its cache never grows."""
    monkeypatch.setattr("gato_lite.sampling.Sampler.choose", lambda *_: np.array([300]))
    assert len(gato.vocabulary.text.encode(generate(gato, "a", max_tokens=10 * CONTEXT))) >= CONTEXT


def too_large_png(path: Path) -> Path:
    """A PNG of a hundred bytes that says it has 20,000 × 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_001))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_the_command_refuses_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps({"prompt": "x" * 3_000_000}) + "\n")
    picture = too_large_png(tmp_path / "large.png")
    for arguments, expected in [
        (["a", "--max-tokens", str(10**9)], "max_tokens must be in 1..16384, got 1000000000"),
        (
            ["--image", str(picture)],
            f"{picture}: expected at most 64,000,000 pixels: Image size (400000000 pixels)",
        ),
        (["word " * 10_000], "the prompt has 50,000 characters, but the context holds 48 tokens of at most"),
    ]:
        assert main(["prompt", str(run), *arguments]) == 2
        told = capsys.readouterr().err
        assert f"gato-lite: error: {expected}" in told
        assert told.count("\n") == 1
    assert main(["prompt", str(run), "--requests", str(requests)]) == 1
    expected = {"line": 1, "error": "expected at most 1,000,000 characters, got more; shorten it"}
    assert json.loads(capsys.readouterr().out) == expected


PROMPTS = [f"{word} {number}" * repeat for number in range(4) for word, repeat in [("key", 1), ("secret", 4), ("", 2)]]


def test_no_text_of_one_prompt_is_in_another(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer alone is the answer among others: of other lengths, some of which end early, in bounded rows."""
    alone = [generate(gato, prompt, max_tokens=30, stop="e") for prompt in PROMPTS]
    assert len(set(alone)) > len(PROMPTS) / 2
    assert len({len(text) for text in alone}) > 3
    sizes: list[int] = []
    init = Decoder.__init__

    def watched(self: Decoder, gato: Gato, n_row: int, context_length: int | None = None) -> None:
        init(self, gato, n_row, context_length)
        sizes.append(n_row * self.context_length)

    monkeypatch.setattr(Decoder, "__init__", watched)
    for most in (limits.CACHE_TOKENS, 7 * CONTEXT, CONTEXT):
        monkeypatch.setattr(limits, "CACHE_TOKENS", most)
        sizes.clear()
        for order in (PROMPTS, PROMPTS[::-1]):
            found = dict(zip(order, generate(gato, order, max_tokens=30, stop="e"), strict=True))
            assert [found[prompt] for prompt in PROMPTS] == alone
        assert max(sizes) <= most
        assert len(sizes) == 2 * -(-len(PROMPTS) // (most // CONTEXT))
