"""BabyAI levels of minigrid, and the bots that solve them.

Levels print while they are generated, and give their mission in a space that cannot be stored: both are mended here.
Episodes end after 128 steps in levels of one room and after 512 in the others, where the level's own limit is later:
success by then is what counts.

Of minigrid's 96 levels these seven are left out: its bot fails in OpenDoorsOrderN2Debug and OpenDoorsOrderN4Debug (one
level of four), in PutNextS5N2Carrying, PutNextS6N3Carrying, PutNextS7N4Carrying and KeyInBox (all), and can hang in
UnlockToUnlock.

Source: Chevalier-Boisvert et al. 2019, "BabyAI"; minigrid.
"""

from __future__ import annotations

import contextlib
import io
import string
from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from gato_lite.config import TokenSpec
from gato_lite.envs.babyai_planner import Planner
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError
from gato_lite.envs.task import Task

ROOM_STEPS: Final = 128
"""Time limit in steps of a level in one room."""
MAZE_STEPS: Final = 512
"""Time limit in steps of a level in several rooms."""
ROOMS: Final = tuple(
    """
    GoToRedBallGrey GoToRedBall GoToObj GoToLocal OpenDoor OpenRedDoor PickupLoc PutNextLocal UnlockLocal GoToDoor
    GoToRedBallNoDists GoToObjS4 GoToObjS6 GoToLocalS5N2 GoToLocalS6N2 GoToLocalS6N3 GoToLocalS6N4 GoToLocalS7N4
    GoToLocalS7N5 GoToLocalS8N2 GoToLocalS8N3 GoToLocalS8N4 GoToLocalS8N5 GoToLocalS8N6 GoToLocalS8N7
    GoToRedBlueBall OpenDoorDebug OpenDoorColor OpenDoorLoc PickupDist PickupDistDebug PutNextLocalS5N3
    PutNextLocalS6N4 UnlockLocalDist OneRoomS8
    """.split()
)
"""Levels in which all that matters is in one room, those of the demo first."""
MAZES: Final = tuple(
    """
    GoTo GoToOpen GoToObjMaze GoToObjMazeOpen GoToObjMazeS4R2 GoToObjMazeS4 GoToObjMazeS5 GoToObjMazeS6
    GoToObjMazeS7 GoToImpUnlock GoToSeq GoToSeqS5R2 GoToObjDoor Open OpenTwoDoors OpenRedBlueDoors
    OpenRedBlueDoorsDebug OpenDoorsOrderN2 OpenDoorsOrderN4 Pickup UnblockPickup PickupAbove PutNextS4N1
    PutNextS5N2 PutNextS5N1 PutNextS6N3 PutNextS7N4 Unlock UnlockPickup UnlockPickupDist BlockedUnlockPickup
    ActionObjDoor FindObjS5 FindObjS6 FindObjS7 KeyCorridor KeyCorridorS3R1 KeyCorridorS3R2 KeyCorridorS3R3
    KeyCorridorS4R3 KeyCorridorS5R3 KeyCorridorS6R3 OneRoomS12 OneRoomS16 OneRoomS20 MoveTwoAcrossS5N2
    MoveTwoAcrossS8N9 Synth SynthS5R2 SynthLoc SynthSeq MiniBossLevel BossLevel BossLevelNoUnlock
    """.split()
)
"""The others."""
HANDED_OVER: Final = ("PickupDist", "PickupDistDebug", "PutNextLocalS5N3")
"""Levels in one room that minigrid's bot solves from the start, but not always from where the planner knows no way."""
_VERSIONS: Final = {"GoToObjS6": 1}
"""Of levels that are not at version 0."""
_LETTERS: Final = string.ascii_lowercase + " ,"
MISSION: Final = spaces.Text(256, charset=_LETTERS)
"""Missions are lower-case sentences, in one room of at most 120 characters."""
LONG_MISSION: Final = spaces.Text(512, charset=_LETTERS)
"""Elsewhere they have up to four clauses."""
SPEC: Final = TokenSpec(leaves=("image", "mission"), once=("mission",), pixel_high=(10, 5, 3))
"""The 7×7 grid is one patch, its object, colour and state codes scaled to the full range; the mission comes once."""


class Quiet(gym.Wrapper[Any, Any, Any, Any]):  # Any: a Dict observation
    """A level that prints nothing and whose mission is a `Text`."""

    def __init__(self, env: AnyEnv, mission: spaces.Text) -> None:
        super().__init__(env)
        inner = env.observation_space
        assert isinstance(inner, spaces.Dict)
        self.observation_space = spaces.Dict({**inner.spaces, "mission": mission})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new level; rejected ones are not printed."""
        with contextlib.redirect_stdout(io.StringIO()):
            return self.env.reset(seed=seed, options=options)


class Bot:
    """The planner of `babyai_planner` where it knows a way; from where it knows none, minigrid's bot.

    The bot knows the whole level and follows what was really done.

    Args:
        env: a BabyAI level.
        planner: of the same level; None leaves it all to minigrid's bot.
    """

    def __init__(self, env: AnyEnv, planner: Planner | None = None) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self.env = env
        self.planner = planner
        self.make: Callable[[Any], Any] = BabyAIBot  # Any: minigrid has no types
        self.bot: Any = None

    def reset(self) -> None:
        """Read the mission of the level that the environment is in."""
        self.bot = None
        if self.planner is not None:
            self.planner.reset()

    def act(self, observation: Any, previous_action: Any) -> Any:
        """The next action of the bot's plan, planned again after an action that was not its own."""
        del observation
        try:
            if self.bot is None:
                planned = None if self.planner is None else self.planner.act()
                if planned is not None:
                    return planned
                self.bot = self.make(self.env)
                previous_action = None  # a new bot has planned nothing yet
            return int(self.bot.replan(None if previous_action is None else int(previous_action)))
        except ExpertFailedError:
            raise
        except Exception as error:  # the bot's own failures are of every kind
            raise ExpertFailedError(f"the BabyAI bot is lost: {type(error).__name__}: {error}") from error


def level(name: str) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of the level `BabyAI-<name>`; levels come from the seed, so evaluation seeds give unseen ones."""
    max_steps, mission = (ROOM_STEPS, MISSION) if name in ROOMS else (MAZE_STEPS, LONG_MISSION)

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        del evaluation
        import minigrid  # noqa: F401  (registers the levels)

        environment = gym.make(
            f"BabyAI-{name}-v{_VERSIONS.get(name, 0)}", disable_env_checker=True, render_mode=render_mode
        )
        return TimeLimit(Quiet(environment, mission), max_steps)

    return make


def in_room(env: AnyEnv) -> Expert:
    """The expert of levels in one room."""
    return Bot(env, Planner(env))


def in_maze(env: AnyEnv) -> Expert:
    """The expert of levels in several rooms, and of a few in one: minigrid's bot."""
    return Bot(env)


def _task(name: str) -> Task:
    return Task(
        name=f"babyai/{name}",
        make_env=level(name),
        expert=in_room if name in ROOMS and name not in HANDED_OVER else in_maze,
        modality="vision",
        spec=SPEC,
        metric="success",
        must_succeed=True,
        extra="babyai",
    )


TASKS: Final = tuple(_task(name) for name in (*ROOMS, *MAZES))
