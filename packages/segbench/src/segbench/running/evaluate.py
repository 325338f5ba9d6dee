"""Evaluate a segmenter, or saved label maps, on a task."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segbench.datasets import Example, open_dataset
from segbench.errors import UsageError
from segbench.metrics.extras import check_extras
from segbench.protocols.inference import image_tensor
from segbench.protocols.predict import predict_labels, task_bank, task_queries
from segbench.protocols.task import Task, load_task
from segbench.results.report import Report
from segbench.running.ranks import held
from segbench.running.run import Run, existing, finish
from segbench.running.saved import SavedMaps
from segbench.segmenter import Segmenter, identity_of


def evaluate(  # noqa: PLR0913  # every option of the command
    segmenter: Segmenter,
    task: Task | str,
    *,
    root: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    device: str | torch.device = "cpu",
    metrics: Sequence[str] = (),
    overlays: int = 0,
    save_pred: bool = False,
    bank_cache: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> Report:
    """Score a segmenter on a task.

    With `out` every image that is done is noted in `OUT/journal`: killed and called again, the
    evaluation goes on, and what it gives does not depend on how often or in how many processes it
    ran. Under torchrun (see `joined`) the ranks share the images, in any number.

    Args:
        segmenter: the model; it is handed tensors on `device` and has to be there itself.
        task: a task, its id, or the path of a task file.
        root: folder with the data; procedural data needs none.
        out: folder for `results.json`, `confusion.npy`, `per_image.npz` and `overlays/`; nothing is
            written when left out. `results.json` appears last, so where it is, all is.
        limit: score the first images only; recorded as a warning in the results.
        device: where tensors are made.
        metrics: of `segbench.metrics.extras`, beside those of the confusion matrix.
        overlays: draw this many of the first images.
        save_pred: write the label map of every image to `OUT/predictions/<image id>.png`.
        bank_cache: folder that keeps text banks, for segmenters with a `fingerprint`.
        overwrite: start again although `out` holds results or a journal.
        skip_existing: return the results that are in `out` if they are of the same task, model
            and number of images.

    Returns:
        The report, equal to what is written.

    Raises:
        UsageError: unknown task or metric, `limit` below 1, results that would be overwritten, a
            journal of another evaluation, another evaluation that is writing to `out`, or several
            ranks without `out`.
        DataMissingError: data is missing, or no image could be read.
        FormatError: a file contradicts the task.
        TypeError: `segmenter` does not satisfy the protocol.
        ModelError: the segmenter's output has a wrong shape or is not finite.
    """
    if not isinstance(segmenter, Segmenter):
        raise TypeError(f"{type(segmenter).__name__} has no name, encode_text and segment")
    task = task if isinstance(task, Task) else load_task(task)
    run = Run(
        task=task,
        dataset=open_dataset(task.dataset, root),
        model=identity_of(segmenter),
        root=root,
        out=out,
        limit=limit,
        extras=check_extras(metrics),
        overlays=overlays,
        save_pred=save_pred,
        device=torch.device(device),
    )
    with held(out):
        found = existing(run, overwrite=overwrite, skip=skip_existing)
        if found is not None:
            return found
        bank = task_bank(segmenter, task, run.dataset.names, bank_cache).to(run.device)  # (Q, D)
        owners = torch.tensor(task_queries(task, run.dataset.names).owners, device=run.device)

        def predict(example: Example) -> Tensor:
            image = image_tensor(example.image, run.device)  # (3, H, W)
            return predict_labels(
                segmenter,
                image,
                bank,
                task,
                run.dataset.names,
                owners=owners,
                truth=example.labels,
            )

        return finish(run, predict)


def score_folder(
    predictions: Path,
    task: Task | str,
    *,
    root: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    metrics: Sequence[str] = (),
    overlays: int = 0,
    overwrite: bool = False,
) -> Report:
    """Score saved label maps, without a model.

    Args:
        predictions: folder with a label map for every image id at the resolution of the labels, or
            a JSON file of run lengths (`segbench.running.saved`); any value where the label is
            ignored. Its name becomes the model's name.
        task: a task, its id, or the path of a task file.
        root: folder with the data; procedural data needs none.
        out: folder for the results, as in `evaluate`; nothing is written when left out.
        limit: score the first images only; recorded as a warning in the results.
        metrics: of `segbench.metrics.extras`, beside those of the confusion matrix.
        overlays: draw this many of the first images.
        overwrite: start again although `out` holds results or a journal.

    Returns:
        The report, equal to what is written.

    Raises:
        UsageError: unknown task or metric, a task that names given masks, `limit` below 1, results
            that would be overwritten, or another evaluation that is writing to `out`.
        DataMissingError: a map is missing, or data is.
        FormatError: a map has another size or a value that is no label id.
    """
    task = task if isinstance(task, Task) else load_task(task)
    if task.regions != "none":
        raise UsageError(
            f"{task.id} has a model name given masks; label maps are scored as they are"
        )
    maps = SavedMaps(predictions)
    run = Run(
        task=task,
        dataset=open_dataset(task.dataset, root),
        model={"name": predictions.resolve().name},
        predictions=maps,
        root=root,
        keeps_journal=False,
        out=out,
        limit=limit,
        extras=check_extras(metrics),
        overlays=overlays,
    )
    with held(out):
        existing(run, overwrite=overwrite)
        return finish(run, maps)
