"""What the embedded world is made of: classes, how they look and what goes with what.

Stuff fills regions (sky, water, ...), things stand on stuff (a boat on water). Coordinates are
units of the picture's width, so that one scene can be drawn at any size. Things are unions of
convex polygons and ellipses in a box [-1, 1] x [-1, 1], y pointing down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Stuff:
    """How a kind of stuff looks."""

    name: str
    base: Colour
    accent: Colour
    grain: tuple[float, float]
    """Cells of the texture a picture width, along x and y: unequal numbers give stripes."""
    contrast: float
    """Share of the accent colour at the peaks of the texture, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Part:
    """One convex piece of a thing."""

    shape: Literal["polygon", "ellipse"]
    points: tuple[tuple[float, float], ...]
    """Polygon: corners in order. Ellipse: centre and half axes."""
    paint: Literal["body", "trim", "dark", "light"] = "body"


@dataclass(frozen=True, slots=True)
class Thing:
    """How a kind of thing looks and where it is found."""

    name: str
    plural: str
    supports: Mapping[str, float]
    """Stuff that it is found on, with weights; a thing in the sky floats inside it."""
    parts: tuple[Part, ...]
    bodies: tuple[Colour, ...]
    trim: Colour
    radius: float = 0.16
    """Half of its size, in picture widths."""


def _box(left: float, top: float, right: float, bottom: float) -> tuple[tuple[float, float], ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


STUFF: tuple[Stuff, ...] = (
    Stuff("sky", (150, 195, 240), (205, 225, 248), (2, 3), 0.6),
    Stuff("grass", (70, 150, 50), (125, 195, 75), (26, 20), 0.8),
    Stuff("water", (30, 85, 150), (85, 150, 200), (4, 24), 0.8),
    Stuff("sand", (215, 185, 120), (190, 150, 90), (30, 30), 0.6),
    Stuff("road", (95, 95, 100), (130, 130, 132), (34, 34), 0.5),
    Stuff("snow", (238, 242, 248), (205, 215, 232), (6, 6), 0.7),
    Stuff("forest", (22, 68, 34), (50, 105, 45), (12, 9), 0.9),
    Stuff("mountain", (115, 92, 80), (165, 140, 122), (10, 5), 0.8),
    Stuff("wheat", (200, 160, 40), (150, 110, 25), (30, 4), 0.9),
)

GROUND: Mapping[str, float] = {
    "grass": 1.0, "water": 1.0, "sand": 0.9, "road": 0.9, "snow": 0.8, "wheat": 0.7,
}  # fmt: skip
"""Stuff that covers the lower part of a picture, with weights."""

SKYLINE: Mapping[str, float] = {"forest": 1.0, "mountain": 1.0}
"""Stuff between the sky and the ground."""

NEIGHBOURS: Mapping[str, Mapping[str, float]] = {
    "grass": {"road": 1.0, "water": 0.8, "wheat": 0.7, "sand": 0.3, "snow": 0.2},
    "water": {"sand": 1.0, "grass": 0.8, "snow": 0.4, "road": 0.2},
    "sand": {"water": 1.0, "road": 0.5, "grass": 0.4},
    "road": {"grass": 1.0, "sand": 0.5, "snow": 0.6, "wheat": 0.5},
    "snow": {"road": 0.7, "water": 0.5, "grass": 0.3},
    "wheat": {"grass": 1.0, "road": 0.8},
}
"""Ground that is found in front of a ground, with weights."""

THINGS: tuple[Thing, ...] = (
    Thing(
        "boat", "boats", {"water": 1.0},
        (Part("polygon", ((-1, 0.35), (1, 0.35), (0.6, 0.9), (-0.6, 0.9)), "dark"),
         Part("polygon", ((-0.05, -1), (0.1, 0.3), (-0.85, 0.3))),
         Part("polygon", ((0.12, -0.8), (0.8, 0.3), (0.12, 0.3)), "light")),
        ((250, 245, 235), (235, 60, 50), (250, 200, 60)), (255, 255, 255), 0.257,
    ),
    Thing(
        "duck", "ducks", {"water": 1.0, "grass": 0.3},
        (Part("ellipse", ((-0.1, 0.35), (0.85, 0.5))),
         Part("ellipse", ((0.55, -0.35), (0.38, 0.38)), "trim"),
         Part("polygon", ((0.85, -0.4), (1.0, -0.2), (0.85, -0.1)), "dark")),
        ((245, 205, 40), (250, 230, 110)), (30, 120, 60), 0.176,
    ),
    Thing(
        "car", "cars", {"road": 1.0},
        (Part("polygon", _box(-1, -0.05, 1, 0.55)),
         Part("polygon", ((-0.6, -0.05), (-0.35, -0.6), (0.35, -0.6), (0.65, -0.05)), "light"),
         Part("ellipse", ((-0.55, 0.55), (0.27, 0.27)), "dark"),
         Part("ellipse", ((0.55, 0.55), (0.27, 0.27)), "dark")),
        ((215, 30, 35), (30, 60, 205), (240, 150, 20)), (200, 220, 240), 0.216,
    ),
    Thing(
        "bus", "buses", {"road": 1.0},
        (Part("polygon", _box(-1, -0.7, 1, 0.65)),
         Part("polygon", _box(-0.85, -0.5, -0.35, -0.05), "light"),
         Part("polygon", _box(-0.22, -0.5, 0.28, -0.05), "light"),
         Part("polygon", _box(0.41, -0.5, 0.88, -0.05), "light"),
         Part("ellipse", ((-0.55, 0.68), (0.24, 0.24)), "dark"),
         Part("ellipse", ((0.55, 0.68), (0.24, 0.24)), "dark")),
        ((250, 190, 20), (20, 150, 150)), (200, 220, 240), 0.27,
    ),
    Thing(
        "sheep", "sheep", {"grass": 1.0, "snow": 0.2, "wheat": 0.2},
        (Part("polygon", _box(-0.6, 0.3, -0.4, 0.95), "dark"),
         Part("polygon", _box(0.3, 0.3, 0.5, 0.95), "dark"),
         Part("ellipse", ((-0.1, 0.05), (0.8, 0.55))),
         Part("ellipse", ((0.72, -0.2), (0.28, 0.33)), "dark")),
        ((240, 235, 225), (225, 215, 200)), (50, 45, 45), 0.203,
    ),
    Thing(
        "house", "houses", {"grass": 1.0, "snow": 0.8, "wheat": 0.4, "sand": 0.3},
        (Part("polygon", _box(-0.75, -0.15, 0.75, 0.95)),
         Part("polygon", ((-1, -0.1), (0, -0.95), (1, -0.1)), "trim"),
         Part("polygon", _box(-0.2, 0.35, 0.2, 0.95), "dark")),
        ((235, 215, 185), (210, 120, 90)), (150, 30, 30), 0.27,
    ),
    Thing(
        "umbrella", "umbrellas", {"sand": 1.0, "grass": 0.3},
        (Part("polygon", _box(-0.07, -0.2, 0.07, 1.0), "dark"),
         Part("polygon", ((-1, 0), (-0.7, -0.6), (0, -0.9), (0.7, -0.6), (1, 0))),
         Part("polygon", ((-0.3, 0), (-0.2, -0.8), (0.2, -0.8), (0.3, 0)), "trim")),
        ((225, 40, 110), (240, 90, 40)), (255, 255, 255), 0.23,
    ),
    Thing(
        "ball", "balls", {"sand": 0.8, "grass": 0.8, "road": 0.3},
        (Part("ellipse", ((0, 0.1), (0.85, 0.85))),
         Part("polygon", _box(-0.75, -0.1, 0.75, 0.3), "trim")),
        ((230, 60, 200), (110, 40, 220)), (250, 250, 250), 0.162,
    ),
    Thing(
        "balloon", "balloons", {"sky": 1.0},
        (Part("polygon", ((-0.5, 0.2), (0.5, 0.2), (0.2, 0.75), (-0.2, 0.75)), "dark"),
         Part("ellipse", ((0, -0.3), (0.7, 0.68))),
         Part("ellipse", ((0, -0.3), (0.25, 0.68)), "trim")),
        ((220, 30, 40), (120, 40, 160)), (250, 210, 50), 0.216,
    ),
    Thing(
        "kite", "kites", {"sky": 1.0},
        (Part("polygon", ((0, -1), (0.65, -0.2), (0, 0.6), (-0.65, -0.2))),
         Part("polygon", ((0, -1), (0.65, -0.2), (0, 0.6)), "trim"),
         Part("polygon", ((-0.06, 0.5), (0.06, 0.5), (0.3, 1), (0.2, 1)), "dark")),
        ((240, 120, 20), (30, 170, 70)), (240, 230, 60), 0.189,
    ),
)  # fmt: skip

NAMES: tuple[str, ...] = tuple(s.name for s in STUFF) + tuple(t.name for t in THINGS)
"""Class names by label id: stuff first, then things."""

LABEL: Mapping[str, int] = {name: label for label, name in enumerate(NAMES)}
STUFF_BY_NAME: Mapping[str, Stuff] = {stuff.name: stuff for stuff in STUFF}
SUBSETS: Mapping[str, tuple[int, ...]] = {
    "stuff": tuple(range(len(STUFF))),
    "thing": tuple(range(len(STUFF), len(NAMES))),
}
"""Label ids of stuff and of things."""
