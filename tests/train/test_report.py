from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console

from gato_lite.config import GatoConfig, TokenSpec
from gato_lite.envs.film import record_film
from gato_lite.model import Gato
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.train.document_scores import Answer, DocumentScore
from gato_lite.train.inspect import timestep_stream
from gato_lite.train.metrics import read_metrics
from gato_lite.train.pictures import encode_png
from gato_lite.train.report import MAX_PAGE_BYTES, make_page, write_report
from gato_lite.train.report_curves import MAX_POINTS, chart, curve_section, ticks
from gato_lite.train.report_data import ReportData, collect_report
from gato_lite.train.scores import Scores, SuiteScore, TaskScore
from gato_lite.train.summary import summary_table
from gato_lite.train.wording import number, percent

WRITTEN = DocumentScore(
    ability="text",
    metric="bits per byte",
    mean=1.9,
    n=3,
    baselines={"xz": 2.09, "piece frequencies": 2.56},
    examples=[Answer(image=None, prompt="It was a di", answer="vine day", truth="smal night", group=None)],
)
VOID = {"meta", "img", "br", "col"}


class Reader(HTMLParser):
    """Gathers tags and text, and checks that every tag is closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def task_score(normalised: float | None, *, success: float | None = None, mean: float = 400.0) -> TaskScore:
    known = normalised is not None
    return TaskScore(
        mean=mean if success is None else success,
        std=12.5,
        success=success,
        normalised=normalised,
        low=normalised - 0.05 if known else None,
        high=normalised + 0.05 if known else None,
        episodes=100,
        seed=10**9,
        random=22.0 if success is None else 0.1,
        expert=500.0 if success is None else 1.0,
    )


def metrics_lines(count: int) -> list[dict[str, Any]]:
    return [
        {
            "step": 20 * index,
            "elapsed_s": 2.5 * index,
            "loss": 4 / index,
            "loss_by_task": {"classic/CartPole": 1 / index, "text": 8 / index},
            "loss_by_modality": {"text": 8 / index, "discrete": 1 / index},
            "tokens_per_s": 25000.0,
        }
        for index in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    class Still(gym.Env[Any, Any]):
        render_mode = "rgb_array"
        observation_space = action_space = spaces.Discrete(2)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return 0, {}

        def step(self, action: Any) -> Any:
            return 0, 1.0, True, False, {}

        def render(self) -> Any:
            return np.full((32, 32, 3), 90, np.uint8)

    path = tmp_path_factory.mktemp("films") / "classic-CartPole.mp4"
    return record_film(Still(), lambda observation: 0, path, seed=0, min_seconds=0).path


@pytest.fixture
def data(film: Path) -> ReportData:
    seen, done = SpaceTokenizer(spaces.Box(-1, 1, (3,), np.float32)), SpaceTokenizer(spaces.Discrete(2), action=True)
    stream = timestep_stream(
        seen.stack([np.array([0.5, -0.25, 1], np.float32)]),
        done.stack([1]),
        seen,
        done,
        name="classic/CartPole",
        about="first timestep",
        instruction="Balance <it>.",
    )
    png = encode_png(np.full((8, 8, 3), 120, np.uint8))
    return ReportData(
        run="runs/demo/run",
        command="gato-lite demo --out runs/demo",
        scores=Scores(
            tasks={
                "classic/CartPole": task_score(0.9),
                "babyai/GoToObj": task_score(0.6, success=0.64),
                "gym:Mine-v0": task_score(None),
            },
            suites={
                "classic": SuiteScore(mean=0.9, median=0.9, success=None, n_tasks=1),
                "babyai": SuiteScore(mean=0.6, median=0.6, success=0.64, n_tasks=1),
            },
            documents={
                "vision/emoji": DocumentScore(
                    ability="caption",
                    metric="exact match",
                    mean=0.5,
                    low=0.25,
                    high=0.75,
                    n=2,
                    baselines={"most similar of another style": 0.27, "most similar picture": 0.18},
                    more={"token F1": 0.6},
                    examples=[
                        Answer(image=png, prompt="", answer="red apple", truth="red apple", group="noto"),
                        Answer(
                            image=png, prompt="", answer="<script>alert(1)</script>", truth="fog & rain", group=None
                        ),
                    ],
                ),
                "text/text": WRITTEN,
            },
        ),
        n_parameters=1_732_480,
        training_minutes=6.5,
        total_minutes=9.75,
        seconds={"recording": 50.0, "training": 390.0},
        films={"classic/CartPole": film},
        streams=[stream],
        metrics=metrics_lines(50),
        config={"optimiser": "muon", "learning_rate": 0.002, "data": [["emoji", 1.0]], "kept": None},
        seeds={"evaluation": 10**9},
        versions={"gato_lite": "0.1.0", "python": "3.11"},
        machine="2 cores, <fast>, Linux",
        credits="Pictures: © them & others.",
    )


def test_the_page_is_whole_and_shows_everything(data: ReportData, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", data)
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Watch it act",
        "Scores",
        "Beside other generalists",
        "Names pictures: vision/emoji",
        "Writes: text/text",
        "How it learned",
        "What it reads",
        "How it was made",
    ]
    ids = {attrs["id"] for attrs in reader.all("section")}
    assert {attrs["href"] for attrs in reader.all("a")} == {f"#{key}" for key in ids}
    assert "One set of weights plays 3 tasks, names pictures and writes" in reader.text
    for words in ("0.75", "64\u202f%", "50\u202f%", "1.90", "6.5", "1.73\u202fM", "gato-lite demo --out runs/demo"):
        assert words in reader.text
    assert "muon" in reader.text
    assert "Pictures: © them & others." in reader.text
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_loaded_and_nothing_is_markup_that_should_be_text(data: ReportData) -> None:
    page = make_page(data)
    reader = Reader(page)
    sources = [attrs["src"] for _, attrs in reader.tags if "src" in attrs]
    assert sources
    assert all(source and source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert len(reader.all("script")) == 1
    assert "<script>alert(1)</script>" in reader.text
    assert "2 cores, <fast>, Linux" in reader.text
    assert "default-src 'none'" in page


def test_a_film_plays_in_the_page(data: ReportData, film: Path) -> None:
    (video,) = Reader(make_page(data)).all("video")
    assert {"controls", "loop", "muted", "playsinline"} <= video.keys()
    prefix, _, encoded = (video["src"] or "").partition(",")
    assert prefix == "data:video/mp4;base64"
    import base64

    assert base64.b64decode(encoded) == film.read_bytes()


def test_films_beyond_the_budget_are_named(data: ReportData, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(10_000_001))
    page = make_page(replace(data, films={"classic/CartPole": large}))
    assert len(page) < MAX_PAGE_BYTES
    assert "left out to keep the page small:<br>large.mp4" in page


def test_a_page_too_large_is_refused(data: ReportData, tmp_path: Path) -> None:
    big = Answer(image=bytes(12_000_000), prompt="", answer="a", truth="b", group=None)
    score = msgspec.structs.replace(data.scores.documents["vision/emoji"], examples=[big])
    scores = msgspec.structs.replace(data.scores, documents={"vision/emoji": score})
    with pytest.raises(ValueError, match=r"the report would be 16.\d MB, expected at most 15"):
        write_report(tmp_path / "report.html", replace(data, scores=scores))
    assert not list(tmp_path.iterdir())


def test_right_and_wrong_differ_in_sign_and_words(data: ReportData) -> None:
    page = make_page(data)
    right, wrong = re.findall(r'<figure class="picture.*?</figure>', page)
    assert "✓" in right
    assert "right: " in right
    assert "is: " not in right
    assert "✗" in wrong
    assert "wrong: " in wrong
    assert "is: fog &amp; rain" in wrong


def test_every_token_is_drawn(data: ReportData) -> None:
    page = make_page(data)
    (stream,) = data.streams
    assert page.count('<div class="token ') == len(stream.rows)
    assert page.count(" target") - page.count(" target to") >= 1
    assert page.count('class="token k-discrete target"') == 1
    assert "<b>3 scalars</b>" in page
    assert "0.50 −0.25 1.00" in page


def test_what_a_run_lacks_is_left_out() -> None:
    bare = ReportData(
        run="r",
        command="c",
        scores=Scores(tasks={}, suites={}, documents={"text/text": WRITTEN}),
        n_parameters=79_000_000,
        training_minutes=1.0,
    )
    page = make_page(bare)
    Reader(page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Writes: text/text", "How it was made"]
    assert "One set of weights writes" in page
    assert "79\u202fM" in page


def test_scores_out_of_range_stay_in_the_page(data: ReportData) -> None:
    scores = Scores(tasks={"a/b": task_score(-3.0), "a/c": task_score(4.0)}, suites={})
    places = [float(p) for p in re.findall(r"left:([\d.]+)%", make_page(replace(data, scores=scores)))]
    assert all(0 <= place <= 100 for place in places)


def test_curves_are_svg_with_all_lines() -> None:
    section = curve_section(metrics_lines(400))
    root = ET.fromstring(f"<div>{section}</div>")
    assert len(root.findall(".//svg")) == 2 + 2
    lines = root.findall(".//polyline")
    assert len(lines) == 2 + 2 + 2
    assert all(len(line.attrib["points"].split()) <= MAX_POINTS for line in lines)
    points = [tuple(map(float, p.split(","))) for line in lines for p in line.attrib["points"].split()]
    assert all(-1 <= x <= 441 and -1 <= y <= 221 for x, y in points)
    assert "discrete" in section
    assert not curve_section(metrics_lines(1))


def test_curves_show_scores_during_training_where_there_are_some() -> None:
    lines = metrics_lines(3)
    for line, score in zip(lines, (None, 0.2, 0.6), strict=True):
        if score is not None:
            line["score_by_suite"] = {"babyai": score}
    assert "Score during training" in curve_section(lines)
    assert "Score during training" not in curve_section(metrics_lines(3))


@pytest.mark.parametrize("low, high", [(0, 1), (0, 8.3), (-3, 4), (0, 0.013), (0, 6.6), (0, 60)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 6
    assert low - 1e-9 <= found[0] < found[-1] <= high + 1e-9
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_a_flat_line_can_be_drawn() -> None:
    section = curve_section([{"elapsed_s": 0.0, "loss": 0.0}, {"elapsed_s": 0.0, "loss": 0.0}])
    assert "nan" not in section
    assert ticks(1.0, 1.0) == [1.0]
    assert chart.__doc__


def test_numbers_for_people() -> None:
    assert number(-1234.567, 1) == "−1,234.6"
    assert number(None) == "–"
    assert number(-0.001) == "0.00"
    assert percent(0.756) == "76\u202f%"


def test_metrics_end_where_the_file_was_cut(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_a_report_is_collected_from_a_run(tmp_path: Path, data: ReportData) -> None:
    gato = Gato(GatoConfig(n_layer=1, n_head=1, d_model=8, d_ff=8, d_encoder=8))
    space = spaces.Discrete(2)
    task = task_format("classic/CartPole", space, space, TokenSpec(), None)
    training = {"seed": 3, "optimiser": "muon", "minutes": 10.0}
    config = RunConfig(model=gato.config, tasks=(task,), vocabulary=gato.vocabulary.fingerprint, training=training)
    write_run(tmp_path, config, gato.vocabulary)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics_lines(24)))
    found = collect_report(tmp_path, gato, data.scores, command="gato-lite demo", total_minutes=2.0)
    assert found.training_minutes == pytest.approx(1.0)
    assert found.n_parameters == gato.n_parameters
    assert found.seeds == {"weights and batches": 3, "evaluation, first": 10**9}
    assert found.config["steps taken"] == 480
    assert found.config["optimiser"] == "muon"
    assert found.mean_normalised == pytest.approx(0.75)
    Reader(make_page(found))


def test_the_summary_fits_a_terminal_and_says_what_to_try_next(data: ReportData) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(data, Path("runs/demo/run/report.html")))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for words in (
        "CartPole",
        "0.90",
        "64\u202f%",
        "0.25–0.75",
        "xz 2.09",
        'gato-lite prompt runs/demo/run "The old house"',
        "report.html",
        "gato-lite inspect runs/demo/run",
    ):
        assert words in shown
    bare = ReportData(run="r", command="c", scores=Scores(tasks={}, suites={}), n_parameters=1, training_minutes=0.1)
    console.print(summary_table(bare))
