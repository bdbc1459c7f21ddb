from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

from gato_lite.envs.film import STRIP, FilmError, ffmpeg, record_film, shrink, with_strip, write_film


class Dot(gym.Env[Any, Any]):
    """A bright square walks to the right, a step a frame, for eight steps."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Dict({"mission": gym.spaces.Text(32), "x": gym.spaces.Discrete(9)})
    action_space = gym.spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, size: tuple[int, int] = (90, 121)) -> None:
        self.size = size
        self.x = 0
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        self.x = 0
        return self._see(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x += int(action)
        return self._see(), float(self.x == 8), self.x == 8, False, {}

    def _see(self) -> dict[str, Any]:
        return {"mission": "walk to the right", "x": self.x}

    def render(self) -> Any:
        frame = np.full((*self.size, 3), 40, np.uint8)
        frame[30:40, 10 * self.x : 10 * self.x + 10] = 250
        return frame


def frames_of(path: Path, height: int, width: int) -> tuple[str, npt.NDArray[np.uint8]]:
    """What ffmpeg says about a film, and its frames."""
    command = [ffmpeg(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stderr.decode(), np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def test_a_film_shows_every_step(tmp_path: Path) -> None:
    begun = []
    env = Dot()
    film = record_film(env, lambda o: 1, tmp_path / "dot.mp4", seed=5, on_reset=lambda: begun.append(1), min_seconds=0)
    about, frames = frames_of(film.path, 90 + STRIP, 120)
    assert re.search(r"Video: h264 .*yuv420p.* 120x114.* 10 fps", about)
    assert len(frames) == film.n_frames == 9 + 9  # the last frame stays for 0.9 s
    centres = [frame[STRIP + 32 : STRIP + 38].mean(axis=(0, 2)).argmax() for frame in frames[:9]]
    assert np.allclose(centres, np.arange(9) * 10 * 120 / 121 + 4, atol=6)
    assert film.returns == (1.0,)
    assert film.n_bytes == film.path.stat().st_size < 20_000
    assert begun == [1]
    assert env.seeds == [5]
    assert not list(tmp_path.glob(".*"))


def test_short_episodes_follow_one_another_and_long_ones_are_cut(tmp_path: Path) -> None:
    env = Dot()
    film = record_film(env, lambda o: 1, tmp_path / "a.mp4", seed=5, min_seconds=3)
    assert env.seeds == [5, 6]
    assert film.returns == (1.0, 1.0)
    film = record_film(Dot(), lambda o: 0, tmp_path / "b.mp4", seed=5, max_seconds=2)
    assert film.n_frames == 20
    assert film.returns == (0.0,)


def test_an_episode_may_go_on_after_the_film_was_cut(tmp_path: Path) -> None:
    env = Dot()
    film = record_film(env, lambda o: 1, tmp_path / "a.mp4", seed=5, min_seconds=0, max_seconds=0.5, to_the_end=True)
    assert film.n_frames == 5
    assert film.returns == (1.0,)
    assert (env.seeds, env.x) == ([5], 8)


def test_fast_environments_keep_every_other_frame(tmp_path: Path) -> None:
    film = record_film(Dot(), lambda o: 1, tmp_path / "a.mp4", seed=0, fps=50, min_seconds=0)
    assert film.fps == 25
    assert film.n_frames == 5 + round(0.9 * 25)


def test_quality_falls_until_the_film_fits(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8)
    good = write_film(list(noise), tmp_path / "good.mp4", fps=12, max_bytes=10**9)
    small = write_film(list(noise), tmp_path / "small.mp4", fps=12, max_bytes=good // 4)
    assert small <= good // 4


def test_frames_become_small_and_even() -> None:
    assert shrink(np.zeros((401, 601, 3), np.uint8)).shape == (170, 256, 3)
    assert shrink(np.zeros((31, 33, 3), np.uint8)).shape == (32, 32, 3)
    frame = np.zeros((64, 64, 3), np.uint8)
    assert shrink(frame) is frame


def test_the_strip_says_what_and_how_it_ended() -> None:
    frame = np.full((64, 200, 3), 200, np.uint8)
    silent = with_strip(frame, None)
    assert (silent[STRIP:] == 200).all()
    words, ended = with_strip(frame, "go to the red ball " * 9), with_strip(frame, None, "✓ done · 3 steps")
    assert (words[:STRIP, :100] != silent[:STRIP, :100]).any()
    assert (ended[:STRIP, 100:] != silent[:STRIP, 100:]).any()
    assert (with_strip(frame, None, "✗ not done")[:STRIP] != ended[:STRIP]).any()


def test_what_cannot_be_filmed(tmp_path: Path) -> None:
    env = gym.make("FrozenLake-v1")
    with pytest.raises(ValueError, match='render_mode="rgb_array", got render_mode=None'):
        record_film(env, lambda o: 0, tmp_path / "a.mp4", seed=0)
    with pytest.raises(ValueError, match="a film needs frames of one even size, got no frame"):
        write_film([], tmp_path / "a.mp4", fps=10)
    with pytest.raises(ValueError, match="fps must be above 0"):
        record_film(Dot(), lambda o: 0, tmp_path / "a.mp4", seed=0, fps=-1)
    with pytest.raises(FilmError, match="ffmpeg could not write"):
        write_film([np.zeros((32, 32, 3), np.uint8)], tmp_path / "a.mp4", fps=0)
    assert not list(tmp_path.iterdir())


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"films need imageio-ffmpeg.*pip install 'gato_lite\[video\]'"):
        record_film(Dot(), lambda o: 0, tmp_path / "a.mp4", seed=0)
