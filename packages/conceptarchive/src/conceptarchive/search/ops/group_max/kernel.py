"""Group maxima in Triton: products stay in registers, 1/64 of them is written."""

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 64
ANCHORS, POOL, DEPTH = 128, 256, 64  # of a tile
STRIPE = 8  # tiles of anchors that share pool rows in the cache
WARPS, STAGES = 8, 3


@triton.jit  # type: ignore[untyped-decorator]  # triton is untyped
def group_max_kernel(  # type: ignore[no-untyped-def]  # its arguments are pointers and tl.constexpr
    A, P, DROP, OUT, n, m, d, groups,
    a_row, a_col, p_row, p_col, o_row,
    BA: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr, G: tl.constexpr, STRIPES: tl.constexpr,
):  # fmt: skip
    """One (BA, BP) tile of products, of which the maximum of each G columns is stored."""
    tiles_a, tiles_p = tl.cdiv(n, BA), tl.cdiv(m, BP)
    program = tl.program_id(0)
    stripe = program // (STRIPES * tiles_p)
    inside = program % (STRIPES * tiles_p)
    height = tl.minimum(tiles_a - stripe * STRIPES, STRIPES)
    tile_a = (stripe * STRIPES + inside % height).to(tl.int64)
    tile_p = (inside // height).to(tl.int64)

    row = tile_a * BA + tl.arange(0, BA)  # (BA,)
    col = tile_p * BP + tl.arange(0, BP)  # (BP,)
    depth = tl.arange(0, BD).to(tl.int64)  # (BD,)
    left = A + row[:, None] * a_row + depth[None, :] * a_col  # (BA, BD)
    right = P + col[None, :] * p_row + depth[:, None] * p_col  # (BD, BP)
    total = tl.zeros((BA, BP), dtype=tl.float32)
    for at in range(0, d, BD):
        here = at + depth < d
        x = tl.load(left, mask=(row < n)[:, None] & here[None, :], other=0.0)
        y = tl.load(right, mask=here[:, None] & (col < m)[None, :], other=0.0)
        total = tl.dot(x, y, total, input_precision="ieee")
        left += BD * a_col
        right += BD * p_col

    drop = tl.load(DROP + row, mask=row < n, other=-1)  # (BA,)
    allowed = (col < m)[None, :] & (col[None, :] != drop[:, None])
    total = tl.where(allowed, total, -float("inf"))
    best = tl.max(tl.reshape(total, (BA, BP // G, G)), axis=2)  # (BA, BP / G)
    group = tile_p * (BP // G) + tl.arange(0, BP // G)
    out = OUT + row[:, None] * o_row + group[None, :]
    tl.store(out, best, mask=(row < n)[:, None] & (group < groups)[None, :])


def launch(anchors: Tensor, pool: Tensor, drop: Tensor) -> Tensor:
    """Run the kernel; arguments and result as in `group_max`."""
    groups = triton.cdiv(len(pool), GROUP)
    out = torch.empty((len(anchors), groups), dtype=torch.float32, device=anchors.device)
    tiles = triton.cdiv(len(anchors), ANCHORS) * triton.cdiv(len(pool), POOL)
    if tiles:
        group_max_kernel[(tiles,)](
            anchors, pool, drop.contiguous(), out,
            len(anchors), len(pool), anchors.shape[1], groups,
            *anchors.stride(), *pool.stride(), out.stride(0),
            BA=ANCHORS, BP=POOL, BD=DEPTH, G=GROUP, STRIPES=STRIPE,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return out
