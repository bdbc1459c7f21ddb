from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import pytest

from gato_lite.envs.catalogue import find_tasks
from gato_lite.run import read_run_config
from gato_lite.train.card_facts import Facts, collect_facts
from gato_lite.train.console import to_json
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.loop import Length
from gato_lite.train.model_card import model_card
from gato_lite.train.plans import Part, Plan, record_plan
from gato_lite.train.rollout import Outcome
from gato_lite.train.scores import Scores, summarise
from gato_lite.train.settings import TrainConfig
from gato_lite.train.ship_run import publish
from gato_lite.train.training import train_run

SEED = 10**9
COMMAND = "gato-lite train mine"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on two tasks and text; the experts were asked after the second."""
    here = tmp_path_factory.mktemp("card")
    plan = Plan(tasks=[{"toy/Taxi": Part(20, 1.0), "classic/CartPole": Part(20, 1.0)}], documents={"text": 1.0})
    config = TrainConfig(context_length=64, tokens_per_step=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gato_lite.train.loop.matmul_peak", lambda _device, precision: 1e9)
        out = train_run(
            config, [*record_plan(plan, here / "data"), *plan.documents.items()], here / "run", length=Length(steps=3)
        )
    asked = out / "asked" / "step_2"
    shutil.copytree(here / "data" / "toy-Taxi", asked / "toy-Taxi")
    (asked / "asked.json").write_text(to_json({"step": 2, "seconds": 90.0, "solved": {}}))
    return out


def scores(*values: float) -> Scores:
    """Of three episodes each of the two tasks."""
    tasks = find_tasks(["toy/Taxi", "classic/CartPole"])
    outcomes = [
        Outcome(task=task.name, seed=SEED + index, total_reward=value, length=9, success=None)
        for task, value in zip(tasks, values, strict=True)
        for index in range(3)
    ]
    return summarise(tasks, outcomes, SEED)


def facts(run: Path, found: Scores | None) -> Facts:
    return collect_facts(run, name="mine", command=COMMAND, machine="a PC", scores=found)


def card(run: Path, found: Scores | None, tmp_path: Path) -> str:
    return model_card(facts(run, found), publish(run, "mine", tmp_path))


def test_what_it_is_and_learnt_from(run: Path, tmp_path: Path) -> None:
    text = card(run, None, tmp_path)
    parameters = facts(run, None).gato.n_parameters / 1e6
    assert f"plays 2 tasks and continues text (`text`). It is a decoder-only Transformer of {parameters:.2f} " in text
    assert "gato-lite play toy/Taxi --run mine --video film.mp4\n" in text
    trained = r"on a PC: 3 steps in \d\.\d minutes of training \(\d\.\d of CPU time\), about 0\.0 million tokens"
    assert re.search(f"`{re.escape(COMMAND)}`, {trained}", text)
    assert "After 2 steps the model acted itself and the experts said" in text
    assert "which took 2 minutes more. Optimiser: adamw; preset: lite-1m; seed: 0." in text
    assert "| toy | 1 | 20 |" in text
    assert "| classic | 1 | 20 | 10,000 | 0 |" in text
    assert (
        "- `text`, 2,570 documents, a part of which was held out. Licence: Public domain (novels); WordNet-3.0" in text
    )
    assert "It was not scored." in text
    assert "## Every task" not in text
    assert "in the manner of what it has read (`text`)." in text
    assert "names pictures" not in text
    assert "Translate to" not in text
    assert str(run.parent) not in text, "a place on this machine"


def test_what_it_reaches(run: Path, tmp_path: Path) -> None:
    found = scores(7.9, 100.0)
    named = DocumentScore(ability="text", metric="bits per byte", mean=2.5, n=9, baselines={"xz": 2.09})
    text = card(run, msgspec.structs.replace(found, documents={"text/text": named}), tmp_path)
    assert "played on 3 seeded episodes, the same for everyone, from seed 1,000,000,000 on" in text
    assert "`gato-lite eval mine --episodes 3 --json eval.json`" in text
    assert "| toy | 1 | 1.00 (1.00–1.00) |" in text
    assert "| **all** | 2 | 0.58 (0.58–0.58) |" in text
    assert "| `Taxi` | 7.9 | −782.3 | 7.8 | 1.00 (1.00–1.00) | 3 |" in text
    assert "| `CartPole` | 100.0 | 22.8 | 500.0 | 0.16 (0.16–0.16) | 3 |" in text
    assert "| `text/text` | bits per byte | 2.50 | 9 | xz 2.09 |" in text
    kinds = {"debian": (53.1, 7), "wesnoth": (17.5, 2)}
    named = DocumentScore(ability="translation", metric="chrF", mean=24.5, n=9, baselines={}, groups=kinds)
    text = card(run, msgspec.structs.replace(found, documents={"text/en-it": named}), tmp_path)
    assert "| `text/en-it` | chrF | 24.50: debian 53.10 (7), wesnoth 17.50 (2) | 9 |  |" in text
    assert "Weak suites, with a mean below 0.75: classic (0.16).\n" in text
    assert "Below half of the expert, 1 of 2 tasks: `classic/CartPole` (0.16).\n" in text


def test_what_was_left_out_or_failed_is_told(run: Path, tmp_path: Path) -> None:
    tasks = find_tasks(["toy/Taxi"])
    broken = Outcome(task="toy/Taxi", seed=SEED + 6, total_reward=0.0, length=1, success=None, failed="it hung")
    whole = Outcome(task="toy/Taxi", seed=SEED + 5, total_reward=7.9, length=9, success=None)
    text = card(run, summarise(tasks, [whole, broken], SEED + 5), tmp_path)
    assert "`gato-lite eval mine --tasks 'toy/*' --episodes 2 --seed 1000000005 --json eval.json`" in text
    assert "1 of 2 episodes failed in their environments and are in no score." in text
    assert "Trained on but not scored: classic/CartPole." in text
    assert "No suite has a mean below 0.75; the lowest is toy (1.00)." in text
    assert "Below half of the expert" not in text


def test_tables_are_whole(run: Path, tmp_path: Path) -> None:
    blocks = card(run, scores(7.9, 500.0), tmp_path).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert {task.name for task in read_run_config(run).tasks} == {"toy/Taxi", "classic/CartPole"}
