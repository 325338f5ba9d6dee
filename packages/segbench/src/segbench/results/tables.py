"""Tables of results: everything of every run, or models by benchmarks as papers print them."""

import csv
import io
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import numpy as np

from segbench.results.any_report import AnyReport
from segbench.results.classification import ClassificationReport
from segbench.results.report import Report

Format = Literal["markdown", "latex", "csv"]

COLUMNS: Mapping[str, str] = {
    "voc21": "VOC-21", "voc20": "VOC-20", "context60": "Ctx-60", "context59": "Ctx-59",
    "coco_object81": "COCO-obj", "coco_stuff171": "Stuff", "cityscapes19": "City", "ade150": "ADE",
}  # fmt: skip
"""The eight benchmarks in the order in which papers print them, by the data set of a task."""

ACCURACIES: Mapping[str, str] = {"imagenet1k": "IN-1K acc1"}
"""Data sets that are classified, whose accuracy stands behind the average."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, with what has to be said below them."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int
    """How many of the first columns hold words; the others hold numbers."""
    notes: tuple[str, ...] = ()

    def render(self, kind: Format = "markdown") -> str:
        """The table in one of the formats, with a line end."""
        return {"markdown": self._markdown, "latex": self._latex, "csv": self._csv}[kind]()

    def _markdown(self) -> str:
        rule = ["---"] * self.texts + ["---:"] * (len(self.head) - self.texts)
        lines = [_piped(row) for row in (self.head, rule, *self.rows)]
        return "\n\n".join(["\n".join(lines), *self.notes]) + "\n"

    def _latex(self) -> str:
        columns = "l" * self.texts + "r" * (len(self.head) - self.texts)
        rows = [" & ".join(map(_escaped, row)) + r" \\" for row in (self.head, *self.rows)]
        body = [rows[0], r"\midrule", *rows[1:]]
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule"]
        lines += [r"\end{tabular}", *(f"% {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def _csv(self) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()


def detail_table(reports: Iterable[Report]) -> Table:
    """Every run in a row, by task and then best mIoU first.

    mIoU columns are percentages; "classes" is the mean number of distinct classes an image,
    predicted / true. A row with warnings is marked with a dagger and its warnings are notes.
    """
    chosen = sorted(reports, key=lambda report: (report.task["id"], -report.miou))
    subsets = sorted({name for report in chosen for name in report.subsets})
    head = ["task", "model", "images", "mIoU", "95 % interval", "mIoU gt>0"]
    head += [f"mIoU {name}" for name in subsets]
    head += ["pixel acc", "present recall", "classes"]
    return Table(
        tuple(head), tuple(_details(report, subsets) for report in chosen), 2, _warnings(chosen)
    )


def _details(report: Report, subsets: Sequence[str]) -> tuple[str, ...]:
    metrics, interval = report.metrics, report.interval
    values = [metrics.get(f"miou_{name}", float("nan")) for name in subsets]
    return (
        f"{report.task['id']} v{report.task['version']}",
        _name(report),
        str(report.data["images_scored"]),
        _percent(report.miou),
        f"{_percent(interval.low)} to {_percent(interval.high)}",
        _percent(metrics["miou_gt"]),
        *map(_percent, values),
        _percent(metrics["pixel_acc"]),
        _percent(metrics["present_recall"]),
        f"{metrics['distinct_classes']:.1f} / {metrics['distinct_classes_true']:.1f}",
    )


def classification_table(reports: Iterable[ClassificationReport]) -> Table:
    """Every run that classified in a row, by task and then best acc1 first.

    Columns but the first three and the ties are percentages. A row with warnings is marked with a
    dagger and its warnings are notes.
    """
    chosen = sorted(reports, key=lambda report: (report.task["id"], -report.metrics["acc1"]))
    head = ("task", "model", "images", "acc1", "95 % interval", "acc5", "mean recall", "ties")
    rows = tuple(
        (
            f"{report.task['id']} v{report.task['version']}",
            _name(report),
            str(report.data["images_scored"]),
            _percent(report.metrics["acc1"]),
            f"{_percent(report.interval.low)} to {_percent(report.interval.high)}",
            _percent(report.metrics["acc5"]),
            _percent(report.metrics["mean_per_class_recall"]),
            f"{report.metrics['ties']:.0f}",
        )
        for report in chosen
    )
    return Table(head, rows, 2, _warnings(chosen))


def benchmark_table(reports: Iterable[AnyReport], *, published: bool = False) -> Table:
    """Models by the eight benchmarks, in the order in which papers print them, and by accuracy.

    A row is a model, by name and weights, under a protocol, since protocols change the number. The
    average is over all eight, "-" where one is missing; zero-shot accuracy on ImageNet stands
    behind it and is no part of it. Of several runs of a model on a task the last one counts; one
    with warnings is marked with a dagger.

    Args:
        reports: other tasks than the nine data sets' are left out.
        published: add what others have printed, marked as quoted, with its source.
    """
    cells: dict[tuple[str, str, str], dict[str, AnyReport]] = {}
    for report in reports:
        dataset, _, protocol = report.task["id"].partition("@")
        if dataset in COLUMNS or dataset in ACCURACIES:
            key = report.model["name"], report.model.get("fingerprint", ""), protocol
            cells.setdefault(key, {})[dataset] = report
    rows = [_measured(name, protocol, row) for (name, _, protocol), row in cells.items()]
    notes = list(_warnings([report for row in cells.values() for report in row.values()]))
    if published:
        for row in published_rows():
            words = {key: str(row[key]) for key in ("model", "protocol", "source")}
            numbers = {key: float(row[key]) for key in (*COLUMNS, *ACCURACIES) if key in row}
            model = f"{words['model']} (quoted: {words['source']})"
            rows.append(_scores(model, words["protocol"], numbers))
        notes.append(
            "quoted: printed by its source, not measured here; protocols differ in detail."
        )
    head = ("model", "protocol", *COLUMNS.values(), "Avg", *ACCURACIES.values())
    return Table(head, tuple(rows), 2, tuple(notes))


def published_rows() -> list[dict[str, str | float]]:
    """What others have printed: model, source, protocol, and percentages by data set."""
    text = (files("segbench") / "results" / "published.toml").read_text(encoding="utf-8")
    rows: list[dict[str, str | float]] = tomllib.loads(text)["row"]
    return rows


def _measured(model: str, protocol: str, row: Mapping[str, AnyReport]) -> tuple[str, ...]:
    """A row of results, with a dagger on those that come with warnings."""
    numbers = {dataset: 100 * _score(report) for dataset, report in row.items()}
    cells = list(_scores(model, protocol, numbers))
    for place, dataset in enumerate((*COLUMNS, "average", *ACCURACIES), 2):
        if dataset in row and row[dataset].warnings:
            cells[place] += " †"
    return tuple(cells)


def _score(report: AnyReport) -> float:
    return report.miou if isinstance(report, Report) else report.metrics["acc1"]


def _scores(model: str, protocol: str, row: Mapping[str, float]) -> tuple[str, ...]:
    """A row of percentages, their average, and accuracies."""
    values = [row.get(dataset, float("nan")) for dataset in COLUMNS]
    accuracies = [row.get(dataset, float("nan")) for dataset in ACCURACIES]
    numbers = (*values, float(np.mean(values)), *accuracies)
    return model, protocol, *(_percent(value / 100) for value in numbers)


def _name(report: AnyReport) -> str:
    return f"{report.model['name']}{' †' if report.warnings else ''}"


def _warnings(reports: Sequence[AnyReport]) -> tuple[str, ...]:
    return tuple(
        f"† {r.model['name']} on {r.task['id']}: {'; '.join(r.warnings)}"
        for r in reports
        if r.warnings
    )


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _piped(row: Sequence[str]) -> str:
    cells = (cell.replace("|", r"\|") for cell in row)
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text with LaTeX's special characters as themselves."""
    for sign in "&%#_$":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("†", r"$\dagger$").replace(">", "$>$")
