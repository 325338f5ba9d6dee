"""Resize, compare and count with scores of all classes stored at full size."""

import torch.nn.functional as F
from torch import Tensor


def resize_argmax_reference(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Same contract as `segbench.ops.count_argmax.resize_argmax`."""
    small = scores.float().contiguous()  # (C, h, w), the layout decides which kernel ATen takes
    full = F.interpolate(small[None], size, mode="bilinear", align_corners=False)[0]  # (C, H, W)
    best, winner = full.max(dim=0)  # (H, W), (H, W); several times as fast as argmax on a CPU
    return best, winner.int()


def count_argmax_reference(scores: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Same contract as `segbench.ops.count_argmax.count_argmax` with `want_labels`."""
    _, predicted = resize_argmax_reference(scores, (labels.shape[0], labels.shape[1]))
    scored = labels >= 0  # (H, W)
    keys = labels[scored].long() * classes + predicted[scored]  # (n,)
    return keys.bincount(minlength=classes**2).view(classes, classes), predicted
