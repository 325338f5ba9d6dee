"""The machine that figures belong to, and what it could do at best."""

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskcluster.bench.timing import time_calls

PACKAGES = ("maskcluster", "torch", "triton", "numba", "open_clip_torch", "pot")


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates that no computation exceeds."""

    bytes_per_s: float
    half_flops: float
    """Products of bfloat16 matrices."""
    float_flops: float
    """All else."""

    def floor_ms(self, moved: float, flops: float, *, half: bool = False) -> float:
        """Least milliseconds for so many bytes and operations."""
        rate = self.half_flops if half else self.float_flops
        return 1e3 * max(moved / self.bytes_per_s, flops / rate)

    def as_dict(self) -> dict[str, float]:
        """For a results file."""
        return {
            "tb_per_s": self.bytes_per_s / 1e12,
            "bfloat16_tflops": self.half_flops / 1e12,
            "float32_tflops": self.float_flops / 1e12,
        }


H200 = Limits(4.3e12, 790e12, 60e12)
"""An H200's: copies and dense bfloat16 products as they have been reached, vector operations in
float32. Floors of the published sizes are counted with them."""


def measure_limits(device: torch.device) -> Limits:
    """Copy and multiply random data, large enough to fill the machine.

    On a GPU the products of float32 are not rounded to TF32.
    """
    on_gpu = device.type == "cuda"
    source = torch.rand(2**28 if on_gpu else 2**25, device=device)  # 1 GB, 128 MB
    target = torch.empty_like(source)
    size = 8192 if on_gpu else 1536
    calls: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source)}
    for name, dtype in (("half", torch.bfloat16), ("float", torch.float32)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        calls[name] = _product(a, b)
    found = time_calls(calls, device, repeats=7)
    seconds = {name: times["median_ms"] / 1e3 for name, times in found.items()}
    flops = 2 * size**3
    return Limits(
        2 * source.nbytes / seconds["copy"], flops / seconds["half"], flops / seconds["float"]
    )


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Names and versions; nothing of the user's, such as a path."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def _product(a: Tensor, b: Tensor) -> Callable[[], object]:
    return lambda: a @ b


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this file is in; None for an installed wheel."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or None
