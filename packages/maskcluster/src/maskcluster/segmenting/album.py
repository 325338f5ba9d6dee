"""Labelled photographs as files: an overlay, a label map and a table of each; survives a kill."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskcluster.errors import DataError, MaskClusterError, UsageError
from maskcluster.files import folder_lock, read_json, replacing, sweep, write_json
from maskcluster.masks.photo_files import Photo, open_photo
from maskcluster.progress import progress
from maskcluster.segmenting.pictures import Labels, draw_overlay, label_picture, shares

log = logging.getLogger(__name__)

KIND, VERSION = "maskcluster-segmentation", 1
SETTINGS, REPORT = "settings.json", "report.json"
"""In the folder of results: what they were made with, written first; and what became of all."""

OVERLAYS, LABELS, TABLES = "overlays", "labels", "photos"
"""Folders in it, with a file for every key; the table of a photograph is written last."""

Table = dict[str, Any]
Batch = Mapping[str, Photo]
Labelled = tuple[Labels, Table]
"""A label map and further facts for the table of its photograph."""
Label = Callable[[Batch], Mapping[str, Labelled | MaskClusterError]]
"""Labels some photographs, by key; or says what is wrong with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReport:
    """What became of all photographs."""

    out: Path
    """Folder of results."""

    done: int
    """Photographs that have results."""

    made: int
    """Those of this run; the others were there already."""

    seconds: float
    """That this run took."""

    skipped: Mapping[str, str]
    """Why photographs have none, by key."""

    shares: Mapping[str, float]
    """Mean share of each class in the pixels of a photograph."""

    def lines(self) -> list[str]:
        """For standard output: columns separated by tabs."""
        found = [f"{share:.4f}\t{name}" for name, share in self.shares.items()]
        found.append(f"photographs\t{self.done}")
        if self.made < self.done:
            found.append(f"there already\t{self.done - self.made}")
        if self.skipped:
            found.append(f"skipped\t{len(self.skipped)}")
        if self.made:
            found.append(f"photographs a second\t{self.made / max(self.seconds, 1e-9):.2f}")
        return [*found, f"results\t{self.out}"]


class Album:
    """Photographs to label, and the folder of their results.

    Args:
        photos: by key.
        out: folder.
        names: of the classes.
        settings: what results depend on.
        batch: photographs held at a time.
    """

    def __init__(
        self,
        photos: Mapping[str, Path],
        out: Path,
        names: Sequence[str],
        settings: Table,
        *,
        batch: int,
    ) -> None:
        if batch < 1:
            raise UsageError(f"--batch needs at least 1, got {batch}")
        if not out.is_dir() and out.suffix.lower() in Image.registered_extensions():
            raise UsageError(f"--out needs the name of a folder, for all results, got {out}")
        self.photos = photos
        self.out = out
        self.names = names
        self.settings = settings
        self.batch = batch

    def run(
        self,
        label: Label,
        source: Path | Sequence[Path],
        *,
        overwrite: bool,
    ) -> SegmentReport:
        """Label all photographs that have no results yet."""
        if isinstance(source, Path) and self.out.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"{self.out}: lies among the photographs; choose another folder")
        begun = time.perf_counter()
        skipped: dict[str, str] = {}
        made = 0
        with folder_lock(self.out):
            self._begin(overwrite=overwrite)
            missing = [key for key in self.photos if not self._path(TABLES, key).exists()]
            already = len(self.photos) - len(missing)
            with progress(total=len(self.photos), initial=already, unit="photo") as bar:
                for some in self._read_ahead(missing):
                    for key, found in self._labelled(some, label).items():
                        if isinstance(found, MaskClusterError):
                            log.warning("%s", found)
                            skipped[key] = str(found)
                        else:
                            self._write(key, *found)
                            made += 1
                    bar.update(len(some))
            return self._finish(made, time.perf_counter() - begun, skipped)

    def _begin(self, *, overwrite: bool) -> None:
        """Make sure that the folder is of these settings."""
        path = self.out / SETTINGS
        others = [
            p for p in self.out.iterdir() if p.name != ".lock" and not p.name.endswith(".part")
        ]
        if path.exists():
            sweep(self.out)
            if read_json(path) == self.settings and not overwrite:
                return
            if not overwrite:
                raise UsageError(
                    f"{self.out}: holds results of other names, options or another model; choose "
                    "another folder or --overwrite true"
                )
            for table in (self.out / TABLES).rglob("*.json"):
                table.unlink()
            (self.out / REPORT).unlink(missing_ok=True)
        elif others:
            raise UsageError(f"{self.out}: holds other things, such as {others[0].name}")
        write_json(path, self.settings)

    def _read_ahead(self, keys: Sequence[str]) -> Iterator[dict[str, Photo | DataError]]:
        """Batches of photographs; the next one is read while one is worked on."""
        batches = [keys[i : i + self.batch] for i in range(0, len(keys), self.batch)]
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self._read, batch) for batch in batches[:1]]
            for following in [*batches[1:], None]:
                if not coming:
                    return
                ready = coming.pop().result()
                if following is not None:
                    coming.append(reader.submit(self._read, following))
                yield ready

    def _read(self, keys: Sequence[str]) -> dict[str, Photo | DataError]:
        return {key: _try_open(self.photos[key]) for key in keys}

    def _labelled(
        self,
        some: Mapping[str, Photo | DataError],
        label: Label,
    ) -> dict[str, tuple[Photo, Labels, Table] | MaskClusterError]:
        """Results by key, and what is wrong with the others."""
        good = {key: photo for key, photo in some.items() if isinstance(photo, np.ndarray)}
        found: dict[str, tuple[Photo, Labels, Table] | MaskClusterError] = {
            key: error for key, error in some.items() if isinstance(error, DataError)
        }
        for key, one in label(good).items() if good else ():
            found[key] = one if isinstance(one, MaskClusterError) else (good[key], *one)
        return found

    def _write(self, key: str, photo: Photo, labels: Labels, facts: Table) -> None:
        self._save(OVERLAYS, key, draw_overlay(photo, labels, self.names))
        self._save(LABELS, key, label_picture(labels, len(self.names)))
        share = shares(labels, len(self.names)).tolist()
        table = {"kind": KIND, "version": VERSION, "key": key}
        table |= {"height": labels.shape[0], "width": labels.shape[1]}
        table["shares"] = dict(zip(self.names, [round(value, 6) for value in share], strict=True))
        path = self._path(TABLES, key)
        _make_folder(path.parent)
        write_json(path, table | facts)

    def _save(self, kind: str, key: str, picture: Image.Image) -> None:
        path = self._path(kind, key)
        _make_folder(path.parent)
        with replacing(path) as part:
            picture.save(part, "PNG")

    def _path(self, kind: str, key: str) -> Path:
        return self.out / kind / f"{key}.{'json' if kind == TABLES else 'png'}"

    def _finish(self, made: int, seconds: float, skipped: Mapping[str, str]) -> SegmentReport:
        """Write and give the report.

        Raises:
            DataError: there is no result at all.
        """
        totals = np.zeros(len(self.names))
        done = 0
        for key in self.photos:
            if key not in skipped:
                share = read_json(self._path(TABLES, key))["shares"]
                totals += [share[name] for name in self.names]
                done += 1
        if not done:
            reason = next(iter(skipped.values()))
            raise DataError(f"none of {len(self.photos)} photographs has results: {reason}")
        mean = dict(zip(self.names, (totals / done).round(6).tolist(), strict=True))
        told = {"photographs": done, "skipped": dict(skipped), "shares": mean}
        write_json(self.out / REPORT, {"kind": f"{KIND}-report", "version": VERSION, **told})
        return SegmentReport(
            out=self.out, done=done, made=made, seconds=seconds, skipped=skipped, shares=mean
        )


def _try_open(path: Path) -> Photo | DataError:
    try:
        return open_photo(path)
    except DataError as error:
        return error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MaskClusterError(f"{folder}: cannot be written to ({error.strerror})") from error
