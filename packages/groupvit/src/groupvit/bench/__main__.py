"""Command line: `python -m groupvit.bench --device cuda`."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from groupvit.bench.cpu import measure_cpu
from groupvit.bench.gpu import (
    STEPS,
    measure_kernels,
    measure_largest,
    measure_steps,
    profile_step,
)
from groupvit.bench.measure import Ceilings, describe_machine, measure_ceilings
from groupvit.bench.table import as_markdown
from groupvit.device import named_device
from groupvit.errors import GroupViTError, UsageError

PARTS = ("kernels", "steps", "largest", "profile")
USUAL = "kernels,steps,largest"

Figures = dict[str, Any]


def run(*, device: str = "cuda", out: Path = Path("docs/results"), parts: str = USUAL) -> None:
    """Measure this machine and write OUT/DATE-groupvit-bench-DEVICE.json and .md.

    On a GPU: every kernel against its reference (a kernel that is wrong is not timed), the
    reference compiled, libraries, and the floor that the machine's own copy and product rates set;
    the training step at 1,024 pairs against Hugging Face's model; the largest batch that fits.
    Under eight minutes. On a CPU: ratios to Hugging Face's model and to the original's
    formulations; about ten minutes on two cores.

    Args:
        device: cuda, cuda:1, ... or cpu.
        out: folder.
        parts: on a GPU, which of kernels, steps, largest and profile, separated by commas; each is
            written as soon as it is done.
    """
    wanted = parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise UsageError(f"--parts knows {', '.join(PARTS)}, got {sorted(unknown)[0]!r}")
    where = named_device(device)
    if where.type == "cpu" and parts != USUAL:
        raise UsageError("--parts chooses what is measured on a GPU; leave it out on a CPU")
    begin = time.perf_counter()
    figures: Figures = {"date": date.today().isoformat(), "machine": describe_machine(where)}
    ceilings = measure_ceilings(where)
    figures["ceilings"] = ceilings.as_dict()
    stem = out / f"{figures['date']}-groupvit-bench-{where.type}"
    for found in [measure_cpu()] if where.type == "cpu" else _on_gpu(where, wanted, ceilings):
        figures |= found
        figures["seconds"] = round(time.perf_counter() - begin, 1)
        _write(stem, figures)
    print(as_markdown(figures))


def _on_gpu(device: torch.device, parts: list[str], ceilings: Ceilings) -> Iterator[Figures]:
    *first, last = STEPS  # the slowest to compile comes last
    steps: Figures = {}
    if "steps" in parts:
        steps = measure_steps(device, first)
        yield {"steps": steps}
    if "kernels" in parts:
        yield {"kernels": measure_kernels(device, ceilings)}
    if "largest" in parts:
        yield {"largest": measure_largest(device)}
    if "steps" in parts:
        yield {"steps": steps | measure_steps(device, [last])}
    if "profile" in parts:
        yield {"profile_ms": profile_step(device)}


def _write(stem: Path, figures: Figures) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(figures, indent=1)), (".md", as_markdown(figures))):
        unfinished = stem.with_name(f".{stem.name}{suffix}.tmp")
        unfinished.write_text(text + "\n")
        unfinished.replace(stem.with_name(stem.name + suffix))


def main() -> int:
    """Run; return the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        auto_cli(run, prog="python -m groupvit.bench")
    except GroupViTError as error:
        print(f"groupvit.bench: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
