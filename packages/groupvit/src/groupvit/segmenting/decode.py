"""The decoder as a table: groups take classes, pixels take the class of their group.

What follows the choice of a pixel's group depends on the group alone, so a window is decoded by a
table of G rows instead of a score for every class at every pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit.segmenting.windows import Cut, Window, resize

GATE = 5
"""Classes of an image-level decision that a segment may take."""

_CHUNK = 1 << 20
"""Scores at full size that are held at once: bounds memory, and a CPU is slower in larger parts."""


def class_scores(image: Tensor, groups: Tensor, bank: Tensor, scale: Tensor) -> Tensor:
    """Score groups for classes, gated by what the whole image shows.

        Z = s F T^T
        S = softmax(Z | the 5 best classes of the image) * softmax(Z)

    Args:
        image: (B, D) projections of whole images a.
        groups: (B, G, D) projections of the groups F.
        bank: (K, D) unit rows T.
        scale: logit scale s.

    Returns:
        (B, G, K) float32 S: product of the plain softmax and of the softmax over the gated classes,
        not normalised again; 0 for a class that is not among the image's best 5. The lower class
        passes the gate if two tie.
    """
    logits = scale * F.normalize(groups.float(), dim=-1) @ bank.mT  # (B, G, K)
    whole = F.normalize(image.float(), dim=-1) @ bank.mT  # (B, K)
    order = whole.argsort(dim=1, descending=True, stable=True)  # (B, K)
    closed = torch.zeros_like(whole).scatter(1, order[:, GATE:], float("-inf"))  # (B, K)
    return (logits + closed[:, None]).softmax(dim=2) * logits.softmax(dim=2)


def with_background(table: Tensor, threshold: float) -> Tensor:
    """Put a background channel in front of the classes, group by group.

        thr = min(threshold, max S),  background = 1 if max_c S < thr else 0

    The largest S is that of the whole window, so at least one of its groups is no background.

    Args:
        table: (B, G, K) scores S.
        threshold: the largest score that still is background.

    Returns:
        (B, G, 1 + K), background first.
    """
    best = table.amax(dim=2, keepdim=True)  # (B, G, 1)
    limit = best.amax(dim=1, keepdim=True).clamp(max=threshold)  # (B, 1, 1)
    return torch.cat([(best < limit).to(table.dtype), table], dim=2)


def merge_labels(groups: Tensor, table: Tensor, cut: Cut) -> Tensor:
    """Merge the windows of a picture and give each of its pixels the best channel.

    The scores of the windows are added, divided by the number of windows at a place, resized
    bilinearly to the picture's own size, and the largest wins (the lowest channel, if several).

    Only channels that some group of some window scores are merged. That is exact: the others are 0
    everywhere, no score is negative, and where all are 0 the first channel wins, which is kept.

    Args:
        groups: (n, y, x) int32, the group of every pixel of a window.
        table: (n, G, C) scores >= 0 of every window.
        cut: the picture.

    Returns:
        (H, W) int32 channels.
    """
    active = (table != 0).any(dim=1).any(dim=0)  # (C,)
    active[0] = True
    channels = active.nonzero()[:, 0]  # (A,), in order
    return _best(_merge(groups, table[:, :, channels], cut), cut.full_size, channels.int())


def _merge(groups: Tensor, table: Tensor, cut: Cut) -> Tensor:
    """(A, H', W') mean scores of the windows at each place of the resized picture."""
    total = table.new_zeros(table.shape[2], *cut.size)  # (A, H', W')
    for window, group, rows in zip(cut.windows, groups, table, strict=True):
        scored = (rows != 0).any(dim=0).nonzero()[:, 0]  # (a,), at most the gate and background
        scores = rows.mT[scored].index_select(1, group.flatten())  # (a, y x)
        _part(total, window).index_add_(0, scored, scores.view(-1, *group.shape))
    return total if len(cut.windows) == 1 else total.div_(_coverage(cut, total.device))


def _coverage(cut: Cut, device: torch.device) -> Tensor:
    """(H', W') number of windows at each place, >= 1."""
    count = torch.zeros(cut.size, device=device)  # (H', W')
    for window in cut.windows:
        _part(count, window).add_(1)
    return count


def _part(x: Tensor, window: Window) -> Tensor:
    """The pixels of a window, a view of (..., H', W')."""
    return x[..., window.top : window.bottom, window.left : window.right]


def _best(scores: Tensor, size: tuple[int, int], channels: Tensor) -> Tensor:
    """(H, W) int32 channel of the largest resized score, some rows of the picture at a time."""
    step = max(_CHUNK // (len(scores) * size[1]), 1)
    labels = torch.empty(size, dtype=torch.int32, device=scores.device)  # (H, W)
    for top in range(0, size[0], step):
        rows = range(top, min(top + step, size[0]))
        best = resize(scores, size, rows).max(dim=0).indices  # (rows, W)
        labels[rows.start : rows.stop] = channels[best]
    return labels
