"""From class scores to counts of pixel pairs, timed: `python -m segbench.bench --device cpu`.

Ours against eager PyTorch (interpolate, `max`, bincount) at 171 classes, 60 x 80 scores and
480 x 640 labels, one after the other in one run; counting alone against torchmetrics and against
histc as mmsegmentation takes areas. An answer that differs is an error, not a figure.

Scores are blots (a bicubically enlarged 6 x 8 noise) with texture, of two kinds: `clear`, where
few classes are near the best anywhere, and `close`, where as many are as in score maps of a real
network with 171 of ImageNet's classes (a dozen). `equal` is the worst case: nothing is left out.
"""

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.errors import SegbenchError, UsageError
from segbench.ops.count_argmax import confusion_counts, count_argmax
from segbench.ops.count_argmax.cpu import possible_classes
from segbench.ops.count_argmax.reference import count_argmax_reference

CLASSES, GRID, SIZE = 171, (60, 80), (480, 640)
TEXTURE = {"clear": 0.1, "close": 0.5}
"""Size of the noise beside blots of size 1, by kind of score map."""
KINDS = ("clear", "close", "equal")
USUAL = "close"
"""The kind that stands for real score maps in the ratios."""


def score_map(kind: str) -> Tensor:
    """(C, h, w) float32."""
    random = torch.Generator().manual_seed(0)
    if kind == "equal":
        return torch.zeros(CLASSES, *GRID)
    coarse = torch.randn(1, CLASSES, 6, 8, generator=random)
    blots = F.interpolate(coarse, GRID, mode="bicubic")[0]
    noise = torch.randn(CLASSES, *GRID, generator=random)
    return blots + TEXTURE[kind] * noise


def label_map() -> Tensor:
    """(H, W) int32 in blocks of 16 x 16, 5 % ignored."""
    random = torch.Generator().manual_seed(0)
    small = torch.randint(0, CLASSES, (30, 40), generator=random, dtype=torch.int32)
    labels = small.repeat_interleave(16, dim=0).repeat_interleave(16, dim=1)
    labels[torch.rand(SIZE, generator=random) < 0.05] = -1
    return labels


def ours(scores: Tensor, labels: Tensor) -> Tensor:
    """(K, K) counts, by the op."""
    return count_argmax(scores, labels, CLASSES)[0]


def eager(scores: Tensor, labels: Tensor) -> Tensor:
    """(K, K) counts, by `max`: on a CPU faster than `argmax`."""
    return count_argmax_reference(scores, labels, CLASSES)[0]


PATHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": ours, "eager": eager}


def survivors(scores: Tensor) -> float:
    """Mean number of classes that are compared in a cell."""
    kept, counts = np.empty((GRID[1], CLASSES), np.int32), np.empty(GRID[1], np.int32)
    total = 0
    for y in range(GRID[0] - 1):
        possible_classes(scores[:, y].numpy(), scores[:, y + 1].numpy(), True, kept, counts)
        total += int(counts.sum())
    return total / (GRID[0] - 1) / GRID[1]


def histc_counts(labels: Tensor, predicted: Tensor) -> Tensor:
    """Areas of intersection, prediction and truth by class, as mmsegmentation takes them."""
    scored = labels != -1
    true, found = labels[scored].float(), predicted[scored].float()
    parts = (found[found == true], found, true)
    return torch.stack([torch.histc(p, CLASSES, min=0, max=CLASSES - 1) for p in parts])


def torchmetrics_counts(labels: Tensor, predicted: Tensor) -> Tensor:
    """(K, K) counts of torchmetrics, without its checks."""
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix
    except ImportError as error:
        raise UsageError("the comparison needs torchmetrics: pip install torchmetrics") from error
    counts: Tensor = multiclass_confusion_matrix(
        predicted, labels, CLASSES, ignore_index=-1, validate_args=False
    )
    return counts


def take_turns(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = 15
) -> dict[str, float]:
    """Milliseconds of each call, one after the other so that all see the same machine.

    Returns:
        By name the median, and as NAME_p20 and NAME_p80 the 20th and 80th percentile.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first warms up
        for name, call in calls.items():
            _wait(device)
            start = perf_counter()
            call()
            _wait(device)
            times[name].append(1e3 * (perf_counter() - start))
    found: dict[str, float] = {}
    for name, column in times.items():
        middle, low, high = np.quantile(column[1:], (0.5, 0.2, 0.8)).tolist()
        found |= {name: middle, f"{name}_p20": low, f"{name}_p80": high}
    return found


def busy_us(call: Callable[[], object], device: torch.device, calls: int = 20) -> float:
    """Microseconds that a call keeps a GPU busy: the time of its kernels and copies, not of gaps.

    The wall time of one call there is mostly the host's, which a queue of calls hides.

    Raises:
        SegbenchError: the profiler saw nothing.
    """
    for _ in range(3):
        call()
    _wait(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            call()
        _wait(device)
    return busy_time(profile.events() or [], calls)


def busy_time(events: Iterable[Any], calls: int) -> float:
    """Microseconds a call of the events of `torch.profiler` that are a GPU's."""
    spans = [event.time_range for event in events if event.device_type.name == "CUDA"]
    if not spans:
        raise SegbenchError("the profiler saw no kernel; is CUPTI there?")
    return float(sum(span.end - span.start for span in spans)) / calls


def measure_busy(
    ways: Mapping[str, Callable[[], object]], device: torch.device
) -> dict[str, float]:
    """Microseconds that `ours` and `eager` keep a GPU busy, and their `ratio`."""
    found = {name: busy_us(way, device) for name, way in ways.items()}
    return found | {"ratio": found["eager"] / found["ours"]}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_decode(device: torch.device) -> dict[str, dict[str, float]]:
    """Milliseconds of both ways, their ratio and the classes compared, by kind of score map."""
    found = {}
    for kind in KINDS:
        scores, labels = score_map(kind).to(device), label_map().to(device)
        answers = [path(scores, labels) for path in PATHS.values()]
        _check_equal(f"{kind} scores", *answers, exact=device.type == "cpu")
        calls = {name: partial(path, scores, labels) for name, path in PATHS.items()}
        times = take_turns(calls, device)
        found[kind] = times | {
            "ratio": times["eager"] / times["ours"],
            "classes_compared": survivors(scores.cpu()),
        }
    return found


def measure_decode_kernels(device: torch.device) -> dict[str, dict[str, float]]:
    """Microseconds a GPU is busy with a call, by kind of score map; see `measure_busy`."""
    labels, found = label_map().to(device), {}
    for kind in KINDS:
        scores = score_map(kind).to(device)
        calls = {name: partial(path, scores, labels) for name, path in PATHS.items()}
        found[kind] = measure_busy(calls, device)
    return found


def measure_confusion() -> dict[str, float]:
    """Milliseconds of counting alone, on a CPU."""
    labels, scores = label_map(), score_map(USUAL)
    predicted = count_argmax(scores, labels, CLASSES, want_labels=True)[1]
    assert predicted is not None
    counts = confusion_counts(labels, predicted, CLASSES)
    _check_equal("torchmetrics", counts, torchmetrics_counts(labels, predicted))
    areas = torch.stack([counts.diagonal(), counts.sum(dim=0), counts.sum(dim=1)])
    _check_equal("histc", areas, histc_counts(labels, predicted).long())
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: confusion_counts(labels, predicted, CLASSES),
        "torchmetrics": lambda: torchmetrics_counts(labels, predicted),
        "histc": lambda: histc_counts(labels, predicted),
    }
    return take_turns(calls, torch.device("cpu"), rounds=31)


def _check_equal(what: str, ours: Tensor, theirs: Tensor, *, exact: bool = True) -> None:
    """On a GPU the last bit of a score may differ, and so a few pixels at ties."""
    differ = int((ours - theirs).abs().sum()) / 2
    if differ > (0 if exact else 1e-4 * int(theirs.sum())):
        raise SegbenchError(f"{what}: counts of {differ:.0f} pixels differ; not timed")


def peak_bytes(path: str, device: torch.device) -> int:
    """Most memory that a call takes beyond what is there before it; on a CPU in its own process."""
    if device.type == "cuda":
        scores, labels = score_map(USUAL).to(device), label_map().to(device)
        return peak_on_gpu(partial(PATHS[path], scores, labels), device)
    return peak_of("segbench.bench.decode", path)


def peak_on_gpu(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a call takes on a GPU beyond what is there before it."""
    call()
    _wait(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    _wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_of(module: str, path: str) -> int:
    """What `print_peak` of a module says of a way, in a process of its own."""
    code = f"from {module} import print_peak; print_peak({path!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def print_peak(path: str) -> None:
    """Print the bytes that a call takes beyond what is there before it."""
    scores, labels = score_map(USUAL), label_map()
    small = partial(PATHS[path], scores[:, :9, :12], labels[:72, :96])
    write_peak(small, partial(PATHS[path], scores, labels))


def write_peak(small: Callable[[], object], call: Callable[[], object]) -> None:
    """Print the bytes that a call takes beyond what is there before it, from Linux's /proc."""
    small()  # loads the code, and takes little memory
    ctypes.CDLL(None).malloc_trim(0)  # gives back what is free, or the call would not show
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    sys.stdout.write(str(_status("VmHWM") - before))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
