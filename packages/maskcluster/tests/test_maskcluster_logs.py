"""The log of a run: lines, TensorBoard, pictures; what is kept when a run goes on."""

import errno
import json
import logging
import runpy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]  # has none
    EventAccumulator,
)

from maskcluster.errors import MaskClusterError
from maskcluster.training.logs import Meter, open_log
from maskcluster.training.monitor import PATIENCE, Figure
from maskcluster.training.train import build_model

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))


def record(**values: Figure) -> dict[str, Figure]:
    usual: dict[str, Figure] = {"loss": 0.5, "masks": 48, "collapsed": 1.0, "spread": 0.1}
    return usual | {"clusters_effective": 1.0, "cluster_counts": [48.0, 0.0, 0.0]} | values


def read(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_every_figure_is_a_line_and_on_the_board(tmp_path: Path) -> None:
    with open_log(tmp_path, 0, case.RECIPE, writes=True) as log:
        for step in (1, 2):
            log.write(step, record(loss=1.0 / step))
        log.show(2, np.full((10, 20, 3), 7, np.uint8))
    assert [line["loss"] for line in read(tmp_path)] == [1.0, 0.5]
    assert read(tmp_path)[0]["cluster_counts"] == [48, 0, 0]
    board = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0, "scalars": 0})
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert board.Tags()["images"] == ["clusters"]
    assert board.Tags()["histograms"] == ["cluster_counts"]
    with Image.open(tmp_path / "clusters.png") as picture:
        assert picture.size == (20, 10) and picture.getpixel((0, 0)) == (7, 7, 7)


def test_a_collapse_is_warned_of_once_also_when_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        with open_log(tmp_path, 0, case.RECIPE, writes=True) as log:
            for step in range(1, PATIENCE):
                log.write(step, record())
        assert not caplog.messages
        with open_log(tmp_path, PATIENCE - 1, case.RECIPE, writes=True) as log:
            for step in range(PATIENCE, 3 * PATIENCE):
                log.write(step, record())
        with open_log(tmp_path, 3 * PATIENCE, case.RECIPE, writes=True) as log:
            log.write(3 * PATIENCE, record())
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{tmp_path}: step {PATIENCE}: the clustering has coll")
    warned = [line["step"] for line in read(tmp_path) if "warning" in line]
    assert warned == [PATIENCE]


def test_lines_after_the_checkpoint_and_broken_ones_go(tmp_path: Path) -> None:
    with open_log(tmp_path, 0, case.RECIPE, writes=True) as log:
        for step in range(1, 6):
            log.write(step, record())
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with open_log(tmp_path, 3, case.RECIPE, writes=True) as log:
        assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]
        log.write(4, record(loss=0.1))
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3, 4]


def test_damaged_lines_go_and_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(tmp_path, 0, case.RECIPE, writes=True) as log:
        for step in range(1, 5):
            log.write(step, record())
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"los", b"\xff\xfe\x80")  # still JSON, but of another key
    lines[2] = b"0\n"
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines))
    with open_log(tmp_path, 4, case.RECIPE, writes=True):
        assert [line["step"] for line in read(tmp_path)] == [1, 4]
    assert caplog.messages == [f"{tmp_path / 'log.jsonl'}: 2 damaged lines are left out"]


def test_other_ranks_write_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(tmp_path / "run", 0, case.RECIPE, writes=False) as log:
        for step in range(1, 9):
            log.write(step, record())
        log.show(9, np.zeros((4, 4, 3), np.uint8))
    assert not (tmp_path / "run").exists() and not caplog.messages


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_log(tmp_path, 0, case.RECIPE, writes=True) as log:
        monkeypatch.setattr("maskcluster.training.logs.SummaryWriter.add_histogram", full)
        with pytest.raises(MaskClusterError, match=r"cannot be written \(No space.*make room"):
            log.write(1, record())
        monkeypatch.setattr("PIL.Image.Image.save", full)
        with pytest.raises(MaskClusterError, match=r"cannot be written \(No space"):
            log.show(1, np.zeros((4, 4, 3), np.uint8))


def test_rates_are_those_since_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 12.0, 13.0])
    clock: Any = import_module("maskcluster.training.logs").time
    monkeypatch.setattr(clock, "perf_counter", lambda: next(seconds))
    config = case.changed(machine={"peak_tflops": 1e-3}, data={"batch": 4})
    model = build_model(config, torch.device("cpu"), clip=case.tiny_clip())
    meter = Meter(5, 100, config, model, torch.device("cpu"), world=2)
    first, second = meter.read(10, 400), meter.read(11, 410)
    assert (first["images_per_s"], first["masks_per_s"]) == (10.0, 150.0)
    assert (second["images_per_s"], second["masks_per_s"]) == (4.0, 10.0)
    assert first["mfu"] == pytest.approx(2.5 * second["mfu"])  # type: ignore[operator]  # numbers


def test_the_used_share_is_left_out_where_the_peak_is_unknown() -> None:
    model = build_model(case.RECIPE, torch.device("cpu"), clip=case.tiny_clip())
    assert "mfu" not in Meter(0, 0, case.RECIPE, model, torch.device("cpu")).read(1, 1)
