"""What follows the image tower: our table against the dense form of the original.

From assignments and features to a label map of 480 x 640 pixels and 171 classes, as many as
COCO-Stuff has, with a background; made-up features, published sizes.

Run: OMP_NUM_THREADS=1 pytest -s -o python_files=bench_*.py packages/groupvit/benchmarks

The last two tests print the ratio of the medians and assert that ours takes less than a fifth of
the time and gives the same labels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from groupvit.bench.originals import original_scores
from groupvit.ops.segment_decode import segment_decode
from groupvit.segmenting.decode import class_scores, merge_labels, with_background
from groupvit.segmenting.windows import Cut, place_windows

CLASSES, DIM, THRESHOLD, SCALE = 171, 256, 0.35, 40.0
FULL, RESIZED, WINDOW = (480, 640), (448, 597), 448
GRID = (30, 40)  # patches of the whole picture


def original_decode(
    first: Tensor,
    second: Tensor,
    table: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    background: float | None = None,
) -> Tensor:
    """(H, W) int64 labels of `original_scores`, whose arguments it takes."""
    return original_scores(first, second, table, grid, size, background=background).max(dim=0)[1]


@dataclass(frozen=True)
class Seen:
    """What the image tower gives for B crops."""

    image: Tensor
    groups: Tensor
    assignments: tuple[Tensor, Tensor]
    bank: Tensor
    grid: tuple[int, int]

    @property
    def table(self) -> Tensor:
        """(B, G, K) scores."""
        return class_scores(self.image, self.groups, self.bank, torch.tensor(SCALE))


def seen(crops: int, grid: tuple[int, int]) -> Seen:
    random = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(crops, 64, 7, 7, generator=random)
    fine = F.interpolate(coarse, grid, mode="bilinear").flatten(2)  # (B, 64, N): blots, not noise
    assignments = (fine.softmax(1), (3 * torch.randn(crops, 8, 64, generator=random)).softmax(1))
    bank = F.normalize(torch.randn(CLASSES, DIM, generator=random), dim=-1)
    shown = torch.randint(0, CLASSES, (crops, 8), generator=random)
    groups = bank[shown] + torch.randn(crops, 8, DIM, generator=random) / DIM**0.5  # (B, 8, D)
    return Seen(groups.mean(dim=1), groups, assignments, bank, grid)


def ours(x: Seen) -> Tensor:
    """The whole picture at once."""
    lookup = with_background(x.table, THRESHOLD).argmax(dim=2).int()  # (1, G)
    return segment_decode(x.assignments, lookup, x.grid, FULL)[0]


def originals(x: Seen) -> Tensor:
    first, second = (soft[0] for soft in x.assignments)
    return original_decode(first, second, x.table[0], x.grid, FULL, background=THRESHOLD)


def ours_in_windows(x: Seen) -> Tensor:
    """Two windows of a picture whose short side is 448."""
    own = torch.arange(8, dtype=torch.int32).expand(2, -1)
    groups = segment_decode(x.assignments, own, x.grid, (WINDOW, WINDOW))
    windows = tuple(place_windows(RESIZED, WINDOW, WINDOW // 2))
    cut = Cut(FULL, RESIZED, windows, torch.empty(0))
    return merge_labels(groups, with_background(x.table, THRESHOLD), cut)


def originals_in_windows(x: Seen) -> Tensor:
    total, count = torch.zeros(1 + CLASSES, *RESIZED), torch.zeros(RESIZED)
    for i, window in enumerate(place_windows(RESIZED, WINDOW, WINDOW // 2)):
        first, second = (soft[i] for soft in x.assignments)
        side = (WINDOW, WINDOW)
        scores = original_scores(first, second, x.table[i], x.grid, side, background=THRESHOLD)
        total[:, :, window.left : window.right] += scores
        count[:, window.left : window.right] += 1
    full = F.interpolate((total / count)[None], FULL, mode="bilinear", align_corners=False)[0]
    return full.softmax(dim=0).max(dim=0).indices


PATHS: dict[str, tuple[Callable[[Seen], Tensor], Callable[[Seen], Tensor], Seen]] = {
    "whole": (ours, originals, seen(1, GRID)),
    "windows": (ours_in_windows, originals_in_windows, seen(2, (28, 28))),
}


@pytest.fixture(autouse=True)
def _no_gradient() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("which", [0, 1], ids=["groupvit", "original"])
@pytest.mark.parametrize("path", PATHS)
def test_decode(benchmark: BenchmarkFixture, path: str, which: int) -> None:
    decode, x = PATHS[path][which], PATHS[path][2]
    labels: Tensor = benchmark(decode, x)
    assert labels.shape == FULL
    seen_bytes = sum(soft.nbytes for soft in x.assignments) + x.table.nbytes + labels.nbytes
    work = f"decode to 480 x 640 labels, {CLASSES} classes, {path}"
    way = ("ours", "original")[which]
    benchmark.extra_info.update(work=work, way=way, bytes=seen_bytes)


@pytest.mark.parametrize("path", PATHS)
def test_ratio(path: str) -> None:
    """Turn about, so that both see the same machine."""
    first, second, x = PATHS[path]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(7):
        for decode, column in zip((first, second), times, strict=True):
            start = perf_counter()
            decode(x)
            column.append(perf_counter() - start)
    mine, theirs = (1e3 * median(column) for column in times)
    print(f"\n{path}: groupvit {mine:.1f} ms, original {theirs:.1f} ms, ratio {theirs / mine:.1f}")
    labels = first(x).long()
    assert len(set(labels.flatten().tolist())) > 2
    assert torch.equal(labels, second(x))
    assert 5 * mine < theirs
