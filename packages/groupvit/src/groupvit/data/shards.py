"""The shards that a path, a glob or a brace pattern stands for."""

import glob
import logging
import shlex
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from braceexpand import braceexpand

from groupvit.data.table import IMAGE_SUFFIXES
from groupvit.errors import DataError, UsageError

log = logging.getLogger(__name__)

Missing = Literal["error", "skip"]
MOST_NAMES = 1_000_000


def find_shards(
    pattern: str, *, root: Path = Path(), missing: Missing = "error", name: str = ""
) -> list[Path]:
    """List the tar files that a pattern stands for.

    Args:
        pattern: a file, a folder (all `*.tar` in it), a glob, or braces such as `{000..436}.tar`
            around any of these; a name that exists is taken as it is.
        root: what a relative pattern is below; its own name is no pattern.
        missing: what to do when some of the names in braces are not there: an error, or go on
            without them, with a warning.
        name: of the data set, for messages.

    Returns:
        in the order of the braces, sorted inside each glob and folder.

    Raises:
        DataError: nothing there, or names are missing.
        UsageError: braces that do not close, or a pattern of too many names.
    """
    what = f"{name}: {pattern}" if name else pattern
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"{what}: not a local path; copy the shards here or mount them")
    names = _names(str(Path(pattern).expanduser()), root, what)
    found: list[Path] = []
    absent: list[Path] = []
    for one in names:
        hits = _hits(root, one)
        found += hits
        if not hits:
            absent.append(root / one)
    if not found and len(names) == 1:
        place = root / names[0]
        raise DataError(f"{what}: no {_in_folder(place) if place.is_dir() else 'such file'}")
    if absent:
        told = f"{len(absent)} of {len(names)} shards are missing, first {absent[0]}"
        if missing == "error" or not found:
            raise DataError(
                f"{what}: {told}; fetch them, or go on without them: --missing_shards skip"
            )
        log.warning("%s: goes on although %s", what, told)
    return found


def find_sets(
    sets: Mapping[str, str], root: Path, *, missing: Missing = "error"
) -> dict[str, list[Path]]:
    """List the shards of all data sets of a recipe, in its order.

    Args:
        sets: pattern of each data set below `root`, as of `find_shards`.
        root: folder that holds them.
        missing: as of `find_shards`; errors too.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; the recipe looks for {', '.join(sets)} in it")
    return {
        name: find_shards(pattern, root=root, missing=missing, name=name)
        for name, pattern in sets.items()
    }


def _names(pattern: str, root: Path, what: str) -> list[str]:
    """What the braces of a pattern stand for."""
    if (root / pattern).exists():
        return [pattern]
    try:
        names = list(islice(braceexpand(pattern, escape=False), MOST_NAMES + 1))
    except ValueError as error:
        raise UsageError(f"{what}: braces do not close; write a range as {{0..9}}") from error
    if len(names) > MOST_NAMES:
        raise UsageError(f"{what}: stands for more than {MOST_NAMES} names")
    return names


def _hits(root: Path, name: str) -> list[Path]:
    """The files of one name, which may be a folder or a glob."""
    path = root / name
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.exists():
        return [path]
    found = glob.glob(name, root_dir=root, recursive=True)  # noqa: PTH207  # below a root
    return sorted(root / one for one in found)


def _in_folder(folder: Path) -> str:
    """What a folder without shards lacks, and how to make a shard of the pictures in it."""
    suffixes = {f".{suffix.decode()}" for suffix in IMAGE_SUFFIXES}
    if not any(path.suffix.lower() in suffixes for path in folder.rglob("*")):
        return ".tar file in this folder"
    whole = folder if folder.name else folder.resolve()
    shard = shlex.quote(str(whole.parent / f"{whole.name}.tar"))
    pack = f"tar cf {shard} -C {shlex.quote(str(folder))} ."
    return (
        f".tar file in this folder, but pictures; make a shard of them: `{pack}`, and give {shard}"
    )
