"""Colours of views: worked examples, ranges, chances, and torchvision's jitter as a peer."""

from collections import Counter
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torchvision.transforms.v2.functional as F  # type: ignore[import-untyped]  # has no types
from PIL import Image

from maskcluster.config import ViewConfig
from maskcluster.data import colour
from maskcluster.data.colour import cut_out, distort, draw_cutout, strengthen
from maskcluster.data.streams import Draws, stream

NOTHING = {"colour_jitter": 0.0, "greyscale": 0.0, "blur": 0.0, "cutout": 0.0}


def picture(side: int = 24) -> Image.Image:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return smooth.resize((side, side), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def draws(seed: int = 0) -> Draws:
    return partial(stream, seed)


class Fixed(np.random.Generator):
    """Gives out numbers from lists, in place of drawing them."""

    def __init__(self, chances: list[float], amounts: list[float]) -> None:
        super().__init__(np.random.PCG64(0))
        self.chances, self.amounts = chances, amounts

    def random(self, size: int) -> npt.NDArray[np.float64]:  # type: ignore[override]  # as it is called
        return np.array([self.chances.pop(0) for _ in range(size)])

    def uniform(self, low: float, high: float, size: int = 0) -> object:  # type: ignore[override]
        found = [self.amounts.pop(0) for _ in range(max(size, 1))]
        assert all(low <= amount <= high for amount in found)
        return np.array(found) if size else found[0]


@pytest.mark.parametrize(
    ("happens", "amounts", "before", "after"),
    [
        ("", [1.5, 0.5], (10, 20, 200), (10, 20, 200)),
        ("brightness", [30.0, 1.5, 0.5], (10, 20, 240), (40, 50, 255)),
        ("contrast", [1.5, 0.5], (10, 20, 200), (15, 30, 255)),
        ("brightness contrast", [-30.0, 1.5, 0.5], (10, 20, 200), (0, 0, 255)),
        ("saturation", [1.5, 0.5], (200, 100, 100), (200, 150, 150)),
        ("hue", [1.5, 0.5, 360 / 24], (200, 100, 100), (200, 125, 100)),
    ],
)
def test_the_four_distortions_by_hand(
    happens: str, amounts: list[float], before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    names = ("brightness", "contrast", "early", "saturation", "hue")
    for early in ("", " early"):
        chances = [0.0 if name in happens + early else 0.9 for name in names]
        image = Image.new("RGB", (2, 2), before)
        found = pixels(distort(image, Fixed(chances, list(amounts))))
        assert np.abs(found - after).max() <= (2 if happens in ("saturation", "hue") else 0)


def test_a_distortion_is_even_and_stays_in_its_range() -> None:
    image = Image.new("RGB", (1, 1), (100, 100, 100))
    found = np.array([pixels(distort(image, stream(i)))[0, 0] for i in range(400)])  # (400, 3)
    assert (found == found[:, :1]).all()  # a grey stays grey
    assert found.min() >= 34 and found.max() <= 198 and abs(np.median(found) - 100) < 5
    assert 0.2 < (found[:, 0] == 100).mean() < 0.3  # neither brightness nor contrast


def test_hues_turn_by_at_most_18_degrees() -> None:
    image = Image.new("RGB", (1, 1), (120, 60, 60))  # nothing of it is clipped
    hues = [distort(image, stream(i)).convert("HSV").getpixel((0, 0)) for i in range(300)]
    turns = np.array([(h[0] + 128) % 256 - 128 for h in hues if isinstance(h, tuple)])
    assert np.abs(turns).max() <= 15  # 18 degrees are 12.8 of 256; the rest is rounding
    assert turns.min() < -8 and turns.max() > 8 and 0.4 < (np.abs(turns) <= 1).mean() < 0.7


def test_nothing_is_changed_where_nothing_happens() -> None:
    image = picture()
    config = ViewConfig(**NOTHING)  # type: ignore[arg-type]  # only numbers
    assert np.array_equal(pixels(strengthen(image, config, draws())), pixels(image))
    assert draw_cutout(24, config, stream(0)) is None


@pytest.mark.parametrize("which", range(4))
def test_a_jitter_is_that_of_torchvision(which: int) -> None:
    peers = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    image = picture()
    strengths = tuple(0.4 if at == which else 0.0 for at in range(4))
    changed = []
    for seed in range(5):
        rng = stream(seed)
        factors = [rng.uniform(1 - s, 1 + s) for s in strengths[:3]]
        factors.append(rng.uniform(-strengths[3], strengths[3]))
        ours = pixels(colour._jitter(image, strengths, stream(seed)))
        theirs = pixels(peers[which](image, factors[which]))
        assert np.abs(ours - theirs).max() <= (8 if which == 3 else 0)  # hues: a step of 256
        changed.append(np.abs(ours - pixels(image)).max())
    assert max(changed) > 20


def test_the_order_of_the_jitter_changes() -> None:
    image = picture()
    seen = Counter(
        pixels(colour._jitter(image, (0.5, 0.5, 0, 0), rng)).tobytes()
        for rng in (Ordered(order) for order in ([0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3]))
    )
    assert sorted(seen.values()) == [1, 2]


class Ordered(np.random.Generator):
    """Draws the same factors whatever the order is."""

    def __init__(self, order: list[int]) -> None:
        super().__init__(np.random.PCG64(5))
        self.order = order

    def permutation(self, _: int) -> npt.NDArray[np.int64]:  # type: ignore[override]  # as called
        return np.array(self.order)


def test_grey_has_equal_channels() -> None:
    config = ViewConfig(**NOTHING | {"greyscale": 1.0})  # type: ignore[arg-type]
    found = pixels(strengthen(picture(), config, draws()))
    assert (found == found[..., :1]).all()
    assert np.abs(found[..., 0] - pixels(picture()) @ [0.299, 0.587, 0.114]).max() <= 1


def test_a_blur_is_scaled_with_the_view() -> None:
    line = Image.new("RGB", (64, 64))
    line.paste((255, 255, 255), (32, 0, 33, 64))
    spread = []
    for crop_px in (64, 32):
        config = ViewConfig(
            **NOTHING | {"blur": 1.0},  # type: ignore[arg-type]
            blur_sigma=(2.0, 2.0),
            crop_px=crop_px,
        )
        row = pixels(strengthen(line, config, draws()))[32, :, 0]
        spread.append(np.sqrt((row * (np.arange(64) - 32) ** 2).sum() / row.sum()))
    assert spread == pytest.approx([2, 4], rel=0.05)


def test_chances_are_those_of_the_recipe() -> None:
    image = picture(8)
    config = ViewConfig(**NOTHING | {"greyscale": 0.2})  # type: ignore[arg-type]
    found = (pixels(strengthen(image, config, draws(i))) for i in range(500))
    assert 0.14 < np.mean([(one == one[..., :1]).all() for one in found]) < 0.26


def test_a_rectangle_lies_inside_and_its_sides_keep_their_range() -> None:
    boxes = [draw_cutout(100, ViewConfig(), stream(i)) for i in range(500)]
    found = np.array([box for box in boxes if box is not None])
    assert len(found) == 500 and found.min() == 0 and found.max() == 100
    for size in (found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]):
        assert 10 <= size.min() < 13 and 47 < size.max() <= 50
    whole = ViewConfig(cutout_side=(1.0, 1.0))
    assert draw_cutout(9, whole, stream(0)) == (0, 0, 9, 9)


def test_what_is_cut_out_is_black_and_the_rest_as_it_was() -> None:
    image = Image.new("RGB", (6, 5), (9, 8, 7))
    found = pixels(cut_out(image, (1, 2, 4, 3)))
    black = np.zeros((5, 6), bool)
    black[2:3, 1:4] = True
    assert (found[black] == 0).all() and (found[~black] == (9, 8, 7)).all()
    assert (pixels(image) == (9, 8, 7)).all()
    assert np.array_equal(pixels(cut_out(image, (1, 2, 1, 3))), pixels(image))
