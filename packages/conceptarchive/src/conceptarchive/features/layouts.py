"""Where image rows, caption rows and metadata lie in the folders that users have."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from conceptarchive.errors import DataMissingError, FormatError
from conceptarchive.features.npyfile import NpyFile, members

log = logging.getLogger(__name__)

MANIFEST = "embed.json"
"""What our own `embed` notes beside its partitions."""

METADATA = "metadata"
FOLDERS = {"img_emb": ("img_emb", "images"), "text_emb": ("text_emb", "texts")}
"""Where clip-retrieval's files lie: its own name of the folder, then LAION-400M's."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Row-aligned files: image rows, a metadata table, and caption rows where there are some."""

    image: NpyFile
    table: Path
    text: NpyFile | None

    @property
    def paths(self) -> list[Path]:
        """Its files, each once."""
        arrays = [self.image] if self.text is None else [self.image, self.text]
        return [*dict.fromkeys(array.path for array in arrays), self.table]


def find_partitions(folder: Path, *, array: str) -> list[Partition]:
    """Find the partitions of a folder, in order, by looking at the names of its files.

    Three layouts are known: `img_emb/`, `metadata/` and maybe `text_emb/`, as clip-retrieval and
    our `embed` write them; the same files in one folder; and DataComp's, where every Parquet file
    stands beside an archive NAME.npz with arrays such as `l14_img` and `l14_txt`.

    Args:
        folder: to look in.
        array: first part of the names of arrays in .npz archives, such as "l14" or "b32".

    Raises:
        DataMissingError: nothing of the kind here.
        FormatError: a file without its counterpart, or an archive without the array.
    """
    if not folder.is_dir():
        raise DataMissingError(f"{folder}: no such folder; check the path")
    if not _by_number(folder, FOLDERS["img_emb"], "img_emb", "npy"):
        for place in (folder, folder / METADATA):
            if any(place.glob("*.npz")):
                return _beside_archives(place, array)
    return _numbered(folder)


def _numbered(folder: Path) -> list[Partition]:
    """Partitions of clip-retrieval, by their number."""
    tables = _by_number(folder, (METADATA,), METADATA, "parquet")
    if not tables:
        raise DataMissingError(f"{folder / METADATA}: no metadata_*.parquet; make them with embed")
    images = _by_number(folder, FOLDERS["img_emb"], "img_emb", "npy")
    if not images:
        raise DataMissingError(f"{folder / 'img_emb'}: no img_emb_*.npy; make them with embed")
    texts = _by_number(folder, FOLDERS["text_emb"], "text_emb", "npy")
    _check_alike(images, tables, "img_emb/ and metadata/")
    if not texts and (folder / "text_emb").is_dir():
        raise DataMissingError(
            f"{folder / 'text_emb'}: no text_emb_*.npy; remove it or embed again"
        )
    if texts:
        _check_alike(texts, tables, "text_emb/ and metadata/")
    gaps = sorted(set(range(min(tables), max(tables))) - tables.keys())
    if gaps:
        log.warning("%s: no partition %s; the others are used", folder, _listed(gaps))
    return [
        Partition(NpyFile(images[at]), tables[at], NpyFile(texts[at]) if texts else None)
        for at in tables
    ]


def _by_number(folder: Path, places: tuple[str, ...], stem: str, suffix: str) -> dict[int, Path]:
    """Files STEM_P.SUFFIX by partition number, in order, of the first place that has some."""
    for place in (*(folder / name for name in places), folder):
        found: dict[int, Path] = {}
        for path in sorted(place.glob(f"{stem}_*.{suffix}")):
            match = re.fullmatch(rf"{stem}_(\d+)", path.stem)
            if match is None:
                continue
            if int(match[1]) in found:
                raise FormatError(f"{path}: and {found[int(match[1])].name} are the same partition")
            found[int(match[1])] = path
        if found:
            return dict(sorted(found.items()))
    return {}


def _check_alike(arrays: dict[int, Path], tables: dict[int, Path], names: str) -> None:
    """Raise FormatError where a partition has only one of two files."""
    if arrays.keys() != tables.keys():
        number = min(arrays.keys() ^ tables.keys())
        path = arrays.get(number) or tables[number]
        raise FormatError(f"{path}: partition {number} is not in both {names}")


def _beside_archives(folder: Path, array: str) -> list[Partition]:
    """Partitions of DataComp, by name."""
    archives = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    tables = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    if archives.keys() != tables.keys():
        name = min(archives.keys() ^ tables.keys())
        other = ".parquet" if name in archives else ".npz"
        path = archives.get(name) or tables[name]
        raise FormatError(f"{path}: {name}{other} is missing beside it; fetch it")
    image, text = f"{array}_img", f"{array}_txt"
    found = [set(members(path)) for path in archives.values()]
    for path, names in zip(archives.values(), found, strict=True):
        if image not in names:
            raise FormatError(
                f"{path}: has no array {image!r} but {sorted(names)}; choose with array="
            )
        if (text in names) != (text in found[0]):
            raise FormatError(f"{path}: not all archives of the folder have {text!r}")
    return [
        Partition(
            NpyFile(path, image), tables[stem], NpyFile(path, text) if text in found[0] else None
        )
        for stem, path in archives.items()
    ]


def _listed(numbers: list[int]) -> str:
    """The first numbers, and how many more there are."""
    first = ", ".join(str(number) for number in numbers[:5])
    return first if len(numbers) <= 5 else f"{first} and {len(numbers) - 5} more"
