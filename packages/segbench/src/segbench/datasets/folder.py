"""A folder of images, a folder of index masks and a table of class names."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segbench.datasets.example import Example
from segbench.datasets.lookup import IGNORED, UNKNOWN, Table
from segbench.datasets.pictures import read_image, read_indices
from segbench.errors import DataMissingError, FormatError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Which mask value means which class."""

    names: tuple[str, ...]
    """K class names by label id, in the order of the table."""

    lookup: Table
    """(65536,) label id by mask value; a value that no row names is `UNKNOWN`."""

    subsets: Mapping[str, tuple[int, ...]]
    """Label ids of "stuff" and "thing", where the table has a column `is_thing`."""


def grouped_labels(
    path: Path, groups: Mapping[str, Sequence[int]], rest: str = "", ignore: Sequence[int] = ()
) -> LabelTable:
    """Classes made of mask values that a table names, such as VOC's of COCO's.

    Args:
        path: the table, of which only the values count.
        groups: mask values by class name; label ids follow its order.
        rest: name of a class for all other values of the table, which comes first and is label 0;
            without one they are ignored.
        ignore: mask values that are not scored.

    Raises:
        DataMissingError: there is no such file.
        FormatError: a value is in no row, or in two groups, or is ignored too.
    """
    values = [_mask_value(row["mask_value"], path) for row in _rows(path)]
    names = ([rest] if rest else []) + list(groups)
    lookup = np.full(65536, UNKNOWN, dtype=np.int32)
    lookup[values] = 0 if rest else IGNORED
    lookup[list(ignore)] = IGNORED
    taken = set(ignore)
    for label, (name, group) in enumerate(groups.items(), len(names) - len(groups)):
        for value in group:
            if value not in values or value in taken:
                what = "is in no row" if value not in values else "stands in two places"
                raise FormatError(f"{path}: mask value {value} of {name!r} {what}")
            taken.add(value)
            lookup[value] = label
    return LabelTable(tuple(names), lookup, {})


def read_labels(
    path: Path, ignore: Sequence[int] = (), background: int | None = None
) -> LabelTable:
    """Read a tab-separated table with columns `mask_value`, `name` and optionally `is_thing`.

    Label ids follow the order of the rows, after ignored rows are left out; the background, where
    one is named, comes first and is label 0.

    Args:
        path: the table, one header line, no quoting.
        ignore: mask values that are not scored; they need no row.
        background: mask value of the background class.

    Raises:
        DataMissingError: there is no such file.
        FormatError: a column or the name of a class is missing, or a value is no number in
            [0, 65535], or occurs twice.
    """
    rows = _rows(path)
    values = [_mask_value(row["mask_value"], path) for row in rows]
    if len(set(values)) < len(values):
        twice = next(v for v in values if values.count(v) > 1)
        raise FormatError(f"{path}: mask value {twice} has more than one row")
    if background is not None and background not in values:
        raise FormatError(f"{path}: no row has the background's mask value {background}")
    kept = [pair for pair in zip(values, rows, strict=True) if pair[0] not in set(ignore)]
    if nameless := [value for value, row in kept if not row["name"].strip()]:
        raise FormatError(f"{path}: mask value {nameless[0]} has no name, and is not ignored")
    kept.sort(key=lambda pair: pair[0] != background)  # stable: only the background moves
    lookup = np.full(65536, UNKNOWN, dtype=np.int32)
    lookup[list(ignore)] = IGNORED
    lookup[[value for value, _ in kept]] = np.arange(len(kept))
    return LabelTable(tuple(row["name"] for _, row in kept), lookup, _subsets(kept))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataMissingError(f"no table of class names at {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: a table of class names must be UTF-8: {error}") from error
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
    for column in ("mask_value", "name"):
        if column not in (reader.fieldnames or ()):
            raise FormatError(f"{path}: no column {column!r}, found {reader.fieldnames}")
    return list(reader)


def _mask_value(text: str, path: Path) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise FormatError(f"{path}: mask_value must be a number in [0, 65535], got {text!r}")
    return int(text)


def _subsets(kept: Sequence[tuple[int, dict[str, str]]]) -> dict[str, tuple[int, ...]]:
    """Label ids by the column `is_thing`: 1 is a thing, 0 is stuff, empty is neither."""
    named = {"stuff": "0", "thing": "1"}
    found = {
        name: tuple(label for label, (_, row) in enumerate(kept) if row.get("is_thing") == flag)
        for name, flag in named.items()
    }
    return {name: ids for name, ids in found.items() if ids}


def find_folder(root: Path, folder: str, labels: str) -> Path:
    """Find a data set under `root`, or take `root` itself where it holds the table of names.

    Raises:
        DataMissingError: neither is there.
    """
    if not root.is_dir():
        raise DataMissingError(f"no data root at {root}")
    for candidate in (root / folder, root):
        if (candidate / labels).is_file():
            return candidate
    raise DataMissingError(f"no {Path(folder) / labels} in {root}, nor {labels} itself")


class FolderDataset:
    """Images and index masks that share a file stem.

    Masks are 8-bit, palette or 16-bit PNG, read as indices (never as colours) through a look-up
    table, so no conversion of the files is needed.

    Args:
        folder: the data set's folder.
        images: folder of `.jpg`, `.jpeg` or `.png` images, relative to `folder`; or several.
        masks: folder of `.png` masks, relative to `folder`; or several.
        labels: table of class names (`read_labels`), relative to `folder`.
        ignore: mask values that are not scored.
        background: mask value of the background class, which becomes label 0.
        groups: classes made of mask values (`grouped_labels`), in place of those of the table.
        rest: with `groups`, the class of all other values.

    Raises:
        DataMissingError: a folder or file is missing, or an image has no mask or a mask no image.
        FormatError: the table of names contradicts itself.
    """

    def __init__(
        self,
        folder: Path,
        *,
        images: str | Sequence[str] = "images/val",
        masks: str | Sequence[str] = "semantic_masks/val",
        labels: str = "labels.tsv",
        ignore: Sequence[int] = (),
        background: int | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        rest: str = "",
    ) -> None:
        self._labels_path = folder / labels
        self._table = (
            read_labels(self._labels_path, ignore, background)
            if groups is None
            else grouped_labels(self._labels_path, groups, rest, ignore)
        )
        if not self._table.names:
            raise FormatError(f"{self._labels_path}: names no class that is not ignored")
        image_paths = _by_stem(folder, images, IMAGE_SUFFIXES)
        mask_paths = _by_stem(folder, masks, frozenset({".png"}))
        _require(image_paths, mask_paths, f"image in {_told(folder, images)} has no mask")
        _require(mask_paths, image_paths, f"mask in {_told(folder, masks)} has no image")
        self._files = [(stem, path, mask_paths[stem]) for stem, path in image_paths.items()]

    @property
    def names(self) -> tuple[str, ...]:
        """K class names by label id."""
        return self._table.names

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        """Label ids of "stuff" and "thing", where the table tells them apart."""
        return self._table.subsets

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        """Read one image with its labels; images are in the order of their stems.

        Raises:
            UnreadableImageError: the image or the mask cannot be decoded.
            FormatError: the mask holds a value that the table does not name, holds colours, or
                differs in size from the image.
        """
        stem, image_path, mask_path = self._files[index]
        image = read_image(image_path)  # (H, W, 3)
        labels = self._read_mask(mask_path)  # (H, W)
        if labels.shape != image.shape[:2]:
            raise FormatError(
                f"{mask_path}: mask is {labels.shape}, its image is {image.shape[:2]}"
            )
        return Example(stem, image, labels)

    def _read_mask(self, path: Path) -> npt.NDArray[np.int32]:
        values = read_indices(path)  # (H, W)
        labels = self._table.lookup.take(values)  # (H, W) int32, twice as fast as lookup[values]
        if labels.size and labels.min() == UNKNOWN:
            value = values[labels == UNKNOWN][0]
            raise FormatError(f"{path}: mask value {value} is not in {self._labels_path}")
        return labels


def _told(folder: Path, places: str | Sequence[str]) -> str:
    chosen = [places] if isinstance(places, str) else places
    return " and ".join(str(folder / place) for place in chosen)


def _by_stem(
    folder: Path, places: str | Sequence[str], suffixes: frozenset[str]
) -> dict[str, Path]:
    """Files of one or several folders below `folder` by stem, in the order of stems."""
    paths: list[Path] = []
    for place in [places] if isinstance(places, str) else places:
        if not (folder / place).is_dir():
            raise DataMissingError(f"no folder {folder / place}")
        inside = [p for p in (folder / place).iterdir() if p.suffix.lower() in suffixes]
        if not inside:
            raise DataMissingError(f"no {' or '.join(sorted(suffixes))} file in {folder / place}")
        paths += sorted(inside)
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise FormatError(f"{path} and {found[path.stem]} have the same stem")
        found[path.stem] = path
    return dict(sorted(found.items()))


def _require(have: Mapping[str, Path], need: Mapping[str, Path], claim: str) -> None:
    lone = [stem for stem in have if stem not in need]
    if lone:
        raise DataMissingError(f"{len(lone)} {claim}, the first is {have[lone[0]].name}")
