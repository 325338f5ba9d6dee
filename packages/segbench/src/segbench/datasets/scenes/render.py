"""Paint a layout: label map, instance map and picture at any size.

Textures are value noise on a lattice that is hashed with 32-bit integers, so the same scene is
drawn alike on any machine, at any size.
"""

import numpy as np
import numpy.typing as npt

from segbench.datasets.scenes.layout import Layout, Placed, Region
from segbench.datasets.scenes.world import LABEL, STUFF_BY_NAME, Colour, Part

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

DARK: Colour = (45, 40, 45)


def rasterise(layout: Layout, size_px: int) -> tuple[IntArray, IntArray]:
    """Label and instance map of a layout.

    Returns:
        labels: (H, W) class ids; every pixel has one.
        instances: (H, W), 0 is stuff, i + 1 the i-th thing of the layout.
    """
    x, y = _pixel_centres(size_px)
    labels = np.zeros((size_px, size_px), np.int32)  # (H, W)
    instances = np.zeros_like(labels)  # (H, W)
    for region in layout.regions:
        labels[_below(region, x, y)] = LABEL[region.stuff]
    for index, placed in enumerate(layout.things):
        u, v = _local(placed, x, y)
        inside = np.zeros_like(labels, dtype=bool)  # (H, W)
        for part in placed.thing.parts:
            inside |= _inside(part, u, v)
        labels[inside] = LABEL[placed.thing.name]
        instances[inside] = index + 1
    return labels, instances


def paint(layout: Layout, size_px: int, difficulty: float) -> npt.NDArray[np.uint8]:
    """Paint a layout as an (H, W, 3) RGB picture; `difficulty` in [0, 1] adds grain."""
    x, y = _pixel_centres(size_px)
    image = np.zeros((size_px, size_px, 3))  # (H, W, 3)
    for depth, region in enumerate(layout.regions):
        where = _below(region, x, y)  # (H, W)
        image[where] = _texture(region.stuff, x, y, layout.texture_seed + depth)[where]
    for placed in layout.things:
        _paint_thing(image, placed, x, y)
    grain = _hash(*np.meshgrid(np.arange(size_px), np.arange(size_px)), layout.texture_seed) - 0.5
    image = image * layout.light + np.array(layout.tint) + grain[..., None] * (6 + 40 * difficulty)
    picture: npt.NDArray[np.uint8] = np.rint(image.clip(0, 255)).astype(np.uint8)
    return picture


def _pixel_centres(size_px: int) -> tuple[FloatArray, FloatArray]:
    """X (1, W) and y (H, 1) of the pixel centres, in picture widths."""
    centres = (np.arange(size_px) + 0.5) / size_px
    return centres[None, :], centres[:, None]


def _below(region: Region, x: FloatArray, y: FloatArray) -> BoolArray:
    """(H, W), whether a pixel lies below the region's horizon."""
    horizon = region.top + region.slope * (x - 0.5)  # (1, W)
    for amplitude, cycles, phase in region.waves:
        horizon = horizon + amplitude * np.sin(2 * np.pi * (cycles * x + phase))
    below: BoolArray = y >= horizon  # (H, W)
    return below


def _texture(stuff: str, x: FloatArray, y: FloatArray, seed: int) -> FloatArray:
    """(H, W, 3) colours of a kind of stuff everywhere."""
    look = STUFF_BY_NAME[stuff]
    noise = _value_noise(x * look.grain[0], y * look.grain[1], seed)  # (H, W)
    share = look.contrast * noise[..., None]
    texture: FloatArray = (1 - share) * np.array(look.base) + share * np.array(look.accent)
    return texture


def _value_noise(x: FloatArray, y: FloatArray, seed: int) -> FloatArray:
    """(H, W) noise in [0, 1], bilinear between random values on the integer lattice."""
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    corner = [[_hash(column + dx, row + dy, seed) for dx in (0, 1)] for dy in (0, 1)]
    upper = corner[0][0] * (1 - fx) + corner[0][1] * fx
    lower = corner[1][0] * (1 - fx) + corner[1][1] * fx
    noise: FloatArray = upper * (1 - fy) + lower * fy
    return noise


def _hash(x: npt.ArrayLike, y: npt.ArrayLike, seed: int) -> FloatArray:
    """Numbers in [0, 1) from lattice coordinates (32-bit multiply and xor-shift)."""
    columns, rows = np.asarray(x, np.int64), np.asarray(y, np.int64)
    h = (columns * 374761393 + rows * 668265263 + seed * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 3266489917) & 0xFFFFFFFF
    unit: FloatArray = (h ^ (h >> 16)) / 4294967296.0
    return unit


def _local(placed: Placed, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates in the thing's own box: u (1, W), v (H, 1)."""
    u = (x - placed.x) / placed.radius
    return (-u if placed.mirrored else u), (y - placed.y) / placed.radius


def _inside(part: Part, u: FloatArray, v: FloatArray) -> BoolArray:
    """(H, W), whether a pixel lies in the part."""
    if part.shape == "ellipse":
        (cu, cv), (au, av) = part.points
        ellipse: BoolArray = ((u - cu) / au) ** 2 + ((v - cv) / av) ** 2 <= 1
        return ellipse
    ends = part.points[1:] + part.points[:1]
    sides = [
        (qu - pu) * (v - pv) - (qv - pv) * (u - pu)  # > 0 on the right of the edge
        for (pu, pv), (qu, qv) in zip(part.points, ends, strict=True)
    ]
    stacked = np.stack(np.broadcast_arrays(*sides))  # (corners, H, W)
    convex = np.all(stacked >= 0, axis=0) | np.all(stacked <= 0, axis=0)  # (H, W)
    return np.asarray(convex)


def _paint_thing(image: FloatArray, placed: Placed, x: FloatArray, y: FloatArray) -> None:
    u, v = _local(placed, x, y)
    paints = {
        "body": placed.body,
        "trim": placed.thing.trim,
        "dark": DARK,
        "light": (225, 235, 245),
    }
    for part in placed.thing.parts:
        image[_inside(part, u, v)] = paints[part.paint]
