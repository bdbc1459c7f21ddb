from __future__ import annotations

import math
from pathlib import Path

import pytest

from gato_lite.train import console


def test_an_error_is_one_line(capsys):
    console.print_error("  first\n   second\n")
    assert capsys.readouterr().err == "gato-lite: error: first second\n"


def test_json_has_no_nan():
    assert console.to_json({"low": math.nan, "name": "é"}) == '{\n "low": null,\n "name": "é"\n}'


def test_refuse_to_overwrite(tmp_path: Path):
    file = tmp_path / "scores.json"
    console.refuse_to_overwrite([file], overwrite=False)
    file.touch()
    console.refuse_to_overwrite([file], overwrite=True)
    with pytest.raises(FileExistsError, match="scores.json: already there; pass --overwrite to replace it"):
        console.refuse_to_overwrite([file], overwrite=False)


def test_write_whole(tmp_path: Path):
    console.write_whole(tmp_path / "new" / "file", "text")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_answer_only_keeps_libraries_off_standard_output(capsys):
    with console.answer_only():
        print("hello from a library")
    assert capsys.readouterr() == ("", "hello from a library\n")


def test_a_bar_in_a_log_is_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.bar("evaluating", "episodes") as show:
        for now[0], done in ((10.0, 10), (12.0, 12), (60.0, 60)):
            show(done, 100)
        assert capsys.readouterr().err == "evaluating 60%  60/100 episodes  1.0 episodes/s  0:40 left\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(console.sys, "stderr", terminal)
    with console.share_bar("training") as show:
        show(0.5, "step 10")
    assert "training" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
    assert "step 10" in terminal.getvalue()


def test_time_left(monkeypatch):
    """By the progress since there was any: reading data, or what an earlier run had done, is no measure."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    left = console._Left()
    seen = []
    for now[0], done in ((0, 0.0), (500, 0.5), (510, 0.6), (560, 0.9), (571, 1.0)):
        seen.append(left.after(done))
    assert seen == ["", "", "0:40 left", "0:15 left", ""]
    assert console._in_words(32_400) == "9:00:00 left"


def test_a_table_is_as_wide_as_its_values(capsys):
    console.print_table(["task", "score"], [["a", "1.00"], ["longer", "12.00"]], numbers=["score"])
    assert capsys.readouterr().out == "task    score\na        1.00\nlonger  12.00\n"
