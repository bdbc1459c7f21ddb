"""Films of an agent at work: small H.264 files that every browser plays.

    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    film = record_film(env, policy.act, "CartPole.mp4", seed=0, on_reset=policy.reset)

A strip above the picture, where no player's controls cover it, says what the agent was told, if the observation or the
caller has words for it, and how the episode ended. Short episodes follow one another until the film is long enough to
be looked at.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gato_lite.envs.format import Metric
from gato_lite.whole import replacing

Frame = npt.NDArray[np.uint8]
"""(H, W, 3) pixels."""
AnyEnv = gym.Env[Any, Any]  # Any: observations and actions of whatever task it is

MAX_SIDE: Final = 256
"""Longest side of a film's picture in pixels."""
MAX_BYTES: Final = 150_000
"""Largest film."""
MAX_FPS: Final = 30
"""Frames a second; of faster environments every other frame is kept."""
STRIP: Final = 24
"""Height of the strip of words in pixels."""

_QUALITIES: Final = (24, 30, 36, 42, 48)  # libx264's rate factor: each step of 6 halves the size
_HOLD_S: Final = 0.9


class FilmError(RuntimeError):
    """A film could not be made."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """What was filmed."""

    path: Path
    n_frames: int
    fps: float
    """Frames a second."""
    returns: tuple[float, ...]
    """Sum of rewards of each episode; of one that was cut, up to the cut."""
    n_bytes: int


def record_film(
    env: AnyEnv,
    act: Callable[[Any], Any],
    path: Path | str,
    *,
    seed: int,
    on_reset: Callable[[], object] | None = None,
    metric: Metric = "return",
    caption: str | None = None,
    fps: float | None = None,
    min_seconds: float = 4.0,
    max_seconds: float = 12.0,
    max_side: int = MAX_SIDE,
    max_bytes: int = MAX_BYTES,
    to_the_end: bool = False,
) -> Film:
    """Films a policy in an environment.

    Args:
        env: made with render_mode="rgb_array"; it is reset here and left open.
        act: observation → action.
        path: the .mp4 file to write; it is replaced.
        seed: of the first episode; later ones count up from it.
        on_reset: called after each reset, such as `policy.reset`.
        metric: whether an episode's end is told as its return or as success (a positive return).
        caption: words above the picture; None shows the observation's own, such as a mission.
        fps: frames a second; None takes the environment's.
        min_seconds: another episode follows while the film is shorter.
        max_seconds: the film is cut there.
        max_side: longest side of the picture in pixels.
        max_bytes: size that the picture's quality is lowered for.
        to_the_end: whether an episode is played on after the film was cut.

    Raises:
        ImportError: the `video` extra is not installed.
        ValueError: the environment does not draw.
        FilmError: the encoder failed.
    """
    ffmpeg()  # before the work
    if env.render_mode != "rgb_array":
        raise ValueError(
            f'a film needs an environment made with render_mode="rgb_array", got render_mode={env.render_mode!r}'
        )
    rate, stride = _rate(env, fps)
    frames: list[Frame] = []
    returns: list[float] = []
    while len(frames) < min(min_seconds, max_seconds) * rate or not returns:
        total, n_step = 0.0, -1
        for observation, reward, note in _episode(env, act, seed + len(returns), on_reset, metric):
            total += reward
            n_step += 1
            if len(frames) < max_seconds * rate and (note or n_step % stride == 0):
                words = caption if caption is not None else _words(observation)
                frames.append(with_strip(shrink(_draw(env), max_side), words, note))
                frames += [frames[-1]] * round(_HOLD_S * rate * bool(note))
            if len(frames) >= max_seconds * rate and not to_the_end:
                break
        returns.append(total)
    n_bytes = write_film(frames, path, fps=rate, max_bytes=max_bytes)
    return Film(path=Path(path), n_frames=len(frames), fps=rate, returns=tuple(returns), n_bytes=n_bytes)


def _episode(
    env: AnyEnv,
    act: Callable[[Any], Any],
    seed: int,
    on_reset: Callable[[], object] | None,
    metric: Metric,
) -> Iterator[tuple[Any, float, str]]:  # Any: an observation
    """Observation, reward, and at the end how it went, after the reset and after each step."""
    observation, _ = env.reset(seed=seed)
    if on_reset is not None:
        on_reset()
    yield observation, 0.0, ""
    total, steps, over = 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        over = bool(terminated or truncated)
        total += float(reward)
        steps += 1
        note = ""
        if over and metric == "success":
            note = f"{'✓ done' if total > 0 else '✗ not done'} · {steps} steps"
        elif over:
            note = f"return {total:,.4g}"
        yield observation, float(reward), note


def _draw(env: AnyEnv) -> Frame:
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a film needs pictures (H, W, 3) from env.render(), got {type(frame).__name__} from {env}")
    return frame


def _words(observation: Any) -> str | None:  # Any: a member of the observation space
    """The first string in an observation, if it has one."""
    if isinstance(observation, str):
        return observation
    if isinstance(observation, Mapping):
        return next((value for value in observation.values() if isinstance(value, str)), None)
    return None


def _rate(env: AnyEnv, fps: float | None) -> tuple[float, int]:
    """Frames a second of the film, and of how many drawn frames one is kept."""
    drawn = float(fps if fps is not None else env.metadata.get("render_fps") or 10)
    if drawn <= 0:
        raise ValueError(f"fps must be above 0, got {drawn}")
    stride = int(np.ceil(drawn / MAX_FPS))
    return drawn / stride, stride


def shrink(frame: Frame, max_side: int = MAX_SIDE) -> Frame:
    """A frame with sides that are even, as H.264 asks, and at most `max_side`."""
    height, width = frame.shape[:2]
    factor = min(1.0, max_side / max(height, width))
    size = max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.HAMMING))


def with_strip(frame: Frame, words: str | None, note: str = "") -> Frame:
    """A frame with a strip of words above: what to do on the left, how it ended on the right."""
    height, width = frame.shape[:2]
    canvas = Image.new("RGB", (width, height + STRIP), (24, 26, 32))
    canvas.paste(Image.fromarray(frame), (0, STRIP))
    draw = ImageDraw.Draw(canvas)
    font, middle = ImageFont.load_default(12), STRIP // 2
    room = width - 12
    if note:
        note, colour = _marked(note)
        if words and draw.textlength(words + note, font) > room - 10:
            note = note.split(" · ")[0]
        length = draw.textlength(note, font)
        draw.text((width - 6 - length, middle), note, font=font, fill=colour, anchor="lm")
        room -= round(length) + 10
    if words:
        draw.text((6, middle), _shortened(words, draw, font, room), font=font, fill=(232, 234, 238), anchor="lm")
    return np.asarray(canvas)


def _marked(note: str) -> tuple[str, tuple[int, int, int]]:
    """A note without its mark, which the font lacks, and the colour that stands for it."""
    if note.startswith("✓ "):
        return note[2:], (126, 211, 148)
    if note.startswith("✗ "):
        return note[2:], (244, 150, 130)
    return note, (160, 196, 255)


def _shortened(words: str, draw: ImageDraw.ImageDraw, font: Any, room: int) -> str:  # Any: one of Pillow's fonts
    if draw.textlength(words, font) <= room:
        return words
    while words and draw.textlength(words + "…", font) > room:
        words = words[:-1]
    return words + "…"


def write_film(frames: Sequence[Frame], path: Path | str, *, fps: float, max_bytes: int = MAX_BYTES) -> int:
    """Writes frames of one even size as H.264; lowers the quality until it fits.

    Returns:
        Bytes of the file.

    Raises:
        ImportError: the `video` extra is not installed.
        ValueError: no frames, or of odd or different sizes.
        FilmError: the encoder failed.
    """
    sizes = {frame.shape for frame in frames}
    if len(sizes) != 1 or any(side % 2 for side in next(iter(sizes))[:2]):
        raise ValueError(f"a film needs frames of one even size, got {sorted(sizes) or 'no frame'}")
    height, width = next(iter(sizes))[:2]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        for quality in _QUALITIES:
            _encode(frames, (width, height), fps, quality, temporary)
            if temporary.stat().st_size <= max_bytes:
                break
    return path.stat().st_size


def _encode(frames: Sequence[Frame], size: tuple[int, int], fps: float, quality: int, path: Path) -> None:
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{fps:g}", "-i", "-"]
    coding = ["-c:v", "libx264", "-preset", "medium", "-tune", "animation", "-crf", str(quality), "-threads", "1"]
    output = ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-an", "-map_metadata", "-1", "-f", "mp4", str(path)]
    command = [ffmpeg(), "-y", "-hide_banner", "-loglevel", "error", *source, *coding, *output]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        with contextlib.suppress(BrokenPipeError):  # it ended early, and its exit code says so
            for frame in frames:  # each in one piece: communicate() writes 512 bytes at a time
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        said = process.stderr.read().decode(errors="replace")
    if process.returncode:
        raise FilmError(f"ffmpeg could not write {path}: {said.strip()[-300:]}")


def ffmpeg() -> str:
    """The encoder's path.

    Raises:
        ImportError: the `video` extra is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError(
            "films need imageio-ffmpeg, which is not installed: pip install 'gato_lite[video]'"
        ) from error
    return str(imageio_ffmpeg.get_ffmpeg_exe())
