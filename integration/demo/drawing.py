"""What a model saw, as HTML that needs no script: every text in it is escaped.

A label map is drawn as one SVG path a class, so that the browser itself knows which class lies
under the pointer: hovering over the picture or the legend names a class and shows it alone.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from integration.demo.models import BACKGROUND, Labels, Map, Seen, percent
from integration.demo.picture import Photo, data_uri, is_small
from segbench import palette

DRAWN_PX = 320
"""Longest side of the label map that is drawn; larger ones are thinned out."""

MAP_PX = 192
MAX_MAPS = 24
"""Maps that are shown, the first ones."""

STYLE = """
.seen { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.seen svg { flex: 1 1 320px; max-width: 640px; max-height: 70vh; border-radius: 8px; }
.seen .sharp, .maps .sharp { image-rendering: pixelated; }
.seen .area { opacity: .58; stroke: none; }
.seen .tip { opacity: 0; pointer-events: none; font-family: system-ui, sans-serif;
  font-weight: 600; fill: #fff; stroke: #000; paint-order: stroke; }
.seen ul { list-style: none; margin: 0; padding: 0; min-width: 170px; }
.seen li { display: flex; align-items: center; gap: 8px; padding: 3px 6px; margin: 0;
  border-radius: 6px; overflow-wrap: anywhere; }
.seen li:hover { background: var(--background-fill-secondary); }
.seen .swatch { flex: none; width: 14px; height: 14px; border-radius: 3px; }
.seen .share { margin-left: auto; padding-left: 12px; opacity: .65;
  font-variant-numeric: tabular-nums; }
.maps { display: flex; flex-wrap: wrap; gap: 12px; }
.maps figure { margin: 0; width: 160px; }
.maps img { width: 160px; height: auto; display: block; border-radius: 6px; margin: 0; }
.maps figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
.told { padding: 10px 14px; border-radius: 8px; background: var(--background-fill-secondary);
  overflow-wrap: anywhere; }
.wrong { border-left: 4px solid #c0392b; }
"""


def draw_labels(photo: Photo, seen: Seen, names: Sequence[str]) -> str:
    """A picture with its classes over it, and a legend, the largest class first.

    Args:
        photo: (H, W, 3) uint8 RGB.
        seen: what a model made of it.
        names: of K classes.
    """
    labels = thinned(seen.labels)  # (h, w)
    height, width = labels.shape
    present = _by_area(labels, len(names))
    colours = ["#{:02x}{:02x}{:02x}".format(*row) for row in palette(len(names)).tolist()]
    areas = "".join(
        f'<path class="area area-{k}" fill="{colours[k]}" d="{outline(labels == k)}">'
        f"<title>{escape(names[k])}</title></path>"
        for k, _ in present
        if k != BACKGROUND
    )
    tips = "".join(
        f'<text class="tip tip-{k}" x="{0.02 * width:g}" y="{0.96 * height:g}" '
        f'font-size="{height / 14:g}" stroke-width="{height / 90:g}">{escape(names[k])}</text>'
        for k, _ in present
        if k != BACKGROUND
    )
    sharp = ' class="sharp"' if is_small(photo) else ""
    return (
        f'<div class="seen"><style>{_rules(k for k, _ in present)}</style>'
        f'<svg viewBox="0 0 {width} {height}" shape-rendering="crispEdges" role="img" '
        f'aria-label="{escape(_told(present, names))}">'
        f'<image href="{data_uri(photo, exact=is_small(photo))}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"{sharp}/>{areas}{tips}</svg>'
        f"<ul>{''.join(_entry(k, share, names, colours) for k, share in present)}</ul></div>"
    )


def draw_maps(photo: Photo, maps: Sequence[Map]) -> str:
    """Where each part of a model looks: the picture, dark where the weight is small."""
    small = Image.fromarray(photo)
    small.thumbnail((MAP_PX, MAP_PX))
    exact = is_small(photo)
    kind = ' class="sharp"' if exact else ""
    figures = "".join(
        f'<figure><img src="{data_uri(_lit(small, one), exact=exact)}" alt=""{kind}>'
        f"<figcaption>{escape(one.title)}</figcaption></figure>"
        for one in maps[:MAX_MAPS]
    )
    left = len(maps) - MAX_MAPS
    return f'<div class="maps">{figures}{f"<p>and {left} more</p>" if left > 0 else ""}</div>'


def draw_note(text: str, *, wrong: bool = False) -> str:
    """One line for the visitor."""
    return f'<p class="told{" wrong" if wrong else ""}" role="status">{escape(text)}</p>'


def thinned(labels: Labels) -> Labels:
    """(h, w) every so-many-th place of a label map, so that no side is above `DRAWN_PX`."""
    step = -(-max(labels.shape) // DRAWN_PX)
    return labels[step // 2 :: step, step // 2 :: step] if min(labels.shape) > step else labels


def outline(mask: npt.NDArray[np.bool_]) -> str:
    """SVG path of a mask's runs: one rectangle for each, grown over equal runs of rows below.

    Args:
        mask: (h, w).
    """
    parts: list[str] = []
    open_runs: dict[tuple[int, int], int] = {}  # (left, right) -> top
    for row, line in enumerate([*mask, np.zeros(mask.shape[1], bool)]):
        runs = set(_runs(line))
        for run in sorted(open_runs.keys() - runs):
            left, right = run
            top = open_runs.pop(run)
            parts.append(f"M{left} {top}h{right - left}v{row - top}h{left - right}z")
        for run in runs - open_runs.keys():
            open_runs[run] = row
    return "".join(parts)


def _runs(line: npt.NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """Half-open ranges in which a row is True."""
    edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def _by_area(labels: Labels, classes: int) -> list[tuple[int, float]]:
    """Classes that are there with their share of the picture, the largest first."""
    counts = np.bincount(labels.ravel() - BACKGROUND, minlength=classes + 1)
    order = np.argsort(-counts, kind="stable").tolist()
    return [(at + BACKGROUND, counts[at] / labels.size) for at in order if counts[at]]


def _rules(present: Iterable[int]) -> str:
    """Styles that show the class alone which the pointer is on, in the picture or the legend.

    Gradio raises the rank of the page's own styles, hence `!important`.
    """
    return "".join(
        f".seen:has(.area-{k}:hover,.key-{k}:hover) .area:not(.area-{k}){{opacity:.12!important}}"
        f".seen:has(.area-{k}:hover,.key-{k}:hover) .tip-{k}{{opacity:1!important}}"
        for k in present
    )


def _entry(k: int, share: float, names: Sequence[str], colours: Sequence[str]) -> str:
    """A line of the legend."""
    name = "background" if k == BACKGROUND else names[k]
    colour = "transparent" if k == BACKGROUND else colours[k]
    return (
        f'<li class="key-{k}"><span class="swatch" style="background:{colour}"></span>'
        f'{escape(name)}<span class="share">{escape(percent(share))}</span></li>'
    )


def _told(present: Sequence[tuple[int, float]], names: Sequence[str]) -> str:
    """What is seen, for those who hear the page."""
    parts = (f"{names[k]} {percent(share)}" for k, share in present if k != BACKGROUND)
    return ", ".join(parts) or "background only"


def _lit(small: Image.Image, one: Map) -> Photo:
    """(y, x, 3) a picture lit by a map."""
    grey = Image.fromarray(np.rint(255 * one.weight).astype(np.uint8))
    smooth = None if np.any((one.weight > 0) & (one.weight < 1)) else Image.Resampling.NEAREST
    weight = np.asarray(grey.resize(small.size, smooth))[..., None] / 255  # (y, x, 1)
    return np.rint(np.asarray(small) * (0.15 + 0.85 * weight)).astype(np.uint8)
