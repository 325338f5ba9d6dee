"""Exact neighbours of a pool within itself against faiss's flat index, at 512 dimensions.

Run with `hatch run bench`. Results are checked against each other before a time is reported;
rates are fractions of a matrix product measured in the same run.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.utils.benchmark

from conceptarchive.search.neighbours import Neighbours, nearest
from conceptarchive.search.products import Precision
from conceptarchive.search.selfjoin import self_join

DIM, COUNT, CENTRES, SPREAD = 512, 8, 2_000, 1.2
LEAST_RECALL = 0.9999
Rows = npt.NDArray[np.float32]
Bench = Any  # the fixture of pytest-benchmark has no public type


def clip_like(n: int, seed: int = 0) -> Rows:
    """Rows in 2,000 clouds of different sizes, all leaning to one side as CLIP's images do."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((CENTRES, DIM), np.float32) + 0.8
    sizes = random.pareto(1.5, CENTRES) + 0.1
    own = random.choice(CENTRES, n, p=sizes / sizes.sum())
    rows = centres[own] + SPREAD * random.standard_normal((n, DIM), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def uniform(n: int, seed: int = 0) -> Rows:
    """Rows in all directions alike."""
    rows = np.random.default_rng(seed).standard_normal((n, DIM), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def matmul_gflops(size: int = 4096, times: int = 5) -> float:
    """The machine's own rate of float32 products with these rows, the best of several."""
    left, right = torch.randn(size, DIM), torch.randn(size, DIM)
    out = torch.empty(size, size)
    best = min(seconds(lambda: torch.mm(left, right.mT, out=out)) for _ in range(times + 1))
    return 2 * size * size * DIM / best / 1e9


def recall(found: Neighbours, similarity: Rows) -> float:
    """Share of places whose cosine is not below that of the other search: ties count as found."""
    return float((found.similarity >= similarity - 1e-6).mean())


def measure_self_join(
    n: int, precision: Precision = "float32", make: Callable[[int], Rows] = clip_like
) -> dict[str, float]:
    """Time our self-join and faiss's flat search of the same rows, with the same threads.

    Returns:
        self_join_s, faiss_s, ratio (of faiss's time to ours), recall (ours, against faiss),
        matmul_gflops (of torch, float32) and effective_gflops (2 n^2 D over our time).
    """
    import faiss

    rows = make(n)
    self_join(rows[:3000], count=COUNT, precision=precision)  # compiles
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(DIM)
    index.add(rows)
    rate = matmul_gflops()
    found: list[Neighbours] = []
    ours = seconds(lambda: found.append(self_join(rows, count=COUNT, precision=precision)))
    theirs: list[Rows] = []
    peer = seconds(lambda: theirs.append(index.search(rows, COUNT)[0]))
    return {
        "self_join_s": ours,
        "faiss_s": peer,
        "ratio": peer / ours,
        "recall": recall(found[0], theirs[0]),
        "matmul_gflops": rate,
        "effective_gflops": 2 * n * n * DIM / ours / 1e9,
    }


@pytest.mark.parametrize("make", [clip_like, uniform])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [20_000, 50_000])
def test_self_join(
    benchmark: Bench, n: int, precision: Precision, make: Callable[[int], Rows]
) -> None:
    pytest.importorskip("faiss", exc_type=ImportError)
    measured = measure_self_join(n, precision, make)
    assert measured["recall"] >= LEAST_RECALL, f"refuses to time a search that misses: {measured}"
    rows = make(n)
    rounds = {"rounds": 1 if n > 20_000 else 3}
    benchmark.pedantic(self_join, (rows,), {"count": COUNT, "precision": precision}, **rounds)
    benchmark.extra_info.update({name: round(value, 4) for name, value in measured.items()})
    work = f"self-join of {n:,} {make.__name__} rows, {precision}"
    benchmark.extra_info.update(work=work, way="ours")
    if precision == "float32":  # each product of two rows is needed once
        benchmark.extra_info["flops"] = n * n * DIM
    benchmark.extra_info["others_ms"] = {"faiss, flat": 1e3 * measured["faiss_s"]}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(benchmark: Bench) -> None:
    """What share of the machine's float16 rate a search of 1M rows gets, selection included."""
    few, rows = clip_like(20_000).astype(np.float16), clip_like(1_000_000).astype(np.float16)
    expected = nearest(few[:500], few, count=COUNT)
    found = nearest(few[:500], few, count=COUNT, device="cuda")
    same = np.array_equal(found.indices, expected.indices)
    assert same, "refuses to time a search that differs from the CPU's"
    side = torch.randn(8192, 8192, device="cuda").half()
    own = torch.utils.benchmark.Timer("side @ side", globals={"side": side}).timeit(50).median
    benchmark.pedantic(nearest, (rows, rows), {"count": COUNT, "device": "cuda"}, rounds=3)
    flops = 2 * len(rows) ** 2 * DIM / benchmark.stats.stats.median
    benchmark.extra_info["matmul TFLOP/s"] = round(2 * 8192**3 / own / 1e12)
    benchmark.extra_info["share of it"] = round(flops / (2 * 8192**3 / own), 3)
