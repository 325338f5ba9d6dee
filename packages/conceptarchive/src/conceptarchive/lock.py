"""One process at a time in a folder: a lock that the system drops when its holder dies."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conceptarchive.errors import IncompleteError, UsageError

log = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})


@contextmanager
def folder_lock(
    out: Path, *, name: str = ".lock", shared: bool = False, wait: bool = False
) -> Iterator[None]:
    """Hold a folder, so that a second process gets one clear line instead of damaging the first's.

    The folder is made when it is not there. A killed holder leaves the file but not the lock; the
    file is removed when the last holder leaves. On a file system without locks a warning is
    logged, and nothing is held.

    Args:
        out: the folder.
        name: file of the lock; different names do not exclude each other.
        shared: several processes may hold it at the same time, if all of them share it.
        wait: wait for another holder instead of raising.

    Raises:
        UsageError: another process holds it.
        IncompleteError: the folder cannot be made or written.
    """
    path = out / name
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, shared=shared, wait=wait)
    except OSError as error:
        reason = error.strerror or error
        raise IncompleteError(f"{out}: no folder to write to ({reason}); choose another") from error
    try:
        yield
    finally:
        if descriptor is not None:
            _release(path, descriptor)


def _acquire(path: Path, *, shared: bool, wait: bool) -> int | None:
    """An open descriptor that holds the lock; None where the file system has no locks."""
    import fcntl  # absent on Windows: the package must still import there

    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, flags)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                log.warning(
                    "%s: no file locks here (%s); run one process at a time", path.parent, error
                )
                return None
            if isinstance(error, BlockingIOError):
                raise UsageError(_held(path.parent, holder)) from None
            raise
        if _is_at(path, descriptor):
            if not shared:
                with contextlib.suppress(OSError):  # the name is a courtesy; a disk may be full
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
            return descriptor
        os.close(descriptor)  # the last holder removed the file between our open and our lock


def _release(path: Path, descriptor: int) -> None:
    """Drop the lock; the last holder removes the file."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, descriptor):
            path.unlink()
    except BlockingIOError:
        pass  # shared with others, who remove it
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for children that inherited the descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _held(folder: Path, holder: str) -> str:
    """What to tell the second process; the holder's name is only there once it has written it."""
    who = f" (process {holder})" if holder else ""
    return f"another process{who} works in {folder}; wait for it or use another folder"
