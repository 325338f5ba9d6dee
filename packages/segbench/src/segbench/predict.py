"""From an image to a label map, under the protocol of a task."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segbench.background import add_threshold_channel, decide
from segbench.bank import build_bank, clean_name, load_names, load_templates
from segbench.errors import FormatError
from segbench.inference import merge_windows, resize_image, resized_size
from segbench.segmenter import Segmenter
from segbench.task import Task


def prompt_names(task: Task, names: Sequence[str]) -> list[str]:
    """Names that are given to the model, by row of the text bank.

    Args:
        task: its name list, suffixes and background policy are applied.
        names: K class names of the data set.

    Returns:
        K names, or K - 1 where the task has a background policy: the background has no prompt.

    Raises:
        FormatError: the task's list is of another length, or the background label is not in it.
    """
    chosen = load_names(task.names) if task.names else tuple(names)
    if len(chosen) != len(names):
        raise FormatError(
            f"{task.id}: {task.names} has {len(chosen)} names, the data set has {len(names)}"
        )
    cleaned = [clean_name(name, task.strip_suffixes) for name in chosen]
    if task.background == "none":
        return cleaned
    if task.background_label >= len(cleaned):
        raise FormatError(
            f"{task.id}: background_label must be < {len(cleaned)}, got {task.background_label}"
        )
    return cleaned[: task.background_label] + cleaned[task.background_label + 1 :]


def task_bank(segmenter: Segmenter, task: Task, names: Sequence[str]) -> Tensor:
    """Text bank of a task, one float32 unit row for each of `prompt_names`."""
    return build_bank(
        segmenter.encode_text,
        prompt_names(task, names),
        load_templates(task.templates),
        task.averaging,
        split_synonyms=task.split_synonyms,
    )


@torch.inference_mode()
def predict_labels(segmenter: Segmenter, image: Tensor, bank: Tensor, task: Task) -> Tensor:
    """Segment one image.

    The image is resized, cut into windows, scored, merged, and the scores are resized once more to
    the image's own size before the best class is taken: scores are resized, never labels.

    Args:
        segmenter: the model.
        image: (3, H, W) float32 RGB in [0, 1], at the resolution of the labels.
        bank: rows of `task_bank`, on the same device.
        task: the protocol.

    Returns:
        (H, W) int64 label ids on the same device.

    Raises:
        ValueError: the segmenter's scores have a wrong shape or are not finite.
    """
    height, width = image.shape[1:]

    def score(window: Tensor) -> Tensor:
        scores = checked_scores(segmenter.segment(window, bank), len(bank))  # (K, h, w)
        if task.background == "threshold":
            return add_threshold_channel(scores, task.background_value, task.background_label)
        return scores

    return decide(merged_scores(score, image, task), (height, width), task)


def merged_scores(score: Callable[[Tensor], Tensor], image: Tensor, task: Task) -> Tensor:
    """Scores of an image under a protocol: resized, cut into windows, scored, merged.

    Args:
        score: (3, y, x) window -> (K, h, w) scores; called once a window, in their order.
        image: (3, H, W) float32 RGB in [0, 1].
        task: the protocol.

    Returns:
        (K, h, w), or at the size of the resized image where there are windows.
    """
    height, width = image.shape[1:]
    resized = resize_image(image, resized_size(height, width, task.short_px, task.long_px))
    if task.window_px is None or task.stride_px is None:
        return score(resized)
    return merge_windows(score, resized, task.window_px, task.stride_px)


def checked_scores(scores: Tensor, classes: int) -> Tensor:
    """Scores of a segmenter as float32.

    Raises:
        ValueError: not (K, h, w), or not finite.
    """
    if scores.ndim != 3 or len(scores) != classes:
        raise ValueError(f"segment must give ({classes}, h, w), got {tuple(scores.shape)}")
    if not bool(scores.isfinite().all()):
        raise ValueError("segment gave scores that are not finite; use a low number for -inf")
    return scores.float()
