"""Writing files that are whole or not there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from conceptarchive.errors import IncompleteError

PART = ".part"
"""How names of files end that are not whole yet."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name; what is written there takes the place of `path` once it is on disk.

    Nothing is left of a file that could not be written.

    Raises:
        IncompleteError: it cannot be written, as when the disk is full.
    """
    part = part_of(path)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename not in (None, str(part), str(path)):
            raise  # of something that was read meanwhile
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise IncompleteError(
            f"{path}: cannot be written ({reason}); make room there or choose another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A temporary name beside a file, no other writer's: two that write the same do no harm."""
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}{PART}")


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only while nobody writes there."""
    for path in folder.rglob(f"*{PART}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
