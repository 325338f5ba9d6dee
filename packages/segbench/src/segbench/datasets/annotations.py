"""Masks of COCO's JSON: compressed and uncompressed run lengths, and polygons.

Bit for bit those of pycocotools 2.0.11 on valid input. Not pycocotools itself: it fills the rest
of a run-length code that ends too early with what the memory held, and warns on NumPy 2.4.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segbench.datasets.pictures import MOST_PIXELS
from segbench.errors import DataMissingError, FormatError, UnreadableImageError

Mask: TypeAlias = npt.NDArray[np.bool_]
Points: TypeAlias = npt.NDArray[np.int64]

_STEPS = 5  # points a pixel along the outline of a polygon
_MOST_POINTS = 20_000_000  # of an outline; a polygon around 100 megapixels has a hundredth of them
_MOST_BITS = 60  # of a run length as text


def load_json(path: Path, *keys: str) -> dict[str, list[dict[str, Any]]]:
    """The lists `keys` of a JSON file; the rest is forgotten.

    Raises:
        DataMissingError: there is no such file.
        UnreadableImageError: it is no JSON.
        FormatError: a list is missing.
    """
    if not path.is_file():
        raise DataMissingError(f"no annotations at {path}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableImageError(f"{path}: is not JSON: {error}") from error
    for key in keys:
        if not (isinstance(content, dict) and isinstance(content.get(key), list)):
            raise FormatError(f"{path}: no list {key!r}")
    return {key: content[key] for key in keys}


def decode_mask(segmentation: object, height: int, width: int) -> Mask:
    """(height, width) mask of a `segmentation` in COCO's JSON.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or run lengths
            {"counts": [...] or "...", "size": [height, width]}.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: it is none of these, or its run lengths do not fill the image exactly.
    """
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if size != [height, width]:
            raise ValueError(f"run lengths are of size {size}, the image is {[height, width]}")
        counts = segmentation.get("counts")
        runs = _runs_of_text(counts) if isinstance(counts, str) else _runs_of_list(counts)
        return _fill_runs(runs, height, width)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str) and segmentation:
        together: Mask = np.zeros((height, width), np.bool_)
        for polygon in segmentation:
            together |= fill_polygon(polygon, height, width)
        return together
    raise ValueError(f"a mask is polygons or run lengths, got {str(segmentation)[:40]}")


def _runs_of_list(counts: object) -> list[int]:
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError(f"run lengths must be whole numbers, got {str(counts)[:40]}")
    return counts


def _runs_of_text(text: str) -> list[int]:
    """Run lengths of COCO's text form.

    A number is written in digits of 5 bits, lowest first, each as the character 48 + digit, with 32
    added where a digit follows; bit 4 of the last is the sign. From the fourth number on, what is
    written is the difference to the number two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"run lengths hold the character {character!r}")
        if shift > _MOST_BITS:  # numbers of any size take time that grows with their square
            raise ValueError(f"run lengths hold a number of more than {_MOST_BITS} bits")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run lengths end within a number")
    return runs


def _fill_runs(runs: Sequence[int], height: int, width: int) -> Mask:
    """Mask of run lengths down the columns, outside first."""
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"run lengths cover {sum(runs)} pixels, the image has {height} x {width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def fill_polygon(polygon: Sequence[float], height: int, width: int) -> Mask:
    """(height, width) mask of a polygon.

    The outline is drawn on a grid of 5 steps a pixel. Where it passes the centre of a column, it
    toggles the pixels from there on, down the columns.

    Args:
        polygon: [x0, y0, x1, y1, ...], pixels, three points at least.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: fewer than three points, or coordinates that are no finite numbers.
    """
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a polygon is a list of numbers, got {str(polygon)[:40]}") from error
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError(f"a polygon is 6 or more finite numbers x, y, got {str(polygon)[:40]}")
    if abs(points).max() > 1e6:  # a damaged number, not a picture; it would draw for hours
        raise ValueError(f"a polygon reaches {abs(points).max():g} pixels")
    corners = np.trunc(_STEPS * points.reshape(-1, 2) + 0.5).astype(np.int64)  # (n, 2)
    u, v = _draw_outline(corners)
    return _fill_below(*_crossings(u, v, height, width), height, width)


def _draw_outline(corners: Points) -> tuple[Points, Points]:
    """Points of the closed line through `corners`, one a step along the longer axis of an edge.

    An edge is drawn towards larger coordinates whatever its direction, so that two polygons that
    share it agree, and is then listed in its own direction.
    """
    ends = np.roll(corners, -1, axis=0)  # (n, 2)
    wide, high = abs(ends - corners).T  # (n,), (n,)
    flat, steps = wide >= high, np.maximum(wide, high)  # (n,), (n,)
    if steps.sum() > _MOST_POINTS:
        raise ValueError(f"a polygon's outline is {steps.sum() // _STEPS} pixels long")
    backward = np.where(flat, corners[:, 0] > ends[:, 0], corners[:, 1] > ends[:, 1])
    low = np.where(backward[:, None], ends, corners)  # (n, 2)
    rise = np.where(backward[:, None], corners, ends) - low  # (n, 2)
    slope = np.where(flat, rise[:, 1], rise[:, 0]) / np.maximum(steps, 1)  # (n,)

    edge = np.repeat(np.arange(len(corners)), steps + 1)  # (m,), the edge of each point
    first = np.cumsum(steps + 1) - (steps + 1)  # (n,)
    along = np.arange(len(edge)) - first[edge]  # (m,)
    along = np.where(backward[edge], steps[edge] - along, along)
    across = slope[edge] * along  # (m,)
    x = np.trunc(low[edge, 0] + across + 0.5).astype(np.int64)
    y = np.trunc(low[edge, 1] + across + 0.5).astype(np.int64)
    return (
        np.where(flat[edge], low[edge, 0] + along, x),
        np.where(flat[edge], y, low[edge, 1] + along),
    )


def _crossings(u: Points, v: Points, height: int, width: int) -> tuple[Points, Points]:
    """(n,) columns whose centre the outline passes, and the row below each crossing."""
    moved = u[1:] != u[:-1]
    x = np.where(u[1:] < u[:-1], u[1:], u[1:] - 1)[moved]
    column = (x + 0.5) / _STEPS - 0.5
    row = (np.minimum(v[1:], v[:-1])[moved] + 0.5) / _STEPS - 0.5
    hit = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    rows = np.ceil(np.clip(row[hit], 0, height))
    return column[hit].astype(np.int64), rows.astype(np.int64)


def _fill_below(columns: Points, rows: Points, height: int, width: int) -> Mask:
    pixels = height * width
    toggles = np.bincount(columns * height + rows, minlength=pixels + 1)[:pixels]
    inside: Mask = toggles.cumsum() % 2 == 1  # (W * H,), column by column
    return inside.reshape(width, height).T


def image_size(image: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Height and width of an image that a JSON describes.

    Raises:
        FormatError: no positive whole numbers, or too many pixels.
    """
    height, width = image.get("height"), image.get("width")
    if type(height) is int and type(width) is int and min(height, width) > 0:
        if height * width <= MOST_PIXELS:
            return height, width
        raise FormatError(
            f"{path}: image {image.get('file_name')}: {height} x {width} is more than "
            f"{MOST_PIXELS:,} pixels"
        )
    raise FormatError(
        f"{path}: image {image.get('file_name')}: height and width must be whole numbers > 0, "
        f"got {height!r} and {width!r}"
    )


def paint(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], path: Path
) -> npt.NDArray[np.int32]:
    """(H, W) category ids, each annotation over those before it; 0 where there is none.

    Raises:
        FormatError: naming the annotation whose mask or category cannot be read.
    """
    canvas = np.zeros(size, dtype=np.int32)
    for annotation in annotations:
        canvas[_mask(annotation, size, path)] = _category(annotation, path)
    return canvas


def _mask(annotation: Mapping[str, Any], size: tuple[int, int], path: Path) -> Mask:
    try:
        return decode_mask(annotation.get("segmentation"), *size)
    except ValueError as error:
        raise FormatError(f"{path}: annotation {annotation.get('id')}: {error}") from error


def _category(annotation: Mapping[str, Any], path: Path) -> int:
    category = annotation.get("category_id")
    if type(category) is int and 0 <= category <= 65535:
        return category
    raise FormatError(
        f"{path}: annotation {annotation.get('id')}: category_id must be in [0, 65535], "
        f"got {category!r}"
    )


def group_by_image(
    annotations: Sequence[Mapping[str, Any]],
) -> dict[Any, list[Mapping[str, Any]]]:
    """Annotations by `image_id`, each list in the order of the file."""
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation.get("image_id"), []).append(annotation)
    return grouped
