"""Time and memory of a call."""

import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles

import torch

Call = Callable[[], object]


def time_calls(
    calls: Mapping[str, Call], device: torch.device, *, repeats: int
) -> dict[str, dict[str, float]]:
    """Time calls turn about, so that all see the same machine; the first turn is not counted.

    Returns:
        By name `median_ms`, `p20_ms` and `p80_ms`.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            elapsed = once_ms(call, device)
            if turn:
                times[name].append(elapsed)
    return {name: spread(found) for name, found in times.items()}


def once_ms(call: Call, device: torch.device) -> float:
    """Milliseconds of a call, with what it left for a GPU to do."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return 1e3 * (time.perf_counter() - start)


def spread(times_ms: list[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile."""
    fifths = quantiles(times_ms, n=5, method="inclusive") if len(times_ms) > 1 else times_ms * 4
    return {"median_ms": median(times_ms), "p20_ms": fifths[0], "p80_ms": fifths[3]}


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most memory that a call holds at a time beyond what is held before it.

    On a GPU by PyTorch's own count; on Linux CPUs the peak of the process's resident memory, which
    needs a process that does nothing else. Call once before: what is loaded then, and the state of
    an optimizer, does not count.
    """
    wait(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, and would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def wait(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
