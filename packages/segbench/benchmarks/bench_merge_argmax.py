"""Sliding windows to label maps: ours against eager PyTorch, at 171 classes and 640 x 480.

Run: pytest -s -o python_files='bench_*.py' packages/segbench/benchmarks/bench_merge_argmax.py

`segbench.bench.windows` says what is compared and measures it; here the goals are asserted.
"""

import pytest
import torch

from segbench.bench.windows import SHORT_PX, measure_windows


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ratio(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    found = measure_windows(torch.device(device))
    assert set(found) == {f"{short}_{grid}" for short in SHORT_PX for grid in (14, 28)}
    for name, times in found.items():
        print(f"\n{name}: {times}")
        assert times["ratio"] > 5
