"""Boxes of masks, and which of them to keep. All boxes are half-open XYXY."""

from torch import Tensor


def near_crop_edge(
    boxes: Tensor, crop: tuple[int, int, int, int], height: int, width: int, *, within_px: float
) -> Tensor:
    """Whether masks may have been cut off by their crop.

    A side of the box is within some pixels of the crop's, and not of the photograph's.

    Args:
        boxes: (n, 4) in the photograph.
        crop: where the masks were found.
        height: H of the photograph.
        width: W of the photograph.
        within_px: inclusive.

    Returns:
        (n,) bool.
    """
    whole = boxes.new_tensor([0, 0, width, height])
    by_crop = (boxes - boxes.new_tensor(crop)).abs() <= within_px  # (n, 4)
    by_photo = (boxes - whole).abs() <= within_px
    return (by_crop & ~by_photo).any(dim=1)


def keep_best(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: from the highest score, drop what overlaps a kept box too much.

    Args:
        boxes: (n, 4).
        scores: (n,) float; at a tie the first box wins.
        threshold: boxes go whose intersection over union with a kept one is above it.

    Returns:
        (k,) int64, by falling score.
    """
    from torchvision.ops import nms  # type: ignore[import-untyped]  # it has no types

    kept: Tensor = nms(boxes.float(), scores.float(), threshold)
    return kept
