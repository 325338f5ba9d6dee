"""What a model sees in photographs: the prompt that wins each pixel, the cluster of each mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.errors import FormatError
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.photo_files import Photo
from maskcluster.model.pixelclip import PixelCLIP, cosines
from maskcluster.ops.mask_pool import mask_pool

SCORES_PX = 64
"""Side to which features are resized before scores are computed (the published protocol)."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Seen:
    """A photograph and what a model sees in it."""

    key: str
    photo: Photo
    """(h, w, 3) uint8, at the size at which it is shown."""

    cluster: IntArray
    """(h, w) in [0, K), the prompt of highest cosine."""

    masks: MaskSet | None = None
    """Of the photograph at its full size."""

    mask_cluster: IntArray | None = None
    """(M,) in [0, K), cluster of each mask."""


@torch.no_grad()
def look(
    model: PixelCLIP,
    photos: Mapping[str, Photo],
    masks: Mapping[str, MaskSet],
    *,
    image_px: int = 320,
    mask_px: int = 256,
    shown_px: int = 320,
) -> list[Seen]:
    """Segment photographs with class prompts in place of class names, and cluster their masks.

    Photographs are squashed to a square, as in the published evaluation. The masks of all of them
    are assigned to prompts as one batch of training, balance included, from the teacher's features:
    few masks are therefore spread over many clusters.

    Args:
        model: with class prompts, in evaluation mode.
        photos: by key.
        masks: of some of them, by key.
        image_px: side of the square, of which the model's stride is a divisor.
        mask_px: side of the grid on which masks are pooled.
        shown_px: longer side of the pictures.

    Returns:
        One for each photograph, in order.

    Raises:
        FormatError: masks of another size than their photograph.
    """
    assert model.prompts is not None
    rows = model.prompts()  # (K, D)
    found, pooled, counts = [], [], []
    for key, photo in photos.items():
        image = _square(photo, image_px).to(model.mean)  # (1, 3, P, P)
        size = _shown_size(photo, shown_px)
        cluster = _winners(model.features(image), rows, size)
        small = _resized(photo, size)
        found.append(Seen(key=key, photo=small, cluster=cluster, masks=masks.get(key)))
        if key in masks:
            pooled.append(_pooled(model, image, photo, masks[key], key, mask_px))
            counts.append(len(pooled[-1]))
    if not pooled:
        return found
    assigned = model.assign(torch.cat(pooled), rows, group=None).cluster.cpu()  # (M,)
    own = iter(torch.split(assigned, counts))
    return [
        one if one.masks is None else replace(one, mask_cluster=next(own).numpy()) for one in found
    ]


def mask_counts(seen: Sequence[Seen], clusters: int) -> list[int]:
    """Masks of each of K clusters, over all photographs."""
    counts = np.zeros(clusters, np.int64)
    for one in seen:
        if one.mask_cluster is not None:
            counts += np.bincount(one.mask_cluster, minlength=clusters)
    found: list[int] = counts.tolist()
    return found


def pixel_shares(seen: Sequence[Seen], clusters: int) -> list[float]:
    """Share of each of K clusters in the pixels of all photographs; every photograph counts as one.

    Args:
        seen: at least one.
        clusters: K.
    """
    shares = [np.bincount(s.cluster.ravel(), minlength=clusters) / s.cluster.size for s in seen]
    mean: list[float] = np.mean(shares, axis=0).tolist()
    return mean


def _pooled(
    model: PixelCLIP, image: Tensor, photo: Photo, masks: MaskSet, key: str, side: int
) -> Tensor:
    """(M, D) teacher's features of the masks of a photograph."""
    height, width = photo.shape[:2]
    if (masks.height, masks.width) != (height, width):
        raise FormatError(
            f"{key!r}: masks are of {masks.height} x {masks.width}, "
            f"the photograph is {height} x {width} (height x width)"
        )
    grid = np.arange(side) + 0.5
    bits = masks.sample_bits(grid * height / side, grid * width / side)  # (M, S, S // 8)
    packed = torch.from_numpy(bits).to(image.device)
    owner = torch.zeros(len(packed), dtype=torch.int64, device=image.device)
    return mask_pool(model.teacher(model.normalise(image)), packed, owner)[0]


def _winners(features: Tensor, rows: Tensor, size: tuple[int, int]) -> IntArray:
    """(h, w) number of the row of highest cosine, of (1, D, y, x) features."""
    fine = F.interpolate(features, (SCORES_PX, SCORES_PX), mode="bilinear")
    scores = F.interpolate(cosines(fine, rows), size, mode="bilinear")  # (1, K, h, w)
    found: IntArray = scores[0].argmax(dim=0).cpu().numpy()
    return found


def _square(photo: Photo, side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1], squashed."""
    return F.interpolate(_planes(photo), (side, side), mode="bilinear", antialias=True)


def _resized(photo: Photo, size: tuple[int, int]) -> Photo:
    small = F.interpolate(_planes(photo), size, mode="bilinear", antialias=True)[0]
    found: Photo = (255 * small).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return found


def _planes(photo: Photo) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255


def _shown_size(photo: Photo, longest: int) -> tuple[int, int]:
    height, width = photo.shape[:2]
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
