"""The tasks: environment, expert, how observations become tokens, what to do in words, and the scale of its scores.

To add one, write its environment and expert in a file of its suite and an entry in `TASKS`; then measure its scale with
`python -m gato_lite.envs.reference NAME`. Suites are imported when an environment is made.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

from gato_lite.config import TokenSpec
from gato_lite.envs import babyai, classic, sokoban
from gato_lite.envs.experts import AnyEnv, Expert
from gato_lite.envs.format import BLOCK, Reference, Score
from gato_lite.names import unknown_name

Metric = Literal["return", "success"]

SCORES_FILE: Final = Path(__file__).parent / "scores.json"
"""Measured by `python -m gato_lite.envs.reference`."""
ANY_GYMNASIUM: Final = "gym:"
"""Prefix of the name of a task that is any registered Gymnasium environment."""
_ELSEWHERE: Final = {
    "ALE/": "; Atari games need pip install 'gato_lite[atari]', and are called gym:ale_py:ALE/Pong-v5",
    "MiniGrid-": "; MiniGrid needs pip install 'gato_lite[babyai]'",
    "BabyAI-": "; BabyAI needs pip install 'gato_lite[babyai]'",
    "Meta-World/": "; Meta-World needs pip install 'gato_lite[robotics]'",
}
"""What to say of environments that another package registers, by how their names begin."""
_MODULE_OF_EXTRA: Final = {"babyai": "minigrid"}


class MakeEnv(Protocol):
    """Makes a task's environment."""

    def __call__(self, evaluation: bool, render_mode: str | None, /) -> AnyEnv:
        """The environment for evaluation or for training, drawing itself or not."""


class ScoresFile(msgspec.Struct, frozen=True, kw_only=True):
    """All of `scores.json`."""

    command: str
    """What wrote the file."""
    seed: int
    """First environment seed."""
    versions: dict[str, str]
    """Of the packages that the scores depend on."""
    tasks: dict[str, Reference]
    """By task name."""


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
    """What a score is the mean of: the sum of rewards, or whether it is above zero."""
    must_succeed: bool = False
    """Whether an episode in which the expert does not succeed is no demonstration: nothing but its own plan decides."""
    stop_after_success: int | None = None
    """Steps that a recorded episode goes on after its first success; None is to the environment's own end."""
    extra: str | None = None
    """The extra of this package that the environment needs."""
    time_limit_s: float = 20.0
    """Longest time for one episode of the expert, in seconds."""
    part_episodes: int = BLOCK
    """Episodes in one part of a recording, which a process holds in memory: fewer where observations are large."""

    @property
    def suite(self) -> str:
        """The part of the name before the slash."""
        return suite_of(self.name)

    @property
    def installed(self) -> bool:
        """Whether what the environment needs is installed."""
        return self.extra is None or importlib.util.find_spec(_MODULE_OF_EXTRA[self.extra]) is not None

    @property
    def install(self) -> str | None:
        """The command that installs what the environment needs; None where nothing is needed."""
        return None if self.extra is None else f"pip install 'gato_lite[{self.extra}]'"

    @property
    def random(self) -> Score | None:
        """What a random policy reaches, if it was measured."""
        reference = references().get(self.name)
        return None if reference is None else reference.random

    @property
    def expert_score(self) -> Score | None:
        """What the expert reaches, if it was measured."""
        reference = references().get(self.name)
        return None if reference is None else reference.expert

    def make(self, evaluation: bool = False, render_mode: str | None = None) -> AnyEnv:
        """The task's environment.

        Args:
            evaluation: Whether it draws its levels from those kept for evaluation, in suites that keep some.
            render_mode: "rgb_array" for an environment that is filmed.

        Raises:
            ImportError: what it needs is not installed; the message has the command.
        """
        self.require()
        return self.make_env(evaluation, render_mode)

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
        return total_reward > 0 if self.metric == "success" else reported_success(info)


def suite_of(name: str) -> str:
    """The suite of the task of this name."""
    return "gym" if name.startswith(ANY_GYMNASIUM) or "/" not in name else name.split("/", maxsplit=1)[0]


def reported_success(info: dict[str, Any]) -> bool | None:
    """What the last `info` of an episode says of success, under the names that environments use; None if nothing."""
    found = next((info[key] for key in ("is_success", "success") if key in info), None)
    return None if found is None else bool(found)


def _classic(name: str, environment: str, expert: Callable[[AnyEnv], Expert], instruction: str) -> Task:
    make = classic.gymnasium_task(environment)
    return Task(name=f"classic/{name}", make_env=make, expert=expert, instruction=instruction)


def _toy(name: str, make: MakeEnv, instruction: str, metric: Metric = "return") -> Task:
    return Task(name=f"toy/{name}", make_env=make, expert=classic.toy_text, instruction=instruction, metric=metric)


def _babyai(name: str) -> Task:
    return Task(
        name=f"babyai/{name}",
        make_env=babyai.level(name),
        expert=babyai.bot,
        modality="vision",
        spec=babyai.SPEC,
        metric="success",
        must_succeed=True,
        extra="babyai",
        time_limit_s=5.0,
    )


_GYM = classic.gymnasium_task
_LISTED = (
    _classic("CartPole", "CartPole-v1", classic.cart_pole, "Balance the pole."),
    _classic("Acrobot", "Acrobot-v1", classic.acrobot, "Swing the tip up high."),
    _classic("MountainCar", "MountainCar-v0", classic.mountain_car, "Rock the car uphill."),
    _classic(
        "MountainCarContinuous",
        "MountainCarContinuous-v0",
        classic.mountain_car_continuous,
        "Rock the car uphill with any force.",
    ),
    _classic("Pendulum", "Pendulum-v1", classic.pendulum, "Hold the pendulum upright."),
    _toy("FrozenLake", _GYM("FrozenLake-v1", is_slippery=True), "Cross the slippery lake.", "success"),
    _toy("FrozenLakeNotSlippery", _GYM("FrozenLake-v1", is_slippery=False), "Cross the dry frozen lake.", "success"),
    _toy("FrozenLake8x8", _GYM("FrozenLake8x8-v1"), "Cross the wide slippery lake.", "success"),
    _toy("Taxi", _GYM("Taxi-v4"), "Take the passenger there."),
    _toy("CliffWalking", classic.cliff_walking, "Walk along the cliff."),
    _babyai("GoToRedBallGrey"),
    _babyai("GoToRedBall"),
    _babyai("GoToObj"),
    _babyai("GoToLocal"),
    _babyai("OpenDoor"),
    _babyai("OpenRedDoor"),
    _babyai("PickupLoc"),
    _babyai("PutNextLocal"),
    _babyai("UnlockLocal"),
    _babyai("GoToDoor"),
    Task(
        name="sokoban/Sokoban7x7",
        make_env=sokoban.sokoban,
        expert=sokoban.planner,
        modality="vision",
        spec=sokoban.SPEC,
        instruction="Push the box home.",
        metric="success",
        must_succeed=True,
    ),
)

TASKS: Final[dict[str, Task]] = {task.name: task for task in _LISTED}
"""All tasks by name."""


@functools.cache
def references() -> dict[str, Reference]:
    """The measured scales by task name; empty where none were measured."""
    if not SCORES_FILE.is_file():
        return {}
    return msgspec.json.decode(SCORES_FILE.read_bytes(), type=ScoresFile).tasks


def find_tasks(patterns: Iterable[str]) -> list[Task]:
    """The tasks that match any of `patterns` (names, or "babyai/*"), each once, in the order of the patterns.

    `gym:ID` is any registered Gymnasium environment, without an expert.

    Raises:
        ValueError: a pattern matches nothing; the message lists the closest names.
    """
    found: dict[str, Task] = {}
    for pattern in patterns:
        if pattern.startswith(ANY_GYMNASIUM):
            matches = [_any_gymnasium(pattern)]
        else:
            matches = [task for name, task in TASKS.items() if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(unknown_name("task", pattern, TASKS))
        found.update({task.name: task for task in matches})
    return list(found.values())


def _any_gymnasium(name: str) -> Task:
    import gymnasium as gym

    environment = name.removeprefix(ANY_GYMNASIUM)
    module, _, identifier = environment.rpartition(":")
    if not module and identifier not in gym.registry:
        needed = next((hint for prefix, hint in _ELSEWHERE.items() if identifier.startswith(prefix)), "")
        raise ValueError(unknown_name("Gymnasium environment", identifier, gym.registry) + needed)
    return Task(name=name, make_env=classic.gymnasium_task(environment))
