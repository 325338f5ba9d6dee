"""Tables: every run in detail, and models by benchmarks with what others have printed."""

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from segbench import Report, Segmenter, benchmark_table, detail_table, evaluate
from segbench.cli import main
from segbench.results.tables import COLUMNS, Table, published_rows


@pytest.fixture
def report(constant: Callable[[int], Segmenter], mini: Path, mini_task: Path) -> Report:
    return evaluate(constant(0), str(mini_task), root=mini)


@pytest.fixture
def right(painted: Segmenter, mini: Path, mini_task: Path) -> Report:
    return evaluate(painted, str(mini_task), root=mini)


def on(report: Report, task: str) -> Report:
    return dataclasses.replace(report, task=report.task | {"id": task})


def test_table_has_a_row_for_each_report_best_first(report: Report, right: Report) -> None:
    lines = detail_table([report, right]).render().splitlines()
    assert len(lines) == 4
    assert "| mini@whole v1 | painted | 2 | 100.00 | 100.00 to 100.00 | 100.00 |" in lines[2]
    assert "| constant | 2 | 20.83 |" in lines[3]
    assert lines[3].endswith("| 62.50 | 33.33 | 1.0 / 3.0 |")
    assert len({line.count("|") for line in lines}) == 1


def test_table_tells_warnings_and_subsets(report: Report, right: Report) -> None:
    warned = dataclasses.replace(report, warnings=("limited",))
    grouped = dataclasses.replace(right, metrics={**right.metrics, "miou_thing": 0.5})
    text = detail_table([warned, grouped]).render()
    assert "| constant † |" in text
    assert text.endswith("† constant on mini@whole: limited\n")
    assert "| mIoU thing |" in text.splitlines()[0]
    assert "| 50.00 |" in text.splitlines()[2]
    assert "| - |" in text.splitlines()[3]


def test_benchmarks_stand_in_the_order_of_papers(report: Report, right: Report) -> None:
    reports = [on(right, "ade150@groupvit"), on(right, "voc21@groupvit"), on(report, "voc21@tcl")]
    table = benchmark_table([*reports, right])
    assert table.head[2:] == (
        "VOC-21", "VOC-20", "Ctx-60", "Ctx-59", "COCO-obj", "Stuff", "City", "ADE", "Avg",
        "IN-1K acc1",
    )  # fmt: skip
    assert table.rows == (
        ("painted", "groupvit", "100.00", *"------", "100.00", "-", "-"),
        ("constant", "tcl", "20.83", *"-------", "-", "-"),
    )
    every = [on(right, f"{dataset}@cocu") for dataset in COLUMNS]
    assert benchmark_table(every).rows == (("painted", "cocu", *["100.00"] * 9, "-"),)


def test_what_others_have_printed_is_marked_with_its_source(right: Report) -> None:
    table = benchmark_table([on(right, "voc21@groupvit")], published=True)
    assert len(table.rows) == 1 + len(published_rows())
    rows = {row[0]: row[1:] for row in table.rows}
    sclip = rows["SCLIP ViT-B/16 (quoted: wangf3014/SCLIP README)"]
    assert sclip[:2] == ("sclip", "59.63")
    printed = [59.63, 81.54, 31.74, 34.46, 33.52, 22.77, 32.34, 16.45]
    assert sclip[-2:] == (f"{sum(printed) / 8:.2f}", "-")
    grouped = rows["GroupViT CC12M+YFCC14M (quoted: NVlabs/GroupViT README)"]
    assert (grouped[1], grouped[-2:]) == ("52.30", ("-", "43.70"))  # no average, but an accuracy
    assert all("quoted: " in row[0] for row in table.rows[1:])
    assert "not measured here" in table.notes[-1]


def test_formats_say_the_same() -> None:
    table = Table(("model", "mIoU, %"), (("a_b | 50%", "1.00"), ("c", "-")), 1, ("a note",))
    assert table.render("markdown").splitlines() == [
        "| model | mIoU, % |",
        "| --- | ---: |",
        r"| a_b \| 50% | 1.00 |",
        "| c | - |",
        "",
        "a note",
    ]
    rows = list(csv.reader(io.StringIO(table.render("csv"))))
    assert rows == [["model", "mIoU, %"], ["a_b | 50%", "1.00"], ["c", "-"]]
    assert table.render("latex").splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"model & mIoU, \% \\", r"\midrule",
        r"a\_b | 50\% & 1.00 \\", r"c & - \\", r"\bottomrule", r"\end{tabular}", "% a note",
    ]  # fmt: skip


def test_the_command_prints_each_layout_and_format(
    right: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right.write(tmp_path / "a")
    on(right, "voc21@groupvit").write(tmp_path / "b")
    assert main(["table", str(tmp_path), "--layout", "benchmarks", "--published", "true"]) == 0
    out = capsys.readouterr().out
    assert "| painted | groupvit | 100.00 |" in out and "(quoted: " in out
    assert main(["table", str(tmp_path), "--format", "csv"]) == 0
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 3
    assert main(["table", str(tmp_path), "--published", "true"]) == 2
    assert "--layout benchmarks" in capsys.readouterr().err


def test_a_warning_marks_a_cell_and_weights_make_rows(right: Report) -> None:
    warned = dataclasses.replace(on(right, "voc21@cocu"), warnings=("bed twice",))
    every = [on(right, f"{dataset}@cocu") for dataset in COLUMNS if dataset != "voc21"]
    (row,) = benchmark_table([warned, *every]).rows
    assert row[2] == "100.00 †" and row[3:] == (*["100.00"] * 8, "-")
    other = dataclasses.replace(warned, model={"name": "painted", "fingerprint": "b"})
    assert len(benchmark_table([warned, other]).rows) == 2
