"""Masks of a batch by their clusters, to see what a cluster is about."""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from maskcluster.data.loader import Batch
from maskcluster.masks.packed import unpack

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

ROWS, COLUMNS, CELL_PX, GAP_PX, TEXT_PX = 8, 8, 72, 3, 84
"""Clusters shown, masks of each, side of a mask's picture, space between, width of the text."""
MARGIN = 0.1
"""Part of a mask's box that is shown around it."""
PALE = 0.8
"""How much white is laid over what is not the mask."""


@torch.no_grad()
def draw_clusters(batch: Batch, cluster: Tensor, clusters: int) -> Picture:
    """Draw some clusters, a row each, with the largest masks of the batch in them.

    The clusters are always the same ones, evenly spread over all, so that pictures of one run can
    be compared. What is not the mask is pale. A cluster without a mask has an empty row.

    Args:
        batch: on any device; the weak view is shown.
        cluster: (M,) of its masks.
        clusters: K.

    Returns:
        (H, W, 3) uint8.
    """
    chosen = sorted({round(i) for i in np.linspace(0, clusters - 1, min(ROWS, clusters))})
    step = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (TEXT_PX + COLUMNS * step, len(chosen) * step), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for row, one in enumerate(chosen):
        inside = (cluster == one).nonzero()[:, 0]  # (n,)
        masks = unpack(batch.packed[inside])  # (n, S, S)
        area = masks.sum(dim=(1, 2))  # (n,)
        largest = area.argsort(descending=True, stable=True)[:COLUMNS]
        text = f"cluster {one}\n{len(inside)} masks"
        pen.multiline_text((4, row * step + CELL_PX // 3), text, "black", font)
        for column, at in enumerate(largest.tolist()):
            view = batch.weak[batch.owner[inside[at]]]  # (3, P, P)
            cell = _cell(view.cpu().numpy(), masks[at].cpu().numpy())
            sheet.paste(cell, (TEXT_PX + column * step, row * step))
    return np.asarray(sheet)


def _cell(view: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> Image.Image:
    """The square around a mask, what is not the mask pale.

    Args:
        view: (3, P, P) uint8.
        mask: (S, S), not empty.
    """
    side = view.shape[1]
    ratio = side / len(mask)
    places = ((np.arange(side) + 0.5) / ratio).astype(int)  # (P,)
    shown = view.transpose(1, 2, 0).astype(np.float32)  # (P, P, 3)
    outside = ~mask[places[:, None], places]  # (P, P)
    shown[outside] += PALE * (255 - shown[outside])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    width = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    half = (1 + 2 * MARGIN) * width * ratio / 2
    x = (columns[0] + columns[-1] + 1) * ratio / 2
    y = (rows[0] + rows[-1] + 1) * ratio / 2
    box = (x - half, y - half, x + half, y + half)
    picture = Image.fromarray(shown.round().astype(np.uint8))
    return _crop(picture, box).resize((CELL_PX, CELL_PX), Image.Resampling.BILINEAR)


def _crop(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """A box of a picture, in whole pixels; what lies outside is white."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    square = Image.new("RGB", (x1 - x0, y1 - y0), "white")
    square.paste(picture, (-x0, -y0))
    return square
