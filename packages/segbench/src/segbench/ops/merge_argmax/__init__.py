"""From low-resolution class scores of sliding windows to the best class of every pixel.

Nothing is stored at full size but the answer: classes are compared tile by tile, and only those
that can win somewhere in a tile.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from segbench.ops.count_argmax import LARGEST, check_scores
from segbench.ops.merge_argmax.reference import Place, merge_argmax_reference

__all__ = ["merge_argmax"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def merge_argmax(
    windows: Tensor,
    places: Sequence[Place],
    resized_size: tuple[int, int],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Average windows where they overlap, resize, and give the best score and its class.

    In float32, for a pixel of the resized image that windows 1 to m cover, and a pixel of the
    labels:

        merged = (resize(window 1) + ... + resize(window m)) / m, added in the order of windows
        value  = resize(merged)
        best   = max over classes of value, winner = the lowest class that has it

    Both resizes are bilinear, as of `segbench.ops.count_argmax.resize_argmax`; on an x86-64 CPU
    the answer is that of `F.interpolate` of every window, sum, quotient, `F.interpolate` and `max`
    bit for bit, ties included. That needs memory for the low-resolution scores, twice, and a tile
    of pixels a thread; where `F.interpolate` takes its other kernel (sides of a window or of the
    labels that sum to 128 or less, windows of one place, three classes in one thread) this calls
    it, and stores full-size scores. On a GPU the same steps are taken at every size; ATen's may
    differ in the last bit.

    Args:
        windows: (n, C, h, w) float32, bfloat16 or float16, any strides, finite, magnitudes at most
            1e38 / n.
        places: n rectangles (top, left, bottom, right) of one size, half-open, in pixels of the
            resized image, which they cover.
        resized_size: (H', W') of the image that the windows were cut from.
        size: (H, W) of the labels.

    Returns:
        best: (H, W) float32.
        winner: (H, W) int32 in [0, C). Neither has a gradient.

    Raises:
        ValueError: shapes or types disagree, a place lies outside, a pixel is not covered, or a
            score is NaN or too large. The last is a device assertion on a GPU, so as not to wait
            for it, and scores are looked at there where a pixel depends on them.
    """
    flat = [edge for place in places for edge in place]
    best, winner = _merge_argmax(windows, flat, list(resized_size), list(size))
    return best, winner


@torch.library.custom_op("segbench::merge_argmax", mutates_args=(), device_types="cuda")
def _merge_argmax(
    windows: Tensor, places: Sequence[int], resized_size: Sequence[int], size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    from segbench.ops.merge_argmax.kernel import merge_argmax_triton

    geometry = _checked(windows, places, resized_size, size)
    return merge_argmax_triton(windows, *geometry)


@_merge_argmax.register_kernel("cpu")
def _merge_on_cpu(
    windows: Tensor, places: Sequence[int], resized_size: Sequence[int], size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    from segbench.ops.count_argmax.cpu import aten_differs
    from segbench.ops.merge_argmax.cpu import merge_argmax_cpu

    where, resized, full = _checked(windows, places, resized_size, size)
    check_scores(windows, LARGEST / len(windows))
    top, left, bottom, right = where[0]
    _, classes, height, width = windows.shape
    resizes = (
        (height * width, (bottom - top, right - left)),
        (resized[0] * resized[1], full),
    )
    if any(aten_differs(classes, *resize) for resize in resizes):
        return merge_argmax_reference(windows, where, resized, full)
    scores = windows.detach().float().contiguous().numpy()
    best, winner = merge_argmax_cpu(scores, where, resized, full)
    return torch.from_numpy(best), torch.from_numpy(winner)


@_merge_argmax.register_fake
def _merged_shapes(
    windows: Tensor,
    places: Sequence[int],  # noqa: ARG001  # the signature of the op
    resized_size: Sequence[int],  # noqa: ARG001
    size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    best = windows.new_empty(tuple(size), dtype=torch.float32)
    return best, best.new_empty(tuple(size), dtype=torch.int32)


def _checked(
    windows: Tensor, flat: Sequence[int], resized_size: Sequence[int], size: Sequence[int]
) -> tuple[list[Place], tuple[int, int], tuple[int, int]]:
    """The places, (H', W') and (H, W), if all agree."""
    if windows.ndim != 4 or windows.dtype not in _FLOATS:
        kind = f"{tuple(windows.shape)} {windows.dtype}"
        raise ValueError(f"windows must be (n, C, h, w) float32, bfloat16 or float16, got {kind}")
    (rows, columns), (height, width) = resized_size, size
    if 0 in windows.shape or min(rows, columns, height, width) < 1:
        raise ValueError(
            f"no window, class or pixel: {tuple(windows.shape)} to {rows} x {columns} to "
            f"{height} x {width}"
        )
    places = list(zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True))
    _check_places(tuple(places), len(windows), rows, columns)
    return places, (rows, columns), (height, width)


@lru_cache(maxsize=64)  # refused ones are not kept
def _check_places(places: tuple[Place, ...], windows: int, rows: int, columns: int) -> None:
    if len(places) != windows:
        raise ValueError(f"{windows} windows need as many places, got {len(places)}")
    sizes = {(bottom - top, right - left) for top, left, bottom, right in places}
    if len(sizes) > 1 or min(*sizes.copy().pop()) < 1:
        raise ValueError(f"places must be of one size, got {sorted(sizes)}")
    covered = torch.zeros(rows, columns, dtype=torch.bool)  # (H', W')
    for top, left, bottom, right in places:
        if top < 0 or left < 0 or bottom > rows or right > columns:
            place = top, left, bottom, right
            raise ValueError(f"places must lie in {rows} x {columns}, got {place}")
        covered[top:bottom, left:right] = True
    if not bool(covered.all()):
        raise ValueError(f"{int((~covered).sum())} pixels are covered by no window")
