from __future__ import annotations

import numpy as np
import pytest

from gato_lite.envs.catalogue import TASKS
from gato_lite.train.published import PUBLISHED, plain_name


@pytest.mark.parametrize("suite, n_task, mean", [("babyai", 39, 0.85), ("metaworld", 50, 0.60), ("mujoco", 11, 0.74)])
def test_jats_means_are_those_of_its_model_card(suite: str, n_task: int, mean: float) -> None:
    scores = list(PUBLISHED[suite].jat.values())
    assert len(scores) == n_task
    assert round(float(np.mean(scores)), 2) == mean


def test_names_of_one_task_agree() -> None:
    assert plain_name("babyai/GoToRedBallGrey") == "gotoredballgrey"
    assert plain_name("metaworld/button-press-wall-v3") == "buttonpresswall"
    assert plain_name("mujoco/InvertedDoublePendulum-v5") == "inverteddoublependulum"
    levels = [plain_name(name) for name, task in TASKS.items() if task.suite == "babyai"]
    assert sum(level in PUBLISHED["babyai"].jat for level in levels) >= 9
