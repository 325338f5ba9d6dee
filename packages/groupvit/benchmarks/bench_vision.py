"""Our image tower against Hugging Face's: random weights, 224 px, batch 2, no gradient.

Run: OMP_NUM_THREADS=1 pytest -s -o python_files=bench_*.py packages/groupvit/benchmarks

The last test compares the two medians; it asserts only that ours is not much slower.
"""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel

from groupvit import GroupViT, ModelConfig

See = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def towers() -> Iterator[dict[str, See]]:
    torch.manual_seed(0)
    ours = GroupViT(ModelConfig()).eval().vision
    theirs = GroupViTModel(GroupViTConfig()).eval().vision_model
    with torch.inference_mode():
        yield {
            "groupvit": lambda images: ours(images).pooled,
            "transformers": lambda images: theirs(pixel_values=images).pooler_output,
        }


@pytest.mark.parametrize("name", ["groupvit", "transformers"])
def test_forward(
    benchmark: BenchmarkFixture, towers: dict[str, See], images: Tensor, name: str
) -> None:
    benchmark.extra_info["images"] = len(images)
    seen: Tensor = benchmark(towers[name], images)
    assert bool(seen.isfinite().all())


def test_ratio(towers: dict[str, See], images: Tensor) -> None:
    """Turn about, so that both see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in towers}
    for _ in range(15):
        for name, see in towers.items():
            start = perf_counter()
            see(images)
            times[name].append(perf_counter() - start)
    ours, theirs = median(times["groupvit"]), median(times["transformers"])
    print(
        f"\ngroupvit {1e3 * ours:.1f} ms, transformers {1e3 * theirs:.1f} ms, "
        f"ratio {ours / theirs:.2f}"
    )
    assert ours < 1.25 * theirs
