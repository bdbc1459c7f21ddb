from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from gato_lite import beams as beam_search
from gato_lite import limits
from gato_lite.beams import penalty, search
from gato_lite.exchange import Exchange, lay_out_exchanges
from gato_lite.generate import generate
from gato_lite.model import Gato
from gato_lite.sequence import Tokens, answer_tokens, concatenate, plain
from gato_lite.writing import Writer

Uncached = Callable[[Gato, Tokens], torch.Tensor]
PROMPTS = ["", "The capital", "Once upon a time there was a small boat,", "\x00<s>▁", "a"]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def asked(gato: Gato, prompt: str, shown: np.ndarray | None = None) -> Tokens:
    return lay_out_exchanges([Exchange(image=shown, prompt=prompt)], gato.vocabulary)[0]


def few_ids(gato: Gato, words: str = "a b c") -> np.ndarray:
    """Ids of some words, and `end`."""
    return np.array([*gato.vocabulary.text.encode(words), gato.vocabulary.end], np.int32)


def uncertain(gato: Gato, share: float = 0.3) -> Gato:
    """The model, with so much of its tokens' vectors: more of what may come next is nearly as likely."""
    with torch.no_grad():
        gato.embedding.tokens.weight.mul_(share)
    return gato


def search_among(gato: Gato, prompts: list[Tokens], legal: np.ndarray, beams: int, n: int, stop: str = "") -> list[str]:
    writer = Writer(gato, len(prompts) * beams)
    writer.legal = legal
    hidden = writer.read(range(0, len(prompts) * beams, beams), prompts)
    return search(gato, writer, hidden, beams, n, stop=[stop] if stop else [])


class ByHand:
    """Log-probabilities of the next piece, each from a forward of its own; a full window keeps its newer half."""

    def __init__(self, gato: Gato, prompt: Tokens, legal: np.ndarray, uncached: Uncached) -> None:
        self.gato, self.prompt, self.legal, self.uncached = gato, prompt, legal, uncached
        text = prompt.ids != gato.vocabulary.patch
        self.text = Tokens(ids=prompt.ids[text], local=prompt.local[text])

    def window(self, ids: tuple[int, ...]) -> Tokens:
        window, context = self.prompt, self.gato.config.context_length
        for n, piece in enumerate(ids, 1):
            full = len(window) == context
            said = concatenate([self.text, answer_tokens(np.array(ids[:n], np.int32))])
            kept = Tokens(ids=said.ids[-(context // 2) :], local=said.local[-(context // 2) :])
            window = kept if full else concatenate([window, answer_tokens(np.array([piece], np.int32), n - 1)])
        return window

    @torch.no_grad()
    def next(self, ids: tuple[int, ...]) -> dict[int, float]:
        logits = self.gato.logits(self.uncached(self.gato, self.window(ids))[None], torch.from_numpy(self.legal).long())
        return dict(zip(self.legal.tolist(), logits[0].double().log_softmax(-1).tolist(), strict=True))

    def answers(self, n: int, stop: str = "") -> Iterator[tuple[float, str]]:
        """Score and text of every answer there is."""
        decode, end = self.gato.vocabulary.text.decode, self.gato.vocabulary.end
        open_: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        for length in range(1, n + 1):
            grown = [((*ids, piece), nats + more) for ids, nats in open_ for piece, more in self.next(ids).items()]
            open_ = []
            for ids, nats in grown:
                text = decode(np.array([piece for piece in ids if piece != end], np.int32))
                if ids[-1] == end or length == n or (stop and stop in text):
                    yield nats / penalty(length), text.partition(stop)[0] if stop else text
                else:
                    open_.append((ids, nats))

    def beam(self, beams: int, n: int) -> str:
        """Beam search as one would write it down."""
        decode, end = self.gato.vocabulary.text.decode, self.gato.vocabulary.end
        best = (-np.inf, "")
        open_: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        for length in range(1, n + 1):
            grown = [((*ids, piece), nats + more) for ids, nats in open_ for piece, more in self.next(ids).items()]
            grown = sorted(grown, key=lambda partial: -partial[1])[:beams]
            for ids, nats in grown:
                if ids[-1] == end or length == n:
                    text = decode(np.array([piece for piece in ids if piece != end], np.int32))
                    best = max(best, (nats / penalty(length), text))
            going = [partial for partial in grown if partial[0][-1] != end]
            open_ = [(ids, nats) for ids, nats in going if nats / penalty(n) > best[0]]
        return best[1]


def test_the_penalty_is_the_papers() -> None:
    assert beam_search.ALPHA == 0.6
    assert penalty(1) == 1.0
    assert penalty(7) == pytest.approx(2**0.6)
    assert penalty(25) == pytest.approx(5**0.6)


@pytest.mark.parametrize("seed", range(8))
def test_enough_beams_find_the_best_of_all_answers(make: Callable[..., Gato], uncached: Uncached, seed: int) -> None:
    gato = uncertain(make(seed=seed), 0.5)
    legal = few_ids(gato)
    prompts = [asked(gato, "The boat"), asked(gato, "", picture(20, 20)), asked(gato, "and")]
    found = search_among(gato, prompts, legal, len(legal) ** 3, 3)
    for prompt, text in zip(prompts, found, strict=True):
        answers = sorted(ByHand(gato, prompt, legal, uncached).answers(3))
        assert text == answers[-1][1]
        assert answers[-1][0] - answers[-2][0] > 1e-4, "the best answer is not a matter of rounding"


def test_what_is_less_likely_but_longer_may_win(make: Callable[..., Gato], uncached: Uncached) -> None:
    """One piece, again and again: an answer is not given up while a longer one can still beat it."""
    n_less_likely = 0
    for seed in range(4):
        gato = uncertain(make(seed=seed), 0.5)
        legal = few_ids(gato, "a")
        by_hand = [ByHand(gato, asked(gato, prompt), legal, uncached) for prompt in PROMPTS]
        found = search_among(gato, [each.prompt for each in by_hand], legal, 2, 10)
        for each, text in zip(by_hand, found, strict=True):
            answers = list(each.answers(10))
            assert text == max(answers)[1]
            n_less_likely += text != max((score * penalty(min(len(own) + 1, 10)), own) for score, own in answers)[1]
    assert n_less_likely


@pytest.mark.parametrize("seed", range(6))
def test_enough_beams_find_the_best_answer_before_a_stop(
    make: Callable[..., Gato], uncached: Uncached, seed: int
) -> None:
    """Answers with the word end early, at the score of the pieces so far."""
    gato = uncertain(make(seed=seed), 0.7)
    legal = few_ids(gato, "a b c")
    by_hand = [ByHand(gato, asked(gato, prompt), legal, uncached) for prompt in PROMPTS]
    found = search_among(gato, [each.prompt for each in by_hand], legal, len(legal) ** 3, 3, stop="b")
    assert found == [max(each.answers(3, "b"))[1] for each in by_hand]
    assert not any("b" in text for text in found)


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beams_are_those_of_uncached_forwards(make: Callable[..., Gato], uncached: Uncached, beams: int) -> None:
    """Through at least two overflows, where every row reads the newer half of its own text again."""
    gato = uncertain(make(context_length=16, seed=1), 0.5)
    legal = few_ids(gato, "one two three four five six seven")[:-1]  # nothing ends
    prompts = [asked(gato, "The boat"), asked(gato, "", picture(20, 30)), asked(gato, "a")]
    found = search_among(gato, prompts, legal, beams, 30)
    assert found == [ByHand(gato, prompt, legal, uncached).beam(beams, 30) for prompt in prompts]


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_that_end_are_those_of_uncached_forwards(
    make: Callable[..., Gato], uncached: Uncached, beams: int
) -> None:
    gato = make(seed=3)
    legal = few_ids(gato, "one two three")
    by_hand = [ByHand(gato, asked(gato, prompt), legal, uncached) for prompt in PROMPTS]
    found = search_among(gato, [each.prompt for each in by_hand], legal, beams, 12)
    assert found == [each.beam(beams, 12) for each in by_hand]
    assert len({len(text) for text in found}) > 1


def test_one_beam_is_greedy(gato: Gato) -> None:
    writer = Writer(gato, len(PROMPTS))
    hidden = writer.read(range(len(PROMPTS)), [asked(gato, prompt) for prompt in PROMPTS])
    found = search(gato, writer, hidden, 1, 12)
    assert found == generate(gato, PROMPTS, max_tokens=12) == generate(gato, PROMPTS, max_tokens=12, beams=1)
    assert len(set(found)) > 1


@pytest.mark.parametrize("cache_tokens", [1, 100, 65_536])
def test_many_prompts_are_as_one(make: Callable[..., Gato], monkeypatch: pytest.MonkeyPatch, cache_tokens: int) -> None:
    """However many share a forward; some rows overflow, and others have long ended."""
    gato = make(context_length=40)
    shown = [None, picture(20, 20), None, picture(7, 7), picture(16, 48)]
    alone = [generate(gato, text, seen, max_tokens=30, beams=3) for text, seen in zip(PROMPTS, shown, strict=True)]
    monkeypatch.setattr(limits, "CACHE_TOKENS", cache_tokens)
    assert generate(gato, PROMPTS, shown, max_tokens=30, beams=3) == alone
    assert len(set(alone)) > 1


def test_a_prompt_is_read_once(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is kept costs a token a step: no context is computed again."""
    read: list[int] = []
    hidden = Gato.hidden

    def counted(self: Gato, tokens: object, positions: torch.Tensor, *rest: object) -> torch.Tensor:
        read.append(len(positions))
        return hidden(self, tokens, positions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Gato, "hidden", counted)
    generate(gato, ["The boat " * 9, "a"], max_tokens=6, beams=4)
    assert read[0] == sum(len(asked(gato, prompt)) for prompt in ("The boat " * 9, "a"))
    assert len(read) <= 6
    assert max(read[1:]) <= 8


def test_cache_holds_so_many_beams(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Counted(Writer):
        def __init__(self, gato: Gato, n_row: int, context_length: int | None = None) -> None:
            rows.append(n_row)
            assert n_row * (context_length or 0) <= 200
            super().__init__(gato, n_row, context_length)

    monkeypatch.setattr(sys.modules["gato_lite.generate"], "Writer", Counted)
    monkeypatch.setattr(limits, "CACHE_TOKENS", 200)
    generate(gato, ["a"] * 7, max_tokens=20, beams=4)
    assert sum(rows) == 28
    assert len(rows) > 1


def test_more_beams_find_likelier_answers(make: Callable[..., Gato], uncached: Uncached) -> None:
    """Not each, since a beam may lose what one piece at a time finds, but on average."""
    gains = []
    for seed in range(3):
        gato = uncertain(make(seed=seed))
        legal = few_ids(gato, "one two three four")
        for prompt in PROMPTS:
            by_hand = ByHand(gato, asked(gato, prompt), legal, uncached)
            scores = {text: score for score, text in sorted(by_hand.answers(4))}
            texts = [search_among(gato, [by_hand.prompt], legal, beams, 4)[0] for beams in (1, 4)]
            gains.append(scores[texts[1]] - scores[texts[0]])
    assert np.mean(gains) > 0.0
    assert np.mean(np.array(gains) >= -1e-4) > 0.9


def test_answers_end_before_a_stop(gato: Gato) -> None:
    whole = generate(gato, ["The boat", "x"], max_tokens=20, beams=3)
    word = whole[0][len(whole[0]) // 2 :][:3]
    cut = generate(gato, ["The boat", "x"], max_tokens=20, beams=3, stop=["\nnever", word])
    assert all(word not in text for text in cut)
    assert generate(gato, ["The boat", "x"], max_tokens=20, beams=3, stop="\nnever") == whole


def test_copied_rows_go_on_as_the_others(gato: Gato, uncached: Uncached) -> None:
    """With keys, values and text; a later picture is seen with the words that the copy has read."""
    writer = Writer(gato, 4)
    first = lay_out_exchanges([Exchange(image=picture(20, 20), prompt="The boat")], gato.vocabulary)[0]
    writer.read([1], [first])
    writer.copy([1, 1], [0, 3])
    more = [asked(gato, "and", picture(7, 7)), plain([5, 6]), plain([7])]
    hidden = writer.read([0, 1, 3], more)
    for state, new in zip(hidden, more, strict=True):
        torch.testing.assert_close(state, uncached(gato, concatenate([first, new])), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=re.escape("no row can be copied and replaced at once, got [0, 1] to [1, 2]")):
        writer.copy([0, 1], [1, 2])


def test_what_does_not_go_with_beams(gato: Gato) -> None:
    for beams in (0, 65):
        with pytest.raises(ValueError, match=f"beams must be in 1..64, got {beams}"):
            generate(gato, "a", beams=beams)
    expected = (
        "beams=2 searches for the likeliest answer: expected neither temperature, choices nor on_text with it, got "
    )
    for name, value in {"temperature": 0.5, "choices": ["a"], "on_text": print}.items():
        with pytest.raises(ValueError, match=re.escape(expected + name)):
            generate(gato, "a", beams=2, **{name: value})  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=re.escape(expected + "temperature and on_text")):
        generate(gato, "a", beams=2, temperature=0.5, on_text=print)
