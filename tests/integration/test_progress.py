"""What a training's log and its kept checkpoints say."""

import json
from pathlib import Path

import pytest

from integration.errors import DamagedError
from integration.progress import check_log, curve, read_log, speed
from integration.stage import write_text


def test_speed_leaves_out_the_line_that_compiles() -> None:
    log = [{"images_per_s": 1.0}, {"images_per_s": 8.0, "mfu": 0.25}, {"images_per_s": 10.0}]
    assert speed([log, log]) == {"images_per_s": 9.0, "mfu": 0.25}
    assert speed([log[:1]]) == {"images_per_s": 1.0}
    assert speed([[{"loss": 1.0}]]) == {}


def test_a_curve_has_losses_and_scored_checkpoints(tmp_path: Path) -> None:
    write_text(tmp_path / "log.jsonl", '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    write_text(tmp_path / "points.json", json.dumps({"2": 0.5}))
    assert read_log(tmp_path)[1] == {"step": 2, "loss": 2.0}
    assert curve(tmp_path, tmp_path) == {
        "step": [1, 2], "loss": [3.0, 2.0], "point": [2], "miou": [0.5],
    }  # fmt: skip


def test_a_log_that_has_lost_lines_is_told(tmp_path: Path) -> None:
    steps = [3, 6, 9, 10]
    text = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps)
    write_text(tmp_path / "log.jsonl", text)
    check_log(tmp_path, 3, 10)
    write_text(tmp_path / "log.jsonl", "".join(text.splitlines(keepends=True)[2:]))
    with pytest.raises(DamagedError, match="has lost the lines of 2 steps"):
        check_log(tmp_path, 3, 10)
