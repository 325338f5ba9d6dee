"""Ways to share 4,800 masks among 64 clusters, one benchmark each, and the ratio to POT.

Run: OMP_NUM_THREADS=1 pytest -s -o python_files=bench_*.py packages/maskcluster/benchmarks

What is compared, and why so, is in `maskcluster.bench.sinkhorn`.
"""

import json

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from maskcluster.bench.sinkhorn import CLUSTERS, MASKS, cpu_calls, measure

CALLS = cpu_calls(1.2e-3)
pytestmark = pytest.mark.filterwarnings(
    r"ignore:invalid escape sequence:DeprecationWarning:.*\Wot\W",  # Python 3.11
    r"ignore:invalid escape sequence:SyntaxWarning:.*\Wot\W",  # since 3.12
)  # of POT's own source, where it is compiled anew


@pytest.mark.parametrize("name", CALLS)
def test_time(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(CALLS[name])
    least = 4 * MASKS * CLUSTERS  # the scores, read once
    work = f"balanced assignment, {MASKS:,} masks to {CLUSTERS}"
    benchmark.extra_info.update(work=work, way=name, bytes=least)


def test_ratio() -> None:
    """At least three times as fast as POT for the same tolerance of marginals, in one run."""
    found = measure(torch.device("cpu"))
    print("\n" + json.dumps(found, indent=2))
    assert found["same_clusters_as_pot"] > 0.9
    assert found["sinkhorn_ratio_to_pot"] >= 3
