"""Speeds of sources and of start-up: that they are measured, not how fast they are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.train.bench.data import SourceSpeed, StartUp, measure_source, time_process
from gato_lite.train.commands.bench_data import print_sources
from gato_lite.train.pictures import encode_png


def test_every_kind_of_source_is_followed_to_streams(corridor: Dataset, tmp_path: Path) -> None:
    shown = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in range(4)]
    pictures = write_documents(tmp_path / "p", [Document(encode_png(one), "a") for one in shown], name="p")
    texts = write_documents(tmp_path / "t", [Document(None, "One boat. " * 50)] * 3, name="t")
    for dataset, megabytes in ((corridor, None), (pictures, 4 * (32 * 32 * 3 + 1) / 1e6), (texts, 1500 / 1e6)):
        speed = measure_source("some", dataset, rounds=1)
        assert speed.dataset == dataset.info.task
        assert speed.tokens >= 1
        assert speed.documents >= 1
        assert min(speed.read_s, speed.draw_s) > 0.0
        assert speed.tokenise_s >= 0.0
        assert speed.seconds == speed.read_s + speed.tokenise_s + speed.draw_s
        assert megabytes is None or speed.megabytes == pytest.approx(megabytes)


def test_a_process_that_fails_is_told() -> None:
    assert time_process(["-c", "pass"]) > 0.0
    with pytest.raises(RuntimeError, match="to run, it failed: no such luck"):
        time_process(["-c", "import sys; sys.exit('no such luck')"])


def test_rows_of_the_report_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    row = SourceSpeed(
        kind="text", dataset="t", documents=10, tokens=1000, megabytes=2.0, read_s=0.5, tokenise_s=1.0, draw_s=0.5
    )
    print_sources([row])
    cells = capsys.readouterr().out.splitlines()[1].split()
    assert cells == ["text", "5", "500", "1.0", "2,000", "25%", "50%", "25%"]
    assert msgspec.to_builtins(row)["row"] == "source"
    assert msgspec.to_builtins(StartUp(what="x", seconds=1.0, limit_s=2.0))["row"] == "start_up"
