"""From a photograph and its masks to a weak view, a strong view and packed masks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from maskcluster.config import ViewConfig
from maskcluster.data.colour import Box, cut_out, distort, draw_cutout, strengthen
from maskcluster.data.streams import Draws
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.photo_files import Photo

IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]

_ONES = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)
"""(65536,) bits that are set in two bytes."""


class View(NamedTuple):
    """Two views of the same square of a photograph, and the masks in it."""

    weak: Tensor
    """(3, P, P) uint8, for the teacher."""
    strong: Tensor
    """(3, P, P) uint8, for the student."""
    packed: Tensor
    """(N, S, S // 8) uint8, see `maskcluster.masks.packed`; N may be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The square of a photograph that is seen: resize, crop, flip.

    Photograph and masks go through the same map, pixel middles on pixel middles. Of a mask only the
    nearest pixel is looked up, three times in a row (grid to crop, flip, crop to photograph), which
    comes to one source row for each row of the grid and one source column for each column.

    Attributes:
        height: H of the photograph.
        width: W of the photograph.
        resized: (height, width) that it is resized to.
        top: first row of the square in the resized photograph.
        left: first column.
        side: of the square.
        flipped: whether left and right are changed over.
    """

    height: int
    width: int
    resized: tuple[int, int]
    top: int
    left: int
    side: int
    flipped: bool

    @classmethod
    def draw(
        cls, height: int, width: int, config: ViewConfig, rng: np.random.Generator
    ) -> "Geometry":
        """Choose a square at random.

        Of a photograph that is narrower than `crop_px` after resizing (longer than about two to
        one) the square is as large as fits. It is never padded: every pixel is of the photograph.
        """
        resized = fit_shortest(height, width, config.shortest_px, config.longest_px)
        side = min(config.crop_px, *resized)
        top, left = (int(rng.integers(length - side + 1)) for length in resized)
        return cls(
            height=height,
            width=width,
            resized=resized,
            top=top,
            left=left,
            side=side,
            flipped=bool(rng.random() < config.flip),
        )

    def sources(self, size: int) -> tuple[IntArray, IntArray]:
        """Which pixels of the photograph a grid over the square shows.

        Returns:
            (size,) source row of each row of the grid, and (size,) source column of each column.
        """
        rows = columns = nearest(size, self.side)  # (size,) in the square
        if self.flipped:
            columns = self.side - 1 - columns
        return (
            nearest(self.resized[0], self.height)[self.top + rows],
            nearest(self.resized[1], self.width)[self.left + columns],
        )

    def look(self, photo: Photo, size: int) -> Image.Image:
        """Resize, crop, flip, and resize to the view.

        Pillow resizes the part alone, with the same pixels around it as if it resized all. From the
        square to the view it is the mean of whole pixels where the sides divide, as 640 and 320
        do, which there is what bilinear interpolation gives.

        Args:
            photo: (H, W, 3) uint8 of the size that this was drawn for.
            size: side of the view.
        """
        x = [(self.left + edge) * self.width / self.resized[1] for edge in (0, self.side)]
        y = [(self.top + edge) * self.height / self.resized[0] for edge in (0, self.side)]
        square = (self.side, self.side)
        bilinear = Image.Resampling.BILINEAR
        seen = Image.fromarray(photo).resize(square, bilinear, box=(x[0], y[0], x[1], y[1]))
        if self.flipped:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.side % size == 0:
            return seen.reduce(self.side // size)
        return seen.resize((size, size), bilinear)


def make_view(photo: Photo, masks: MaskSet | None, config: ViewConfig, draws: Draws) -> View:
    """Draw the two views of a photograph, and its masks on their grid.

    PixelCLIP (arXiv:2409.19846, its released code): resize, random crop, flip and photometric
    distortion for both views and the masks; colour jitter, grey, blur and CutOut for the strong one
    alone.

    Departs from the code: colours change after the square is resized to `image_px`, not before. At
    half the side that is a quarter of the work, and but for clipped values the order makes no
    difference; deviations of the blur are scaled. And masks are looked up at the middles of pixels,
    where the code, resizing squares to their grid, takes the upper left.

    Args:
        photo: (H, W, 3) uint8 RGB.
        masks: of that photograph; None makes views only.
        config: sizes, probabilities and strengths.
        draws: streams `crop`, `distort`, `jitter`, `grey`, `blur` and `cutout`.

    Raises:
        ValueError: `masks` are of another size.
    """
    height, width = photo.shape[:2]
    if masks is not None and (masks.height, masks.width) != (height, width):
        raise ValueError(f"masks are {masks.height} x {masks.width}, the photo {height} x {width}")
    geometry = Geometry.draw(height, width, config, draws("crop"))
    weak = geometry.look(photo, config.image_px)
    if config.photometric:
        weak = distort(weak, draws("distort"))
    strong = strengthen(weak, config, draws)
    box = draw_cutout(config.image_px, config, draws("cutout"))
    if box is not None:
        strong = cut_out(strong, box)
    packed = see_masks(masks, geometry, config, box if config.cutout_masks else None)
    return View(_tensor(weak), _tensor(strong), torch.from_numpy(packed))


def see_masks(
    masks: MaskSet | None, geometry: Geometry, config: ViewConfig, removed: Box | None = None
) -> ByteArray:
    """Masks on the grid of a square, without those that hardly reach into it.

    Args:
        masks: of the photograph.
        geometry: the square.
        config: `mask_px`, `min_mask_px` and `max_masks`.
        removed: rectangle, in pixels of the view, that is taken out of every mask: grid pixels
            whose middle lies in it.

    Returns:
        (N, S, S // 8) uint8, in the order of `masks`; at most `max_masks`, of equal ones the first.
    """
    side = config.mask_px
    if masks is None or not len(masks):
        return np.zeros((0, side, side // 8), np.uint8)
    packed = masks.sample_bits(*geometry.sources(side))  # (N, S, S // 8)
    if removed is not None:
        packed &= _outside(removed, side, config.image_px)
    area = _ONES[packed.reshape(len(packed), -1).view(np.uint16)].sum(1, dtype=np.int64)  # (N,)
    kept = np.flatnonzero(area >= config.min_mask_px)
    if config.max_masks and len(kept) > config.max_masks:
        largest = np.argsort(-area[kept], kind="stable")[: config.max_masks]
        kept = kept[np.sort(largest)]
    return packed if len(kept) == len(packed) else packed[kept]


def _outside(box: Box, side: int, image_px: int) -> ByteArray:
    """(S, S // 8) packed, the grid pixels whose middle is not in a rectangle of the view."""
    middle = (np.arange(side) + 0.5) * image_px / side
    inside_x = (middle >= box[0]) & (middle < box[2])
    inside_y = (middle >= box[1]) & (middle < box[3])
    return np.packbits(~(inside_y[:, None] & inside_x), axis=1, bitorder="little")


def fit_shortest(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Size with a shorter side of `shortest`, or less where the longer would pass `longest`."""
    scale = min(shortest / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def nearest(size: int, source: int) -> IntArray:
    """(size,) the source pixel that holds the middle of each pixel of the result.

    floor((i + 1/2) source / size), in whole numbers.
    """
    return (2 * np.arange(size, dtype=np.int64) + 1) * source // (2 * size)


def _tensor(image: Image.Image) -> Tensor:
    """(3, P, P) uint8 of RGB."""
    pixels = np.asarray(image)  # (P, P, 3)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
