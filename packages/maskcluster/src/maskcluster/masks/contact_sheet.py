"""A contact sheet: masks over their photographs, many on one page."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from maskcluster.errors import DataError, FormatError
from maskcluster.files import replacing
from maskcluster.masks.mask_set import MaskSet, MaskSource
from maskcluster.masks.photo_files import Photo, find_photos, open_photo

CAPTION_PX, GAP_PX = 16, 6
GOLDEN = 0.61803398875
"""Turn of the hue from one mask to the next: neighbours in order differ as much as can be."""


def contact_sheet(
    source: MaskSource,
    photos: Path | str | Sequence[Path | str] | Callable[[str], Photo],
    path: Path | str,
    *,
    keys: Sequence[str] | None = None,
    most: int = 24,
    columns: int = 4,
    cell_px: int = 240,
) -> Path:
    """Draw photographs, each beside its masks in colour, into one PNG.

    Smaller masks lie over larger ones. Of many photographs some are shown, evenly spread.

    Args:
        source: of the masks.
        photos: where the photographs are, see `find_photos`; or what gives one by its key.
        path: the PNG, replaced if it is there.
        keys: which photographs; by default those of `source`.
        most: how many are shown at most.
        columns: photographs a row.
        cell_px: side of the square that a photograph is fitted into.

    Raises:
        DataError: a photograph is missing or cannot be read, or there is none to show.
        FormatError: masks are of another size than their photograph.
        MaskClusterError: the PNG cannot be written.
    """
    chosen = _spread(source.keys() if keys is None else keys, most)
    if not len(chosen):
        raise DataError(f"{path}: there is no photograph to show")
    read = photos if callable(photos) else _reader(photos)
    cells = [_cell(read(key), source[key], key, cell_px) for key in chosen]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    sheet = _stack([_beside(row) for row in rows])
    with replacing(Path(path)) as part:
        sheet.save(part, "PNG")
    return Path(path)


def overlay(photo: Photo, masks: MaskSet, *, alpha: float = 0.55) -> Photo:
    """Masks in colour over their photograph, with dark edges.

    Args:
        photo: (H, W, 3) uint8 of any size; masks are sampled at its pixels.
        masks: of the photograph.
        alpha: weight of the colour.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = photo.shape[:2]
    rows = (np.arange(height) + 0.5) * masks.height / height
    columns = (np.arange(width) + 0.5) * masks.width / width
    top = np.full((height, width), -1)  # which mask is seen
    for at in np.argsort(-masks.areas, kind="stable").tolist():
        top[masks.masks[at].sample(rows, columns)] = at
    painted = photo.astype(np.float32)
    covered = top >= 0
    colours = _colours(len(masks))  # (M, 3)
    painted[covered] = (1 - alpha) * painted[covered] + alpha * colours[top[covered]]
    painted[_edges(top)] *= 0.35
    return painted.round().astype(np.uint8)


def _cell(photo: Photo, masks: MaskSet, key: str, side: int) -> Image.Image:
    """A photograph and its masks side by side, with a line of text below."""
    if photo.shape[:2] != (masks.height, masks.width):
        raise FormatError(
            f"{key!r}: masks are of {masks.height} x {masks.width}, "
            f"the photograph is {photo.shape[0]} x {photo.shape[1]} (height x width)"
        )
    small = Image.fromarray(photo)
    small.thumbnail((side, side))
    shown = np.asarray(small)
    cell = Image.new("RGB", (2 * side + GAP_PX, small.height + CAPTION_PX), "white")
    cell.paste(small, ((side - small.width) // 2, 0))
    masked = Image.fromarray(overlay(shown, masks))
    cell.paste(masked, (side + GAP_PX + (side - small.width) // 2, 0))
    text = f"{key}   {len(masks)} masks"
    ImageDraw.Draw(cell).text((2, small.height + 1), text, "black", ImageFont.load_default(11))
    return cell


def _beside(cells: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width in a row."""
    wide, tall = cells[0].width + 3 * GAP_PX, max(cell.height for cell in cells)
    row = Image.new("RGB", (wide * len(cells), tall), "white")
    for at, cell in enumerate(cells):
        row.paste(cell, (GAP_PX + at * wide, 0))
    return row


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows below each other."""
    size = (rows[0].width, GAP_PX + sum(row.height + GAP_PX for row in rows))
    sheet, top = Image.new("RGB", size, "white"), GAP_PX
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP_PX
    return sheet


def _reader(photos: Path | str | Sequence[Path | str]) -> Callable[[str], Photo]:
    found = find_photos(photos)

    def read(key: str) -> Photo:
        if key not in found:
            raise DataError(f"{photos}: has no photograph {key!r}")
        return open_photo(found[key])

    return read


def _spread(keys: Sequence[str], most: int) -> list[str]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(keys) <= most:
        return list(keys)
    return [keys[round(i)] for i in np.linspace(0, len(keys) - 1, most)]


def _colours(count: int) -> npt.NDArray[np.float32]:
    """(count, 3) of 0 to 255, hues far apart."""
    hue = (np.arange(count) * GOLDEN) % 1  # (M,)
    shifted = (hue[:, None] * 6 + np.array([0, 4, 2])) % 6  # (M, 3)
    rgb: npt.NDArray[np.float64] = 255 * np.clip(np.abs(shifted - 3) - 1, 0.1, 1)
    return rgb.astype(np.float32)


def _edges(top: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(H, W) whether another mask is seen at the pixel to the right or below."""
    edge = np.zeros(top.shape, np.bool_)
    edge[:, :-1] |= top[:, :-1] != top[:, 1:]
    edge[:-1] |= top[:-1] != top[1:]
    return edge
