"""Nearest images of a pool within itself: every block of products serves both of its sides."""

import hashlib
import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from conceptarchive.errors import FormatError, StaleFolderError
from conceptarchive.features.rows import RowFiles, Rows
from conceptarchive.files import replacing
from conceptarchive.search.candidates import Candidates, Side, scan_pairs, scan_rows
from conceptarchive.search.neighbours import IntArray, Neighbours, check_cpu, check_search, settle
from conceptarchive.search.products import (
    SLACK,
    Multiplier,
    Precision,
    blocks,
    operand,
    rows_in_memory,
    share,
)

log = logging.getLogger(__name__)

BLOCK = 1024
BAND_BLOCKS = 16  # blocks of a band of rows held in memory
BAND_THREADS = 16  # a band is of one size on all machines, so that any can go on where one stopped
STEP_BLOCKS = 256  # blocks of columns between two chances to save
SAVE_S = 60.0  # least seconds between savings
VERSION = 1  # of the saved state
SAVING_SHARE = 0.05  # most of the time that may go into saving


class _Step(NamedTuple):
    """Rows `top` to `bottom` against columns `left` to `right`, left >= top."""

    top: int
    bottom: int
    left: int
    right: int


def self_join(  # noqa: PLR0913  # all but the pool go by name
    pool: Rows,
    *,
    count: int,
    drop: IntArray | None = None,
    precision: Precision = "float32",
    block: int = BLOCK,
    state: Path | None = None,
    stamp: str = "",
    save_s: float = SAVE_S,
    progress: Callable[[int], None] | None = None,
) -> Neighbours:
    """Find the `count` rows of highest cosine to every row of one pool.

    Equal to `nearest(pool, pool, ...)` in every bit at float32, in half the time: a product of two
    blocks is computed once and scanned for the rows and for the columns.

    Candidates take 12 (`count` + SLACK) bytes a row in memory: 5.4 GB for 28M rows at `count` 8 in
    float32. The pool may be larger than memory; it is then read once for every band of rows that
    fits into `products.MEMORY`.

    Args:
        pool: (n, D) unit rows, float16 or float32.
        count: rows wanted, >= 1; a smaller pool leaves the last places empty.
        drop: (n,) the row that each may not get (`np.arange(n)` for itself), -1 for none.
        precision: float32, or bfloat16 (see `nearest`).
        block: rows of a block.
        state: file in which to save the candidates now and then, and from which a join that was
            killed goes on. The caller removes it when the result is safe.
        stamp: what the caller knows of the pool and of `drop`, such as a checksum. A state with
            another stamp or other settings is refused.
        save_s: least seconds between savings; more where saving takes over 5 % of the time.
        progress: called with the number of rows that the finished products amount to, up to n.

    Raises:
        ValueError: `count` or `block` is below 1, or the precision is not for a CPU.
        StaleFolderError: the state is of another join.
        FormatError: the state cannot be read.
    """
    skip = check_search(pool, pool, count, drop)
    check_cpu(precision)
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    width = min(count + SLACK[precision], max(count, len(pool)))
    join = _Join(pool, skip, precision, block, width)
    band = _band(pool, width, block)
    saver = None
    if state is not None:
        saver = _Saver(state, save_s, join, (stamp, count, precision, block, band))
    join.run(list(_steps(len(pool), band, block)), saver, progress)
    again = block if precision == "float32" else None
    settled = settle(pool, pool, join.found, drop=skip, count=count, block=again)
    return Neighbours(settled.rows, settled.values)


def _band(pool: Rows, width: int, block: int) -> int:
    """Rows of a band: few in memory, where reading them again is cheap; many from disk."""
    size = BAND_BLOCKS * block
    if isinstance(pool, RowFiles):
        fitting = rows_in_memory(pool.shape[1], width, workers=BAND_THREADS)
        size = max(size, fitting // block * block)
    return size


def _steps(n: int, band: int, block: int) -> Iterator[_Step]:
    """All pairs of blocks on and above the diagonal, by bands, each from left to right."""
    for top, bottom in blocks(0, n, band):
        for left, right in blocks(top, n, max(band, STEP_BLOCKS * block)):
            yield _Step(top, bottom, left, right)


def _area(step: _Step) -> int:
    """Products of a step, roughly: what progress counts."""
    return (step.bottom - step.top) * (step.right - step.left)


class _Join:
    """The candidates of all rows, and the steps that fill them."""

    def __init__(
        self, pool: Rows, drop: IntArray, precision: Precision, block: int, width: int
    ) -> None:
        self.pool, self.drop, self.precision, self.block = pool, drop, precision, block
        self.found = Candidates.empty(len(pool), width)
        self.done = 0  # steps
        self._band: tuple[int, Tensor] | None = None  # first row and rows of the last step's band

    def run(
        self,
        steps: list[_Step],
        saver: "_Saver | None",
        progress: Callable[[int], None] | None,
    ) -> None:
        """Do what has not been done before."""
        total = max(1, sum(map(_area, steps)))
        finished = sum(map(_area, steps[: self.done]))
        for step in steps[self.done :]:
            self._do(step)
            self.done += 1
            finished += _area(step)
            if progress is not None:
                progress(len(self.pool) * finished // total)
            if saver is not None:
                saver.save_sometimes(self.found, self.done)

    def _do(self, step: _Step) -> None:
        """One step: a task is a block of columns, which one thread owns, against the whole band.

        What threads find for the rows of the band they collect apart and merge at the end. So a
        place is written by one thread, and sees rows in ascending order.
        """
        lines = self._lines(step)  # (band, D)
        band = self.found.part(step.top, step.bottom)
        edges, width = band.values[:, -1].copy(), band.values.shape[1]
        size = min(self.block, len(self.pool)) ** 2
        own: dict[int, tuple[Multiplier, Candidates]] = {}

        def work(number: int, columns: tuple[int, int]) -> None:
            if number not in own:
                mine = Candidates.above(edges, width)
                own[number] = (Multiplier(size, self.precision), mine)
            self._columns(step.top, lines, columns, own[number])

        share(blocks(step.left, step.right, self.block), work)
        for _, mine in own.values():
            band.merge(mine)

    def _lines(self, step: _Step) -> Tensor:
        """The rows of a band, converted once."""
        if self._band is None or self._band[0] != step.top:
            rows = self.pool[step.top : step.bottom]
            self._band = (step.top, operand(rows, self.precision))
        return self._band[1]

    def _columns(
        self,
        top: int,
        lines: Tensor,
        columns: tuple[int, int],
        own: tuple[Multiplier, Candidates],
    ) -> None:
        """One block of columns against the rows of a band that are not below it."""
        multiply, mine = own
        start, stop = columns
        inside = start < top + len(lines)
        theirs = Side(start, self.drop[start:stop], *self.found.part(start, stop))
        right = lines[start - top : stop - top] if inside else self._read(start, stop)
        for at, end in blocks(0, min(len(lines), stop - top), self.block):
            products = multiply(lines[at:end], right)
            side = Side(top + at, self.drop[top + at : top + end], *mine.part(at, end))
            if side.first == start:  # the diagonal: every pair is there twice
                scan_rows(products, side, start)
            else:
                scan_pairs(products, side, theirs)

    def _read(self, start: int, stop: int) -> Tensor:
        """A block of columns."""
        return operand(self.pool[start:stop], self.precision)


class _Saver:
    """Saves the candidates now and then, and gives them back to a join that is begun again."""

    def __init__(
        self, path: Path, every_s: float, join: _Join, settings: tuple[object, ...]
    ) -> None:
        self.path, self.every_s = path, every_s
        described = repr((VERSION, join.pool.shape, join.found.rows.shape, settings))
        self.join_id = hashlib.sha256(described.encode()).hexdigest()
        if self.path.exists():
            join.found, join.done = self._load()
            log.info("going on from %s after %d steps", self.path, join.done)
        self._due = time.monotonic() + self.every_s

    def save_sometimes(self, found: Candidates, done: int) -> None:
        """Save if it is time: not more often than every `every_s`, nor for over 5 % of the time."""
        began = time.monotonic()
        if began < self._due:
            return
        with replacing(self.path) as part, part.open("wb") as file:
            np.savez(file, values=found.values, rows=found.rows, done=done, join=self.join_id)
        ended = time.monotonic()
        self._due = ended + max(self.every_s, (ended - began) / SAVING_SHARE)

    def _load(self) -> tuple[Candidates, int]:
        """The saved candidates, if they are of this join."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                join_id, done = str(saved["join"]), int(saved["done"])
                found = Candidates(saved["values"], saved["rows"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(f"{self.path}: not a saved self-join; remove it") from error
        if join_id != self.join_id:
            raise StaleFolderError(
                f"{self.path}: saved by a search of another pool or with other settings; remove it"
                " or use them again"
            )
        return found, done
