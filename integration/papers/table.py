"""The table at the end: the run's figures, the paper's beside them, and the difference."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from integration.results import Spread, spread, table
from segbench import ClassificationTask, Task

TOP_5 = " top 5"
MEAN = "average"
Figures = Mapping[str, Spread]
"""By task; of ImageNet two, Acc@1 under the task's id and Acc@5 under that and `TOP_5`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """What a paper printed of one model."""

    source: str
    """Model, paper and table."""
    note: str = ""
    """What of it is not to be had."""
    percent: Mapping[str, float] = field(default_factory=dict)
    """By task, as of `Figures`."""


def published_rows(recipe: str, arm: str) -> list[PublishedRow]:
    """Rows of the papers' tables for an arm of a recipe; none for a recipe of one's own."""
    text = (files("integration.papers") / "published.toml").read_text(encoding="utf-8")
    return [_row(values) for values in tomllib.loads(text).get(recipe, {}).get(arm, [])]


def _row(values: Mapping[str, str | float]) -> PublishedRow:
    percent = {key: float(value) for key, value in values.items() if key not in ("source", "note")}
    return PublishedRow(
        source=str(values["source"]), note=str(values.get("note", "")), percent=percent
    )


def figures(summaries: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Spread]:
    """Percent of every task over seeds, and the average of the segmentation tasks.

    Args:
        summaries: metrics by task, of every seed.
    """
    found: dict[str, list[float]] = {}
    for metrics in summaries:
        mious = [100 * each["miou"] for each in metrics.values() if "miou" in each]
        for task, each in metrics.items():
            if "miou" in each:
                found.setdefault(task, []).append(100 * each["miou"])
            else:
                found.setdefault(task, []).append(100 * each["acc1"])
                found.setdefault(task + TOP_5, []).append(100 * each["acc5"])
        if len(mious) > 1:
            found.setdefault(MEAN, []).append(sum(mious) / len(mious))
    return {task: spread(values) for task, values in found.items()}


def comparison(
    recipe: str,
    tasks: Sequence[Task | ClassificationTask],
    ours: Mapping[str, Figures],
) -> str:
    """Markdown: every arm's row, the papers' rows for it, and the differences.

    Args:
        recipe: its name.
        tasks: in the order of the columns.
        ours: figures by arm.
    """
    columns = _columns(tasks)
    rows = [["percent", *columns.values()]]
    notes: list[str] = []
    for arm, values in ours.items():
        rows.append([f"{arm}, ours", *(_ours(values.get(key)) for key in columns)])
        for row in published_rows(recipe, arm):
            paper = _with_mean(row.percent, tasks)
            if paper:
                rows.append([row.source, *(_percent(paper.get(key)) for key in columns)])
                rows.append(["difference", *(_off(values, paper, key) for key in columns)])
            if row.note:
                notes.append(f"{arm}, {row.source}: {row.note}.")
        if not published_rows(recipe, arm):
            notes.append(f"{arm}: no published figures.")
    return "\n\n".join([table(rows), *notes])


def _columns(tasks: Sequence[Task | ClassificationTask]) -> dict[str, str]:
    """Key and heading of every column; the average follows the segmentation tasks."""
    segmented = [task.id for task in tasks if isinstance(task, Task)]
    columns = {name: name.split("@")[0] for name in segmented}
    if len(segmented) > 1:
        columns[MEAN] = MEAN
    for task in tasks:
        if isinstance(task, ClassificationTask):
            name = task.id.split("@")[0]
            columns |= {task.id: f"{name} Acc@1", task.id + TOP_5: f"{name} Acc@5"}
    return columns


def _with_mean(
    percent: Mapping[str, float], tasks: Sequence[Task | ClassificationTask]
) -> dict[str, float]:
    """Published figures of the tasks, with their average where every set has one."""
    segmented = [task.id for task in tasks if isinstance(task, Task)]
    known = {
        key: value
        for key, value in percent.items()
        if key.removesuffix(TOP_5) in {t.id for t in tasks}
    }
    if len(segmented) > 1 and all(name in known for name in segmented):
        known[MEAN] = sum(known[name] for name in segmented) / len(segmented)
    return known


def _ours(value: Spread | None) -> str:
    if value is None:
        return ""
    error = "" if value.error is None else f" ± {value.error:.1f}"
    return f"{value.mean:.1f}{error}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _off(ours: Figures, paper: Mapping[str, float], key: str) -> str:
    if key not in ours or key not in paper:
        return ""
    return f"{ours[key].mean - paper[key]:+.1f}"
