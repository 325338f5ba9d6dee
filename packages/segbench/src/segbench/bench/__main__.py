"""Command line: `python -m segbench.bench --device cuda`."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from segbench.bench.decode import PATHS, USUAL, measure_confusion, measure_decode, peak_bytes
from segbench.bench.machine import describe_machine
from segbench.device import named_device
from segbench.errors import SegbenchError, UsageError
from segbench.files import write_atomically


def run(*, device: str = "cpu", out: Path = Path("docs/results"), overwrite: bool = False) -> None:
    """Measure this machine, print the figures and write OUT/DATE-segbench-bench-DEVICE.json.

    Times are medians, with the 20th and 80th percentile beside them as NAME_p20 and NAME_p80.

    Args:
        device: cpu, cuda or cuda:1.
        out: folder.
        overwrite: replace a file of this day that is there.
    """
    where, today = named_device(device), date.today().isoformat()
    file = out / f"{today}-segbench-bench-{where.type}.json"
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there; choose another folder, or pass --overwrite true")
    decode = measure_decode(where)
    peaks = {path: peak_bytes(path, where) for path in PATHS}
    figures: dict[str, Any] = {
        "date": today,
        "machine": describe_machine(where),
        "command": f"python -m segbench.bench --device {device}",
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
    write_atomically(file, f"{text}\n".encode())
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
