"""The bench: what it refuses, and that it writes what it says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segbench.bench import __main__ as command
from segbench.bench import decode, machine
from segbench.errors import SegbenchError, UsageError


def texts(value: Any) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, Mapping):
        return [*value, *(text for inner in value.values() for text in texts(inner))]
    return [value] if isinstance(value, str) else []


@pytest.mark.slow
def test_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode, "KINDS", ("close",))
    command.run(parts=["confusion", "decode"], out=tmp_path)
    (path,) = tmp_path.iterdir()
    figures = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    times = figures["decode_ms"]["close"]
    assert figures["decode_ratio_to_eager_171"] == pytest.approx(times["eager"] / times["ours"])
    assert 1 < times["classes_compared"] < 40
    assert figures["decode_peak_bytes"]["eager"] > 171 * 480 * 640 * 4  # full-size scores
    assert figures["decode_peak_bytes"]["ours"] < figures["decode_peak_bytes"]["eager"] / 20
    for column, names in ((times, ("ours", "eager")), (figures["confusion_ms"], ("ours", "histc"))):
        for name in names:
            assert 0 < column[f"{name}_p20"] <= column[name] <= column[f"{name}_p80"]
    assert figures["machine"] == machine.describe_machine(torch.device("cpu"))
    assert figures["command"] == "python -m segbench.bench --device cpu"
    here = (str(tmp_path), str(Path.cwd()), str(Path.home()))
    assert not [t for t in texts(figures) if t.startswith("/") or any(p in t for p in here)]


def test_figures_of_the_same_day_are_kept_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_decode", lambda _: {decode.USUAL: {"ratio": 1.0}})
    monkeypatch.setattr(command, "peak_bytes", lambda *_: 1)
    ours = {"torchmetrics": 1.0, "histc": 1.0, "ours": 1.0}
    monkeypatch.setattr(command, "measure_confusion", lambda: ours)
    monkeypatch.setattr(command, "measure_windows", lambda _: {"336_14": {"ratio": 2.0}})
    monkeypatch.setattr(command, "windows_peak_bytes", lambda path, _: len(path))
    whole = {"images": 3, "evaluation_ratio_to_kernel_and_decode": 1.5}
    monkeypatch.setattr(command, "measure_evaluation", lambda: whole)
    command.run(out=tmp_path)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-segbench-bench-cpu\.json", path.name)
    path.write_text("yesterday's")
    with pytest.raises(UsageError, match=r"-cpu\.json is there; .* pass --overwrite true"):
        command.run(out=tmp_path)
    assert path.read_text() == "yesterday's"
    command.run(out=tmp_path, overwrite=True)
    figures = json.loads(path.read_text())
    assert figures["decode_ratio_to_eager_171"] == 1
    assert figures["windows_ratio_to_eager_336_14"] == 2
    assert figures["windows_memory_ratio_to_eager"] == 5 / 4
    assert figures["evaluation_ratio_to_kernel_and_decode"] == 1.5
    assert figures["evaluation"] == {"images": 3}


def test_a_wrong_answer_is_an_error_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "KINDS", ("close",))
    monkeypatch.setitem(decode.PATHS, "eager", lambda s, _: torch.eye(len(s), dtype=torch.int64))
    with pytest.raises(SegbenchError, match=r"close scores: counts of .* pixels differ; not timed"):
        command.run(out=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="--device mars"):
        command.run(device="mars")
    with pytest.raises(UsageError, match="unknown part on cpu 'window'; did you mean 'windows'"):
        command.run(parts=["window"], out=tmp_path)


def test_percentiles_are_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([100.0, *range(1, 12)])  # seconds that each call takes; the first warms up
    clock = [0.0]

    def call() -> None:
        clock[0] += next(ends)

    monkeypatch.setattr(decode, "perf_counter", lambda: clock[0])
    found = decode.take_turns({"a": call}, torch.device("cpu"), rounds=11)
    assert found == pytest.approx({"a": 6000, "a_p20": 3000, "a_p80": 9000})


def test_a_gpu_is_busy_for_its_kernels_and_not_for_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        SimpleNamespace(
            device_type=SimpleNamespace(name=kind),
            time_range=SimpleNamespace(start=start, end=end),
        )
        for kind, start, end in [("CPU", 0, 99), ("CUDA", 10, 14), ("CUDA", 50, 58)]
    ]
    assert decode.busy_time(events, 3) == 4
    with pytest.raises(SegbenchError, match="the profiler saw no kernel"):
        decode.busy_time(events[:1], 3)
    times = iter([2.0, 30.0])
    monkeypatch.setattr(decode, "busy_us", lambda *_: next(times))
    found = decode.measure_busy({"ours": int, "eager": int}, torch.device("cuda"))
    assert found == {"ours": 2, "eager": 30, "ratio": 15}


def test_the_machine_says_its_processor_and_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.70GHz\nmodel name\t: Other\n")
    monkeypatch.setattr(machine, "CPUINFO", info)
    assert machine.processor_name() == "Some CPU @ 2.70GHz"
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv")
    assert machine.processor_name() == "riscv"
    assert machine.commit(tmp_path) is None  # no checkout
    monkeypatch.setenv("PATH", "")
    assert machine.commit() is None  # no git


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    import subprocess

    def git(*words: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-q", "-m", "m")
    head = git("rev-parse", "HEAD")
    found = machine.commit(tmp_path)
    assert found is not None and head.startswith(found)
    (tmp_path / "f").write_text("2")
    assert machine.commit(tmp_path) == f"{found}-dirty"
