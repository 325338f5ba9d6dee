"""The largest product of every anchor with each group of 64 pool rows."""

import functools
import importlib.util
import logging

import torch
from torch import Tensor

from conceptarchive.search.ops.group_max.reference import group_max as reference

__all__ = ["GROUP", "group_max"]

log = logging.getLogger(__name__)

GROUP = 64  # consecutive pool rows
REFERENCE_ROWS = 8192  # pool rows whose products the reference stores at a time on a GPU


def group_max(anchors: Tensor, pool: Tensor, drop: Tensor) -> Tensor:
    """Give the maximum of `anchors @ pool.T` over every group of 64 consecutive pool rows.

        out[a, g] = max over rows r of group g, r != drop[a], of <anchors[a], pool[r]>

    The R largest products of an anchor lie in the R groups of largest maxima (were one outside,
    R groups would each hold a larger one), so this is all that a search need store: 64 times less
    than the products. On a GPU float16 and bfloat16 rows are multiplied by a Triton kernel;
    float32, and any type where Triton is absent, by the library's product, part by part. Sums are
    float32. There is no gradient.

    Args:
        anchors: (A, D) float16, bfloat16 or float32, any strides.
        pool: (P, D) of the same type and device.
        drop: (A,) int64 row of `pool` that is left out for each anchor; outside 0..P-1 for none.

    Returns:
        (A, ceil(P / 64)) float32; -inf where a group holds nothing but the dropped row.

    Raises:
        ValueError: shapes or types disagree.
    """
    if anchors.ndim != 2 or pool.ndim != 2 or anchors.shape[1] != pool.shape[1]:
        shapes = f"{tuple(anchors.shape)} and {tuple(pool.shape)}"
        raise ValueError(f"anchors and pool must be (A, D) and (P, D), got {shapes}")
    if anchors.dtype != pool.dtype or not anchors.dtype.is_floating_point:
        raise ValueError(f"rows must be of one float type, got {anchors.dtype} and {pool.dtype}")
    if drop.shape != (len(anchors),) or drop.dtype != torch.int64:
        raise ValueError(f"drop must be ({len(anchors)},) int64, got {drop.shape} {drop.dtype}")
    maxima: Tensor = _group_max(anchors, pool, drop)
    return maxima


@torch.library.custom_op("conceptarchive::group_max", mutates_args=(), device_types="cpu")
def _group_max(anchors: Tensor, pool: Tensor, drop: Tensor) -> Tensor:
    return reference(anchors, pool, drop, GROUP)


@_group_max.register_kernel("cuda")
def _on_cuda(anchors: Tensor, pool: Tensor, drop: Tensor) -> Tensor:
    if anchors.dtype == torch.float32 or not _has_triton():
        parts = [
            reference(anchors, pool[at : at + REFERENCE_ROWS], drop - at, GROUP)
            for at in range(0, len(pool), REFERENCE_ROWS)
        ]
        return torch.cat(parts, dim=1) if parts else anchors.new_empty((len(anchors), 0)).float()
    from conceptarchive.search.ops.group_max.kernel import launch

    return launch(anchors, pool, drop)


@_group_max.register_fake
def _shape(anchors: Tensor, pool: Tensor, drop: Tensor) -> Tensor:  # noqa: ARG001  # the schema's
    groups = (pool.shape[0] + GROUP - 1) // GROUP
    return anchors.new_empty((anchors.shape[0], groups), dtype=torch.float32)


@functools.cache
def _has_triton() -> bool:
    """Whether the kernel can be used; says so once where it cannot."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        log.warning("triton is not installed: neighbours are searched with plain products, slower")
    return found
