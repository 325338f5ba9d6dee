"""SA-1B's JSON, one file a photograph: read as it is, and written."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from maskcluster.errors import DataError, FormatError
from maskcluster.files import hash_json, read_json, write_text
from maskcluster.masks.mask_set import MaskRules, MaskSet, apply_rules
from maskcluster.masks.rle import Rle

CROWD = "crowd"
BAD = "of another size or with runs that do not add up"
"""Reasons for which masks are dropped on reading."""


class Sa1bFolder:
    """A folder of SA-1B JSON files as a source of masks.

    A key is a file's path in the folder without `.json`, with `/` on any system.

    Args:
        folder: looked through with all folders inside.
        rules: which masks are kept.
        lenient: see `read_sa1b`.

    Raises:
        DataError: no such folder, or no JSON file in it.
    """

    def __init__(
        self, folder: Path | str, *, rules: MaskRules | None = None, lenient: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.rules = rules or MaskRules()
        self.lenient = lenient
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        if not self._keys:
            raise DataError(f"{folder}: no .json file in this folder")

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        paths = self.folder.rglob("*.json")
        return tuple(sorted(p.relative_to(self.folder).as_posix()[:-5] for p in paths))

    def keys(self) -> Sequence[str]:
        """All keys, ascending."""
        return self._keys

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of keys and file sizes: not of what is in files."""
        sizes = [[key, (self.folder / f"{key}.json").stat().st_size] for key in self._keys]
        return hash_json(sizes)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: str) -> MaskSet:
        """The masks of a photograph.

        Raises:
            KeyError: no such file.
            FormatError: see `read_sa1b`.
        """
        path = self.folder / f"{key}.json"
        if not path.is_file():
            raise KeyError(key)
        return read_sa1b(path, rules=self.rules, lenient=self.lenient)


def read_sa1b(
    path: Path | str,
    *,
    rules: MaskRules | None = None,
    size: tuple[int, int] | None = None,
    lenient: bool = False,
) -> MaskSet:
    """Read the masks of one photograph.

    SA-1B (facebookresearch/segment-anything, README): `image` with `height` and `width`, and
    `annotations` with `segmentation` (COCO run lengths, compressed or not), `predicted_iou`,
    `stability_score`, `point_coords`, `crop_box` (XYWH). Only the segmentation must be there.
    Annotations with `iscrowd` are dropped, as the paper does.

    Args:
        path: the file.
        rules: which masks are kept.
        size: (H, W) of the photograph, if the file is to be checked against it.
        lenient: drop and count a mask of another size than its photograph or whose run lengths do
            not add up, instead of refusing the file.

    Raises:
        FormatError: no such file, no JSON, another schema, another size than `size`; without
            `lenient`, a mask that is not as it should be.
    """
    path = Path(path)
    table = _table(read_json(path), path, "the file")
    image = _table(table.get("image"), path, "image")
    height, width = (_whole(image.get(name), path, f"image.{name}") for name in ("height", "width"))
    if size is not None and (height, width) != size:
        raise FormatError(
            f"{path}: masks are of {height} x {width}, the photograph is {size[0]} x {size[1]} "
            "(height x width); masks and photographs must be resized together"
        )
    rows = table.get("annotations")
    if not isinstance(rows, list):
        raise FormatError(f"{path}: annotations must be a list, is {_kind(rows)}")
    records, dropped = _read_records(rows, path, (height, width), lenient)
    read = MaskSet.of(
        height,
        width,
        [record.mask for record in records],
        predicted_iou=[record.predicted_iou for record in records],
        stability=[record.stability for record in records],
        points=[record.point for record in records],
        crops=[record.crop for record in records],
        source="sa1b",
    )
    return apply_rules(replace(read, dropped=dropped), rules or MaskRules())


def write_sa1b(path: Path | str, masks: MaskSet, *, file_name: str, image_id: int = 0) -> None:
    """Write masks so that what reads SA-1B reads them; whole or not at all.

    Args:
        path: the file.
        masks: of one photograph.
        file_name: the photograph's.
        image_id: its number; annotations are numbered from 0.

    Raises:
        MaskClusterError: the file cannot be written.
    """
    image = {
        "image_id": image_id, "width": masks.width, "height": masks.height, "file_name": file_name,
    }  # fmt: skip
    rows = [_annotation(masks, at) for at in range(len(masks))]
    write_text(Path(path), json.dumps({"image": image, "annotations": rows}, allow_nan=False))


@dataclass(frozen=True, slots=True)
class _Record:
    """One annotation."""

    mask: Rle
    predicted_iou: float
    stability: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]


def _read_records(
    rows: list[Any], path: Path, size: tuple[int, int], lenient: bool
) -> tuple[list[_Record], Counter[str]]:
    records, dropped = [], Counter[str]()
    for at, given in enumerate(rows):
        where = f"annotations[{at}]"
        row = _table(given, path, where)
        if row.get("iscrowd"):
            dropped[CROWD] += 1
            continue
        try:
            mask = _read_mask(row.get("segmentation"), size)
        except _SchemaError as error:
            raise FormatError(f"{path}: {where}.segmentation {error}") from error
        except FormatError as error:
            if not lenient:
                raise FormatError(f"{path}: {where}: {error}") from error
            dropped[BAD] += 1
            continue
        records.append(_read_record(row, mask, path, where))
    return records, dropped


class _SchemaError(Exception):
    """A segmentation is not of SA-1B's kind."""


def _read_mask(given: object, size: tuple[int, int]) -> Rle:
    if isinstance(given, list):
        raise _SchemaError("is a list of polygons; SA-1B has run lengths (pycocotools converts)")
    if not isinstance(given, Mapping):
        raise _SchemaError(f"must be a table of size and counts, is {_kind(given)}")
    found, counts = given.get("size"), given.get("counts")
    if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int for n in found)):
        raise _SchemaError(f"must have a size [height, width], has {found!r}")
    if tuple(found) != size:
        raise FormatError(
            f"the mask is {found[0]} x {found[1]}, the image {size[0]} x {size[1]} (height x width)"
        )
    if isinstance(counts, str):
        return Rle.from_string(*size, counts)
    if isinstance(counts, list):
        return Rle.from_counts(*size, counts)
    raise _SchemaError(f"must have counts, a string or a list, has {_kind(counts)}")


def _read_record(row: Mapping[str, Any], mask: Rle, path: Path, where: str) -> _Record:
    whole = [0, 0, mask.width, mask.height]
    x, y, width, height = _numbers(row.get("crop_box", whole), 4, path, f"{where}.crop_box")
    points = row.get("point_coords") or [_middle(mask)]
    if not isinstance(points, list):
        raise FormatError(f"{path}: {where}.point_coords must be a list, is {_kind(points)}")
    scores = [row.get(name, 1.0) for name in ("predicted_iou", "stability_score")]
    predicted_iou, stability = _numbers(scores, 2, path, f"{where}'s scores")
    point = _numbers(points[0], 2, path, f"{where}.point_coords[0]")
    crop = (round(x), round(y), round(x + width), round(y + height))
    return _Record(mask, predicted_iou, stability, (point[0], point[1]), crop)


def _middle(mask: Rle) -> list[float]:
    x0, y0, x1, y1 = mask.box
    return [(x0 + x1) / 2, (y0 + y1) / 2]


def _annotation(masks: MaskSet, at: int) -> dict[str, Any]:
    mask = masks.masks[at]
    x0, y0, x1, y1 = mask.box
    left, top, right, bottom = masks.crops[at].tolist()
    return {
        "id": at,
        "segmentation": {
            "size": [mask.height, mask.width],
            "counts": mask.to_string().decode("ascii"),
        },
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": mask.area,
        "predicted_iou": float(masks.predicted_iou[at]),
        "stability_score": float(masks.stability[at]),
        "crop_box": [left, top, right - left, bottom - top],
        "point_coords": [masks.points[at].tolist()],
    }


def _table(value: object, path: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FormatError(f"{path}: not SA-1B's schema: {what} must be a table, is {_kind(value)}")
    return value


def _whole(value: object, path: Path, what: str) -> int:
    if type(value) is not int or value < 1:
        raise FormatError(f"{path}: {what} must be a whole number from 1, is {value!r}")
    return value


def _numbers(value: object, count: int, path: Path, what: str) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(_is_finite(n) for n in value):  # type: ignore[attr-defined]  # a list
        raise FormatError(f"{path}: {what} must be {count} numbers, is {value!r}")
    return [float(n) for n in value]  # type: ignore[attr-defined]


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # type: ignore[arg-type]  # a number


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
