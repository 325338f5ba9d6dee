"""ImageNet-1K for classification: the validation set in the forms people keep it in."""

import json
import logging
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segbench.datasets.benchmark import ROOTS
from segbench.datasets.imagenet_truth import find_truth, read_truth
from segbench.datasets.layout import by_id, index_files
from segbench.datasets.pictures import decode_image
from segbench.errors import (
    DataMissingError,
    FormatError,
    UnreadableImageError,
    UsageError,
    unknown,
)
from segbench.words import load_names

log = logging.getLogger(__name__)

EXPECTED_IMAGES = 50_000
LAYOUTS = ("folders", "flat", "shards")
SUFFIXES = (".jpeg", ".jpg", ".png")

_HOMES = ("imagenet", "ImageNet", "imagenet-1k", "imagenet1k", "ILSVRC2012", "")
_PLACES = ("val", "imagenet_shards", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "")
_CLASS_BYTES = 64  # of a .cls file; more is no number of a class
_WNID = re.compile(r"n\d{8}")


class LabelledImage(NamedTuple):
    """An image with its class."""

    id: str
    """Unique within the data set."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""

    label: int
    """Rank of the WordNet id among the 1000, in [0, 1000)."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the bytes of one image lie."""

    id: str
    label: int
    path: Path
    offset: int = 0
    size: int = -1  # to the end of the file


class ImageNetDataset:
    """Images of the validation set with their labels, in the order of their ids.

    Three layouts are read where they lie:

    - `folders`: `val/<wnid>/*.JPEG`.
    - `flat`: `ILSVRC2012_val_*.JPEG` in one folder, with a file of labels (`read_truth`).
    - `shards`: webdataset's `imagenet*val*.tar`, with `KEY.jpg` and `KEY.cls`.

    Args:
        root: folder that holds the images or shards, one above it, or a data root.
        layout: one of the three, where several are there.
        truth: file of labels of the layout `flat`, relative to `root` or absolute, where several
            are there.

    Raises:
        DataMissingError: the root, the images or the labels are missing.
        UsageError: no such layout, or several layouts or label files are there.
        FormatError: a label is no class of ImageNet-1K, or an image has none.
    """

    def __init__(self, root: Path, *, layout: str = "", truth: str = "") -> None:
        self._layout, folder = _choose(root, layout)
        if self._layout == "folders":
            sources = list(_in_folders(folder))
        elif self._layout == "shards":
            sources = list(_in_shards(folder))
        else:
            sources = list(_flat(folder, find_truth(root, folder, truth)))
        self._sources = sorted(sources, key=lambda source: source.id)
        if self.count_note:
            log.warning("%s", self.count_note)

    @property
    def names(self) -> tuple[str, ...]:
        """1000 class names by label; two of them occur twice."""
        return load_names("imagenet1k")

    @property
    def layout(self) -> str:
        """How the data set lies on disk."""
        return self._layout

    @property
    def expected_images(self) -> int:
        """Images of the validation set as it is published."""
        return EXPECTED_IMAGES

    @property
    def count_note(self) -> str:
        """How the number of images differs from `expected_images`; empty where it does not."""
        off = len(self) - EXPECTED_IMAGES
        if not off:
            return ""
        return (
            f"imagenet1k: {len(self):,} images, expected {EXPECTED_IMAGES:,} "
            f"({abs(off):,} {'more' if off > 0 else 'fewer'})"
        )

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> LabelledImage:
        """Read one image.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """
        source = self._sources[index]
        try:
            with source.path.open("rb") as file:
                file.seek(source.offset)
                content = file.read(source.size)
        except OSError as error:
            raise UnreadableImageError(f"{source.path}: cannot be read: {error}") from error
        name = f"{source.path}: {source.id}" if source.offset else str(source.path)
        return LabelledImage(source.id, decode_image(content, name), source.label)


@cache
def wnids() -> Mapping[str, int]:
    """Label by WordNet id: its rank among the 1000."""
    text = (files("segbench") / "classnames" / "imagenet1k.json").read_text(encoding="utf-8")
    return {wnid: label for label, wnid in enumerate(json.loads(text)["wnids"])}


def locate_imagenet(root: Path, layout: str = "") -> list[tuple[str, Path]]:
    """Every layout of ImageNet-1K under a root, with the folder of its images or shards.

    Raises:
        DataMissingError: there is no such root.
        UsageError: no such layout.
    """
    if not root.is_dir():
        raise DataMissingError(f"no data root at {root}")
    if layout and layout not in LAYOUTS:
        raise UsageError(unknown("layout of imagenet1k", layout, LAYOUTS))
    places = [root / r / home / place for r in ROOTS for home in _HOMES for place in _PLACES]
    found: dict[tuple[str, Path], Path] = {}
    for folder in filter(Path.is_dir, dict.fromkeys(places)):
        for name, is_at in _PROBES.items():
            if layout in ("", name) and is_at(folder):
                found.setdefault((name, folder.resolve()), folder)
    return [(name, folder) for (name, _), folder in found.items()]


def _choose(root: Path, layout: str) -> tuple[str, Path]:
    found = locate_imagenet(root, layout)
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataMissingError(
            f"no imagenet1k under {root}: neither val/<wnid>/*.JPEG, nor ILSVRC2012_val_*.JPEG, "
            "nor imagenet*val*.tar"
        )
    layouts = sorted({name for name, _ in found})
    way = f"layout = {' or '.join(_quoted(layouts))}" if len(layouts) > 1 else "a root nearer to it"
    places = "; ".join(f"{name} in {folder}" for name, folder in found)
    raise UsageError(f"imagenet1k lies under {root} more than once ({places}); choose with {way}")


def _quoted(names: list[str]) -> list[str]:
    return [f'"{name}"' for name in names]


_PROBES: dict[str, Callable[[Path], bool]] = {
    "folders": lambda folder: any(
        _WNID.fullmatch(path.name) and path.is_dir() for path in folder.iterdir()
    ),
    "flat": lambda folder: any(True for _ in folder.glob("ILSVRC2012_val_*.JPEG")),
    "shards": lambda folder: any(True for _ in folder.glob("imagenet*val*.tar")),
}


def _in_folders(folder: Path) -> Iterator[_Source]:
    for name, path in index_files(folder, SUFFIXES, nested=True).items():
        wnid = path.parent.name
        if wnid not in wnids():
            raise FormatError(f"{path.parent}: {wnid} is no class of ImageNet-1K")
        yield _Source(name, wnids()[wnid], path)


def _flat(folder: Path, truth: Path) -> Iterator[_Source]:
    labels = read_truth(truth, wnids())
    for name, path in by_id(folder.glob("ILSVRC2012_val_*.JPEG"), (".JPEG",)).items():
        if name not in labels:
            raise FormatError(f"{truth}: no label of {name}, which is in {folder}")
        yield _Source(name, labels[name], path)


def _in_shards(folder: Path) -> Iterator[_Source]:
    seen: dict[str, Path] = {}
    for path in sorted(folder.glob("imagenet*val*.tar")):
        try:
            with tarfile.open(path, "r:") as shard:  # plain: members are read at their offsets
                sources = list(_in_shard(shard, path))
        except (tarfile.TarError, OSError) as error:
            raise FormatError(f"{path}: is no complete tar file: {error}") from error
        for source in sources:
            if source.id in seen:
                raise FormatError(f"{path} and {seen[source.id]} both hold {source.id}")
            seen[source.id] = path
        yield from sources


def _in_shard(shard: tarfile.TarFile, path: Path) -> Iterator[_Source]:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    for member in shard:
        if not member.isfile() or member.issparse():  # a sparse one may claim any size
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}" if folder not in ("", ".") else stem
        if f".{suffix.lower()}" in SUFFIXES:
            images[key] = member
        elif suffix == "cls":
            file = shard.extractfile(member)
            told = file.read(_CLASS_BYTES) if file else b""
            labels[key] = _class(told, f"{path}: {member.name}")
    lone = sorted(images.keys() ^ labels.keys())
    if lone:
        raise FormatError(f"{path}: {lone[0]} has an image or a .cls, but not both")
    for key, member in images.items():
        yield _Source(key, labels[key], path, member.offset_data, member.size)


def _class(content: bytes, name: str) -> int:
    text = content.decode("ascii", errors="replace").strip()
    if text.isdecimal() and int(text) < len(wnids()):
        return int(text)
    raise FormatError(f"{name}: a label must be in [0, {len(wnids())}), got {text[:20]!r}")
