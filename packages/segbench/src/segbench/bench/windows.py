"""Sliding windows to label maps, timed: ours against all classes at full size.

171 classes, windows of 224 every 112 of an image of 640 x 480 whose short side is resized to 336 or
448, as in SCLIP and CoCu; 14 x 14 or 28 x 28 places a window, as of patches of 16 or 8. The windows
see one map of blots with texture of their own, of the kind `close` of `segbench.bench.decode`.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.bench.decode import CLASSES, SIZE, TEXTURE, USUAL, take_turns
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


def measure_windows(device: torch.device, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Milliseconds of both ways and their ratio, by short side and places: "448_14".

    Raises:
        SegbenchError: the label maps differ: on a CPU at a pixel, on a GPU at one of 10,000, as
            ATen rounds otherwise there.
    """
    found = {}
    for short_px in SHORT_PX:
        for grid in GRIDS:
            scores, places, size = window_scores(short_px, grid)
            scores = scores.to(device)
            arguments = scores, places, size, SIZE
            differ = merge_argmax(*arguments)[1] != merge_argmax_reference(*arguments)[1]
            if float(differ.float().mean()) > (0 if device.type == "cpu" else 1e-4):
                raise SegbenchError(f"{int(differ.sum())} labels differ; not timed")
            calls = {
                "ours": partial(merge_argmax, *arguments),
                "eager": partial(merge_argmax_reference, *arguments),
            }
            times = take_turns(calls, device, rounds)
            times["ratio"] = times["eager"] / times["ours"]
            found[f"{short_px}_{grid}"] = times
    return found
