"""The mask store: Arrow shards, memory-mapped, with random access by key.

    STORE/store.json           kind, version, generator, shards with checksums, whether complete
    STORE/masks-00000.arrow    Arrow IPC, one row a photograph, keys ascending

Shard i holds the photographs of the i-th part of the sorted list of keys, so that a build that was
killed goes on at the first shard that is missing and writes the same bytes. What could not be read
is named in the shard's metadata. The files are plain Arrow: `pandas.read_feather` opens them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from maskcluster.errors import DataError, FormatError, UsageError
from maskcluster.files import PART, hash_file, hash_json, read_json, replacing, sweep, write_json
from maskcluster.masks.mask_set import MaskRules, MaskSet, apply_rules
from maskcluster.masks.rle import Rle

KIND, VERSION = "maskcluster.masks", 1
MANIFEST = "store.json"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("source", pa.string()),
        ("dropped", pa.string()),  # JSON: reason -> count
        ("counts", pa.list_(pa.binary())),  # COCO's compressed strings
        ("predicted_iou", pa.list_(pa.float32())),
        ("stability", pa.list_(pa.float32())),
        ("area", pa.list_(pa.int64())),
        ("box", pa.list_(pa.list_(pa.int32(), 4))),  # half-open XYXY
        ("crop", pa.list_(pa.list_(pa.int32(), 4))),
        ("point", pa.list_(pa.list_(pa.float32(), 2))),  # XY
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard holds: masks by key, and why other keys have none."""

    masks: Mapping[str, MaskSet]
    skipped: Mapping[str, str]


class MaskStore:
    """Masks of many photographs. Use `open`.

    It may be pickled and forked; a copy opens the files again.

    Attributes:
        folder: where it is.
        manifest: what `store.json` says.
        rules: which masks of a photograph are handed out; those stored are not changed.
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], rules: MaskRules | None = None
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.rules = rules
        self._ends = np.cumsum([shard["rows"] for shard in manifest["shards"]], dtype=np.int64)
        self._open: dict[int, pa.RecordBatch] = {}

    @classmethod
    def open(cls, folder: Path | str, *, rules: MaskRules | None = None) -> "MaskStore":
        """Open a finished store; no shard is mapped until it is asked for.

        Raises:
            DataError: no store there, or one whose build was stopped.
            FormatError: not a store, or of an unknown version.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not manifest["complete"]:
            raise DataError(f"{folder}: its build was stopped; generate it again to go on")
        return cls(folder, manifest, rules)

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskStore, (self.folder, self.manifest, self.rules)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the store holds and how it was made."""
        return hash_json({name: self.manifest[name] for name in ("generator", "shards")})

    @property
    def mask_count(self) -> int:
        """Masks of all photographs that are stored."""
        return sum(shard["masks"] for shard in self.manifest["shards"])

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many masks the generator dropped, by the reason."""
        total = Counter[str]()
        for shard in self.manifest["shards"]:
            total += Counter(shard["dropped"])
        return total

    @property
    def generator(self) -> Mapping[str, Any]:
        """What its masks were made by."""
        found: Mapping[str, Any] = self.manifest["generator"]
        return found

    def keys(self) -> Sequence[str]:
        """All keys, ascending; read where they are asked for."""
        return _Keys(self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, key: str) -> MaskSet:
        """The masks of a photograph.

        Raises:
            KeyError: no such key.
            FormatError: the shard is damaged.
        """
        row = self._find(key)
        if row is None:
            raise KeyError(key)
        shard, at = self._locate(row)
        try:
            found = _read_row(self._batch(shard), at)
        except (FormatError, ValueError, RecursionError) as error:
            raise FormatError(
                f"{self._path(shard)}: {key!r}: {error}; generate it again"
            ) from error
        return apply_rules(found, self.rules) if self.rules else found

    @cached_property
    def skipped(self) -> Mapping[str, str]:
        """Photographs that have no masks because they could not be read, and why."""
        found: dict[str, str] = {}
        for shard in range(len(self.manifest["shards"])):
            found |= json.loads(self._batch(shard).schema.metadata[b"skipped"])
        return found

    def check(self) -> None:
        """Check every file against its checksum, and every mask against its size.

        Raises:
            FormatError: the first fault.
        """
        for shard, expected in enumerate(self.manifest["shards"]):
            path = self._path(shard)
            if not path.is_file():
                raise FormatError(f"{path}: is missing; generate it again")
            if hash_file(path) != expected["sha256"]:
                raise FormatError(f"{path}: checksum differs; generate it again")
        keys = list(self.keys())
        if any(a >= b for a, b in pairwise(keys)):
            raise FormatError(f"{self.folder}: keys do not ascend; generate it again")
        for key in keys:
            self[key]

    def key_at(self, row: int) -> str:
        """Key of a row in [0, len)."""
        shard, at = self._locate(row)
        return str(self._batch(shard).column("key")[at].as_py())

    def _locate(self, row: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, row, side="right"))
        return shard, row - (int(self._ends[shard - 1]) if shard else 0)

    def _find(self, key: str) -> int | None:
        """Row of a key: keys ascend, so that nothing but the files themselves is needed."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.key_at(middle) < key:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.key_at(low) == key else None

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def _batch(self, shard: int) -> pa.RecordBatch:
        if shard not in self._open:
            batch = _map_shard(self._path(shard))
            rows = self.manifest["shards"][shard]["rows"]
            if batch.num_rows != rows:
                raise FormatError(
                    f"{self._path(shard)}: has {batch.num_rows} rows, {MANIFEST} says {rows}"
                )
            self._open[shard] = batch
        return self._open[shard]


class _Keys(Sequence[str]):
    """Keys of a store, read where they are asked for."""

    def __init__(self, store: MaskStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._store.key_at(row) for row in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._store.key_at(at % len(self))

    def __contains__(self, key: object) -> bool:
        return key in self._store


class MaskStoreWriter:
    """Writes a store, part by part; what was written before is kept and counted.

    Call `write` for parts from `first_missing` on, then `finish`; hold
    `files.folder_lock` meanwhile.

    Args:
        folder: made if it is not there.
        generator: what makes the masks; numbers, texts, lists and tables.
        keys: of all photographs, ascending.
        part_size: photographs a shard; at most so many are made again after a kill.

    Raises:
        UsageError: the folder holds other things, or a store of another generator or of other
            photographs.
        ValueError: keys do not ascend.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        generator: Mapping[str, Any],
        keys: Sequence[str],
        part_size: int = 256,
    ) -> None:
        if part_size < 1:
            raise ValueError(f"part_size must be at least 1, got {part_size}")
        if any(a >= b for a, b in pairwise(keys)):
            raise ValueError("keys must ascend, each of them once")
        self.folder = Path(folder)
        self.keys = keys
        self.part_size = part_size
        self._described = {
            "kind": KIND,
            "version": VERSION,
            "generator": json.loads(json.dumps(generator, allow_nan=False)),
            "keys_sha256": hash_json(list(keys)),
            "part_size": part_size,
        }
        self._begin()

    @property
    def parts(self) -> int:
        """How many shards there will be."""
        return -(-len(self.keys) // self.part_size)

    @property
    def first_missing(self) -> int:
        """The first part that is not written yet; `parts` if all are."""
        written = (shard for shard in range(self.parts) if not self._path(shard).exists())
        return next(written, self.parts)

    def keys_of(self, part: int) -> Sequence[str]:
        """Keys of one part."""
        return self.keys[part * self.part_size : (part + 1) * self.part_size]

    def write(self, number: int, part: Part) -> None:
        """Write a shard, whole or not at all.

        Raises:
            ValueError: keys are not those of the part, each of them once.
            MaskClusterError: it cannot be written.
        """
        keys = sorted([*part.masks, *part.skipped])
        if keys != list(self.keys_of(number)):
            raise ValueError(f"part {number} must have the keys that keys_of({number}) gives")
        rows = [_row(key, part.masks[key]) for key in sorted(part.masks)]
        metadata = {
            "kind": KIND,
            "version": str(VERSION),
            "fingerprint": hash_json(self._described),
            "skipped": json.dumps(part.skipped, sort_keys=True),
        }
        batch = pa.RecordBatch.from_pylist(rows, SCHEMA.with_metadata(metadata))
        with (
            replacing(self._path(number)) as temporary,
            pa.OSFile(str(temporary), "wb") as file,
            pa.ipc.new_file(file, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    def finish(self) -> MaskStore:
        """Write the manifest with all checksums.

        Raises:
            UsageError: a part is missing.
            FormatError: a shard is not of this build.
        """
        if self.first_missing < self.parts:
            raise UsageError(f"{self.folder}: part {self.first_missing} is not written")
        shards = []
        for number in range(self.parts):
            path = self._path(number)
            batch = _map_shard(path)
            if batch.schema.metadata[b"fingerprint"].decode() != hash_json(self._described):
                raise FormatError(f"{path}: is of another build; choose another folder")
            shards.append(_summary(batch) | {"sha256": hash_file(path)})
        write_json(self.folder / MANIFEST, self._described | {"complete": True, "shards": shards})
        return MaskStore.open(self.folder)

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def _begin(self) -> None:
        path = self.folder / MANIFEST
        if path.exists():
            _refuse_other(self.folder, read_manifest(self.folder), self._described)
        elif self.folder.is_dir() and any(map(_is_foreign, self.folder.iterdir())):
            raise UsageError(f"{self.folder}: holds other files; choose an empty folder")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, self._described | {"complete": False, "shards": []})
        sweep(self.folder)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"masks-{number:05d}.arrow"


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Read `store.json`.

    Raises:
        DataError: no store there.
        FormatError: not a store, or of an unknown version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no mask store there ({MANIFEST} is missing)")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise FormatError(f"{path}: not a mask store")
    if manifest.get("version") != VERSION:
        found = manifest.get("version")
        raise FormatError(f"{path}: is of version {found}, this program reads version {VERSION}")
    missing = {"generator", "keys_sha256", "part_size", "complete", "shards"} - manifest.keys()
    if missing:
        raise FormatError(f"{path}: has no {', '.join(sorted(missing))}; generate it again")
    return manifest


def _is_foreign(path: Path) -> bool:
    """Whether a file is none that a writer, killed before its manifest, leaves behind."""
    return path.name != ".lock" and path.suffix != PART


def _refuse_other(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    reasons = {
        "generator": "masks of another generator",
        "keys_sha256": "masks of other photographs",
        "part_size": "shards of another size",
    }
    for name, reason in reasons.items():
        if found[name] != wanted[name]:
            detail = f" ({_difference(found[name], wanted[name])})" if name == "generator" else ""
            raise UsageError(f"{folder}: holds {reason}{detail}; choose another folder")


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Their names, or the first option in which two of one name differ."""
    first, second = found.get("name"), wanted.get("name")
    if first != second:
        return f"{first} there, {second} here"
    name = min(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
    return f"{name} {found.get(name)!r} there, {wanted.get(name)!r} here"


def _summary(batch: pa.RecordBatch) -> dict[str, Any]:
    """What the manifest tells of a shard beside its checksum."""
    dropped = sum((Counter(json.loads(t)) for t in batch.column("dropped").to_pylist()), Counter())
    masks = len(batch.column("counts").flatten())
    return {"rows": batch.num_rows, "masks": masks, "dropped": dict(dropped)}


def _row(key: str, masks: MaskSet) -> dict[str, Any]:
    return {
        "key": key,
        "height": masks.height,
        "width": masks.width,
        "source": masks.source,
        "dropped": json.dumps(masks.dropped, sort_keys=True),
        "counts": [mask.to_string() for mask in masks.masks],
        "predicted_iou": masks.predicted_iou,
        "stability": masks.stability,
        "area": masks.areas,
        "box": list(masks.boxes),
        "crop": list(masks.crops),
        "point": list(masks.points),
    }


def _read_row(batch: pa.RecordBatch, at: int) -> MaskSet:
    height, width = batch.column("height")[at].as_py(), batch.column("width")[at].as_py()
    strings = batch.column("counts")[at].as_py()
    return MaskSet(
        height=height,
        width=width,
        masks=tuple(Rle.from_string(height, width, counts) for counts in strings),
        predicted_iou=_values(batch, "predicted_iou", at),
        stability=_values(batch, "stability", at),
        points=_rows(batch, "point", at, 2),
        crops=_rows(batch, "crop", at, 4).astype(np.int64),
        source=batch.column("source")[at].as_py(),
        dropped=json.loads(batch.column("dropped")[at].as_py()),
    )


def _values(batch: pa.RecordBatch, name: str, at: int) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = batch.column(name)[at].values.to_numpy(zero_copy_only=False)
    return found


def _rows(batch: pa.RecordBatch, name: str, at: int, size: int) -> npt.NDArray[Any]:
    """(M, size) of a column of lists of such rows."""
    rows = batch.column(name)[at].values
    found: npt.NDArray[Any] = rows.flatten().to_numpy(zero_copy_only=False)
    return found.reshape(len(rows), size)


def _map_shard(path: Path) -> pa.RecordBatch:
    """The one batch of a shard, memory-mapped."""
    try:
        with pa.memory_map(str(path)) as source:
            file = pa.ipc.open_file(source)
            batch = file.get_batch(0)
        batch.validate(full=True)  # every offset; values are not read
    except FileNotFoundError as error:
        raise FormatError(f"{path}: is missing; generate it again") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise FormatError(f"{path}: damaged ({' '.join(str(error).split())})") from error
    metadata = batch.schema.metadata or {}
    if not batch.schema.equals(SCHEMA) or metadata.get(b"kind") != KIND.encode():
        raise FormatError(f"{path}: not a shard of a mask store")
    if metadata.get(b"version") != str(VERSION).encode():
        raise FormatError(f"{path}: is of an unknown version; this program reads {VERSION}")
    if any(map(_lacks_values, batch.columns)):
        raise FormatError(f"{path}: damaged (a column lacks values); generate it again")
    return batch


def _lacks_values(column: pa.Array) -> bool:
    """Whether a column, or a list in it, holds a null."""
    if column.null_count:
        return True
    kind = column.type
    nested = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return nested and _lacks_values(column.values)
