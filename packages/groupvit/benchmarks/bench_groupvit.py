"""What `python -m groupvit.bench --device cpu` compares, one benchmark a way to compute it.

Run: hatch run bench packages/groupvit/benchmarks/bench_groupvit.py

Groups are a training step, an inference, the multi-label loss of 4,096 pairs, and the labels of a
picture among 171 classes. Ratios and peak memory come from the command above.
"""

from functools import cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from groupvit.bench.cpu import KINDS, Call

WAYS = ("ours, same input", "hugging face", "ours", "hugging face, bfloat16")
CASES = [
    *((kind, name) for kind in ("step", "inference") for name in WAYS),
    *((kind, name) for kind in ("loss", "decode") for name in ("ours", "original")),
]


@cache
def calls(kind: str) -> dict[str, Call]:
    return KINDS[kind][0]()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_time(benchmark: BenchmarkFixture, kind: str, name: str) -> None:
    benchmark.group = kind
    work = f"{kind}, float32" if name in WAYS[:2] else kind
    way = "ours" if name.startswith("ours") else name
    benchmark.extra_info.update(work=work, way=way)
    benchmark.pedantic(calls(kind)[name], rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call]  # theirs
