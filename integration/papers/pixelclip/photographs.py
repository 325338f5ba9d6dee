"""Photographs on disk with the masks that are read for them, and a small sample of both."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from maskcluster import DataError, find_photos

SAMPLE = "photographs"
SAMPLE_MASKS = "masks"
"""In the folder of a sample: photographs, and masks where they lie apart from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSet:
    """Photographs of a run."""

    folder: Path
    """All lie below it."""
    files: tuple[str, ...]
    """Paths in it, ascending by key; where masks are read, of those that have some."""
    masks: Path | None
    """Below it masks lie as photographs do below `folder`, which it may be; None where none are
    read."""
    suffix: str
    """How a file of masks ends, in place of its photograph's suffix."""
    alone: int
    """Photographs left out, for they have no file of masks."""
    bytes: int
    """Photographs and masks, on disk."""
    fingerprint: str
    """Hash of names and sizes of all these files, so that other data are another run."""

    def masks_of(self, name: str) -> str:
        """Path in `masks` of the file that belongs to a photograph."""
        return f"{Path(name).with_suffix('').as_posix()}{self.suffix}"

    def sampled(self, folder: Path) -> "PhotoSet":
        """The same set where `write_sample` has put it."""
        apart = self.masks != self.folder
        masks = None if self.masks is None else folder / (SAMPLE_MASKS if apart else SAMPLE)
        return replace(self, folder=folder / SAMPLE, masks=masks)


def find_set(folder: Path, masks: Path | None = None, suffix: str = "") -> PhotoSet:
    """Look for photographs below a folder, as training does; none is no error.

    Args:
        folder: of photographs.
        masks: folder of their masks, where they are read.
        suffix: how files of masks end.

    Raises:
        UsageError: two photographs have one key.
    """
    found = [path.relative_to(folder).as_posix() for path in _photographs(folder).values()]
    every = PhotoSet(
        folder=folder, files=tuple(found), masks=masks, suffix=suffix,
        alone=0, bytes=0, fingerprint="",
    )  # fmt: skip
    kept = [name for name in found if masks is None or (masks / every.masks_of(name)).is_file()]
    digest, total = hashlib.sha256(), 0
    for name in kept:
        files = {name: folder / name}
        if masks is not None:
            files[every.masks_of(name)] = masks / every.masks_of(name)
        for told, path in files.items():
            size = path.stat().st_size
            digest.update(f"{told}\0{size}\n".encode())
            total += size
    return replace(
        every,
        files=tuple(kept),
        alone=len(found) - len(kept),
        bytes=total,
        fingerprint=digest.hexdigest(),
    )


def write_sample(photos: PhotoSet, count: int, folder: Path) -> None:
    """Copy the first photographs, and their masks, under the names that they have.

    Args:
        photos: of the run.
        count: of photographs; fewer if there are not as many.
        folder: of the stage; see `PhotoSet.sampled`.
    """
    sample = photos.sampled(folder)
    for name in photos.files[:count]:
        _copy(photos.folder / name, sample.folder / name)
        if photos.masks is not None and sample.masks is not None:
            _copy(photos.masks / photos.masks_of(name), sample.masks / photos.masks_of(name))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _photographs(folder: Path) -> Mapping[str, Path]:
    """Photographs by key, those that a training on this folder sees."""
    try:
        return find_photos(folder)
    except DataError:  # no such folder, or none in it
        return {}
