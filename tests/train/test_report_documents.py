from __future__ import annotations

import msgspec
import numpy as np

from gato_lite.train.document_scores import Answer, DocumentScore
from gato_lite.train.pictures import encode_png
from gato_lite.train.report import make_page
from gato_lite.train.report_data import ReportData
from gato_lite.train.report_documents import abilities, document_section, rivals
from gato_lite.train.scores import Scores
from gato_lite.train.wording import percent

PNG = encode_png(np.zeros((8, 8, 3), np.uint8))
ASKED = DocumentScore(
    ability="question",
    metric="accuracy",
    mean=0.75,
    low=0.5,
    high=0.9,
    n=1200,
    baselines={"commonest answer": 0.25, "question alone": 0.5},
    more={"without the picture": 0.6},
    groups={"noto": (0.5, 2), "noto/Objects": (0.5, 2)},
    examples=[
        Answer(image=PNG, prompt="what <b>colour</b>?", answer="red", truth="Red", group=None),
        Answer(image=PNG, prompt="which?", answer="blue", truth="red", group="noto"),
    ],
)
WRITTEN = DocumentScore(
    ability="text", metric="bits per byte", mean=2.5, n=3, baselines={"xz": 2.0, "byte 5-gram": 3.0}
)
TRANSLATED = DocumentScore(
    ability="translation",
    metric="chrF",
    mean=51.25,
    n=9,
    signatures={"chrF": "nrefs:1|version:2"},
    examples=[Answer(image=None, prompt="Translate to Italian: a <cat>", answer="un gatto", truth="gatto", group="x")],
)


def test_answers_right_and_wrong_beside_baselines() -> None:
    about, content = document_section("vision/q", ASKED)
    assert "1,200 held-out documents of vision/q: accuracy 75\u202f% (50\u202f% to 90\u202f%)" in about
    assert content.count('class="picture right"') == content.count('class="picture wrong"') == 1
    assert "what &lt;b&gt;colour&lt;/b&gt;?" in content
    assert "is: red" in content
    assert "noto (2)" in content
    assert "noto/Objects" not in content


def test_translations_stand_beside_references() -> None:
    about, content = document_section("text/en-it", TRANSLATED)
    assert "chrF 51.25" in about
    assert "Translate to Italian: a &lt;cat&gt;" in content
    assert content.index("un gatto") < content.index(">gatto<")
    assert "chrF: nrefs:1|version:2" in content


def test_a_word_cut_by_the_prompt_can_be_read_on_both_sides() -> None:
    def shown(prompt: str, answer: str, truth: str) -> str:
        example = Answer(image=None, prompt=prompt, answer=answer, truth=truth, group=None)
        return document_section("text/w", msgspec.structs.replace(WRITTEN, examples=[example]))[1]

    page = shown("It was a di", "vine day", "smal night")
    assert '<div class="prompt">It was a</div>' in page
    assert "the model goes on</h4><i>di</i>vine day …" in page
    assert "the text goes on</h4><i>di</i>smal night …" in page
    assert "<i>" not in shown("It was", " a day", " a night")


def test_the_best_baseline_comes_first() -> None:
    assert [name for name, *_ in rivals(ASKED)] == ["model", "question alone", "commonest answer"]
    assert [name for name, *_ in rivals(WRITTEN, most=1)] == ["model", "xz"]


def test_a_page_of_documents_alone() -> None:
    documents = {"vision/q": ASKED, "text/w": WRITTEN, "text/en-it": TRANSLATED}
    scores = Scores(tasks={}, suites={}, documents=documents)
    page = make_page(ReportData(run="r", command="c", scores=scores, n_parameters=10, training_minutes=1.0))
    assert "One set of weights answers questions, writes and translates" in page
    assert 'id="vision-q"' in page
    assert "q: accuracy" in page
    assert abilities(documents) == ["answers questions", "writes", "translates"]


def test_all_is_said_of_all_alone() -> None:
    shares = (0.0, 0.994, 0.9995, 1.0)
    assert [percent(share).replace("\u202f", " ") for share in shares] == ["0 %", "99 %", "99.9 %", "100 %"]
    assert percent(None) == "–"
