"""Command line: `python -m segbench.bench --device cuda`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from segbench.bench.decode import (
    PATHS,
    USUAL,
    measure_confusion,
    measure_decode,
    measure_decode_kernels,
    peak_bytes,
)
from segbench.bench.evaluation import measure_evaluation
from segbench.bench.machine import describe_machine
from segbench.bench.windows import measure_windows, windows_peak_bytes
from segbench.device import named_device
from segbench.errors import SegbenchError, UsageError, unknown
from segbench.files import write_atomically


def run(
    *,
    device: str = "cpu",
    parts: list[str] | None = None,
    out: Path = Path("docs/results"),
    overwrite: bool = False,
) -> None:
    """Measure this machine, print the figures and write OUT/DATE-segbench-bench-DEVICE.json.

    Times are medians, with the 20th and 80th percentile beside them as NAME_p20 and NAME_p80. They
    are of a call and the wait for its end; on a GPU decode_kernel_us is what it is busy for.

    Args:
        device: cpu, cuda or cuda:1.
        parts: of decode, windows, confusion and evaluation; all when left out. The last two are of
            a CPU and are left out on a GPU.
        out: folder.
        overwrite: replace a file of this day that is there.
    """
    where, today = named_device(device), date.today().isoformat()
    file = out / f"{today}-segbench-bench-{where.type}.json"
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there; choose another folder, or pass --overwrite true")
    figures: dict[str, Any] = {
        "date": today,
        "machine": describe_machine(where),
        "command": f"python -m segbench.bench --device {device}",
    }
    for part in _chosen(parts, where):
        figures |= MEASURES[part](where)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1)
    write_atomically(file, f"{text}\n".encode())
    print(text)


def _chosen(parts: Sequence[str] | None, device: torch.device) -> list[str]:
    known = [part for part in MEASURES if device.type == "cpu" or part in ("decode", "windows")]
    for part in parts or ():
        if part not in known:
            raise UsageError(unknown(f"part on {device.type}", part, known))
    return [part for part in known if not parts or part in parts]


def _decode(device: torch.device) -> dict[str, Any]:
    times = measure_decode(device)
    peaks = {path: peak_bytes(path, device) for path in PATHS}
    found = {
        "decode_ratio_to_eager_171": times[USUAL]["ratio"],
        "decode_memory_ratio_to_eager_171": peaks["eager"] / max(peaks["ours"], 1),
        "decode_peak_bytes": peaks,
        "decode_ms": times,
    }
    if device.type != "cuda":
        return found
    busy = measure_decode_kernels(device)
    return found | {
        "decode_kernel_us": busy[USUAL]["ours"],
        "decode_kernel_ratio_to_eager": busy[USUAL]["ratio"],
        "decode_kernels_us": busy,
    }


def _windows(device: torch.device) -> dict[str, Any]:
    times = measure_windows(device)
    peaks = {path: windows_peak_bytes(path, device) for path in PATHS}
    return {
        **{f"windows_ratio_to_eager_{name}": found["ratio"] for name, found in times.items()},
        "windows_memory_ratio_to_eager": peaks["eager"] / max(peaks["ours"], 1),
        "windows_peak_bytes": peaks,
        "windows_ms": times,
    }


def _confusion(_: torch.device) -> dict[str, Any]:
    times = measure_confusion()
    return {
        "confusion_ratio_to_torchmetrics": times["torchmetrics"] / times["ours"],
        "confusion_ratio_to_histc": times["histc"] / times["ours"],
        "confusion_ms": times,
    }


def _evaluation(_: torch.device) -> dict[str, Any]:
    found = measure_evaluation()
    ratios = {name: value for name, value in found.items() if "_ratio_" in name}
    return {**ratios, "evaluation": {k: v for k, v in found.items() if k not in ratios}}


MEASURES: Mapping[str, Callable[[torch.device], dict[str, Any]]] = {
    "decode": _decode,
    "windows": _windows,
    "confusion": _confusion,
    "evaluation": _evaluation,
}


def main() -> int:
    """Run the command; return the exit code."""
    try:
        auto_cli(run, prog="python -m segbench.bench")
    except SegbenchError as error:
        print(f"segbench.bench: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
