"""Measures conceptarchive on this machine and writes the figures that the README quotes.

    hatch run python packages/conceptarchive/benchmarks/run.py OUT.json [PART ...]

Parts: `mentions`, `rank`, `join` (100,000 rows against themselves, and faiss), `growth` (10,000 to
1,000,000 rows, every stage but the search), `release` (50,000 rows with autofaiss and a loop over
images, in an environment of its own that uv makes; and the whole of ours). All by default, about
15 minutes on 2 cores. Figures of parts that are not run are kept from an earlier OUT.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bench_archive import measure_rank_cluster
from bench_mentions import measure_mentions
from bench_neighbours import measure_self_join

HERE = Path(__file__).parent
SIZES = (10_000, 46_000, 215_000, 1_000_000)
RELEASE_ROWS, RELEASE_S = 50_000, 40.0
STAGES = ("begin", "mentions", "join", "rank", "finish")  # all but the search
AUTOFAISS = ("autofaiss", "pyarrow<19", "fsspec<2025", "scikit-learn", "nltk")

Figures = dict[str, Any]


def mentions() -> Figures:
    """Captions a second."""
    return measure_mentions()


def rank() -> Figures:
    """Ranking, clustering and sampling."""
    return measure_rank_cluster()


def join() -> Figures:
    """Exact neighbours of 100,000 rows among themselves, in float32 and in bfloat16."""
    exact = measure_self_join(100_000)
    half = measure_self_join(100_000, precision="bfloat16")
    return {
        "self_join_ratio_to_faiss_flat": exact["ratio"],
        "self_join_100k": exact,
        "self_join_100k_bfloat16": half,
    }


def growth() -> Figures:
    """Seconds of every stage at growing sizes, and the exponent of each."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in SIZES:
            runs.append(grow(Path(folder) / str(rows), rows))
            print(json.dumps(runs[-1]), file=sys.stderr)
    sizes = np.log([run["rows"] for run in runs])
    exponents = {
        name: float(np.polyfit(sizes, np.log([run[name] for run in runs]), 1)[0])
        for name in (*STAGES, "total")
    }
    return {
        "growth": runs,
        "exponents": exponents,
        "peak_rss_gib_at_1m": runs[-1]["peak_rss_gib"],
        "read_1024_ms_at_1m": runs[-1]["read_1024_ms"],
        "draw_1024_ms_at_1m": runs[-1]["draw_1024_ms"],
    }


def grow(folder: Path, rows: int) -> dict[str, float]:
    """One size, in a process of its own, so that its peak of memory is its own."""
    script = str(HERE / "growth.py")
    subprocess.run([sys.executable, script, "make", str(folder), str(rows)], check=True)
    done = subprocess.run(
        [sys.executable, script, "build", str(folder)], check=True, capture_output=True, text=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def release() -> Figures:
    """The same rows, curated as released and by us."""
    from growth import build_whole, make, write_plain

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, RELEASE_ROWS)
        write_plain(folder)
        start = time.perf_counter()
        ours = build_whole(folder)
        ours["total_s"] = time.perf_counter() - start
        packages = [word for package in AUTOFAISS for word in ("--with", package)]
        command = ["uv", "run", "--no-project", "--python", "3.11", *packages, "python"]
        script = str(HERE / "release_loop.py")
        done = subprocess.run(
            [*command, script, str(folder), str(RELEASE_S)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    theirs = json.loads(done.stdout.splitlines()[-1])
    return {
        "release_50k": theirs,
        "ours_50k": ours,
        "end_to_end_ratio_to_release_50k": theirs["total_s"] / ours["total_s"],
    }


PARTS: dict[str, Callable[[], Figures]] = {
    "mentions": mentions,
    "rank": rank,
    "join": join,
    "growth": growth,
    "release": release,
}


def main() -> None:
    """Run the parts asked for, and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    arguments = parser.parse_args()
    figures: Figures = {}
    if arguments.out.is_file():
        figures = json.loads(arguments.out.read_text(encoding="utf-8"))
    figures |= {"date": date.today().isoformat(), "machine": machine()}
    for part in arguments.parts:
        load = os.getloadavg()[0]
        start = time.perf_counter()
        figures |= PARTS[part]()
        figures.setdefault("parts", {})[part] = {
            "load_before": load, "seconds": time.perf_counter() - start,
        }  # fmt: skip
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(f"{part}\t{time.perf_counter() - start:.0f} s", file=sys.stderr)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "numba", "faiss-gpu")},
    }


if __name__ == "__main__":
    main()
