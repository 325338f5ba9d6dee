"""SAM's automatic masks: ask at every point of a grid, keep what is good, drop what is double."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from maskcluster.generators.boxes import keep_best, near_crop_edge
from maskcluster.generators.points import Crop, crop_boxes, point_grid
from maskcluster.generators.promptable import Points, PromptableModel
from maskcluster.generators.protocol import Photo, check_photo
from maskcluster.generators.regions import remove_small_regions
from maskcluster.masks.mask_set import FloatArray, MaskSet, boxes_of
from maskcluster.masks.rle import IntArray, Rle

LOW_IOU, UNSTABLE, CUT_OFF = "low predicted IoU", "unstable", "cut off by a crop"
OVERLAP, OVERLAP_CROPS = "overlap in a crop", "overlap between crops"
OVERLAP_CLEANED, COVERAGE = "overlap once cleaned", "over the coverage"
"""Reasons for which candidates are dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamOptions:
    """Constants of SAM's automatic mask generator, with its defaults.

    (facebookresearch/segment-anything, `SamAutomaticMaskGenerator`; SAM 2 differs in
    `iou_threshold` only, see `SAM2`; SA-1B itself was made as `SA1B` says.)
    """

    points_per_side: int = 32
    """Of the grid on the whole photograph."""

    points_per_batch: int = 64
    """Points asked at a time; more is faster and takes more memory."""

    iou_threshold: float = 0.88
    """Masks with a predicted IoU above it are kept."""

    stability_threshold: float = 0.95
    """Masks with at least this stability are kept."""

    stability_offset: float = 1.0
    """Logits by which the mask threshold is moved up and down for the stability."""

    mask_threshold: float = 0.0
    """Pixels with a logit above it are in the mask."""

    box_nms: float = 0.7
    """Most overlap of two boxes in a crop."""

    crop_layers: int = 0
    """Layer i has 2^i x 2^i crops."""

    crop_nms: float = 0.7
    """Most overlap of two boxes of different crops; those of the smaller crop are kept."""

    crop_overlap: float = 512 / 1500
    """Part of the short side that crops of layer 1 share."""

    crop_points_downscale: int = 1
    """The grid of layer i has `points_per_side` over this to the power of i points a side."""

    crop_edge_px: float = 20.0
    """Masks so near to an edge of their crop that is none of the photograph's are dropped."""

    min_region_px: int = 0
    """Smaller holes are filled and smaller islands removed."""

    max_coverage: float = 1.0
    """Masks that cover more than this part of the photograph are dropped."""

    def __post_init__(self) -> None:
        least = {
            "points_per_side": 1, "points_per_batch": 1, "crop_points_downscale": 1,
            "crop_layers": 0, "min_region_px": 0, "crop_edge_px": 0, "stability_offset": 0,
            "box_nms": 0, "crop_nms": 0, "crop_overlap": 0, "max_coverage": 0,
        }  # fmt: skip
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")
        if self.crop_overlap >= 1:
            raise ValueError(f"crop_overlap must be below 1, got {self.crop_overlap}")

    def side_of(self, layer: int) -> int:
        """Points a side of the grid of a layer's crops."""
        return max(1, int(self.points_per_side / self.crop_points_downscale**layer))


SAM2 = SamOptions(iou_threshold=0.8)
"""Defaults of SAM 2's generator."""

SA1B = SamOptions(crop_layers=2, crop_points_downscale=2, min_region_px=100, max_coverage=0.95)
"""How the masks of SA-1B were made (SAM, appendix B)."""


@dataclass(slots=True)
class _Found:
    """Candidates that are left, and why others are not."""

    masks: list[Rle] = field(default_factory=list)
    predicted_iou: list[float] = field(default_factory=list)
    stability: list[float] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    crops: list[tuple[int, int, int, int]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def select(self, index: Sequence[int], reason: str) -> "_Found":
        kept = _Found(dropped=self.dropped + Counter({reason: len(self.masks) - len(index)}))
        for mine, rows in zip(kept._rows(), self._rows(), strict=True):
            mine += [rows[i] for i in index]
        return kept

    def extend(self, other: "_Found") -> None:
        for rows, more in zip(self._rows(), other._rows(), strict=True):
            rows += more
        self.dropped += other.dropped

    def _rows(self) -> list[list[Any]]:
        return [self.masks, self.predicted_iou, self.stability, self.points, self.crops]

    def boxes(self) -> Tensor:
        """(n, 4) int64."""
        return torch.from_numpy(boxes_of(self.masks))


class SamMasks:
    """Masks of a photograph by a promptable model.

    For each crop: encode it once; three masks for each point; drop by predicted IoU before
    anything is resized, then by stability, then what the crop cuts off, then by box overlap.
    Then box overlap between crops, the clean-up of small regions, and the coverage.

    Stability is |logit > t + d| / |logit > t - d|, the IoU of the two masks as one holds the other.

    Departs from SAM's generator in that boxes are half-open, so that a box of one pixel has an
    area; overlaps near the threshold may fall otherwise.

    Args:
        model: what is asked.
        options: all constants.
        pixels_at_once: of full-size masks that are held at a time, 4 bytes each and a few copies.
    """

    def __init__(
        self,
        model: PromptableModel,
        options: SamOptions | None = None,
        *,
        pixels_at_once: int = 2**25,
    ) -> None:
        self.model = model
        self.options = options or SamOptions()
        self.pixels_at_once = pixels_at_once

    @property
    def description(self) -> Mapping[str, Any]:
        """Name, model and options."""
        return {"name": "sam", "model": dict(self.model.description), **asdict(self.options)}

    @torch.inference_mode()
    def __call__(self, photo: Photo) -> MaskSet:
        """Masks of (H, W, 3) uint8 RGB, in the order of the last look at overlaps."""
        height, width = check_photo(photo)
        opts = self.options
        crops = crop_boxes(height, width, layers=opts.crop_layers, overlap=opts.crop_overlap)
        found = _Found()
        for crop in crops:
            found.extend(self._of_crop(photo, crop))
        if len(crops) > 1:
            found = found.select(_smallest_crops_first(found, opts.crop_nms), OVERLAP_CROPS)
        if opts.min_region_px:
            found = _clean(found, opts.min_region_px, max(opts.box_nms, opts.crop_nms))
        limit = opts.max_coverage * height * width
        small = [i for i, mask in enumerate(found.masks) if 0 < mask.area <= limit]
        return _as_mask_set(found.select(small, COVERAGE), height, width)

    def _of_crop(self, photo: Photo, crop: Crop) -> _Found:
        """What is left of a crop's candidates, as masks of the photograph."""
        x0, y0, x1, y1 = crop.box
        encoded = self.model.encode(np.ascontiguousarray(photo[y0:y1, x0:x1]))
        grid = point_grid(self.options.side_of(crop.layer)) * [x1 - x0, y1 - y0]  # (n, 2)
        found = _Found()
        for start in range(0, len(grid), self.options.points_per_batch):
            points = grid[start : start + self.options.points_per_batch]
            for part in self._of_points(encoded, points, crop, photo.shape[:2]):
                found.extend(part)
        scores = torch.tensor(found.predicted_iou)
        best = keep_best(found.boxes(), scores, self.options.box_nms).tolist()
        kept = found.select(best, OVERLAP)
        if crop.layer:
            height, width = photo.shape[:2]
            kept.masks = [mask.place(height, width, x0, y0) for mask in kept.masks]
        return kept

    def _of_points(
        self, encoded: Any, points: Points, crop: Crop, size: tuple[int, ...]
    ) -> Iterator[_Found]:
        """Candidates of a batch of points that pass all but the overlap, some at a time."""
        logits, iou = self.model.predict(encoded, points)  # (n, 3, h, w), (n, 3)
        good = torch.nonzero(iou.flatten() > self.options.iou_threshold)[:, 0]  # (k,) of 3 n
        yield _Found(dropped=Counter({LOW_IOU: iou.numel() - len(good)}))
        for index in torch.split(good, self._masks_at_once(crop)):
            full = self.model.upsample(encoded, logits.flatten(0, 1)[index])  # (k, h, w)
            asked = points[(index // 3).cpu().numpy()]  # (k, 2)
            yield self._pass(full, iou.flatten()[index], asked, crop, size)

    def _masks_at_once(self, crop: Crop) -> int:
        """How many; SAM resizes all of them to its input's size, about 2^20 pixels, on the way."""
        x0, y0, x1, y1 = crop.box
        return max(1, self.pixels_at_once // max((x1 - x0) * (y1 - y0), 2**20))

    def _pass(
        self, full: Tensor, iou: Tensor, points: Points, crop: Crop, size: tuple[int, ...]
    ) -> _Found:
        """Those of some full-size candidates that are stable and not cut off."""
        opts = self.options
        stability = stability_of(full, opts.mask_threshold, opts.stability_offset)  # (k,)
        stable = stability >= opts.stability_threshold
        kept = torch.nonzero(stable)[:, 0]
        x0, y0 = crop.box[:2]
        found = _Found(
            masks=encode_masks((full > opts.mask_threshold)[kept]),
            predicted_iou=iou[kept].tolist(),
            stability=stability[kept].tolist(),
            points=[(x + x0, y + y0) for x, y in points[kept.cpu().numpy()].tolist()],
            crops=[crop.box] * len(kept),
            dropped=Counter({UNSTABLE: len(stable) - len(kept)}),
        )
        boxes = found.boxes() + torch.tensor([x0, y0, x0, y0])  # (k, 4), in the photograph
        edge = near_crop_edge(boxes, crop.box, size[0], size[1], within_px=opts.crop_edge_px)
        return found.select(torch.nonzero(~edge)[:, 0].tolist(), CUT_OFF)


def stability_of(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU of the masks at a threshold moved up and down.

    Args:
        logits: (n, H, W) float.
        threshold: t.
        offset: d, at least 0.

    Returns:
        (n,) float32 in [0, 1]; 0 where no logit is above t - d.
    """
    if logits.device.type == "cpu":  # PyTorch counts there at a tenth of the speed
        counts = torch.zeros(2, len(logits), dtype=torch.int64)
        rows = logits.float().flatten(1).numpy()  # (n, H * W)
        _count_above(rows, threshold + offset, threshold - offset, counts.numpy())
        inner, outer = counts
    else:
        inner = (logits > threshold + offset).sum(dim=(1, 2))
        outer = (logits > threshold - offset).sum(dim=(1, 2))
    stability: Tensor = inner / outer.clamp(min=1)
    return stability


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _count_above(rows: FloatArray, high: float, low: float, counts: IntArray) -> None:
    """Numbers above both thresholds of each of n rows into (2, n), in one pass."""
    upper, lower = np.float32(high), np.float32(low)
    for n in range(len(rows)):
        inner, outer = 0, 0
        for value in rows[n]:
            inner += value > upper
            outer += value > lower
        counts[0, n], counts[1, n] = inner, outer


def encode_masks(masks: Tensor) -> list[Rle]:
    """Run lengths of masks, found where they are; only the turns leave a GPU.

    Args:
        masks: (n, H, W) bool.
    """
    count, height, width = masks.shape
    flat = masks.mT.reshape(count, width * height)
    owner, place = (flat[:, 1:] != flat[:, :-1]).nonzero().cpu().numpy().T  # (t,), (t,)
    cuts = np.searchsorted(owner, np.arange(count + 1))
    return [
        Rle(height, width, _runs(place[cuts[i] : cuts[i + 1]] + 1, starts_set, width * height))
        for i, starts_set in enumerate(flat[:, 0].tolist())
    ]


def _runs(turns: IntArray, starts_set: bool, pixels: int) -> IntArray:
    lead = [0, 0] if starts_set else [0]
    edges: IntArray = np.concatenate([lead, turns, [pixels]]).astype(np.int64)
    return np.diff(edges)


def _smallest_crops_first(found: _Found, threshold: float) -> list[int]:
    areas = torch.tensor([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in found.crops])
    kept: list[int] = keep_best(found.boxes(), 1 / areas.double(), threshold).tolist()
    return kept


def _clean(found: _Found, area_px: int, threshold: float) -> _Found:
    """Small holes filled, small islands removed; where masks now overlap, unchanged ones stay."""
    unchanged = []
    for at, mask in enumerate(found.masks):
        cleaned, changed = remove_small_regions(mask.to_mask(), area_px)
        unchanged.append(0.0 if changed else 1.0)
        if changed:
            found.masks[at] = Rle.from_mask(cleaned)
    kept = keep_best(found.boxes(), torch.tensor(unchanged), threshold).tolist()
    return found.select(kept, OVERLAP_CLEANED)


def _as_mask_set(found: _Found, height: int, width: int) -> MaskSet:
    made = MaskSet.of(
        height,
        width,
        found.masks,
        predicted_iou=found.predicted_iou,
        stability=found.stability,
        points=found.points,
        crops=found.crops,
        source="sam",
    )
    return replace(made, dropped={name: n for name, n in sorted(found.dropped.items()) if n})
