"""Pairs in tables, with the images beside them or inside."""

from collections.abc import Iterator
from pathlib import Path

from conceptarchive.errors import FormatError
from conceptarchive.inputs.columns import Row, TableColumns
from conceptarchive.inputs.parquettables import parquet_rows
from conceptarchive.inputs.raw import MAX_IMAGE_BYTES, RawPair, read_image, split_suffix
from conceptarchive.inputs.texttables import delimited_rows, json_rows

READERS = {
    ".tsv": delimited_rows,
    ".csv": delimited_rows,
    ".jsonl": json_rows,
    ".parquet": parquet_rows,
}


def table_pairs(
    table: Path, *, columns: TableColumns | None = None, images: bool = True
) -> Iterator[RawPair]:
    """Yield the rows of a table in its order, with the images they name or hold.

    Args:
        table: .tsv, .csv, .jsonl or .parquet.
        columns: which columns to read; by default those with usual names.
        images: whether to read images; without, a table of captions needs only keys.

    Raises:
        FormatError: not such a table, unreadable, damaged, or without the columns.
    """
    rows = READERS[table.suffix.lower()](table, columns=columns, images=images)
    try:
        for row in rows:
            yield from _raw_pairs(row, table.parent, images)
    except OSError as error:
        raise FormatError(
            f"{table}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def _raw_pairs(row: Row, folder: Path, images: bool) -> Iterator[RawPair]:
    """The pair of a row; one for each caption when its cell holds a list."""
    key = _key(row, folder)
    if row.fault is not None or key is None:
        yield RawPair(f"row {row.number + 1}", None, None, row.fault or "no key")
        return
    image, fault = _image(row, folder, images)
    captions = row.caption if isinstance(row.caption, list) else [row.caption]
    for caption in captions or [None]:
        told = caption if isinstance(caption, str | bytes) else None
        yield RawPair(key, image, told, fault)


def _image(row: Row, folder: Path, images: bool) -> tuple[bytes | None, str | None]:
    """The image of a row, b"" when it was not asked for; and what is wrong with it."""
    if row.columns.image is None:
        return b"", None  # such a table is read only when images are not asked for
    if row.image is not None:
        return row.image, "image too large" if len(row.image) > MAX_IMAGE_BYTES else None
    path = _text(row.path)
    return read_image(folder / path, images) if path else (None, None)


def _key(row: Row, folder: Path) -> str | None:
    """The key of a row, or None when the cell for it is empty."""
    if row.columns.key is not None:
        return _text(row.key) or None
    path = _text(row.path)
    return _key_of_path(path, folder) if path else f"{row.number:09d}"


def _key_of_path(path: str, folder: Path) -> str:
    """A path without suffix, inside the folder of its table: the same wherever that folder is."""
    start = f"{folder.absolute()}/"
    stem = split_suffix(path.removeprefix(start))[0]
    return "/".join(part for part in stem.split("/") if part not in ("", ".", ".."))


def _text(cell: object) -> str | None:
    """A cell as text; bytes that are not UTF-8 become surrogates, which no key may hold."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    return cell if isinstance(cell, str) else None
