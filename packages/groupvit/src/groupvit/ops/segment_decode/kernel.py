"""Resize, compare and look up in Triton: four taps a group, one label written."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # pixels a program


@triton.jit
def _taps(pixel, ratio, last):
    """The two source places of a pixel and the weight of the second (half-pixel centres)."""
    source = tl.maximum((pixel.to(tl.float32) + 0.5) * ratio - 0.5, 0.0)
    low = tl.minimum(source.to(tl.int64), last)
    return low, tl.minimum(low + 1, last), source - low.to(tl.float32)


@triton.jit
def _upsample_argmax_kernel(
    maps_ptr, lookup_ptr, out_ptr, map_b, map_g, map_y, map_x,
    n_groups, map_height, map_width, height, width, ratio_y, ratio_x,
    BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = pixel < height * width
    top, bottom, down = _taps(pixel // width, ratio_y, map_height - 1)
    left, right, across = _taps(pixel % width, ratio_x, map_width - 1)
    corner = maps_ptr + b * map_b
    best = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
    owner = tl.zeros((BLOCK,), dtype=tl.int32)
    for g in range(n_groups):
        at = corner + g * map_g
        upper = (1.0 - across) * tl.load(at + top * map_y + left * map_x, mask=inside, other=0.0)
        upper += across * tl.load(at + top * map_y + right * map_x, mask=inside, other=0.0)
        lower = (1.0 - across) * tl.load(at + bottom * map_y + left * map_x, mask=inside, other=0.0)
        lower += across * tl.load(at + bottom * map_y + right * map_x, mask=inside, other=0.0)
        value = (1.0 - down) * upper + down * lower
        owner = tl.where(value > best, g, owner)  # strict: the lowest group keeps a tie
        best = tl.maximum(value, best)
    label = tl.load(lookup_ptr + b * n_groups + owner, mask=inside, other=0)
    tl.store(out_ptr + b * height * width + pixel, label, mask=inside)


def upsample_argmax_triton(maps: Tensor, lookup: Tensor, height: int, width: int) -> Tensor:
    """Same contract as `groupvit.ops.segment_decode.upsample_argmax`."""
    batch, groups, map_height, map_width = maps.shape
    out = torch.empty((batch, height, width), dtype=torch.int32, device=maps.device)
    if out.numel():
        with torch.cuda.device_of(maps):
            _upsample_argmax_kernel[(triton.cdiv(height * width, BLOCK), batch)](
                maps, lookup.contiguous(), out, *maps.stride(),
                groups, map_height, map_width, height, width,
                map_height / height, map_width / width, BLOCK=BLOCK,
            )  # fmt: skip
    return out
