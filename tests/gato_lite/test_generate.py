from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from gato_lite.chat import Chat
from gato_lite.choices import log_likelihoods
from gato_lite.exchange import Exchange, lay_out_exchanges
from gato_lite.fitting import PictureFit, fit
from gato_lite.generate import generate
from gato_lite.model import Gato, stream_tensors
from gato_lite.sampling import Sampler
from gato_lite.sequence import Document, Tokens, answer_tokens, concatenate, lay_out
from gato_lite.writing import Writer, _settled

Uncached = Callable[[Gato, Tokens], torch.Tensor]
PROMPTS = ["", "The capital", "Once upon a time there was a small boat,", "\x00<s>▁", "a"]


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@torch.no_grad()
def by_hand(gato: Gato, prompt: Tokens, n: int, uncached: Uncached) -> list[int]:
    """Greedy pieces, each from a forward of its own over the window; when it is full its newer half stays."""
    vocabulary = gato.vocabulary
    legal = torch.tensor([*vocabulary.text_ids, vocabulary.end])
    text = prompt.ids != vocabulary.patch
    said = Tokens(ids=prompt.ids[text], local=prompt.local[text])
    window, written = prompt, []
    for _ in range(n):
        logits = gato.logits(uncached(gato, window)[None], legal)[0]
        piece = int(legal[int(logits.argmax())])
        if piece == vocabulary.end:
            break
        last = answer_tokens(np.array([piece], np.int32), len(written))
        written.append(piece)
        said = concatenate([said, last])
        context = gato.config.context_length
        if len(window) == context:
            window = Tokens(ids=said.ids[-(context // 2) :], local=said.local[-(context // 2) :])
        else:
            window = concatenate([window, last])
    return written


def test_many_prompts_are_as_one(make: Callable[..., Gato]) -> None:
    gato = make(context_length=40)
    pictures = [None, picture(20, 20), None, picture(7, 7, 1), picture(16, 48, 4)]
    together = generate(gato, PROMPTS, pictures, max_tokens=20)
    alone = [generate(gato, text, shown, max_tokens=20) for text, shown in zip(PROMPTS, pictures, strict=True)]
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize("with_picture", [False, True])
def test_written_text_is_the_uncached_forwards(
    make: Callable[..., Gato], uncached: Uncached, with_picture: bool
) -> None:
    """Through at least two overflows."""
    gato = make(context_length=24, seed=2)
    shown = picture(20, 30) if with_picture else None
    expected = by_hand(
        gato, lay_out_exchanges([Exchange(image=shown, prompt="The boat")], gato.vocabulary)[0], 70, uncached
    )
    assert len(expected) > 50
    assert generate(gato, "The boat", shown, max_tokens=70) == gato.vocabulary.text.decode(np.array(expected, np.int32))


def test_a_seed_decides_drawn_text(gato: Gato) -> None:
    texts = [generate(gato, PROMPTS, max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert generate(gato, "a", max_tokens=8, temperature=1.0, top_p=1e-6) == generate(gato, "a", max_tokens=8)


@pytest.mark.parametrize("n", [1, 5])
def test_at_most_so_many_pieces(gato: Gato, n: int) -> None:
    written: list[str] = []
    text = generate(gato, "Hello", max_tokens=n, temperature=3.0, on_text=written.append)
    assert len(gato.vocabulary.text.encode(text)) <= 4 * n
    assert 1 <= len(written) <= n + 1


def test_text_ends_with_the_end_token(make: Callable[..., Gato], uncached: Uncached) -> None:
    """It is made the likeliest piece after one prompt: its vector points where the hidden state does."""
    gato = make()
    prompts = ["a", "b", "The", "One two"]
    state = uncached(gato, lay_out_exchanges([Exchange(prompt="The")], gato.vocabulary)[0])
    with torch.no_grad():
        gato.embedding.tokens.weight[gato.vocabulary.end] = 100.0 * state
    assert generate(gato, prompts, max_tokens=30)[2] == ""
    heard: list[str] = []
    assert generate(gato, "The", max_tokens=30, on_text=heard.append) == ""
    assert heard == []


@pytest.mark.parametrize("seed", range(6))
def test_stretches_make_the_text(gato: Gato, seed: int) -> None:
    """Also where a character is written in several byte pieces, or left unfinished."""
    heard: list[str] = []
    text = generate(gato, "a", max_tokens=25, temperature=4.0, seed=seed, on_text=heard.append)
    assert "".join(heard) == text
    assert all(heard)


def test_unfinished_bytes_are_heard_at_the_end(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    lone = gato.vocabulary.text.encode("\U0001f9ff")[:2]
    pieces = iter([*lone.tolist(), *gato.vocabulary.text.encode("b").tolist(), *lone.tolist()])
    monkeypatch.setattr("gato_lite.sampling.Sampler.choose", lambda *_: np.array([next(pieces)]))
    heard: list[str] = []
    text = generate(gato, "a", max_tokens=5, on_text=heard.append)
    assert "".join(heard) == text
    assert text.endswith("\ufffd")


def test_a_prompt_that_fills_the_context(make: Callable[..., Gato]) -> None:
    gato = make(context_length=16)
    n_token = 1 + len(gato.vocabulary.text.encode("word " * 40))
    expected = f"the prompt is {n_token} tokens, but the context holds 16 with the answer; shorten the text or shrink"
    with pytest.raises(ValueError, match=re.escape(expected)):
        generate(gato, "word " * 40)
    with pytest.raises(ValueError, match="the prompt is 16 tokens"):
        generate(gato, "", picture(64, 64))
    assert isinstance(generate(gato, "", picture(48, 80), max_tokens=1), str)


def test_arguments_that_do_not_fit(gato: Gato) -> None:
    with pytest.raises(ValueError, match="max_tokens must be in 1..16384, got 0"):
        generate(gato, "a", max_tokens=0)
    with pytest.raises(ValueError, match="expected a picture .or None. for each prompt, got 2 prompts, 1 pictures"):
        generate(gato, ["a", "b"], [picture(4, 4)])
    with pytest.raises(ValueError, match="temperature must be"):
        generate(gato, "a", temperature=-1)
    assert generate(gato, []) == []


@pytest.mark.parametrize("wrong", [picture(4, 4)[:, :, 0], picture(4, 4, 5), picture(4, 4).astype(np.float32)])
def test_what_is_no_picture(gato: Gato, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=re.escape(f"a picture must be uint8 (H, W, 1 to 4), got {wrong.dtype}")):
        generate(gato, "", wrong)


@pytest.mark.parametrize("wrong", ["red.png", Image.new("RGB", (9, 9)), [Image.new("RGB", (9, 9)), None]])
def test_what_is_no_array_is_named(gato: Gato, wrong: object) -> None:
    with pytest.raises(TypeError, match=r"expected a picture as an array of uint8, .* got (str|Image); of a file"):
        generate(gato, ["a", "b"], wrong)  # type: ignore[call-overload]


def test_one_picture_for_all_prompts(gato: Gato) -> None:
    shown = picture(9, 9)
    assert generate(gato, ["a", "b"], shown, max_tokens=5) == generate(gato, ["a", "b"], [shown, shown], max_tokens=5)


@pytest.mark.parametrize("how", [PictureFit(side=32), PictureFit(side=32, keep_aspect=True)])
def test_pictures_are_fitted_as_the_runs_were(make: Callable[..., Gato], how: PictureFit) -> None:
    gato = make()
    large = [picture(70, 90), picture(64, 40, 4)]
    small = [fit(shown, how) for shown in large]
    choices = ["a", "a green boat"]
    as_given = generate(gato, ["this", ""], large, max_tokens=9)
    expected = generate(gato, ["this", ""], small, max_tokens=9)
    after_one, nats = _after_one(gato, small), log_likelihoods(gato, [[Exchange(image=small[1])]], choices)
    gato.pictures = (how,)
    assert generate(gato, ["this", ""], large, max_tokens=9) == expected != as_given
    assert generate(gato, ["this", ""], small, max_tokens=9) == expected
    assert _after_one(gato, large) == after_one
    assert np.array_equal(log_likelihoods(gato, [[Exchange(image=large[1])]], choices), nats)


def test_a_picture_of_another_size_that_the_run_has_learnt_stays_as_it_is(make: Callable[..., Gato]) -> None:
    gato = make()
    learnt, other = picture(28, 28), picture(30, 30)
    as_given, fitted_first = (
        generate(gato, "", learnt, max_tokens=9),
        generate(gato, "", fit(other, PictureFit(side=48)), max_tokens=9),
    )
    gato.pictures = (PictureFit(side=48), PictureFit(side=28))
    assert generate(gato, "", learnt, max_tokens=9) == as_given
    assert generate(gato, "", other, max_tokens=9) == fitted_first
    gato.pictures = (PictureFit(side=48),)
    assert generate(gato, "", learnt, max_tokens=9) != as_given


def _after_one(gato: Gato, shown: list[np.ndarray]) -> tuple[str, str]:
    chat = Chat(gato)
    return (
        generate(gato, "this", shown[1], before=[Exchange(image=shown[0], text="a cat")], max_tokens=9),
        chat.say("one", shown[0], max_tokens=9) + chat.say("two", shown[1], max_tokens=9),
    )


def test_earlier_exchanges_are_read_first(gato: Gato) -> None:
    examples = [Exchange(image=picture(16, 16), text="a cat"), Exchange(prompt="and", text="a dog")]
    shown = picture(16, 16, seed=1)
    tokens, _ = lay_out_exchanges([*examples, Exchange(image=shown, prompt="this")], gato.vocabulary)
    writer = Writer(gato, 1)
    (expected,) = writer.write(writer.read([0], [tokens]), 12, Sampler())
    assert generate(gato, "this", shown, before=examples, max_tokens=12) == expected
    apart = generate(gato, ["this", "this"], [shown, shown], before=[examples, []], max_tokens=12)
    assert apart == [expected, generate(gato, "this", shown, max_tokens=12)]
    assert generate(gato, ["this"], [shown], before=examples, max_tokens=12) == [expected]


def test_as_many_runs_of_exchanges_as_prompts(gato: Gato) -> None:
    with pytest.raises(ValueError, match="expected a run of earlier exchanges for each prompt, got 1 prompts, 2 runs"):
        generate(gato, ["a"], before=[[Exchange(text="x")], [Exchange(text="y")]])


def test_an_answer_ends_before_a_stop(gato: Gato) -> None:
    whole = generate(gato, "The boat", max_tokens=40)
    word = whole[len(whole) // 2 :][:3]
    shown: list[str] = []
    cut = generate(gato, "The boat", max_tokens=40, stop=["\nnever", word], on_text=shown.append)
    assert cut == whole[: whole.index(word)]
    assert "".join(shown) == cut
    assert generate(gato, ["The boat", "x"], max_tokens=40, stop=word)[0] == cut
    with pytest.raises(ValueError, match="stop must be one or more characters, got ''"):
        generate(gato, "The boat", stop="")


@pytest.mark.parametrize(
    "text, stop, settled",
    [("abc", (), 3), ("ab\ufffd", (), 2), ("abc", ("cd",), 2), ("abc", ("bcd", "xy"), 1), ("aab", ("ab",), 3)],
)
def test_what_is_shown_is_never_taken_back(text: str, stop: tuple[str, ...], settled: int) -> None:
    assert _settled(text, stop) == settled


def test_the_likeliest_choice(gato: Gato) -> None:
    shown = picture(16, 16)
    choices = ["red", "a green boat", "blue"]
    by_hand = []
    for choice in choices:
        tokens, answers = lay_out_exchanges([Exchange(image=shown, prompt="?", text=choice)], gato.vocabulary)
        document = Document(tokens=tokens, target=answers, labels=tokens.ids)
        losses = gato.loss(stream_tensors(lay_out([document]), gato.vocabulary, None))
        by_hand.append(-losses.mean.item() * int(answers.sum()))
    found = log_likelihoods(gato, [[Exchange(image=shown, prompt="?")], [Exchange(prompt="and")]], choices)
    assert found.shape == (2, 3)
    assert found[0].tolist() == pytest.approx(by_hand, abs=1e-4)
    assert generate(gato, "?", shown, choices=choices) == choices[int(np.argmax(by_hand))]
    assert generate(gato, ["?", "and"], [shown, None], choices=choices)[1] == choices[int(found[1].argmax())]


def test_choices_are_batched_without_a_difference(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[Exchange(prompt=word * n)] for n, word in enumerate(("boat ", "sea ", "x "), 1)]
    whole = log_likelihoods(gato, prompts, ["yes", "no, never"])
    monkeypatch.setattr("gato_lite.choices.TOKENS", 10)
    assert np.allclose(log_likelihoods(gato, prompts, ["yes", "no, never"]), whole, atol=1e-4)


def test_choices_that_cannot_be(gato: Gato) -> None:
    for choices in ([], ["a", ""]):
        with pytest.raises(ValueError, match="choices must be one or more texts"):
            generate(gato, "?", choices=choices)
    with pytest.raises(ValueError, match="prompt with the answer 'boat boat .* holds 256 with the answer; shorten"):
        generate(gato, "?", choices=["boat " * 300])
