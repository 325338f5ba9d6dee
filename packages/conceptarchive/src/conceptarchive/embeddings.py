"""Unit rows of images and captions on disk, in clip-retrieval's layout."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conceptarchive.errors import DataMissingError, FormatError

RowArray = npt.NDArray[np.floating[Any]]

log = logging.getLogger(__name__)

MANIFEST = "embed.json"
HASH_ROWS = 65536  # rows hashed at a time
NORM_ROWS = 1000  # rows of a partition whose length is looked at
NORM_TOLERANCE = 0.02  # float16 rows of 1,024 numbers stay well inside


@dataclass(frozen=True)
class Embeddings:
    """Unit rows of n pairs.

    Attributes:
        keys: n distinct pair ids, "<dataset>/<shard>/<key>".
        captions: n texts.
        image: (n, D) float16 or float32 unit rows. One partition is memory-mapped; several are
            joined in memory, 2 D bytes a row in float16.
        text: (n, D) rows of the captions, or None.
        encoder_id: what made them, where known.
    """

    keys: list[str]
    captions: list[str]
    image: RowArray
    text: RowArray | None = None
    encoder_id: str | None = None

    def __post_init__(self) -> None:
        rows = len(self.keys)
        if self.image.ndim != 2 or {len(self.captions), len(self.image)} != {rows}:
            raise ValueError(
                f"needs {rows} captions and (n, D) rows, got {len(self.captions)} "
                f"and {self.image.shape}"
            )
        if self.text is not None and self.text.shape != self.image.shape:
            raise ValueError(f"text must be {self.image.shape}, got {self.text.shape}")
        if len(set(self.keys)) != rows:
            raise ValueError(f"ids must be distinct, got {_first_repeated(self.keys)!r} twice")

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def from_arrays(
        cls,
        ids: Sequence[str],
        captions: Sequence[str],
        image: npt.ArrayLike,
        text: npt.ArrayLike | None = None,
    ) -> "Embeddings":
        """Wrap rows that are in memory.

        Args:
            ids: n distinct pair ids.
            captions: n texts.
            image: (n, D) unit rows; kept as float16 or float32, else converted to float32.
            text: (n, D) unit rows of the captions.

        Raises:
            ValueError: lengths differ, an id repeats, or a row is not of length 1.
        """
        arrays = [None if rows is None else _to_float(rows) for rows in (image, text)]
        for rows in arrays:
            if rows is not None and (fault := _norm_fault(rows)) is not None:
                raise ValueError(fault)
        assert arrays[0] is not None
        return cls(list(ids), list(captions), arrays[0], arrays[1])

    @classmethod
    def open(cls, folder: Path) -> "Embeddings":
        """Open a folder of `img_emb/`, `metadata/` and, where there is one, `text_emb/`.

        Rows of clip-retrieval come without our `id` column; `image_path` then is the id.

        Raises:
            DataMissingError: no such partitions.
            FormatError: partitions do not match, or a file is not what it should be.
        """
        tables = _partitions(folder / "metadata", "metadata", "parquet")
        image = _read_rows(folder, "img_emb", tables)
        text = _read_rows(folder, "text_emb", tables) if (folder / "text_emb").is_dir() else None
        keys: list[str] = []
        captions: list[str] = []
        for path in tables.values():
            _read_metadata(path, keys, captions)
        if not keys:
            raise DataMissingError(f"{folder}: its partitions hold no rows; run embed again")
        if len(set(keys)) != len(keys):
            raise FormatError(
                f"{folder}: {_first_repeated(keys)!r} names two rows; "
                "add a column 'id' of distinct ids to its metadata"
            )
        return cls(keys, captions, image, text, _encoder_of(folder))

    @cached_property
    def sha256(self) -> str:
        """Hash of ids, captions and rows; the same for any number of partitions."""
        digest = hashlib.sha256()
        for key, caption in zip(self.keys, self.captions, strict=True):
            digest.update(f"{key}\0{caption}\0".encode())
        for rows in (self.image, self.text):
            digest.update(b"none" if rows is None else f"{rows.shape} {rows.dtype}".encode())
            for start in range(0, 0 if rows is None else len(rows), HASH_ROWS):
                assert rows is not None
                digest.update(np.ascontiguousarray(rows[start : start + HASH_ROWS]).data)
        return digest.hexdigest()


def write_partition(
    folder: Path,
    partition: str,
    columns: dict[str, list[str]],
    rows: dict[str, RowArray],
    metadata: dict[str, str],
) -> None:
    """Write one partition; its metadata table comes last and marks it as complete.

    Args:
        folder: embeddings folder.
        partition: its number as written in file names.
        columns: the metadata table.
        rows: (n, D) unit rows by folder name, `img_emb` and `text_emb`; stored as float16.
        metadata: notes for the table's schema.
    """
    for name, values in rows.items():
        path = folder / name / f"{name}_{partition}.npy"
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, values.astype(np.float16))
        part.replace(path)
    path = metadata_path(folder, partition)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    arrays = [pa.array(values, pa.string()) for values in columns.values()]
    table = pa.table(arrays, names=list(columns)).replace_schema_metadata(metadata)
    pq.write_table(table, part)
    part.replace(path)


def metadata_path(folder: Path, partition: str) -> Path:
    """Where the metadata table of a partition is."""
    return folder / "metadata" / f"metadata_{partition}.parquet"


def _partitions(folder: Path, stem: str, suffix: str) -> dict[int, Path]:
    """Files STEM_P.SUFFIX of a folder by partition number, in order.

    Raises:
        DataMissingError: none there.
    """
    found: dict[int, Path] = {}
    for path in folder.glob(f"{stem}_*.{suffix}"):
        match = re.fullmatch(rf"{stem}_(\d+)", path.stem)
        if match is not None:
            found[int(match[1])] = path
    if not found:
        raise DataMissingError(f"{folder}: no {stem}_*.{suffix} here; make them with embed")
    return dict(sorted(found.items()))


def _read_rows(folder: Path, name: str, tables: dict[int, Path]) -> RowArray:
    """(n, D) rows of all partitions, checked against the metadata tables."""
    arrays = _partitions(folder / name, name, "npy")
    if arrays.keys() != tables.keys():
        number = min(arrays.keys() ^ tables.keys())
        path = arrays.get(number) or tables[number]
        raise FormatError(f"{path}: partition {number} is not in both {name}/ and metadata/")
    parts = [_load_rows(arrays[number], tables[number]) for number in arrays]
    parts = [part for part in parts if len(part)] or parts[:1]
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise FormatError(f"{folder / name}: partitions of different widths {widths}")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _load_rows(path: Path, table: Path) -> RowArray:
    """(rows, D) of one partition, memory-mapped."""
    try:
        rows: RowArray = np.load(path, mmap_mode="r")
        expected = pq.read_metadata(table).num_rows
    except (ValueError, EOFError, pa.ArrowInvalid) as error:
        raise FormatError(f"{path}: cannot be read with its metadata ({error})") from error
    if rows.ndim != 2 or rows.dtype not in (np.float16, np.float32):
        raise FormatError(f"{path}: needs (n, D) float16 or float32, got {rows.shape} {rows.dtype}")
    if len(rows) != expected:
        raise FormatError(f"{path}: has {len(rows)} rows, but {table.name} has {expected}")
    if (fault := _norm_fault(rows)) is not None:
        raise FormatError(f"{path}: {fault}")
    return rows


def _read_metadata(path: Path, keys: list[str], captions: list[str]) -> None:
    """Append the ids and captions of one partition."""
    names = pq.read_schema(path).names
    key = "id" if "id" in names else "image_path"
    if key not in names or "caption" not in names:
        raise FormatError(f"{path}: needs columns 'caption' and 'image_path', has {names}")
    table = pq.read_table(path, columns=[key, "caption"])
    keys += [str(value) for value in table[key].to_pylist()]
    captions += [value or "" for value in table["caption"].to_pylist()]


def _encoder_of(folder: Path) -> str | None:
    """The encoder that our own `embed` noted, if it made this folder."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["encoder"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a manifest of embed ({error!r})") from error


def _to_float(rows: npt.ArrayLike) -> RowArray:
    """An array in float16 or float32."""
    array = np.asarray(rows)
    return array if array.dtype == np.float16 else array.astype(np.float32, copy=False)


def _norm_fault(rows: RowArray) -> str | None:
    """Say that a row is not of length 1, looking at the first NORM_ROWS."""
    lengths = np.linalg.norm(np.asarray(rows[:NORM_ROWS], dtype=np.float32), axis=-1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < NORM_TOLERANCE))
    if not len(wrong):
        return None
    return f"rows must be of length 1, got {lengths[wrong[0]]:.4g} at row {wrong[0]}; divide them"


def _first_repeated(keys: Sequence[str]) -> str:
    """The first key that is there more than once."""
    return next(key for key, count in Counter(keys).items() if count > 1)
