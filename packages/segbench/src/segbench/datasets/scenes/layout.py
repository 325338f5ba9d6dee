"""Draw what stands where: regions, things and light, before a single pixel is painted."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segbench.datasets.scenes.world import (
    GROUND,
    NEIGHBOURS,
    SKYLINE,
    THINGS,
    Colour,
    Thing,
)

MAX_THINGS = 4
LOOKING_DOWN = 0.4
"""Share of the scenes that show no sky."""


@dataclass(frozen=True, slots=True)
class Region:
    """Stuff below a wavy horizon; a later region covers an earlier one."""

    stuff: str
    top: float
    """Mean height of the horizon; 0 is the top of the picture, 1 the bottom."""
    slope: float
    waves: tuple[tuple[float, float, float], ...]
    """Amplitude, cycles a picture width and phase (in cycles) of every wave of the horizon."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing at a place."""

    thing: Thing
    x: float
    y: float
    radius: float
    body: Colour
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that is in a scene, in the order of painting."""

    regions: tuple[Region, ...]
    things: tuple[Placed, ...]
    light: float
    """Factor on all colours."""
    tint: tuple[float, float, float]
    """Added to all colours, in grey levels."""
    texture_seed: int


def draw_layout(rng: np.random.Generator, difficulty: float) -> Layout:
    """Draw a scene: sky, an optional skyline, one or two grounds, and things that belong there.

    Args:
        rng: stream of this scene.
        difficulty: in [0, 1]; more things, smaller things, stronger changes of light.
    """
    regions = _draw_regions(rng)
    wanted = int(rng.choice(MAX_THINGS + 1, p=_thing_counts(difficulty)))
    things: list[Placed] = []
    for _ in range(wanted):
        placed = _draw_thing(rng, regions, things, difficulty)
        if placed is not None:
            things.append(placed)
    spread = 0.05 + 0.2 * difficulty
    return Layout(
        regions=regions,
        things=tuple(sorted(things, key=lambda placed: placed.y)),  # nearer things cover farther
        light=float(rng.uniform(1 - spread, 1 + spread / 2)),
        tint=tuple(float(v) for v in rng.normal(0, 4 + 16 * difficulty, 3)),  # type: ignore[arg-type]  # three
        texture_seed=int(rng.integers(2**31)),
    )


def pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Draw a key with probability proportional to its weight."""
    names = list(weights)
    mass = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=mass / mass.sum()))]


def _thing_counts(difficulty: float) -> list[float]:
    """Probabilities of 0 .. MAX_THINGS things."""
    easy, hard = np.array([0.08, 0.42, 0.35, 0.15, 0.0]), np.array([0.08, 0.2, 0.3, 0.27, 0.15])
    mixed = (1 - difficulty) * easy + difficulty * hard
    return [float(p) for p in mixed / mixed.sum()]


def _draw_regions(rng: np.random.Generator) -> tuple[Region, ...]:
    ground = pick(rng, GROUND)
    if rng.random() < LOOKING_DOWN:  # no sky: what lies behind the ground fills the top
        behind = pick(rng, NEIGHBOURS[ground] if rng.random() < 0.5 else SKYLINE)
        regions = [Region(behind, -1.0, 0.0, ())]
        horizon = float(rng.uniform(0.25, 0.55))
    else:
        regions = [Region("sky", -1.0, 0.0, ())]
        horizon = float(rng.uniform(0.28, 0.6))
        if rng.random() < 0.55:
            height = float(rng.uniform(0.16, 0.28))
            regions.append(_region(rng, pick(rng, SKYLINE), horizon - height, bumps=0.05))
    regions.append(_region(rng, ground, horizon, bumps=0.012))
    if rng.random() < 0.6:
        near = pick(rng, NEIGHBOURS[ground])
        regions.append(_region(rng, near, float(rng.uniform(horizon + 0.2, 0.85)), bumps=0.03))
    return tuple(regions)


def _region(rng: np.random.Generator, stuff: str, top: float, bumps: float) -> Region:
    waves = tuple(
        (float(rng.uniform(0.3, 1) * bumps), float(cycles + rng.random()), float(rng.random()))
        for cycles in (1, 3, 6)
    )
    return Region(stuff, top, float(rng.uniform(-0.12, 0.12)), waves)


def _draw_thing(
    rng: np.random.Generator, regions: tuple[Region, ...], others: list[Placed], difficulty: float
) -> Placed | None:
    """Draw a thing on one of the regions; None where it would hide another thing."""
    region = int(rng.integers(len(regions)))
    stuff = regions[region].stuff
    fitting = {t.name: t.supports[stuff] for t in THINGS if stuff in t.supports}
    if not fitting:
        return None
    name = pick(rng, fitting)
    thing = next(t for t in THINGS if t.name == name)
    radius = thing.radius * float(rng.uniform(1.0 - 0.5 * difficulty, 1.3))
    top = max(regions[region].top, 0.0)
    bottom = regions[region + 1].top if region + 1 < len(regions) else 1.0
    if stuff == "sky":
        y = float(rng.uniform(0.6 * radius, max(0.7 * radius, bottom - 0.4 * radius)))
    else:  # things stand: their foot is in the region
        y = float(rng.uniform(top + 0.05, max(top + 0.06, bottom - 0.02))) - 0.6 * radius
    x = float(rng.uniform(radius * 0.7, 1 - radius * 0.7))
    if any(np.hypot(x - o.x, y - o.y) < 0.75 * (radius + o.radius) for o in others):
        return None
    body = thing.bodies[int(rng.integers(len(thing.bodies)))]
    return Placed(thing, x, y, radius, body, bool(rng.random() < 0.5))
