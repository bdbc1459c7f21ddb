"""Faults 39 and 40: environments that break, and what they show."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.checkpoint import save_checkpoint
from gato_lite.config import GatoConfig, TokenSpec
from gato_lite.envs import host
from gato_lite.envs import task as task_module
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.format import Score
from gato_lite.envs.hosted import MOST_LOST, SLOW_STEPS, HostedStage
from gato_lite.envs.seeds import EVALUATION_SEED, VALIDATION_SEED
from gato_lite.envs.stage import Begin, Broken, Seen, Stage, Step
from gato_lite.envs.task import Measured
from gato_lite.inputs import ObservationError
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.train import rollout
from gato_lite.train.cli import main
from gato_lite.train.evaluate import evaluator
from gato_lite.train.players import play_in_processes
from gato_lite.train.rollout import Outcome, jobs_of, play

LIMIT_S = 3.0
"""Of one call: long for CartPole on a busy machine, short for a test that waits for it."""
PATIENT_S = 60.0
MASK = "step 4: action_mask must be 0 or 1 for each of the 2 values of a Discrete action and allow at least one,"
RANGE = "step 4: the value: expected a finite value, at most 10 times its range outside its bounds"
SEEDS = range(10, 18)
BAD = (12, 15)
"""Seeds that broken_envs breaks."""
LAST_STEP, AHEAD = 8, 60
"""As in broken_envs."""


@pytest.fixture(autouse=True)
def _broken_envs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def gato() -> Gato:
    config = GatoConfig(n_layer=1, n_head=2, d_model=32, d_ff=64, d_encoder=32, context_length=48, vocab_size=6148)
    return Gato(config).eval()


def task(kind: str) -> Task:
    return find_tasks([f"gym:broken_envs:{kind}-v0"])[0]


def played(gato: Gato, kind: str, limit_s: float | None, n_slot: int = 3) -> dict[int, Outcome]:
    """Outcomes of a task by seed, while sound episodes go on beside it; those are checked here."""
    beside = task("Talks")
    jobs = [*jobs_of([task(kind)], len(SEEDS), SEEDS[0]), *jobs_of([beside], 4, 0)]
    outcomes = play(gato, jobs, n_slot=n_slot, limit_s=limit_s)
    assert sorted((outcome.task, outcome.seed) for outcome in outcomes) == sorted((t.name, s) for t, s in jobs)
    assert not any(outcome.failed for outcome in outcomes if outcome.task == beside.name)
    return {outcome.seed: outcome for outcome in outcomes if outcome.task != beside.name}


@pytest.fixture(scope="module")
def sound(gato: Gato) -> dict[int, tuple[float, int]]:
    """Return and length of the same episodes in an environment that does nothing wrong."""
    sys.path.insert(0, str(Path(__file__).parent))
    found = {seed: (o.total_reward, o.length) for seed, o in played(gato, "Sound", None).items()}
    assert {length for _, length in found.values()} == {8}
    return found


def ends(outcomes: dict[int, Outcome]) -> dict[int, str | tuple[float, int]]:
    """Why an episode failed, or what it came to, by its seed."""
    return {seed: o.failed or (o.total_reward, o.length) for seed, o in outcomes.items()}


def spoilt(sound: dict[int, tuple[float, int]], why: str) -> dict[int, str | tuple[float, int]]:
    """The same where the bad seeds fail, and the others are as without the fault."""
    return {**sound, **dict.fromkeys(BAD, why)}


@pytest.mark.parametrize(
    "kind, why",
    [
        ("Raises", "step 4 raised KeyError: 'lost\\nits way'"),
        ("LeavesPython", "step 4 raised SystemExit: 3"),
        ("RaisesInReset", "reset raised RuntimeError: the simulator did not start"),
        ("StepsOfFour", "step 4 raised ValueError: not enough values to unpack (expected 5, got 4)"),
        ("PaysNaN", "step 4 gave the reward nan, expected a finite number"),
        ("PaysNothing", "step 4 raised TypeError: float() argument must be a string or a real number, not 'NoneType'"),
        ("EndsWithNone", "step 4 gave terminated=None, expected a bool"),
        ("EndsWithNo", "step 4 gave terminated='no', expected a bool"),
        ("IsCutByOne", "step 4 gave truncated=1, expected a bool"),
        ("ShowsNone", "step 4 showed None in place of an observation"),
        ("ShowsNaN", "step 4: the value: expected a number, got nan at scalar 1"),
        ("ShowsFewer", "step 4: the value: expected shape (4,), got (3,)"),
        ("ShowsText", "step 4: the value: expected numbers, got dtype <U1"),
        ("ShowsObjects", "step 4: the value: expected numbers, got dtype object"),
        ("ShowsKeys", "step 4: the value: expected shape (4,), got ()"),
        ("ShowsInfinity", f"{RANGE} (-8.79646..8.79646), got inf at [2]"),
        ("ShowsFarOutside", f"{RANGE} (-100.8..100.8), got 1000000.0 at [0]"),
        ("MasksThree", f"{MASK} got array([1, 1, 1], dtype=int8) for Discrete(2)"),
        ("MasksAll", f"{MASK} got array([0, 0], dtype=int8) for Discrete(2)"),
        ("MasksNaN", f"{MASK} got array([nan,  1.]) for Discrete(2)"),
    ],
)
def test_what_an_environment_does_wrong_costs_its_episode(
    gato: Gato, sound: dict[int, tuple[float, int]], kind: str, why: str | None
) -> None:
    outcomes = played(gato, kind, None)
    if why is None:
        why = (
            "step 4: action_mask must be 0 or 1 for each of the 2 values of a Discrete action and allow at least one, "
        )
        why += "got array([1, 1, 1], dtype=int8) for Discrete(2)"
    assert ends(outcomes) == spoilt(sound, why)


@pytest.mark.parametrize(
    "kind, why",
    [
        ("Exits", "step 4 ended its process (exit code 7)"),
        ("Segfaults", "step 4 ended its process (SIGSEGV)"),
        ("Raises", "step 4 raised KeyError: 'lost\\nits way'"),
        ("ShowsCode", None),
    ],
)
def test_a_process_that_an_environment_ends_is_started_anew(
    gato: Gato, sound: dict[int, tuple[float, int]], kind: str, why: str | None
) -> None:
    outcomes = played(gato, kind, PATIENT_S)
    if why is None:
        why = outcomes[BAD[0]].failed
        assert why is not None
        assert why.startswith("answered with what cannot be sent: ")
    assert ends(outcomes) == spoilt(sound, why)


@pytest.mark.parametrize(
    "kind, call", [("HangsInC", "step 4"), pytest.param("HangsInReset", "reset", marks=pytest.mark.long)]
)
def test_an_environment_that_hangs_is_given_up(
    gato: Gato, sound: dict[int, tuple[float, int]], kind: str, call: str
) -> None:
    """Also in C code that holds the interpreter's lock, where no signal handler would ever run."""
    assert ends(played(gato, kind, LIMIT_S)) == spoilt(sound, f"{call} took longer than {LIMIT_S:g} s")


@pytest.mark.parametrize("limit_s", [None, PATIENT_S])
def test_what_goes_wrong_outside_of_steps(
    gato: Gato, sound: dict[int, tuple[float, int]], limit_s: float | None
) -> None:
    outcomes = played(gato, "RaisesInMake", limit_s)
    assert {outcome.failed for outcome in outcomes.values()} == {"make raised FileNotFoundError: no such scene"}
    closed = played(gato, "RaisesInClose", limit_s)
    assert {seed: (o.total_reward, o.length, o.failed) for seed, o in closed.items()} == {
        seed: (*numbers, None) for seed, numbers in sound.items()
    }


def counted(gato: Gato, kind: str, n_slow: int, n_beside: int, tmp_path: Path) -> list[Outcome]:
    """Outcomes of episodes of a slow task and of `Counted` beside them, in the order in which they ended."""
    (tmp_path / "steps").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATO_LITE_STEPS", str(tmp_path / "steps"))
        jobs = [*jobs_of([task(kind)], n_slow, SEEDS[0]), *jobs_of([task("Counted")], n_beside, SEEDS[0])]
        outcomes = play(gato, jobs, n_slot=4, limit_s=PATIENT_S)
    assert sorted((outcome.task, outcome.seed) for outcome in outcomes) == sorted((t.name, s) for t, s in jobs)
    return outcomes


def test_a_slow_environment_does_not_hold_up_the_others(
    gato: Gato, sound: dict[int, tuple[float, int]], tmp_path: Path
) -> None:
    """It waits in its last step until the others have taken many, which they never would if they waited for it."""
    outcomes = counted(gato, "SlowlyAlone", 1, 400, tmp_path)
    slow = next(place for place, outcome in enumerate(outcomes) if outcome.task == task("SlowlyAlone").name)
    assert outcomes[slow].failed is None
    assert slow * LAST_STEP >= AHEAD - 3 * LAST_STEP, "steps of episodes that ended before, three under way left out"
    for outcome in outcomes:  # and all are the same episodes as one after another in one process
        if outcome.seed in sound:
            assert (outcome.total_reward, outcome.length, outcome.failed) == (*sound[outcome.seed], None)


@pytest.mark.parametrize(
    "kind, why",
    [
        ("SlowlyRaises", "step 4 raised KeyError: 'lost\\nits way'"),
        ("SlowlyExits", "step 4 ended its process (exit code 7)"),
        pytest.param("SlowlyHangsInC", f"step 4 took longer than {LIMIT_S:g} s", marks=pytest.mark.long),
    ],
)
def test_what_a_slow_environment_does_wrong_costs_its_episode(
    gato: Gato, sound: dict[int, tuple[float, int]], kind: str, why: str
) -> None:
    assert ends(played(gato, kind, LIMIT_S if "Hangs" in kind else PATIENT_S)) == spoilt(sound, why)


def test_a_slow_environment_that_never_goes_the_same_way_stays_where_it_is(gato: Gato, tmp_path: Path) -> None:
    outcomes = counted(gato, "SlowlyWanders", 2, 6, tmp_path)
    assert [outcome.failed for outcome in outcomes] == [None] * 8


def test_slow_episodes_go_on_in_a_process_of_their_own() -> None:
    """As they went in the first, step by step, also after that process has been lost; quick ones stay."""
    names = [task(kind).name for kind in ("Slowly", "Sound")]
    twin = Stage({name: find_tasks([name])[0] for name in names}, evaluation=True)
    stage = HostedStage(names, evaluation=True, limit_s=PATIENT_S)
    try:
        places = {0: begin("Slowly", 1), 1: begin("Sound", 1)}
        for step, turns in enumerate([places, *[{0: Step(action=n % 2), 1: Step(action=0)} for n in range(7)]]):
            expected, found = twin.take(turns), stage.take(turns)
            for slot in turns:
                assert isinstance(found[slot], Seen)
                assert np.array_equal(found[slot].observation, expected[slot].observation)
                assert (found[slot].reward, found[slot].truncated) == (expected[slot].reward, expected[slot].truncated)
            assert len(stage._hosts) == (1 if step < SLOW_STEPS else 2)
            if step == 5:
                os.kill(stage._hosts[1].process.pid, signal.SIGKILL)
        assert [stage._hosts.index(stage._logs[slot].host) for slot in turns] == [1, 0]
        stage.take({0: begin("Slowly", 2), 1: begin("Sound", 2)})
        assert [stage._hosts.index(stage._logs[slot].host) for slot in turns] == [1, 0]
    finally:
        stage.close()


def test_an_episode_without_an_end_is_given_up(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LONGEST", 7)
    outcomes = play(gato, jobs_of([task("Sound")], 2, 0), n_slot=2)
    assert [outcome.failed for outcome in outcomes] == ["did not end within 7 steps"] * 2


@pytest.fixture
def stage() -> Iterator[HostedStage]:
    names = [task(kind).name for kind in ("Sound", "Exits", "Talks")]
    stage = HostedStage(names, evaluation=True, limit_s=PATIENT_S)
    yield stage
    stage.close()
    assert all(host.process.returncode is not None for host in stage._hosts)


def begin(kind: str, seed: int) -> Begin:
    return Begin(task=task(kind).name, seed=seed)


def test_a_process_killed_from_outside_costs_no_episode(stage: HostedStage) -> None:
    """Its episodes are played again from their seeds and actions."""
    twin = Stage({name: find_tasks([name])[0] for name in [task("Sound").name]}, evaluation=True)
    places = {0: begin("Sound", 1), 1: begin("Sound", 2)}
    for turns in [places, *[{0: Step(action=0), 1: Step(action=step % 2)} for step in range(7)]]:
        expected, found = twin.take(turns), stage.take(turns)
        for slot in turns:
            assert isinstance(found[slot], Seen)
            assert np.array_equal(found[slot].observation, expected[slot].observation)
            assert (found[slot].reward, found[slot].truncated) == (expected[slot].reward, expected[slot].truncated)
        os.kill(stage._hosts[0].process.pid, signal.SIGKILL)


WRITE_NOTES = """
import mmap, sys, time
from gato_lite.envs import host

end = time.monotonic() + 2.0
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), host._NOTE.size) as note:
    while time.monotonic() < end:
        for slot in range(1000):
            host.write_note(note, slot, 2)
"""


def test_a_note_is_never_seen_half_written(tmp_path: Path) -> None:
    """Else a call would seem to have begun when the machine did, which is longer ago than any limit."""
    path = tmp_path / "note"
    path.write_bytes(host._NOTE.pack(-1, 0, time.monotonic()))
    begun = time.monotonic()
    slots = set()
    with (
        subprocess.Popen([sys.executable, "-c", WRITE_NOTES, path]) as writer,
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), host._NOTE.size) as note,
    ):
        while writer.poll() is None:
            slot, _, since = host._NOTE.unpack(note[:])
            assert since >= begun - 1
            slots.add(slot)
    assert writer.returncode == 0
    assert len(slots) > 100


def test_a_task_that_does_nothing_but_end_its_process_is_given_up(stage: HostedStage) -> None:
    whys = []
    for _ in range(MOST_LOST + 2):
        answers = stage.take({0: begin("Exits", BAD[0]), 1: begin("Sound", 3)})
        for _ in range(4):
            answers = stage.take({0: Step(action=0), 1: Step(action=0)})
            if isinstance(answers[0], Broken):
                break
        assert isinstance(answers[0], Broken)
        assert isinstance(answers[1], Seen)
        whys.append(answers[0].why)
    assert whys[:MOST_LOST] == ["step 4 ended its process (exit code 7)"] * MOST_LOST
    assert (
        whys[MOST_LOST:]
        == ["given up: 8 episodes of the task ended or held up their process, and only 0 came to their end"] * 2
    )


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gato_lite.envs.host._CHILD", "raise SystemExit(9)")
    stage = HostedStage([task("Sound").name], evaluation=True, limit_s=PATIENT_S)
    with pytest.raises(RuntimeError, match=r"ended its process \(exit code 9\), 6 times in a row"):
        stage.take({0: begin("Sound", 0)})
    stage.close()


# -- whole evaluations


@pytest.fixture
def run(gato: Gato, tmp_path: Path) -> Path:
    env = task("Sound").make()
    known = task_format("cart", env.observation_space, env.action_space, TokenSpec(), None)
    config = RunConfig(model=gato.config, tasks=(known,), vocabulary=gato.vocabulary.fingerprint)
    write_run(tmp_path / "run", config, gato.vocabulary)
    save_checkpoint(tmp_path / "run", 1, model=gato.state_dict(), optimizer={}, state={})
    return tmp_path / "run"


def test_an_evaluation_lists_its_failed_episodes_and_exits_with_1(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATO_LITE_BAD_SEED", str(EVALUATION_SEED + 2))
    names = [task("Killed").name, task("Talks").name]
    code = main(["eval", str(run), "--tasks", *names, "--episodes", "4", "--json", "-", "--workers", "1"])
    printed, told = capfd.readouterr()
    assert code == 1
    scores = json.loads(printed)
    assert "hello from the environment" not in printed
    why = "step 4 ended its process (SIGKILL)"
    assert scores["failed"] == [{"task": names[0], "seed": EVALUATION_SEED + 2, "why": why}]
    assert [(scores["tasks"][name]["episodes"], scores["tasks"][name]["failed"]) for name in names] == [(3, 1), (4, 0)]
    assert f"failed: {names[0]}, seed {EVALUATION_SEED + 2}: {why}" in told
    assert "gato-lite: error: 1 of 8 episodes failed in their environments; the scores are of the others" in told


def test_evaluation_during_training_goes_on(
    gato: Gato, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [task("Exits").name, task("Talks").name]
    ends = (Score(mean=mean, std=0.0, success=None, episodes=100, length=8.0) for mean in (0.0, 16.0))
    known = Measured(random=next(ends), expert=next(ends))
    monkeypatch.setattr(task_module, "references", lambda _path: dict.fromkeys(names, known))
    monkeypatch.setenv("GATO_LITE_BAD_SEED", str(VALIDATION_SEED + 1))
    assert evaluator(find_tasks(names), episodes=3)(gato) == {"gym": 0.5}
    told = capfd.readouterr().err
    why = "step 4 ended its process (exit code 7)"
    assert f"failed while evaluating: {names[0]}, seed {VALIDATION_SEED + 1}: {why}" in told


@pytest.mark.long
def test_an_acting_process_that_is_killed_is_started_anew(run: Path) -> None:
    """Each time with what it has not finished, so that nothing is played twice or lost."""
    jobs = jobs_of([task("Sound")], 3, 0)
    alone = {outcome.seed: outcome for outcome in play_in_processes(run, jobs, workers=1)}
    killed: list[int] = []

    def kill_one(_done: int, _total: int) -> None:
        if not killed:
            (child, *_) = multiprocessing.active_children()
            killed.append(child.pid or 0)
            child.kill()
            child.join()

    outcomes = play_in_processes(run, jobs, workers=2, on_progress=kill_one)
    assert killed
    assert {outcome.seed: outcome for outcome in outcomes} == alone
    assert len(outcomes) == len(jobs)


# -- what a policy is shown


HEARD = spaces.Sequence(spaces.Text(2))


def policies(gato: Gato) -> Policy:
    grid = spaces.Dict(image=spaces.Box(0, 255, (4, 4), np.uint8), place=spaces.Discrete(3))
    words = spaces.Dict(
        said=spaces.Text(8, charset="ab"),
        heard=HEARD,
        dark=spaces.Box(0, 10, (4, 4), np.uint8),
    )
    return Policy(gato, [spaces.Box(-1, 1, (2,)), grid, words], [spaces.Discrete(3)] * 3)


WORDS = {"said": "abba", "heard": ("x", "yz"), "dark": np.full((4, 4), 10, np.uint8)}
GOOD = [np.zeros(2, np.float32), {"image": np.zeros((4, 4), np.uint8), "place": 1}, WORDS]


@pytest.mark.parametrize(
    "slot, wrong, why",
    [
        (0, np.array([0.0, np.nan]), "the value: expected a number, got nan at scalar 1"),
        (0, [0.0, None], "the value: expected numbers, got dtype object"),
        (0, "left", "the value: expected shape (2,), got ()"),
        (
            1,
            {"image": np.zeros((4, 4), np.uint8)},
            "the value: expected a mapping with the key 'place', got keys ['image']",
        ),
        (1, {"image": np.zeros((4, 5), np.uint8), "place": 1}, "leaf 'image': expected shape (4, 4), got (4, 5)"),
        (1, {"image": np.zeros((4, 4), np.float32), "place": 1}, "leaf 'image': expected integers, got dtype float32"),
        (1, {"image": np.zeros((4, 4), np.uint8), "place": 3}, "leaf 'place': expected a value in 0..2, got 3"),
        (1, {"image": None, "place": 1}, "leaf 'image': expected shape (4, 4), got ()"),
        (1, 7, "the value: expected a mapping with the key 'image', got int"),
        (
            1,
            {"image": np.zeros((4, 4), np.uint8), "place": 1, "time": 3},
            "the value: expected no keys but ['image', 'place'], got keys ['image', 'place', 'time']",
        ),
        (2, {**WORDS, "said": "abc"}, "leaf 'said': expected characters of its space, got 'c' in 'abc'"),
        (2, {**WORDS, "said": ""}, "leaf 'said': expected 1 to 8 characters, got 0 in ''"),
        (2, {**WORDS, "said": "b" * 100}, f"leaf 'said': expected 1 to 8 characters, got 100 in '{'b' * 79}"),
        (2, {**WORDS, "heard": ("x", "xyz")}, f"leaf 'heard': expected a member of {HEARD}, got ('x', 'xyz')"),
        (
            2,
            {**WORDS, "dark": np.full((4, 4), 11, np.uint8)},
            "leaf 'dark': expected a value in 0..10, got 11 at scalar 0",
        ),
    ],
)
def test_a_bad_observation_is_named(gato: Gato, slot: int, wrong: Any, why: str) -> None:
    """Slot, step, leaf and what was expected; nobody's episode is touched."""
    policy = policies(gato)
    policy.act(GOOD)
    before = [policy.window(index).ids.tolist() for index in range(3)]
    with pytest.raises(ObservationError) as caught:
        policy.act([wrong if index == slot else good for index, good in enumerate(GOOD)])
    assert str(caught.value) == f"slot {slot}, step 1: {why}"
    assert caught.value.slot == slot
    assert [policy.window(index).ids.tolist() for index in range(3)] == before
    policy.act(GOOD)


def test_observations_that_are_none_at_all(gato: Gato) -> None:
    with pytest.raises(ObservationError, match="slot 0, step 0: expected an observation, got None"):
        Policy(gato, spaces.Discrete(2), spaces.Discrete(2)).act(None)
    with pytest.raises(ValueError, match="expected 3 observations, one for each slot, got NoneType"):
        policies(gato).act(None)
    with pytest.raises(ValueError, match="expected 3 observations, one for each slot, got NoneType"):
        Policy(gato, spaces.Discrete(2), spaces.Discrete(2), slots=3).act(None)


def test_a_policy_without_slots(gato: Gato) -> None:
    with pytest.raises(ValueError, match="a policy must have at least one slot, got slots=0"):
        Policy(gato, spaces.Discrete(2), spaces.Discrete(2), slots=0)
    with pytest.raises(ValueError, match="at least one slot, got an empty list of observation spaces"):
        Policy(gato, [], [])
