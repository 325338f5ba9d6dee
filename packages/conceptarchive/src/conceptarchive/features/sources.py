"""Opening folders of embeddings as one: headers and footers are read, rows and texts are not."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conceptarchive.errors import DataMissingError, FormatError, IncompleteError, UsageError
from conceptarchive.features.checks import find_fault
from conceptarchive.features.layouts import MANIFEST, Partition, find_partitions
from conceptarchive.features.npyfile import NpyFile
from conceptarchive.features.rows import RowFiles, Rows, unit_length
from conceptarchive.features.textcolumn import TextColumn, TextFile

log = logging.getLogger(__name__)

WHOLE_ROWS = 1_000_000  # a larger table is read by row group
FIRST_ROWS = 1000  # rows of a partition that are looked at
ID_COLUMN = "id"
KEY_COLUMNS = (ID_COLUMN, "image_path", "uid", "key")
CAPTION_COLUMNS = ("caption", "text")


class Opened(TypedDict):
    """What `Embeddings` is made of; see its attributes."""

    keys: Sequence[str]
    captions: Sequence[str]
    image: Rows
    text: Rows | None
    encoder_id: str | None
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """One folder: its partitions with their rows, and the columns that name and describe them."""

    folder: Path
    partitions: list[Partition]
    groups: list[list[int]]  # rows of each row group of each table
    key: str
    caption: str | None
    encoder_id: str | None

    @property
    def counts(self) -> list[int]:
        """Rows of each partition."""
        return [sum(groups) for groups in self.groups]

    def texts(self, column: str, prefix: str = "") -> list[TextFile]:
        """One column of all its metadata tables, large ones by row group."""
        files: list[TextFile] = []
        for partition, groups in zip(self.partitions, self.groups, strict=True):
            if sum(groups) <= WHOLE_ROWS:
                files.append(TextFile(partition.table, sum(groups), column, prefix))
                continue
            starts = [0, *itertools.accumulate(groups)]
            files += [
                TextFile(partition.table, rows, column, prefix, group, starts[group])
                for group, rows in enumerate(groups)
            ]
        return files


def open_folders(
    folders: Sequence[Path],
    *,
    dataset: str | None = None,
    array: str = "l14",
    normalize: bool = False,
    captions: Mapping[str, str] | None = None,
) -> Opened:
    """Open folders of embeddings as one; see `Embeddings.open`."""
    if not folders:
        raise UsageError("needs at least one folder of embeddings, got none")
    sources = [_open_folder(folder, array, captions is not None) for folder in folders]
    counts = [count for source in sources for count in source.counts]
    if sum(counts) == 0:
        raise DataMissingError(f"{folders[0]}: its partitions hold no rows; run embed again")
    partitions = [partition for source in sources for partition in source.partitions]
    tables = [partition.table for partition in partitions]
    image = _open_rows([partition.image for partition in partitions], tables, counts, normalize)
    return Opened(
        keys=_ids(sources, dataset),
        captions=_captions(sources) if captions is None else _join_captions(sources, captions),
        image=image,
        text=_open_texts(partitions, counts, image, normalize),
        encoder_id=_one_encoder(sources),
        files=tuple(path for partition in partitions for path in partition.paths),
    )


def _open_folder(folder: Path, array: str, has_captions: bool) -> _Source:
    """Find the partitions of a folder and count their rows."""
    partitions = find_partitions(folder, array=array)
    encoder_id = _read_manifest(folder, len(partitions))
    footers = [_read_footer(partition.table) for partition in partitions]
    filled = [at for at, (groups, _) in enumerate(footers) if sum(groups)] or [0]
    names = footers[filled[0]][1]
    key = next((name for name in KEY_COLUMNS if name in names), None)
    caption = next((name for name in CAPTION_COLUMNS if name in names), None)
    table = partitions[filled[0]].table
    if key is None:
        raise FormatError(f"{table}: needs columns 'caption' and 'image_path', has {names}")
    if caption is None and not has_captions:
        raise FormatError(
            f"{table}: needs columns 'caption' and 'image_path', has {names}; "
            "pass captions={...} where they are elsewhere"
        )
    for at in filled:
        missing = {key, *(() if caption is None else (caption,))} - set(footers[at][1])
        if missing:
            raise FormatError(
                f"{partitions[at].table}: needs columns {sorted(missing)} as {table.name} has them"
            )
    return _Source(folder, partitions, [groups for groups, _ in footers], key, caption, encoder_id)


def _read_footer(path: Path) -> tuple[list[int], list[str]]:
    """Rows of each row group, and columns, of a metadata table."""
    try:
        footer = pq.read_metadata(path)
        groups = [footer.row_group(at).num_rows for at in range(footer.num_row_groups)]
        return groups, footer.schema.to_arrow_schema().names
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"{path}: cannot be read ({reason}); make it again") from error


def _read_manifest(folder: Path, partitions: int) -> str | None:
    """The encoder that our own `embed` noted, if it made this folder; it must have finished."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        encoder, shards = str(manifest["encoder"]), len(manifest.get("shards", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: not a manifest of embed ({error!r})") from error
    if partitions < shards:
        raise IncompleteError(
            f"{folder}: {partitions} of {shards} shards are embedded; run embed again to go on"
        )
    return encoder


def _open_rows(
    files: Sequence[NpyFile], tables: Sequence[Path], counts: Sequence[int], normalize: bool
) -> Rows:
    """(n, D) rows of all partitions, their shapes and types checked against the tables."""
    headers = [_check_header(*each) for each in zip(files, tables, counts, strict=True)]
    filled = [at for at, count in enumerate(counts) if count]
    width = headers[filled[0]][0]
    for at in filled:
        if headers[at][0] != width:
            raise FormatError(
                f"{files[at]}: partitions of different widths, {headers[at][0]} here "
                f"and {width} in {files[filled[0]]}"
            )
        _check_first_rows(files[at], normalize)
    if len(files) == 1 and files[0].member is None and not normalize:
        return files[0].read()
    dtype = np.result_type(*(headers[at][1] for at in filled))
    paths = [file.path for file in files]
    rows = RowFiles(paths, counts, width, dtype, member=files[0].member, normalize=normalize)
    if not rows.is_mapped:
        log.warning("%s is compressed: slow to read row by row; store it uncompressed", files[0])
    return rows


def _check_header(file: NpyFile, table: Path, count: int) -> tuple[int, np.dtype[np.generic]]:
    """Width and type of an array, that has as many rows as its table."""
    shape, dtype = file.header()
    if len(shape) != 2 or dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise FormatError(f"{file}: needs (n, D) float16 or float32, got {shape} {dtype}")
    if shape[0] != count:
        raise FormatError(f"{file}: has {shape[0]} rows, but {table.name} has {count}")
    return shape[1], dtype


def _check_first_rows(file: NpyFile, normalize: bool) -> None:
    """Raise FormatError where one of the first rows is not of length 1."""
    rows = file.first_rows(FIRST_ROWS)
    fault = find_fault(unit_length(rows) if normalize else rows)
    if fault is not None:
        raise FormatError(f"{file}, row {fault[0]}: {fault[1]}")


def _open_texts(
    partitions: Sequence[Partition], counts: Sequence[int], image: Rows, normalize: bool
) -> Rows | None:
    """Rows of captions, where all folders have them."""
    present = [partition.text for partition in partitions if partition.text is not None]
    if len(present) < len(partitions):
        if present:
            log.warning("only some folders have rows of captions; they are not used")
        return None
    text = _open_rows(present, [partition.table for partition in partitions], counts, normalize)
    if text.shape != image.shape:
        raise FormatError(
            f"{present[0]}: rows of captions are {text.shape[1]} wide, of images {image.shape[1]}"
        )
    return text


def _ids(sources: Sequence[_Source], dataset: str | None) -> TextColumn:
    """Ids of all rows, over all folders."""
    names = _folder_names([source.folder for source in sources])
    is_alone = len(sources) == 1 and dataset is None
    files: list[TextFile] = []
    for source, name in zip(sources, names, strict=True):
        prefix = "" if is_alone or source.key == ID_COLUMN else f"{dataset or name}/"
        files += source.texts(source.key, prefix)
    return TextColumn(files)


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell all folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UsageError(f"{max(folders, key=folders.count)}: is given twice; give it once")
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [folder.resolve().as_posix() for folder in folders]


def _captions(sources: Sequence[_Source]) -> TextColumn:
    """Captions of all rows, from the metadata tables; a null is ""."""
    files: list[TextFile] = []
    for source in sources:
        assert source.caption is not None
        files += source.texts(source.caption)
    return TextColumn(files, nullable=True)


def _join_captions(sources: Sequence[_Source], captions: Mapping[str, str]) -> list[str]:
    """Captions of all rows, looked up by the column that names them."""
    keys = TextColumn([file for source in sources for file in source.texts(source.key)])
    joined = [captions.get(key) for key in keys]
    missing = sum(caption is None for caption in joined)
    if missing == len(joined):
        raise FormatError(
            f"{keys.files[0].path}: none of {missing} rows has a caption; rows have keys such as "
            f"{keys[0]!r}, captions have {next(iter(captions), None)!r}"
        )
    if missing:
        log.warning("%d of %d rows have no caption among those given", missing, len(joined))
    return [caption or "" for caption in joined]


def _one_encoder(sources: Sequence[_Source]) -> str | None:
    """What embedded all folders; None where one does not say."""
    known = {source.encoder_id: source.folder for source in sources}
    names = sorted(name for name in known if name is not None)
    if len(names) > 1:
        raise UsageError(
            f"{known[names[1]]}: embedded with {names[1]}, but {known[names[0]]} with {names[0]}; "
            "embed both with one encoder"
        )
    return names[0] if len(known) == 1 and names else None
