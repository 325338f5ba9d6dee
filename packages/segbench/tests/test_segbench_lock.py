"""One evaluation at a time in a folder, which a killed one does not keep."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segbench import SegbenchError, Segmenter, UsageError, evaluate, load_task, score_folder, sweep
from segbench.cli import main
from segbench.lock import folder_lock

SCRIPT = Path(__file__).with_name("resume_script.py")


def refused(folder: Path, match: str = "another evaluation") -> None:
    """The folder is not to be had now."""
    with pytest.raises(UsageError, match=match), folder_lock(folder):
        pytest.fail("held twice")


def test_the_second_holder_gets_one_line_that_names_the_first(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with folder_lock(out):
        refused(out, rf"evaluation \(process {os.getpid()} on .*\) is writing .*b; wait for it or")
        with folder_lock(tmp_path / "c"):
            pass
    assert list(out.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), folder_lock(out):
        raise KeyboardInterrupt
    with folder_lock(out):
        pass


def test_who_opened_the_file_before_it_was_removed_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def removed_meanwhile(descriptor: int, flags: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # the holder leaves between our open and our lock
            (tmp_path / ".lock").unlink()
        flock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with folder_lock(tmp_path):
        assert len(calls) == 2 and (tmp_path / ".lock").exists()
        refused(tmp_path)


def fails_with(number: int) -> Callable[[int, int], None]:
    def flock(_descriptor: int, _flags: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_without_locks_it_warns_and_a_folder_that_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.ENOLCK))
    with caplog.at_level(logging.WARNING), folder_lock(tmp_path):
        pass
    assert "no file locks here" in caplog.text
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.EIO))
    with pytest.raises(SegbenchError, match=r"cannot be written \(Input/output"):
        folder_lock(tmp_path).__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(SegbenchError, match=r"file: cannot be written \(File exists"):
        folder_lock(tmp_path / "file").__enter__()


def test_no_verb_writes_where_another_does(
    painted: Segmenter,
    mini: Path,
    mini_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = 'background = "constant"\nbackground_value = 0.5\n'
    mini_task.write_text(text + mini_task.read_text())
    monkeypatch.setitem(sys.modules, "m", SimpleNamespace(f=lambda: painted))
    saved = tmp_path / "saved"
    saved.mkdir()
    np.save(saved / "a.npy", np.zeros((6, 4), np.uint8))
    np.save(saved / "b.npy", np.zeros((4, 4), np.uint8))
    out = tmp_path / "out/mini@whole"
    places = ("--root", str(mini), "--out", str(tmp_path / "out"), "--overwrite", "true")
    verbs = (
        ["run", "m:f", str(mini_task)],
        ["score", str(saved), str(mini_task)],
        ["sweep", "m:f", str(mini_task), "--bg_thresh", "0:1:2"],
    )
    with folder_lock(out):
        (out / "journal").mkdir()  # of the one that is under way: --overwrite must leave it alone
        for verb in verbs:
            assert main([*verb, *places]) == 2
            err = capsys.readouterr().err
            assert err.startswith("segbench: another evaluation (process") and err.count("\n") == 1
        assert sorted(path.name for path in out.iterdir()) == [".lock", "journal"]
    for verb in verbs:
        assert main([*verb, *places]) == 0
    assert not (out / ".lock").exists()


def test_no_folder_no_lock(painted: Segmenter, mini: Path, mini_task: Path) -> None:
    task = load_task(mini_task)
    assert evaluate(painted, task, root=mini).miou == 1
    with pytest.raises(UsageError, match="no background policy"):
        sweep(painted, task, [0.5], root=mini)


def started(mini_task: Path, mini: Path, out: Path, *, seconds: float) -> subprocess.Popen[bytes]:
    """A process that evaluates, once its journal is there."""
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(mini_task), str(mini), str(out), str(seconds)]
    )
    while not list(out.glob("journal/*")):
        assert child.poll() is None
        time.sleep(0.05)
    return child


@pytest.mark.slow
def test_a_killed_holder_does_not_keep_it(
    painted: Segmenter, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    child = started(mini_task, mini, tmp_path, seconds=3)
    with pytest.raises(UsageError, match=rf"process {child.pid} on"):
        evaluate(painted, str(mini_task), root=mini, out=tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / ".lock").exists() and not (tmp_path / "results.json").exists()
    done: Any = subprocess.run(
        [sys.executable, str(SCRIPT), str(mini_task), str(mini), str(tmp_path), "0"], check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "results.json").exists() and not (tmp_path / ".lock").exists()


@pytest.mark.slow
def test_ranks_hold_it_together_and_are_refused_together(
    mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, str(SCRIPT), str(mini_task), str(mini), str(tmp_path), "0"]
    with folder_lock(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    line = f"UsageError: another evaluation (process {os.getpid()} on"
    assert done.stderr.count(line) == 2, done.stderr  # no rank waits, or fails at the other
    assert list(tmp_path.glob("results.json")) == []
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").exists() and not (tmp_path / ".lock").exists()


def test_saved_maps_are_scored_where_nobody_writes(
    mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((6, 4), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((4, 4), np.uint8))
    with folder_lock(tmp_path / "out"), pytest.raises(UsageError, match="another evaluation"):
        score_folder(tmp_path, str(mini_task), root=mini, out=tmp_path / "out")
