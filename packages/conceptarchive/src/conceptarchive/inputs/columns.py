"""Which columns of a table make a pair, and one row of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from conceptarchive.errors import FormatError
from conceptarchive.inputs.raw import printable

# usual names, compared without case; the first that a table has counts
IMAGE_COLUMNS = (
    *("image", "image_path", "path", "filepath", "file_path", "file", "filename", "file_name"),
    *("img", "img_path", "jpg", "jpeg", "png", "webp", "image_bytes"),
)
CAPTION_COLUMNS = (
    *("caption", "text", "title", "caption_text", "txt", "alt_text", "description", "sentence"),
    *("captions", "sentences"),
)
KEY_COLUMNS = ("key", "__key__", "id", "uid", "image_id")
MAX_NAMES_TOLD = 12


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class TableColumns:
    """Which columns of a table to read; None is found among usual names, in any case."""

    image: str | None = None
    """Paths relative to the table, or absolute; in Parquet also the bytes of images."""

    caption: str | None = None
    """Captions; of a list of captions the first counts."""

    key: str | None = None
    """Key of the image; without such a column its path without suffix, else the row's number."""


class ChosenColumns(NamedTuple):
    """The columns that are read of one table."""

    image: str | None
    caption: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """What one row says about its pair; None for an empty cell."""

    number: int
    """From 0, the header not counted."""

    columns: ChosenColumns
    """Where the cells are from."""

    path: object = None
    """Path of the image."""

    image: bytes | None = None
    """The image itself, where the table holds it."""

    caption: object = None
    key: object = None
    fault: str | None = None
    """What is wrong with the row as such."""


def choose_columns(
    table: Path, names: Sequence[str], columns: TableColumns | None, *, images: bool
) -> ChosenColumns:
    """Find the columns to read among those a table has.

    Raises:
        FormatError: one that is needed is not there.
    """
    wanted = columns or TableColumns()
    caption = _find(table, names, wanted.caption, CAPTION_COLUMNS)
    image = _find(table, names, wanted.image, IMAGE_COLUMNS)
    key = _find(table, names, wanted.key, KEY_COLUMNS)
    if caption is None:
        raise FormatError(_lack(table, names, CAPTION_COLUMNS))
    if image is None and (images or key is None):
        raise FormatError(_lack(table, names, IMAGE_COLUMNS))
    return ChosenColumns(image, caption, key)


def _find(table: Path, names: Sequence[str], given: str | None, usual: Sequence[str]) -> str | None:
    """The column that is given, else the first usual one, else None."""
    if given is not None:
        if given in names:
            return given
        raise FormatError(f"{table}: no column {given!r}; it has {_told(names)}")
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _lack(table: Path, names: Sequence[str], usual: Sequence[str]) -> str:
    """Say which column is missing and what can be done."""
    way_out = "name the one to read"
    if usual is IMAGE_COLUMNS and any("url" in name.lower() for name in names):
        way_out = "fetch the images behind the addresses first, with img2dataset"
    return (
        f"{table}: no column {usual[0]!r} or other usual name ({', '.join(usual[1:5])}, ...); "
        f"it has {_told(names)}; {way_out}"
    )


def _told(names: Sequence[str]) -> str:
    """The columns of a table as a message shows them."""
    shown = ", ".join(repr(printable(name)) for name in names[:MAX_NAMES_TOLD])
    return f"{shown}, ..." if len(names) > MAX_NAMES_TOLD else shown or "none"
