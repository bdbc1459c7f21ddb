"""Both ways play the same episodes; what they are worth is for a quiet machine to say."""

from __future__ import annotations

import pytest

from gato_lite.envs.hosted import HostedStage
from gato_lite.train.bench import rollout_paces
from gato_lite.train.bench.paces import STEPS, Paced
from gato_lite.train.bench.rollout import fresh
from gato_lite.train.bench.rollout_paces import Together


@pytest.mark.parametrize("counts", [{"Naps": 1, "Quick": 2}, {"Works": 6}])
def test_lock_step_and_overlapped_come_to_the_same(monkeypatch: pytest.MonkeyPatch, counts: dict[str, int]) -> None:
    small = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "d_model": 32, "d_ff": 32}
    monkeypatch.setattr(rollout_paces, "fresh", lambda context: fresh(context, **small))
    (_, first), (_, second) = (rollout_paces._play(counts, stage_of) for stage_of in (Together, HostedStage))
    assert first == second
    assert {(outcome.length, outcome.failed) for outcome in first} == {(STEPS, None)}
    assert len(first) == sum(counts.values())


def test_a_pole_that_falls_is_put_back() -> None:
    env = Paced("Quick")
    env.reset(seed=0)
    steps = [env.step(1) for _ in range(STEPS)]
    assert [step[3] for step in steps] == [False] * (STEPS - 1) + [True]
    assert max(abs(step[0][2]) for step in steps) < 0.3
