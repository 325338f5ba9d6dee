"""What users name as input: files, folders, globs and brace forms, one or many."""

import glob
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from braceexpand import braceexpand

from conceptarchive.errors import DataMissingError, UsageError
from conceptarchive.inputs.folders import folder_listings
from conceptarchive.inputs.raw import IMAGE_SUFFIXES, TAR_SUFFIXES, split_suffix

log = logging.getLogger(__name__)

TABLE_SUFFIXES = (".tsv", ".csv", ".parquet", ".jsonl")
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")  # an innermost list or range


def find_shards(*paths: Path | str) -> list[Path]:
    """List the shards that paths stand for.

    Each path is a file, a folder, a glob (`cc3m/*.tar`, `data/**/*.tar`), a brace form
    (`cc3m/{00000..00331}.tar`), or both (`{cc3m,cc12m}/*.tar`). A name that exists is taken as it
    is, whatever its characters. A file is one shard. A folder gives its tars, else its tables
    (tsv, csv, parquet, jsonl), else itself when it or a folder in it holds images. A table beside
    a tar or a folder of the same name describes that one and is not a shard.

    Returns:
        In the order given, sorted inside each path; a file that is named twice comes once.

    Raises:
        DataMissingError: nothing there, or a member of a brace form is missing.
        UsageError: no path, or braces that do not close.
    """
    found: list[Path] = []
    for path in paths:
        shards: list[Path] = []
        for name in _names(path):
            shards += _named(Path(name)) if os.path.exists(name) else _matched(name)  # noqa: PTH110
        found += sorted(shards)
    if not found:
        raise UsageError("no input given; name tar shards, tables or folders of images")
    return _once(found)


def expand_paths(*paths: Path | str) -> list[Path]:
    """List the files and folders that paths stand for; order and errors of `find_shards`.

    Globs and braces are expanded, folders stay folders. An empty text stands for none.
    """
    found: list[Path] = []
    for path in paths:
        hits: list[Path] = []
        for name in _names(path):
            hits += [Path(name)] if os.path.exists(name) else _globbed(name)  # noqa: PTH110
        found += sorted(hits)
    return _once(found)


def kind_of(name: str) -> str:
    """What a file is by its name: "tar", "table", "image", or "" for anything else."""
    lower = name.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "tar"
    if lower.endswith(TABLE_SUFFIXES):
        return "table"
    return "image" if split_suffix(lower)[1] in IMAGE_SUFFIXES else ""


def shard_stem(name: str) -> str:
    """The name of a shard without the suffix of a tar or table; of a folder, all of it."""
    for suffix in (*TAR_SUFFIXES, *TABLE_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _once(paths: Iterable[Path]) -> list[Path]:
    """The first name of every file."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _names(given: Path | str) -> list[str]:
    """What the braces of one path stand for; each exists or is a glob."""
    text = os.path.expanduser(given)  # noqa: PTH111  (Path.expanduser raises at an unknown ~user)
    if not text or os.path.exists(text):  # noqa: PTH110  (Path.exists raises in a closed folder)
        return [text] if text else []
    names = [text]
    if _BRACES.search(text):
        try:
            names = list(braceexpand(text, escape=False))
        except ValueError as error:
            raise UsageError(f"{text}: braces do not close; write a range as {{0..9}}") from error
    missing = [
        name
        for name in names
        if not glob.has_magic(name) and not os.path.exists(name)  # noqa: PTH110
    ]
    if missing:
        raise DataMissingError(_absence(text, missing, len(names)))
    return names


def _absence(text: str, missing: Sequence[str], count: int) -> str:
    """Say what is not there."""
    if "://" in text:
        return f"{text}: not a local path; copy the data here or mount them"
    if count == 1:
        return f"{missing[0]}: no such file or folder; check the path"
    return (
        f"{missing[0]}: no such file; {len(missing)} of the {count} names in {text} are missing; "
        "fetch them or narrow the braces"
    )


def _globbed(pattern: str) -> list[Path]:
    """What a glob matches, sorted.

    Folders that exist under their names are taken as they are: `set [1]/*.tar` finds its tars.
    """
    there, parts = Path(), []
    for part in Path(pattern).parts:
        there = there / part
        parts.append(glob.escape(part) if os.path.exists(there) else part)  # noqa: PTH110
    hits = glob.glob(os.path.join(*parts), recursive=True)  # noqa: PTH118, PTH207  (text patterns)
    if not hits:
        raise DataMissingError(f"{pattern}: nothing matches; check the path and the pattern")
    return sorted(map(Path, hits))


def _named(path: Path) -> list[Path]:
    """The shards of a path that exists."""
    if not path.is_dir():
        return [path]
    found = _first_contents(path)
    if found is None:
        raise DataMissingError(
            f"{path}: no *.tar, *.tsv, *.csv, *.parquet, *.jsonl or images in this folder; "
            "check the path"
        )
    where, shards = found
    if shards and where != path:
        raise DataMissingError(
            f"{path}: no *.tar, table or images in this folder, but in {where}; "
            f"give that, or {path / '**'} for all below"
        )
    return shards or [path]


def _first_contents(folder: Path) -> tuple[Path, list[Path]] | None:
    """The first folder, from `folder` down, that holds anything; its shards, none if images."""
    for inner, names in folder_listings(folder):
        shards = _shards_among([folder / inner / name for name in names])
        if shards or any(kind_of(name) == "image" for name in names):
            return folder / inner, shards
    return None


def _shards_among(files: Sequence[Path]) -> list[Path]:
    """The tars among the files of one folder, else the tables that do not describe a folder."""
    tars = [file for file in files if kind_of(file.name) == "tar"]
    return tars or [
        file
        for file in files
        if kind_of(file.name) == "table" and not (file.parent / shard_stem(file.name)).is_dir()
    ]


def _matched(pattern: str) -> list[Path]:
    """The shards that a glob matches."""
    files: dict[Path, list[Path]] = {}
    shards: list[Path] = []
    hits = _globbed(pattern)
    for hit in hits:
        if any(above in shards for above in hit.parents):
            continue  # of a folder of images
        if hit.is_dir():
            shards += _matched_folder(hit, everything_below="**" in pattern)
        else:
            files.setdefault(hit.parent, []).append(hit)
    shards += [shard for among in files.values() for shard in _shards_among(among)]
    if not shards:
        raise DataMissingError(
            f"{pattern}: none of its {len(hits)} matches is a tar, a table or a folder of images "
            f"(first: {hits[0]}); check the pattern, and give folders of images, not images"
        )
    loose = [hit for among in files.values() for hit in among if kind_of(hit.name) == "image"]
    if loose:
        log.warning("%s: left out %d images (%s, ...)", pattern, len(loose), loose[0])
    return shards


def _matched_folder(folder: Path, everything_below: bool) -> list[Path]:
    """The shards of a folder that a glob matches, which may hold none."""
    found = _first_contents(folder)
    if found is None or (found[0] != folder and everything_below):
        return []  # what lies below is matched too
    return _named(folder)
