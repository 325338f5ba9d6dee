"""Zero-shot classification of masks: what is in a region that somebody else has drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.errors import FormatError
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.photo_files import Photo
from maskcluster.masks.rle import BoolArray, IntArray, Rle
from maskcluster.ops.mask_pool import mask_pool
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter

NONE = -1
"""Class of an empty mask, and of pixels under no mask."""

FloatArray = npt.NDArray[np.float32]
Order = Literal["area", "score"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MaskClasses:
    """Classes of the masks of one photograph."""

    classes: IntArray
    """(M,) in [0, K), the class of highest cosine, the lowest of a tie; `NONE` of an empty mask."""

    scores: FloatArray
    """(M,) that cosine, in [-1, 1]; 0 of an empty mask."""

    cosines: FloatArray
    """(M, K) of every class; 0 of an empty mask."""


@torch.inference_mode()
def classify_masks(
    segmenter: PixelCLIPSegmenter,
    photos: Sequence[Photo],
    masks: Sequence[MaskSet | BoolArray],
    bank: Tensor,
    *,
    image_px: int = 0,
    mask_px: int = 256,
) -> list[MaskClasses]:
    """Classify masks by the mean feature under each (PixelCLIP, arXiv:2409.19846, sec. 4).

        class_n = argmax_k cos(f_n, bank_k),   f_n = mean of the dense features under mask n

    Photographs are squashed to squares as in the published evaluation, with their masks, which are
    sampled on a grid of `mask_px`; features are the tuned tower's, resized bilinearly to that grid
    (`mask_pool` does so without doing it). A mask so thin that it covers no point of the grid has
    the feature at the middle of its box.

    Args:
        segmenter: the model.
        photos: B of (H, W, 3) uint8 RGB, seen at once.
        masks: of each photograph: a set, or (M, H, W) bool.
        bank: (K, D) unit rows.
        image_px: side of the square; 0 is `segmenter.square_px`.
        mask_px: side of the grid, a multiple of 32.

    Returns:
        Classes of each photograph's masks.

    Raises:
        FormatError: masks are of another size than their photograph.
        ValueError: something of another shape.
    """
    sets = [_as_set(photo, own) for photo, own in zip(photos, masks, strict=True)]
    if not sets:
        return []
    features = segmenter.features(segmenter.squares(photos, image_px))  # (B, D, h, w)
    bank = segmenter.checked_bank(bank, features.shape[1])
    counts = [len(own) for own in sets]
    bits = torch.from_numpy(np.concatenate([sample_grid(own, mask_px) for own in sets]))
    owner = torch.arange(len(sets)).repeat_interleave(torch.tensor(counts))  # (M,)
    pooled, area = mask_pool(features, bits.to(features.device), owner.to(features.device))
    cosine = F.normalize(pooled, dim=1) @ F.normalize(bank, dim=1).mT  # (M, K)
    classes = torch.where(area > 0, cosine.argmax(dim=1), NONE)  # (M,)
    scores = torch.where(area > 0, cosine.amax(dim=1), 0)  # (M,)
    parts = (torch.split(values.cpu(), counts) for values in (classes, scores, cosine))
    return [
        MaskClasses(classes=c.numpy(), scores=s.numpy(), cosines=all_of.numpy())
        for c, s, all_of in zip(*parts, strict=True)
    ]


def paint(
    masks: MaskSet | BoolArray,
    classes: IntArray,
    scores: FloatArray | None = None,
    *,
    order: Order = "area",
) -> npt.NDArray[np.int32]:
    """Paint classified masks into a label map.

    Args:
        masks: a set, or (M, H, W) bool.
        classes: (M,), where a mask of class `NONE` is left out.
        scores: (M,), for `order` score.
        order: which of overlapping masks is seen: the smaller (`area`), or the one of higher
            `score`; at a tie the earlier.

    Returns:
        (H, W) int32 classes, `NONE` under no mask.

    Raises:
        ValueError: lengths disagree, or scores are missing.
    """
    found = masks if isinstance(masks, MaskSet) else _set_of(masks)
    if len(classes) != len(found) or (scores is not None and len(scores) != len(found)):
        raise ValueError(f"needs a class and a score a mask, got {len(found)} masks")
    if order == "score" and scores is None:
        raise ValueError("order score needs scores, got None")
    rank = found.areas if order == "area" or scores is None else -scores
    labels = np.full((found.height, found.width), NONE, np.int32)  # (H, W)
    for at in np.argsort(rank, kind="stable")[::-1].tolist():  # what is seen comes last
        if classes[at] != NONE:
            labels[found.masks[at].to_mask()] = classes[at]
    return labels


def sample_grid(masks: MaskSet, side: int) -> npt.NDArray[np.uint8]:
    """Masks on a square grid over the whole photograph.

    Args:
        masks: of the photograph.
        side: S, a multiple of 32.

    Returns:
        (M, S, S // 8) packed masks. A mask that has pixels but covers no point of the grid has the
        point that is nearest to the middle of its box.

    Raises:
        ValueError: `side` is not a multiple of 32.
    """
    if side < 32 or side % 32:
        raise ValueError(f"mask_px must be a multiple of 32, got {side}")
    grid = (np.arange(side) + 0.5) / side
    rows, columns = ((grid * size).astype(np.int64) for size in (masks.height, masks.width))
    bits = masks.sample_bits(rows, columns)  # (M, S, S // 8)
    boxes = masks.boxes  # (M, 4)
    for at in np.flatnonzero(~bits.any(axis=(1, 2)) & (masks.areas > 0)).tolist():
        left, top, right, bottom = boxes[at].tolist()
        y = min((top + bottom) * side // (2 * masks.height), side - 1)
        x = min((left + right) * side // (2 * masks.width), side - 1)
        bits[at, y, x // 8] |= 1 << (x % 8)
    return bits


def _as_set(photo: Photo, masks: MaskSet | BoolArray) -> MaskSet:
    found = masks if isinstance(masks, MaskSet) else _set_of(masks)
    if (found.height, found.width) != photo.shape[:2]:
        raise FormatError(
            f"masks are of {found.height} x {found.width}, "
            f"the photograph is {photo.shape[0]} x {photo.shape[1]} (height x width)"
        )
    return found


def _set_of(masks: BoolArray) -> MaskSet:
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ValueError(f"masks must be (M, H, W) bool, got {masks.shape} of {masks.dtype}")
    height, width = masks.shape[1:]
    return MaskSet.of(height, width, [Rle.from_mask(mask) for mask in masks])
