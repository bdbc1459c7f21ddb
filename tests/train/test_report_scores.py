from __future__ import annotations

import io
import re
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from rich.console import Console

from gato_lite.envs.catalogue import by_suite
from gato_lite.train.card_figure import draw, main
from gato_lite.train.commands.play import _mean_row
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.model_card import _published, _task_row
from gato_lite.train.report_scores import (
    comparison_section,
    films_worth_showing,
    published_section,
    score_section,
)
from gato_lite.train.score_tables import WEAKEST, score_tables
from gato_lite.train.scores import Scores, TaskScore, compare, score_suite
from gato_lite.train.statistics import interval, resampled_means
from gato_lite.train.wording import FOLDED

BABYAI = [f"babyai/Level{index}" for index in range(20)]


def scores(shares: dict[str, float], episodes: int = 20) -> Scores:
    """Tasks from random 0 to expert 1 that are solved in these shares of their episodes."""
    values = {
        name: (np.random.default_rng(index).permutation(episodes) < share * episodes).astype(float)
        for index, (name, share) in enumerate(shares.items())
    }
    tasks = {}
    for name, found in values.items():
        low, high = interval(resampled_means(name, found))
        tasks[name] = TaskScore(
            mean=float(found.mean()),
            std=float(found.std()),
            success=float(found.mean()),
            normalised=float(found.mean()),
            low=low,
            high=high,
            episodes=episodes,
            seed=10**9,
            random=0.0,
            expert=1.0,
        )
    listed: dict[str, list[float | None]] = {name: list(found.tolist()) for name, found in values.items()}
    return Scores(
        tasks=tasks,
        suites={suite: score_suite(names, tasks, listed) for suite, names in by_suite(tasks).items()},
        overall=score_suite(list(tasks), tasks, listed),
        values=listed,
    )


@pytest.fixture
def many() -> Scores:
    """A long suite from 0.05 to 1, and a short one."""
    rising = {name: (index + 1) / 20 for index, name in enumerate(BABYAI)}
    return scores({**rising, "classic/CartPole": 1.0, "classic/Acrobot": 0.4})


def text(section: str) -> str:
    return re.sub(r"<[^>]*>", " ", section)


def test_the_threshold_curve_counts_tasks(many: Scores) -> None:
    page = score_section(many)
    root = ET.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL).group())  # type: ignore[union-attr]
    (line,) = root.findall(".//polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) == 101
    assert heights == sorted(heights), "fewer tasks reach more, and a figure's y grows downwards"
    at = {share: sum((index + 1) / 20 >= share - 1e-9 for index in range(20)) + 1 for share in (0.5, 0.8, 0.9)}
    assert at == {0.5: 12, 0.8: 6, 0.9: 4}
    labels = [found.text for found in root.findall(".//text") if found.attrib.get("class") == "label"]
    assert labels == ["12 of 22", "6", "4"]
    bottom, top = 300 - 44, 14
    assert (bottom - heights[50]) / (bottom - top) == pytest.approx(12 / 22, abs=0.002)
    (band,) = root.findall(".//polygon")
    ends = np.array([[float(part) for part in point.split(",")] for point in band.attrib["points"].split()])
    upper, lower = ends[:101, 1], ends[101:, 1][::-1]
    assert (upper <= lower + 1e-9).all()
    assert (lower - upper).max() > 5, "an interval has a width"


def test_suites_are_told_with_intervals(many: Scores) -> None:
    page = text(score_section(many))
    babyai = many.suites["babyai"]
    low, high = babyai.intervals["iqm"]
    assert babyai.iqm == pytest.approx(np.mean(np.arange(6, 16) / 20))
    assert f"{babyai.iqm:.2f} {low:.2f} – {high:.2f}" in re.sub(r"\s+", " ", page)
    assert re.search(r"all\s+22\s", page)
    alone = score_section(scores({"classic/CartPole": 0.9}))
    assert '<tr class="all">' not in alone, "the only suite is all there is"


def test_long_suites_begin_closed(many: Scores) -> None:
    page = score_section(many)
    opened = re.findall(r'<details class="suite"( open)?><summary><b>(\w+)</b>', page)
    assert opened == [("", "babyai"), (" open", "classic")]
    assert len(BABYAI) > FOLDED


def test_scores_without_a_scale_have_no_curve() -> None:
    bare = TaskScore(
        mean=3.0, std=1.0, success=None, normalised=None, low=None, high=None, episodes=2, seed=10**9, random=None
    )
    page = score_section(Scores(tasks={"gym:Mine-v0": bare}, suites={}, values={"gym:Mine-v0": [2.0, 4.0]}))
    assert "<svg" not in page
    assert "3.0 ± 1.0" in page


def test_differences_say_what_is_significant() -> None:
    first = scores({"babyai/GoToObj": 1.0, "babyai/OpenDoor": 0.5, "classic/CartPole": 0.5})
    second = scores({"babyai/GoToObj": 0.0, "babyai/OpenDoor": 0.5, "classic/CartPole": 0.5})
    page = comparison_section(compare(first, second, "runs/a", "runs/<b>"))
    assert "Tasks in which runs/a is significantly better: GoToObj." in page
    assert "Suites in which runs/a is significantly better: babyai." in page
    assert page.count("▲") == 2 + 1, "the task, its suite, and all"
    assert "▼" not in page
    assert "runs/&lt;b&gt;" in page
    assert "runs/<b>" not in page
    places = [float(place) for place in re.findall(r"left:([\d.]+)%", page)]
    assert all(0 <= place <= 100 for place in places)
    same = comparison_section(compare(first, first, "a", "b"))
    assert "Nothing differs significantly." in same
    assert "▲" not in same


def test_published_scores_are_of_the_same_tasks() -> None:
    found = scores({"babyai/GoToLocal": 0.8, "babyai/PickupLoc": 0.9, "babyai/Unheard": 0.1, "toy/Taxi": 0.5})
    page = text(published_section(found))
    assert "babyai: the 2 tasks that both were scored on" in page
    assert re.search(r"this model\s+0.85\s+JAT, 193 M\s+0.93", page), "0.93 and 0.92 are JAT's"
    assert "Over all 39 of its tasks JAT's mean is 0.85 and its interquartile mean over episodes 0.99" in page.replace(
        "&#x27;", "'"
    )
    assert "Unheard" not in page
    assert "MuJoCo" not in page
    assert "Gallouédec et al. 2024" in page
    assert published_section(scores({"toy/Taxi": 0.5})) == ""


def test_films_of_a_long_suite_are_of_its_ends_and_its_middle(many: Scores) -> None:
    assert films_worth_showing(many) == [
        "babyai/Level0",
        "babyai/Level10",
        "babyai/Level19",
        "classic/CartPole",
        "classic/Acrobot",
    ]


def shown(found: Scores, width: int, *, fold: bool) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(score_tables(found, fold=fold))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_fit_a_terminal_and_fold_long_suites(many: Scores) -> None:
    other = scores(dict.fromkeys(many.tasks, 0.3))
    found = msgspec.structs.replace(many, against=compare(many, other, "runs/a", "runs/b"))
    folded = shown(found, 80, fold=True)
    assert max(map(len, folded.splitlines())) <= 80
    for name in [*BABYAI[:WEAKEST], "classic/CartPole"]:
        assert folded.count(f" {name.split('/')[1]} ") >= 1, name
    assert "Level12" not in folded
    assert "and 15 more" in folded
    assert "≥ 0.30" in folded, "the others' lowest score"
    whole = shown(found, 120, fold=False)
    assert all(name.split("/")[1] in whole for name in many.tasks)
    assert "more" not in whole


def test_tables_of_nothing_known_can_be_shown() -> None:
    bare = TaskScore(
        mean=None, std=None, success=None, normalised=None, low=None, high=None, episodes=0, seed=1, failed=2
    )
    out = shown(Scores(tasks={"toy/Taxi": bare}, suites={}), 80, fold=True)
    assert "Taxi" in out
    assert "2 failed" in out


def test_groups_of_documents_have_rows_of_their_own() -> None:
    groups = {"asked/fluent": (9.0, 1), "debian": (53.11, 178), "wesnoth": (17.45, 780)}
    more = {"BLEU": 7.6, "BLEU debian": 29.9, "BLEU wesnoth": 2.37}
    score = DocumentScore(ability="translation", metric="chrF", mean=24.46, n=958, more=more, groups=groups)
    _, _, *rows = shown(Scores(tasks={}, suites={}, documents={"text/en-it": score}), 120, fold=True).splitlines()[1:]
    told = [" ".join(row.split()) for row in rows if row.strip()]
    assert told == ["text/en-it chrF 24.46 958 BLEU 7.60", "debian 53.11 178 BLEU 29.90", "wesnoth 17.45 780 BLEU 2.37"]


def test_a_return_that_equals_the_share_of_successes_is_no_percentage() -> None:
    found = scores({"toy/FrozenLake": 0.5, "toy/Taxi": 0.5})
    metrics = {"toy/FrozenLake": "return", "toy/Taxi": "success"}
    tasks = {name: msgspec.structs.replace(score, metric=metrics[name]) for name, score in found.tasks.items()}
    page = score_section(msgspec.structs.replace(found, tasks=tasks))
    assert '<td class="raw">0.5 ± 0.5</td>' in page
    assert '<td class="raw">50\u202f%</td>' in page
    table = shown(msgspec.structs.replace(found, tasks=tasks), 120, fold=False)
    assert re.search(r"FrozenLake .* 0\.5 ± 0\.5 ", table)
    assert re.search(r"Taxi .* 50\u202f% ", table)
    for row in (_task_row, _mean_row):
        told = [row(name, score) for name, score in tasks.items()]
        assert ["50\u202f%" in cells for cells in told] == [False, True]


def test_a_cards_figure(tmp_path):
    found = scores({"babyai/GoToObj": 1.0, "babyai/PutNextLocal": 0.5, "toy/Taxi": 0.75})
    (tmp_path / "eval.json").write_bytes(msgspec.json.encode(found))
    main(str(tmp_path / "eval.json"), str(tmp_path / "one.svg"))
    draw(found, tmp_path / "two.svg")
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    legends = drawn.decode()
    for words in (
        "all tasks, 3",
        "the 2 tasks that both were scored on",
        "the same, JAT (193 M)",
        "babyai, 2",
        "toy, 1",
    ):
        assert f"<!-- {words} -->" in legends
    with pytest.raises(ValueError, match="expected scores with a normalised task"):
        draw(Scores(tasks={}, suites={}), tmp_path / "three.svg")


def test_a_card_names_what_jat_reached_on_the_same_tasks():
    told = _published(scores({"babyai/GoToObj": 1.0, "babyai/PutNextLocal": 0.5, "toy/Taxi": 0.75}))
    assert "| babyai | 2 | 0.75 | 0.87 |" in told  # JAT: 1.01 and 0.73
    assert "What differs, in babyai: JAT scores the reward" in told
    assert _published(scores({"toy/Taxi": 0.75})) == ""
