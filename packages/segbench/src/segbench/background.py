"""How a pixel becomes background, each rule by name.

none            every pixel gets a class with a prompt
threshold       background scores 1 where no class is sure, window by window (GroupViT, CoCu)
constant        a constant channel joins the argmax (TCL)
softmax_floor   background where the winner's probability is low (SCLIP, NACLIP)
"""

import torch
from torch import Tensor

from segbench.inference import resize_argmax, resize_scores
from segbench.task import Task


def add_threshold_channel(scores: Tensor, threshold: float, label: int = 0) -> Tensor:
    """Add a background channel to the scores of one window.

    GroupViT (NVlabs/GroupViT), with best the largest foreground score at a place:

        background = 1 where best < min(threshold, max of best over the window), else 0

    The cap keeps the surest place of a window foreground, however unsure it is. The rule acts
    before windows are merged and at the resolution of the segmenter, so it does not commute with
    resizing. Scores are meant to be probabilities.

    Args:
        scores: (K - 1, h, w) of the classes with a prompt.
        threshold: in [0, 1] for probabilities.
        label: where the new channel goes, 0 puts it first.

    Returns:
        (K, h, w).
    """
    best = scores.amax(dim=0)  # (h, w)
    background = (best < best.max().clamp(max=threshold)).to(scores.dtype)  # (h, w)
    return torch.cat([scores[:label], background[None], scores[label:]])


def insert_background(winner: Tensor, is_background: Tensor, label: int) -> Tensor:
    """Turn winners among the K - 1 classes with a prompt into label ids among K.

    Args:
        winner: (H, W) int64 in [0, K - 1).
        is_background: (H, W) bool.
        label: label id of the background.

    Returns:
        (H, W) int64 in [0, K).
    """
    shifted = winner + (winner >= label).to(winner.dtype)
    return torch.where(is_background, label, shifted)


def decide(scores: Tensor, size: tuple[int, int], task: Task) -> Tensor:
    """Resize merged scores to the labels' resolution and pick a label id for every pixel.

    Args:
        scores: (K, h, w); with policies `constant` and `softmax_floor` (K - 1, h, w).
        size: (H, W) of the labels.
        task: gives the background policy.

    Returns:
        (H, W) int64. The first index wins a tie; background counts at its own index.
    """
    if task.background in ("none", "threshold"):
        return resize_argmax(scores, size)[1]
    sure, winner, loses_tie = rank(scores, size, task)
    value = task.background_value
    is_background = (sure < value) | ((sure == value) & loses_tie)
    return insert_background(winner, is_background, task.background_label)


def rank(scores: Tensor, size: tuple[int, int], task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """What decides about background under `constant` and `softmax_floor`, before the threshold.

    Args:
        scores: (K - 1, h, w) merged scores of the classes with a prompt.
        size: (H, W) of the labels.
        task: gives the policy.

    Returns:
        sure: (H, W) float32; what is below the policy's value is background.
        winner: (H, W) int64 in [0, K - 1).
        loses_tie: (H, W) bool, whether background wins where `sure` is the value itself.
    """
    best, winner = resize_argmax(scores, size)  # (H, W), (H, W)
    if task.background == "constant":
        return best, winner, winner >= task.background_label
    logits = task.background_scale * resize_scores(scores, size)  # (K - 1, H, W)
    sure = logits.softmax(dim=0).amax(dim=0)  # (H, W)
    return sure, winner, torch.zeros_like(winner, dtype=torch.bool)
