"""SA-1B on disk: photographs, masks in JSON beside them, and a small sample of both."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "sa1b"
"""Below --data, with the folders of the archives inside."""
PHOTOS = (".jpg", ".jpeg", ".png")
MASKS = ".json"
SAMPLE = "photographs"
PUBLISHED = 500_000
"""Photographs of the published run (PixelCLIP, sec. 4.1: 5 % of SA-1B)."""


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photographs of a run."""

    folder: Path
    """All lie below it."""
    files: tuple[str, ...]
    """Paths in it, sorted; where masks are read, of those that have some beside them."""
    alone: int
    """Photographs left out, for they have no JSON file."""
    bytes: int
    """Photographs and masks, on disk."""
    fingerprint: str
    """Hash of names and sizes of all these files, so that other data are another run."""


def find_photographs(data: Path, *, masks: bool) -> PhotoSet:
    """Look for photographs below `data/sa1b`; none is no error.

    Args:
        data: the data folder.
        masks: whether each needs a JSON file of the same name beside it.
    """
    folder = data / FOLDER
    sizes = dict(sorted(_files(folder))) if folder.is_dir() else {}
    found = [name for name in sizes if Path(name).suffix.lower() in PHOTOS]
    kept = [name for name in found if not masks or _masks_of(name) in sizes]
    digest, total = hashlib.sha256(), 0
    for name in kept:
        for each in (name, _masks_of(name)) if masks else (name,):
            digest.update(f"{each}\0{sizes[each]}\n".encode())
            total += sizes[each]
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
    return str(Path(name).with_suffix(MASKS).as_posix())


def _files(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Path and bytes of every file below a folder; a million take seconds."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry.stat().st_size
