"""SAM's automatic masks in plain code: everything at full size, one candidate at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]  # it has no types

from maskcluster.generators.points import crop_boxes, point_grid
from maskcluster.generators.promptable import PromptableModel
from maskcluster.generators.sam import SamOptions

BoolArray = npt.NDArray[np.bool_]


def restated_masks(
    model: PromptableModel, photo: npt.NDArray[np.uint8], opts: SamOptions
) -> list[tuple[BoolArray, float, float, tuple[float, float]]]:
    """Mask (H, W), predicted IoU, stability and point of all that is left."""
    height, width = photo.shape[:2]
    crops = crop_boxes(height, width, layers=opts.crop_layers, overlap=opts.crop_overlap)
    everything: list[Any] = []
    for layer, box in crops:
        rows = [
            row for row in candidates(model, photo, box, opts.side_of(layer)) if good(row, opts)
        ]
        rows = [row for row in rows if not cut_off(box_of(row["mask"]), box, photo, opts)]
        everything += suppress(rows, [row["iou"] for row in rows], opts.box_nms)
    if len(crops) > 1:
        areas = [(r["crop"][2] - r["crop"][0]) * (r["crop"][3] - r["crop"][1]) for r in everything]
        everything = suppress(everything, [-float(area) for area in areas], opts.crop_nms)
    if opts.min_region_px:
        kept = [cleaned(row["mask"], opts.min_region_px) for row in everything]
        same = [float(np.array_equal(m, r["mask"])) for m, r in zip(kept, everything, strict=True)]
        everything = [row | {"mask": mask} for row, mask in zip(everything, kept, strict=True)]
        everything = suppress(everything, same, max(opts.box_nms, opts.crop_nms))
    limit = opts.max_coverage * height * width
    return [
        (row["mask"], row["iou"], row["stability"], row["point"])
        for row in everything
        if 0 < row["mask"].sum() <= limit
    ]


def candidates(
    model: PromptableModel, photo: npt.NDArray[np.uint8], box: Any, side: int
) -> list[dict[str, Any]]:
    x0, y0, x1, y1 = box
    encoded = model.encode(photo[y0:y1, x0:x1])
    rows = []
    for point in point_grid(side) * [x1 - x0, y1 - y0]:
        logits, iou = model.predict(encoded, point[None])
        full = model.upsample(encoded, logits[0]).numpy()
        for one, score in zip(full, iou[0].tolist(), strict=True):
            whole = np.full(photo.shape[:2], -np.inf, np.float32)
            whole[y0:y1, x0:x1] = one
            where = (point[0] + x0, point[1] + y0)
            rows.append({"logits": whole, "iou": score, "point": where, "crop": box})
    return rows


def good(row: dict[str, Any], opts: SamOptions) -> bool:
    logits, t, d = row["logits"], opts.mask_threshold, opts.stability_offset
    high, low = (logits > t + d).sum(), (logits > t - d).sum()
    row["mask"] = logits > t
    row["stability"] = high / low if low else 0.0
    return bool(row["iou"] > opts.iou_threshold and row["stability"] >= opts.stability_threshold)


def box_of(mask: BoolArray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)


def cut_off(box: Any, crop: Any, photo: npt.NDArray[np.uint8], opts: SamOptions) -> bool:
    whole = (0, 0, photo.shape[1], photo.shape[0])
    near = opts.crop_edge_px
    return any(
        abs(b - c) <= near and abs(b - w) > near for b, c, w in zip(box, crop, whole, strict=True)
    )


def suppress(rows: list[Any], scores: list[float], threshold: float) -> list[Any]:
    kept: list[Any] = []
    for at in sorted(range(len(rows)), key=lambda i: -scores[i]):
        box = box_of(rows[at]["mask"])
        if all(overlap(box, box_of(other["mask"])) <= threshold for other in kept):
            kept.append(rows[at])
    return kept


def overlap(a: Any, b: Any) -> float:
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(tall, 0)
    both = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)) - shared
    return float(np.float32(shared) / np.float32(both)) if both else 0.0


def cleaned(mask: BoolArray, area: int) -> BoolArray:
    mask = mask.copy()
    eight = np.ones((3, 3))
    holes, count = ndimage.label(~mask, eight)
    for i in range(1, count + 1):
        if (holes == i).sum() < area:
            mask[holes == i] = True
    islands, count = ndimage.label(mask, eight)
    sizes = [(islands == i).sum() for i in range(1, count + 1)]
    for i, size in enumerate(sizes, 1):
        if size < area and not (max(sizes) < area and i == int(np.argmax(sizes)) + 1):
            mask[islands == i] = False
    return mask
