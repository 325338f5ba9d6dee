"""Label maps as masks: their labels are removed, their regions stay.

A label map has one number a pixel, such as the PNG files of COCO-Stuff, ADE20K, Cityscapes or VOC.
PixelCLIP (arXiv:2409.19846, table 6) was tuned so with the masks of COCO-Stuff.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskcluster.errors import DataError, FormatError
from maskcluster.files import hash_json
from maskcluster.masks.mask_set import MaskRules, MaskSet, apply_rules
from maskcluster.masks.photo_files import open_picture
from maskcluster.masks.rle import MOST_PIXELS, masks_of_labels

Part = Literal["class", "component"]
"""What makes a mask: all pixels of one value, or each connected part of them."""

Values = npt.NDArray[np.int32]
"""(H, W) values as a file holds them, in [0, 65535]; -1 where they are ignored."""

IGNORED = (255,)
"""Values that get no mask."""
MOST_PARTS = 65_536
"""Connected parts of a photograph that become masks: as many as there may be values."""

_FORMATS = ("PNG", "TIFF", "BMP", "PPM")
"""What is decoded: formats that keep every value."""
_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B"})
"""Pillow's pictures of one number a pixel; of a palette its indices are taken."""


class LabelMaps:
    """A folder of label maps as a source of masks.

    A key is a file's path in the folder without `suffix`, with `/` on any system, and with
    `photo_suffix` behind it. Cityscapes has `aachen/aachen_0_leftImg8bit.png` of photographs and
    `aachen/aachen_0_gtFine_labelIds.png` of label maps: `suffix` is `_gtFine_labelIds.png` and
    `photo_suffix` is `_leftImg8bit`.

    Args:
        folder: looked through with all folders inside.
        suffix: how names of label maps end; other files are not looked at.
        photo_suffix: how keys of photographs end, where those of label maps do not.
        ignored: values that get no mask.
        part: see `read_label_map`.
        rules: which masks are kept.

    Raises:
        DataError: no such folder, or no such file in it.
        ValueError: no suffix.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        suffix: str = ".png",
        photo_suffix: str = "",
        ignored: Sequence[int] = IGNORED,
        part: Part = "class",
        rules: MaskRules | None = None,
    ) -> None:
        if not suffix:
            raise ValueError("suffix must say how names of label maps end, got ''")
        self.folder = Path(folder)
        self.suffix = suffix
        self.photo_suffix = photo_suffix
        self.ignored = tuple(ignored)
        self.part: Part = part
        self.rules = rules or MaskRules()
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        if not self._keys:
            raise DataError(f"{folder}: no label map in this folder: no name ends in {suffix}")

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        paths = (path for path in self.folder.rglob("*") if path.name.endswith(self.suffix))
        names = (path.relative_to(self.folder).as_posix() for path in paths)
        end = len(self.suffix)
        return tuple(sorted(f"{name[:-end]}{self.photo_suffix}" for name in names))

    def keys(self) -> Sequence[str]:
        """All keys, ascending."""
        return self._keys

    def path(self, key: str) -> Path:
        """File of a key, whether it is there or not."""
        return self.folder / f"{key.removesuffix(self.photo_suffix)}{self.suffix}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of keys, file sizes and what becomes a mask: not of what is in files."""
        sizes = [[key, self.path(key).stat().st_size] for key in self._keys]
        return hash_json({"sizes": sizes, "ignored": sorted(self.ignored), "part": self.part})

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: str) -> MaskSet:
        """The masks of a photograph.

        Raises:
            KeyError: no such file.
            DataError: see `read_label_map`.
            FormatError: see `read_label_map`.
        """
        path = self.path(key)
        if not (key.endswith(self.photo_suffix) and path.is_file()):
            raise KeyError(key)
        return read_label_map(path, ignored=self.ignored, part=self.part, rules=self.rules)


def read_label_map(
    path: Path | str,
    *,
    ignored: Sequence[int] = IGNORED,
    part: Part = "class",
    rules: MaskRules | None = None,
    size: tuple[int, int] | None = None,
) -> MaskSet:
    """Read the masks of one photograph from its label map, without their labels.

    PNG, TIFF, BMP and PPM of 1, 8 or 16 bits a value are read; of a palette the indices.

    Args:
        path: the file.
        ignored: values that get no mask.
        part: `class` makes one mask of all pixels with a value, however many parts it has;
            `component` makes one of each connected part, in which 8 neighbours touch. PixelCLIP
            does not say which it took.
        rules: which masks are kept.
        size: (H, W) of the photograph, if the file is to be checked against it.

    Returns:
        Masks that do not overlap, by rising value; parts in the order of their first pixels, row by
        row. Of more than `MOST_PARTS` parts the largest.

    Raises:
        DataError: no such file, it cannot be decoded, or has more than 178,956,970 pixels.
        FormatError: it holds colours, values outside of [0, 65535], or is of another size than
            `size`.
    """
    labels = _read_values(Path(path))  # (H, W)
    if size is not None and labels.shape != size:
        raise FormatError(
            f"{path}: the label map is {labels.shape[0]} x {labels.shape[1]}, the photograph is "
            f"{size[0]} x {size[1]} (height x width); both must be resized together, label maps "
            "to nearest pixels"
        )
    labels[np.isin(labels, list(ignored))] = -1
    labels, dropped = (labels, {}) if part == "class" else _connected(labels)
    height, width = labels.shape
    found = MaskSet.of(height, width, masks_of_labels(labels), source="labels")
    return apply_rules(replace(found, dropped=dropped), rules or MaskRules())


def _read_values(path: Path) -> Values:
    """(H, W) int32 values in [0, 65535]."""
    with open_picture(path, _FORMATS) as opened:
        if opened.mode not in _MODES:
            raise FormatError(
                f"{path}: holds colours (mode {opened.mode}), a label map has one number a pixel; "
                "is it the photograph, or a drawing of the labels?"
            )
        if opened.width * opened.height > MOST_PIXELS:  # where Pillow was told to take more
            raise DataError(f"{path}: has more than {MOST_PIXELS:,} pixels; make it smaller first")
        values = np.asarray(opened)  # (H, W)
    if values.dtype.kind == "i" and not 0 <= values.min() <= values.max() <= 65535:
        raise FormatError(
            f"{path}: values must be from 0 to 65535, are {values.min()} to {values.max()}"
        )
    return values.astype(np.int32)


def _connected(labels: Values) -> tuple[Values, dict[str, int]]:
    """(H, W) number of the connected part of each pixel, -1 where ignored; what was left out."""
    from skimage.measure import label

    parts: Any = label(labels, background=-1, connectivity=2)  # (H, W), 0 where ignored
    sizes = np.bincount(parts.ravel())[1:]  # (n,)
    order = np.argsort(-sizes, kind="stable")
    numbers = np.arange(-1, len(sizes), dtype=np.int32)  # (n + 1,)
    numbers[1 + order[MOST_PARTS:]] = -1
    lost = max(len(sizes) - MOST_PARTS, 0)
    dropped = {f"smaller than the {MOST_PARTS} largest": lost} if lost else {}
    return numbers[parts], dropped
