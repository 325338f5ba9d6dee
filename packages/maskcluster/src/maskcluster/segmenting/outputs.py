"""What the commands do with photographs: name their pixels, or their masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcluster.errors import DataError, FormatError, MaskClusterError, UsageError
from maskcluster.masks.mask_set import MaskSet, MaskSource
from maskcluster.masks.photo_files import find_photos
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.precision import Precision
from maskcluster.segmenting.album import (
    KIND,
    VERSION,
    Album,
    Batch,
    Labelled,
    SegmentReport,
    Table,
)
from maskcluster.segmenting.mask_classes import NONE, MaskClasses, Order, classify_masks, paint
from maskcluster.segmenting.pictures import MOST_CLASSES
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.segmenting.words import read_names


def segment(  # noqa: PLR0913  # every option of the command
    model: PixelCLIP,
    photos: Path | Sequence[Path],
    out: Path,
    *,
    names: str,
    image_px: int = 0,
    grid: int = 64,
    batch: int = 8,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> SegmentReport:
    """Find things in photographs by their names; every pixel takes the nearest name.

    Writes overlays/KEY.png, the photograph with the names laid over it; labels/KEY.png, whose
    values are the places of names in the list; photos/KEY.json, the share of each name; and
    report.json, all together. Run again after a kill, it goes on where it stopped.

    Args:
        model: the tuned model, on the device to compute on.
        photos: folder, looked through with all folders inside; or files.
        out: folder of results, made if it is not there.
        names: of the classes, separated by commas: "dog, grass, sky"; or a text file, one class a
            line, where a comma and a space separate synonyms.
        image_px: side of the square that photographs are squashed to, as in training; 0 is 320 for
            patches of 16 pixels and 640 for 32, as published.
        grid: side that features are resized to before they are compared, as published; 0 leaves
            them as they are.
        batch: photographs that are seen at once.
        precision: of the model; auto is bfloat16 where the device has it.
        overwrite: make results again, of other names, too.

    Returns:
        What became of all photographs.

    Raises:
        UsageError: names or sizes that cannot be, or `out` holds other things or other results.
        DataError: no photographs, or none that can be read.
        MaskClusterError: results cannot be written.
    """
    words = _checked_names(names)
    segmenter = _segmenter(model, precision)
    settings = _settings("segment", segmenter, words, image_px=image_px, grid=grid)
    work = Album(find_photos(_place(photos)), out, words, settings, batch=batch)
    bank = segmenter.encode_classes(words)

    def label(some: Batch) -> dict[str, Labelled | MaskClusterError]:
        maps = segmenter.segment_photos(
            some.values(), bank, image_px=image_px, grid=grid, batch=batch
        )
        return {k: (m.cpu().numpy(), {}) for k, m in zip(some, maps, strict=True)}

    return work.run(label, photos, overwrite=overwrite)


def classify(  # noqa: PLR0913  # every option of the command
    model: PixelCLIP,
    photos: Path | Sequence[Path],
    masks: MaskSource,
    out: Path,
    *,
    names: str,
    image_px: int = 0,
    mask_px: int = 256,
    order: Order = "area",
    batch: int = 8,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> SegmentReport:
    """Name the masks of photographs; every mask takes the name nearest to its mean feature.

    Writes what `segment` writes, with the named masks painted into the overlay and the label map
    (255, or 65535 of more than 255 names, is under no mask), and in photos/KEY.json a list of all
    masks: name, score, area and box. Run again after a kill, it goes on where it stopped.

    Args:
        model: the tuned model, on the device to compute on.
        photos: folder, looked through with all folders inside; or files.
        masks: of the photographs, by key; those without an entry are skipped.
        out: folder of results, made if it is not there.
        names: of the classes, as for `segment`.
        image_px: side of the square that photographs are squashed to, as for `segment`.
        mask_px: side of the grid on which masks are pooled, a multiple of 32.
        order: which of overlapping masks is seen: the smaller (area) or the surer (score).
        batch: photographs that are seen at once.
        precision: of the model; auto is bfloat16 where the device has it.
        overwrite: make results again, of other names, too.

    Returns:
        What became of all photographs.

    Raises:
        UsageError: names or sizes that cannot be, or `out` holds other things or other results.
        DataError: no photographs, or none that can be read and has masks.
        MaskClusterError: results cannot be written.
    """
    words = _checked_names(names)
    if mask_px < 32 or mask_px % 32:
        raise UsageError(f"--mask_px must be a multiple of 32, got {mask_px}")
    segmenter = _segmenter(model, precision)
    settings = _settings(
        "classify", segmenter, words, image_px=image_px, mask_px=mask_px, order=order
    )
    work = Album(find_photos(_place(photos)), out, words, settings, batch=batch)
    bank = segmenter.encode_classes(words)

    def label(some: Batch) -> dict[str, Labelled | MaskClusterError]:
        sets, lost = _masks_of(masks, some)
        seen = [some[key] for key in sets]
        found = classify_masks(
            segmenter, seen, list(sets.values()), bank, image_px=image_px, mask_px=mask_px
        )
        good = {
            key: (paint(own, c.classes, c.scores, order=order), {"masks": _rows(own, c, words)})
            for (key, own), c in zip(sets.items(), found, strict=True)
        }
        return {**good, **lost}

    return work.run(label, photos, overwrite=overwrite)


def _place(photos: Path | Sequence[Path]) -> Path | Sequence[Path]:
    """A file that is named alone is one photograph, not a folder."""
    return [photos] if isinstance(photos, Path) and photos.is_file() else photos


def _checked_names(names: str) -> tuple[str, ...]:
    words = read_names(names)
    if len(words) > MOST_CLASSES:
        raise UsageError(f"--names: at most {MOST_CLASSES} names, got {len(words)}")
    return words


def _segmenter(model: PixelCLIP, precision: Precision) -> PixelCLIPSegmenter:
    try:
        return PixelCLIPSegmenter(model, precision=precision)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _settings(
    verb: str, segmenter: PixelCLIPSegmenter, names: Sequence[str], **sizes: Any
) -> Table:
    """What results depend on.

    Raises:
        UsageError: a size that cannot be.
    """
    image_px = sizes["image_px"] or segmenter.square_px
    stride = segmenter.model.tower.stride
    if image_px < 1 or any(image_px % step for step in stride):
        raise UsageError(f"--image_px must be a multiple of {max(stride)}, got {image_px}")
    if sizes.get("grid", 0) < 0:
        raise UsageError(f"--grid needs at least 0, got {sizes['grid']}")
    told = {"kind": KIND, "version": VERSION, "verb": verb, "names": list(names)}
    told |= {"model": segmenter.fingerprint, "precision": segmenter.precision}
    return told | sizes | {"image_px": image_px}


def _masks_of(
    masks: MaskSource, photos: Batch
) -> tuple[dict[str, MaskSet], dict[str, MaskClusterError]]:
    """Masks of photographs, and what is wrong with those of others."""
    found: dict[str, MaskSet] = {}
    lost: dict[str, MaskClusterError] = {}
    for key, photo in photos.items():
        try:
            own = masks[key]
        except KeyError:
            lost[key] = DataError(f"{key}: has no masks")
            continue
        except MaskClusterError as error:
            lost[key] = error
            continue
        if (own.height, own.width) == photo.shape[:2]:
            found[key] = own
        else:
            lost[key] = FormatError(
                f"{key}: masks are of {own.height} x {own.width}, "
                f"the photograph is {photo.shape[0]} x {photo.shape[1]} (height x width)"
            )
    return found, lost


def _rows(masks: MaskSet, found: MaskClasses, names: Sequence[str]) -> list[Table]:
    """A table of masks, for JSON."""
    columns = (found.classes.tolist(), found.scores.tolist(), masks.areas.tolist(), masks.boxes)
    return [
        {
            "name": None if which == NONE else names[which],
            "score": round(score, 6),
            "area": area,
            "box": box.tolist(),
        }
        for which, score, area, box in zip(*columns, strict=True)
    ]
