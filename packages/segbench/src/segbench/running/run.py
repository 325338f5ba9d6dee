"""One evaluation under way: images done one by one, noted in a journal, gathered into a report."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segbench.datasets import Example, SegmentationDataset
from segbench.errors import DataMissingError, FormatError, UnreadableImageError, UsageError
from segbench.files import remove_folder
from segbench.metrics.confusion import IntArray, count_pairs
from segbench.metrics.extras import (
    ExtraName,
    count_extras,
    definitions,
    extra_figures,
    extras_size,
)
from segbench.metrics.per_image import PerImageCounts
from segbench.progress import progress
from segbench.protocols.classification import ClassificationTask
from segbench.protocols.predict import task_queries
from segbench.protocols.task import Task
from segbench.results.overlay import strip
from segbench.results.report import Report, environment, summarise
from segbench.running.journal import Entry, Journal
from segbench.running.ranks import rank_and_world, wait_for_all
from segbench.running.saved import SavedMaps
from segbench.words import load_templates

Predict: TypeAlias = Callable[[Example], Tensor]
"""An example -> (H, W) integer label ids."""

Work: TypeAlias = Callable[[int, Example], IntArray]
"""Place in the data set and an example -> int64 counts of any one shape."""

JOURNAL = "journal"
PREDICTIONS = "predictions"
OVERLAYS = "overlays"


@dataclass(kw_only=True, slots=True)
class Run:
    """What an evaluation was asked, and what it has met so far; see `evaluate`."""

    task: Task | ClassificationTask
    dataset: SegmentationDataset
    model: dict[str, Any]
    """name, and what tells its weights from others if that is known."""
    out: Path | None
    limit: int | None
    overlays: int = 0
    save_pred: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    extras: tuple[ExtraName, ...] = ()
    """Metrics beside the confusion matrix."""
    extra: str = ""
    """What else tells the counts from those of another evaluation."""
    root: Path | None = None
    predictions: SavedMaps | None = None
    """Label maps that are scored, where there is no model."""
    keeps_journal: bool = True
    """Whether a stopped evaluation can go on: not where predictions may change in between."""
    counted: int = 0
    """Images that this process has done."""
    resumed: bool = False
    """Whether an earlier run had done some."""
    done: dict[int, Entry] = field(default_factory=dict)
    """By place in the data set."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, of this process; an image is loaded while the one before it is predicted."""

    @property
    def expected(self) -> int:
        """Images that should be scored."""
        return min(len(self.dataset), self.limit or len(self.dataset))

    @property
    def identity(self) -> dict[str, Any]:
        """By what a journal is known to be of the same evaluation."""
        return {
            "task": self.task.hash,
            "model": self.model,
            "root": None if self.root is None else str(self.root.resolve()),
            "data": {"dataset": dict(self.task.dataset), "images": self.expected},
            "pictures": {"overlays": self.overlays, "save_pred": self.save_pred},
            "metrics": list(self.extras),
            "extra": self.extra,
        }

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time a stage has taken."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def segmentation_task(run: Run) -> Task:
    """The task of a run that segments."""
    assert isinstance(run.task, Task)  # evaluate_classification alone makes other runs
    return run.task


class Result(Protocol):
    """What a report of any kind says of itself."""

    @property
    def task(self) -> dict[str, Any]:
        """With a hash."""
        ...

    @property
    def model(self) -> dict[str, Any]:
        """As of `Run`."""
        ...

    @property
    def data(self) -> dict[str, Any]:
        """As of `data_of`."""
        ...


AnyResult = TypeVar("AnyResult", bound=Result)


def existing(
    run: Run, *, overwrite: bool, skip: bool = False, name: str = "results.json"
) -> Report | None:
    """Results that may stand for the run; what is in the way of a new one is refused or removed."""
    return standing(run, Report.read, overwrite=overwrite, skip=skip, name=name)


def standing(
    run: Run,
    read: Callable[[Path], AnyResult],
    *,
    overwrite: bool,
    skip: bool,
    name: str = "results.json",
) -> AnyResult | None:
    """As `existing`, with the reader of another kind of results."""
    if run.limit is not None and run.limit < 1:
        raise UsageError(f"limit must be >= 1, got {run.limit}")
    if run.overlays < 0:
        raise UsageError(f"overlays must be >= 0, got {run.overlays}")
    rank, world = rank_and_world()
    if run.out is None:
        if world > 1:
            raise UsageError(f"{world} ranks share an evaluation through files: say where with out")
        return None
    results = run.out / name
    if results.exists() and skip:
        found = read(run.out)
        if _is_of(found, run):
            return found
    if results.exists() and not overwrite:
        other = " of another task, model or number of images" if skip else ""
        raise UsageError(
            f"{run.out} holds results already{other}; choose another folder, or pass "
            "--overwrite true"
        )
    wait_for_all()  # until every rank has looked
    if overwrite and rank == 0:
        results.unlink(missing_ok=True)
        for folder in (JOURNAL, PREDICTIONS, OVERLAYS):  # of another evaluation
            remove_folder(run.out / folder)
    wait_for_all()
    return None


def _is_of(report: Result, run: Run) -> bool:
    """Whether a report is what the run would give."""
    return (
        report.task["hash"] == run.task.hash
        and report.model == run.model
        and report.data["images_expected"] == run.expected
        and set(run.extras) <= set(getattr(report, "definitions", ()))
        and (not run.save_pred or (run.out is not None and (run.out / PREDICTIONS).is_dir()))
    )


def finish(run: Run, predict: Predict) -> Report:
    """Do all images, and write the report where results go."""

    def work(index: int, example: Example) -> IntArray:
        start = time.perf_counter()
        prediction = predict(example)  # (H, W)
        predicted = time.perf_counter()
        confusion = _count(example, prediction, len(run.dataset.names))
        extra = count_extras(run.extras, example.labels, prediction, len(run.dataset.names))
        run.add_seconds("predict", predicted - start)
        run.add_seconds("count", time.perf_counter() - predicted)
        if run.out is not None:
            _write_pictures(run, run.out, index, example, prediction)
        return np.concatenate([confusion.reshape(-1), extra])

    count_all(run, work)
    report = _report(run, _gathered(run))
    if run.out is not None and rank_and_world()[0] == 0:
        report.write(run.out)
        remove_folder(run.out / JOURNAL)
    wait_for_all()
    return report


def count_all(run: Run, work: Work) -> None:
    """Do all images that no journal knows, and learn of those that others have done.

    Raises:
        DataMissingError: none could be read.
        FormatError: two have the same id.
    """
    started = time.perf_counter()
    if run.out is None or not run.keeps_journal:
        run.done = {entry.index: entry for entry in _entries(run, work, range(run.expected))}
    else:
        _count_in_journal(run, work, run.out)
    run.seconds["total"] = time.perf_counter() - started
    read = scored(run)
    if not read:
        reason = next(iter(unread(run)))
        raise DataMissingError(f"none of {run.expected} images could be read: {reason}")
    if len({entry.id for entry in read}) < len(read):
        raise FormatError(f"{run.task.id}: two images have the same id")


def scored(run: Run) -> list[Entry]:
    """Images that could be read, in the order of the data set."""
    return [entry for _, entry in sorted(run.done.items()) if not entry.skipped]


def _count_in_journal(run: Run, work: Work, out: Path) -> None:
    """Do this rank's share of the images that no journal knows, and learn of the others'."""
    journal = Journal(out / JOURNAL, run.identity)
    known = {index for index, entry in journal.done.items() if not entry.skipped}
    left = [index for index in range(run.expected) if index not in known]
    run.resumed = bool(known)
    wait_for_all()  # until every rank has read the same journal
    rank, world = rank_and_world()
    try:
        for entry in _entries(run, work, left[rank::world], known=run.expected - len(left)):
            journal.add(entry)
    finally:
        journal.close()
    wait_for_all()
    journal.reload()
    wait_for_all()  # until every rank has read it: the first one will delete it
    lost = set(range(run.expected)) - set(journal.done)
    if lost:
        raise FormatError(
            f"{journal.folder}: {len(lost)} of {run.expected} images are not in it; all ranks need "
            "the same folder, and no other evaluation may end in it"
        )
    run.done = journal.done


def _gathered(run: Run) -> PerImageCounts:
    """Counts of all images that could be read, in the order of the data set."""
    pairs = len(run.dataset.names) ** 2
    rows = []
    for entry in scored(run):
        confusion = entry.pairs < pairs  # (n,)
        rows.append((entry.id, entry.pairs[confusion], entry.counts[confusion]))
    return PerImageCounts.of_sparse(len(run.dataset.names), rows)


def _gathered_extras(run: Run) -> IntArray:
    """Counts of the metrics beside the confusion matrix, of all images."""
    classes = len(run.dataset.names)
    total = np.zeros(extras_size(run.extras, classes), np.int64)
    for entry in scored(run):
        beside = entry.pairs >= classes**2  # (n,)
        total[entry.pairs[beside] - classes**2] += entry.counts[beside]
    return total


def _entries(run: Run, work: Work, indices: Sequence[int], *, known: int = 0) -> Iterator[Entry]:
    """Count image by image; unreadable ones are noted and left out."""
    rank, world = rank_and_world()
    bar = progress(
        indices,
        shown=rank == 0,
        desc=run.task.id,
        unit="image",
        initial=known // world,
        total=len(indices) + known // world,
    )
    with ThreadPoolExecutor(1) as reader:  # reads the next image while this one is scored
        ahead = reader.submit(_read, run.dataset, indices[0]) if indices else None
        for place, index in enumerate(bar):
            assert ahead is not None  # there is an image
            found, seconds = ahead.result()
            if place + 1 < len(indices):
                ahead = reader.submit(_read, run.dataset, indices[place + 1])
            run.add_seconds("load", seconds)
            if isinstance(found, UnreadableImageError):
                yield Entry.unreadable(index, str(found))
                continue
            run.counted += 1
            example, content = found
            yield Entry.of(index, example.id, content, work(index, example))


def _read(
    dataset: SegmentationDataset, index: int
) -> tuple[tuple[Example, str] | UnreadableImageError, float]:
    """An example and its hash, or why it cannot be read; and the seconds it took."""
    start = time.perf_counter()
    try:
        example = dataset[index]
    except UnreadableImageError as error:
        return error, time.perf_counter() - start
    return (example, _content(example)), time.perf_counter() - start


def _content(example: Example) -> str:
    """SHA-256 of an example."""
    digest = hashlib.sha256(example.id.encode())
    digest.update(np.ascontiguousarray(example.image).data)
    digest.update(np.ascontiguousarray(example.labels).data)
    return digest.hexdigest()


def _count(example: Example, prediction: Tensor, classes: int) -> IntArray:
    writable = np.require(example.labels, requirements=["C", "W"])  # as PyTorch wants it
    labels = torch.from_numpy(writable).to(prediction.device)  # (H, W)
    try:
        counts: IntArray = count_pairs(labels, prediction, classes).cpu().numpy()  # (K, K)
    except ValueError as error:
        raise FormatError(f"image {example.id}: {error}") from error
    return counts


def _write_pictures(run: Run, out: Path, index: int, example: Example, prediction: Tensor) -> None:
    """The label map and the overlay of an image, if they are wanted."""
    if not run.save_pred and index >= run.overlays:
        return
    labels = prediction.cpu().numpy()  # (H, W)
    if run.save_pred:
        kind = np.uint8 if len(run.dataset.names) <= 256 else np.uint16
        _save(Image.fromarray(labels.astype(kind)), out / PREDICTIONS, example.id)
    if index < run.overlays:
        picture = strip(example.image, example.labels, labels, run.dataset.names)
        _save(picture, out / OVERLAYS, example.id.replace("/", "_"))


def _save(picture: Image.Image, folder: Path, name: str) -> None:
    """Write `FOLDER/NAME.png` whole or not at all.

    Raises:
        FormatError: the name, an image's id, leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise FormatError(f"image id {name!r} leads out of {folder}; rename the image")
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    picture.save(part, format="PNG")
    part.replace(path)


def _report(run: Run, per_image: PerImageCounts) -> Report:
    task = segmentation_task(run)
    prompts = task_queries(task, run.dataset.names).prompts
    metrics, per_class, interval = summarise(
        per_image,
        names=run.dataset.names,
        subsets=run.dataset.subsets,
        rule=task.absent,
        background=None if task.background == "none" else task.background_label,
    )
    extra, columns = extra_figures(
        run.extras, _gathered_extras(run), len(run.dataset.names), task.absent
    )
    return Report(
        task=task.identity(),
        model=run.model,
        data=data_of(run),
        names=tuple(run.dataset.names),
        prompts=prompts,
        templates=load_templates(task.templates),
        metrics=metrics | extra,
        per_class=tuple(row | more for row, more in zip(per_class, columns, strict=True)),
        definitions=definitions(run.extras),
        interval=interval,
        timing=timing(run),
        environment=environment(run.device),
        warnings=tuple(_warnings(run, prompts, per_image)),
        per_image=per_image,
    )


def data_of(run: Run) -> dict[str, Any]:
    """What a report says of its data."""
    return {
        "dataset": dict(run.task.dataset),
        "images_expected": run.expected,
        "images_in_dataset": len(run.dataset),
        "images_published": getattr(run.dataset, "expected_images", None),
        "layout": getattr(run.dataset, "layout", None),
        "listed_by": getattr(run.dataset, "listed", None),
        "images_scored": len(scored(run)),
        "images_skipped": len(unread(run)),
        "content_sha256": _content_of_all(run),
    }


def unread(run: Run) -> list[str]:
    """Why images could not be read, in the order of the data set."""
    return [entry.skipped for _, entry in sorted(run.done.items()) if entry.skipped]


def _content_of_all(run: Run) -> str:
    """SHA-256 of the hashes of all images and labels that were scored, in their order."""
    digest = hashlib.sha256()
    for _, entry in sorted(run.done.items()):
        digest.update(entry.content.encode())
    return digest.hexdigest()


def timing(run: Run) -> dict[str, float]:
    """Of this process and what it has done itself."""
    seconds = {f"{stage}_s": round(run.seconds[stage], 4) for stage in sorted(run.seconds)}
    return {"images_per_s": round(run.counted / max(run.seconds["total"], 1e-9), 3), **seconds}


def _warnings(run: Run, prompts: Sequence[str], per_image: PerImageCounts) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    yield from run_warnings(run)
    twice = sorted(name for name, times in Counter(prompts).items() if times > 1)
    if twice:
        yield f"names given to more than one class, of which one can never win: {', '.join(twice)}"
    is_whole = run.expected == len(scored(run)) == len(run.dataset)
    if run.predictions and is_whole and (lone := run.predictions.strays(per_image.ids)):
        yield f"predictions of no image of the data set: {len(lone)}, the first is {lone[0]}"
    absent = int((per_image.total().sum(axis=1) == 0).sum())
    if absent:
        yield f"{absent} of {per_image.classes} classes have no labelled pixel in these images"


def run_warnings(run: Run) -> Iterator[str]:
    """What is to be known of a run, whatever it scored."""
    if run.expected < len(run.dataset):
        yield (
            f"limited to the first {run.expected} of {len(run.dataset)} images: "
            "not comparable with a full run"
        )
    if run.resumed and "fingerprint" not in run.model:
        yield "went on from an earlier run whose model is known by its name alone"
    if note := getattr(run.dataset, "count_note", ""):
        yield note
    yield from (f"skipped: {reason}" for reason in unread(run))
