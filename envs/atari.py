"""Atari games of the Arcade Learning Environment: what an agent sees, and no expert.

A picture of 210×160 pixels is shrunk to 96×96, which is 36 patches, and an episode is over after five minutes of play,
as the papers have it; ale-py itself plays on for thirty, which some games take whoever plays. Otherwise they are its
`v5` games: four frames an action, an action repeated with probability 0.25, only the actions that the game knows.

Source: Bellemare et al. 2013, "The Arcade Learning Environment"; Machado et al. 2018, "Revisiting the Arcade Learning
Environment".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.envs.experts import AnyEnv
from gato_lite.envs.task import Task

SIDE: Final = 96
"""Pixels along each side of what is seen."""
LONGEST: Final = 18_000
"""Frames of an episode: five minutes at 60 a second, 4,500 actions."""
GAMES: Final = tuple(
    """
    Adventure AirRaid Alien Amidar Assault Asterix Asteroids Atlantis Atlantis2 Backgammon BankHeist BasicMath
    BattleZone BeamRider Berzerk Blackjack Bowling Boxing Breakout Carnival Casino Centipede ChopperCommand
    CrazyClimber Crossbow Darkchambers Defender DemonAttack DonkeyKong DoubleDunk Earthworld ElevatorAction Enduro
    Entombed Et FishingDerby FlagCapture Freeway Frogger Frostbite Galaxian Gopher Gravitar Hangman HauntedHouse
    Hero HumanCannonball IceHockey Jamesbond JourneyEscape Kaboom Kangaroo KeystoneKapers KingKong Klax Koolaid Krull
    KungFuMaster LaserGates LostLuggage MarioBros MiniatureGolf MontezumaRevenge MrDo MsPacman NameThisGame Othello
    Pacman Phoenix Pitfall Pitfall2 Pong Pooyan PrivateEye Qbert Riverraid RoadRunner Robotank Seaquest SirLancelot
    Skiing Solaris SpaceInvaders SpaceWar StarGunner Superman Surround Tennis Tetris TicTacToe3D TimePilot Trondead
    Turmoil Tutankham UpNDown Venture VideoCheckers VideoChess VideoCube VideoPinball WizardOfWor WordZapper
    YarsRevenge Zaxxon
    """.split()
)
"""All that ale-py brings."""


class Shrunk(gym.ObservationWrapper[npt.NDArray[np.uint8], Any, Any]):  # Any: the game's actions and pictures
    """A game seen as (96, 96, 3) pixels, each the mean of those it covers."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def observation(self, observation: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The picture, shrunk."""
        from PIL import Image

        return np.asarray(Image.fromarray(observation).resize((SIDE, SIDE), Image.Resampling.BOX))


def game(name: str) -> Callable[[bool, str | None], AnyEnv]:
    """A maker of the game `ALE/<name>-v5`."""

    def make(evaluation: bool, render_mode: str | None) -> AnyEnv:
        del evaluation
        import ale_py

        gym.register_envs(ale_py)
        made = gym.make(
            f"ALE/{name}-v5", max_num_frames_per_episode=LONGEST, disable_env_checker=True, render_mode=render_mode
        )
        return Shrunk(made)

    return make


TASKS: Final = tuple(
    Task(
        name=f"atari/{name}", make_env=game(name), modality="vision", extra="atari", time_limit_s=300.0, part_episodes=2
    )
    for name in GAMES
)
