"""Held-out scores of what a model names, answers, translates and writes, beside what needs no understanding.

Answers are generated greedily, or by a beam search, after exactly what the documents show and say. Each ability has its
standard metric:

- caption, class, question, dialogue  exact match, apart from case and spaces at the ends; for dialogue it is recall
                                      where every reply was learnt, as an answer to other words
- translation                          chrF, and BLEU beside it (sacrebleu)
- text                                 bits per byte
"""

from __future__ import annotations

import collections
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from gato_lite.envs.dataset import Dataset, DatasetError, Document
from gato_lite.envs.format import Ability
from gato_lite.envs.recording import folder_name
from gato_lite.exchange import Exchange
from gato_lite.generate import write_answers
from gato_lite.model import Gato
from gato_lite.names import unknown_name
from gato_lite.run import read_run_config
from gato_lite.train.baselines import caption_scores, nearest_neighbour_captions, style_of
from gato_lite.train.console import OnProgress, print_note
from gato_lite.train.document_scores import Answer, DocumentScore, is_right
from gato_lite.train.language import text_score
from gato_lite.train.pictures import decode_picture
from gato_lite.train.shelf import dataset_folder
from gato_lite.train.statistics import interval, resampled_means
from gato_lite.train.templates import ABILITIES, apparent_ability

BATCH: Final = 128
"""Documents that share a forward."""
MAX_TOKENS: Final = 128
"""Pieces of the longest answer."""
EXAMPLES: Final = 24
"""Answers that are kept to be looked at."""
NEIGHBOURS: Final = 20_000
"""Training pictures that the nearest neighbour is looked for among; of more, that many are drawn."""


def ability_of(dataset: Dataset) -> Ability:
    """What the documents of a dataset teach: what it says itself, or what its first document looks like."""
    if dataset.info.ability is not None:
        return dataset.info.ability
    first = next(iter(dataset.read_documents()))
    return apparent_ability(first)


def score_name(dataset: Dataset) -> str:
    """What the scores of a dataset are called: "vision/NAME" or "text/NAME"."""
    seen = ability_of(dataset) in {"caption", "class", "question"}
    return f"{'vision' if seen else 'text'}/{dataset.info.task}"


def documents_of_run(run: Path, patterns: Sequence[str] = (), *, beside: bool = False) -> dict[str, Dataset]:
    """The datasets of documents that a run was trained on and that hold something out, by `score_name`.

    Datasets that cannot be read and patterns that match nothing are noted on standard error.

    Args:
        run: its folder.
        patterns: names such as "vision/*"; none means all.
        beside: whether there is something else to score, so that it is no error if nothing is found.

    Raises:
        FileNotFoundError: nothing is found, and there are datasets that cannot be read.
        ValueError: all that the run has can be read, and no pattern matches.
    """
    found, lost = _found_and_lost(run)
    matches = {pattern: fnmatch.filter(found, pattern) for pattern in patterns or ("*",)}
    chosen = {name for names in matches.values() for name in names}
    problems: list[Exception] = []
    is_published = "published" in read_run_config(run).training  # its data did not come with it, and is not missed
    if lost and not (is_published and (not patterns or all(matches.values()))):
        told = f"data that the run was trained on cannot be read: {', '.join(lost)}"
        fix = "run this in the folder in which the run was trained, or fetch or import the data to there again"
        problems.append(FileNotFoundError(f"{told}; {fix}"))
    problems += [
        ValueError(unknown_name("dataset of documents that the run has", pattern, found))
        for pattern in patterns
        if not matches[pattern]
    ]
    if problems and not chosen and not beside:
        raise problems[0]
    for problem in problems:
        print_note(f"gato-lite: {problem}")
    return {name: dataset for name, dataset in found.items() if name in chosen}


def _found_and_lost(run: Path) -> tuple[dict[str, Dataset], list[str]]:
    """The run's datasets of documents that hold something out, and what is told of data that cannot be read."""
    config = read_run_config(run)
    recorded = {folder_name(task.name) for task in config.tasks}  # nobody asks for documents in these
    found: dict[str, Dataset] = {}
    lost: list[str] = []
    for folder, _ in config.training.get("data", []):
        try:
            dataset = Dataset.open(dataset_folder(folder))
        except (FileNotFoundError, DatasetError) as error:
            if Path(folder).name not in recorded:
                lost.append(str(error) if isinstance(error, DatasetError) else f"{Path(folder).absolute()} (not found)")
            continue
        if dataset.info.kind == "documents" and dataset.read_documents("test"):
            found[score_name(dataset)] = dataset
    return found, lost


def held_out(dataset: Dataset, n: int, seed: int) -> list[Document]:
    """The held-out documents of a dataset; of more than `n`, that many are drawn.

    Raises:
        ValueError: it holds nothing out, or none is asked for.
    """
    if n < 1:
        raise ValueError(f"documents must be at least 1, got {n}")
    test = dataset.read_documents("test")
    if not test:
        raise ValueError(f"{dataset.path}: expected documents in the test split, found none; import it with test_share")
    if len(test) > n:
        drawn = np.random.default_rng(seed).choice(len(test), n, replace=False)
        test = [test[index] for index in sorted(drawn.tolist())]
    return test


def score_documents(
    gato: Gato,
    dataset: Dataset,
    *,
    n: int = 1000,
    seed: int = 0,
    beams: int = 1,
    max_tokens: int = MAX_TOKENS,
    on_progress: OnProgress | None = None,
) -> DocumentScore:
    """Scores a model on the held-out documents of a dataset.

    Args:
        gato: the model.
        dataset: of documents.
        n: most documents; of more, that many are drawn.
        seed: of that draw.
        beams: of the search for an answer; 1 is greedy.
        max_tokens: pieces of the longest answer.
        on_progress: called with documents done and in all.

    Raises:
        ValueError: it holds nothing out.
    """
    test, train = held_out(dataset, n, seed), dataset.read_documents("train")
    ability = ability_of(dataset)
    if ability == "text":
        return text_score(gato, train, test)
    answers = _answers(gato, test, beams, max_tokens, on_progress)
    if ability == "translation":
        return msgspec.structs.replace(translation_score(test, answers), beams=beams)
    blind: list[str] = []
    if ability == "question" and any(turn.image is not None for document in test for turn in document.turns):
        blind = _answers(gato, test, beams, max_tokens, blind=True)
    return msgspec.structs.replace(
        _exact(ability, train, test, answers, blind, np.random.default_rng(seed)), beams=beams
    )


def _answers(
    gato: Gato,
    documents: Sequence[Document],
    beams: int,
    max_tokens: int,
    on_progress: OnProgress | None = None,
    *,
    blind: bool = False,
) -> list[str]:
    """What the model answers; `blind` leaves the pictures away. Prompts of like length share a forward."""
    answers = [""] * len(documents)
    order = sorted(range(len(documents)), key=lambda index: len(documents[index].prompt))
    for start in range(0, len(order), BATCH):
        some = [documents[index] for index in order[start : start + BATCH]]
        asked = [
            [
                *(_exchange(None if blind else turn.image, turn.prompt, turn.text) for turn in document.before),
                _exchange(None if blind else document.image, document.prompt),
            ]
            for document in some
        ]
        written = write_answers(gato, asked, max_tokens=max_tokens, beams=beams)
        for index, text in zip(order[start : start + BATCH], written, strict=True):
            answers[index] = text
        if on_progress is not None:
            on_progress(start + len(some), len(documents))
    return answers


def _exchange(image: bytes | None, prompt: str, text: str = "") -> Exchange:
    return Exchange(image=None if image is None else decode_picture(image), prompt=prompt, text=text)


def _exact(
    ability: Ability,
    train: Sequence[Document],
    test: Sequence[Document],
    answers: Sequence[str],
    blind: Sequence[str],
    generator: np.random.Generator,
) -> DocumentScore:
    truth = [document.text for document in test]
    recalled = ability == "dialogue" and set(truth) <= {document.text for document in train}
    right = _right(answers, truth)
    low, high = interval(resampled_means(ability, right))
    more: dict[str, float] = {}
    if ability == "caption":
        more = {"token F1": caption_scores(answers, truth).token_f1}
        categories = {document.text: _category(document) for document in (*train, *test)}
        if None not in categories.values():
            named = [categories.get(answer.strip()) for answer in answers]
            more["category"] = float(np.mean([a == _category(b) for a, b in zip(named, test, strict=True)]))
    if blind:
        more["without the picture"] = float(_right(blind, truth).mean())
    return DocumentScore(
        ability=ability,
        metric=ABILITIES[ability] + " (recall)" * recalled,
        mean=float(right.mean()),
        low=low,
        high=high,
        n=len(test),
        baselines=_baselines(train, test, truth, generator),
        more=more,
        groups=_groups(test, right),
        examples=_examples(test, answers, right),
    )


def _right(answers: Sequence[str], truth: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([is_right(*pair) for pair in zip(answers, truth, strict=True)], np.float64)


def _category(document: Document) -> str | None:
    """The second part of a group such as "noto/Objects"."""
    return document.group.partition("/")[2] or None if document.group else None


def _baselines(
    train: Sequence[Document], test: Sequence[Document], truth: Sequence[str], generator: np.random.Generator
) -> dict[str, float]:
    """The commonest answer, the commonest to the same prompt, and that of the most similar picture, also of another
    style where pictures come in several.
    """
    overall = collections.Counter(document.text for document in train)
    commonest = overall.most_common(1)[0][0] if overall else ""
    found = {"commonest answer": float(_right([commonest] * len(test), truth).mean())}
    if len({document.prompt for document in test}) > 2:
        by_prompt: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for document in train:
            by_prompt[document.prompt][document.text] += 1
        looked_up = [
            by_prompt[document.prompt].most_common(1)[0][0] if document.prompt in by_prompt else commonest
            for document in test
        ]
        found["question alone"] = float(_right(looked_up, truth).mean())
    elif all(document.image is not None for document in (*train[:1], *test)) and train:
        found["most similar picture"] = _most_similar(train, test, generator)
        if len({style_of(document) for document in train}) > 1:
            found["most similar of another style"] = _most_similar(train, test, generator, other_groups=True)
    return found


def _most_similar(
    train: Sequence[Document], test: Sequence[Document], generator: np.random.Generator, *, other_groups: bool = False
) -> float:
    """Share of the test pictures that the most similar training picture with the same prompt names."""
    right = np.zeros(0)
    for prompt in sorted({document.prompt for document in test}):
        known = [document for document in train if document.prompt == prompt and document.image is not None]
        asked = [document for document in test if document.prompt == prompt]
        if len(known) > NEIGHBOURS:
            known = [known[index] for index in generator.choice(len(known), NEIGHBOURS, replace=False)]
        if len({style_of(document) for document in known}) > other_groups:
            named = nearest_neighbour_captions(known, asked, other_groups=other_groups)
            right = np.append(right, _right(named, [document.text for document in asked]))
    return float(right.mean()) if len(right) else 0.0


def _groups(test: Sequence[Document], right: Iterable[float]) -> dict[str, tuple[float, int]]:
    """The mean of each group, of each part of a group's name, and of each prompt where there are two."""
    few = len({document.prompt for document in test}) == 2
    values: dict[str, list[float]] = collections.defaultdict(list)
    for document, value in zip(test, right, strict=True):
        names = {document.group, *document.group.split("/")} if document.group else set()
        names |= {f"asked {document.prompt!r}"} if few else set()
        for name in sorted(names):
            values[name].append(value)
    return {name: (float(np.mean(found)), len(found)) for name, found in sorted(values.items())}


def translation_score(test: Sequence[Document], answers: Sequence[str]) -> DocumentScore:
    """ChrF and BLEU of whole translations, in all and of each group of sentences."""
    from sacrebleu.metrics.bleu import BLEU  # an extra
    from sacrebleu.metrics.chrf import CHRF

    chrf, bleu = CHRF(), BLEU()

    def scored(chosen: Sequence[int]) -> tuple[float, float]:
        own, truth = [answers[i] for i in chosen], [test[i].text for i in chosen]
        return chrf.corpus_score(own, [truth]).score, bleu.corpus_score(own, [truth]).score

    groups: dict[str, tuple[float, int]] = {}
    more: dict[str, float] = {}
    for group in sorted({document.group for document in test if document.group}):
        chosen = [index for index, document in enumerate(test) if document.group == group]
        own, more[f"BLEU {group}"] = scored(chosen)
        groups[group] = own, len(chosen)
    mean, more["BLEU"] = scored(range(len(test)))
    copied = [document.prompt.partition(": ")[2] or document.prompt for document in test]
    return DocumentScore(
        ability="translation",
        metric=ABILITIES["translation"],
        mean=mean,
        n=len(test),
        baselines={"the sentence itself": chrf.corpus_score(copied, [[document.text for document in test]]).score},
        more=more,
        groups=groups,
        signatures={"chrF": str(chrf.get_signature()), "BLEU": str(bleu.get_signature())},
        examples=_examples(test, answers),
    )


def _examples(
    test: Sequence[Document], answers: Sequence[str], right: npt.NDArray[np.float64] | None = None
) -> list[Answer]:
    """Some answers, evenly spread; of right ones and wrong ones a third at least, as far as there are any."""
    if right is None:
        kinds = [(np.arange(len(test)), EXAMPLES)]
    else:
        good, wrong = np.flatnonzero(right > 0), np.flatnonzero(right == 0)
        least = EXAMPLES // 3
        most_wrong = EXAMPLES - min(least, len(good))
        n_wrong = min(len(wrong), most_wrong, max(least, round(EXAMPLES * len(wrong) / len(test))))
        kinds = [(good, EXAMPLES - n_wrong), (wrong, n_wrong)]
    spread = [kind[np.linspace(0, len(kind) - 1, min(n, len(kind))).astype(int)] for kind, n in kinds]
    places = sorted(np.concatenate(spread).tolist())
    return [
        Answer(image=test[i].image, prompt=test[i].prompt, answer=answers[i], truth=test[i].text, group=test[i].group)
        for i in places
    ]
