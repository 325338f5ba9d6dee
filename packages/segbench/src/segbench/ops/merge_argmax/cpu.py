"""Merge windows, resize and compare on a CPU, tile by tile: numba, and rows of tiles in threads.

A score of a pixel is a weighted mean of the resized image's, which are means over the windows that
cover them, of weighted means of a window's places. So over a tile of pixels a class is nowhere
above the mean of its windows' largest touched places, and nowhere below that of their smallest. A
class whose largest is below another's smallest wins nowhere in the tile (segbench's spec, 10.4 and
10.5). For the other classes the part of the resized image below the tile is made, and no more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segbench.ops.count_argmax.cpu import (
    ABSOLUTE,
    FloatArray,
    Found,
    IntArray,
    Taps,
    compiled,
    fuses_products,
    mix,
    run_bands,
    taps,
)
from segbench.ops.merge_argmax.reference import Place

TILE = 16
"""Side of a tile, in pixels of the labels."""
LANES = 16
"""Classes whose scores are made at a time, side by side, as a processor's vectors want them."""


class Axis(NamedTuple):
    """One axis: pixels of the labels, of the resized image and of windows, and windows' places."""

    outer: Taps
    """Of the labels' pixels between those of the resized image."""
    inner: Taps
    """Of a window's pixels between its places."""
    begins: IntArray
    """(n,) first pixel of every window in the resized image."""
    cuts: IntArray
    """Pixels of the resized image before which a window begins or ends, ascending."""


class Windows(NamedTuple):
    """Low-resolution scores of n windows, laid out twice."""

    planes: FloatArray
    """(n, C, h, w)"""
    places: FloatArray
    """(n, h, w, C)"""


class Region(NamedTuple):
    """A part of the resized image, half-open, in its pixels."""

    top: int
    bottom: int
    left: int
    right: int


class Bounds(NamedTuple):
    """What no score in a tile is beyond; (C,) each."""

    least: FloatArray
    most: FloatArray
    size: FloatArray
    """Largest magnitude of a place, by which the rounding error is known."""


class Space(NamedTuple):
    """What a thread writes while it works on a tile; scores of LANES classes lie side by side."""

    bounds: Bounds
    of_part: Bounds
    """Of the places of a window; `size` is not used."""
    sums: Bounds
    """Of the windows that cover a part of a tile; `size` is not used."""
    kept: IntArray
    """(C + LANES,) classes that may win, ascending, the last repeated to fill the lanes."""
    touching: IntArray
    """(n,) windows that cover a part of the tile, ascending."""
    hits: FloatArray
    """(y, x LANES) number of windows by pixel of the region, in every lane."""
    total: FloatArray
    """(y, x LANES) scores by pixel of the region."""
    corners: FloatArray
    """(w LANES,) a row of a window's places."""
    across: FloatArray
    """(y, x LANES) rows of a window's places, or of the region, resized to more columns."""
    best: FloatArray
    """(y, x LANES) largest scores so far by pixel of the tile and lane."""
    winner: IntArray
    """(y, x LANES) places in `kept`, less the lane, of the classes of `best`."""


def merge_axis(begins: Sequence[int], window_px: int, places: int, resized: int, px: int) -> Axis:
    """Axis of windows of `places` places and `window_px` pixels in `resized` pixels, for `px`."""
    starts = np.array(begins, dtype=np.int32)  # (n,)
    cuts = np.unique(np.concatenate([starts, starts + window_px])).astype(np.int32)
    return Axis(taps(resized, px), taps(places, window_px), starts, cuts)


def rounding_error(windows: int) -> np.float32:
    """Rounding error of a merged and resized score, relative to its largest place.

    2^-21 for each resize (`segbench.ops.count_argmax.cpu.RELATIVE`), 2^-24 for each addition and
    for the quotient, and the same once more for the bounds: below 2^-19 + windows 2^-22.
    """
    return np.float32(2.0**-19 + windows * 2.0**-22)


def merge_argmax_cpu(
    windows: FloatArray,
    places: Sequence[Place],
    resized_size: tuple[int, int],
    size: tuple[int, int],
    *,
    prune: bool = True,
    fused: bool | None = None,
) -> Found:
    """Same contract as `segbench.ops.merge_argmax.merge_argmax`, all sizes as the large ones.

    Args:
        windows: (n, C, h, w) float32, contiguous, magnitudes at most 1e38 / n.
        places: n rectangles of one size.
        resized_size: (H', W').
        size: (H, W).
        prune: whether to leave out classes that cannot win; the result is the same.
        fused: whether a product and a sum are rounded once; by default as ATen does here.
    """
    tops, lefts, bottoms, rights = zip(*places, strict=True)
    edges = (tops, bottoms[0] - tops[0]), (lefts, rights[0] - lefts[0])
    rows, columns = (
        merge_axis(*edges[axis], windows.shape[2 + axis], resized_size[axis], size[axis])
        for axis in (0, 1)
    )
    scores = Windows(windows, np.ascontiguousarray(windows.transpose(0, 2, 3, 1)))
    found = Found(np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int32))  # (H, W) each
    if fused is None:
        fused = fuses_products()
    error = rounding_error(len(windows))

    def compare(first: int, last: int) -> None:
        _compare_tiles(scores, rows, columns, first, last, found, error, prune, fused)

    run_bands(compare, -(-size[0] // TILE))
    return found


@compiled
def _compare_tiles(  # noqa: PLR0913  # compiled code keeps no state
    windows: Windows,
    rows: Axis,
    columns: Axis,
    first: int,
    last: int,
    found: Found,
    error: np.float32,
    prune: bool,
    fused: bool,
) -> None:
    """Fill `found` at rows of tiles `first` to `last`."""
    height, width = found.best.shape
    space = _space(windows, rows, columns, height, width)
    for top in range(first * TILE, min(last * TILE, height), TILE):
        bottom = min(top + TILE, height)
        for left in range(0, width, TILE):
            right = min(left + TILE, width)
            region = Region(
                rows.outer.low[top],
                rows.outer.high[bottom - 1] + 1,
                columns.outer.low[left],
                columns.outer.high[right - 1] + 1,
            )
            kept = _possible(windows, rows, columns, region, space, error, prune)
            touching = _touch(rows, columns, region, space)
            space.best[:] = -np.inf
            for start in range(0, kept, LANES):
                classes = space.kept[start : start + LANES]
                _merge(windows, classes, touching, rows, columns, region, space, fused)
                tile = Region(top, bottom, left, right)
                _keep_larger(start, rows, columns, region, tile, space, fused)
            best, winner = found.best[top:bottom, left:right], found.winner[top:bottom, left:right]
            _reduce(space, min(kept, LANES), best, winner)


@compiled
def _space(windows: Windows, rows: Axis, columns: Axis, height: int, width: int) -> Space:
    count, classes, places_y, places_x = windows.planes.shape
    tall, wide = _largest(rows.outer, height), _largest(columns.outer, width)
    bounds = np.empty((9, classes), dtype=np.float32)
    return Space(
        Bounds(bounds[0], bounds[1], bounds[2]),
        Bounds(bounds[3], bounds[4], bounds[5]),
        Bounds(bounds[6], bounds[7], bounds[8]),
        np.empty(classes + LANES, dtype=np.int32),
        np.empty(count, dtype=np.int32),
        np.empty((tall, wide * LANES), dtype=np.float32),
        np.empty((tall, wide * LANES), dtype=np.float32),
        np.empty(places_x * LANES, dtype=np.float32),
        np.empty((max(places_y, tall), max(wide, TILE) * LANES), dtype=np.float32),
        np.empty((TILE, TILE * LANES), dtype=np.float32),
        np.empty((TILE, TILE * LANES), dtype=np.int32),
    )


@compiled
def _largest(outer: Taps, pixels: int) -> int:
    """Pixels of the resized image that a tile touches, at most, along an axis."""
    most = 0
    for start in range(0, pixels, TILE):
        most = max(most, outer.high[min(start + TILE, pixels) - 1] + 1 - outer.low[start])
    return most


@compiled
def _possible(
    windows: Windows,
    rows: Axis,
    columns: Axis,
    region: Region,
    space: Space,
    error: np.float32,
    prune: bool,
) -> int:
    """List the classes that may win in a tile in `space.kept`, and give their number."""
    classes = len(space.bounds.least)
    least, most, size = space.bounds
    least[:], most[:], size[:] = np.inf, -np.inf, 0.0
    for y in range(len(rows.cuts) - 1):
        top, bottom = max(region.top, rows.cuts[y]), min(region.bottom, rows.cuts[y + 1])
        for x in range(len(columns.cuts) - 1):
            left, right = max(region.left, columns.cuts[x]), min(region.right, columns.cuts[x + 1])
            if top < bottom and left < right:
                part = Region(top, bottom, left, right)
                _widen(windows, rows, columns, part, space)
    floor = np.float32(-np.inf)
    for c in range(classes):
        floor = max(floor, least[c] - (error * size[c] + ABSOLUTE))
    kept = 0
    for c in range(classes):
        if most[c] + (error * size[c] + ABSOLUTE) >= floor or not prune:
            space.kept[kept] = c
            kept += 1
    space.kept[kept : kept + LANES] = space.kept[kept - 1]
    return kept


@compiled
def _widen(windows: Windows, rows: Axis, columns: Axis, part: Region, space: Space) -> None:
    """Make `space.bounds` hold in a part of the image too, all of which the same windows cover."""
    sums, covering = space.sums, 0
    sums.least[:], sums.most[:] = 0.0, 0.0
    for k in range(len(rows.begins)):
        top, bottom = part.top - rows.begins[k], part.bottom - rows.begins[k]
        left, right = part.left - columns.begins[k], part.right - columns.begins[k]
        if top < 0 or left < 0:
            continue
        if bottom > len(rows.inner.low) or right > len(columns.inner.low):
            continue
        _extremes(
            windows.places[
                k,
                rows.inner.low[top] : rows.inner.high[bottom - 1] + 1,
                columns.inner.low[left] : columns.inner.high[right - 1] + 1,
            ],
            space.of_part,
        )
        for c in range(len(sums.least)):
            low, high = space.of_part.least[c], space.of_part.most[c]
            sums.least[c] += low
            sums.most[c] += high
            size = abs(low) if abs(low) > abs(high) else abs(high)
            space.bounds.size[c] = max(size, space.bounds.size[c])
        covering += 1
    for c in range(len(sums.least)):
        low, high = sums.least[c] / np.float32(covering), sums.most[c] / np.float32(covering)
        space.bounds.least[c] = min(low, space.bounds.least[c])
        space.bounds.most[c] = max(high, space.bounds.most[c])


@compiled
def _extremes(places: FloatArray, found: Bounds) -> None:
    """Smallest and largest score of every class among (p, q, C) places."""
    low, high = found.least, found.most
    low[:], high[:] = np.inf, -np.inf
    for y in range(places.shape[0]):
        for x in range(places.shape[1]):
            scores = places[y, x]
            for c in range(len(low)):
                low[c] = scores[c] if scores[c] < low[c] else low[c]
                high[c] = scores[c] if scores[c] > high[c] else high[c]


@compiled
def _touch(rows: Axis, columns: Axis, region: Region, space: Space) -> int:
    """List the windows below a tile in `space.touching`, count them in `hits`; their number."""
    count = 0
    tall, wide = region.bottom - region.top, (region.right - region.left) * LANES
    space.hits[:tall, :wide] = 0.0
    for k in range(len(rows.begins)):
        part = _overlap(rows, columns, k, region)
        if part.top < part.bottom and part.left < part.right:
            space.touching[count] = k
            count += 1
            for y in range(part.top - region.top, part.bottom - region.top):
                start, stop = part.left - region.left, part.right - region.left
                space.hits[y, start * LANES : stop * LANES] += np.float32(1)
    return count


@compiled
def _overlap(rows: Axis, columns: Axis, k: int, region: Region) -> Region:
    """Pixels of a region that window k covers; may be none."""
    top, left = rows.begins[k], columns.begins[k]
    return Region(
        max(region.top, top),
        min(region.bottom, top + len(rows.inner.low)),
        max(region.left, left),
        min(region.right, left + len(columns.inner.low)),
    )


@compiled
def _merge(
    windows: Windows,
    classes: IntArray,
    touching: int,
    rows: Axis,
    columns: Axis,
    region: Region,
    space: Space,
    fused: bool,
) -> None:
    """Fill `space.total` with the merged scores of LANES classes."""
    tall, wide = region.bottom - region.top, (region.right - region.left) * LANES
    space.total[:tall, :wide] = 0.0
    for k in space.touching[:touching]:
        part = _overlap(rows, columns, k, region)
        _add_window(windows.places[k], classes, rows, columns, k, part, region, space, fused)
    for y in range(tall):
        total, hits = space.total[y, :wide], space.hits[y, :wide]
        for x in range(wide):
            total[x] /= hits[x]


@compiled
def _add_window(  # noqa: PLR0913  # compiled code keeps no state
    places: FloatArray,
    classes: IntArray,
    rows: Axis,
    columns: Axis,
    k: int,
    part: Region,
    region: Region,
    space: Space,
    fused: bool,
) -> None:
    """Add the (h, w, C) scores of window k, resized, to `space.total` in a part of the region."""
    down, right = rows.inner, columns.inner
    top, left = part.top - rows.begins[k], part.left - columns.begins[k]
    tall, wide = part.bottom - part.top, part.right - part.left
    first, last = down.low[top], down.high[top + tall - 1]
    start, stop = right.low[left], right.high[left + wide - 1]
    for row in range(first, last + 1):
        for column in range(start, stop + 1):
            scores, lanes = places[row, column], space.corners[(column - start) * LANES :]
            for lane in range(LANES):
                lanes[lane] = scores[classes[lane]]
        _resize_row(space.corners, right, left, wide, start, space.across[row - first], fused)
    offset = (part.left - region.left) * LANES
    for y in range(tall):
        upper = space.across[down.low[top + y] - first]
        lower = space.across[down.high[top + y] - first]
        weight = down.weight[top + y]
        total = space.total[part.top - region.top + y, offset:]
        for x in range(wide * LANES):
            total[x] += mix(upper[x], lower[x], weight, fused)


@compiled
def _resize_row(
    row: FloatArray, columns: Taps, first: int, count: int, start: int, out: FloatArray, fused: bool
) -> None:
    """Resize a row, which begins with place `start`, to pixels `first` to `first + count`."""
    for x in range(count):
        low, high = columns.low[first + x] - start, columns.high[first + x] - start
        near, far = row[low * LANES : (low + 1) * LANES], row[high * LANES : (high + 1) * LANES]
        weight, lanes = columns.weight[first + x], out[x * LANES : (x + 1) * LANES]
        for lane in range(LANES):
            lanes[lane] = mix(near[lane], far[lane], weight, fused)


@compiled
def _keep_larger(
    start: int,
    rows: Axis,
    columns: Axis,
    region: Region,
    tile: Region,
    space: Space,
    fused: bool,
) -> None:
    """Give classes `start` on of `kept` the pixels at which they are larger than those before.

    A class is compared with those of its lane only.
    """
    wide = tile.right - tile.left
    for y in range(region.bottom - region.top):
        row, out = space.total[y], space.across[y]
        _resize_row(row, columns.outer, tile.left, wide, region.left, out, fused)
    for y in range(tile.top, tile.bottom):
        upper = space.across[rows.outer.low[y] - region.top]
        lower = space.across[rows.outer.high[y] - region.top]
        best, winner = space.best[y - tile.top], space.winner[y - tile.top]
        for x in range(wide * LANES):
            value = mix(upper[x], lower[x], rows.outer.weight[y], fused)
            better = value > best[x]
            best[x] = value if better else best[x]
            winner[x] = start if better else winner[x]


@compiled
def _reduce(space: Space, lanes: int, best: FloatArray, winner: IntArray) -> None:
    """Of the first lanes of every pixel the largest, the lowest class of several."""
    for y in range(best.shape[0]):
        values, starts = space.best[y], space.winner[y]
        for x in range(best.shape[1]):
            value, place = values[x * LANES], starts[x * LANES]
            for lane in range(1, lanes):
                other, at = values[x * LANES + lane], starts[x * LANES + lane] + lane
                better = other > value or (other == value and at < place)
                value, place = (other, at) if better else (value, place)
            best[y, x], winner[y, x] = value, space.kept[place]
