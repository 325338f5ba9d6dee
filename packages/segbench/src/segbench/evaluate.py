"""Evaluate a segmenter, or saved label maps, on a task."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segbench.bank import load_templates
from segbench.datasets import Example, SegmentationDataset, open_dataset
from segbench.errors import DataMissingError, FormatError, UnreadableImageError, UsageError
from segbench.metrics import IntArray, count_pairs
from segbench.overlay import strip
from segbench.per_image import PerImageCounts
from segbench.predict import predict_labels, prompt_names, task_bank
from segbench.report import Report, environment, summarise
from segbench.segmenter import Segmenter
from segbench.task import Task, load_task

Predict: TypeAlias = Callable[[Example], Tensor]
"""An example -> (H, W) integer label ids."""


@dataclass(kw_only=True, slots=True)
class _Run:
    """One evaluation under way: what it was asked, and what it has met so far."""

    task: Task
    dataset: SegmentationDataset
    model: str
    out: Path | None
    limit: int | None
    overlays: int
    device: torch.device
    skipped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    content: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    @property
    def expected(self) -> int:
        """Images that should be scored."""
        return min(len(self.dataset), self.limit or len(self.dataset))

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time a stage has taken."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def evaluate(
    segmenter: Segmenter,
    task: Task | str,
    *,
    root: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    device: str | torch.device = "cpu",
    overlays: int = 0,
    overwrite: bool = False,
) -> Report:
    """Score a segmenter on a task.

    Args:
        segmenter: the model; it is handed tensors on `device` and has to be there itself.
        task: a task, its id, or the path of a task file.
        root: folder with the data; procedural data needs none.
        out: folder for `results.json`, `confusion.npy`, `per_image.npz` and `overlays/`; nothing is
            written when left out. `results.json` appears last, so where it is, all is.
        limit: score the first images only; recorded as a warning in the results.
        device: where tensors are made.
        overlays: draw this many of the first images.
        overwrite: allow `out` to hold results already.

    Returns:
        The report, equal to what is written.

    Raises:
        UsageError: unknown task, `limit` below 1, or results that would be overwritten.
        DataMissingError: data is missing, or no image could be read.
        FormatError: a file contradicts the task.
        TypeError: `segmenter` does not satisfy the protocol.
        ValueError: the segmenter's output has a wrong shape or is not finite.
    """
    if not isinstance(segmenter, Segmenter):
        raise TypeError(f"{type(segmenter).__name__} has no name, encode_text and segment")
    task = task if isinstance(task, Task) else load_task(task)
    run = _start(task, root, out, segmenter.name, limit=limit, overwrite=overwrite)
    run.overlays, run.device = overlays, torch.device(device)
    bank = task_bank(segmenter, task, run.dataset.names).to(run.device)  # (K, D)

    def predict(example: Example) -> Tensor:
        pixels = torch.tensor(example.image, device=run.device)  # (H, W, 3), a writable copy
        image = pixels.permute(2, 0, 1).float().div(255)  # (3, H, W)
        return predict_labels(segmenter, image, bank, task)

    return _finish(run, predict)


def score_folder(
    predictions: Path,
    task: Task | str,
    *,
    root: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    overlays: int = 0,
    overwrite: bool = False,
) -> Report:
    """Score saved label maps, without a model.

    Args:
        predictions: folder with `<image id>.png` (8 or 16 bit) or `<image id>.npy`, (H, W) label
            ids at the resolution of the labels; any value where the label is ignored. Its name
            becomes the model's name.
        task: a task, its id, or the path of a task file.
        root: folder with the data; procedural data needs none.
        out: folder for the results, as in `evaluate`; nothing is written when left out.
        limit: score the first images only; recorded as a warning in the results.
        overlays: draw this many of the first images.
        overwrite: allow `out` to hold results already.

    Returns:
        The report, equal to what is written.

    Raises:
        UsageError: unknown task, `limit` below 1, or results that would be overwritten.
        DataMissingError: a map is missing, or data is.
        FormatError: a map has another size or a value that is no label id.
    """
    task = task if isinstance(task, Task) else load_task(task)
    run = _start(task, root, out, predictions.resolve().name, limit=limit, overwrite=overwrite)
    run.overlays = overlays
    return _finish(run, lambda example: _read_prediction(predictions, example))


def _read_prediction(folder: Path, example: Example) -> Tensor:
    stem = folder / example.id
    npy, png = stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}.png")
    if not (npy.is_file() or png.is_file()):
        raise DataMissingError(f"no prediction {png.name} or {npy.name} in {folder}")
    path = npy if npy.is_file() else png
    try:
        found = np.load(path, allow_pickle=False) if path is npy else _read_indices(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error
    if found.shape != example.labels.shape:
        raise FormatError(f"{path}: is {found.shape}, its labels are {example.labels.shape}")
    return torch.tensor(found.astype(np.int64))  # (H, W)


def _read_indices(path: Path) -> npt.NDArray[np.integer]:
    with Image.open(path) as picture:
        return np.asarray(picture)  # (H, W) where the picture holds indices


def _start(
    task: Task,
    root: Path | None,
    out: Path | None,
    model: str,
    *,
    limit: int | None,
    overwrite: bool,
) -> _Run:
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be >= 1, got {limit}")
    if out is not None and (out / "results.json").exists() and not overwrite:
        raise UsageError(f"{out} holds results already; choose another folder or allow overwriting")
    return _Run(
        task=task,
        dataset=open_dataset(task.dataset, root),
        model=model,
        out=out,
        limit=limit,
        overlays=0,
        device=torch.device("cpu"),
    )


def _finish(run: _Run, predict: Predict) -> Report:
    started = time.perf_counter()
    per_image = PerImageCounts.of(len(run.dataset.names), _count_images(run, predict))
    run.seconds["total"] = time.perf_counter() - started
    if not per_image.ids:
        raise DataMissingError(f"none of {run.expected} images could be read: {run.skipped[0]}")
    if len(set(per_image.ids)) < len(per_image.ids):
        raise FormatError(f"{run.task.id}: two images have the same id")
    report = _report(run, per_image)
    if run.out is not None:
        report.write(run.out)
    return report


def _count_images(run: _Run, predict: Predict) -> Iterator[tuple[str, IntArray]]:
    """Predict and count image by image; unreadable ones are noted and left out."""
    for index in tqdm(range(run.expected), desc=run.task.id, unit="image", disable=None):
        start = time.perf_counter()
        try:
            example = run.dataset[index]
        except UnreadableImageError as error:
            run.skipped.append(str(error))
            continue
        loaded = time.perf_counter()
        prediction = predict(example)  # (H, W)
        predicted = time.perf_counter()
        counts = _count(example, prediction, len(run.dataset.names))
        run.add_seconds("load", loaded - start)
        run.add_seconds("predict", predicted - loaded)
        run.add_seconds("count", time.perf_counter() - predicted)
        for part in (example.id.encode(), example.image.tobytes(), example.labels.tobytes()):
            run.content.update(part)
        if run.out is not None and index < run.overlays:
            _draw(run.out / "overlays", example, prediction, run.dataset.names)
        yield example.id, counts


def _count(example: Example, prediction: Tensor, classes: int) -> IntArray:
    labels = torch.tensor(example.labels, device=prediction.device)  # (H, W)
    try:
        counts: IntArray = count_pairs(labels, prediction, classes).cpu().numpy()  # (K, K)
    except ValueError as error:
        raise FormatError(f"image {example.id}: {error}") from error
    return counts


def _draw(folder: Path, example: Example, prediction: Tensor, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{example.id.replace('/', '_')}.png"
    picture = strip(example.image, example.labels, prediction.cpu().numpy(), names)
    part = path.with_suffix(".part")
    picture.save(part, format="PNG")
    part.replace(path)


def _report(run: _Run, per_image: PerImageCounts) -> Report:
    prompts = prompt_names(run.task, run.dataset.names)
    metrics, per_class, interval = summarise(
        per_image,
        names=run.dataset.names,
        subsets=run.dataset.subsets,
        rule=run.task.absent,
        background=None if run.task.background == "none" else run.task.background_label,
    )
    return Report(
        task=run.task.identity(),
        model={"name": run.model},
        data={
            "dataset": dict(run.task.dataset),
            "images_expected": run.expected,
            "images_in_dataset": len(run.dataset),
            "images_scored": len(per_image.ids),
            "images_skipped": len(run.skipped),
            "content_sha256": run.content.hexdigest(),
        },
        names=tuple(run.dataset.names),
        prompts=tuple(prompts),
        templates=load_templates(run.task.templates),
        metrics=metrics,
        per_class=per_class,
        interval=interval,
        timing=_timing(run, len(per_image.ids)),
        environment=environment(run.device),
        warnings=tuple(_warnings(run, prompts, per_image)),
        per_image=per_image,
    )


def _timing(run: _Run, images: int) -> dict[str, float]:
    seconds = {f"{stage}_s": round(run.seconds[stage], 4) for stage in sorted(run.seconds)}
    return {"images_per_s": round(images / max(run.seconds["total"], 1e-9), 3), **seconds}


def _warnings(run: _Run, prompts: Sequence[str], per_image: PerImageCounts) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    if run.expected < len(run.dataset):
        yield (
            f"limited to the first {run.expected} of {len(run.dataset)} images: "
            "not comparable with a full run"
        )
    yield from (f"skipped: {reason}" for reason in run.skipped)
    twice = sorted(name for name, times in Counter(prompts).items() if times > 1)
    if twice:
        yield f"names given to more than one class, of which one can never win: {', '.join(twice)}"
    absent = int((per_image.total().sum(axis=1) == 0).sum())
    if absent:
        yield f"{absent} of {per_image.classes} classes have no labelled pixel in these images"
