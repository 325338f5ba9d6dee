"""Time and memory of a call, and what the machine could do at best."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], object]

PACKAGES = ("torch", "triton", "transformers", "timm", "inf-cl")


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds of repeated calls."""

    median_ms: float
    p20_ms: float
    p80_ms: float

    @classmethod
    def of(cls, times_ms: list[float]) -> "Spread":
        """Median, 20th and 80th percentile."""
        if len(times_ms) == 1:
            return cls(times_ms[0], times_ms[0], times_ms[0])
        fifths = quantiles(times_ms, n=5, method="inclusive")
        return cls(median(times_ms), fifths[0], fifths[3])


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine reached in a plain copy and in plain products."""

    copy_bytes_per_s: float
    half_flops: float
    float_flops: float

    def as_dict(self) -> dict[str, float]:
        """For a results file."""
        return {
            "copy_tb_per_s": self.copy_bytes_per_s / 1e12,
            "bfloat16_tflops": self.half_flops / 1e12,
            "float32_tflops": self.float_flops / 1e12,
        }

    def floor_ms(self, bytes_moved: float, flops: float, *, half: bool) -> float:
        """Least time of a step that moves so many bytes and computes so many operations."""
        rate = self.half_flops if half else self.float_flops
        return 1e3 * max(bytes_moved / self.copy_bytes_per_s, flops / rate)


def time_calls(
    calls: Mapping[str, Call], device: torch.device, *, repeats: int
) -> dict[str, Spread]:
    """Time calls in turn, so that all see the same machine; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            elapsed = _time_once(call, device)
            if round_:
                times[name].append(elapsed)
    return {name: Spread.of(found) for name, found in times.items()}


def _time_once(call: Call, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]  # PyTorch's
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most memory that a call holds at a time beyond what was held before it.

    On a GPU PyTorch's own count; on Linux CPUs the peak of the process's resident memory, which
    needs a process that does nothing else.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def busy_ms(call: Call, *, repeats: int = 3) -> float:
    """Milliseconds that a GPU computes in a call: what is left when launching costs nothing."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    total = sum(event.self_device_time_total for event in trace.key_averages())
    return float(total) / 1e3 / repeats


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def measure_ceilings(device: torch.device) -> Ceilings:
    """Copy and multiply random data, large enough to fill the machine."""
    on_gpu = device.type == "cuda"
    source = torch.rand(2**28 if on_gpu else 2**25, device=device)  # 1 GB, 128 MB
    target = torch.empty_like(source)
    size = 8192 if on_gpu else 2048
    calls: dict[str, Call] = {"copy": lambda: target.copy_(source)}
    for name, dtype in (("half", torch.bfloat16), ("float", torch.float32)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        calls[name] = _product(a, b)
    found = time_calls(calls, device, repeats=7)
    seconds = {name: spread.median_ms / 1e3 for name, spread in found.items()}
    return Ceilings(
        2 * source.nbytes / seconds["copy"],
        2 * size**3 / seconds["half"],
        2 * size**3 / seconds["float"],
    )


def _product(a: Tensor, b: Tensor) -> Call:
    return lambda: a @ b


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


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
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or None


def as_dict(spread: Spread) -> dict[str, float]:
    """For a JSON file."""
    return asdict(spread)
