"""The masks in a folder, whichever of the known kinds they are."""

from dataclasses import dataclass
from pathlib import Path

from maskcluster.errors import DataError, UsageError
from maskcluster.masks.label_maps import IGNORED, LabelMaps, Part
from maskcluster.masks.mask_set import MaskSource
from maskcluster.masks.sa1b import Sa1bFolder
from maskcluster.masks.store import MANIFEST, MaskStore


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Label maps as masks, in place of a store or of SA-1B's JSON."""

    suffix: str = ""
    """How names of label maps end, such as .png or _gtFine_labelIds.png; given, MASKS is a folder
    of them."""

    photo_suffix: str = ""
    """How names of their photographs end before .jpg, where those of label maps do not, such as
    _leftImg8bit."""

    ignored: tuple[int, ...] = IGNORED
    """Values that get no mask."""

    part: Part = "class"
    """What makes a mask: all pixels of a value (class), or each connected part (component)."""


def open_masks(
    folder: Path, *, lenient: bool = False, labels: LabelOptions | None = None
) -> MaskSource:
    """The masks in a folder: label maps where their suffix is given, a store, or SA-1B's JSON.

    Args:
        folder: of masks.
        lenient: of SA-1B's JSON, see `read_sa1b`.
        labels: of label maps.

    Raises:
        DataError: none is there, or a store whose build was stopped.
        FormatError: a store of another version.
        UsageError: options of label maps without their suffix.
    """
    labels = labels or LabelOptions()
    if labels.suffix:
        return LabelMaps(
            folder,
            suffix=labels.suffix,
            photo_suffix=labels.photo_suffix,
            ignored=labels.ignored,
            part=labels.part,
        )
    if labels != LabelOptions():
        raise UsageError("--labels needs --labels.suffix, such as .png, to read label maps")
    if (folder / MANIFEST).exists():
        return MaskStore.open(folder)
    try:
        return Sa1bFolder(folder, lenient=lenient)
    except DataError as error:
        if not any(folder.rglob("*.png")):
            raise
        raise DataError(f"{error}; if these are label maps say --labels.suffix .png") from error
