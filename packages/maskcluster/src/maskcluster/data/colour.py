"""What changes the colours of a view: the weak distortion, the strong one, and CutOut.

All of it is whole-number arithmetic of Pillow on 8-bit values: a worker process, whatever number of
threads it has, gives the bytes that any other gives.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from maskcluster.config import ViewConfig
from maskcluster.data.streams import Draws

Box = tuple[int, int, int, int]
"""Half-open XYXY."""

BRIGHTNESS, FACTOR, HUE = 32.0, (0.5, 1.5), 18.0
"""Of the weak view: most that is added to a value of 0 to 255; range of the factor on contrast and
of that on saturation; most degrees that hues are turned by."""

_LEVELS = np.arange(256.0)


def distort(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Distort the colours of an RGB image as SSD does (arXiv:1512.02325, its released code).

    Each of the four with probability 1/2: brightness is added, contrast multiplies values,
    saturation and hue change in HSV. Contrast comes before or after the two, with equal chances.
    """
    brighter, contrasts, early, saturates, turns = rng.random(5) < 0.5
    added = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if brighter else 0.0
    contrast, saturation = rng.uniform(*FACTOR, 2)
    turn = rng.uniform(-HUE, HUE) / 360 if turns else 0.0
    levels = (_LEVELS + added).clip(0, 255)
    if contrasts and early:
        levels = levels * contrast
    if brighter or (contrasts and early):
        image = _map_levels(image, levels, levels, levels)
    if saturates or turns:
        image = _change_hsv(image, turn, saturation if saturates else 1.0)
    if contrasts and not early:
        image = _map_levels(image, *[_LEVELS * contrast] * 3)
    return image


def _change_hsv(image: Image.Image, turn: float, saturation: float = 1.0) -> Image.Image:
    """Turn hues by a part of a turn, of which Pillow has 256, and multiply saturations."""
    hue = (_LEVELS + turn * 256).round() % 256
    return _map_levels(image.convert("HSV"), hue, _LEVELS * saturation, _LEVELS).convert("RGB")


def _map_levels(image: Image.Image, *levels: npt.NDArray[np.float64]) -> Image.Image:
    """Give the values of each channel new ones, rounded and clipped.

    Args:
        image: of three 8-bit channels.
        levels: (256,) for each channel.
    """
    table = np.concatenate(levels).round().clip(0, 255).astype(int)  # (768,)
    return image.point(table.tolist())


def strengthen(image: Image.Image, config: ViewConfig, draws: Draws) -> Image.Image:
    """Colour jitter, grey and blur, each with its probability.

    The jitter is that of torchvision's `ColorJitter` on Pillow's images: brightness, contrast,
    saturation and hue in a random order. Pillow blurs with three box filters for a Gaussian.

    Args:
        image: RGB, the square view.
        config: probabilities and strengths.
        draws: streams `jitter`, `grey` and `blur`.
    """
    rng = draws("jitter")
    if rng.random() < config.colour_jitter:
        image = _jitter(image, config.jitter, rng)
    if draws("grey").random() < config.greyscale:
        image = image.convert("L").convert("RGB")
    rng = draws("blur")
    if rng.random() < config.blur:
        low, high = config.blur_sigma
        sigma = rng.uniform(low, high) * image.width / config.crop_px
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    return image


_CHANGES: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    _change_hsv,
)
"""What each of the four strengths of the jitter is of."""


def _jitter(
    image: Image.Image, strengths: tuple[float, ...], rng: np.random.Generator
) -> Image.Image:
    """Multiply by factors in [max(0, 1 - s), 1 + s]; turn hues by a part in [-s, s] of a turn."""
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths[:3]]
    factors.append(rng.uniform(-strengths[3], strengths[3]))
    for which in rng.permutation(4).tolist():
        if strengths[which]:
            image = _CHANGES[which](image, factors[which])
    return image


def draw_cutout(side: int, config: ViewConfig, rng: np.random.Generator) -> Box | None:
    """A rectangle inside of a square view, or None where none is cut out.

    Args:
        side: of the view, in pixels.
        config: its probability, and the range of its sides as shares of the view.
        rng: what it is drawn from.
    """
    if rng.random() >= config.cutout:
        return None
    low, high = config.cutout_side
    width, height = (rng.uniform(low, high, 2) * side).round().astype(int).tolist()
    x, y = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
    return x, y, x + width, y + height


def cut_out(image: Image.Image, box: Box) -> Image.Image:
    """The image with black in the rectangle."""
    x0, y0, x1, y1 = box
    image = image.copy()
    if x1 > x0 and y1 > y0:
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=(0, 0, 0))
    return image
