"""CartPole at other paces, for what steps of environments cost those that wait for them: `gym:…:PACE-v0`."""

from __future__ import annotations

import time
from typing import Any, Final

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

STEPS: Final = 100
"""Of every episode."""
NAP_S: Final = 0.05
"""Of a step of `Naps`, which waits for something else."""
WORK_S: Final = 0.001
"""Of a step of `Works`, which computes."""


class Paced(CartPoleEnv):
    """A pole that may fall, in episodes of one length."""

    def __init__(self, pace: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.pace = pace
        self.n_step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As CartPole's."""
        self.n_step = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """CartPole's, and what else the pace asks for."""
        self.n_step += 1
        until = time.perf_counter() + WORK_S
        if self.pace == "Naps":
            time.sleep(NAP_S)
        while self.pace == "Works" and time.perf_counter() < until:
            pass
        observation, reward, has_fallen, _, info = super().step(action)  # type: ignore[no-untyped-call]
        if has_fallen:
            observation, info = super().reset(seed=self.n_step)
        return observation, reward, False, self.n_step >= STEPS, info


for _pace in ("Quick", "Naps", "Works"):
    gym.register(
        f"{_pace}-v0", f"{__name__}:Paced", kwargs={"pace": _pace}, disable_env_checker=True, order_enforce=False
    )
