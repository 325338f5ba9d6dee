"""From class scores to counts of pixel pairs: ours against eager PyTorch, at 171 classes.

Run: pytest -s -o python_files='bench_*.py' packages/segbench/benchmarks/bench_count_argmax.py

`segbench.bench.decode` says what is compared and measures it; here pytest-benchmark does, and the
goals of the op are asserted.
"""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from segbench.bench.decode import (
    CLASSES,
    KINDS,
    PATHS,
    label_map,
    measure_confusion,
    measure_decode,
    peak_bytes,
    score_map,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_count_argmax(benchmark: BenchmarkFixture, kind: str, path: str) -> None:
    counts = benchmark(PATHS[path], score_map(kind), label_map())
    assert counts.shape == (CLASSES, CLASSES)
    least = score_map(kind).nbytes + label_map().nbytes
    work = f"scores to counts, {CLASSES} classes, {kind}"
    benchmark.extra_info.update(work=work, way=path, bytes=least)


def test_ratio() -> None:
    for kind, found in measure_decode(CPU).items():
        print(f"\n{kind}: {found}")
        assert found["ratio"] > 8


def test_confusion_ratio() -> None:
    found = measure_confusion()
    print(f"\n{found}")
    assert 3 * found["ours"] < min(found["torchmetrics"], found["histc"])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_peak_memory() -> None:
    peaks = {path: peak_bytes(path, CPU) for path in PATHS}
    print(f"\n{peaks}")
    assert 20 * peaks["ours"] < peaks["eager"]
