"""The photographs that are trained on, and which of them have masks."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from maskcluster.errors import DataError
from maskcluster.masks.mask_set import MaskSource
from maskcluster.masks.photo_files import Photo, find_photos, open_photo

log = logging.getLogger(__name__)


class Photos:
    """Photographs by number, in ascending order of their keys. Use `find`.

    Keys and paths are two columns of Arrow: a million of them weigh what their texts do, and worker
    processes share them.

    Args:
        keys: ascending.
        paths: file of each key.
    """

    def __init__(self, keys: pa.LargeStringArray, paths: pa.LargeStringArray) -> None:
        if len(keys) != len(paths):
            raise ValueError(f"keys and paths must be as many, got {len(keys)} and {len(paths)}")
        self._keys, self._paths = keys, paths

    @classmethod
    def find(cls, photos: Path | str | Sequence[Path | str]) -> "Photos":
        """Look for photographs, as `maskcluster.masks.photo_files.find_photos` does.

        Args:
            photos: a folder, looked through with all folders inside, or files.

        Raises:
            DataError: no such folder or file, or no photograph in it.
            UsageError: two photographs have one key.
        """
        files = find_photos(photos)
        columns = (list(files), [str(path) for path in files.values()])
        return cls(*(pa.array(column, pa.large_string()) for column in columns))

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Key of a photograph."""
        return str(self._keys[index].as_py())

    def keys(self) -> list[str]:
        """All keys, ascending."""
        found: list[str] = self._keys.to_pylist()
        return found

    def path(self, index: int) -> Path:
        """File of a photograph."""
        return Path(self._paths[index].as_py())

    def read(self, index: int) -> Photo:
        """Read a photograph as the mask generators do: RGB, upright.

        Every file is decoded in full. Decoding JPEG at half or a quarter of its size is faster,
        but what it gives depends on the version of the library that does it.

        Returns:
            (H, W, 3) uint8.

        Raises:
            DataError: it cannot be read, with its path and the reason.
        """
        return open_photo(self.path(index))

    def select(self, index: npt.NDArray[np.int64]) -> "Photos":
        """Some of the photographs; numbers ascending."""
        return Photos(self._keys.take(index), self._paths.take(index))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of keys and file sizes: wherever the folder lies, but not of what is in files.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256()
        for index in range(len(self)):
            path = self.path(index)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            digest.update(f"{self.key(index)}\0{size}\n".encode())
        return digest.hexdigest()


def with_masks(photos: Photos, masks: MaskSource) -> Photos:
    """Photographs that a source has masks of; one line is logged with the counts.

    What has no entry in the source teaches nothing and is left out. An entry without masks counts
    as one.

    Raises:
        DataError: no photograph has an entry, with a key of both sides.
    """
    known = set(masks.keys())
    keys = photos.keys()
    has = np.array([key in known for key in keys], np.bool_)
    if not has.any():
        raise DataError(
            f"none of {len(keys)} photographs has masks: keys are like {keys[0]!r} here and like "
            f"{min(known, default='')!r} there; a key is the path in the folder without suffix"
        )
    lost, spare = [keys[i] for i in np.flatnonzero(~has)], known.difference(keys)
    told = [f"{has.sum()} photographs with masks"]
    if lost:
        told.append(f"{len(lost)} without are left out, the first is {lost[0]!r}")
    if spare:
        told.append(f"{len(spare)} have masks but no photograph, the first is {min(spare)!r}")
    log.log(logging.WARNING if lost or spare else logging.INFO, "%s", "; ".join(told))
    return photos.select(np.flatnonzero(has)) if lost else photos
