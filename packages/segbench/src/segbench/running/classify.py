"""Evaluate a classifier on a task of whole images, with the journal and ranks of `evaluate`."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.datasets import Example, ImageNetDataset, open_images
from segbench.errors import FormatError, ModelError, UsageError
from segbench.files import remove_folder
from segbench.metrics.classification import cautions, rank_truth
from segbench.metrics.confusion import IntArray
from segbench.protocols.classification import (
    ClassificationTask,
    class_bank,
    cropped,
    load_any_task,
)
from segbench.protocols.inference import image_tensor
from segbench.results.classification import Answers, ClassificationReport, summarise_answers
from segbench.results.report import environment
from segbench.running.ranks import held, rank_and_world, wait_for_all
from segbench.running.run import (
    JOURNAL,
    Run,
    count_all,
    data_of,
    run_warnings,
    scored,
    standing,
    timing,
)
from segbench.segmenter import Classifier, identity_of
from segbench.words import load_names, load_templates

_NUMBERS = 5  # of an image: label, prediction, rank, tied, lost


@dataclass(frozen=True, slots=True)
class _Examples:
    """Labelled images as examples whose label map is one pixel, as the runner takes them."""

    images: ImageNetDataset
    names: tuple[str, ...]
    """K class names by label, those of the task."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.images.names):
            raise FormatError(
                f"the task has {len(self.names)} names, the data set {len(self.images.names)}"
            )

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        return MappingProxyType({})

    @property
    def layout(self) -> str:
        return self.images.layout

    @property
    def expected_images(self) -> int:
        return self.images.expected_images

    @property
    def count_note(self) -> str:
        return self.images.count_note

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        name, image, label = self.images[index]
        return Example(name, image, np.array([[label]], np.int32))


def evaluate_classification(  # noqa: PLR0913  # every option of the command
    classifier: Classifier,
    task: ClassificationTask | str,
    *,
    root: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    device: str | torch.device = "cpu",
    bank_cache: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> ClassificationReport:
    """Classify every image of a task by the nearest class of a text bank.

    The score of class c is the cosine of its row and the image's embedding, in float32. With `out`
    it goes on after a kill, and shares the images under torchrun, as `evaluate` does.

    Args:
        classifier: the model; it is handed tensors on `device` and has to be there itself.
        task: a task of classification, its id, or the path of a task file.
        root: folder with the data.
        out: folder for `results.json` and `answers.npz`; nothing is written when left out.
        limit: classify the first images only; recorded as a warning in the results.
        device: where tensors are made.
        bank_cache: folder that keeps text banks, for classifiers with a `fingerprint`.
        overwrite: start again although `out` holds results or a journal.
        skip_existing: return the results that are in `out` if they are of the same task, model
            and number of images.

    Returns:
        The report, equal to what is written.

    Raises:
        UsageError: unknown task or one that segments, `limit` below 1, results that would be
            overwritten, a journal of another evaluation, another evaluation that is writing to
            `out`, or several ranks without `out`.
        DataMissingError: data is missing, or no image could be read.
        FormatError: a file contradicts the task.
        TypeError: `classifier` does not satisfy the protocol.
        ModelError: an embedding is not (D,), finite and not zero.
    """
    if not isinstance(classifier, Classifier):
        raise TypeError(f"{type(classifier).__name__} has no name, encode_text and encode_image")
    task = task if isinstance(task, ClassificationTask) else _loaded(task)
    run = Run(
        task=task,
        dataset=_Examples(open_images(task.dataset, root), load_names(task.names)),
        model=identity_of(classifier),
        root=root,
        out=out,
        limit=limit,
        device=torch.device(device),
        extra="classification",
    )
    with held(out):
        found = standing(run, ClassificationReport.read, overwrite=overwrite, skip=skip_existing)
        if found is not None:
            return found
        bank = class_bank(classifier, task, bank_cache).to(run.device)  # (K, D)
        report = _classified(run, classifier, task, bank)
        if out is not None and rank_and_world()[0] == 0:
            report.write(out)
            remove_folder(out / JOURNAL)
        wait_for_all()
        return report


def _loaded(name: str) -> ClassificationTask:
    task = load_any_task(name)
    if not isinstance(task, ClassificationTask):
        raise UsageError(f"{task.id} segments images, it does not classify them; use evaluate")
    return task


def _classified(
    run: Run, classifier: Classifier, task: ClassificationTask, bank: Tensor
) -> ClassificationReport:
    """Look at all images, and report."""
    short_px, crop_px = task.sizes_for(classifier)
    names = run.dataset.names

    @torch.inference_mode()
    def work(_: int, example: Example) -> IntArray:
        start = time.perf_counter()
        seen = cropped(example.image, short_px, crop_px, task.resampling)  # (crop, crop, 3)
        pixels = image_tensor(seen, run.device)  # (3, crop, crop)
        run.add_seconds("crop", time.perf_counter() - start)
        start = time.perf_counter()
        embedding = classifier.encode_image(pixels)  # (D,)
        scores = bank @ _unit(embedding, bank, example.id)  # (K,)
        label = torch.tensor(example.labels[0], device=run.device)  # (1,)
        ranked = rank_truth(scores[None], label, names)
        run.add_seconds("predict", time.perf_counter() - start)
        parts = (label.cpu().numpy(), ranked.winner, ranked.rank, ranked.tied, ranked.lost)
        return np.concatenate(parts).astype(np.int64)  # (5,)

    count_all(run, work)
    answers = _gathered(run)
    metrics, per_class, interval = summarise_answers(answers, names)
    return ClassificationReport(
        task=task.identity(),
        model=run.model,
        data=data_of(run) | {"short_px": short_px, "crop_px": crop_px},
        names=names,
        templates=load_templates(task.templates),
        metrics=metrics,
        per_class=per_class,
        interval=interval,
        timing=timing(run),
        environment=environment(run.device),
        warnings=tuple(_warnings(run, answers)),
        answers=answers,
    )


def _gathered(run: Run) -> Answers:
    """Answers of all images that could be read, in the order of the data set."""
    entries = scored(run)
    table = np.zeros((_NUMBERS, len(entries)), np.int64)  # (5, I)
    for column, entry in enumerate(entries):
        table[entry.pairs, column] = entry.counts
    return Answers(tuple(entry.id for entry in entries), *table)


def _unit(embedding: Tensor, bank: Tensor, image_id: str) -> Tensor:
    """(D,) embedding of length 1 on the device of the bank."""
    if not isinstance(embedding, Tensor):
        raise ModelError(f"encode_image must give a tensor, got {type(embedding).__name__}")
    norm = embedding.float().norm()
    if embedding.shape != bank.shape[1:] or not bool(norm.isfinite() & (norm > 0)):
        raise ModelError(
            f"encode_image of {image_id} must give ({bank.shape[1]},), finite and not zero, "
            f"got {tuple(embedding.shape)} of norm {float(norm)}"
        )
    return F.normalize(embedding.to(bank), dim=0)


def _warnings(run: Run, answers: Answers) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    yield from run_warnings(run)
    yield from cautions(run.dataset.names, answers.counts(len(run.dataset.names)))
