"""How a pixel becomes background, each rule by name.

none            every pixel gets a class with a prompt
threshold       background scores 1 where no class is sure, window by window (GroupViT, CoCu)
constant        a constant channel joins the argmax (TCL)
softmax_floor   background where the winner's probability is low (SCLIP, NACLIP)
"""

import torch
from torch import Tensor

from segbench.protocols.inference import (
    ScoreMap,
    WindowScores,
    resize_argmax,
    resize_scores,
    take_classes,
)
from segbench.protocols.task import Task

_AT_ONCE = 8
"""Queries whose scores are held at full size at a time, for a sum over all of them."""


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


def decide(scores: ScoreMap, size: tuple[int, int], task: Task, owners: Tensor) -> Tensor:
    """Merge scores, resize them to the labels' resolution and pick a label id for every pixel.

    Args:
        scores: of every of the Q queries; with policy `threshold` of one more, the background.
        size: (H, W) of the labels.
        task: gives the background policy.
        owners: (Q,) int64, the label id that a query stands for.

    Returns:
        (H, W) integer label ids. The first index wins a tie; background counts at its own index.
    """
    if task.background == "none":
        winner = resize_argmax(scores, size)[1]
        in_order = torch.arange(len(owners), device=owners.device)
        return winner if torch.equal(owners, in_order) else owners[winner]
    if task.background == "threshold":
        return resize_argmax(scores, size)[1]  # one query a class, so the channel is the label id
    sure, labels, loses_tie = rank(scores, size, task, owners)
    value = task.background_value
    is_background = (sure < value) | ((sure == value) & loses_tie)
    return torch.where(is_background, task.background_label, labels)


def rank(
    scores: ScoreMap, size: tuple[int, int], task: Task, owners: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What decides about background under `constant` and `softmax_floor`, before the threshold.

    Args:
        scores: of every of the Q queries.
        size: (H, W) of the labels.
        task: gives the policy.
        owners: (Q,) int64, the label id that a query stands for.

    Returns:
        sure: (H, W) float32; what is below the policy's value is background.
        labels: (H, W) int64 label ids of the best queries.
        loses_tie: (H, W) bool, whether background wins where `sure` is the value itself.
    """
    peak, winner = resize_argmax(scores, size)  # (H, W), (H, W)
    best = peak
    if task.area_floor:
        kept = _large_enough(owners[winner], owners, task)  # (Q,)
        best, place = resize_argmax(take_classes(scores, kept), size)
        winner = kept.nonzero()[:, 0][place]
    labels = owners[winner]
    if task.background == "constant":
        return best, labels, labels >= task.background_label
    total = _sum_of_exponentials(scores, peak, task.background_scale)  # (H, W), over all queries
    sure = (task.background_scale * best - task.background_scale * peak).exp() / total
    return sure, labels, torch.zeros_like(labels, dtype=torch.bool)


def _sum_of_exponentials(scores: ScoreMap, peak: Tensor, scale: float) -> Tensor:
    """(H, W) sum over queries of exp(scale * (score - peak)), a few queries at a time.

    Equals the denominator of a softmax over all Q at full size up to rounding.
    """
    size = (peak.shape[0], peak.shape[1])
    queries = scores.scores.shape[1] if isinstance(scores, WindowScores) else len(scores)
    total = torch.zeros_like(peak)  # (H, W)
    for first in range(0, queries, _AT_ONCE):
        part = resize_scores(take_classes(scores, slice(first, first + _AT_ONCE)), size)
        total += (scale * part - scale * peak).exp().sum(dim=0)
    return total


def _large_enough(labels: Tensor, owners: Tensor, task: Task) -> Tensor:
    """(Q,) whether a query stands for background or a class of enough of the foreground."""
    areas = labels.flatten().bincount(
        minlength=max(int(owners.max()), task.background_label) + 1
    )  # (K,)
    foreground = areas.sum() - areas[task.background_label]
    large = areas > task.area_floor * foreground  # (K,)
    large[task.background_label] = True
    kept: Tensor = large[owners]
    if not bool(kept.any()):  # no class is that large: then none is left out
        return torch.ones_like(kept)
    return kept
