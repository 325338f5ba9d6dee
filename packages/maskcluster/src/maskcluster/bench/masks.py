"""The two mask ops against plain PyTorch, which resizes features and logits to the masks' grid."""

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.masks.packed import pack
from maskcluster.ops.mask_bce import mask_bce
from maskcluster.ops.mask_pool import mask_pool

SIDE, GRID, MAP, CHANNELS, CLUSTERS, MASKS = 256, 20, 80, 512, 64, 100
"""Of masks, features and logits; D; K; masks of an image. PixelCLIP's ViT-B/16 at 320 px."""

REPEATS = 7

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """What both ops are given, and masks as plain PyTorch has them."""

    features: Tensor
    logits: Tensor
    masks: Tensor
    """(M, S, S) bool."""
    packed: Tensor
    owner: Tensor
    cluster: Tensor

    @classmethod
    def of(cls, images: int, device: torch.device, *, side: int = SIDE) -> "Work":
        """Ellipses of all sizes, every image with as many as every other."""
        random = torch.Generator().manual_seed(0)
        count = images * MASKS
        centre = side * torch.rand(count, 2, 1, generator=random)
        radius = side * (0.02 + 0.25 * torch.rand(count, 2, 1, generator=random))
        away = ((torch.arange(side) - centre) / radius).square()  # (M, 2, S)
        masks = away[:, 0, :, None] + away[:, 1, None, :] < 1  # (M, S, S)
        logits = torch.randn(images, CLUSTERS, MAP, MAP, generator=random)
        features = torch.randn(images, CHANNELS, GRID, GRID, generator=random)
        cluster = torch.randint(0, CLUSTERS, (count,), generator=random)
        owner = torch.arange(images).repeat_interleave(MASKS)
        parts = (features, logits, masks, pack(masks), owner, cluster)
        moved = [part.to(device) for part in parts]
        moved[1].requires_grad_()
        return cls(*moved)


def eager_pool(work: Work) -> tuple[Tensor, Tensor]:
    """Features resized, and their products with the masks of each image."""
    side = work.masks.shape[1]
    full = F.interpolate(work.features, (side, side), mode="bilinear", align_corners=False)
    parts, areas = [], []
    for image, places in enumerate(full):
        masks = work.masks[work.owner == image].float()  # (n, S, S)
        areas.append(masks.sum(dim=(1, 2)))
        parts.append(torch.einsum("nyx,dyx->nd", masks, places))
    area = torch.cat(areas)  # (M,)
    return torch.cat(parts) / area.clamp(min=1)[:, None], area


def eager_bce(work: Work) -> Tensor:
    """Logits resized, targets of all clusters, every pixel's loss."""
    images, clusters = work.logits.shape[:2]
    side = work.masks.shape[1]
    targets = work.masks.new_zeros((images, clusters, side, side))  # (B, K, S, S)
    for mask, owner, cluster in zip(work.masks, work.owner, work.cluster, strict=True):
        targets[owner, cluster] |= mask
    full = F.interpolate(work.logits, (side, side), mode="bilinear", align_corners=False)
    each = F.binary_cross_entropy_with_logits(full, targets.float(), reduction="none")
    return (each * targets.any(dim=1, keepdim=True)).sum()


def calls(work: Work) -> dict[str, dict[str, Call]]:
    """Ways to compute each op, ours first; of the loss forward and backward."""

    def both(loss: Callable[[], Tensor]) -> Call:
        return lambda: torch.autograd.grad(loss(), work.logits)

    masks = work.packed, work.owner
    return {
        "mask_pool": {
            "ours": lambda: mask_pool(work.features, *masks),
            "interpolate": lambda: eager_pool(work),
        },
        "mask_bce": {
            "ours": both(lambda: mask_bce(work.logits, *masks, work.cluster)[0]),
            "eager": both(lambda: eager_bce(work)),
        },
    }


def measure(device: torch.device) -> dict[str, Any]:
    """Times turn about, and peak memory, on a CPU each in a process of its own.

    4 images on a CPU, 48 on a GPU, each with 100 masks, 64 clusters. Also, for floors, the bytes
    that must be moved and the operations that must be done.

    Returns:
        `mask_pool` and `mask_bce`: milliseconds (20 %, median, 80 %) and peak bytes of each way,
        least bytes and operations; `mask_pool_ratio_to_interpolate`, `mask_bce_ratio_to_eager`,
        and the same with `_memory_ratio_`: above 1 is in our favour.
    """
    images = 48 if device.type == "cuda" else 4
    work = Work.of(images, device)
    found: dict[str, Any] = {}
    for op, ways in calls(work).items():
        times = _times(ways, device)
        peaks = {way: _peak(op, way, images, device) for way in ways}
        ours, theirs = ways
        found[op] = {"times_ms": times, "peak_bytes": peaks} | _least(op, images)
        found[f"{op}_ratio_to_{theirs}"] = times[theirs][1] / times[ours][1]
        found[f"{op}_memory_ratio_to_{theirs}"] = peaks[theirs] / max(peaks[ours], 1)
    return found


def _least(op: str, images: int) -> dict[str, float]:
    """Bytes of inputs and outputs once, operations as spec 9.2 counts them."""
    bits, pixels, count = MASKS * SIDE**2 / 8, SIDE**2, MASKS
    if op == "mask_pool":
        moved = bits + 4 * CHANNELS * (GRID**2 + count)
        flops = 2 * count * (pixels + GRID**2 * CHANNELS)
    else:
        moved = bits + 8 * CLUSTERS * MAP**2
        flops = 30 * CLUSTERS * pixels
    return {"bytes_moved": images * moved, "flops": float(images * flops)}


def _times(ways: Mapping[str, Call], device: torch.device) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(REPEATS + 1):
        for way, call in ways.items():
            elapsed = _once(call, device)
            if turn:  # the first compiles
                times[way].append(elapsed)
    fifths = {way: quantiles(spent, n=10, method="inclusive") for way, spent in times.items()}
    return {way: [tenths[1], tenths[4], tenths[7]] for way, tenths in fifths.items()}


def _once(call: Call, device: torch.device) -> float:
    """Milliseconds of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def _peak(op: str, way: str, images: int, device: torch.device) -> int:
    """Most memory that a call holds beyond its inputs."""
    if device.type == "cuda":
        call = calls(Work.of(images, device))[op][way]
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_apart, (op, way, images, torch.get_num_threads()))


def peak_apart(op: str, way: str, images: int, threads: int) -> int:
    """Peak of the resident memory of a Linux process that does nothing else; code loaded before."""
    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    calls(Work.of(1, cpu, side=32))[op][way]()
    call = calls(Work.of(images, cpu))[op][way]
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, and would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
