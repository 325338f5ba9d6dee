"""A page of the images on which a run was worst and best: to look at before believing a number."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from segbench.datasets import Example, SegmentationDataset, open_dataset
from segbench.errors import DataMissingError, UnreadableImageError, UsageError
from segbench.files import write_atomically
from segbench.protocols.task import Task, list_tasks, load_task
from segbench.results.any_report import read_report
from segbench.results.overlay import strip
from segbench.results.report import Report
from segbench.running.run import PREDICTIONS
from segbench.running.saved import read_prediction

PAGE = "page.html"
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 24px; }
figure { margin: 0 0 28px; } img { max-width: 100%; background: #fff; border-radius: 6px; }
figcaption { margin-bottom: 6px; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin-bottom: 24px; }
td, th { padding: 2px 14px 2px 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
"""


def write_page(
    results: Path, *, root: Path | None = None, task: Task | None = None, count: int = 8
) -> Path:
    """Write `page.html` beside results: classes, and the worst and the best images.

    Images are ordered by the mIoU inside each; those without a scored pixel are left out. A strip
    shows the photograph, its labels and the saved prediction.

    Args:
        results: folder of an evaluation with `save_pred`.
        root: folder with the data.
        task: of the results, if it is none of the package's.
        count: images of each kind, at least 1.

    Returns:
        The page, one file with all of its pictures.

    Raises:
        UsageError: `count` below 1, results of a task that classifies, or `task` is not that of the
            results.
        DataMissingError: no saved predictions, or data is missing.
        FormatError: results that cannot be read, or a prediction of another size.
    """
    if count < 1:
        raise UsageError(f"count must be >= 1, got {count}")
    report = read_report(results)
    if not isinstance(report, Report):
        raise UsageError(
            f"{results}: {report.task['id']} classifies images, a page shows label maps; "
            "results.json has every class, answers.npz every image"
        )
    predictions = results / PREDICTIONS
    if not predictions.is_dir():
        raise DataMissingError(f"{results}: no saved predictions; evaluate with --save_pred true")
    options = {k: v for k, v in report.data["dataset"].items() if k != "kind"}
    if task is None and report.task["id"] not in list_tasks():
        raise UsageError(
            f"{report.task['id']} is no task of the package; give its file with --task"
        )
    task = (task or load_task(report.task["id"])).with_dataset(**options)
    if task.hash != report.task["hash"]:
        raise UsageError(f"{results}: made with another version of {task.id}; give its task file")
    dataset = open_dataset(task.dataset, root)
    areas = report.per_image.areas()
    scores = np.where(areas.gt.any(axis=1), areas.miou(report.task["absent"]), np.nan)  # (I,)
    order = [int(i) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]
    worst = order[:count]
    best = [i for i in reversed(order) if i not in worst][:count]
    parts = [_head(report), _classes(report)]
    for title, chosen in (("Worst", worst), ("Best", best)):
        parts.append(f"<h2>{title} images</h2>")
        for i in chosen:
            example = _example(dataset, report, i)
            parts.append(_figure(example, predictions, float(scores[i]), report.names))
    path = results / PAGE
    write_atomically(path, "\n".join([*parts, "</body></html>\n"]).encode())
    return path


def _example(dataset: SegmentationDataset, report: Report, place: int) -> Example:
    """The image at a place of the results: images that could not be read are not counted there."""
    wanted = report.per_image.ids[place]
    last = min(place + report.data["images_skipped"], len(dataset) - 1)
    for index in range(place, last + 1):
        try:
            example = dataset[index]
        except UnreadableImageError:
            continue
        if example.id == wanted:
            return example
    raise DataMissingError(f"image {wanted} of the results is not at its place in the data set")


def _head(report: Report) -> str:
    title = escape(f"{report.model['name']} on {report.task['id']}")
    lines = "<br>".join(escape(line) for line in report.summary().splitlines())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{lines}</p>"
    )


def _classes(report: Report) -> str:
    """Table of classes, the worst first; those without a pixel are left out."""
    rows = [row for row in report.per_class if not np.isnan(row["iou"])]
    cells = [
        f"<tr><td>{escape(row['name'])}</td><td>{100 * row['iou']:.2f}</td>"
        f"<td>{_percent(row['acc'])}</td><td>{row['gt_pixels']:,}</td>"
        f"<td>{row['pr_pixels']:,}</td></tr>"
        for row in sorted(rows, key=lambda row: row["iou"])
    ]
    head = "".join(
        f"<th>{word}</th>" for word in ("class", "IoU", "accuracy", "true px", "predicted px")
    )
    return f"<h2>Classes</h2><table><tr>{head}</tr>{''.join(cells)}</table>"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _figure(example: Example, predictions: Path, miou: float, names: Sequence[str]) -> str:
    predicted = read_prediction(predictions, example).numpy()  # (H, W)
    out = io.BytesIO()
    strip(example.image, example.labels, predicted, names).save(out, format="PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    caption = f"{escape(example.id)}: mIoU {100 * miou:.1f} (photograph, labels, prediction)"
    source = f"data:image/png;base64,{data}"
    picture = f'<img alt="{caption}" src="{source}">'
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"
