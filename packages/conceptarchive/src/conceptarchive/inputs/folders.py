"""Pairs in folders of images with a caption file beside each."""

import os
from collections.abc import Iterator
from pathlib import Path

from conceptarchive.errors import DataMissingError
from conceptarchive.inputs.raw import (
    IMAGE_SUFFIXES,
    JSON_SUFFIX,
    TAR_SUFFIXES,
    TEXT_SUFFIXES,
    RawPair,
    json_caption,
    read_file,
    read_image,
    split_suffix,
)


def folder_pairs(folder: Path, *, images: bool = True) -> Iterator[RawPair]:
    """Yield the images of a folder, then of the folders in it, by name, with their captions.

    The caption of PATH.jpg is in PATH.txt (text), else in the field "caption" of PATH.json; the
    key is PATH. A text without an image is a pair without one; a tar is one that cannot be used.

    Args:
        folder: the folder.
        images: whether to read the images.

    Raises:
        DataMissingError: a folder cannot be listed.
    """
    for inner, names in folder_listings(folder):
        split = {name: split_suffix(name) for name in names}
        by_parts = {parts: name for name, parts in reversed(split.items())}
        pictured = {stem for stem, suffix in split.values() if suffix in IMAGE_SUFFIXES}
        for name, (stem, suffix) in split.items():
            if suffix in IMAGE_SUFFIXES:
                image, fault = read_image(folder / inner / name, images)
                caption, wrong = _sidecar(folder / inner, stem, by_parts)
                yield RawPair(inner + stem, image, caption, fault or wrong)
            elif suffix in TEXT_SUFFIXES and stem not in pictured:
                yield RawPair(inner + stem, None, b"")
            elif name.lower().endswith(TAR_SUFFIXES):
                yield RawPair(inner + name, None, None, "tar in a folder of images")


def folder_listings(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (path, names of the files) of a folder and of every folder below it, by name.

    Paths are relative and end in "/"; that of the folder itself is empty. Names that start with a
    dot are left alone. Links to folders are followed, each folder is entered once.

    Raises:
        DataMissingError: a folder cannot be listed.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            status = (folder / inner).stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder / inner) as listing:
                found = [(entry.name, entry.is_dir()) for entry in listing]
        except OSError as error:
            raise DataMissingError(
                f"{folder / inner}: folder cannot be listed ({error.strerror}); "
                "check its permissions"
            ) from error
        seen = sorted(pair for pair in found if not pair[0].startswith("."))
        yield inner, [name for name, is_folder in seen if not is_folder]
        waiting += [f"{inner}{name}/" for name, is_folder in reversed(seen) if is_folder]


def _sidecar(
    folder: Path, stem: str, by_parts: dict[tuple[str, str], str]
) -> tuple[bytes | str | None, str | None]:
    """The caption beside an image, or None; and what is wrong with it."""
    for suffix in (*TEXT_SUFFIXES, JSON_SUFFIX):
        name = by_parts.get((stem, suffix))
        if name is None:
            continue
        data, fault = read_file(folder / name, "caption")
        if data is None or suffix != JSON_SUFFIX:
            return data, fault
        return json_caption(data)
    return None, None
