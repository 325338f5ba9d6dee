"""Progress where no terminal shows it."""

import io
import sys

import pytest

from groupvit import progress as module
from groupvit.progress import progress


def test_without_a_terminal_long_work_writes_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(progress(range(3), desc="train", unit="step")) == [0, 1, 2]
    assert capsys.readouterr().err == ""  # it was short
    monkeypatch.setattr(module, "LINE_S", 0.0)
    assert list(progress(range(3), desc="train", unit="step")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[-1].split()[0] for line in lines] == ["0/3", "1/3", "2/3", "3/3", "3/3"]
    assert all(line.startswith("train:") and "step" in line for line in lines)
    assert list(progress(range(3), shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3))) == [0, 1, 2]
    assert terminal.getvalue().count("\n") == 1 and "3/3" in terminal.getvalue()
