"""From an image to a label map, under the protocol of a task."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segbench.errors import FormatError, ModelError
from segbench.ops.count_argmax import is_within
from segbench.protocols.background import add_threshold_channel, decide
from segbench.protocols.bank import build_bank
from segbench.protocols.bank_cache import cached_bank
from segbench.protocols.inference import ScoreMap, merge_windows, resize_image, resized_size
from segbench.protocols.regions import name_regions
from segbench.protocols.task import Task
from segbench.segmenter import Segmenter
from segbench.words import clean_name, load_queries, load_templates

_LARGEST = 1e34
"""Largest score of a segmenter: 10,000 windows of it can be averaged (`segbench.ops`)."""


class Queries(NamedTuple):
    """What a model is asked for: rows of the text bank."""

    prompts: tuple[str, ...]
    """Q names."""
    owners: tuple[int, ...]
    """(Q,) label id that each stands for."""


def task_queries(task: Task, names: Sequence[str]) -> Queries:
    """What a model is asked for on a task.

    Args:
        task: its name list, suffixes and background policy are applied.
        names: K class names of the data set.

    Returns:
        A query for every name and synonym, in the order of classes, then the extra names. Where
        the task has a background policy the background has none, unless the task says so.

    Raises:
        FormatError: the task's list is of another length, the background label is not in it, or a
            class has several names under policy `threshold`.
    """
    chosen = load_queries(task.names) if task.names else tuple((name,) for name in names)
    if len(chosen) != len(names):
        raise FormatError(
            f"{task.id}: {task.names} has {len(chosen)} names, the data set has {len(names)}"
        )
    unasked = -1 if task.background == "none" or task.background_queries else task.background_label
    if task.background != "none" and task.background_label >= len(chosen):
        raise FormatError(
            f"{task.id}: background_label must be < {len(chosen)}, got {task.background_label}"
        )
    asked = [
        (clean_name(name, task.strip_suffixes), label)
        for label, synonyms in enumerate(chosen)
        for name in synonyms
        if label != unasked
    ]
    if task.background == "threshold" and len({label for _, label in asked}) < len(asked):
        raise FormatError(f"{task.id}: background threshold needs one name a class")
    asked += [(name, task.background_label) for name in task.extra_names]
    return Queries(tuple(name for name, _ in asked), tuple(label for _, label in asked))


def task_bank(
    segmenter: Segmenter, task: Task, names: Sequence[str], cache: Path | None = None
) -> Tensor:
    """(Q, D) text bank of a task, one float32 unit row for each of `task_queries`.

    Args:
        segmenter: the model.
        task: names, templates and averaging.
        names: K class names of the data set.
        cache: folder of banks, for models with a fingerprint.

    Raises:
        UsageError: a cache and a model without fingerprint.
    """
    prompts, templates = task_queries(task, names).prompts, load_templates(task.templates)

    def build() -> Tensor:
        return build_bank(
            segmenter.encode_text,
            prompts,
            templates,
            task.averaging,
            split_synonyms=task.split_synonyms,
        )

    if cache is None:
        return build()
    content = {
        "prompts": prompts,
        "templates": templates,
        "averaging": task.averaging,
        "split_synonyms": task.split_synonyms,
    }
    return cached_bank(cache, getattr(segmenter, "fingerprint", None), content, build)


@torch.inference_mode()
def predict_labels(
    segmenter: Segmenter,
    image: Tensor,
    bank: Tensor,
    task: Task,
    names: Sequence[str],
    *,
    owners: Tensor | None = None,
    truth: npt.NDArray[np.integer] | None = None,
) -> Tensor:
    """Segment one image.

    The image is resized, cut into windows, scored, merged, and the scores are resized once more to
    the image's own size before the best class is taken: scores are resized, never labels.

    Args:
        segmenter: the model.
        image: (3, H, W) float32 RGB in [0, 1], at the resolution of the labels.
        bank: (Q, D) rows of `task_bank`, on the same device.
        task: the protocol.
        names: K class names of the data set.
        owners: (Q,) int64 of `task_queries` on the same device, so that it is not made for every
            image.
        truth: (H, W) true label ids, -1 where ignored, of which a task with `regions` takes the
            masks that are named.

    Returns:
        (H, W) integer label ids on the same device; 0 in no region, where there are regions.

    Raises:
        ModelError: the segmenter's scores have a wrong shape or are not finite.
        ValueError: a task with `regions`, and no truth.
    """
    if owners is None:
        owners = torch.tensor(task_queries(task, names).owners, device=image.device)  # (Q,)

    def score(window: Tensor) -> Tensor:
        scores = checked_scores(segmenter.segment(window, bank), len(bank))  # (Q, h, w)
        if task.background == "threshold":
            return add_threshold_channel(scores, task.background_value, task.background_label)
        return scores

    size = (image.shape[1], image.shape[2])
    if task.regions != "none":
        if truth is None:
            raise ValueError(f"{task.id} names true masks: truth must be given")
        return name_regions(merged_scores(score, image, task), truth, task, owners)
    seen = shrunk(image, task)
    labels = decide(merged_scores(score, seen, task), (seen.shape[1], seen.shape[2]), task, owners)
    return enlarged(labels, size)


def shrunk(image: Tensor, task: Task) -> Tensor:
    """A picture of more pixels than the task looks at, shrunk; any other as it is."""
    height, width = image.shape[1:]
    if task.largest_px is None or height * width <= task.largest_px**2:
        return image
    return resize_image(image, resized_size(height, width, task.largest_px, task.largest_px))


def enlarged(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) label map at another size, by nearest neighbour."""
    if tuple(labels.shape) == size:
        return labels
    rows, columns = (
        torch.arange(new, device=labels.device) * old // new
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def merged_scores(score: Callable[[Tensor], Tensor], image: Tensor, task: Task) -> ScoreMap:
    """Scores of an image under a protocol: resized, cut into windows, scored.

    Args:
        score: (3, y, x) window -> (K, h, w) scores; called once a window, in their order.
        image: (3, H, W) float32 RGB in [0, 1].
        task: the protocol.

    Returns:
        (K, h, w), or the scores of windows that count by their mean where they overlap.
    """
    height, width = image.shape[1:]
    resized = resize_image(image, resized_size(height, width, task.short_px, task.long_px))
    if task.square_px is not None:
        resized = resize_image(resized, (task.square_px, task.square_px))
    if task.window_px is None or task.stride_px is None:
        return score(resized)
    return merge_windows(score, resized, task.window_px, task.stride_px)


def checked_scores(scores: Tensor, classes: int) -> Tensor:
    """Scores of a segmenter as float32.

    Raises:
        ModelError: not (K, h, w), not finite, or of a magnitude above 1e34.
    """
    if not isinstance(scores, Tensor) or scores.is_complex():
        raise ModelError(f"segment must give a tensor of scores, got {_kind(scores)}")
    if scores.ndim != 3 or len(scores) != classes or scores.numel() == 0:
        raise ModelError(f"segment must give ({classes}, h, w), got {tuple(scores.shape)}")
    scores = scores.float()
    if not is_within(scores, _LARGEST):
        raise ModelError("segment gave scores not finite or beyond 1e34; -1e30 does for -inf")
    return scores


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
