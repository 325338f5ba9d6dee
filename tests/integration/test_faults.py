"""The judge of the fault test: what it lets pass, and what it must not."""

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAME, OTHER = {"metrics": {"miou": [0.5]}}, {"metrics": {"miou": [0.25]}}
TRACEBACK = ("Traceback (most recent call last):", "  File x", "OSError: full")
LINE = ("reproduce: a.npy: is gone; run again with --from embed",)


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    """The command beside this file, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("faults", Path(__file__).parent / "faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def judged(faults: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """Judges a run that ended so and left these numbers; `again` is what comes of the advice."""

    class Advised:
        again: Any = None

        def run(self, out: Path, *options: str) -> Any:
            assert options == ("--from", "embed")
            code, found = self.again
            (out / "results.json").write_text(json.dumps(found))
            return faults.Ended(code, (), "", 0.0)

    trial = faults.Trial.__new__(faults.Trial)
    trial.command, trial.top, trial.same, trial.cases = Advised(), tmp_path, SAME, []

    def judge(code: int, said: tuple[str, ...], found: Any = None, again: Any = None) -> Any:
        trial.command.again = again
        if found is not None:
            (tmp_path / "results.json").write_text(json.dumps({**found, "seconds": 1}))
        ended = faults.Ended(code, said, "embed", 1.0)
        follow = None if again is None else ("--from", "embed")
        trial.judge("damage", "x", tmp_path, ended, named=("a.npy", "b.npz"), follow=follow)
        return trial.cases[-1]

    return judge


def test_same_numbers_and_a_line_with_good_advice_pass(judged: Callable[..., Any]) -> None:
    assert judged(0, (), SAME).outcome == "same numbers"
    assert judged(1, LINE).outcome == "one line"
    assert judged(1, LINE, again=(0, SAME)).outcome == "one line, then same numbers"


@pytest.mark.parametrize(
    ("code", "said", "found", "again"),
    [
        (0, (), OTHER, None),
        (0, (), None, None),
        (1, TRACEBACK, None, None),
        (1, (), None, None),
        (1, (*LINE, *LINE), None, None),
        (-7, (), None, None),
        (5, LINE, None, None),
        (1, ("reproduce: b.npy: is gone",), None, None),
        (1, LINE, None, (0, OTHER)),
        (1, LINE, None, (1, SAME)),
    ],
)
def test_all_else_fails(
    judged: Callable[..., Any], code: int, said: tuple[str, ...], found: Any, again: Any
) -> None:
    assert not judged(code, said, found, again).passed


@pytest.mark.parametrize(
    ("code", "said", "found", "passed"),
    [(0, (), SAME, True), (0, (), OTHER, False), (1, LINE, SAME, False), (-9, (), SAME, False)],
)
def test_after_a_kill_only_success_passes(
    faults: ModuleType, tmp_path: Path, code: int, said: tuple[str, ...], found: Any, passed: bool
) -> None:
    trial = faults.Trial.__new__(faults.Trial)
    trial.top, trial.same, trial.cases = tmp_path, SAME, []
    (tmp_path / "results.json").write_text(json.dumps(found))
    trial.demand("kills", "x", tmp_path, faults.Ended(code, said, "embed", 1.0))
    assert [case.passed for case in trial.cases] == [passed]


def test_a_process_without_a_group_of_its_own_is_killed_too(
    faults: ModuleType, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()  # never calls setsid
    running = faults.Running(process, tmp_path / "log", time.perf_counter())
    assert running.kill_in("", 0.0).code == -signal.SIGKILL


def test_a_kill_waits_for_its_stage(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, killed = tmp_path / "log", []

    class Process:
        exitcode, pid, waits = None, 1, list[float]()

        def join(self, seconds: float) -> None:
            self.waits.append(seconds)
            log.write_text(
                "[1/9] pairs: running\n" + "[2/9] embed: running\n" * len(self.waits[1:])
            )

    def kill(pid: int, sent: int) -> None:
        killed.append((pid, sent))
        process.exitcode = -sent  # type: ignore[assignment]  # None until now

    process = Process()
    monkeypatch.setattr(os, "killpg", kill)
    running = faults.Running(process, log, time.perf_counter())
    assert running.kill_in("embed", 0.5).stage == "embed"
    assert process.waits[:3] == [faults.POLL_S, faults.POLL_S, 0.5]
    assert killed == [(1, signal.SIGKILL)]


def test_cases_are_written_when_the_trial_breaks_off(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = faults.Trial.__new__(faults.Trial)
    trial.cases, trial.killed_in, trial.seconds = [], {"embed": 1}, 1.0

    def kill(runs: int) -> None:
        trial.note("kills", f"run {runs}", "same numbers", passed=True)
        trial.note("kills", "run 4", "OTHER NUMBERS", passed=False)
        raise TimeoutError("not ended")

    trial.kill = kill
    monkeypatch.setattr(faults, "Trial", lambda *_: trial)
    out = tmp_path / "faults.json"
    with pytest.raises(TimeoutError, match="not ended"):
        faults.faults(out, kills=3, work=tmp_path)
    found = json.loads(out.read_text())
    assert (found["passed"], found["failed"], found["broken_off"]) == (1, 1, "in kills")
    text = out.with_suffix(".md").read_text()
    assert "1 cases passed, 1 failed. The trial broke off in kills." in text
    assert "again | 1 x same numbers, 1 x OTHER NUMBERS |" in text
    assert "Stages in which kills fell: embed 1." in text
    assert "- Failed: kills, run 4: OTHER NUMBERS" in text


@pytest.mark.parametrize("mounts", [True, False])
def test_a_full_disk_has_to_be_named(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: bool
) -> None:
    @contextmanager
    def disk(folder: Path, _: int) -> Iterator[Callable[[int], None] | None]:
        folder.mkdir(exist_ok=True)
        yield (lambda _: None) if mounts else None

    lines = iter(["reproduce: a: File too large", "reproduce: a: no such name"])
    asked = []

    class Full:
        def run(self, out: Path, **limits: int) -> Any:
            out.mkdir(exist_ok=True)
            (out / "results.json").write_text(json.dumps(SAME))
            asked.append(sorted(limits))
            said = next(lines, None) if len(asked) != 2 else None
            return faults.Ended(1 if said else 0, (said,) if said else (), "embed", 1.0)

    monkeypatch.setattr(faults, "_small_disk", disk)
    trial = faults.Trial.__new__(faults.Trial)
    trial.command, trial.top, trial.same, trial.cases = Full(), tmp_path, SAME, []
    trial.whole, trial.random = tmp_path / "whole", random.Random(0)
    trial.disk(2)
    assert [case.passed for case in trial.cases] == [True, False]
    limited = [] if mounts else ["largest"]
    assert asked == [limited, [], limited]
    kind = "a disk of" if mounts else "no file above"
    assert all(case.what.startswith(kind) for case in trial.cases)


def test_damage_is_what_it_is_called(faults: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    left = {}
    for how, do in faults.DAMAGE.items():
        path.write_bytes(bytes(range(32)))
        do(path)
        left[how] = path.read_bytes() if path.exists() else None
    assert left["cut in half"] == bytes(range(16))
    assert left["empty"] == b""
    assert left["delete"] is None
    flipped = [i for i, byte in enumerate(left["flip 8 bytes of"] or b"") if byte != i]
    assert flipped == [*range(16, 24)]


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (
            "train-upper-bound-0-c5f0ada324/checkpoint-00000008/state.pt",
            "train/checkpoint-#/state.pt",
        ),
        ("pairs-2f7bc3aeca/00000.tar", "pairs/#.tar"),
        ("img_emb/img_emb_00001.npy", "img_emb/img_emb_#.npy"),
    ],
)
def test_files_of_a_kind_have_one_name(faults: ModuleType, path: str, plain: str) -> None:
    assert faults._plain(Path(path)) == plain


@pytest.mark.parametrize("verb", ["cocu", "pixelclip"])
def test_the_tests_recipes_are_found(faults: ModuleType, tmp_path: Path, verb: str) -> None:
    text = faults._tiny_recipe(verb, tmp_path).read_text()
    assert "a thousand times smaller" in text
    assert "total_steps" in text
