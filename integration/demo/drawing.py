"""What a model saw, as HTML that needs no script: every text in it is escaped.

A label map is drawn as one SVG path a class, so that the browser itself knows which class lies
under the pointer: hovering over the picture or the legend names a class and shows it alone.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from integration.colours import separated
from integration.demo.models import BACKGROUND, Labels, Map, Seen, percent
from integration.demo.picture import Photo, data_uri, is_small

DRAWN_PX = 320
"""Longest side of the label map that is drawn; larger ones are thinned out."""

MAP_PX = 192
MAX_MAPS = 24
"""Maps that are shown, the first ones."""

STYLE = """
.seen { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.seen svg { flex: 1 1 320px; max-width: 640px; max-height: 62vh; border-radius: 8px; }
.seen .sharp, .maps .sharp { image-rendering: pixelated; }
.seen .area { opacity: .58; stroke: none; }
.seen .tip { opacity: 0; pointer-events: none; font-family: system-ui, sans-serif;
  font-weight: 600; fill: #fff; stroke: #000; paint-order: stroke; }
.seen ul { list-style: none; margin: 0; padding: 0; min-width: 170px; max-height: 70vh;
  overflow-y: auto; font-size: 14px; line-height: 1.45; }
.seen li { display: flex; align-items: center; gap: 8px; padding: 2px 6px; margin: 0;
  border-radius: 6px; overflow-wrap: anywhere; }
.seen li:hover { background: var(--background-fill-secondary); }
.seen .absent { opacity: .7; }
.seen .swatch { flex: none; width: 14px; height: 14px; border-radius: 3px; }
.seen .absent .swatch { opacity: .45; }
.seen .unpainted { border: 1px solid #888;
  background: repeating-linear-gradient(135deg, #fff 0 3px, #bbb 3px 5px); }
.seen .share { margin-left: auto; padding-left: 12px; opacity: .65;
  font-variant-numeric: tabular-nums; }
.maps { display: flex; flex-wrap: wrap; gap: 12px; }
.maps figure { margin: 0; width: 160px; }
.maps img { width: 160px; height: auto; display: block; border-radius: 6px; margin: 0; }
.maps figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
.told + .seen { margin-top: 12px; }
.told { padding: 8px 14px; margin: 0; border-radius: 8px; font-size: 14px; line-height: 1.45;
  color: var(--body-text-color); background: var(--background-fill-secondary);
  overflow-wrap: anywhere; }
.limits { border-left: 4px solid #d18b00; }
.wrong { border-left: 4px solid #c0392b; }
"""


def draw_labels(photo: Photo, seen: Seen, names: Sequence[str], *, background: bool = False) -> str:
    """A picture with its classes over it, and a legend: the largest first, then the absent ones.

    Args:
        photo: (H, W, 3) uint8 RGB.
        seen: what a model made of it.
        names: of K classes.
        background: whether places of no class were allowed; they are told with the classes.
    """
    labels = thinned(seen.labels)  # (h, w)
    height, width = labels.shape
    shares = _shares(labels, len(names), background=background)
    painted = [k for k, share in shares if share and k != BACKGROUND]
    colours = ["#{:02x}{:02x}{:02x}".format(*row) for row in separated(len(names)).tolist()]
    areas = "".join(
        f'<path class="area area-{k}" fill="{colours[k]}" d="{outline(labels == k)}">'
        f"<title>{escape(names[k])}</title></path>"
        for k in painted
    )
    tips = "".join(
        f'<text class="tip tip-{k}" x="{0.02 * width:g}" y="{0.96 * height:g}" '
        f'font-size="{height / 14:g}" stroke-width="{height / 90:g}">{escape(names[k])}</text>'
        for k in painted
    )
    told = ", ".join(f"{names[k]} {percent(share)}" for k, share in shares if k in painted)
    legend = "".join(_entry(k, share, names, colours) for k, share in shares)
    return (
        f'<div class="seen"><style>{_rules(k for k, share in shares if share)}</style>'
        f"{_drawing(photo, (height, width), told or 'background only', areas + tips)}"
        f"<ul>{legend}</ul></div>"
    )


def draw_photo(photo: Photo) -> str:
    """A picture of which nothing is known yet."""
    height, width, _ = photo.shape
    return f'<div class="seen">{_drawing(photo, (height, width), "the picture as it is", "")}</div>'


def _drawing(photo: Photo, size: tuple[int, int], told: str, over: str) -> str:
    """A picture with shapes over it.

    Args:
        photo: (H, W, 3) uint8 RGB.
        size: height and width in the units of the shapes.
        told: what is seen, for those who hear the page.
        over: SVG of the shapes.
    """
    height, width = size
    sharp = ' class="sharp"' if is_small(photo) else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" shape-rendering="crispEdges" role="img" '
        f'aria-label="{escape(told)}">'
        f'<image href="{data_uri(photo, exact=is_small(photo))}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"{sharp}/>{over}</svg>'
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


def draw_note(text: str, *, kind: Literal["", "limits", "wrong"] = "") -> str:
    """A note for the visitor: in passing, on what to bear in mind, or on what has to be mended."""
    return f'<p class="{f"told {kind}".strip()}" role="status">{escape(text)}</p>'


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


def _shares(labels: Labels, classes: int, *, background: bool) -> list[tuple[int, float]]:
    """Each class with its share of the picture, the largest first, those without a pixel last.

    The background is among them where it was allowed, or is there.
    """
    counts = np.bincount(labels.ravel() - BACKGROUND, minlength=classes + 1)
    order = [at + BACKGROUND for at in np.argsort(-counts, kind="stable").tolist()]
    shares = [(k, counts[k - BACKGROUND] / labels.size) for k in order]
    return [(k, share) for k, share in shares if k != BACKGROUND or background or share]


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
    swatch = (
        '<span class="swatch unpainted" title="shown as it is"></span>'
        if k == BACKGROUND
        else f'<span class="swatch" style="background:{colours[k]}"></span>'
    )
    return (
        f'<li class="key-{k}{"" if share else " absent"}">{swatch}'
        f'{escape(name)}<span class="share">{escape(percent(share))}</span></li>'
    )


def _lit(small: Image.Image, one: Map) -> Photo:
    """(y, x, 3) a picture lit by a map."""
    grey = Image.fromarray(np.rint(255 * one.weight).astype(np.uint8))
    smooth = None if np.any((one.weight > 0) & (one.weight < 1)) else Image.Resampling.NEAREST
    weight = np.asarray(grey.resize(small.size, smooth))[..., None] / 255  # (y, x, 1)
    return np.rint(np.asarray(small) * (0.15 + 0.85 * weight)).astype(np.uint8)
