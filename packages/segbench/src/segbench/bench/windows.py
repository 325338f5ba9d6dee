"""Sliding windows to label maps, timed: ours against all classes at full size.

171 classes, windows of 224 every 112 of an image of 640 x 480 whose short side is resized to 336 or
448, as in SCLIP and CoCu; 14 x 14 or 28 x 28 places a window, as of patches of 16 or 8. The windows
see one map of blots with texture of their own, of the kind `close` of `segbench.bench.decode`.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.bench.decode import (
    CLASSES,
    SIZE,
    TEXTURE,
    USUAL,
    measure_busy,
    peak_of,
    peak_on_gpu,
    take_turns,
    write_peak,
)
from segbench.errors import SegbenchError
from segbench.ops.merge_argmax import merge_argmax
from segbench.ops.merge_argmax.reference import merge_argmax_reference
from segbench.protocols.inference import Window, resized_size, windows

SHORT_PX = (336, 448)
GRIDS = (14, 28)
WINDOW_PX, STRIDE_PX = 224, 112


def window_scores(short_px: int, grid: int) -> tuple[Tensor, list[Window], tuple[int, int]]:
    """(n, C, h, w) scores, their places and the size of the resized image."""
    random = torch.Generator().manual_seed(0)
    size = resized_size(*SIZE, short_px, None)
    places = windows(*size, WINDOW_PX, STRIDE_PX)
    coarse = torch.randn(1, CLASSES, 6, 8, generator=random)
    scores = []
    for top, left, bottom, right in places:
        rows = (torch.arange(grid) + 0.5) * ((bottom - top) / grid) + top
        columns = (torch.arange(grid) + 0.5) * ((right - left) / grid) + left
        across, down = 2 * columns / size[1] - 1, 2 * rows / size[0] - 1
        y, x = torch.meshgrid(down, across, indexing="ij")
        where = torch.stack([x, y], dim=-1)  # (h, w, 2) in [-1, 1]
        blots = F.grid_sample(coarse, where[None], mode="bicubic", align_corners=False)[0]
        noise = torch.randn(CLASSES, grid, grid, generator=random)
        scores.append(blots + TEXTURE[USUAL] * noise)
    return torch.stack(scores), places, size


Found: TypeAlias = tuple[Tensor, Tensor]
"""Best score and class of every pixel."""


def ways(short_px: int, grid: int, device: torch.device) -> dict[str, Callable[[], Found]]:
    """`ours` and `eager` on the windows of a layout."""
    scores, places, size = window_scores(short_px, grid)
    arguments = scores.to(device), places, size, SIZE
    return {
        "ours": partial(merge_argmax, *arguments),
        "eager": partial(merge_argmax_reference, *arguments),
    }


def measure_windows(device: torch.device, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Milliseconds of both ways and their ratio, by short side and places: "448_14".

    On a GPU also `kernel_us_ours`, `kernel_us_eager` and `kernel_ratio`, what it is busy for.

    Raises:
        SegbenchError: the label maps differ: on a CPU at a pixel, on a GPU at one of 10,000, as
            ATen rounds otherwise there.
    """
    found = {}
    for short_px, grid in product(SHORT_PX, GRIDS):
        calls = ways(short_px, grid, device)
        differ = calls["ours"]()[1] != calls["eager"]()[1]
        if float(differ.float().mean()) > (0 if device.type == "cpu" else 1e-4):
            raise SegbenchError(f"{int(differ.sum())} labels differ; not timed")
        times = take_turns(calls, device, rounds)
        times["ratio"] = times["eager"] / times["ours"]
        if device.type == "cuda":
            busy = measure_busy(calls, device)
            times |= {f"kernel_us_{name}": busy[name] for name in calls}
            times["kernel_ratio"] = busy["ratio"]
        found[f"{short_px}_{grid}"] = times
    return found


def windows_peak_bytes(path: str, device: torch.device) -> int:
    """Most memory that a call takes at the largest layout, as of `segbench.bench.decode`."""
    if device.type == "cuda":
        return peak_on_gpu(ways(SHORT_PX[-1], GRIDS[-1], device)[path], device)
    return peak_of("segbench.bench.windows", path)


def print_peak(path: str) -> None:
    """Print the bytes that a call takes beyond what is there before it."""
    cpu = torch.device("cpu")
    small = {"ours": merge_argmax, "eager": merge_argmax_reference}[path]
    one = partial(small, torch.zeros(1, CLASSES, 2, 2), [(0, 0, 65, 65)], (65, 65), (65, 65))
    write_peak(one, ways(SHORT_PX[-1], GRIDS[-1], cpu)[path])
