"""From class scores to counts of pixel pairs: ours against eager PyTorch, at 171 classes.

Run: pytest -s -o python_files='bench_*.py' packages/segbench/benchmarks/bench_count_argmax.py

The tests named `ratio` take turns, print medians and their ratio, and assert that it is large and
that the answers are equal; `peak` does so for memory, in processes of their own. Eager means
interpolate, `max` (which is faster on a CPU than the `argmax` timed beside it) and bincount.

Scores are blots (a bicubically enlarged 6 x 8 noise) with texture, of two kinds: `clear`, where few
classes are near the best anywhere, and `close`, where as many are as in score maps of a real
network with 171 of ImageNet's classes (a dozen). `equal` is the worst case: nothing is left out.
"""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segbench.ops.count_argmax import confusion_counts, count_argmax
from segbench.ops.count_argmax.cpu import possible_classes
from segbench.ops.count_argmax.reference import count_argmax_reference

CLASSES, GRID, SIZE = 171, (60, 80), (480, 640)
TEXTURE = {"clear": 0.1, "close": 0.5}
"""Size of the noise beside blots of size 1, by kind of score map."""


def score_map(kind: str) -> Tensor:
    """(C, h, w)."""
    random = torch.Generator().manual_seed(0)
    if kind == "equal":
        return torch.zeros(CLASSES, *GRID)
    coarse = torch.randn(1, CLASSES, 6, 8, generator=random)
    blots = F.interpolate(coarse, GRID, mode="bicubic")[0]
    noise = torch.randn(CLASSES, *GRID, generator=random)
    return blots + TEXTURE[kind] * noise


def label_map() -> Tensor:
    """(H, W) int32 in blocks of 16 x 16, 5 % ignored."""
    random = torch.Generator().manual_seed(0)
    small = torch.randint(0, CLASSES, (30, 40), generator=random, dtype=torch.int32)
    labels = small.repeat_interleave(16, dim=0).repeat_interleave(16, dim=1)
    labels[torch.rand(SIZE, generator=random) < 0.05] = -1
    return labels


def ours(scores: Tensor, labels: Tensor) -> Tensor:
    return count_argmax(scores, labels, CLASSES)[0]


def eager_max(scores: Tensor, labels: Tensor) -> Tensor:
    return count_argmax_reference(scores, labels, CLASSES)[0]


def eager_argmax(scores: Tensor, labels: Tensor) -> Tensor:
    size = (labels.shape[0], labels.shape[1])
    full = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    predicted = full.argmax(dim=0)  # (H, W)
    scored = labels >= 0
    keys = labels[scored].long() * CLASSES + predicted[scored]
    return keys.bincount(minlength=CLASSES**2).view(CLASSES, CLASSES)


PATHS = {function.__name__: function for function in (ours, eager_max, eager_argmax)}


def survivors(scores: Tensor) -> float:
    """Mean number of classes that are compared in a cell."""
    kept, counts = np.empty((GRID[1], CLASSES), np.int32), np.empty(GRID[1], np.int32)
    total = 0
    for y in range(GRID[0] - 1):
        possible_classes(scores[:, y].numpy(), scores[:, y + 1].numpy(), True, kept, counts)
        total += int(counts.sum())
    return total / (GRID[0] - 1) / GRID[1]


def take_turns(*calls: Callable[[], object], rounds: int = 11) -> list[float]:
    """Median milliseconds of each call, one after the other so that all see the same machine."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):  # the first warms up
        for call, column in zip(calls, times, strict=True):
            start = perf_counter()
            call()
            column.append(1e3 * (perf_counter() - start))
    return [median(column[1:]) for column in times]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["clear", "close", "equal"])
def test_count_argmax(benchmark: BenchmarkFixture, kind: str, path: str) -> None:
    counts = benchmark(PATHS[path], score_map(kind), label_map())
    assert counts.shape == (CLASSES, CLASSES)


@pytest.mark.parametrize("kind", ["clear", "close", "equal"])
def test_ratio(kind: str) -> None:
    scores, labels = score_map(kind), label_map()
    assert torch.equal(ours(scores, labels), eager_max(scores, labels))  # no figure for a wrong one
    mine, fast, slow = take_turns(
        lambda: ours(scores, labels),
        lambda: eager_max(scores, labels),
        lambda: eager_argmax(scores, labels),
    )
    print(
        f"\n{kind}: {survivors(scores):.1f} of {CLASSES} classes survive; ours {mine:.2f} ms, "
        f"eager {fast:.0f} ms ({fast / mine:.0f}x), with argmax {slow:.0f} ms ({slow / mine:.0f}x)"
    )
    assert 8 * mine < fast


def histc_counts(labels: Tensor, predicted: Tensor) -> Tensor:
    """Areas of intersection, prediction and truth by class, as mmsegmentation takes them."""
    scored = labels != -1
    true, found = labels[scored].float(), predicted[scored].float()
    parts = (found[found == true], found, true)
    return torch.stack([torch.histc(p, CLASSES, min=0, max=CLASSES - 1) for p in parts])


def torchmetrics_counts(labels: Tensor, predicted: Tensor) -> Tensor:
    counts: Tensor = multiclass_confusion_matrix(
        predicted, labels, CLASSES, ignore_index=-1, validate_args=False
    )
    return counts


def test_confusion_ratio() -> None:
    labels, scores = label_map(), score_map("close")
    predicted = count_argmax(scores, labels, CLASSES, want_labels=True)[1]
    assert predicted is not None
    found = confusion_counts(labels, predicted, CLASSES)
    assert torch.equal(found, torchmetrics_counts(labels, predicted))
    areas = torch.stack([found.diagonal(), found.sum(dim=0), found.sum(dim=1)])
    assert torch.equal(areas, histc_counts(labels, predicted).long())
    mine, metrics, areas_ms = take_turns(
        lambda: confusion_counts(labels, predicted, CLASSES),
        lambda: torchmetrics_counts(labels, predicted),
        lambda: histc_counts(labels, predicted),
        rounds=31,
    )
    print(
        f"\nconfusion: ours {mine:.2f} ms, torchmetrics {metrics:.2f} ms "
        f"({metrics / mine:.1f}x), histc {areas_ms:.2f} ms ({areas_ms / mine:.1f}x)"
    )
    assert 3 * mine < min(metrics, areas_ms)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def print_peak(path: str) -> None:
    """Print the bytes that a call takes at most, beyond what is there before it."""
    scores, labels = score_map("close"), label_map()
    PATHS[path](scores[:, :9, :12], labels[:72, :96])  # loads the code, and takes little memory
    ctypes.CDLL(None).malloc_trim(0)  # gives back what is free, or the call would not show
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    PATHS[path](scores, labels)
    print(_status("VmHWM") - before)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_peak_memory() -> None:
    peaks = {}
    for path in PATHS:
        done = subprocess.run(
            [sys.executable, __file__, path], capture_output=True, text=True, check=True
        )
        peaks[path] = int(done.stdout)
    listed = ", ".join(f"{path} {peak / 2**20:.1f} MiB" for path, peak in peaks.items())
    print(f"\npeak: {listed}")
    assert 20 * peaks["ours"] < min(peaks["eager_max"], peaks["eager_argmax"])


if __name__ == "__main__":
    print_peak(sys.argv[1])
