"""Counting (true, predicted) pairs: ours against torchmetrics, at 640 x 480 and 171 classes.

Run with `pytest -o python_files='bench_*.py' --benchmark-only packages/segbench/benchmarks`.
The ratio of the medians is the figure of interest. Ours always checks the range of its input;
torchmetrics is timed with its checks and without.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segbench import count_pairs

CLASSES = 171


def blocky_maps() -> tuple[Tensor, Tensor]:
    """Two label maps of 16 x 16 blocks, 5 % of the labels ignored."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, CLASSES, (2, 30, 40), generator=generator)
    labels, found = small.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    labels[torch.rand(480, 640, generator=generator) < 0.05] = -1
    return labels, found


def ours(labels: Tensor, found: Tensor) -> Tensor:
    return count_pairs(labels, found, CLASSES)


def checked(labels: Tensor, found: Tensor) -> Tensor:
    counts: Tensor = multiclass_confusion_matrix(found, labels, CLASSES, ignore_index=-1)
    return counts


def unchecked(labels: Tensor, found: Tensor) -> Tensor:
    counts: Tensor = multiclass_confusion_matrix(
        found, labels, CLASSES, ignore_index=-1, validate_args=False
    )
    return counts


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": ours,
    "torchmetrics": checked,
    "torchmetrics, unchecked": unchecked,
}


@pytest.mark.parametrize("way", WAYS)
def test_count_pairs(benchmark: BenchmarkFixture, way: str) -> None:
    labels, found = blocky_maps()
    counts = benchmark(WAYS[way], labels, found)
    least = labels.nbytes + found.nbytes
    benchmark.extra_info.update(work="confusion, 171 classes", way=way, bytes=least)
    assert torch.equal(counts, ours(labels, found))  # no figure for a wrong answer
