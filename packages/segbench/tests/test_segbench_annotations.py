"""Masks of COCO's JSON: run lengths and polygons, as pycocotools makes them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segbench.datasets.annotations import decode_mask, fill_polygon

# the expected masks were made once with pycocotools 2.0.11


def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def rows(mask: npt.NDArray[np.bool_]) -> list[str]:
    return ["".join("#" if inside else "." for inside in row) for row in mask]


def test_run_lengths_go_down_the_columns() -> None:
    mask = decode_mask({"counts": [1, 2, 3], "size": [2, 3]}, 2, 3)
    assert rows(mask) == [".#.", "#.."]


def test_polygon_golden() -> None:
    assert rows(fill_polygon([1, 1, 4, 1, 4, 3, 1, 3], 5, 7)) == [
        ".......",
        ".###...",
        ".###...",
        ".......",
        ".......",
    ]


GOLDEN = [  # concave, past every border, crossing itself, thinner than a pixel
    (
        [2.5, 1.25, 17.75, 3.5, 12.0, 14.5, 8.2, 6.1, 3.3, 12.9],
        16,
        20,
        "a1<4N3N1O1N2002N2O1N1ON2N2N2N_1",
    ),
    (
        [-4.0, -3.5, 9.5, 2.0, 25.0, -1.0, 14.2, 9.9, 30.5, 18.0, -6.25, 13.75],
        15,
        24,
        "0j21dM001O000000O100000J1LO32MN2431O2N1O2N1O1O",
    ),
    ([1.0, 1.0, 9.0, 9.0, 1.0, 9.0, 9.0, 1.0], 11, 12, "c013021N00100N12ON12N010N215Oi0"),
    ([5.1, 0.2, 5.4, 11.8, 5.9, 0.1, 6.3, 6.0], 12, 9, "n18V1"),
]


@pytest.mark.parametrize(("polygon", "height", "width", "text"), GOLDEN)
def test_polygons_equal_those_of_pycocotools(
    polygon: list[float], height: int, width: int, text: str
) -> None:
    want = decode_mask({"counts": text, "size": [height, width]}, height, width)
    assert rows(fill_polygon(polygon, height, width)) == rows(want)
    assert want.any()


def to_text(counts: Sequence[int]) -> str:
    """COCO's text form, written from its description."""
    digits = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            done = value == (-1 if digit & 16 else 0)
            digits.append(chr(48 + digit + (0 if done else 32)))
            if done:
                break
    return "".join(digits)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_text_and_list_of_run_lengths_agree(counts: list[int]) -> None:
    counts[-1] += 1
    width = sum(counts)
    as_list = decode_mask({"counts": counts, "size": [1, width]}, 1, width)
    as_text = decode_mask({"counts": to_text(counts), "size": [1, width]}, 1, width)
    assert (as_list == as_text).all()
    assert as_list.sum() == sum(counts[1::2])


@given(
    st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 7)
)
def test_whole_boxes_are_filled_exactly(x: int, y: int, w: int, h: int, turn: int) -> None:
    corners = np.roll(np.array(box(x, y, x + w, y + h)).reshape(4, 2), turn % 4, axis=0)
    corners = corners[::-1] if turn > 3 else corners
    want = np.zeros((12, 12), dtype=bool)
    want[y : y + h, x : x + w] = True
    assert rows(fill_polygon(corners.ravel().tolist(), 12, 12)) == rows(want)


def test_masks_of_pycocotools_where_it_is_installed() -> None:
    peer = pytest.importorskip(
        "pycocotools.mask", reason="pycocotools is not installed: no peer to compare with"
    )
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        polygon = np.round(rng.uniform(-8, 48, 2 * int(rng.integers(4, 12))), 2).tolist()
        (code,) = peer.frPyObjects([polygon], height, width)
        text = {"counts": code["counts"].decode(), "size": [height, width]}
        want = decode_mask(text, height, width)
        assert rows(fill_polygon(polygon, height, width)) == rows(want)
