from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces

import gato_lite
from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset, DatasetError
from gato_lite.envs.parts import describe, write_episodes
from gato_lite.sequence import TEXT_PLACES, Document
from gato_lite.spaces import FreeText
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.sources import PROMPT_SHARE, ControlSource, TextSource, mean_length


def draws(source: Any, n: int, context_length: int, seed: int = 0) -> list[Document]:
    return list(source.draw(np.random.default_rng(seed), context_length, n))


class Talk(gym.Env[Any, Any]):
    """Observations of very different length: now and then a long one."""

    observation_space = FreeText()
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.length = 0
        return "a", {}

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.length += 1
        return "12345678901234567890" if self.length == 4 else "a", 0.0, self.length == 8, False, {}


class TestSmallParts:
    """Those of few timesteps are read together, which changes neither tokens nor errors."""

    @pytest.fixture
    def parts(self, corridor_env: gym.Env[Any, Any], tmp_path: Path) -> Dataset:
        out = tmp_path / "parts"
        gato_lite.record(
            corridor_env,
            lambda seen: seen["goal"][0] > 0,
            episodes=230,
            out=out,
            seed=0,
            spec=TokenSpec(once=("sign",)),
        )
        return Dataset.open(out)

    def one_by_one(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Dataset, "groups", lambda dataset: [[index] for index in range(dataset.n_parts)])

    def test_their_tokens(self, parts: Dataset, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
        assert parts.groups() == [[0, 1, 2]]
        together = ControlSource(parts, vocabulary)._tokens
        self.one_by_one(monkeypatch)
        apart = ControlSource(parts, vocabulary)._tokens
        for field in dataclasses.fields(together):
            for a, b in zip(*(self.arrays(getattr(side, field.name)) for side in (together, apart)), strict=True):
                np.testing.assert_array_equal(a, b)

    def arrays(self, value: Any) -> list[Any]:
        if not dataclasses.is_dataclass(value):
            return [value]
        return [getattr(value, field.name) for field in dataclasses.fields(value)]

    def test_their_errors(self, parts: Dataset, vocabulary: Vocabulary) -> None:
        """Of a value, of a byte, and of columns that other parts do not have."""
        file, listing = parts.path / parts.info.parts[1].file, parts.path / "dataset.json"
        whole, told = file.read_bytes(), listing.read_bytes()
        episodes = parts.read_part(1)
        rewards = episodes.rewards.copy()
        rewards[3] = np.nan
        bad = dataclasses.replace(episodes, rewards=rewards)
        short = dataclasses.replace(episodes, actions={"": episodes.actions[""] + 9})
        changes: list[Callable[[], object]] = [
            lambda: write_episodes(file, bad, parts.observation_space, parts.action_space),
            lambda: write_episodes(file, short, parts.observation_space, parts.action_space),
            lambda: pq.write_table(pq.read_table(file).drop_columns(["seed"]), file),
            lambda: file.write_bytes(whole[:-9] + bytes(9)),
        ]
        for number, change in enumerate(changes):
            file.write_bytes(whole)
            listing.write_bytes(told)
            change()
            info = json.loads(told)
            if number < 3:  # with the right hash
                new = describe(file, rows=len(episodes), timesteps=int(episodes.lengths.sum()))
                info["parts"][1] = msgspec.to_builtins(new)
            listing.write_text(json.dumps(info))
            errors = []
            for way in (lambda _patch: None, self.one_by_one):
                with pytest.MonkeyPatch.context() as patch:
                    way(patch)
                    with pytest.raises(DatasetError) as caught:
                        ControlSource(Dataset.open(parts.path), vocabulary)
                errors.append(str(caught.value))
            assert errors[0] == errors[1]
            assert errors[0].startswith(str(file))


class TestControl:
    def test_every_document_begins_with_the_instruction(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        source = ControlSource(corridor, vocabulary)
        instruction = vocabulary.text.encode("Follow the sign.").tolist()
        for document in draws(source, 50, 200):
            assert document.tokens.ids[: len(instruction)].tolist() == instruction
            assert not document.target[: len(instruction)].any()
        assert source.name == "corridor"

    def test_targets_are_the_actions(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        for document in draws(ControlSource(corridor, vocabulary), 50, 80):
            is_discrete = np.isin(document.tokens.ids, np.array(vocabulary.discrete_ids))
            assert np.array_equal(document.target, is_discrete)
            assert np.array_equal(document.labels, document.tokens.ids)
            assert document.target[-1]
            before = document.tokens.ids[np.flatnonzero(document.target) - 1]
            assert (before == vocabulary.separator).all()

    def test_a_quarter_has_a_prompt(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        """The goal is said once in an episode, so a document with two goals has a prompt."""
        made = draws(ControlSource(corridor, vocabulary), 2000, 400)
        share = np.mean([len(document.tokens.chunks) == 2 for document in made])
        assert {len(document.tokens.chunks) for document in made} == {1, 2}
        assert share == pytest.approx(PROMPT_SHARE, abs=0.03)

    def test_windows_are_cut_at_timesteps(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        """Every one begins with all that a timestep says, ends with an action, and is within the context."""
        source = ControlSource(corridor, vocabulary)
        n_instruction = len(vocabulary.text.encode("Follow the sign."))
        lengths = set()
        for document in draws(source, 300, 30):
            assert len(document.tokens) <= 30
            rest = document.tokens.ids[n_instruction:]
            kinds = vocabulary.kind(rest)
            first = int(np.flatnonzero(rest == vocabulary.separator)[0])
            assert (rest[first - 2 : first] == [vocabulary.patch, vocabulary.chunk]).all()
            assert (kinds[: first - 2] == 0).all()
            lengths.add(len(document.tokens))
        assert len(lengths) > 5

    def test_no_more_history_than_the_task_is_to_show(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        """Neither in the episode nor in its prompt."""
        dataset = Dataset.open(corridor.path)
        dataset.info = msgspec.structs.replace(dataset.info, spec=dataclasses.replace(dataset.info.spec, history=2))
        made = draws(ControlSource(dataset, vocabulary), 300, 200)
        counts = [(int(document.target.sum()), len(document.tokens.chunks)) for document in made]
        assert max(count for count, goals in counts if goals == 1) == 2
        assert max(count for count, goals in counts if goals == 2) == 4
        starts = {document.tokens.ids.tobytes() for document in made}
        assert len(starts) > 30, "from anywhere in the episodes"

    def test_windows_begin_anywhere(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        """Also in the middle of an episode, where the sign is blank."""
        source = ControlSource(corridor, vocabulary)
        n_instruction = len(vocabulary.text.encode("Follow the sign."))
        signs = [document.tokens.ids[n_instruction] != vocabulary.patch for document in draws(source, 300, 22)]
        assert 0.1 < np.mean(signs) < 0.9

    def test_a_draw_is_a_function_of_its_generator(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        a, b = (draws(ControlSource(corridor, vocabulary), 20, 60) for _ in range(2))
        for one, other in zip(a, b, strict=True):
            assert np.array_equal(one.tokens.ids, other.tokens.ids)
            assert np.array_equal(one.tokens.pixels, other.tokens.pixels)

    def test_a_timestep_too_long_is_told_at_once(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        source = ControlSource(corridor, vocabulary)
        n_instruction = len(vocabulary.text.encode("Follow the sign."))
        longest = source._longest
        expected = (
            f"one timestep of 'corridor' is {longest} tokens, more than the {longest - 1} that fit; raise context"
        )
        with pytest.raises(ValueError, match=re.escape(expected)):
            source.draw(np.random.default_rng(0), n_instruction + longest - 1, 1)
        assert draws(source, 200, n_instruction + longest)

    def test_a_rare_long_timestep_fits_wherever_it_is_drawn(self, vocabulary: Vocabulary, tmp_path: Any) -> None:
        dataset = gato_lite.record(Talk(), lambda _: 0, episodes=3, out=tmp_path / "talk", seed=0, name="talk")
        source = ControlSource(dataset, vocabulary)
        longest = source._longest
        assert longest > 15
        made = draws(source, 400, longest)
        assert max(len(document.tokens) for document in made) == longest
        with pytest.raises(ValueError, match="one timestep of 'talk' is"):
            draws(source, 1, longest - 1)

    def test_counts(self, corridor: Dataset, vocabulary: Vocabulary) -> None:
        source = ControlSource(corridor, vocabulary)
        assert source.n_episodes == 40
        tokens = source._tokens
        assert source.n_tokens == int((~tokens.repeats).sum()) - len(source.instruction)
        assert 20 < mean_length(source, 60) <= 60

    def test_a_value_that_does_not_fit_its_space_is_named(self, vocabulary: Vocabulary, tmp_path: Any) -> None:
        gato_lite.record(Talk(), lambda _: 1, episodes=3, out=tmp_path / "talk", seed=0, name="talk")
        info = tmp_path / "talk" / "dataset.json"
        stored = json.loads(info.read_text())
        stored["action_space"]["n"] = 1
        info.write_text(json.dumps(stored))
        expected = "part-000000.parquet: episode 0, action, step 0: expected a member of Discrete(1), got 1"
        with pytest.raises(DatasetError, match=re.escape(expected)):
            ControlSource(Dataset.open(tmp_path / "talk"), vocabulary)

    def test_a_spec_that_keeps_nothing(self, vocabulary: Vocabulary, tmp_path: Any) -> None:
        spec = TokenSpec(leaves=())
        dataset = gato_lite.record(Talk(), lambda _: 0, episodes=1, out=tmp_path, name="talk", spec=spec)
        with pytest.raises(ValueError, match="expected its TokenSpec to keep a leaf of the observation, got none"):
            ControlSource(dataset, vocabulary)

    def test_documents_are_no_episodes(self, vocabulary: Vocabulary) -> None:
        from gato_lite.train.datasets import open_data

        with pytest.raises(ValueError, match="expected a dataset of episodes, got kind='documents'"):
            ControlSource(open_data("text"), vocabulary)


class TestText:
    def test_a_short_text_is_whole(self, vocabulary: Vocabulary) -> None:
        document = TextSource(["One boat."], vocabulary, name="t").draw(np.random.default_rng(0), 50, 1)[0]
        pieces = vocabulary.text.encode("One boat.").tolist()
        assert document.tokens.ids.tolist() == [vocabulary.end, *pieces, vocabulary.end]
        assert document.target.tolist() == [False] + [True] * (len(pieces) + 1)

    def test_stretches_of_a_long_text(self, vocabulary: Vocabulary) -> None:
        text = " ".join(str(number) for number in range(300))
        whole = [vocabulary.end, *vocabulary.text.encode(text).tolist(), vocabulary.end]
        starts = set()
        for document in draws(TextSource([text], vocabulary, name="t"), 100, 20):
            ids = document.tokens.ids.tolist()
            assert len(ids) == 20
            start = next(place for place in range(len(whole)) if whole[place : place + 20] == ids)
            starts.add(start)
            assert not document.target[0]
            assert document.target[1:].all()
        assert len(starts) > 50

    def test_long_texts_are_drawn_more_often(self, vocabulary: Vocabulary) -> None:
        source = TextSource(["1", "2 " * 400], vocabulary, name="t")
        first = int(vocabulary.text.encode("1")[0])
        assert np.mean([first in document.tokens.ids for document in draws(source, 300, 30)]) < 0.05

    def test_a_quarter_of_the_stretches_begin_with_a_prompt(self, vocabulary: Vocabulary) -> None:
        text = " ".join(str(number) for number in range(300))
        lengths = []
        for document in draws(TextSource([text], vocabulary, name="t"), 1000, 20):
            local = document.tokens.local
            prompt = (local < 0) & (local >= -TEXT_PLACES)
            lengths.append(int(prompt.sum()))
            assert local[prompt].tolist() == list(range(-1, -1 - lengths[-1], -1))
            assert not np.diff(prompt[1:].astype(int)).max(initial=0)  # none after the answer has begun
        said = [length for length in lengths if length]
        assert len(said) / len(lengths) == pytest.approx(PROMPT_SHARE, abs=0.05)
        assert (min(said), max(said)) == (1, 19)

    def test_no_text(self, vocabulary: Vocabulary) -> None:
        with pytest.raises(ValueError, match="text source 't' is empty, expected at least one document with text"):
            TextSource(["", ""], vocabulary, name="t")


def test_a_dataset_of_two_episodes_prompts_with_the_other(vocabulary: Vocabulary, tmp_path: Any) -> None:
    class Signed(gym.Env[Any, Any]):
        """The first and the second episode differ in every observation."""

        observation_space = spaces.Discrete(2)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
            self.sign, self.length = int(seed or 0), 0
            return self.sign, {}

        def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
            self.length += 1
            return self.sign, 0.0, self.length == 3, False, {}

    spec = TokenSpec(separator=True)
    dataset = gato_lite.record(Signed(), lambda _: 0, episodes=2, out=tmp_path / "two", name="two", spec=spec)
    prompted = [d.tokens.ids for d in draws(ControlSource(dataset, vocabulary), 200, 64) if len(d.tokens) > 9]
    assert len(prompted) > 20
    zero, one = vocabulary.discrete_ids[0], vocabulary.discrete_ids[1]
    for ids in prompted:
        seen = ids[ids != vocabulary.separator][::2]
        assert {int(seen[0]), int(seen[-1])} == {zero, one}


def longest_window(source: ControlSource, first: int, stop: int, budget: int) -> range:
    """The longest window of timesteps from `first` that fits, tried one timestep after another."""
    last, most = first, stop if source.spec.history is None else min(stop, first + source.spec.history)
    while last < most and source._tokens.window_length(first, last + 1) <= budget:
        last += 1
    return range(first, last)


def one_by_one(source: ControlSource, chances: list[float], budget: int) -> tuple[list[range], tuple[int, ...]]:
    """The windows of a document after its instruction, and its episodes: what `ControlSource` says, in plain steps."""
    episodes, history = source._episodes.tolist(), source.spec.history or 10**9
    shown = int(chances[0] * source.n_episodes)
    start, stop = episodes[shown : shown + 2]

    def window(room: int) -> range:
        whole = longest_window(source, start, stop, room)
        if whole.stop == stop:
            return whole
        earliest = start - len(whole) // 2
        return longest_window(source, max(start, earliest + int(chances[5] * (stop - earliest))), stop, room)

    if chances[1] < PROMPT_SHARE and source.n_episodes > 1:
        other = (shown + 1 + int(chances[2] * (source.n_episodes - 1))) % source.n_episodes
        begin, end = episodes[other : other + 2]
        ends = [
            first
            for first in range(max(begin, end - history), end)
            if source._tokens.window_length(first, end) <= budget // 2 or first == end - 1
        ]
        first = ends[0] if chances[3] < 0.5 else begin + int(chances[4] * (end - begin))
        prompt = longest_window(source, first, end, budget // 2)
        beside = window(budget - int(source._tokens.window_length(first, prompt.stop))) if prompt else prompt
        if beside:
            return [prompt, beside], (other, shown)
    return [window(budget)], (shown,)


@pytest.mark.parametrize("history", [None, 1, 3])
@pytest.mark.parametrize("name", ["corridor", "talk"])
def test_documents_drawn_together_are_those_drawn_one_by_one(
    corridor: Dataset, vocabulary: Vocabulary, tmp_path: Path, name: str, history: int | None
) -> None:
    dataset = Dataset.open(corridor.path)
    if name == "talk":
        dataset = gato_lite.record(Talk(), lambda _: 0, episodes=3, out=tmp_path / "talk", seed=0, name="talk")
    dataset.info = msgspec.structs.replace(dataset.info, spec=dataclasses.replace(dataset.info.spec, history=history))
    source = ControlSource(dataset, vocabulary)
    n_instruction = len(source.instruction)
    for more in (0, 5, 20, 60):
        budget = source._longest + more
        chances = np.random.default_rng(more).random((300, 6)).tolist()
        for document, numbers in zip(draws(source, 300, n_instruction + budget, more), chances, strict=True):
            windows, rows = one_by_one(source, numbers, budget)
            parts = [source._tokens.window(window.start, window.stop)[0].ids for window in windows]
            assert document.tokens.ids.tolist() == np.concatenate([source.instruction.ids, *parts]).tolist()
            assert document.rows == rows
