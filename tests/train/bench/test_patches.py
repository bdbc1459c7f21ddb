from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from gato_lite.config import PatchEncoder
from gato_lite.envs.dataset import Document, write_documents
from gato_lite.train.bench.patches import PATCH_SIZES, check, find_encoder, score_encoder
from gato_lite.train.pictures import encode_png


def test_every_encoder_has_a_patch_size() -> None:
    assert set(PATCH_SIZES) == set(get_args(PatchEncoder))
    assert find_encoder("hog") == ("hog", 64)
    assert find_encoder("tnt@8") == ("tnt", 8)
    with pytest.raises(ValueError, match="Did you mean conv"):
        find_encoder("con@8")
    with pytest.raises(ValueError, match="such as hog@32"):
        find_encoder("hog@")


def test_a_model_is_trained_and_scored(tmp_path: Path) -> None:
    shades = {"black": 0, "grey": 128, "white": 255}
    rows = [
        Document(encode_png(np.full((16, 16, 3), level, np.uint8)), name, split)
        for name, level in shades.items()
        for split in ("train", "test")
    ]
    write_documents(tmp_path / "data", rows, name="shades", ability="class")
    data = str(tmp_path / "data")
    check([("linear", 16)], data, recipe="pictures", documents=9)
    found = score_encoder("linear", 16, data, tmp_path / "run", recipe="pictures", minutes=0.05, documents=9)
    assert (found.n, found.metric, found.encoder, found.patch_size) == (3, "accuracy", "linear", 16)
    assert found.steps > 0
    assert found.n_parameters == 16 * 16 * 4 * 128 + 128
    assert 0.0 <= found.mean <= 1.0


def test_data_without_pictures_are_refused(tmp_path: Path) -> None:
    write_documents(tmp_path / "data", [Document(None, "a"), Document(None, "b", "test")], name="words")
    with pytest.raises(ValueError, match="expected a dataset with pictures in its test split"):
        check([("hog", 64)], str(tmp_path / "data"), recipe="pictures", documents=9)


def test_what_would_fail_later_is_refused_at_once(tmp_path: Path) -> None:
    """A picture that fills the context of a later encoder, before the first has trained."""
    image = encode_png(np.zeros((256, 240, 3), np.uint8))
    write_documents(tmp_path / "data", [Document(image, "a"), Document(image, "b", "test")], name="large")
    data = str(tmp_path / "data")
    check([("hog", 64), ("tnt", 16)], data, recipe="pictures", documents=1)
    with pytest.raises(ValueError, match="256 × 240 pixels is 440 patches for linear@12, but the recipe 'pictures'"):
        check([("hog", 64), ("linear", 12)], data, recipe="pictures", documents=1)
    with pytest.raises(ValueError, match="patch_size must be at least 1, got patch_size=0"):
        check([("hog", 64), ("mlp", 0)], data, recipe="pictures", documents=1)
    with pytest.raises(ValueError, match="expected at least one patch encoder, got none"):
        check([], data, recipe="pictures", documents=1)
    for documents in (0, -1):
        with pytest.raises(ValueError, match=f"documents must be at least 1, got {documents}"):
            check([("hog", 64)], data, recipe="pictures", documents=documents)
