"""What a model saw, drawn: paths are the masks, and no text in it is markup."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from integration.colours import separated
from integration.demo.drawing import (
    DRAWN_PX,
    MAX_MAPS,
    draw_labels,
    draw_maps,
    draw_note,
    draw_photo,
    outline,
    thinned,
)
from integration.demo.models import BACKGROUND, Map, Seen
from integration.demo.picture import read_picture

KINDS = {
    "div", "style", "svg", "image", "path", "title", "text", "ul", "li", "span", "figure", "img",
    "figcaption", "p",
}  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def painted(path: str, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """How often a path of rectangles covers each pixel."""
    count = np.zeros(shape, np.int64)
    for left, top, width, height, back in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h(-\d+)z", path):
        assert int(back) == -int(width)
        count[int(top) : int(top) + int(height), int(left) : int(left) + int(width)] += 1
    return count


def test_worked_example() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], bool)
    assert outline(mask) == "M0 0h2v2h-2zM1 2h2v1h-2z"
    assert outline(np.zeros((2, 2), bool)) == ""


@settings(deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_path_covers_its_mask_once_and_nothing_else(mask: npt.NDArray[np.bool_]) -> None:
    assert (painted(outline(mask), (mask.shape[0], mask.shape[1])) == mask).all()


def test_each_class_has_its_colour_its_share_and_its_line() -> None:
    labels = np.full((4, 5), 2, np.int32)
    labels[0] = 0
    labels[3, :2] = BACKGROUND
    found = Tags(
        draw_labels(np.zeros((4, 5, 3), np.uint8), Seen(labels, ()), ["sky", "sea", "sand"])
    )
    paths = {tags["class"]: tags for tag, tags in found.tags if tag == "path"}
    assert list(paths) == ["area area-2", "area area-0"]  # the larger first
    assert (painted(str(paths["area area-0"]["d"]), (4, 5)) == (labels == 0)).all()
    assert paths["area area-2"]["fill"] == "#{:02x}{:02x}{:02x}".format(*separated(3)[2])
    assert "sand65%sky25%background10%sea0%" in "".join(found.texts)
    lines = [tags["class"] for tag, tags in found.tags if tag == "li"]
    assert lines == ["key-2", "key-0", "key--1", "key-1 absent"]
    swatches = [tags for _, tags in found.tags if "swatch" in (tags.get("class") or "")]
    assert [tags["class"] for tags in swatches].index("swatch unpainted") == 2
    (svg,) = (tags for tag, tags in found.tags if tag == "svg")
    assert svg["aria-label"] == "sand 65%, sky 25%"


def test_the_background_is_told_where_it_was_allowed() -> None:
    photo, everywhere = np.zeros((2, 2, 3), np.uint8), Seen(np.zeros((2, 2), np.int32), ())
    assert "".join(Tags(draw_labels(photo, everywhere, ["sky"])).texts).endswith("sky100%")
    told = "".join(Tags(draw_labels(photo, everywhere, ["sky"], background=True)).texts)
    assert told.endswith("sky100%background0%")


def test_a_picture_is_drawn_alone() -> None:
    photo = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    drawn = draw_photo(photo)
    (image,) = (tags for tag, tags in Tags(drawn).tags if tag == "image")
    assert (image["width"], image["height"]) == ("3", "2")
    shown = read_picture(base64.b64decode(str(image["href"]).partition("base64,")[2]))
    assert (shown == photo).all()


def test_hostile_words_stay_text() -> None:
    photo, labels = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int32)
    maps = [Map(HOSTILE, np.ones((2, 2), np.float32))]
    drawn = draw_labels(photo, Seen(labels, maps), [HOSTILE]) + draw_maps(photo, maps)
    found = Tags(drawn + draw_note(HOSTILE))
    kinds = {tag for tag, _ in found.tags}
    assert kinds <= KINDS
    assert not [name for _, tags in found.tags for name in tags if name.startswith("on")]
    assert all(
        str(tags.get("src", "data:")).startswith("data:image/") or "src" not in tags
        for _, tags in found.tags
    )
    assert found.texts.count(HOSTILE) == 5  # title, tip, legend, map, note


def test_large_label_maps_are_thinned_out() -> None:
    labels = np.repeat(np.arange(1000, dtype=np.int32)[:, None], 700, axis=1)
    small = thinned(labels)
    assert max(small.shape) <= DRAWN_PX
    assert (np.diff(small[:, 0]) == 4).all()
    line = np.zeros((1, 5000), np.int32)
    assert thinned(line).shape[0] == 1


def test_a_map_lights_where_it_weighs_and_the_rest_are_counted() -> None:
    photo = np.full((2, 2, 3), (200, 100, 0), np.uint8)
    weight = np.array([[1, 0], [0.5, 1]], np.float32)
    drawn = draw_maps(photo, [Map("a", weight)])
    lit = read_picture(base64.b64decode(drawn.partition("base64,")[2].partition('"')[0]))
    assert lit[0, 0].tolist() == [200, 100, 0]
    assert lit[0, 1].tolist() == [30, 15, 0]
    assert 110 < lit[1, 0, 0] < 120
    many = [Map("a", weight)] * (MAX_MAPS + 3)
    drawn = draw_maps(photo, many)
    assert drawn.count("<figure>") == MAX_MAPS
    assert "and 3 more" in drawn
