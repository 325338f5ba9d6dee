"""Cards of concepts, and pictures of classes that captions rarely name."""

import re

import numpy as np
import pytest

from conceptarchive import Concept
from integration.cocu.concept_pages import Example, Judged

UMBRELLA = Concept("umbrella", 1.944, 2)


@pytest.mark.parametrize(
    ("named", "truth", "kind", "told"),
    [
        ((), ("umbrella", "sea"), "right", "✓ right: shown"),
        ((), ("sea",), "wrong", "✗ wrong: not shown"),
        ((), None, "new", "not in the caption"),
        (("umbrella",), ("umbrella",), "named", "in the caption"),
        (("umbrella",), ("sea",), "named", "in the caption, ✗ not shown"),
        (("umbrella",), None, "named", "in the caption"),
    ],
)
def test_a_card_says_what_is_known_of_a_concept(
    named: tuple[str, ...], truth: tuple[str, ...] | None, kind: str, told: str
) -> None:
    card = Judged.of(UMBRELLA, named, truth).card()
    assert card == (
        f'<div class="card {kind}"><b>umbrella</b><br>{told}<br>'
        "<small>score 1.94, cluster 2</small></div>"
    )


def test_two_rows_of_equal_columns_with_one_legend() -> None:
    truth = np.array([[0, 0, 1, -1]], np.int32)
    maps = {"baseline": np.array([[0, 1, 1, 1]]), "cocu": np.array([[0, 0, 1, 0]])}
    example = Example(0, np.full((1, 4, 3), 100, np.uint8), truth, maps)
    html = example.cells(["sky", "sea"], {0: (0, 0, 200), 1: (200, 0, 0)})
    assert html.startswith('<div class="grid" style="--columns:4"><figure>')
    cells = re.findall(r'<figcaption>(.*?)</figcaption>|class="(legend)"', html)
    assert [text or legend for text, legend in cells] == [
        "picture", "truth: sky", "baseline: sky, IoU 0.50", "cocu: sky, IoU 1.00",
        "legend", "truth: all classes",
        "baseline: 67% of pixels right", "cocu: 100% of pixels right",
    ]  # fmt: skip


def test_what_models_see_in_ignored_pixels_is_left_out() -> None:
    truth = np.array([[0, -1]], np.int32)
    example = Example(0, np.zeros((1, 2, 3), np.uint8), truth, {"cocu": np.array([[0, 1]])})
    assert [labels.tolist() for labels in example.all_maps] == [[[0, -1]], [[0, -1]]]
