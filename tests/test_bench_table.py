"""The table of all benchmarks: ratios to peers and distances to floors from made-up times."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
bench = runpy.run_path(str(ROOT / ".ci" / "bench.py"))
RATES = {"flops_per_s": 1e9, "bytes_per_s": 1e6, "threads": 2.0}


def timed(package: str, seconds: float, **told: Any) -> dict[str, Any]:
    fullname = f"packages/{package}/benchmarks/bench_a.py::test_a[x]"
    stats = {"median": seconds, "iqr": seconds / 10}
    return {"fullname": fullname, "name": "test_a[x]", "stats": stats, "extra_info": told}


def test_ratios_and_floors() -> None:
    measured = {
        "benchmarks": [
            timed("segbench", 0.030, work="count", way="peer", bytes=2000),
            timed("segbench", 0.010, work="count", way="ours", bytes=2000, flops=10**6),
            timed("groupvit", 0.005),
        ]
    }
    ours, peer, plain = bench["rows_of"](measured, RATES)
    assert (ours["way"], ours["ms"]) == ("ours", 10.0)
    # 2,000 bytes take 2 ms, a million products 1 ms: the longer one is the floor
    assert (ours["floor_ms"], ours["times_floor"]) == (2.0, 5.0)
    assert peer["way"] == "peer" and peer["ratio"] == pytest.approx(3.0)
    assert "floor_ms" not in peer
    assert (plain["package"], plain["work"], plain["way"]) == ("groupvit", "test_a[x]", "ours")


def test_rates_are_compared_by_item_and_peers_timed_beside_ours_count() -> None:
    measured = {
        "benchmarks": [
            timed("a", 2.0, work="rank", way="ours", items=1000),
            timed("a", 1.0, work="rank", way="loop", items=5),
            timed("a", 0.5, work="join", way="ours", others_ms={"faiss": 750.0}),
        ]
    }
    rows = {(row["work"], row["way"]): row for row in bench["rows_of"](measured, RATES)}
    assert rows["rank", "loop"]["ratio"] == pytest.approx(100.0)
    assert rows["join", "faiss"]["ratio"] == pytest.approx(1.5)


def test_the_table_has_a_line_for_each_work() -> None:
    measured = {
        "benchmarks": [
            timed("segbench", 0.010, work="count", way="ours", bytes=2000),
            timed("segbench", 0.030, work="count", way="peer"),
            timed("segbench", 0.020, work="count", way="other"),
        ]
    }
    about = {
        "date": "2026-01-01", "processor": "x", "load": 0.0, "versions": "v", "command": "c",
        "ceilings": RATES,
    }  # fmt: skip
    table = bench["markdown"](bench["rows_of"](measured, RATES), about)
    assert "| segbench | count | 10 | 2 | 5 | peer 30; other 20 | 3; 2 |" in table.splitlines()


def test_every_package_says_what_its_benchmarks_compare() -> None:
    """A benchmark that is timed notes its work, so that it stands in the table by name."""
    for path in sorted(ROOT.glob("packages/*/benchmarks/bench_*.py")):
        text = path.read_text(encoding="utf-8")
        if "benchmark(" in text or "benchmark.pedantic(" in text:
            assert "work=" in text and "way=" in text, path
