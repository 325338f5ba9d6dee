"""What a whole picture shows: the classes that its vector is nearest to."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from groupvit.segmenting.windows import Photo, as_planes, to_unit_range

_SHORT_OVER_CROP = 256 / 224
_LONGEST = 4
"""Times the short side: what lies beyond the middle of a longer picture is never resized."""


class Ranking(NamedTuple):
    """The best classes of n pictures, best first."""

    classes: Tensor
    """(n, k) int64, places in the bank."""
    probabilities: Tensor
    """(n, k) float32, softmax over all classes of the bank."""


def centre_crop(image: Tensor | Photo, crop_px: int) -> Tensor:
    """Resize the short side to 256/224 of a square and cut the square from the middle.

    GroupViT's classification takes 224 of 256 pixels. Bilinear with anti-aliasing, as Pillow
    resizes; 8-bit pictures are resized in 8 bits, on a CPU.

    Args:
        image: see `as_planes`.
        crop_px: side of the square.

    Returns:
        (3, crop_px, crop_px) float32 in [0, 1].
    """
    planes = as_planes(image)  # (3, H, W)
    short = min(planes.shape[1:])
    height, width = (min(side, _LONGEST * short) for side in planes.shape[1:])
    middle = _middle(planes, height, width)
    if planes.is_cuda or planes.is_floating_point():
        middle = middle.float()  # a GPU resizes no bytes
    target = round(crop_px * _SHORT_OVER_CROP)
    size = (target * height // short, target * width // short)  # the long side rounds down
    small = F.interpolate(middle[None], size, mode="bilinear", antialias=True)[0]
    return to_unit_range(_middle(small, crop_px, crop_px).float(), planes)


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    """(3, height, width) from the middle; half a pixel goes to the even side, as in torchvision."""
    top, left = round((image.shape[1] - height) / 2), round((image.shape[2] - width) / 2)
    return image[:, top : top + height, left : left + width]


def rank_classes(image: Tensor, bank: Tensor, scale: Tensor, k: int) -> Ranking:
    """Order classes by cosine; the lower class comes first if two tie.

        p = softmax(s a T^T)

    Args:
        image: (n, D) projections of whole images a.
        bank: (K, D) unit rows T.
        scale: logit scale s.
        k: how many classes; all if there are fewer.
    """
    logits = scale * F.normalize(image.float(), dim=-1) @ bank.mT  # (n, K)
    best = logits.argsort(dim=1, descending=True, stable=True)[:, :k]  # (n, k)
    return Ranking(best, logits.softmax(dim=1).gather(1, best))
