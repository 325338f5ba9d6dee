"""Run lengths of a mask, column after column, as COCO and SA-1B store them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from maskcluster.errors import FormatError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]

MOST_PIXELS = 178_956_970
"""As many as Pillow takes for harmless; more is taken for a damaged file."""

_FAULTS = (
    "",
    "has a character outside of '0' to 'o'",
    "ends in the middle of a number",
    "has a number that is too large",
)


@dataclass(frozen=True, slots=True, eq=False)
class Rle:
    """A mask as the lengths of its runs of zeros and ones in turn, down the columns.

    Pixel (y, x) is number x * height + y. The first run is of zeros and may be empty; other empty
    runs are merged away on construction, so that equal masks have equal runs.

    Attributes:
        height: H, at least 1.
        width: W, at least 1.
        runs: (n,) int64, not to be written to; they add up to H * W.

    Raises:
        FormatError: a run is negative, or they do not add up.
    """

    height: int
    width: int
    runs: IntArray

    def __post_init__(self) -> None:
        runs = np.ascontiguousarray(self.runs, np.int64)
        if self.height < 1 or self.width < 1 or self.height * self.width > MOST_PIXELS:
            raise FormatError(f"a mask cannot be {self.height} x {self.width}")
        pixels = self.height * self.width
        if runs.ndim != 1 or runs.min(initial=0) < 0 or runs.max(initial=0) > pixels:
            raise FormatError(f"run lengths must be a list of numbers from 0 to {pixels}")
        if runs.sum() != pixels:
            raise FormatError(
                f"run lengths add up to {runs.sum()}, a mask of {self.height} x {self.width} "
                f"(height x width) has {pixels} pixels"
            )
        if not runs[1:].all():
            runs = _merge_empty(runs)
        runs.setflags(write=False)
        object.__setattr__(self, "runs", runs)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rle)
            and (self.height, self.width) == (other.height, other.width)
            and np.array_equal(self.runs, other.runs)
        )

    def __hash__(self) -> int:
        return hash((self.height, self.width, self.runs.tobytes()))

    @classmethod
    def from_mask(cls, mask: BoolArray) -> "Rle":
        """Encode a mask.

        Args:
            mask: (H, W) bool.
        """
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
        flat = mask.ravel(order="F")  # (W * H,)
        turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        first = [0] if len(flat) and flat[0] else []
        edges = np.concatenate([first, [0], turns, [len(flat)]]).astype(np.int64)
        return cls(mask.shape[0], mask.shape[1], np.diff(edges))

    @classmethod
    def from_counts(cls, height: int, width: int, counts: Sequence[int]) -> "Rle":
        """Take COCO's uncompressed counts.

        Raises:
            FormatError: not whole numbers from 0, or they do not add up.
        """
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in counts):
            raise FormatError("run lengths must be whole numbers")
        try:
            return cls(height, width, np.array(counts, np.int64))
        except OverflowError as error:
            raise FormatError("a run length is too large") from error

    @classmethod
    def from_string(cls, height: int, width: int, counts: bytes | str) -> "Rle":
        """Decode COCO's compressed string.

        A number is written in digits of 5 bits from the lowest, each as a character from '0', with
        bit 5 set where another follows; from the fourth on it is the difference to the one two
        before. (cocodataset/cocoapi, `rleFrString`.)

        Raises:
            FormatError: not such a string, or the runs do not add up.
        """
        raw = counts.encode(errors="replace") if isinstance(counts, str) else counts
        runs = np.empty(len(raw), np.int64)
        number, fault = _parse_counts(np.frombuffer(raw, np.uint8), runs)
        if fault:
            raise FormatError(f"the run-length string {_FAULTS[fault]}")
        return cls(height, width, runs[:number].copy())

    def to_string(self) -> bytes:
        """COCO's compressed string, as pycocotools writes it."""
        text = np.empty(len(self.runs) * 13, np.uint8)
        return text[: _write_counts(self.runs, text)].tobytes()

    def to_mask(self) -> BoolArray:
        """(H, W) bool."""
        values = np.arange(len(self.runs)) % 2 == 1  # (n,)
        flat: BoolArray = np.repeat(values, self.runs)
        return flat.reshape(self.width, self.height).T

    @property
    def area(self) -> int:
        """Pixels that are set."""
        return int(self.runs[1::2].sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Half-open XYXY box around the mask; zeros for an empty one."""
        x0, y0, x1, y1 = _box(self.runs, self.height)
        return int(x0), int(y0), int(x1), int(y1)

    def place(self, height: int, width: int, x: int, y: int) -> "Rle":
        """The mask as part of a larger one, its upper left pixel at column x and row y.

        Raises:
            ValueError: it does not fit in there.
        """
        if not (0 <= x <= width - self.width and 0 <= y <= height - self.height):
            raise ValueError(
                f"a mask of {self.height} x {self.width} does not fit at row {y}, column {x} "
                f"of {height} x {width}"
            )
        edges = np.empty(len(self.runs) + 2 * self.width + 2, np.int64)
        count = _place(self.runs, self.height, height, x, y, edges)
        edges[count] = height * width
        return Rle(height, width, np.diff(edges[: count + 1], prepend=0))

    def sample(self, rows: npt.ArrayLike, columns: npt.ArrayLike) -> BoolArray:
        """Look pixels up without decoding: nearest resizing, crop and flip are only such indices.

            out[i, j] = mask[floor(rows[i]), floor(columns[j])]

        Args:
            rows: (r,) source row of each row of the result, in [0, H); any order.
            columns: (c,) source column of each column, in [0, W).

        Returns:
            (r, c) bool.

        Raises:
            ValueError: an index is outside of the mask.
        """
        bits = self.sample_bits(rows, columns)
        count = np.size(columns)
        return np.unpackbits(bits, axis=1, count=count, bitorder="little").view(np.bool_)

    def sample_bits(self, rows: npt.ArrayLike, columns: npt.ArrayLike) -> ByteArray:
        """Like `sample`, in packed bits.

        Returns:
            (r, ceil(c / 8)) uint8; bit b of byte i of a row is column 8 i + b.
        """
        y, x = checked_grid(rows, columns, self.height, self.width)
        bits = np.zeros((len(y), (len(x) + 7) // 8), np.uint8)
        order = np.argsort(y, kind="stable")
        _sample(np.cumsum(self.runs), self.height, y[order], order, x, bits)
        return bits


def sample_all(masks: Sequence[Rle], rows: npt.ArrayLike, columns: npt.ArrayLike) -> ByteArray:
    """Sample masks of one size at the same pixels, in packed bits.

    Returns:
        (M, r, ceil(c / 8)) uint8, as `Rle.sample_bits`.
    """
    if not masks:
        return np.zeros((0, np.size(rows), (np.size(columns) + 7) // 8), np.uint8)
    first = masks[0]
    y, x = checked_grid(rows, columns, first.height, first.width)
    order = np.argsort(y, kind="stable")
    bits = np.zeros((len(masks), len(y), (len(x) + 7) // 8), np.uint8)
    for mask, out in zip(masks, bits, strict=True):
        if (mask.height, mask.width) != (first.height, first.width):
            raise ValueError("masks must be of one size")
        _sample(np.cumsum(mask.runs), mask.height, y[order], order, x, out)
    return bits


def checked_grid(
    rows: npt.ArrayLike, columns: npt.ArrayLike, height: int, width: int
) -> tuple[IntArray, IntArray]:
    """Whole source rows and columns, all inside of a mask; fractions are rounded down."""
    found = []
    for name, given, size in (("rows", rows, height), ("columns", columns, width)):
        index = np.floor(np.asarray(given)).astype(np.int64)  # (r,) or (c,)
        if index.ndim != 1:
            raise ValueError(f"{name} must be one list, got shape {index.shape}")
        if len(index) and not 0 <= index.min() <= index.max() < size:
            raise ValueError(f"{name} must be in [0, {size}), got {index.min()} to {index.max()}")
        found.append(index)
    return found[0], found[1]


def masks_of_labels(labels: npt.NDArray[np.integer], *, ignored: int = -1) -> list[Rle]:
    """One mask per value of a label map, by rising value, all in one pass.

    Args:
        labels: (H, W) integers.
        ignored: a value that gets no mask.

    Returns:
        Masks that do not overlap and, with the ignored pixels, cover the map.
    """
    height, width = labels.shape
    flat = labels.ravel(order="F")  # (W * H,)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])  # (n,)
    ends = np.append(starts[1:], len(flat))
    value = flat[starts]
    order = np.argsort(value, kind="stable")
    cuts = np.flatnonzero(np.diff(value[order])) + 1
    masks = []
    for member in np.split(order, cuts):
        if value[member[0]] != ignored:
            edges = np.stack([starts[member], ends[member]], axis=1).ravel()
            masks.append(Rle(height, width, np.diff(np.concatenate([[0], edges, [len(flat)]]))))
    return masks


def _merge_empty(runs: IntArray) -> IntArray:
    """Runs without empty ones but for the first, and without a last one of no length."""
    value = np.arange(len(runs)) % 2
    kept = runs > 0
    runs, value = runs[kept], value[kept]
    first = np.flatnonzero(np.diff(value, prepend=-1))
    merged = np.add.reduceat(runs, first)
    return merged if value[0] == 0 else np.concatenate([np.zeros(1, np.int64), merged])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _parse_counts(text: ByteArray, runs: IntArray) -> tuple[int, int]:
    """Fill `runs`; return how many, and the number of the fault (0 for none)."""
    at, number = 0, 0
    while at < len(text):
        value, shift, more = np.int64(0), 0, True
        while more:
            if at == len(text):
                return 0, 2
            digit = np.int64(text[at]) - 48
            if digit < 0 or digit > 63:
                return 0, 1
            if shift > 50:
                return 0, 3
            value |= (digit & 31) << shift
            shift += 5
            at += 1
            more = (digit & 32) != 0
            if not more and (digit & 16) != 0:
                value |= np.int64(-1) << shift
        if number > 2:
            value += runs[number - 2]
        runs[number] = value
        number += 1
    return number, 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _write_counts(runs: IntArray, text: ByteArray) -> int:
    """Fill `text`; return its length."""
    at = 0
    for number in range(len(runs)):
        value = runs[number]
        if number > 2:
            value -= runs[number - 2]
        more = True
        while more:
            digit = value & 31
            value >>= 5
            more = (value != -1) if (digit & 16) != 0 else (value != 0)
            text[at] = 48 + digit + (32 if more else 0)
            at += 1
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _box(runs: IntArray, height: int) -> tuple[Any, Any, Any, Any]:
    """Half-open XYXY; zeros if no run of ones has a length."""
    x0, y0, x1, y1 = np.int64(-1), np.int64(height), np.int64(0), np.int64(0)
    start = np.int64(0)
    for number in range(len(runs)):
        end = start + runs[number]
        if number % 2 == 1:
            first, last = start // height, (end - 1) // height
            if x0 < 0:
                x0 = first
            x1 = last + 1
            if first == last:
                y0, y1 = min(y0, start % height), max(y1, (end - 1) % height + 1)
            else:  # the run goes on at the top of the next column
                y0, y1 = np.int64(0), np.int64(height)
        start = end
    if x0 < 0:
        return 0, 0, 0, 0
    return x0, y0, x1, y1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _place(runs: IntArray, height: int, whole_height: int, x: int, y: int, edges: IntArray) -> int:
    """Fill `edges` with where runs of ones start and end in the larger mask; return how many."""
    count, start = 0, np.int64(0)
    for number in range(len(runs)):
        end = start + runs[number]
        while number % 2 == 1 and start < end:  # a run goes on in the next column
            column = start // height
            stop = min(end, (column + 1) * height)
            first = (column + x) * whole_height + y + start % height
            if count > 0 and edges[count - 1] == first:
                count -= 1
            else:
                edges[count] = first
                count += 1
            edges[count] = first + stop - start
            count += 1
            start = stop
        start = end
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _sample(
    ends: IntArray,
    height: int,
    rows: IntArray,
    order: IntArray,
    columns: IntArray,
    bits: ByteArray,
) -> None:
    """Set the bits of what is in the mask: a walk along the runs, once down each column.

    Args:
        ends: (n,) where each run ends.
        height: H.
        rows: (r,) source rows, ascending.
        order: (r,) which row of the result each is.
        columns: (c,) source columns.
        bits: (r, ceil(c / 8)) zeros, written to.
    """
    if len(rows) == 0:
        return
    for column in range(len(columns)):
        top = columns[column] * height
        run = np.searchsorted(ends, top + rows[0], side="right")  # holds the first row
        byte, bit = column >> 3, np.uint8(1 << (column & 7))
        at = 0
        while at < len(rows):
            bottom = ends[run] - top  # first row after this run
            if run % 2 == 1:
                while at < len(rows) and rows[at] < bottom:
                    bits[order[at], byte] |= bit
                    at += 1
            elif bottom > rows[-1]:
                break
            else:
                while rows[at] < bottom:
                    at += 1
            run += 1
            while at < len(rows) and ends[run] - top <= rows[at]:
                run += 1  # a run between two sampled rows
