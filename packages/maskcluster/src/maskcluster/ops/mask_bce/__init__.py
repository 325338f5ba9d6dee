"""Cross-entropy of resized logits against unions of masks, neither of them at full size."""

from typing import Any

import torch
from torch import Tensor

from maskcluster.ops.mask_bce.reference import mask_bce_gradient_reference, mask_bce_reference
from maskcluster.ops.mask_pool.bits import check_ids, check_masks

__all__ = ["mask_bce"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def mask_bce(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy of every covered pixel and cluster.

    With v = logits resized bilinearly to S x S (half-pixel centres, clamped at the edges), and
    t[b, i, p] = 1 where a mask of image b and cluster i covers pixel p, else 0 (PixelCLIP,
    arXiv:2409.19846, 3.3; masks overlap, so several clusters may be 1 at a pixel):

        total  = sum over pixels p under any mask of image b, and over i, of
                 max(v, 0) - t v + log(1 + exp(-|v|))
        pixels = number of such p, over all images

    The paper's mean is total / (pixels K), both summed over the ranks; with no covered pixel both
    are 0. The gradient is computed in the same pass as the total where one is asked for: it is as
    small as the logits, and backward only scales it. Sums are in float32 or wider; the result does
    not depend on the number of threads, and nothing is added atomically.

    Args:
        logits: (B, K, y, x) float32, bfloat16 or float16, finite, any strides. float64 is computed
            as it is, by the reference.
        packed: (M, S, S // 8) uint8, masks as `maskcluster.masks.packed` stores them, any M.
        owner: (M,) int64, image of each mask in [0, B), not decreasing.
        cluster: (M,) int64, cluster of each mask in [0, K).

    Returns:
        total: float32 scalar, float64 of float64 logits; its gradient has the type of the logits.
        pixels: int64 scalar, no gradient.

    Raises:
        ValueError: shapes, types or devices disagree, S is not a multiple of 32, or an owner or
            cluster is out of range or order (on a GPU a device assertion, so as not to wait).
        RuntimeError: a second derivative is asked for.
    """
    want_gradient = torch.is_grad_enabled() and logits.requires_grad
    total, pixels, _ = _mask_bce(logits, packed, owner, cluster, want_gradient)
    return total, pixels


@torch.library.custom_op("maskcluster::mask_bce", mutates_args=(), device_types="cuda")
def _mask_bce(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor, want_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from maskcluster.ops.mask_bce.kernel import mask_bce_triton

    _check(logits, packed, owner, cluster)
    compute = _reference if logits.dtype == torch.float64 else mask_bce_triton
    return compute(logits, packed, owner, cluster, want_gradient)


@_mask_bce.register_kernel("cpu")
def _on_cpu(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor, want_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from maskcluster.ops.mask_bce.cpu import mask_bce_cpu

    _check(logits, packed, owner, cluster)
    compute = _reference if logits.dtype == torch.float64 else mask_bce_cpu
    return compute(logits, packed, owner, cluster, want_gradient)


@_mask_bce.register_fake
def _shapes(
    logits: Tensor, _: Tensor, __: Tensor, ___: Tensor, want_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    total = logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32))
    shape = logits.shape if want_gradient else (0,)
    return total, logits.new_empty((), dtype=torch.int64), total.new_empty(shape)


def _reference(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor, want_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    total, pixels = mask_bce_reference(logits, packed, owner, cluster)
    if not want_gradient:
        return total, pixels, logits.new_empty((0,))
    return total, pixels, mask_bce_gradient_reference(logits, packed, owner, cluster)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, pixels, gradient = output
    ctx.mark_non_differentiable(pixels, gradient)
    ctx.set_materialize_grads(False)
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, d_total: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    if d_total is None:
        return None, None, None, None, None
    return mask_bce_backward(d_total, gradient, ctx.dtype), None, None, None, None


_mask_bce.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("maskcluster::mask_bce_backward", mutates_args=())
def mask_bce_backward(d_total: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale the gradient that forward computed. An op of its own, as it has no derivative.

    Args:
        d_total: scalar, gradient of the total.
        gradient: (B, K, y, x) of the total's type, gradient of the total by the logits.
        dtype: of the logits.

    Returns:
        (B, K, y, x) of that type.
    """
    return (d_total * gradient).to(dtype)


@mask_bce_backward.register_fake
def _backward_shape(_: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(gradient, dtype=dtype)


def _check(logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor) -> None:
    if logits.ndim != 4 or logits.dtype not in _FLOATS:
        kind = f"{tuple(logits.shape)} {logits.dtype}"
        raise ValueError(f"logits must be (B, K, y, x) floats, got {kind}")
    if 0 in logits.shape:
        raise ValueError(f"logits must not be empty, got {tuple(logits.shape)}")
    if logits.device != packed.device:
        raise ValueError(f"logits are on {logits.device}, packed is on {packed.device}")
    check_masks(packed, owner, logits.shape[0])
    check_ids("cluster", cluster, packed, logits.shape[1])
