"""SA-1B on disk: photographs, masks in JSON beside them, and a small sample of both."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskcluster import DataError, find_photos

FOLDER = "sa1b"
"""Below --data, with the folders of the archives inside."""
JSON = ".json"
"""How a photograph's file of masks ends."""
SAMPLE = "photographs"
PUBLISHED = 500_000
"""Photographs of the published run (PixelCLIP, sec. 4.1: 5 % of SA-1B)."""


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photographs of a run."""

    folder: Path
    """All lie below it."""
    files: tuple[str, ...]
    """Paths in it, ascending by key; where masks are read, of those that have some beside them."""
    alone: int
    """Photographs left out, for they have no JSON file."""
    bytes: int
    """Photographs and masks, on disk."""
    fingerprint: str
    """Hash of names and sizes of all these files, so that other data are another run."""


def find_photographs(data: Path, *, masks: bool) -> PhotoSet:
    """Look for photographs below `data/sa1b`, as training does; none is no error.

    Args:
        data: the data folder.
        masks: whether each needs a JSON file of the same name beside it.

    Raises:
        UsageError: two photographs have one key.
    """
    folder = data / FOLDER
    found = [path.relative_to(folder).as_posix() for path in _photographs(folder).values()]
    kept = [name for name in found if not masks or (folder / _masks_of(name)).is_file()]
    digest, total = hashlib.sha256(), 0
    for name in kept:
        for each in (name, _masks_of(name)) if masks else (name,):
            size = (folder / each).stat().st_size
            digest.update(f"{each}\0{size}\n".encode())
            total += size
    return PhotoSet(folder, tuple(kept), len(found) - len(kept), total, digest.hexdigest())


def write_photographs(photos: PhotoSet, count: int, masks: bool, folder: Path) -> None:
    """Copy the first photographs, and their masks, under the names that they have.

    Args:
        photos: of the run.
        count: of photographs; fewer if there are not as many.
        masks: whether JSON files are copied too.
        folder: of the stage; `SAMPLE` in it gets them.
    """
    for name in photos.files[:count]:
        for each in (name, _masks_of(name)) if masks else (name,):
            target = folder / SAMPLE / each
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos.folder / each, target)


def _masks_of(name: str) -> str:
    return str(Path(name).with_suffix(JSON).as_posix())


def _photographs(folder: Path) -> Mapping[str, Path]:
    """Photographs by key, those that a training on this folder sees."""
    try:
        return find_photos(folder)
    except DataError:  # no such folder, or none in it
        return {}
