from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gato_lite.envs.dataset import Dataset, Document, Turn, write_documents
from gato_lite.fitting import PictureFit
from gato_lite.run import CONFIG_FILE, RunError, load, read_run_config
from gato_lite.train.loop import Length
from gato_lite.train.picture_fits import dataset_fit, mixture_fits, run_fits
from gato_lite.train.pictures import encode_png
from gato_lite.train.settings import TrainConfig
from gato_lite.train.training import train_run

KEPT = PictureFit(side=48, keep_aspect=True)


def png(height: int, width: int) -> bytes:
    return encode_png(np.zeros((height, width, 3), np.uint8))


def pictures(out: Path, height: int, width: int, how: PictureFit | None = None) -> Dataset:
    return write_documents(out, [Document(png(height, width), "black")], name="mine", pictures=how)


@pytest.fixture
def words(tmp_path: Path) -> Dataset:
    return write_documents(tmp_path / "words", [Document(None, "words and words")], name="words")


@pytest.fixture
def config(tiny: str) -> TrainConfig:
    return TrainConfig(preset=tiny, context_length=64, tokens_per_step=64)


def trained(config: TrainConfig, out: Path, *data: Dataset, init: Path | None = None) -> Path:
    return train_run(config, [(str(one.path), 1.0) for one in data], out, length=Length(steps=1), init=init)


def forget(run: Path, **other: object) -> None:
    """Makes it an older run, or one that remembers something else."""
    stored = json.loads((run / CONFIG_FILE).read_text("utf-8"))
    del stored["training"]["pictures"]
    stored["training"].update(other)
    (run / CONFIG_FILE).write_text(json.dumps(stored), "utf-8")


def test_a_dataset_says_it(tmp_path: Path) -> None:
    assert dataset_fit(pictures(tmp_path / "a", 32, 64, KEPT)) == KEPT


def test_the_first_picture_says_it_where_the_dataset_does_not(
    tmp_path: Path, words: Dataset, corridor: Dataset
) -> None:
    assert dataset_fit(pictures(tmp_path / "square", 28, 28)) == PictureFit(side=28)
    assert dataset_fit(pictures(tmp_path / "other", 32, 64)) == PictureFit(side=46, keep_aspect=True)
    before = Document(None, "yes", prompt="like this?", before=(Turn(image=png(20, 20)),))
    assert dataset_fit(write_documents(tmp_path / "turns", [before], name="turns")) == PictureFit(side=20)
    assert dataset_fit(words) is None
    assert dataset_fit(corridor) is None


def test_of_several_datasets_the_most_seen_fit_comes_first(tmp_path: Path, words: Dataset) -> None:
    small, large = pictures(tmp_path / "small", 32, 32), pictures(tmp_path / "large", 64, 64)
    again = pictures(tmp_path / "again", 32, 32)
    of_32, of_64 = PictureFit(side=32), PictureFit(side=64)
    assert mixture_fits([(words, 9.0), (small, 1.0), (large, 1.0)]) == (of_32, of_64)
    assert mixture_fits([(large, 1.0), (small, 1.0)]) == (of_64, of_32)
    assert mixture_fits([(large, 1.5), (small, 1.0), (again, 1.0)]) == (of_32, of_64)
    assert mixture_fits([(words, 1.0)]) == ()


def test_a_run_remembers_it_when_its_data_is_gone(config: TrainConfig, tmp_path: Path, words: Dataset) -> None:
    data = pictures(tmp_path / "data", 32, 64, KEPT)
    run = trained(config, tmp_path / "run", words, data)
    shutil.rmtree(data.path)
    assert read_run_config(run).training["pictures"] == [{"side": 48, "keep_aspect": True}]
    assert run_fits(run) == load(run).pictures == (KEPT,)


def test_an_older_run_remembers_one_fit(config: TrainConfig, tmp_path: Path, words: Dataset) -> None:
    run = trained(config, tmp_path / "run", words)
    forget(run, pictures={"side": 48, "keep_aspect": True})
    assert run_fits(run) == load(run).pictures == (KEPT,)


def test_a_run_without_pictures_has_that_of_the_run_it_began_with(
    config: TrainConfig, tmp_path: Path, words: Dataset
) -> None:
    first = trained(config, tmp_path / "first", pictures(tmp_path / "data", 64, 64))
    assert run_fits(trained(config, tmp_path / "second", words, init=first)) == (PictureFit(side=64),)
    other = pictures(tmp_path / "other", 32, 32)
    assert run_fits(trained(config, tmp_path / "third", other, init=first)) == (PictureFit(side=32),)
    assert run_fits(trained(config, tmp_path / "fourth", words)) == ()


def test_an_older_run_looks_into_its_data(config: TrainConfig, tmp_path: Path, words: Dataset) -> None:
    data = pictures(tmp_path / "data", 64, 64)
    run = trained(config, tmp_path / "run", words, data)
    forget(run)
    assert run_fits(run) == (PictureFit(side=64),)
    train_run(config, [(str(one.path), 1.0) for one in (words, data)], run, length=Length(steps=2), resume=True)
    shutil.rmtree(data.path)
    assert run_fits(run) == ()


def test_the_published_run_tells_the_sizes_of_its_pictures() -> None:
    """Emoji and questions of 64 pixels, digits and clothes of 28: its configuration says so, the data did not come."""
    assert run_fits(Path("generalist")) == load("generalist").pictures == (PictureFit(side=64), PictureFit(side=28))


@pytest.mark.parametrize("bad", [{"side": 0}, {"side": 64, "shape": "round"}, 64])
def test_what_a_run_remembers_is_checked(config: TrainConfig, tmp_path: Path, words: Dataset, bad: object) -> None:
    run = trained(config, tmp_path / "run", words)
    forget(run, pictures=bad)
    with pytest.raises(RunError, match=r"run/config\.json: training\.pictures: "):
        run_fits(run)
