"""Classes of masks against upsample-then-average; painting; masks of every awkward kind."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskcluster.errors import FormatError
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.packed import unpack
from maskcluster.masks.rle import BoolArray, Rle
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.segmenting.mask_classes import classify_masks, paint, sample_grid
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def segmenter() -> PixelCLIPSegmenter:
    model = PixelCLIP(restated.tiny_clip(), None)
    return PixelCLIPSegmenter(model, precision="float32", image_px=64)


def bank(rows: int = 4) -> Tensor:
    return F.normalize(torch.randn(rows, 20, generator=torch.Generator().manual_seed(3)), dim=1)


def discs(count: int, height: int = 48, width: int = 64) -> BoolArray:
    random = np.random.default_rng(count)
    rows, columns = np.mgrid[:height, :width]
    found = []
    for _ in range(count):
        y, x, radius = random.random(3) * (height, width, 20) + (0, 0, 4)
        found.append((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)
    return np.array(found).reshape(count, height, width)


def set_of(masks: BoolArray) -> MaskSet:
    height, width = masks.shape[1:]
    return MaskSet.of(height, width, [Rle.from_mask(mask) for mask in masks])


def test_a_class_is_that_of_the_mean_feature_under_the_mask(segmenter: PixelCLIPSegmenter) -> None:
    masks = discs(6)
    features = segmenter.features(segmenter.squares([PHOTO]))
    large = F.interpolate(features, (64, 64), mode="bilinear", align_corners=False)[0]
    rows = [int((i + 0.5) * 48 / 64) for i in range(64)]
    under = [torch.from_numpy(mask[rows]) for mask in masks]  # the width is the photograph's
    means = torch.stack([large[:, mask].mean(dim=1) for mask in under])  # (M, D)
    common = F.normalize(means.mean(dim=0), dim=0)  # (D,)
    telling = F.normalize(means - (means @ common)[:, None] * common, dim=1)  # tells masks apart
    (found,) = classify_masks(segmenter, [PHOTO], [masks], telling, mask_px=64)
    want = F.normalize(means, dim=1) @ telling.mT  # (M, M)
    torch.testing.assert_close(torch.from_numpy(found.cosines), want, rtol=0, atol=1e-5)
    assert found.classes.tolist() == want.argmax(dim=1).tolist()
    torch.testing.assert_close(torch.from_numpy(found.scores), want.amax(dim=1), rtol=0, atol=1e-5)
    assert len(set(found.classes.tolist())) > 1


def test_photographs_seen_at_once_are_as_alone(segmenter: PixelCLIPSegmenter) -> None:
    other = np.ascontiguousarray(PHOTO[:, :40])
    photos = [PHOTO, other, PHOTO]
    masks: list[MaskSet | BoolArray] = [discs(3), set_of(discs(2, 48, 40)), discs(3)[:0]]
    together = classify_masks(segmenter, photos, masks, bank())
    assert [len(each.classes) for each in together] == [3, 2, 0]
    for photo, own, found in zip(photos, masks, together, strict=True):
        (alone,) = classify_masks(segmenter, [photo], [own], bank())
        np.testing.assert_allclose(found.cosines, alone.cosines, atol=1e-5)
    assert classify_masks(segmenter, [], [], bank()) == []


def test_empty_and_full_and_tiny_masks(segmenter: PixelCLIPSegmenter) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    masks = np.zeros((4, 300, 400), np.bool_)
    masks[1] = True
    masks[2, 151, 303] = True  # between the points of a grid of 32
    masks[3, 299, 399] = True
    (found,) = classify_masks(segmenter, [photo], [masks], bank(), mask_px=32)
    assert found.classes[0] == -1 and found.scores[0] == 0 and not found.cosines[0].any()
    assert (found.classes[1:] >= 0).all() and (found.scores[1:] != 0).all()
    bits = unpack(torch.from_numpy(sample_grid(set_of(masks), 32)))
    assert bits.sum(dim=(1, 2)).tolist() == [0, 1024, 1, 1]
    assert bool(bits[2, 16, 24]) and bool(bits[3, 31, 31])


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 999),
    share=st.sampled_from([0.001, 0.1, 0.9]),
)  # fmt: skip
def test_no_mask_with_pixels_is_lost_on_the_grid(
    height: int, width: int, seed: int, share: float
) -> None:
    masks = np.random.default_rng(seed).random((3, height, width)) < share
    bits = unpack(torch.from_numpy(sample_grid(set_of(masks), 32))).any(dim=(1, 2))
    assert bits.tolist() == masks.any(axis=(1, 2)).tolist()


def test_painting_shows_the_smaller_mask_or_the_surer() -> None:
    masks = np.zeros((3, 2, 4), np.bool_)
    masks[0, 0, :3], masks[1, 0, 2:], masks[2, 1, 0] = True, True, True
    classes, scores = np.array([5, 0, -1]), np.array([0.9, 0.2, 0.1], np.float32)
    smaller = [[5, 5, 0, 0], [-1] * 4]
    assert paint(masks, classes).tolist() == smaller
    assert paint(set_of(masks), classes, scores, order="score").tolist() == [
        [5, 5, 5, 0], [-1] * 4,
    ]  # fmt: skip
    twins = np.ones((2, 1, 1), np.bool_)
    assert paint(twins, np.array([3, 4])).tolist() == [[3]]  # the earlier of a tie
    assert paint(masks[:0], classes[:0]).tolist() == [[-1] * 4] * 2


def test_what_does_not_fit_is_refused(segmenter: PixelCLIPSegmenter) -> None:
    with pytest.raises(FormatError, match=r"masks are of 48 x 40, the photograph is 48 x 64"):
        classify_masks(segmenter, [PHOTO], [discs(2, 48, 40)], bank())
    with pytest.raises(ValueError, match=r"must be \(M, H, W\) bool"):
        classify_masks(segmenter, [PHOTO], [np.zeros((2, 48, 64))], bank())  # type: ignore[list-item]
    with pytest.raises(ValueError, match="multiple of 32, got 40"):
        classify_masks(segmenter, [PHOTO], [discs(2)], bank(), mask_px=40)
    with pytest.raises(ValueError, match=r"bank must be \(K, 20\)"):
        classify_masks(segmenter, [PHOTO], [discs(2)], torch.ones(3, 4))
    with pytest.raises(ValueError, match="a class and a score a mask"):
        paint(discs(2), np.array([1]))
    with pytest.raises(ValueError, match="order score needs scores"):
        paint(discs(2), np.array([1, 1]), order="score")
