"""Balanced assignment in Triton: all iterations in one launch.

Every program has some rows. In an iteration it writes what its rows give to each cluster (K
logarithms), waits for the others, and adds up what all wrote, in the same order as they do. Waiting
for other programs needs all of them on the GPU at once: the launch is a cooperative one, which the
driver refuses if they do not fit, and there is one program a multiprocessor at most.

The parts that do not wait are kernels of their own for masks that are spread over processes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # logits of a program at a time, kept in registers
PARTS = 4096  # logarithms of several programs that are added up at a time
WARPS = 8

LOW = tl.constexpr(-(2.0**127))  # stands for -inf, in float32 and float64: differences are numbers


@triton.jit
def _biased_tile(
    logits_ptr, stride_m, stride_k, bias, m, k, n_masks, n_clusters
):  # fmt: skip
    """Logits [BM, BK] and their sum with the bias [BK]; 0 past the masks, LOW past the clusters."""
    inside = (m < n_masks)[:, None] & (k < n_clusters)[None, :]
    at = logits_ptr + m[:, None] * stride_m + k[None, :] * stride_k
    z = tl.load(at, mask=inside, other=0.0)
    return z, tl.where((k < n_clusters)[None, :], z + bias[None, :], LOW)


@triton.jit
def _log_add(peak, total, term):
    """Add rows of `term` [n, BK], logarithms, to exp(peak) * total [BK]."""
    higher = tl.maximum(peak, tl.max(term, axis=0))
    return higher, total * tl.exp(peak - higher) + tl.sum(tl.exp(term - higher[None, :]), axis=0)


@triton.jit
def _mass_of_rows(
    logits_ptr, stride_m, stride_k, bias, program, programs, n_masks, n_clusters,
    BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Log of what the rows of a program give to each cluster [BK]; it has at least one row."""
    k = tl.arange(0, BK).to(tl.int64)
    peak = tl.full((BK,), LOW, dtype=bias.dtype)
    total = tl.zeros((BK,), dtype=bias.dtype)
    for tile in range(program, tl.cdiv(n_masks, BM), programs):
        m = tile * BM + tl.arange(0, BM).to(tl.int64)
        _, x = _biased_tile(logits_ptr, stride_m, stride_k, bias, m, k, n_masks, n_clusters)
        highest = tl.max(x, axis=1)  # [BM]
        norm = highest + tl.log(tl.sum(tl.exp(x - highest[:, None]), axis=1))
        inside = (m < n_masks)[:, None] & (k < n_clusters)[None, :]
        peak, total = _log_add(peak, total, tl.where(inside, x - norm[:, None], LOW))
    return peak + tl.log(total)


@triton.jit
def _mass_of_programs(
    parts_ptr, programs, n_clusters, dtype: tl.constexpr, BG: tl.constexpr, BK: tl.constexpr
):
    """Log of the sum over programs of what they wrote, [BK]."""
    k = tl.arange(0, BK).to(tl.int64)
    peak = tl.full((BK,), LOW, dtype=dtype)
    total = tl.zeros((BK,), dtype=dtype)
    for first in range(0, programs, BG):
        g = first + tl.arange(0, BG)
        inside = (g < programs)[:, None] & (k < n_clusters)[None, :]
        at = parts_ptr + g[:, None] * n_clusters + k[None, :]
        part = tl.load(at, mask=inside, other=LOW, cache_modifier=".cg")  # not of an old L1 line
        peak, total = _log_add(peak, total, part)
    return peak + tl.log(total)


@triton.jit
def _wait_for_all(arrived_ptr, target):
    """Wait until `target` arrivals; what programs wrote before is then seen by all."""
    tl.debug_barrier()  # all threads of this program have written
    tl.atomic_add(arrived_ptr, 1, sem="release", scope="gpu")
    while tl.atomic_add(arrived_ptr, 0, sem="acquire", scope="gpu") < target:
        pass
    tl.debug_barrier()


@triton.jit(do_not_specialize=["iterations"])
def _balanced_assign_kernel(
    logits_ptr, parts_ptr, bias_ptr, cluster_ptr, state_ptr, stride_m, stride_k,
    n_masks, n_clusters, iterations, largest,
    BM: tl.constexpr, BG: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    dtype: tl.constexpr = bias_ptr.dtype.element_ty
    k = tl.arange(0, BK).to(tl.int64)
    bias = tl.zeros((BK,), dtype=dtype)
    for t in range(iterations):
        mass = _mass_of_rows(
            logits_ptr, stride_m, stride_k, bias, program, programs, n_masks, n_clusters, BM, BK
        )
        # two sets of parts, as slower programs may still read those of the iteration before
        parts = parts_ptr + (t % 2) * programs * n_clusters
        tl.store(parts + program * n_clusters + k, mass, mask=k < n_clusters)
        _wait_for_all(state_ptr, (t + 1) * programs)
        bias -= _mass_of_programs(parts, programs, n_clusters, dtype, BG, BK)
        bias -= tl.min(tl.where(k < n_clusters, bias, -LOW), axis=0)
        bias = tl.where(k < n_clusters, bias, 0.0)
    if program == 0:
        tl.store(bias_ptr + k, bias, mask=k < n_clusters)

    refused = tl.zeros((BM,), dtype=tl.int32)
    for tile in range(program, tl.cdiv(n_masks, BM), programs):
        m = tile * BM + tl.arange(0, BM).to(tl.int64)
        z, x = _biased_tile(logits_ptr, stride_m, stride_k, bias, m, k, n_masks, n_clusters)
        best = tl.argmax(x, axis=1, tie_break_left=True).to(tl.int64)
        tl.store(cluster_ptr + m, best, mask=m < n_masks)
        refused += tl.sum((tl.abs(z) <= largest).to(tl.int32) ^ 1, axis=1)  # NaN is refused too
    tl.atomic_add(state_ptr + 1, tl.sum(refused, axis=0), sem="relaxed")


@triton.jit
def _log_mass_kernel(
    logits_ptr, bias_ptr, parts_ptr, stride_m, stride_k, bias_k, n_masks, n_clusters,
    BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BK).to(tl.int64)
    bias = tl.load(bias_ptr + k * bias_k, mask=k < n_clusters, other=0.0)
    program, programs = tl.program_id(0), tl.num_programs(0)
    mass = _mass_of_rows(
        logits_ptr, stride_m, stride_k, bias, program, programs, n_masks, n_clusters, BM, BK
    )
    tl.store(parts_ptr + program * n_clusters + k, mass, mask=k < n_clusters)


@triton.jit
def _add_parts_kernel(
    parts_ptr, mass_ptr, programs, n_clusters, BG: tl.constexpr, BK: tl.constexpr
):
    k = tl.arange(0, BK).to(tl.int64)
    mass = _mass_of_programs(parts_ptr, programs, n_clusters, mass_ptr.dtype.element_ty, BG, BK)
    tl.store(mass_ptr + k, mass, mask=k < n_clusters)


def balanced_assign_triton(
    logits: Tensor, iterations: int, largest: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `maskcluster.ops.sinkhorn.balanced_assign` of a process alone.

    Logits above `largest` in magnitude, or not finite, are counted in a third result, () int32; the
    others mean nothing if there is one.
    """
    masks, clusters = logits.shape
    cluster = torch.empty(masks, dtype=torch.int64, device=logits.device)
    bias = logits.new_zeros(clusters)
    state = torch.zeros(2, dtype=torch.int32, device=logits.device)  # arrivals, refused
    if masks == 0:
        return cluster, bias, state[1]
    rows, programs = _tiling(logits)
    if not logits.is_cuda:
        programs = 1  # Triton's interpreter runs one after another: none may wait
    parts = logits.new_empty(2, programs, clusters)
    with torch.cuda.device_of(logits):
        _balanced_assign_kernel[(programs,)](
            logits, parts, bias, cluster, state, *logits.stride(),
            masks, clusters, iterations, largest, **_blocks(clusters), BM=rows,
            num_warps=WARPS, launch_cooperative_grid=True,
        )  # fmt: skip
    return cluster, bias, state[1]


def log_mass_triton(logits: Tensor, bias: Tensor) -> Tensor:
    """Same contract as `maskcluster.ops.sinkhorn.log_mass`."""
    masks, clusters = logits.shape
    mass = logits.new_full((clusters,), -float("inf"))
    if masks == 0:
        return mass
    rows, programs = _tiling(logits)
    parts = logits.new_empty(programs, clusters)
    blocks = _blocks(clusters)
    with torch.cuda.device_of(logits):
        _log_mass_kernel[(programs,)](
            logits, bias, parts, *logits.stride(), bias.stride(0), masks, clusters,
            BM=rows, BK=blocks["BK"], num_warps=WARPS,
        )  # fmt: skip
        _add_parts_kernel[(1,)](parts, mass, programs, clusters, **blocks, num_warps=WARPS)
    return mass


def _tiling(logits: Tensor) -> tuple[int, int]:
    """Rows of a tile, and programs: no more than tiles, nor than multiprocessors."""
    rows = TILE // triton.next_power_of_2(logits.shape[1])
    tiles: int = triton.cdiv(len(logits), rows)
    if not logits.is_cuda:
        return rows, min(tiles, 3)  # under Triton's interpreter
    return rows, min(tiles, torch.cuda.get_device_properties(logits.device).multi_processor_count)


def _blocks(clusters: int) -> dict[str, int]:
    columns: int = triton.next_power_of_2(clusters)
    return {"BG": PARTS // columns, "BK": columns}
