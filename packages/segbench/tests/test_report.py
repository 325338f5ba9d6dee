"""results.json, tables and comparisons."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segbench import FormatError, Report, Segmenter, UsageError, compare, evaluate

Constant = Callable[[int], Segmenter]


@pytest.fixture
def report(constant: Constant, mini: Path, mini_task: Path) -> Report:
    return evaluate(constant(0), str(mini_task), root=mini)


@pytest.fixture
def right(painted: Segmenter, mini: Path, mini_task: Path) -> Report:
    return evaluate(painted, str(mini_task), root=mini)


def test_round_trip(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out/results.json"):
        again = Report.read(path)
        assert again == report
        assert np.array_equal(again.confusion.counts, report.confusion.counts)


def test_undefined_scores_are_null_on_disk_and_nan_in_memory(
    constant: Constant, tmp_path: Path, mini_task: Path, tree: Callable[..., Path]
) -> None:
    root = tree(tmp_path / "half", {"a": np.array([[0, 1]])})
    evaluate(constant(0), str(mini_task), root=root, out=tmp_path / "out")
    text = (tmp_path / "out/results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["per_class"][2]["iou"] is None
    again = Report.read(tmp_path / "out")
    assert np.isnan(again.per_class[2]["iou"])
    again.write(tmp_path / "copy")
    assert (tmp_path / "copy/results.json").read_text() == text


def test_files_that_do_not_belong_together_are_refused(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    (tmp_path / "per_image.npz").write_bytes(b"other")
    with pytest.raises(FormatError, match=r"per_image\.npz: missing or not the file"):
        Report.read(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("schema_version", 2), ("kind", "lm-results")])
def test_unknown_version_and_kind_are_named(
    report: Report, tmp_path: Path, key: str, value: object
) -> None:
    report.write(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(
        FormatError, match=rf"results\.json: found .*{value}.*reads segbench-results 1"
    ):
        Report.read(path)


def test_a_list_is_no_results(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(FormatError, match=r"results\.json: holds no results, but a list"):
        Report.read(tmp_path)


def test_comparison_is_signed_paired_and_by_class(report: Report, right: Report) -> None:
    found = compare(report, right)
    assert found.difference.point == pytest.approx(1 - 20 / 96)
    assert found.is_real
    assert dict(found.per_class) == {"sky": pytest.approx(12 / 32), "grass": 1, "cat": 1}
    assert "painted - constant = +79.17 mIoU" in found.summary()
    assert not compare(right, right).is_real


def test_runs_that_cannot_be_compared_are_refused(report: Report, right: Report) -> None:
    other = dataclasses.replace(right, task={**right.task, "hash": "0" * 64})
    with pytest.raises(UsageError, match="differ in their protocol"):
        compare(report, other)
    with pytest.raises(UsageError, match="class names"):
        compare(report, dataclasses.replace(right, names=("a", "b", "c")))
    counts = right.per_image
    moved = dataclasses.replace(counts, ids=counts.ids[::-1])
    with pytest.raises(UsageError, match="different labels"):
        compare(report, dataclasses.replace(right, per_image=moved))
    renamed = dataclasses.replace(counts, ids=("x", "y"))
    with pytest.raises(UsageError, match="share no image"):
        compare(report, dataclasses.replace(right, per_image=renamed))
