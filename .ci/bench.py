"""Run every package's benchmarks and write one table: times, ratios to peers, distance to floors.

    hatch run bench [--out FOLDER] [PYTEST ARGUMENTS, such as packages/segbench]

pytest-benchmark times; what it has measured becomes bench.md and bench.json in FOLDER (`runs`). A
benchmark takes part in comparisons by what it notes in `extra_info`:

    work        what is done: the same words for everything that does the same
    way         who does it: "ours", or the name of a peer
    items       of how many things, where ours and a peer do not do as many (a rate)
    flops       products and sums that the work needs at least
    bytes       that it has to read and write at least
    others_ms   {peer: milliseconds}, of peers that were timed in the same benchmark

The floor is the longer of flops and bytes at this machine's own rates, measured just before: a
float32 product, a copy. Times of a busy machine are worth nothing; the load is noted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = "ours"
PRODUCT, COPY_BYTES, REPEATS = 2048, 1 << 28, 5

Row = dict[str, Any]


def ceilings() -> dict[str, float]:
    """The machine's own rates, the best of several: float32 products and a copy, all threads."""
    import torch

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    left, right = torch.randn(2, PRODUCT, PRODUCT)
    source, target = torch.ones(2, COPY_BYTES, dtype=torch.uint8)
    return {
        "flops_per_s": 2 * PRODUCT**3 / best(lambda: left @ right),
        "bytes_per_s": 2 * COPY_BYTES / best(lambda: target.copy_(source)),
        "threads": float(torch.get_num_threads()),
    }


def run_benchmarks(arguments: Sequence[str], result: Path) -> int:
    """Let pytest-benchmark time; its exit code."""
    command = [
        sys.executable, "-m", "pytest", "-o", "python_files=bench_*.py", "--benchmark-only",
        f"--benchmark-json={result}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def rows_of(measured: Mapping[str, Any], rates: Mapping[str, float]) -> list[Row]:
    """One row for each way of doing each work, ours first; times are of one item.

    Args:
        measured: what pytest-benchmark has written.
        rates: of `ceilings`.
    """
    rows: list[Row] = []
    for bench in measured["benchmarks"]:
        told, stats = bench.get("extra_info", {}), bench["stats"]
        items = told.get("items", 1)
        row = {
            "package": _package(bench["fullname"]),
            "work": told.get("work", bench["name"]),
            "way": told.get("way", OURS),
            "ms": 1e3 * stats["median"] / items,
            "spread": stats["iqr"] / stats["median"],
            "items": items,
        }
        floors = {"flops": "flops_per_s", "bytes": "bytes_per_s"}
        needed = [told[what] / rates[rate] for what, rate in floors.items() if what in told]
        if needed and row["way"] == OURS:
            row["floor_ms"] = 1e3 * max(needed) / items
        rows.append(row)
        others = told.get("others_ms", {})
        rows += [{**_bare(row), "way": peer, "ms": ms} for peer, ms in others.items()]
    return _with_ratios(rows)


def _bare(row: Row) -> Row:
    return {name: row[name] for name in ("package", "work", "items")}


def _package(fullname: str) -> str:
    return fullname.removeprefix("packages/").partition("/")[0]


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows by work, ours first, with a peer's time over ours, and ours over the floor."""
    ours = {(row["package"], row["work"]): row for row in rows if row["way"] == OURS}
    done = []
    for row in rows:
        own = ours.get((row["package"], row["work"]))
        if own is not None and row is not own:
            row["ratio"] = row["ms"] / own["ms"]
        if "floor_ms" in row:
            row["times_floor"] = row["ms"] / row["floor_ms"]
        done.append(row)
    order = list(dict.fromkeys((row["package"], row["work"]) for row in done))
    return sorted(
        done, key=lambda row: (order.index((row["package"], row["work"])), row["way"] != OURS)
    )


def markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The table as Markdown: a line for each work, its peers beside it."""
    rates = about["ceilings"]
    lines = [
        f"# Benchmarks, {about['date']}",
        "",
        f"{about['processor']}, {rates['threads']:.0f} threads, load {about['load']:.1f} before; "
        f"products {rates['flops_per_s'] / 1e9:.0f} GFLOP/s in float32, "
        f"copy {rates['bytes_per_s'] / 1e9:.1f} GB/s. {about['versions']}. `{about['command']}`",
        "",
        "Times are medians, of one item where a work has many; a ratio is a peer's time over ours, "
        "and below 1.1 it is noise.",
        "",
        "| package | work | ours, ms | floor, ms | times floor | peer, ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row["way"] == OURS):
        peers = [
            peer for peer in rows
            if (peer["package"], peer["work"]) == (row["package"], row["work"])
            and peer["way"] != OURS
        ]  # fmt: skip
        floor = f"{row['floor_ms']:.3g}" if "floor_ms" in row else ""
        times = f"{row['times_floor']:.3g}" if "floor_ms" in row else ""
        named = "; ".join(f"{peer['way']} {peer['ms']:.3g}" for peer in peers)
        ratios = "; ".join(f"{peer['ratio']:.3g}" for peer in peers)
        cells = [row["package"], row["work"], f"{row['ms']:.3g}", floor, times, named, ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def about_this_run(arguments: Sequence[str]) -> Row:
    """Machine, versions, load and command."""
    import numpy as np
    import torch

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "versions": f"torch {torch.__version__}, numpy {np.__version__}",
        "command": " ".join(["hatch run bench", *arguments]).strip(),
        "ceilings": ceilings(),
    }


def main() -> int:
    """Run, and write bench.md and bench.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="folder of the table")
    given, arguments = parser.parse_known_args()
    given.out.mkdir(parents=True, exist_ok=True)
    about = about_this_run(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "benchmarks.json"
        code = run_benchmarks(arguments or ["packages"], result)
        if not result.is_file() or not result.stat().st_size:
            print("bench: nothing was timed", file=sys.stderr)
            return code or 1
        rows = rows_of(json.loads(result.read_text(encoding="utf-8")), about["ceilings"])
    (given.out / "bench.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    (given.out / "bench.md").write_text(markdown(rows, about), encoding="utf-8")
    print(markdown(rows, about))
    return code


if __name__ == "__main__":
    sys.exit(main())
