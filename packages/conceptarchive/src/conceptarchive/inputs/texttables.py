"""Rows of tables that are text: TSV, CSV and JSON lines."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptarchive.errors import FormatError
from conceptarchive.inputs.columns import Row, TableColumns, choose_columns

HEADER_BYTES = 1 << 20  # a longer first line is no header
BOM = b"\xef\xbb\xbf"


def delimited_rows(
    table: Path, *, columns: TableColumns | None = None, images: bool = True
) -> Iterator[Row]:
    """Yield the rows of a TSV or CSV table.

    In TSV a tab always separates and quotes are text, unless the header starts with a quote; CSV
    has quotes as in RFC 4180, and tabs instead of commas when its header has only tabs.

    Raises:
        FormatError: no header, a column that is missing, or quotes that do not close.
        OSError: the table cannot be read.
    """
    header = _first_line(table)
    is_plain = table.suffix.lower() == ".tsv" and not header.startswith(b'"')
    has_tabs = table.suffix.lower() == ".tsv" or (b"\t" in header and b"," not in header)
    lines = _unquoted(table) if is_plain else _quoted(table, "\t" if has_tabs else ",")
    names = next(lines)
    chosen = choose_columns(table, names, columns, images=images)
    places = [names.index(name) if name else None for name in chosen]
    for number, cells in enumerate(lines):
        if any(cells[len(names) :]):  # a caption with the separator in it would be cut
            yield Row(number, chosen, fault="more cells than columns")
            continue
        path, caption, key = (
            cells[place] if place is not None and place < len(cells) else None for place in places
        )
        yield Row(number, chosen, path=path, caption=caption, key=key)


def json_rows(
    table: Path, *, columns: TableColumns | None = None, images: bool = True
) -> Iterator[Row]:
    """Yield the objects of a table of JSON lines; the fields of the first are its columns.

    Raises:
        FormatError: the first line is no object, or lacks a column.
        OSError: the table cannot be read.
    """
    first = _json_object(_first_line(table))
    if first is None:
        raise FormatError(f"{table}: its first line is not a JSON object; give one on each line")
    chosen = choose_columns(table, list(first), columns, images=images)
    with table.open("rb") as file:
        for number, line in enumerate(line for line in file if line.strip()):
            fields = _json_object(line)
            if fields is None:
                yield Row(number, chosen, fault="damaged line")
                continue
            path, caption, key = (fields.get(name) if name else None for name in chosen)
            if isinstance(path, dict):  # as Hugging Face writes an image
                path = path.get("path")
            yield Row(number, chosen, path=path, caption=caption, key=key)


def _first_line(table: Path) -> bytes:
    """The first line of a table, without a byte order mark and white space around it."""
    with table.open("rb") as file:
        line = file.readline(HEADER_BYTES)
        while line and not line.removeprefix(BOM).strip():
            line = file.readline(HEADER_BYTES)
    if not line:
        raise FormatError(f"{table}: empty table; fetch it again")
    if len(line) == HEADER_BYTES:
        raise FormatError(f"{table}: its first line is longer than {HEADER_BYTES} bytes; no table")
    return line.removeprefix(BOM).strip()


def _unquoted(table: Path) -> Iterator[list[str]]:
    """Lines split at tabs, the header first; surrogates stand for bytes that are not UTF-8."""
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
            if text := line.rstrip("\r\n"):
                yield text.split("\t")


def _quoted(table: Path, separator: str) -> Iterator[list[str]]:
    """Records with quotes; a quote that never closes would swallow all rows after it."""
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        records = csv.reader(file, delimiter=separator, strict=True)
        while True:
            try:
                cells = next(records, None)
            except csv.Error as error:
                raise FormatError(
                    f"{table}: line {records.line_num}: {error}; check its quotes"
                ) from error
            if cells is None:
                return
            if cells:
                yield cells


def _json_object(line: bytes) -> dict[str, Any] | None:
    """The object of a line, or None."""
    try:
        fields = json.loads(line.removeprefix(BOM))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
