from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from gymnasium import spaces

from gato_lite.bins import SPREAD
from gato_lite.config import GatoConfig, PatchEncoder
from gato_lite.exchange import picture_tokens
from gato_lite.model import MODALITIES, Gato, StreamTensors, stream_tensors
from gato_lite.sequence import Document, Stream, concatenate, lay_out, plain
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.transformer import Transformer

OBSERVATION = spaces.Dict(goal=spaces.Box(-1, 1, (40,)), grid=spaces.Box(0, 255, (7, 7, 3), np.uint8))


def documents(vocabulary: Vocabulary, seed: int = 0) -> list[Document]:
    """Three of control (one with bins, two with integers), one picture with a caption, one of text."""
    generator = np.random.default_rng(seed)
    made = []
    OBSERVATION.seed(seed)
    tokenizer = SpaceTokenizer(OBSERVATION, vocabulary)
    for ids_range, n in ((vocabulary.bin_ids, 3), (vocabulary.discrete_ids, 1), (vocabulary.discrete_ids, 2)):
        runs = []
        for _ in range(n):
            actions = generator.integers(ids_range.start, ids_range.stop, 2).astype(np.int32)
            runs += [tokenizer.encode(OBSERVATION.sample()), plain(actions)]
        tokens = concatenate(runs)
        target = (tokens.ids >= vocabulary.bin_ids.start) & (tokens.ids < vocabulary.discrete_ids.stop)
        made.append(Document(tokens=tokens, target=target, labels=tokens.ids))
    text = [*vocabulary.text.encode("the name").tolist(), vocabulary.end]
    shown = picture_tokens(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8), vocabulary)
    captioned = concatenate([shown, plain(text)])
    made.append(Document(tokens=captioned, target=captioned.ids != vocabulary.patch, labels=captioned.ids))
    written = plain([vocabulary.end, *text])
    made.append(Document(tokens=written, target=np.arange(len(written)) > 0, labels=written.ids))
    return made


def stream_of(gato: Gato, made: list[Document]) -> StreamTensors:
    return stream_tensors(lay_out(made, range(len(made))), gato.vocabulary, None)


def test_a_loss_is_that_of_full_logits_within_the_modality(gato: Gato) -> None:
    made = documents(gato.vocabulary)
    losses = gato.loss(stream_of(gato, made))
    stream = lay_out(made, range(len(made)))
    vocabulary = gato.vocabulary
    logits = gato.logits(gato(stream_of(gato, made)))  # (T, V)
    ranges = ([*vocabulary.text_ids, vocabulary.end], list(vocabulary.bin_ids), list(vocabulary.discrete_ids))
    nats = [[], [], []]  # type: list[list[torch.Tensor]]
    tasks: list[list[int]] = [[], [], []]
    for row in np.flatnonzero(stream.target):
        label = int(stream.labels[row])
        modality = next(index for index, ids in enumerate(ranges) if label in ids)
        within = logits[row - 1, ranges[modality]]
        nats[modality].append(F.cross_entropy(within[None], torch.tensor([ranges[modality].index(label)])))
        tasks[modality].append(int(stream.tasks[np.searchsorted(stream.offsets, row, side="right") - 1]))
    assert [group.modality for group, _ in losses.groups] == [0, 1, 2]
    for group, found in losses.groups:
        torch.testing.assert_close(found, torch.stack(nats[group.modality]))
        assert group.tasks.tolist() == tasks[group.modality]
        assert not found.requires_grad
    text, bins, discrete = (torch.stack(part) for part in nats)
    rows = np.flatnonzero([int(label) in vocabulary.bin_ids for label in stream.labels] & stream.target)
    near = torch.from_numpy(stream.labels[rows].astype(np.int64)) - vocabulary.bin_ids.start
    places = torch.arange(len(vocabulary.bin_ids))
    spread = torch.exp(-0.5 * ((places - near[:, None]) / SPREAD) ** 2)
    smooth = F.cross_entropy(logits[rows - 1][:, ranges[1]], spread / spread.sum(1, keepdim=True), reduction="none")
    assert len(smooth) == len(bins)
    torch.testing.assert_close(losses.mean, torch.cat([text, smooth, discrete]).mean())
    assert losses.mean.requires_grad


@pytest.mark.parametrize("rows", [[9, 2, 30], [], None])
def test_rows_of_a_stream_are_those_of_the_whole(gato: Gato, rows: list[int] | None) -> None:
    """Values and gradients."""
    stream = stream_of(gato, documents(gato.vocabulary))
    chosen = torch.arange(len(stream.positions)) if rows is None else torch.tensor(rows, dtype=torch.int64)
    parameters = list(gato.parameters())
    results = []
    for hidden in (gato(stream)[chosen], gato(stream, rows=chosen)):
        made = torch.autograd.grad(hidden.square().sum(), parameters, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, made, strict=True)]
        results.append([hidden, *found])
    for whole, part in zip(*results, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)


def test_relabelled_actions_are_read_as_taken_and_asked_as_labelled(gato: Gato) -> None:
    taken = documents(gato.vocabulary)[1]
    better = replace(
        taken, labels=np.where(taken.target, gato.vocabulary.discrete_ids[9], taken.labels).astype(np.int32)
    )
    group, _ = gato.loss(stream_of(gato, [better])).groups[0]
    assert group.classes.tolist() == [9, 9]
    assert torch.equal(gato(stream_of(gato, [better])), gato(stream_of(gato, [taken])))


@pytest.mark.parametrize("backend", ["sdpa", "dense"])
def test_nothing_leaks_between_documents(gato: Gato, backend: str) -> None:
    """Every document is changed in turn; no hidden state of another one moves by a bit."""
    made, others = documents(gato.vocabulary), documents(gato.vocabulary, seed=1)
    ordered = sorted(range(len(made)), key=lambda index: len(made[index].tokens))
    stream = stream_of(gato, made)
    before = gato(stream, backend)  # type: ignore[arg-type]
    for changed in range(len(made)):
        assert len(made[changed].tokens) == len(others[changed].tokens)
        after = gato(stream_of(gato, [*made[:changed], others[changed], *made[changed + 1 :]]), backend)  # type: ignore[arg-type]
        for place, index in enumerate(ordered):
            part = slice(stream.offsets[place], stream.offsets[place + 1])
            if index != changed:
                assert torch.equal(before[part], after[part])
            elif changed < 4:
                assert not torch.allclose(before[part], after[part])


def test_no_gradient_leaks_between_documents(gato: Gato) -> None:
    made = documents(gato.vocabulary)
    stream = stream_of(gato, made)
    x = gato.embedding(stream.tokens).detach().requires_grad_()
    hidden = gato.transformer(
        x, stream.positions, lambda _layer, q, k, v: torch.ops.aten.clone(_attend(q, k, v, stream.offsets))
    )
    part = slice(int(stream.offsets[2]), int(stream.offsets[3]))
    hidden[part].square().sum().backward()
    assert x.grad is not None
    outside = torch.ones(len(x), dtype=torch.bool)
    outside[part] = False
    assert not x.grad[outside].any()
    assert x.grad[part].any()


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, offsets: np.ndarray) -> torch.Tensor:
    from gato_lite.attention import attend

    return attend(q, k, v, offsets)


def test_a_document_alone_is_as_in_a_stream(gato: Gato) -> None:
    made = documents(gato.vocabulary)
    stream = stream_of(gato, made)
    hidden = gato(stream)
    for place, document in enumerate(sorted(made, key=lambda document: len(document.tokens))):
        part = slice(stream.offsets[place], stream.offsets[place + 1])
        torch.testing.assert_close(hidden[part], gato(stream_of(gato, [document])), atol=1e-5, rtol=1e-5)


def test_backends_agree_on_the_model(gato: Gato) -> None:
    stream = stream_of(gato, documents(gato.vocabulary))
    torch.testing.assert_close(gato(stream, "sdpa"), gato(stream, "dense"), atol=1e-5, rtol=1e-5)
    gradients = []
    for backend in ("sdpa", "dense"):
        gato.zero_grad()
        gato.loss(stream, backend).mean.backward()  # type: ignore[arg-type, no-untyped-call]
        gradients.append([p.grad.clone() for p in gato.parameters() if p.grad is not None])
    gato.zero_grad()
    assert len(gradients[0]) > 15
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_positions_begin_anew_in_every_document(gato: Gato) -> None:
    stream = stream_of(gato, documents(gato.vocabulary))
    expected = [place for length in np.diff(stream.offsets) for place in range(length)]
    assert stream.positions.tolist() == expected


def test_classes_at_both_ends_of_every_range(vocabulary: Vocabulary) -> None:
    ids = [
        vocabulary.text_ids[0],
        vocabulary.text_ids[-1],
        vocabulary.end,
        vocabulary.bin_ids[0],
        vocabulary.bin_ids[-1],
        vocabulary.discrete_ids[0],
        vocabulary.discrete_ids[-1],
    ]
    tokens = plain([vocabulary.separator, *ids])
    document = Document(tokens=tokens, target=np.arange(8) > 0, labels=tokens.ids)
    groups = stream_tensors(lay_out([document]), vocabulary, None).targets
    assert [group.classes.tolist() for group in groups] == [[0, 4095, 4096], [0, 1023], [0, 1023]]
    assert [group.rows.tolist() for group in groups] == [[0, 1, 2], [3, 4], [5, 6]]
    assert MODALITIES == ("text", "continuous", "discrete")


def test_targets_that_cannot_be(vocabulary: Vocabulary) -> None:
    tokens = plain([vocabulary.separator, vocabulary.patch])
    document = Document(tokens=tokens, target=np.array([False, True]), labels=tokens.ids)
    with pytest.raises(ValueError, match="targets must be text, bins or discrete values, got patch"):
        stream_tensors(lay_out([document]), vocabulary, None)
    first = Document(tokens=plain([5, 6]), target=np.array([True, True]), labels=np.array([5, 6], np.int32))
    with pytest.raises(ValueError, match="the first token of a document has nothing before it"):
        stream_tensors(lay_out([first]), vocabulary, None)


def test_a_stream_without_targets(gato: Gato) -> None:
    tokens = plain([5, 6])
    document = Document(tokens=tokens, target=np.zeros(2, np.bool_), labels=tokens.ids)
    with pytest.raises(ValueError, match="a training stream needs at least one target token"):
        gato.loss(stream_of(gato, [document]))


def test_weights_are_a_function_of_the_seed(make: Callable[..., Gato]) -> None:
    config = make().config
    a, b, c = (Gato(config, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["embedding.tokens.weight"], c["embedding.tokens.weight"])


def test_a_fresh_model_knows_nothing(make: Callable[..., Gato]) -> None:
    """Its losses are those of a uniform guess: ln 4097, ln 1024, ln 1024."""
    fresh = Gato(GatoConfig.preset("lite-1m", context_length=64))
    for group, nats in fresh.loss(stream_of(fresh, documents(fresh.vocabulary))).groups:
        n_class = (4097, 1024, 1024)[group.modality]
        assert float(nats.mean()) == pytest.approx(np.log(n_class), abs=0.3)


def test_the_vocabulary_has_to_fit() -> None:
    expected = "vocab_size must be the vocabulary's, expected 6148, got 6149; pass GatoConfig.preset(name, vocab_size="
    with pytest.raises(ValueError, match=re.escape(expected)):
        Gato(GatoConfig.preset("lite-1m", vocab_size=6149))


@pytest.mark.parametrize(
    "name, in_blocks",
    [
        ("lite-1m", 787_968),
        ("lite-2m", 1_312_256),
        ("lite-5m", 4_329_344),
        ("lite-20m", 15_737_728),
        ("gato-79m", 56_637_184),
        ("gato-364m", 339_780_096),
        ("gato-1.18b", 1_208_065_024),
    ],
)
def test_presets_have_the_size_of_their_name(name: str, in_blocks: int) -> None:
    with torch.device("meta"):
        transformer = Transformer(GatoConfig.preset(name))
    assert sum(parameter.numel() for parameter in transformer.parameters()) == in_blocks


def test_counts_of_parameters(gato: Gato) -> None:
    assert gato.n_parameters == sum(tensor.numel() for tensor in gato.state_dict().values())
    assert gato.n_block_parameters == 2 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 32 + 16) + 2 * 32


def test_losses_come_to_the_host_in_one_piece(gato: Gato) -> None:
    losses = gato.loss(stream_of(gato, documents(gato.vocabulary)))
    copied, number = losses.on_host(torch.tensor(3.5))
    assert number == 3.5
    assert copied.mean == losses.mean
    assert not copied.mean.requires_grad
    for (group, nats), (same, others) in zip(losses.groups, copied.groups, strict=True):
        assert group is same
        assert torch.equal(nats, others)


def test_a_stream_moves_whole(gato: Gato) -> None:
    stream = stream_of(gato, documents(gato.vocabulary))
    moved = stream.to(torch.device("cpu"))
    assert torch.equal(gato(moved), gato(stream))
    assert [group.rows.tolist() for group in moved.targets] == [group.rows.tolist() for group in stream.targets]


def test_empty_documents_are_harmless(gato: Gato) -> None:
    made = documents(gato.vocabulary)
    empty = Document(tokens=plain([]), target=np.zeros(0, np.bool_), labels=np.zeros(0, np.int32))
    with_empty: Stream = lay_out([empty, *made, empty])
    assert torch.equal(gato(stream_tensors(with_empty, gato.vocabulary, None)), gato(stream_of(gato, made)))


@pytest.mark.parametrize("encoder", get_args(PatchEncoder))
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_a_step_asks_the_device_for_no_number(
    make: Callable[..., Gato], encoder: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that has none, and so could not answer; nor is anything elsewhere."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _kind: False)  # it knows nothing of that device
    gato = make(patch_encoder=encoder)
    vocabulary = gato.vocabulary
    grid = picture_tokens(np.zeros((7, 7, 3), np.uint8), vocabulary)
    actions = plain([vocabulary.bin_ids[5], vocabulary.discrete_ids[5]])
    tokens = concatenate([plain([1, 2]), grid, actions])
    acted = Document(tokens=tokens, target=np.arange(len(tokens)) > len(tokens) - 3, labels=tokens.ids)
    made = [*documents(vocabulary)[3:], acted]  # without chunks, for whose autocast that device has no word
    stream = stream_of(gato, made).to(torch.device("meta")).filled_up(512)
    assert len(stream.positions) == 512
    assert len(stream.targets) == 3
    losses = gato.to("meta").loss(stream, backend)  # type: ignore[arg-type]
    found = torch.autograd.grad(losses.mean, list(gato.parameters()), allow_unused=True)
    assert {gradient.device.type for gradient in found if gradient is not None} == {"meta"}
    assert sum(gradient is None for gradient in found) < 6
