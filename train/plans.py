"""What recipes train on by themselves: experts' episodes, the experts' answers about the model's own, and documents.

    gato-lite train generalist --out runs/generalist --minutes 60

records the experts of the plan `generalist`, and trains on them and on what comes with the package. Weights are shares
of the training tokens, up to a common factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gato_lite.envs.babyai import ROOMS
from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.recording import OnProgress, record_tasks

ROUNDS: Final = (0.25, 0.45, 0.65)
"""Shares of the training after which the experts are asked."""
LEAST: Final = 20
"""Episodes that are recorded of each task however small the scale."""


@dataclass(frozen=True)
class Part:
    """One task of a plan."""

    episodes: int
    """Expert episodes to record."""
    weight: float
    """Share of the training tokens."""
    asked: int = 0
    """Episodes of the model's own in each round, about which the expert is asked."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one recipe trains on."""

    tasks: Sequence[Mapping[str, Part]]
    """Parts by task or pattern; the last that a task matches counts."""
    documents: Mapping[str, float] = field(default_factory=dict)
    """Weights of shipped datasets."""
    rounds: tuple[float, ...] = ()
    """Shares of the training after which they are asked."""

    def parts(self) -> dict[str, Part]:
        """The part of each task, by its name."""
        layers = (layer.items() for layer in self.tasks)
        return {task.name: part for layer in layers for pattern, part in layer for task in find_tasks([pattern])}


def demo() -> Plan:
    """21 control tasks for ten minutes on two cores, emoji names and English text."""
    return Plan(
        tasks=[
            {
                "classic/CartPole": Part(100, 0.25, 12),
                "classic/Acrobot": Part(200, 0.15, 12),
                "classic/MountainCar": Part(200, 0.25, 16),
                "classic/MountainCarContinuous": Part(200, 0.1, 8),
                "classic/Pendulum": Part(300, 1.2, 60),
                "toy/FrozenLake": Part(300, 0.1),
                "toy/FrozenLakeNotSlippery": Part(100, 0.05),
                "toy/FrozenLake8x8": Part(300, 0.1),
                "toy/Taxi": Part(2000, 0.25),
                "toy/CliffWalking": Part(100, 0.05),
                "babyai/GoToRedBallGrey": Part(1000, 0.2),
                "babyai/GoToRedBall": Part(1000, 0.2),
                "babyai/GoToObj": Part(1000, 0.2),
                "babyai/GoToLocal": Part(3000, 0.6),
                "babyai/OpenDoor": Part(1500, 0.4),
                "babyai/OpenRedDoor": Part(500, 0.1),
                "babyai/PickupLoc": Part(4000, 0.9),
                "babyai/PutNextLocal": Part(6000, 1.3),
                "babyai/UnlockLocal": Part(1500, 0.6, 200),
                "babyai/GoToDoor": Part(1500, 0.45),
                "sokoban/Sokoban7x7": Part(16000, 2.4),
            }
        ],
        documents={"emoji": 5.0, "text": 0.6},
        rounds=ROUNDS,
    )


def _balance() -> dict[str, Part]:
    """Classic control, toy text, Box2D and MuJoCo."""
    return {
        "classic/CartPole": Part(100, 0.25, 12),
        "classic/Acrobot": Part(200, 0.15, 12),
        "classic/MountainCar": Part(200, 0.25, 16),
        "classic/MountainCarContinuous": Part(200, 0.1, 8),
        "classic/Pendulum": Part(300, 1.0, 60),
        "toy/FrozenLake*": Part(300, 0.1),
        "toy/FrozenLakeNotSlippery": Part(100, 0.05),
        "toy/Taxi": Part(2000, 0.25),
        "toy/CliffWalking": Part(100, 0.05),
        "toy/Blackjack": Part(2000, 0.05),
        "box2d/LunarLander*": Part(200, 0.5, 20),
        "box2d/BipedalWalker": Part(60, 0.8),
        "mujoco/*": Part(100, 0.3, 6),
        "mujoco/InvertedPendulum": Part(50, 0.2, 12),
        "mujoco/Reacher": Part(300, 0.3, 16),
        "mujoco/Pusher": Part(200, 0.3, 8),
        "mujoco/InvertedDoublePendulum": Part(100, 0.5, 200),
        "mujoco/HalfCheetah": Part(100, 1.0, 40),
        "mujoco/Hopper": Part(100, 0.6, 60),
        "mujoco/Walker2d": Part(100, 0.8, 60),
        "mujoco/Ant": Part(100, 0.8, 40),
    }


def _missions() -> list[dict[str, Part]]:
    """BabyAI: what is new in a level decides its weight, not how many levels are like it."""
    return [
        {"babyai/*": Part(400, 0.15)},
        {f"babyai/{name}": Part(1000, 0.1) for name in ROOMS},
        {
            "babyai/GoToLocal": Part(2000, 0.3),
            "babyai/OpenDoor*": Part(1000, 0.15),
            "babyai/Pickup*": Part(500, 0.2),
            "babyai/PickupLoc": Part(4000, 0.5),
            "babyai/PutNextLocal*": Part(3000, 0.4),
            "babyai/PutNextLocal": Part(6000, 0.8),
            "babyai/PutNextS*": Part(1000, 0.25),
            "babyai/UnlockLocal*": Part(1500, 0.3, 60),
            "babyai/GoToDoor": Part(1500, 0.3),
            "babyai/GoToImpUnlock": Part(100, 0.1),
            "babyai/Unlock": Part(150, 0.15),
            "babyai/BossLevel*": Part(300, 0.4),
            "babyai/Synth*": Part(400, 0.3),
            "babyai/GoToSeq": Part(400, 0.3),
            "babyai/MoveTwoAcrossS8N9": Part(400, 0.3),
        },
    ]


def _table() -> dict[str, Part]:
    """Meta-World: its experts see what the model sees, so that asking them pays."""
    return {
        "metaworld/*": Part(100, 0.2, 8),
        "metaworld/basketball": Part(100, 0.4, 24),
        "metaworld/stick-pull": Part(100, 0.4, 24),
        "metaworld/soccer": Part(100, 0.4, 24),
    }


def babyai() -> Plan:
    """All 89 levels of BabyAI."""
    return Plan(tasks=_missions(), rounds=ROUNDS)


def metaworld() -> Plan:
    """All 50 tasks of Meta-World."""
    return Plan(tasks=[_table()], rounds=ROUNDS)


def control() -> Plan:
    """Classic control, toy text, Box2D and MuJoCo."""
    return Plan(tasks=[_balance()], rounds=ROUNDS)


def generalist() -> Plan:
    """Every task that has an expert, and the pictures and the text that come with the package."""
    return Plan(
        tasks=[
            _balance(),
            *_missions(),
            _table(),
            {
                "sokoban/*": Part(4000, 1.2),
                "sokoban/Sokoban7x7": Part(8000, 1.2),
                "pixels/*": Part(1000, 0.25),
                "pixels/CartPole": Part(100, 0.6, 24),
                "pixels/GoToLocal": Part(1000, 0.5),
                "pixels/PickupLoc": Part(1000, 0.6),
                "pixels/Sokoban7x7": Part(4000, 1.0),
            },
        ],
        documents={"emoji": 2.0, "text": 0.6},
        rounds=ROUNDS,
    )


PLANS: Final[dict[str, Callable[[], Plan]]] = {
    "demo": demo,
    "babyai": babyai,
    "metaworld": metaworld,
    "control": control,
    "generalist": generalist,
}


def find_plan(recipe: str) -> Plan:
    """The plan of a recipe that has one."""
    return PLANS[recipe]()


def record_plan(
    plan: Plan,
    out: Path,
    *,
    scale: float = 1.0,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[tuple[str, float]]:
    """Records the experts of a plan, what is there already left as it is.

    Args:
        plan: what to record.
        out: folder for the datasets, a folder for each task.
        scale: factor on all numbers of episodes.
        workers: processes; None stays in this one.
        on_progress: called with the episodes done and in all.

    Returns:
        Dataset folders, each with its weight.

    Raises:
        ImportError: packages of some tasks are not installed; the message has the command.
        UnrecordedError, FileExistsError: as `record_tasks`.
    """
    parts = plan.parts()
    extras = {task.extra: None for task in find_tasks(parts) if task.extra is not None and not task.installed}
    if extras:
        raise ImportError(f"the recipe's tasks need packages: pip install 'gato_lite[{','.join(extras)}]'")
    wanted = {name: max(LEAST, round(part.episodes * scale)) for name, part in parts.items()}
    recordings = record_tasks(wanted, out, workers=workers, on_progress=on_progress)
    return [(str(recording.dataset.path), parts[name].weight) for name, recording in recordings.items()]
