from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from rich.console import Console

from gato_lite.config import GatoConfig, TokenSpec
from gato_lite.envs.dataset import Document, write_documents
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.inspect import MAX_TEXT_TOKENS, inspect_path, timestep_stream
from gato_lite.train.pictures import encode_png
from gato_lite.train.token_rows import TokenStream, patch_png, patch_rgb, render, to_json

GRID = TokenSpec(leaves=("image", "mission"), pixel_high=(10, 5, 3))
GRID_SPACE = spaces.Dict(
    image=spaces.Box(0, 255, (7, 7, 3), np.uint8), mission=spaces.Text(64), direction=spaces.Discrete(4)
)


def stream_of(space: spaces.Space, value: object, action_space: spaces.Space, action: object, **kwargs) -> TokenStream:
    spec = kwargs.pop("spec", TokenSpec())
    seen = SpaceTokenizer(space, spec=spec)
    done = SpaceTokenizer(action_space, action=True)
    instruction = kwargs.pop("instruction", None)
    return timestep_stream(
        seen.stack([value]), done.stack([action]), seen, done, name="a/b", about="here", instruction=instruction
    )


def test_a_grid_with_a_mission() -> None:
    image = np.zeros((7, 7, 3), np.uint8)
    image[0, 0] = (10, 5, 3)
    value = {"image": image, "mission": "go to the ball", "direction": 1}
    stream = stream_of(GRID_SPACE, value, spaces.Discrete(7), 2, spec=GRID)
    *mission, patch, action = stream.rows
    assert "".join(row.description.split("'")[1] for row in mission).replace("▁", " ") == "go to the ball"
    assert {row.leaf for row in mission} == {"observation/mission"}
    assert [row.local for row in stream.rows] == [*range(1, len(mission) + 2), 0]
    assert (patch.kind, patch.leaf) == ("patch", "observation/image")
    assert patch.patch is not None
    assert patch.patch.shape == (7, 7, 3)
    assert patch.patch[0, 0].tolist() == [255, 255, 255]
    assert (action.description, action.leaf, action.is_target) == ("discrete 2", "action", True)
    assert stream.n_targets == 1
    assert stream.n_tokens == len(stream.rows)


def test_chunks_and_bins_show_their_values() -> None:
    space, action_space = spaces.Box(-2, 2, (40,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    value, action = np.linspace(-2, 2, 40, dtype=np.float32), np.array([-0.5, 0.25], np.float32)
    spec = TokenSpec(separator=True)
    stream = stream_of(space, value, action_space, action, spec=spec, instruction="Stay.")
    kinds = [row.kind for row in stream.rows]
    start = kinds.index("chunk")
    assert kinds[start:] == ["chunk", "chunk", "separator", "bin", "bin"]
    assert {row.leaf for row in stream.rows[:start]} == {"instruction"}
    chunks = stream.rows[start : start + 2]
    assert [len(row.values) for row in chunks] == [32, 8]
    assert np.allclose([scalar for row in chunks for scalar in row.values], value / 2, atol=1e-6)
    assert [row.values[0] for row in stream.rows[-2:]] == pytest.approx([-0.5, 0.25], abs=2 / 1024)
    assert [row.is_target for row in stream.rows] == [False] * (start + 3) + [True, True]


def test_documents_are_a_picture_and_a_text(tmp_path: Path) -> None:
    pixels = np.full((32, 32, 3), 200, np.uint8)
    rows = [Document(None, "word " * 200), Document(encode_png(pixels), "a grey square"), Document(None, "other")]
    write_documents(tmp_path / "d", rows, name="mine")
    text, picture = inspect_path(tmp_path / "d")
    assert [row.kind for row in picture.rows[:5]] == ["patch"] * 4 + ["text"]
    assert [row.leaf for row in picture.rows] == ["picture"] * 4 + ["answer"] * (len(picture.rows) - 4)
    assert [row.is_target for row in picture.rows] == [row.leaf == "answer" for row in picture.rows]
    assert picture.rows[-1].kind == "end"
    assert [row.local for row in picture.rows] == [1, 2, 3, 4, *range(1, len(picture.rows) - 4), 0]
    assert text.rows[0].kind == "end"
    assert not text.rows[0].is_target
    assert len(text.rows) == 1 + MAX_TEXT_TOKENS < text.n_tokens


def test_json_holds_every_token_and_a_picture_of_each_patch(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    write_documents(tmp_path / "d", [Document(encode_png(pixels), "noise")], name="mine")
    streams = inspect_path(tmp_path / "d")
    (stored,) = json.loads(to_json(streams))
    assert stored["n_tokens"] == len(stored["tokens"]) == streams[0].n_tokens
    first = stored["tokens"][0]
    assert first["patch"]["shape"] == [16, 16, 3]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["patch"]["png"]))))
    assert np.array_equal(shown, pixels[:16, :16])
    assert list(stored["tokens"][-1]) == ["position", "id", "kind", "description", "local", "target", "leaf"]


def test_a_run_shows_its_tasks(tmp_path: Path) -> None:
    vocabulary = Vocabulary.shipped()
    config = GatoConfig(n_layer=1, n_head=1, d_model=8, d_ff=8, vocab_size=vocabulary.size)
    tasks = (
        task_format("mine/Grid", GRID_SPACE, spaces.Discrete(7), GRID, None),
        task_format("mine/Two", spaces.Discrete(3), spaces.Discrete(2), TokenSpec(), "Guess."),
    )
    write_run(tmp_path, RunConfig(model=config, tasks=tasks, vocabulary=vocabulary.fingerprint), vocabulary)
    assert [stream.name for stream in inspect_path(tmp_path)] == ["mine/Grid", "mine/Two"]
    (stream,) = inspect_path(tmp_path, tasks=["mine/Two"])
    assert "random members of its spaces" in stream.about
    assert [row.leaf for row in stream.rows[-2:]] == ["observation", "action"]
    with pytest.raises(ValueError, match="mine/Two"):
        inspect_path(tmp_path, tasks=["mine/Tow"])


def test_a_folder_of_neither(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a run \(config.json\) nor a dataset \(dataset.json\)"):
        inspect_path(tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_patches_of_any_channels_can_be_seen(channels: int) -> None:
    patch = np.random.default_rng(0).integers(0, 255, (5, 3, channels), np.uint8)
    assert patch_rgb(patch).shape == (5, 3, 3)
    assert Image.open(io.BytesIO(patch_png(patch))).size == (3, 5)


def test_planes_get_a_colour_each_and_transparency_lies_on_white() -> None:
    planes = np.zeros((1, 5, 4), np.uint8)
    for plane in range(4):
        planes[0, plane, plane] = 255
    assert len(np.unique(patch_rgb(planes)[0], axis=0)) == 5
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 128]]], np.uint8)
    assert patch_rgb(clear)[0, 0].tolist() == [255, 255, 255]


def test_it_fits_a_terminal() -> None:
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    stream = stream_of(env.observation_space, observation, env.action_space, 1, instruction="Balance the pole.")
    console = Console(width=78, file=io.StringIO(), force_terminal=False)
    console.print(render(stream))
    shown = console.file.getvalue()
    assert "discrete 1" in shown
    assert "that the loss asks for" in shown
    assert max(map(len, shown.splitlines())) <= 78
