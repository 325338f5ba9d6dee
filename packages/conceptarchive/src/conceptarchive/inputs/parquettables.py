"""Rows of Parquet tables, which may hold the images themselves."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conceptarchive.errors import FormatError
from conceptarchive.inputs.columns import Row, TableColumns, choose_columns

ROWS = 4_096  # read at a time
ROWS_WITH_IMAGES = 64
BUFFER_BYTES = 1 << 20  # read ahead of a column, instead of all it has in a row group


def parquet_rows(
    table: Path, *, columns: TableColumns | None = None, images: bool = True
) -> Iterator[Row]:
    """Yield the rows of a Parquet table, reading the columns that are needed bit by bit.

    Its image column holds paths, the bytes of images, or Hugging Face's struct of `bytes` and
    `path`. Bytes are not read when images are not asked for and no row lacks them.

    Raises:
        FormatError: not Parquet, damaged, or without the columns.
        OSError: the table cannot be opened.
    """
    with table.open("rb"):
        pass  # so that a closed file is not taken for a damaged one
    try:
        file = pq.ParquetFile(table, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(table, error) from error
    with file:
        schema = file.schema_arrow
        chosen = choose_columns(table, schema.names, columns, images=images)
        leaves = _image_leaves(table, schema, chosen.image)
        has_all = not images and _is_full(file, leaves.get("bytes"))
        if has_all:
            del leaves["bytes"]
        needed = [chosen.caption, *leaves.values(), *([chosen.key] if chosen.key else [])]
        size = ROWS_WITH_IMAGES if "bytes" in leaves else ROWS
        numbers = count()
        for batch in _batches(table, file, needed, size):
            captions, keys = _cells(batch, chosen.caption), _cells(batch, chosen.key)
            paths, bytes_ = (_leaf_cells(batch, leaves.get(part)) for part in ("path", "bytes"))
            for caption, key, path, image in zip(captions, keys, paths, bytes_, strict=True):
                whole = b"" if has_all else image
                yield Row(next(numbers), chosen, path, whole, caption, key)


def _image_leaves(table: Path, schema: Any, name: str | None) -> dict[str, str]:
    """Where in a table `path` and `bytes` of images are: names of columns, or of parts of one."""
    if name is None:
        return {}
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        inner = {kind.field(number).name for number in range(kind.num_fields)}
        if "bytes" in inner:
            return {part: f"{name}.{part}" for part in ("path", "bytes") if part in inner}
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind):
        return {"path": name}
    if _is_binary(kind):
        return {"bytes": name}
    raise FormatError(f"{table}: column {name!r} holds {kind}; it must hold paths or images")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: Any) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_full(file: Any, leaf: str | None) -> bool:
    """Whether the table itself tells that no row lacks a column."""
    if leaf is None:
        return False
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        parts = (group.column(place) for place in range(group.num_columns))
        told = next(part.statistics for part in parts if part.path_in_schema == leaf)
        if told is None or not told.has_null_count or told.null_count:
            return False
    return True


def _batches(table: Path, file: Any, needed: list[str], size: int) -> Iterator[Any]:
    """Record batches of a table; damage becomes one clear line."""
    batches = file.iter_batches(batch_size=size, columns=needed)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(table, error) from error
        if batch is None:
            return
        yield batch


def _leaf_cells(batch: Any, leaf: str | None) -> list[Any]:
    """Cells of a column, or of a part of a struct; paths as text."""
    if leaf is None:
        return [None] * batch.num_rows
    if leaf in batch.schema.names:
        return _plain(batch.column(leaf))
    name, _, part = leaf.rpartition(".")
    column = batch.column(name)
    return _plain(column.flatten()[column.type.get_field_index(part)])


def _cells(batch: Any, name: str | None) -> list[Any]:
    """Cells of a column, all None without one."""
    return [None] * batch.num_rows if name is None else _plain(batch.column(name))


def _plain(column: Any) -> list[Any]:
    """Cells as Python objects; texts as bytes, since a file may hold what is not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        column = column.cast(pa.large_binary())
    elif pa.types.is_list(column.type) and _is_text(column.type.value_type):
        column = column.cast(pa.list_(pa.large_binary()))
    cells: list[Any] = column.to_pylist()
    return cells


def _damaged(table: Path, error: Exception) -> FormatError:
    told = str(error).partition("\n")[0]
    return FormatError(f"{table}: damaged Parquet table ({told}); fetch it again")
