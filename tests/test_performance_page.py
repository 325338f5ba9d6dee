"""Figures of docs/performance.md are those of the files that they name."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "performance.md").read_text(encoding="utf-8")
FILE = re.compile(r"\(results/([\w.-]+\.json)\)")
KERNEL = ("busy_ms/ours", "busy_ms/reference", "busy_ms/compiled reference", "floor_ms")
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}

Row = tuple[str, str, list[str], str]
"""File, heading of the column of keys, cells with figures, key."""


def rows() -> Iterator[Row]:
    """Rows of all tables whose last column says where a figure stands."""
    file, kind = "", ""
    for line in PAGE.splitlines():
        if found := FILE.search(line):
            file = found[1]
        if not line.startswith("|"):
            kind = ""
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not kind:
            kind = cells[-1]
        elif "key" in kind and not set(line) <= set("|-"):
            yield file, kind, cells[1:-1], cells[-1].strip("`")


ROWS = list(rows())


def value(file: str, key: str) -> float:
    found: Any = json.loads((DOCS / "results" / file).read_text(encoding="utf-8"))
    parts = key.split("/")
    while parts:
        if isinstance(found, list):
            found = found[int(parts.pop(0))]
            continue
        # names of things may have a slash in them
        name = next(
            "/".join(parts[:n]) for n in range(1, len(parts) + 1) if "/".join(parts[:n]) in found
        )
        found, parts = found[name], parts[name.count("/") + 1 :]
    return float(found)


def agrees(cell: str, exact: float) -> bool:
    """Whether a figure is a rounding of a number, to the places that it is printed with."""
    digits = cell.split()[0].replace(",", "")
    places = len(digits.partition(".")[2])
    step = 10.0**-places
    if not places and len(digits) > 3:  # 193,900 has four figures, as 1,573,000 has
        step = 10.0 ** (len(digits) - len(digits.rstrip("0")))
    return abs(float(digits) - exact) <= 0.5001 * step


def expected(kind: str, file: str, key: str, cells: Sequence[str]) -> list[float]:
    """The numbers behind the cells of a row."""
    if kind == "keys":
        return [value(file, f"{key}/{part}") for part in KERNEL]
    if kind == "from key":
        return list(extrapolated(file, key, cells))
    return [value(file, key.replace("*", str(place))) for place in range(len(cells))]


def extrapolated(file: str, key: str, cells: Sequence[str]) -> Iterator[float]:
    """Seconds at 3, 30 and 400 million pairs, in the unit that a cell has."""
    for millions, cell in zip((3, 30, 400), cells, strict=True):
        factor = (10 * millions) ** 2 if "self_join" in key else millions
        yield value(file, key) * factor / SECONDS[cell.split()[1]]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}:{row[3]}")
def test_a_figure_is_that_of_its_file(row: Row) -> None:
    file, kind, cells, key = row
    for cell, exact in zip(cells, expected(kind, file, key, cells), strict=True):
        assert agrees(cell, exact), f"{key}: the page says {cell}, the file {exact}"


def test_the_page_has_figures_of_every_package() -> None:
    assert len(ROWS) > 60
    named = {row[0].split("-bench")[0].rpartition("-")[2] for row in ROWS}
    assert named == {"conceptarchive", "groupvit", "maskcluster", "segbench"}


@pytest.mark.parametrize(
    ("cell", "exact", "is_so"),
    [
        ("112.1", 112.128, True),
        ("112.2", 112.128, False),
        ("193,900", 193_899.7, True),
        ("9,132", 9132.4, True),
        ("9,131", 9132.4, False),
        ("157", 156.6, True),
        ("3.3 min", 3.334, True),
    ],
)
def test_what_counts_as_a_rounding(cell: str, exact: float, is_so: bool) -> None:
    assert agrees(cell, exact) is is_so
