"""Command line: `python -m segbench.bench --device cuda`."""

import json
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from segbench.bench.decode import PATHS, USUAL, measure_confusion, measure_decode, peak_bytes
from segbench.errors import SegbenchError, UsageError
from segbench.files import write_atomically


def run(*, device: str = "cpu", out: Path = Path("docs/results")) -> None:
    """Measure this machine, print the figures and write OUT/DATE-segbench-bench-DEVICE.json.

    Args:
        device: cpu, cuda or cuda:1.
        out: folder.
    """
    try:
        where = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).partition(chr(10))[0]}") from error
    decode = measure_decode(where)
    peaks = {path: peak_bytes(path, where) for path in PATHS}
    figures: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": {
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "command": "python -m segbench.bench --device " + where.type,
        "decode_ratio_to_eager_171": decode[USUAL]["ratio"],
        "decode_memory_ratio_to_eager_171": peaks["eager"] / max(peaks["ours"], 1),
        "decode_peak_bytes": peaks,
        "decode_ms": decode,
    }
    if where.type == "cpu":
        confusion = measure_confusion()
        figures["confusion_ratio_to_torchmetrics"] = confusion["torchmetrics"] / confusion["ours"]
        figures["confusion_ratio_to_histc"] = confusion["histc"] / confusion["ours"]
        figures["confusion_ms"] = confusion
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1)
    write_atomically(
        out / f"{figures['date']}-segbench-bench-{where.type}.json", f"{text}\n".encode()
    )
    print(text)


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
