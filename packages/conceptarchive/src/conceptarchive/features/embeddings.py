"""Unit rows of images and captions, in memory or in the folders of clip-retrieval and DataComp."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conceptarchive.errors import DataMissingError, FormatError, IncompleteError
from conceptarchive.features.checks import check_rows, find_fault
from conceptarchive.features.layouts import MANIFEST
from conceptarchive.features.npyfile import RowArray
from conceptarchive.features.rows import RowFiles, Rows
from conceptarchive.features.sources import open_folders
from conceptarchive.features.textcolumn import TextColumn
from conceptarchive.files import part_of
from conceptarchive.keyhash import find_repeated

__all__ = [
    "MANIFEST",
    "Embeddings",
    "RowArray",
    "check_rows",
    "is_written",
    "metadata_path",
    "write_partition",
]

HASH_ROWS = 65536  # rows hashed at a time
FEW_IDS = 1_000_000  # ids compared when a folder is opened; more are compared by `validate`


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit rows of n pairs; those of files stay there and may be larger than memory.

    Attributes:
        keys: n distinct pair ids, "<dataset>/<shard>/<key>". Take ranges: of files, a range
            reads what it touches, and a single one reads a whole file.
        captions: n texts, in the same way.
        image: (n, D) float16 or float32 unit rows, taken by ranges and by row numbers.
        text: (n, D) rows of the captions, or None.
        encoder_id: what made them, where known.
        files: all files behind them, in order; none for rows in memory.
    """

    keys: Sequence[str]
    captions: Sequence[str]
    image: Rows
    text: Rows | None = None
    encoder_id: str | None = None
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.keys)
        if self.image.ndim != 2 or {len(self.captions), len(self.image)} != {rows}:
            raise ValueError(
                f"needs {rows} captions and (n, D) rows, got {len(self.captions)} "
                f"and {self.image.shape}"
            )
        if self.text is not None and self.text.shape != self.image.shape:
            raise ValueError(f"text must be {self.image.shape}, got {self.text.shape}")

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
        for name, rows in zip(("image", "text"), arrays, strict=True):
            if rows is not None and rows.ndim == 2 and (fault := find_fault(rows)) is not None:
                raise ValueError(f"{name}, row {fault[0]}: {fault[1]}")
        assert arrays[0] is not None
        made = cls(list(ids), list(captions), arrays[0], arrays[1])
        if (repeated := find_repeated(made.keys)) is not None:
            raise ValueError(f"ids must be distinct, got {repeated[0]!r} twice")
        return made

    @classmethod
    def open(
        cls,
        *folders: Path | str,
        dataset: str | None = None,
        array: str = "l14",
        normalize: bool = False,
        captions: Mapping[str, str] | None = None,
    ) -> "Embeddings":
        """Open folders of embeddings; rows come in the order of folders, partitions and rows.

        Nothing is loaded: row counts, widths and types are read from headers and the first rows
        of each partition are looked at. `validate` looks at all of them. The layouts are those of
        `features.layouts.find_partitions`. The id of a row is its column `id`, or else
        `image_path`, `uid` or `key`; these three repeat across data sets, so that with several
        folders, or with `dataset`, they are put behind the name of theirs.

        Args:
            folders: one or more.
            dataset: first part of the ids of rows without a column `id`.
            array: which arrays to take from DataComp's archives: "l14" or "b32".
            normalize: divide rows by their length whenever they are read.
            captions: captions by id column, for metadata without any; rows that are not in it get
                "", and a warning says how many.

        Raises:
            DataMissingError: no such partitions.
            FormatError: partitions do not match, or a file is not what it should be.
            IncompleteError: `embed` has not finished one of the folders.
            UsageError: folders that do not belong together.
        """
        opened = open_folders(
            [Path(folder) for folder in folders],
            dataset=dataset,
            array=array,
            normalize=normalize,
            captions=captions,
        )
        made = cls(**opened)
        if len(made) <= FEW_IDS:
            made.check_ids()
        return made

    def validate(self) -> None:
        """Look at every row and every id once: numbers finite, lengths 1, ids distinct.

        Raises:
            FormatError: the first fault found, with its file and row.
        """
        self.check_ids()
        check_rows(self.image, "image")
        if self.text is not None:
            check_rows(self.text, "text")

    def check_ids(self) -> None:
        """Check that ids are distinct, with 8 bytes of memory a row; `open` has, up to FEW_IDS.

        Raises:
            FormatError: an id names two rows.
        """
        repeated = find_repeated(self.keys)
        if repeated is not None:
            key, first, second = repeated
            raise FormatError(
                f"{self._place(first)} and {self._place(second)}: {key!r} names two rows; "
                "add a column 'id' of distinct ids to the metadata"
            )

    def _place(self, row: int) -> str:
        """The file and row of an id."""
        if not isinstance(self.keys, TextColumn):
            return f"row {row}"
        return self.keys.where(row)

    @cached_property
    def sha256(self) -> str:
        """Hash of ids, captions and rows; the same for any number of partitions."""
        return self.head_sha256(len(self))

    def head_sha256(self, rows: int) -> str:
        """`sha256` of the first `rows` pairs alone, to see whether others were only added.

        Raises:
            ValueError: there are not as many.
        """
        if not 0 <= rows <= len(self):
            raise ValueError(f"rows must be in [0, {len(self)}], got {rows}")
        digest = hashlib.sha256()
        parts = [slice(at, min(at + HASH_ROWS, rows)) for at in range(0, rows, HASH_ROWS)]
        for part in parts:
            pairs = zip(self.keys[part], self.captions[part], strict=True)
            digest.update("".join(f"{key}\0{caption}\0" for key, caption in pairs).encode())
        for values in (self.image, self.text):
            if values is None:
                digest.update(b"none")
                continue
            digest.update(f"{(rows, values.shape[1])} {values.dtype}".encode())
            for part in parts:
                digest.update(np.ascontiguousarray(values[part]).data)
        return digest.hexdigest()

    @property
    def stamp(self) -> str:
        """Hash of the names, sizes and times of all files, now: cheap, and another after a change.

        How they are read counts too. For rows or captions in memory it is `sha256`.

        Raises:
            DataMissingError: a file is gone.
        """
        columns = [each for each in (self.keys, self.captions) if isinstance(each, TextColumn)]
        if not self.files or len(columns) < 2:
            return self.sha256
        digest = hashlib.sha256()
        for column in columns:
            digest.update(repr([(file.column, file.prefix) for file in column.files]).encode())
        for rows in (self.image, self.text):
            if isinstance(rows, RowFiles):
                members = [file.member for file in rows.files]
                digest.update(repr((rows.normalize, str(rows.dtype), members)).encode())
        for path in self.files:
            try:
                state = path.stat()
            except FileNotFoundError as error:
                raise DataMissingError(f"{path}: is missing; it was there before") from error
            name = f"{path.parent.name}/{path.name}"
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
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

    Raises:
        IncompleteError: the disk is full, or cannot be written; no file of the partition is left.
    """
    paths = _partition_paths(folder, partition, rows)
    with _appearing_together(paths) as parts:
        for part, values in zip(parts, rows.values(), strict=False):
            with part.open("wb") as file:
                np.save(file, values.astype(np.float16))
        arrays = [pa.array(values, pa.string()) for values in columns.values()]
        table = pa.table(arrays, names=list(columns)).replace_schema_metadata(metadata)
        pq.write_table(table, parts[-1])


def is_written(folder: Path, partition: str, *, with_text: bool) -> bool:
    """Whether all files of a partition are there: who removes a damaged one gets it made again."""
    names = ("img_emb", "text_emb") if with_text else ("img_emb",)
    return all(path.exists() for path in _partition_paths(folder, partition, names))


def _partition_paths(folder: Path, partition: str, names: Iterable[str]) -> list[Path]:
    """Arrays of a partition, then its metadata table."""
    arrays = (folder / name / f"{name}_{partition}.npy" for name in names)
    return [*arrays, metadata_path(folder, partition)]


def metadata_path(folder: Path, partition: str) -> Path:
    """Where the metadata table of a partition is."""
    return folder / "metadata" / f"metadata_{partition}.parquet"


@contextmanager
def _appearing_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give temporary names to write to; all get their final names, in order, or none does."""
    parts = [part_of(path) for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield parts
        for part in parts:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        paths[-1].unlink(missing_ok=True)  # of a partition made again: it must not vouch for half
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)
    except OSError as error:
        raise IncompleteError(
            f"{paths[-1]}: its partition cannot be written ({error.strerror or error}); "
            "see to the disk, then run embed again"
        ) from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _to_float(rows: npt.ArrayLike) -> RowArray:
    """An array in float16 or float32."""
    array = np.asarray(rows)
    return array if array.dtype == np.float16 else array.astype(np.float32, copy=False)
