import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptarchive.errors import IncompleteError, UsageError
from conceptarchive.lock import folder_lock

HOLD = """
import sys, time
from pathlib import Path
from conceptarchive.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def add_one(folder: Path, times: int) -> None:
    """Read, wait, write: loses counts unless the lock excludes the others."""
    for _ in range(times):
        with folder_lock(folder, wait=True):
            value = int((folder / "count").read_text())
            time.sleep(0.001)
            (folder / "count").write_text(str(value + 1))


def refused(folder: Path, match: str = "another process") -> None:
    """A single holder does not get the folder now."""
    with pytest.raises(UsageError, match=match), folder_lock(folder):
        pytest.fail("held twice")


def test_second_holder_gets_one_line_that_names_the_first(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with folder_lock(out):
        refused(out, rf"process {os.getpid()} on .* works in .*b; wait")
        with folder_lock(out, name=".lock-1"):
            assert sorted(path.name for path in out.iterdir()) == [".lock", ".lock-1"]
    assert list(out.iterdir()) == []
    with folder_lock(out):
        pass


def test_shared_holders_exclude_only_single_ones(tmp_path: Path) -> None:
    with folder_lock(tmp_path, shared=True):
        with folder_lock(tmp_path, shared=True):
            refused(tmp_path, "another process works in")
        assert (tmp_path / ".lock").exists()
        refused(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        refused(tmp_path, f"process {holder.pid} on")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / ".lock").exists()
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=add_one, args=(tmp_path, 30)) for _ in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "count").read_text() == "90"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_who_waited_holds_the_file_that_others_see(tmp_path: Path) -> None:
    seen = []

    def wait() -> None:
        with folder_lock(tmp_path, wait=True):
            seen.append((tmp_path / ".lock").exists())
            refused(tmp_path)

    waiting = threading.Thread(target=wait)
    with folder_lock(tmp_path):
        waiting.start()
        time.sleep(0.2)
        assert seen == []
    waiting.join()
    assert seen == [True]


def test_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path):
        raise KeyboardInterrupt
    with folder_lock(tmp_path):
        pass


def fails_with(number: int) -> Callable[[int, int], None]:
    def flock(_descriptor: int, _flags: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_file_system_without_locks_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.ENOLCK))
    with caplog.at_level(logging.WARNING), folder_lock(tmp_path):
        pass
    assert "no file locks here" in caplog.text
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.EIO))
    with pytest.raises(IncompleteError, match="Input/output"), folder_lock(tmp_path):
        pytest.fail("held")
