import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from maskcluster.generators.protocol import MaskGenerator
from maskcluster.generators.sam import SA1B, SAM2, SamMasks, SamOptions, encode_masks, stability_of
from maskcluster.masks.rle import Rle

Photo = npt.NDArray[np.uint8]
restated_masks = runpy.run_path(str(Path(__file__).with_name("restated_sam.py")))["restated_masks"]
DISCS = [(30, 30, 14), (90, 40, 20), (60, 90, 10), (110, 100, 9)]


def discs_photo() -> Photo:
    """(128, 144, 3): four discs, each of its own grey, on black."""
    y, x = np.mgrid[:128, :144]
    photo = np.zeros((128, 144, 3), np.uint8)
    for number, (cx, cy, r) in enumerate(DISCS):
        photo[(x - cx) ** 2 + (y - cy) ** 2 <= r**2] = 60 * (number + 1)
    return photo


class SameColour:
    """Knows what it is asked for: all pixels of the colour under the point.

    Of the three masks the first is sharp, the second blurred, the third sharp but doubted.
    """

    def __init__(self, side: int = 128) -> None:
        self.side = side
        self.encoded = 0
        self.upsampled = 0

    @property
    def description(self) -> Mapping[str, Any]:
        return {"model": "same colour"}

    def encode(self, image: Photo) -> Any:
        self.encoded += 1
        return torch.from_numpy(image[..., 0].astype(np.int64))  # (H, W)

    def predict(self, encoded: Any, points: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        small = F.interpolate(encoded[None, None].float(), (self.side, self.side))[0, 0]
        rows = []
        for x, y in points.astype(int).tolist():
            inside = (small == encoded[y, x].item()).float() * 2 - 1  # (side, side)
            blurred = F.avg_pool2d(inside[None, None], 9, 1, 4, count_include_pad=False)[0, 0]
            rows.append(torch.stack([9 * inside, 1.2 * blurred, 9 * inside]))
        iou = torch.tensor([0.95, 0.99, 0.5]).repeat(len(points), 1)
        return torch.stack(rows), iou

    def upsample(self, encoded: Any, logits: Tensor) -> Tensor:
        self.upsampled += len(logits)
        return F.interpolate(logits[:, None], tuple(encoded.shape), mode="bilinear")[:, 0]


def assert_same(model: Any, photo: Photo, opts: SamOptions, **how: Any) -> int:
    made = SamMasks(model, opts, **how)(photo)
    expected = restated_masks(model, photo, opts)
    assert len(made) == len(expected)
    for at, (mask, iou, stability, point) in enumerate(expected):
        assert np.array_equal(made.masks[at].to_mask(), mask)
        assert made.predicted_iou[at] == pytest.approx(iou, abs=1e-6)
        assert made.stability[at] == pytest.approx(stability, abs=1e-6)
        assert made.points[at].tolist() == pytest.approx(point)
    return len(made)


def test_each_disc_and_the_ground_become_one_mask() -> None:
    photo = discs_photo()
    made = SamMasks(SameColour(), SamOptions(points_per_side=16))(photo)
    assert len(made) == 5
    truth = [photo[..., 0] == value for value in np.unique(photo)]
    for mask in made.masks:
        decoded = mask.to_mask()
        best = max((decoded & t).sum() / (decoded | t).sum() for t in truth)
        assert best > 0.8
    assert made.predicted_iou.tolist() == pytest.approx([0.95] * 5)
    assert made.source == "sam"
    assert made.dropped["low predicted IoU"] == 256
    assert made.dropped["unstable"] > 0
    assert sum(made.dropped.values()) + len(made) == 3 * 256


def test_what_is_doubted_is_never_resized() -> None:
    model = SameColour()
    SamMasks(model, SamOptions(points_per_side=4))(discs_photo())
    assert model.encoded == 1
    assert model.upsampled == 2 * 16


CASES = [
    SamOptions(points_per_side=8),
    SamOptions(points_per_side=8, points_per_batch=7, box_nms=0.3, stability_threshold=0.0),
    SamOptions(points_per_side=6, crop_layers=1, crop_edge_px=3),
    SamOptions(points_per_side=8, crop_layers=2, crop_points_downscale=2, crop_nms=0.2),
    replace(SA1B, points_per_side=8),
    SamOptions(points_per_side=8, mask_threshold=0.5, stability_offset=0.4, max_coverage=0.1),
]


@pytest.mark.parametrize("opts", CASES)
def test_all_is_as_in_plain_code_with_known_discs(opts: SamOptions) -> None:
    assert assert_same(SameColour(), discs_photo(), opts) > 0


def test_the_number_of_pixels_at_once_changes_nothing() -> None:
    opts = SamOptions(points_per_side=8)
    one, many = (SamMasks(SameColour(), opts, pixels_at_once=n)(discs_photo()) for n in (1, 2**30))
    assert one.masks == many.masks
    assert one.dropped == many.dropped


def test_crops_find_masks_of_the_whole_photograph() -> None:
    opts = SamOptions(points_per_side=12, crop_layers=1, crop_edge_px=2)
    made = SamMasks(SameColour(), opts)(discs_photo())
    assert {tuple(crop) for crop in made.crops.tolist()} != {(0, 0, 144, 128)}
    for crop, box in zip(made.crops.tolist(), made.boxes.tolist(), strict=True):
        assert crop[0] <= box[0] and crop[1] <= box[1] and box[2] <= crop[2] and box[3] <= crop[3]


def test_a_photograph_of_one_pixel_and_nothing_found() -> None:
    made = SamMasks(SameColour(), SamOptions(points_per_side=2, crop_layers=2))
    assert len(made(np.zeros((1, 1, 3), np.uint8))) == 1
    none = SamMasks(SameColour(), SamOptions(points_per_side=2, iou_threshold=2))
    assert len(none(discs_photo())) == 0


def test_defaults_are_those_of_sam_sam2_and_sa1b() -> None:
    opts = SamOptions()
    assert (opts.points_per_side, opts.points_per_batch) == (32, 64)
    assert (opts.iou_threshold, opts.stability_threshold, opts.stability_offset) == (0.88, 0.95, 1)
    assert (opts.box_nms, opts.crop_nms, opts.crop_overlap) == (0.7, 0.7, 512 / 1500)
    assert SAM2.iou_threshold == 0.8
    assert [SA1B.side_of(layer) for layer in range(3)] == [32, 16, 8]
    assert SA1B.crop_layers == 2


@pytest.mark.parametrize(
    "wrong", [{"points_per_side": 0}, {"crop_layers": -1}, {"crop_overlap": 1.0}, {"box_nms": -1}]
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamOptions(**wrong)


def test_it_describes_all_that_masks_depend_on() -> None:
    made = SamMasks(SameColour())
    assert isinstance(made, MaskGenerator)
    assert made.description["model"] == {"model": "same colour"}
    assert made.description["iou_threshold"] == 0.88
    assert made.description != SamMasks(SameColour(), SAM2).description


def test_photographs_must_be_rgb() -> None:
    with pytest.raises(ValueError, match="uint8"):
        SamMasks(SameColour())(np.zeros((4, 4), np.uint8))


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = torch.tensor([[[3.0, 0.5], [-0.5, -3.0]], [[-5.0, -5], [-5, -5]]])
    assert stability_of(logits, 0.0, 1.0).tolist() == pytest.approx([1 / 3, 0])
    assert stability_of(logits, 0.0, 0.0).tolist() == [1, 0]


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 3).flatmap(lambda shape: arrays(np.bool_, shape)))
def test_batches_are_encoded_as_single_masks(masks: npt.NDArray[np.bool_]) -> None:
    assert encode_masks(torch.from_numpy(masks)) == [Rle.from_mask(mask) for mask in masks]


def test_no_masks_are_encoded_as_none() -> None:
    assert encode_masks(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
