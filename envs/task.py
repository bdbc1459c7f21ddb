"""What a task is: environment, expert, observations as tokens, what to do in words, and the scale of its scores.

A task of your own is a `Task` in a file of yours that the environment variable `GATO_LITE_TASKS` names (`envs/own.py`).
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import gymnasium as gym
import msgspec

from gato_lite.config import TokenSpec
from gato_lite.envs.experts import AnyEnv, Expert
from gato_lite.envs.format import BLOCK, Metric, Reference, Score

Extra = Literal["babyai", "control", "robotics", "atari", "deepmind"]

SCORES_FILE: Final = Path(__file__).parent / "scores.json"
"""Measured by `python -m gato_lite.envs.reference`."""
MODULES: Final[dict[Extra, tuple[str, ...]]] = {
    "babyai": ("minigrid",),
    "control": ("Box2D", "mujoco"),
    "robotics": ("metaworld",),
    "atari": ("ale_py",),
    "deepmind": ("dm_control", "shimmy"),
}
"""What each extra of this package brings."""
PACKAGES: Final = tuple("ale-py box2d dm-control gymnasium metaworld minigrid mujoco numpy shimmy".split())
"""What episodes depend on; the versions that are installed are noted with them."""
_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)+|gym:\S+")


def imported_module(name: str) -> str | None:
    """The module that making `gym:MODULE:ID` imports, which runs its code; None where a name has none."""
    kind, _, rest = name.partition(":")
    return rest.rpartition(":")[0] or None if kind == "gym" else None


class MakeEnv(Protocol):
    """Makes a task's environment."""

    def __call__(self, evaluation: bool, render_mode: str | None, /) -> AnyEnv:
        """The environment for evaluation or for training, drawing itself or not."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What policies reach in one task."""

    random: Score
    """Actions drawn from the action space."""
    expert: Score | None = None
    """The task's expert; None where there is none."""


class ScoresFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of `scores.json`."""

    command: str
    """What wrote the file."""
    seed: int
    """First environment seed."""
    versions: dict[str, str]
    """Of the packages that the scores depend on."""
    tasks: dict[str, Measured]
    """By task name."""
    refused: dict[str, Measured] = {}
    """Of tasks whose expert does not beat random actions: both ends, which are no scale."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One entry of the catalogue."""

    name: str
    """Suite and environment, such as "babyai/GoToObj"."""
    make_env: MakeEnv
    """Makes the environment; `make` is what to call."""
    expert: Callable[[AnyEnv], Expert] | None = None
    """Makes the expert of an environment; None where there is none."""
    modality: Literal["control", "vision", "text"] = "control"
    """What is seen: numbers, pictures or grids, or words alone."""
    spec: TokenSpec = field(default_factory=TokenSpec)
    """How observations become tokens."""
    instruction: str | None = None
    """What to do, in words."""
    metric: Metric = "return"
    """What a score is the mean of: the sum of rewards, or success: what the environment says, else a sum above zero."""
    must_succeed: bool = False
    """Whether an episode in which the expert does not succeed is no demonstration: nothing but its own plan decides."""
    least_return: float | None = None
    """Sum of rewards below which an episode of the expert is no demonstration; None keeps all."""
    stop_after_success: int | None = None
    """Steps that an episode goes on after its first success; None is to the environment's own end."""
    extra: Extra | None = None
    """The extra of this package that the environment needs."""
    time_limit_s: float = 20.0
    """CPU time that one episode of the expert may take, in seconds (`experts.time_limit`)."""
    part_episodes: int = BLOCK
    """Episodes in one part of a recording, which a process holds in memory: fewer where observations are large."""
    scores_file: Path = SCORES_FILE
    """Where the scale of its scores is."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f'expected a task\'s name of a suite and an environment, such as "mine/Maze", got {self.name!r}'
            )

    @property
    def suite(self) -> str:
        """The part of the name before the slash."""
        return suite_of(self.name)

    @property
    def installed(self) -> bool:
        """Whether what the environment needs is installed."""
        return self.extra is None or all(importlib.util.find_spec(module) for module in MODULES[self.extra])

    @property
    def install(self) -> str | None:
        """The command that installs what the environment needs; None where nothing is needed."""
        return None if self.extra is None else f"pip install 'gato_lite[{self.extra}]'"

    @property
    def random(self) -> Score | None:
        """What a random policy reaches, if it was measured."""
        measured = references(self.scores_file).get(self.name)
        return None if measured is None else measured.random

    @property
    def expert_score(self) -> Score | None:
        """What the expert reaches, if it was measured."""
        measured = references(self.scores_file).get(self.name)
        return None if measured is None else measured.expert

    @property
    def reference(self) -> Reference | None:
        """Both ends of the scale, if they were measured."""
        random, expert = self.random, self.expert_score
        return None if random is None or expert is None else Reference(random=random, expert=expert)

    @property
    def is_refused(self) -> bool:
        """Whether it was measured, and the expert did not beat random actions."""
        scores = read_scores(self.scores_file)
        return scores is not None and self.name in scores.refused

    def make(self, evaluation: bool = False, render_mode: str | None = None) -> AnyEnv:
        """The task's environment.

        Args:
            evaluation: Whether it draws its levels from those kept for evaluation, in suites that keep some.
            render_mode: "rgb_array" for an environment that is filmed.

        Raises:
            ImportError: what it needs is not installed; the message has the command.
        """
        self.require()
        env = self.make_env(evaluation, render_mode)
        return env if self.stop_after_success is None else StopAfterSuccess(env, self.stop_after_success)

    def require(self) -> None:
        """Do nothing.

        Raises:
            ImportError: what the environment needs is not installed; the message has the command.
        """
        if not self.installed:
            raise ImportError(f"task '{self.name}' needs packages that are not installed: {self.install}")

    def is_success(self, total_reward: float, info: dict[str, Any]) -> bool | None:
        """Whether an episode reached its goal; None where neither the task nor the environment says.

        Args:
            total_reward: Sum of the episode's rewards.
            info: What the environment's last step returned beside them.
        """
        reported = reported_success(info)
        return total_reward > 0 if reported is None and self.metric == "success" else reported

    def is_demonstration(self, total_reward: float, success: bool | None) -> bool:
        """Whether an episode of the expert shows what to do.

        Args:
            total_reward: Sum of the episode's rewards.
            success: As `is_success` says.
        """
        if self.must_succeed and success is False:
            return False
        return self.least_return is None or total_reward >= self.least_return


class StopAfterSuccess(gym.Wrapper[Any, Any, Any, Any]):  # Any: whatever the environment observes and takes
    """Cuts every episode so many steps after its first success, and keeps that it has succeeded in `info["success"]`.

    Args:
        env: An environment whose `info` says whether the goal is reached now.
        steps: How many more steps an episode has; 0 cuts it at once.
    """

    def __init__(self, env: AnyEnv, steps: int) -> None:
        super().__init__(env)
        self.steps = steps
        self._left: int | None = None
        """Steps left of the episode; None before its first success."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._left = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own, but for the end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._left is not None:
            self._left -= 1
        elif reported_success(info):
            self._left = self.steps
        cut = self._left == 0 and not terminated
        info = {**info, "success": self._left is not None}
        return observation, reward, terminated, bool(truncated or cut), info


def reported_success(info: dict[str, Any]) -> bool | None:
    """What the last `info` of an episode says of success, under the names that environments use; None if nothing."""
    found = next((info[key] for key in ("is_success", "success") if key in info), None)
    return None if found is None else bool(found)


def suite_of(name: str) -> str:
    """The suite of the task of this name."""
    return "gym" if name.startswith("gym:") or "/" not in name else name.split("/", maxsplit=1)[0]


def by_suite(names: Iterable[str]) -> dict[str, list[str]]:
    """Tasks by suite, in their order."""
    suites: dict[str, list[str]] = {}
    for name in names:
        suites.setdefault(suite_of(name), []).append(name)
    return suites


@functools.cache
def references(path: Path = SCORES_FILE) -> dict[str, Measured]:
    """The measured scales in the scores file at `path`, by task name; empty where none were measured."""
    found = read_scores(path)
    return {} if found is None else found.tasks


def read_scores(path: Path) -> ScoresFile | None:
    """The scores file at `path`; None where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=ScoresFile)
    except msgspec.MsgspecError as error:
        raise ValueError(
            f"{path}: expected scores as `python -m gato_lite.envs.reference` writes them, found damage: {error};"
            " remove the file and measure again"
        ) from error
