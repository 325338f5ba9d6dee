"""From low-resolution class scores to counts of (true, predicted) pixels, without full-size scores.

The two functions share one core: it resizes class scores bilinearly to the labels' resolution and
takes the best class of every pixel, but compares only classes that can win there.
"""

import numpy as np
import torch
from torch import Tensor

from segbench.ops.count_argmax.reference import resize_argmax_reference

__all__ = [
    "LARGEST",
    "check_range",
    "check_scores",
    "confusion_counts",
    "count_argmax",
    "is_within",
    "resize_argmax",
]

LARGEST = 1e38
"""Largest magnitude of a score: four of them are averaged in float32, which ends at 3.4e38."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def count_argmax(
    scores: Tensor, labels: Tensor, classes: int, *, want_labels: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Resize scores to the labels' size, take the best class, count (true, predicted) pixels.

        predicted = argmax over classes of resize(scores), as of `resize_argmax`
        confusion[i, j] = number of pixels with labels = i and predicted = j

    Args:
        scores: (C, h, w) float32, bfloat16 or float16, any strides, finite, C = `classes`.
        labels: (H, W) integers in [-1, C), -1 is ignored; on the device of `scores`.
        classes: C >= 1, the K of a confusion matrix.
        want_labels: whether to return the prediction too.

    Returns:
        confusion: (K, K) int64, true class in rows; exact.
        predicted: (H, W) int32, or None. Neither has a gradient.

    Raises:
        ValueError: shapes, types or devices disagree, there is no class or pixel, a label is out of
            range, or a score is NaN or larger than 1e38. The last two are a device assertion on a
            GPU, so as not to wait for it, and scores are looked at there where a pixel depends on
            them.
    """
    confusion, predicted = _count_argmax(scores, labels, classes, want_labels)
    return confusion, predicted if want_labels else None


def resize_argmax(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize scores bilinearly (half-pixel centres), and give the best score and its class.

    In float32, for places (y, x) of a pixel between (t, l) and (b, r) with weights v and u:

        row(y) = s[y, l] (1 - u) + s[y, r] u
        value  = row(t) (1 - v) + row(b) v
        best   = max over classes of value, winner = the lowest class that has it

    On an x86-64 CPU both are, bit for bit and ties included, those of `interpolate(...,
    mode="bilinear", align_corners=False)` of the contiguous float32 scores followed by `max`: the
    same steps in the same order, with the first product and the sum rounded once where ATen's
    kernels for the processor do so, twice where they do not. On other CPUs they are rounded once,
    and ATen may differ in the last bit. For H + W <= 128, for scores of a single place, and for
    three classes in one thread, ATen takes other kernels, one of whose rounding depends on a
    class's index; there this calls ATen itself.

    On a GPU the same steps are taken at every size, rounded once. ATen's CUDA kernel may differ in
    the last bits of `best`, and so in `winner` where two scores are that near.

    Args:
        scores: (C, h, w) float32, bfloat16 or float16, any strides, finite.
        size: (H, W), both at least 1.

    Returns:
        best: (H, W) float32.
        winner: (H, W) int32 in [0, C). Neither has a gradient.

    Raises:
        ValueError: as `count_argmax`.
    """
    best, winner = _resize_argmax(scores, *size)
    return best, winner


def confusion_counts(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count (true, predicted) pairs on a CPU, in one pass.

    Args:
        labels: integers of any shape in [-1, K), -1 is ignored.
        predicted: integers of the same shape; in [0, K) where `labels` is not ignored.
        classes: K.

    Returns:
        (K, K) int64, true class in rows.

    Raises:
        ValueError: shapes differ, a tensor is not on the CPU, or a value is out of range.
    """
    from segbench.ops.count_argmax.cpu import count_pairs_cpu

    if labels.shape != predicted.shape:
        shapes = f"{tuple(labels.shape)} and {tuple(predicted.shape)}"
        raise ValueError(f"labels and predicted must have one shape, got {shapes}")
    if labels.is_cuda or predicted.is_cuda:
        raise ValueError(f"both must be on the CPU, got {labels.device} and {predicted.device}")
    flat = labels.reshape(-1), predicted.reshape(-1)
    counts = count_pairs_cpu(flat[0].numpy(), flat[1].numpy(), classes)
    if counts is None:
        scored = flat[0].long() != -1
        check_range(flat[0][scored].long(), flat[1][scored].long(), classes)
    assert counts is not None  # or the range would have been refused
    return torch.from_numpy(counts)


def is_within(scores: Tensor, limit: float) -> bool:
    """Whether no score is NaN or of a larger magnitude than `limit`; waits for a GPU."""
    if scores.dtype == torch.float32 and scores.device.type == "cpu" and scores.is_contiguous():
        from segbench.ops.count_argmax.cpu import all_within

        # in one thread: PyTorch's wait for each other, while one of the cores reads the next image
        return all_within(scores.detach().reshape(-1).numpy(), np.float32(limit))
    low, high = (float(end) for end in scores.aminmax())  # NaN if any is
    return low >= -limit and high <= limit


def check_scores(scores: Tensor, limit: float) -> None:
    """Refuse scores that cannot be averaged in float32.

    Raises:
        ValueError: one is NaN or of a larger magnitude than `limit`.
    """
    if not is_within(scores, limit):
        low, high = (float(end) for end in scores.aminmax())
        raise ValueError(
            f"scores must be in [{-limit:g}, {limit:g}], -1e30 is low enough for -inf; "
            f"got {low} to {high}"
        )


def check_range(labels: Tensor, predicted: Tensor, classes: int) -> None:
    """Refuse (n,) pairs of which one is no class.

    Raises:
        ValueError: a value is not in [0, `classes`).
    """
    for name, values in (("labels", labels), ("predictions", predicted)):
        if len(values):
            low, high = (int(end) for end in values.aminmax())
            if low < 0 or high >= classes:
                raise ValueError(f"{name} must be in [0, {classes}), got {low} to {high}")


@torch.library.custom_op("segbench::resize_argmax", mutates_args=(), device_types="cuda")
def _resize_argmax(scores: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    from segbench.ops.count_argmax.kernel import resize_argmax_triton

    _check_shapes(scores, height, width)
    return resize_argmax_triton(scores, (height, width))


@_resize_argmax.register_kernel("cpu")
def _resize_on_cpu(scores: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    _check_shapes(scores, height, width)
    check_scores(scores, LARGEST)
    return _winners(scores, (height, width))


@_resize_argmax.register_fake
def _resized_shapes(scores: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    best = scores.new_empty((height, width), dtype=torch.float32)
    return best, best.new_empty((height, width), dtype=torch.int32)


@torch.library.custom_op("segbench::count_argmax", mutates_args=(), device_types="cuda")
def _count_argmax(
    scores: Tensor, labels: Tensor, classes: int, want_labels: bool
) -> tuple[Tensor, Tensor]:
    from segbench.ops.count_argmax.kernel import count_argmax_triton

    _check_pair(scores, labels, classes)
    return count_argmax_triton(scores, labels, want_labels)


@_count_argmax.register_kernel("cpu")
def _count_on_cpu(
    scores: Tensor, labels: Tensor, classes: int, want_labels: bool
) -> tuple[Tensor, Tensor]:
    from segbench.ops.count_argmax.cpu import count_pairs_cpu

    _check_pair(scores, labels, classes)
    check_scores(scores, LARGEST)
    _, predicted = _winners(scores, (labels.shape[0], labels.shape[1]))
    counts = count_pairs_cpu(labels.reshape(-1).numpy(), predicted.reshape(-1).numpy(), classes)
    if counts is None:
        low, high = (int(end) for end in labels.aminmax())
        raise ValueError(f"labels must be in [-1, {classes}), got {low} to {high}")
    return torch.from_numpy(counts), predicted if want_labels else predicted.new_empty((0, 0))


@_count_argmax.register_fake
def _counted_shapes(
    scores: Tensor, labels: Tensor, classes: int, want_labels: bool
) -> tuple[Tensor, Tensor]:
    counts = labels.new_empty((classes, classes), dtype=torch.int64)
    size = labels.shape if want_labels else (0, 0)
    return counts, scores.new_empty(size, dtype=torch.int32)


def _winners(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Best score and its class of every pixel on a CPU; arguments are checked."""
    from segbench.ops.count_argmax.cpu import aten_differs, resize_argmax_cpu

    if aten_differs(len(scores), scores[0].numel(), size):
        return resize_argmax_reference(scores, size)
    best, winner = resize_argmax_cpu(scores.detach().float().contiguous().numpy(), size)
    return torch.from_numpy(best), torch.from_numpy(winner)


def _check_pair(scores: Tensor, labels: Tensor, classes: int) -> None:
    if labels.ndim != 2 or labels.dtype not in _INTEGERS:
        kind = f"{tuple(labels.shape)} {labels.dtype}"
        raise ValueError(f"labels must be (H, W) integers, got {kind}")
    if labels.device != scores.device:
        raise ValueError(f"scores are on {scores.device}, labels on {labels.device}")
    if scores.ndim == 3 and len(scores) != classes:
        raise ValueError(f"scores must be ({classes}, h, w), got {tuple(scores.shape)}")
    _check_shapes(scores, *labels.shape)


def _check_shapes(scores: Tensor, height: int, width: int) -> None:
    if scores.ndim != 3 or scores.dtype not in _FLOATS:
        kind = f"{tuple(scores.shape)} {scores.dtype}"
        raise ValueError(f"scores must be (C, h, w) float32, bfloat16 or float16, got {kind}")
    if 0 in scores.shape or height < 1 or width < 1:
        raise ValueError(f"no class or no pixel: {tuple(scores.shape)} to {height} x {width}")
