"""The background threshold that suits a model: the score at every value, from one evaluation.

A threshold that is chosen by the labels of the images it is scored on is tuned on them; the result
says so.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from segbench.datasets import Example, open_dataset
from segbench.errors import UsageError
from segbench.files import remove_folder, write_atomically
from segbench.metrics.confusion import ConfusionMatrix, IntArray, count_pairs
from segbench.protocols.background import add_threshold_channel, decide, rank
from segbench.protocols.inference import image_tensor
from segbench.protocols.predict import (
    checked_scores,
    enlarged,
    merged_scores,
    shrunk,
    task_bank,
    task_queries,
)
from segbench.protocols.task import Task, load_task
from segbench.results.stored import without_nan
from segbench.running.ranks import held, rank_and_world, wait_for_all
from segbench.running.run import (
    JOURNAL,
    Run,
    count_all,
    existing,
    scored,
    segmentation_task,
    unread,
)
from segbench.segmenter import Segmenter, identity_of

Score: TypeAlias = Callable[[Tensor], Tensor]
"""A (3, y, x) window -> (Q, h, w) scores."""

KIND, VERSION = "segbench-sweep", 1
SWEEP = "sweep.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Scores of one segmenter on one task by the value of its background policy."""

    task: dict[str, Any]
    model: dict[str, Any]
    images: int
    """Images that were scored."""
    images_expected: int
    """Images that should have been."""
    images_in_dataset: int
    images_published: int | None
    """Images that the data set is known to have; None where nothing is."""
    skipped: tuple[str, ...]
    """Why images could not be read."""
    values: tuple[float, ...]
    """n values, ascending."""
    miou: tuple[float, ...]
    """(n,) under the task's rule for absent classes."""
    miou_fg: tuple[float, ...]
    """(n,) without the background class."""
    pixel_acc: tuple[float, ...]
    """(n,)"""

    @property
    def best(self) -> float:
        """The value with the largest mIoU, the first of several."""
        known = [place for place, value in enumerate(self.miou) if not math.isnan(value)]
        return self.values[max(known, key=lambda place: self.miou[place])] if known else math.nan

    def summary(self) -> str:
        """A line a value, and the best one, for a terminal."""
        rows = zip(self.values, self.miou, self.miou_fg, self.pixel_acc, strict=True)
        lines = [f"{v:.6g}\t{100 * m:.2f}\t{100 * f:.2f}\t{100 * p:.2f}" for v, m, f, p in rows]
        head = "value\tmIoU\tmIoU of the foreground\tpixel acc"
        tail = [f"best {self.best:.6g}, tuned on these {self.images} images"]
        return "\n".join([head, *lines, *tail, *(f"skipped: {why}" for why in self.skipped)])

    def write(self, folder: Path) -> None:
        """Write `sweep.json` whole or not at all."""
        content = {"kind": KIND, "schema_version": VERSION, "best": self.best, **asdict(self)}
        text = json.dumps(without_nan(content), indent=1, allow_nan=False)
        write_atomically(folder / SWEEP, f"{text}\n".encode())


def sweep(
    segmenter: Segmenter,
    task: Task | str,
    values: Sequence[float],
    *,
    root: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    device: str | torch.device = "cpu",
    overwrite: bool = False,
) -> Sweep:
    """Score a segmenter at every value of the task's background policy.

    The model sees every image once, and each score is that of `evaluate` with that value. With
    `out` it goes on after a kill, and shares the images under torchrun, as `evaluate` does.

    Args:
        segmenter: the model.
        task: a task with a background policy, its id, or the path of a task file.
        values: of `Task.background_value`, in any order.
        root: folder with the data.
        out: folder for `sweep.json`.
        limit: score the first images only.
        device: where tensors are made.
        overwrite: start again although `out` holds a sweep or a journal.

    Raises:
        UsageError: the task has no background policy, no value or one that is not finite, or as
            of `evaluate`.
        DataMissingError: data is missing, or no image could be read.
        FormatError: a file contradicts the task.
        ModelError: the segmenter's output has a wrong shape or is not finite.
    """
    task = task if isinstance(task, Task) else load_task(task)
    if task.background == "none":
        raise UsageError(f"{task.id} has no background policy, so there is nothing to sweep")
    if not values:
        raise UsageError("a sweep needs at least one value")
    if not all(map(math.isfinite, values)):
        raise UsageError(f"values of a sweep must be finite, got {list(values)}")
    chosen = tuple(sorted(set(values)))
    run = Run(
        task=task,
        dataset=open_dataset(task.dataset, root),
        model=identity_of(segmenter),
        root=root,
        out=out,
        limit=limit,
        device=torch.device(device),
        extra=f"sweep {chosen}",
    )
    with held(out):
        existing(run, overwrite=overwrite, name=SWEEP)
        found = _swept(run, segmenter, chosen)
        if out is not None and rank_and_world()[0] == 0:
            found.write(out)
            remove_folder(out / JOURNAL)
        wait_for_all()
        return found


def _swept(run: Run, segmenter: Segmenter, values: tuple[float, ...]) -> Sweep:
    """Look at all images, and score every value."""
    task, names = segmentation_task(run), run.dataset.names
    bank = task_bank(segmenter, task, names).to(run.device)  # (Q, D)
    owners = torch.tensor(task_queries(task, names).owners, device=run.device)  # (Q,)

    @torch.inference_mode()
    def work(_: int, example: Example) -> IntArray:
        image = image_tensor(example.image, run.device)  # (3, H, W)
        labels = torch.tensor(example.labels, device=run.device)  # (H, W)
        count = _by_window if task.background == "threshold" else _by_pixel
        score = _scorer(segmenter, bank)
        return count(score, shrunk(image, task), labels, owners, task, values, len(names))

    count_all(run, work)
    return _gathered(run, values)


def _by_pixel(
    score: Score,
    image: Tensor,
    labels: Tensor,
    owners: Tensor,
    task: Task,
    values: Sequence[float],
    classes: int,
) -> IntArray:
    """(n, K, K) counts where the policy acts on the merged score of a pixel.

    A pixel is background from its first value on: one pass over the pixels counts all values.
    """
    size = (labels.shape[0], labels.shape[1])
    ranked = rank(merged_scores(score, image, task), (image.shape[1], image.shape[2]), task, owners)
    sure, winner, loses_tie = (enlarged(each, size) for each in ranked)  # (H, W) each
    steps = torch.tensor(values, dtype=sure.dtype, device=sure.device)  # (n,)
    first = torch.searchsorted(steps, sure, right=True)  # (H, W), values at most `sure`
    first = torch.where(loses_tie, torch.searchsorted(steps, sure), first)
    keys = first * classes + winner  # (H, W)
    kept = labels != -1
    flat = labels[kept].long() * (len(values) + 1) * classes + keys[kept]
    shape = (classes, len(values) + 1, classes)
    by_first: IntArray = (
        torch.bincount(flat, minlength=int(np.prod(shape))).view(shape).cpu().numpy()
    )
    counts = np.zeros((len(values), classes, classes), np.int64)  # (n, K, K)
    for step in range(len(values)):
        counts[step] = by_first[:, step + 1 :].sum(axis=1)
        counts[step, :, task.background_label] += by_first[:, : step + 1].sum(axis=(1, 2))
    return counts


def _by_window(
    score: Score,
    image: Tensor,
    labels: Tensor,
    owners: Tensor,
    task: Task,
    values: Sequence[float],
    classes: int,
) -> IntArray:
    """(n, K, K) counts where the policy acts on every window before they are merged."""
    seen: list[Tensor] = []

    def remember(window: Tensor) -> Tensor:
        seen.append(score(window))
        return seen[-1]

    merged_scores(remember, image, task)
    size, small = (labels.shape[0], labels.shape[1]), (image.shape[1], image.shape[2])
    counts = []
    for value in values:
        windows = _with_background(seen, value, task)
        merged = merged_scores(lambda _, w=windows: next(w), image, task)  # type: ignore[misc]  # bound now
        predicted = decide(merged, small, replace(task, background_value=value), owners)
        counts.append(count_pairs(labels, enlarged(predicted, size), classes).cpu().numpy())
    return np.stack(counts)


def _with_background(seen: Sequence[Tensor], value: float, task: Task) -> Iterator[Tensor]:
    for scores in seen:
        yield add_threshold_channel(scores, value, task.background_label)


def _scorer(segmenter: Segmenter, bank: Tensor) -> Score:
    return lambda window: checked_scores(segmenter.segment(window, bank), len(bank))


def _gathered(run: Run, values: tuple[float, ...]) -> Sweep:
    """Scores from the counts of all images."""
    classes, entries = len(run.dataset.names), scored(run)
    total = np.zeros(len(values) * classes**2, np.int64)  # (n * K * K,)
    for entry in entries:
        total[entry.pairs] += entry.counts
    matrices = [ConfusionMatrix(classes, part) for part in total.reshape(-1, classes, classes)]
    rule, background = segmentation_task(run).absent, segmentation_task(run).background_label
    return Sweep(
        task=run.task.identity(),
        model=run.model,
        images=len(entries),
        images_expected=run.expected,
        images_in_dataset=len(run.dataset),
        images_published=getattr(run.dataset, "expected_images", None),
        skipped=tuple(unread(run)),
        values=values,
        miou=tuple(matrix.miou(rule) for matrix in matrices),
        miou_fg=tuple(matrix.miou_fg(background, rule) for matrix in matrices),
        pixel_acc=tuple(matrix.pixel_acc() for matrix in matrices),
    )
