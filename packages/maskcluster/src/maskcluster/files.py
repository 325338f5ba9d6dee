"""Writing files that are whole or not there."""

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from maskcluster.errors import FormatError, MaskClusterError, UsageError

log = logging.getLogger(__name__)

PART = ".part"
"""How names of files end that are not whole yet."""

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name; what is written there takes the place of `path` once it is on disk.

    Nothing is left of a file that could not be written.

    Raises:
        MaskClusterError: it cannot be written, as when the disk is full.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}{PART}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename not in (None, str(part), str(path)):
            raise  # of something that was read meanwhile
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise MaskClusterError(
            f"{path}: cannot be written ({reason}); make room there or choose another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only while nobody writes there."""
    for path in folder.rglob(f"*{PART}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: no such file, it cannot be read, or it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON ({error})") from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a value's JSON, keys sorted: equal values have equal hashes on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder against a second process; the system drops the lock when its holder dies.

    The folder is made if it is not there. On a file system without locks a warning is logged and
    nothing is held.

    Raises:
        UsageError: another process holds it.
        MaskClusterError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        reason = error.strerror or error
        raise MaskClusterError(f"{folder}: cannot be written to ({reason})") from error
    try:
        _lock(folder, descriptor)
        yield
        with contextlib.suppress(FileNotFoundError):
            (folder / ".lock").unlink()
    finally:
        os.close(descriptor)


def _lock(folder: Path, descriptor: int) -> None:
    import fcntl  # absent on Windows, where the package must still import

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{folder}: another process writes here; wait for it or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: no file locks here; run one process at a time", folder)
