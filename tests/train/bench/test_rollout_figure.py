"""The figure shows a line for each number of slots and each context that was measured more than once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gato_lite.train.bench.rollout import ModelSpeed, StepSpeed
from gato_lite.train.bench.rollout_figure import main
from gato_lite.train.console import to_json

pytest.importorskip("matplotlib")


def speed(slots: int, context: int, tokens_per_step: int = 5, what: str = "CartPole-v1") -> StepSpeed:
    shares = {"model": 0.9, "environment": 0.0, "tokenising": 0.1, "sampling": 0.0}
    rates = {"milliseconds": 2.0 * slots, "steps_per_second": 500.0, "sustained": 400.0, "environment_only": 1e5}
    return StepSpeed(what=what, slots=slots, context=context, tokens_per_step=tokens_per_step, **rates, **shares)


def test_a_line_for_each_series(tmp_path: Path) -> None:
    speeds = [speed(1, 64), speed(1, 256), speed(8, 64), speed(8, 64, 2), speed(32, 64, 7, "Arm")]
    alone = ModelSpeed(
        model="lite-5m", slots=8, context=256, tokens_per_step=2, milliseconds=8.0, steps_per_second=1000.0
    )
    (tmp_path / "rollout.json").write_text(to_json({"results": [*speeds, alone, {"what": "another row"}]}))
    main(str(tmp_path / "rollout.json"), str(tmp_path / "one.svg"))
    main(str(tmp_path / "rollout.json"), str(tmp_path / "two.svg"))
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    labels = [line.strip() for line in drawn.splitlines() if line.strip().startswith("<!-- ")]
    assert [label for label in labels if "slot" in label or "token" in label] == [
        "<!-- tokens of context -->",
        "<!-- 1 slot -->",
        "<!-- slots -->",
        "<!-- 64 tokens -->",
        "<!-- CartPole-v1, 5 tokens a step -->",
    ]
