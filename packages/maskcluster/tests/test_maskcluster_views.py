"""Views: masks as decoded, resized, cropped and flipped; photograph and masks in one place."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from maskcluster.config import ViewConfig
from maskcluster.data import views as module
from maskcluster.data.streams import Draws, stream
from maskcluster.data.views import Geometry, fit_shortest, make_view, nearest, see_masks
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.packed import unpack
from maskcluster.masks.photo_files import open_photo
from maskcluster.masks.rle import Rle
from maskcluster.masks.sa1b import read_sa1b

REAL = Path(__file__).parents[4] / "shared/data/coco128_panoptic"

Bools = npt.NDArray[np.bool_]
PLAIN = ViewConfig(
    shortest_px=96, longest_px=160, crop_px=64, image_px=32, mask_px=32, photometric=False,
    colour_jitter=0, greyscale=0, blur=0, cutout=0,
)  # fmt: skip


def draws(*name: object) -> Draws:
    return partial(stream, *name)


def blobs(height: int, width: int, count: int, seed: int = 0) -> Bools:
    """(M, H, W) ellipses of all sizes, with holes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    found = np.zeros((count, height, width), np.bool_)
    for mask in found:
        centre_y, centre_x, a, b = rng.uniform(0.1, 1, 4) * (height, width, height / 3, width / 3)
        mask[:] = ((y - centre_y) / a) ** 2 + ((x - centre_x) / b) ** 2 < 1
        mask[rng.random((height, width)) < 0.05] ^= True
    return found


def mask_set(masks: Bools) -> MaskSet:
    return MaskSet.of(masks.shape[1], masks.shape[2], [Rle.from_mask(mask) for mask in masks])


def resize_nearest(mask: Bools, tall: int, wide: int) -> Bools:
    """Each pixel takes that of the source which holds its middle, without any rounding."""
    rows, columns = (
        [math.floor((i + Fraction(1, 2)) * old / new) for i in range(new)]
        for new, old in ((tall, mask.shape[0]), (wide, mask.shape[1]))
    )
    return mask[rows][:, columns]


def seen_plainly(masks: Bools, geometry: Geometry, size: int) -> Bools:
    """(M, S, S): decode, nearest resize, crop, flip, nearest resize; each a step of its own."""
    found = []
    for mask in masks:
        resized = resize_nearest(mask, *geometry.resized)
        top, left, side = geometry.top, geometry.left, geometry.side
        square = resized[top : top + side, left : left + side]
        square = square[:, ::-1] if geometry.flipped else square
        found.append(resize_nearest(square, size, size))
    return np.stack(found)


def unpacked(packed: npt.NDArray[np.uint8]) -> Bools:
    return unpack(torch.from_numpy(packed)).numpy()


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("size", [(61, 97), (97, 61), (400, 300), (256, 256), (40, 200)])
def test_masks_are_as_if_decoded_resized_cropped_and_flipped(
    size: tuple[int, int], flip: float
) -> None:
    masks = blobs(*size, count=6)
    for seed in range(5):
        geometry = Geometry.draw(*size, replace(PLAIN, flip=flip), stream(seed))
        assert geometry.flipped == bool(flip)
        grid = unpacked(mask_set(masks).sample_bits(*geometry.sources(64)))
        assert np.array_equal(grid, seen_plainly(masks, geometry, 64))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99), st.sampled_from([32, 96]))
def test_a_square_is_never_outside_of_the_photograph(
    height: int, width: int, seed: int, size: int
) -> None:
    geometry = Geometry.draw(height, width, PLAIN, stream(seed))
    tall, wide = geometry.resized
    assert geometry.side == min(64, tall, wide) and max(tall, wide) <= 160
    assert 0 <= geometry.top <= tall - geometry.side
    assert 0 <= geometry.left <= wide - geometry.side
    rows, columns = geometry.sources(size)
    assert 0 <= rows.min() and rows.max() < height  # noqa: SIM300  # a range
    assert 0 <= columns.min() and columns.max() < width  # noqa: SIM300  # a range
    assert (np.diff(rows) >= 0).all()
    assert (np.diff(columns) * (-1 if geometry.flipped else 1) >= 0).all()


@pytest.mark.parametrize(("size", "source"), [(1333, 640), (889, 1500), (1333, 2250), (256, 640)])
def test_nearest_pixels_are_those_of_pillow_and_torch_but_for_ties(size: int, source: int) -> None:
    ours = nearest(size, source)
    column = Image.fromarray(np.arange(source, dtype=np.int32)[:, None])
    pillow = np.asarray(column.resize((1, size), Image.Resampling.NEAREST))[:, 0]
    line = torch.arange(source)[None, None].float()
    torchs = interpolate(line, size=size, mode="nearest-exact")[0, 0].long().numpy()
    tie = (2 * np.arange(size) + 1) * source % (2 * size) == 0
    assert np.array_equal(ours[~tie], pillow[~tie]) and np.array_equal(ours[~tie], torchs[~tie])
    assert max(np.abs(ours - pillow).max(), np.abs(ours - torchs).max()) <= 1


def test_every_place_of_a_crop_is_drawn() -> None:
    found = [Geometry.draw(96, 98, PLAIN, stream(i)) for i in range(600)]
    assert {one.top for one in found} == set(range(33))
    assert {one.left for one in found} == set(range(35))
    assert 0.43 < np.mean([one.flipped for one in found]) < 0.57


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (1000, 1333)), ((1500, 2250), (889, 1333)), ((640, 640), (1024, 1024)),
     ((1200, 1000), (1229, 1024)), ((10, 5000), (3, 1333)), ((1, 5000), (1, 1333))],
)  # fmt: skip
def test_the_shorter_side_is_fitted(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_shortest(*size, 1024, 1333) == expected


def test_nearest_pixels_by_hand() -> None:
    assert nearest(4, 8).tolist() == [1, 3, 5, 7]
    assert nearest(4, 2).tolist() == [0, 0, 1, 1]
    assert nearest(3, 5).tolist() == [0, 2, 4]
    assert nearest(256, 640)[:4].tolist() == [1, 3, 6, 8]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [(75, 100), (150, 225)])
def test_a_part_is_resized_as_the_whole_photograph(size: tuple[int, int], flipped: bool) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = Geometry.draw(*size, PLAIN, stream(4))
    geometry = replace(drawn, flipped=flipped)
    tall, wide = geometry.resized
    whole = Image.fromarray(photo).resize((wide, tall), Image.Resampling.BILINEAR)
    x, y = geometry.left, geometry.top
    square = whole.crop((x, y, x + 64, y + 64))
    if flipped:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found = np.asarray(geometry.look(photo, 64)).astype(int)
    assert np.abs(found - np.asarray(square)).max() <= 1
    tensor = torch.from_numpy(np.asarray(geometry.look(photo, 64)).copy()).permute(2, 0, 1)
    half = interpolate(tensor[None].float(), size=(32, 32), mode="bilinear")[0]
    small = torch.from_numpy(np.asarray(geometry.look(photo, 32)).copy()).permute(2, 0, 1)
    assert (half - small).abs().max() <= 0.5


@pytest.mark.parametrize("size", [(90, 120), (200, 150), (48, 64), (30, 200)])
@pytest.mark.parametrize("image_px", [32, 64, 96])
def test_photograph_and_mask_stay_in_one_place(size: tuple[int, int], image_px: int) -> None:
    """A photograph that is white where its mask is: afterwards it still is, within a pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.hypot(y - size[0] * 0.45, x - size[1] * 0.4) < min(size) * 0.42
    photo = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    config = replace(PLAIN, image_px=image_px, mask_px=image_px)
    compared = 0
    for seed in range(12):
        geometry = Geometry.draw(*size, config, stream(seed, "crop"))
        view = make_view(photo, mask_set(mask[None]), config, draws(seed))
        white = view.weak[0].numpy() >= 128
        if not len(view.packed):
            assert white.mean() < 0.01
            continue
        seen = unpack(view.packed)[0].numpy()
        enlarged = max(1, image_px / geometry.side) * max(1, geometry.resized[0] / size[0])
        edge = [near_an_edge(one, math.ceil(enlarged)) for one in (white, seen)]
        assert not (white ^ seen)[~(edge[0] | edge[1])].any()
        if min(white.sum(), seen.sum()) > 50:
            middles = [np.argwhere(one).mean(0) for one in (white, seen)]
            assert np.abs(middles[0] - middles[1]).max() < 0.6 * enlarged
            compared += 1
    assert compared >= 3


def near_an_edge(mask: Bools, reach: int) -> Bools:
    """Pixels with one of the other side so many rows or columns away, or nearer."""
    wide = np.pad(mask, reach, mode="edge")
    side, span = mask.shape[0], range(2 * reach + 1)
    parts = [wide[i : i + side, j : j + side] != mask for i in span for j in span]
    found: Bools = np.logical_or.reduce(parts)
    return found


def test_a_flip_mirrors_photograph_and_masks() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    masks = mask_set(blobs(96, 96, 4))
    here, there = (
        make_view(photo, masks, replace(PLAIN, crop_px=96, flip=flip), draws(0))
        for flip in (0.0, 1.0)
    )
    assert torch.equal(here.weak.flip(2), there.weak)
    assert torch.equal(unpack(here.packed).flip(2), unpack(there.packed))


def test_what_is_cut_out_of_the_strong_view_is_in_no_mask() -> None:
    photo = np.full((96, 96, 3), 200, np.uint8)
    full = mask_set(np.ones((2, 96, 96), np.bool_))
    config = replace(PLAIN, cutout=1.0, cutout_side=(0.3, 0.6))
    for seed in range(10):
        view = make_view(photo, full, config, draws(seed))
        black = (view.strong == 0).all(0)  # (32, 32), as many as the grid
        assert 80 < black.sum() < 400 and (view.weak == 200).all()
        assert torch.equal(unpack(view.packed), ~black.expand(2, -1, -1))
        kept = make_view(photo, full, replace(config, cutout_masks=False), draws(seed))
        assert unpack(kept.packed).all() and torch.equal(kept.strong, view.strong)


def test_a_rectangle_is_cut_out_of_a_finer_or_coarser_grid() -> None:
    full = mask_set(np.ones((1, 96, 96), np.bool_))
    geometry = Geometry.draw(96, 96, PLAIN, stream(0))
    for side in (32, 64, 96):
        config = replace(PLAIN, image_px=64, mask_px=side)
        grid = unpacked(see_masks(full, geometry, config, (16, 0, 48, 32)))[0]
        expected = np.ones((side, side), np.bool_)
        expected[: side // 2, side // 4 : side * 3 // 4] = False
        assert np.array_equal(grid, expected)


def test_small_masks_go_and_of_many_the_largest_stay_in_order() -> None:
    masks = np.zeros((6, 32, 32), np.bool_)
    for mask, area in zip(masks, (5, 1, 9, 0, 5, 2), strict=True):
        mask.ravel()[:area] = True
    geometry = Geometry(
        height=32, width=32, resized=(32, 32), top=0, left=0, side=32, flipped=False
    )

    def areas(**changed: int) -> list[int]:
        config = replace(PLAIN, **changed)  # type: ignore[arg-type]  # only whole numbers
        return unpacked(see_masks(mask_set(masks), geometry, config)).sum((1, 2)).tolist()  # type: ignore[no-any-return]  # numpy's

    assert areas() == [5, 9, 5, 2]
    assert areas(min_mask_px=1) == [5, 1, 9, 5, 2]
    assert areas(min_mask_px=10) == []
    assert areas(max_masks=2) == [5, 9]  # of the two with 5 the first
    assert areas(max_masks=9) == [5, 9, 5, 2]


def test_a_mask_that_is_cut_out_whole_goes() -> None:
    spot = np.zeros((1, 96, 96), np.bool_)
    spot[0, 40:50, 40:50] = True
    geometry = replace(Geometry.draw(96, 96, PLAIN, stream(0)), top=16, left=16)
    assert len(see_masks(mask_set(spot), geometry, PLAIN)) == 1
    assert see_masks(mask_set(spot), geometry, PLAIN, (10, 10, 20, 20)).shape == (0, 32, 4)


@pytest.mark.parametrize("masks", [None, MaskSet.of(70, 90, [])])
def test_a_photograph_without_masks_has_views(masks: MaskSet | None) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    view = make_view(photo, masks, replace(PLAIN, mask_px=64), draws(1))
    assert view.packed.shape == (0, 64, 8) and view.packed.dtype == torch.uint8
    assert view.weak.shape == view.strong.shape == (3, 32, 32) and view.weak.dtype == torch.uint8


def test_masks_of_another_size_are_refused() -> None:
    photo = np.zeros((70, 90, 3), np.uint8)
    with pytest.raises(ValueError, match="masks are 90 x 70, the photo 70 x 90"):
        make_view(photo, MaskSet.of(90, 70, []), PLAIN, draws(1))


FULL = replace(PLAIN, photometric=True, colour_jitter=0.8, greyscale=0.2, blur=0.5, cutout=1.0)


def test_a_view_is_that_of_its_streams_and_no_other() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    masks = mask_set(blobs(70, 90, 5))
    first = make_view(photo, masks, FULL, draws(3, "a"))
    np.random.default_rng().random()
    torch.rand(5)
    for name, equal in (((3, "a"), True), ((3, "b"), False), ((4, "a"), False)):
        other = make_view(photo, masks, FULL, draws(*name))
        assert torch.equal(other.weak, first.weak) == equal
        assert torch.equal(other.strong, first.strong) == equal


def test_a_draw_of_one_kind_changes_nothing_of_another() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    masks = mask_set(blobs(70, 90, 5))
    full = make_view(photo, masks, FULL, draws(3))
    plain = make_view(photo, masks, replace(FULL, greyscale=1.0, blur=1.0), draws(3))
    assert torch.equal(full.weak, plain.weak) and torch.equal(full.packed, plain.packed)
    assert not torch.equal(full.strong, plain.strong)
    bare = make_view(photo, masks, replace(FULL, photometric=False, colour_jitter=0), draws(3))
    assert torch.equal(bare.packed, full.packed)


def test_without_augmentation_the_views_are_equal() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    view = make_view(photo, None, PLAIN, draws(3))
    assert torch.equal(view.weak, view.strong)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_nothing() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    config = replace(FULL, blur=1.0, crop_px=96, image_px=96)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(make_view(photo, mask_set(blobs(300, 400, 3)), config, draws(0)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_colours_before_and_after_the_last_resize_are_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is departed from: the code changes colours of the crop, then resizes it."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    photo = np.asarray(rough.resize((400, 300), Image.Resampling.BICUBIC))
    late = replace(FULL, crop_px=96, image_px=48)
    early = replace(late, image_px=96)
    monkeypatch.setattr(module, "draw_cutout", lambda *_: None)
    for seed in range(10):
        ours = make_view(photo, None, late, draws(seed)).strong.float()
        code = interpolate(
            make_view(photo, None, early, draws(seed)).strong[None].float(), (48, 48),
            mode="bilinear",
        )[0]  # fmt: skip
        assert (ours - code).abs().mean() < 2


@pytest.mark.skipif(not REAL.is_dir(), reason="the coco128_panoptic data are not on this machine")
def test_real_masks_are_as_if_decoded() -> None:
    paths = sorted((REAL / "sa1b_style").rglob("*.json"))[::40]
    assert len(paths) == 5
    config = ViewConfig(cutout_masks=False)
    for number, path in enumerate(paths):
        masks = read_sa1b(path)
        key = path.relative_to(REAL / "sa1b_style").with_suffix("")
        photo = open_photo(REAL / "images" / key.parent / f"{key.name}.jpg")
        view = make_view(photo, masks, config, draws(number))
        geometry = Geometry.draw(masks.height, masks.width, config, stream(number, "crop"))
        plain = seen_plainly(masks.decode(), geometry, 256)
        kept = plain[plain.sum((1, 2)) >= config.min_mask_px]
        assert np.array_equal(unpack(view.packed).numpy(), kept) and len(kept)
        assert view.weak.shape == (3, 320, 320) and view.weak.float().std() > 5
