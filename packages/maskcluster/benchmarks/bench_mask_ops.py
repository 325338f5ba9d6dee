"""Mask pooling and the mask loss against plain PyTorch: 4 images, 400 masks, 64 clusters.

Run: pytest -s -o python_files='bench_*.py' packages/maskcluster/benchmarks/bench_mask_ops.py

`maskcluster.bench.masks` says what is compared; the last test asserts the goals in one run.
"""

import json
from functools import cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from maskcluster.bench.masks import Call, Work, calls, eager_bce, eager_pool, measure
from maskcluster.ops.mask_bce import mask_bce
from maskcluster.ops.mask_pool import mask_pool

CPU = torch.device("cpu")
WAYS = [
    ("mask_pool", "ours"),
    ("mask_pool", "interpolate"),
    ("mask_bce", "ours"),
    ("mask_bce", "eager"),
]


@cache
def work() -> Work:
    return Work.of(4, CPU)


def test_both_ways_agree() -> None:
    for ours, theirs in zip(
        mask_pool(work().features, work().packed, work().owner), eager_pool(work()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    total, _ = mask_bce(work().logits, work().packed, work().owner, work().cluster)
    torch.testing.assert_close(total, eager_bce(work()))


@pytest.mark.parametrize(("op", "way"), WAYS)
def test_time(benchmark: BenchmarkFixture, op: str, way: str) -> None:
    benchmark.group = op
    given = work()
    # features, or logits and their gradient; and the bits of all masks
    least = given.features.nbytes if op == "mask_pool" else 2 * given.logits.nbytes
    least += given.packed.nbytes
    benchmark.extra_info.update(work=f"{op}, 4 images, 400 masks", way=way, bytes=least)
    call: Call = calls(work())[op][way]
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call]  # theirs


def test_ratios() -> None:
    found = measure(CPU)
    print(f"\n{json.dumps(found, indent=1)}")
    assert found["mask_pool_ratio_to_interpolate"] > 10
    assert found["mask_pool_memory_ratio_to_interpolate"] > 2
    assert found["mask_bce_ratio_to_eager"] > 4
    assert found["mask_bce_memory_ratio_to_eager"] > 2
