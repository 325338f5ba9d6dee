"""Pictures of clusters: what each prompt and each of its names covers, raw and clustered masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from maskcluster.files import replacing
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.photo_files import Photo
from maskcluster.naming.names import NamedCluster, short_name
from maskcluster.naming.palette import colours
from maskcluster.naming.predictions import IntArray, Seen

ROWS = 14
"""Lines of a legend at most."""

SMALLEST = 0.004
"""Share of the picture below which a region is not in the legend."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAD, _LINE, _TITLE = 10, 17, 22
_INK, _PALE = (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True, slots=True)
class _Panel:
    """A picture with a title above and a legend below."""

    title: str
    picture: Image.Image
    legend: tuple[tuple[tuple[int, int, int] | None, str], ...] = ()
    """Colour and text of each line."""


def draw_seen(
    path: Path, seen: Seen, clusters: Sequence[NamedCluster], names: Sequence[str]
) -> Path:
    """Draw a photograph beside what the prompts make of it (the paper's figures of clusters).

    From left to right: the photograph; its masks; the same in the colours of their clusters; pixels
    in the colour of the prompt of highest cosine; the same in the colour of that prompt's nearest
    class name. A cluster has one colour and a name has one, in all pictures.

    Args:
        path: the PNG, replaced if it is there.
        seen: the photograph.
        clusters: all K, with their names.
        names: all class names, in the order of the list.
    """
    labels = {one.cluster: f"{one.cluster} {short_name(one.name)}" for one in clusters}
    panels = [_Panel(seen.key, Image.fromarray(seen.photo))]
    if seen.masks is not None and seen.mask_cluster is not None:
        panels += _mask_panels(seen, seen.masks, seen.mask_cluster, labels)
    marks = {number: str(number) for number in labels}
    panels.append(_label_panel("prompt of highest cosine", seen.photo, seen.cluster, labels, marks))
    number_of = {name: number for number, name in enumerate(names)}
    to_name = np.array([number_of[one.name] for one in clusters], np.int64)  # (K,)
    words = {number: short_name(name) for name, number in number_of.items()}
    named = to_name[seen.cluster]
    panels.append(_label_panel("its nearest class name", seen.photo, named, words, words))
    picture = _side_by_side(panels)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        picture.save(part, "PNG")
    return path


def topmost(masks: MaskSet, height: int, width: int) -> IntArray:
    """Which mask is seen at each pixel of a picture of the photograph, smaller ones above larger.

    Args:
        masks: of the photograph.
        height: of the picture.
        width: of the picture.

    Returns:
        (height, width) number of the mask, -1 where there is none.
    """
    rows = (np.arange(height) + 0.5) * masks.height / height
    columns = (np.arange(width) + 0.5) * masks.width / width
    top = np.full((height, width), -1, np.int64)
    for at in np.argsort(-masks.areas, kind="stable").tolist():
        top[masks.masks[at].sample(rows, columns)] = at
    return top


def paint(photo: Photo, labels: IntArray, edges: IntArray, *, alpha: float = 0.6) -> Photo:
    """Labels in colour over a photograph, with dark edges.

    Args:
        photo: (h, w, 3) uint8.
        labels: (h, w), -1 is not painted.
        edges: (h, w) numbers of regions, between which edges are drawn.
        alpha: weight of the colour.

    Returns:
        (h, w, 3) uint8.
    """
    painted = photo.astype(np.float32)
    known = labels >= 0
    table = colours(int(labels.max(initial=0)) + 1).astype(np.float32)
    grey = painted.mean(axis=2, keepdims=True)  # the photograph's own hues would change the colours
    painted[known] = ((1 - alpha) * grey + alpha * table[labels.clip(0)])[known]
    painted[_edges(edges)] *= 0.35
    return painted.round().astype(np.uint8)


def _mask_panels(
    seen: Seen, masks: MaskSet, cluster: IntArray, labels: Mapping[int, str]
) -> list[_Panel]:
    """Raw masks, and the same in the colours of their clusters."""
    top = topmost(masks, *seen.photo.shape[:2])  # (h, w)
    raw = Image.fromarray(paint(seen.photo, top, top))
    clustered = np.where(top < 0, -1, np.append(cluster, -1)[top])  # (h, w)
    picture = Image.fromarray(paint(seen.photo, clustered, top))
    numbers, counts = np.unique(cluster, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    table = colours(int(numbers.max(initial=0)) + 1)
    lines = [
        (_rgb(table[numbers[at]]), f"{labels[int(numbers[at])]}  x{counts[at]}") for at in order
    ]
    _mark(picture, clustered, {int(number): str(number) for number in numbers})
    return [
        _Panel(f"{len(masks)} masks", raw),
        _Panel(f"masks in {len(numbers)} clusters", picture, _shortened(lines)),
    ]


def _label_panel(
    title: str,
    photo: Photo,
    labels: IntArray,
    texts: Mapping[int, str],
    marks: Mapping[int, str],
) -> _Panel:
    numbers, counts = np.unique(labels, return_counts=True)
    shares = counts / labels.size
    order = np.argsort(-counts, kind="stable")
    table = colours(int(numbers.max()) + 1)
    lines = [
        (_rgb(table[numbers[at]]), f"{texts[int(numbers[at])]}  {shares[at]:.0%}")
        for at in order
        if shares[at] >= SMALLEST
    ]
    picture = Image.fromarray(paint(photo, labels, labels))
    large = [int(number) for number, share in zip(numbers, shares, strict=True) if share > 0.02]
    _mark(picture, labels, {number: marks[number] for number in large})
    return _Panel(title, picture, _shortened(lines))


def _shortened(
    lines: Sequence[tuple[tuple[int, int, int], str]],
) -> tuple[tuple[tuple[int, int, int] | None, str], ...]:
    if len(lines) <= ROWS:
        return tuple(lines)
    return (*lines[: ROWS - 1], (None, f"and {len(lines) - ROWS + 1} more"))


def _mark(picture: Image.Image, labels: IntArray, texts: Mapping[int, str]) -> None:
    """Write a text well inside each label's region."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for number, text in texts.items():
        y, x = _inside(labels == number)
        half = draw.textlength(text, font) / 2 + 2
        draw.text(
            (min(max(x, half), picture.width - half), min(max(y, 8), picture.height - 8)),
            text, "white", font, anchor="mm", stroke_width=2, stroke_fill="black",
        )  # fmt: skip


def _inside(region: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel of a region that has most of it around; the first of several."""
    known = torch.from_numpy(region).float()[None]  # (1, h, w)
    around = F.avg_pool2d(known, 41, stride=1, padding=20)
    place = int((around * known).argmax())
    return place // region.shape[1], place % region.shape[1]


def _side_by_side(panels: Sequence[_Panel]) -> Image.Image:
    width = max(220, *(panel.picture.width for panel in panels)) + _PAD
    top = _PAD + _TITLE
    under = top + panels[0].picture.height + _PAD
    longest = max(len(panel.legend) for panel in panels)
    sheet = Image.new("RGB", (width * len(panels) + _PAD, under + _LINE * longest + _PAD), "white")
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(14), ImageFont.load_default(13)
    for at, panel in enumerate(panels):
        left = _PAD + at * width
        draw.text((left, _PAD), _fitted(draw, panel.title, title, width - _PAD), _INK, title)
        sheet.paste(panel.picture, (left, top))
        for line, (colour, text) in enumerate(panel.legend):
            y = under + line * _LINE
            if colour is not None:
                draw.rectangle((left, y + 1, left + 18, y + 13), colour, _PALE)
            shown = _fitted(draw, text, small, width - _PAD - 26)
            draw.text((left + 26, y - 1), shown, _INK if colour else _PALE, small)
    return sheet


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: Font, px: int) -> str:
    """A text, cut in its middle where it is too long."""
    if draw.textlength(text, font) <= px:
        return text
    for keep in range(len(text) - 1, 1, -1):
        short = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
        if draw.textlength(short, font) <= px:
            return short
    return text[:1]


def _rgb(row: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in row)
    return red, green, blue


def _edges(numbers: IntArray) -> npt.NDArray[np.bool_]:
    """(h, w) whether another number is to the right or below."""
    edge = np.zeros(numbers.shape, np.bool_)
    edge[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    edge[:-1] |= numbers[:-1] != numbers[1:]
    return edge
