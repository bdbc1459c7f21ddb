"""CartPole of eight steps that misbehaves in the fourth, or elsewhere, of some seeds: `gym:broken_envs:KIND-v0`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

BAD_SEEDS = (12, 15, int(os.environ.get("GATO_LITE_BAD_SEED", "-1")))
"""Seeds whose episodes go wrong."""
BAD_STEP = 4
LAST_STEP = 8
NAP_S = 0.02
"""Of every step of a kind that is slow: enough to hold up others."""
AHEAD = 60
"""Steps that others take while a kind that waits for them waits."""
STEPS = os.environ.get("GATO_LITE_STEPS", "")
"""File that grows by a byte with every step of `Counted`."""


def _sleep_with_the_lock() -> None:
    ctypes.PyDLL(None).sleep(10_000)  # C code that never lets go of the interpreter


def _raise(error: BaseException) -> None:
    raise error


IN_STEP: dict[str, Callable[[], object]] = {
    "Raises": lambda: _raise(KeyError("lost\nits way")),
    "LeavesPython": lambda: sys.exit(3),
    "Exits": lambda: os._exit(7),
    "Killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "Segfaults": lambda: ctypes.string_at(0),
    "Hangs": lambda: time.sleep(10_000),
    "HangsInC": _sleep_with_the_lock,
}


def _wait_for_others() -> None:
    """Returns when `Counted` has taken `AHEAD` more steps: never, if those have to wait for this one."""
    begun, until = Path(STEPS).stat().st_size, time.monotonic() + 20.0
    while Path(STEPS).stat().st_size < begun + AHEAD:
        if time.monotonic() > until:
            raise TimeoutError("the others do not step")
        time.sleep(0.002)


SLOWLY = {"Slowly": lambda: None, "SlowlyAlone": _wait_for_others}
"""What is done in the last of steps that are slow."""
OBSERVED: dict[str, Any] = {
    "ShowsNone": None,
    "ShowsNaN": np.array([0.0, np.nan, 0.0, 0.0], np.float32),
    "ShowsInfinity": np.array([0.0, 0.0, np.inf, 0.0], np.float32),
    "ShowsFarOutside": np.array([1e6, 0.0, 0.0, 0.0], np.float32),
    "ShowsFewer": np.zeros(3, np.float32),
    "ShowsText": np.array(["a", "b", "c", "d"]),
    "ShowsObjects": np.array([None] * 4),
    "ShowsKeys": {"observation": np.zeros(4)},
    "ShowsCode": lambda: 0,  # no process can send it to another
}
REWARDS: dict[str, Any] = {"PaysNaN": float("nan"), "PaysNothing": None}
ENDS: dict[str, dict[str, Any]] = {
    "EndsWithNone": {"terminated": None},
    "EndsWithNo": {"terminated": "no"},
    "IsCutByOne": {"truncated": 1},
}
MASKS: dict[str, Any] = {
    "MasksAll": np.zeros(2, np.int8),
    "MasksNaN": np.array([np.nan, 1.0]),
    "MasksThree": np.ones(3, np.int8),
}
ELSEWHERE = (
    "Sound",
    "RaisesInReset",
    "RaisesInClose",
    "HangsInReset",
    "RaisesInMake",
    "Talks",
    "StepsOfFour",
    "Counted",
    "SlowlyWanders",
    *SLOWLY,
    *(f"Slowly{kind}" for kind in IN_STEP),
)


class Broken(CartPoleEnv):
    """CartPole with one thing that goes wrong."""

    def __init__(self, kind: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.kind = kind
        if kind == "RaisesInMake":
            raise FileNotFoundError("no such scene")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.is_bad, self.n_step = seed in BAD_SEEDS, 0
        if self.is_bad and self.kind == "RaisesInReset":
            raise RuntimeError("the simulator did not start")
        if self.is_bad and self.kind == "HangsInReset":
            time.sleep(10_000)
        if self.kind == "Talks":
            print("hello from the environment")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.n_step += 1
        kind = self.kind.removeprefix("Slowly")
        if kind != self.kind:
            time.sleep(NAP_S)
        if self.kind == "Counted":
            with Path(STEPS).open("ab") as file:
                file.write(b".")
        observation, reward, terminated, truncated, info = super().step(action)
        truncated = np.bool_(self.n_step >= LAST_STEP)
        if self.kind == "SlowlyWanders":
            reward = time.monotonic()  # whatever it is, it does not come again
        if self.kind in SLOWLY and truncated:
            SLOWLY[self.kind]()
        if not self.is_bad or self.n_step < BAD_STEP:
            return observation, reward, terminated, truncated, info
        if kind in IN_STEP:
            IN_STEP[kind]()
        if self.kind == "StepsOfFour":
            return observation, reward, terminated, info
        info = {"action_mask": MASKS[self.kind]} if self.kind in MASKS else info
        ends = {"terminated": terminated, "truncated": truncated, **ENDS.get(self.kind, {})}
        return OBSERVED.get(self.kind, observation), REWARDS.get(self.kind, reward), *ends.values(), info

    def close(self) -> None:
        if self.kind == "RaisesInClose":
            raise RuntimeError("the window is gone")
        super().close()


for _kind in (*IN_STEP, *OBSERVED, *REWARDS, *ENDS, *MASKS, *ELSEWHERE):
    gym.register(f"{_kind}-v0", Broken, kwargs={"kind": _kind}, disable_env_checker=True, order_enforce=False)
