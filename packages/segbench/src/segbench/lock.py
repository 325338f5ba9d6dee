"""One evaluation at a time in a folder: a lock that the system drops when its holder dies."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segbench.errors import SegbenchError, UsageError

log = logging.getLogger(__name__)

LOCK = ".lock"
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder, so that a second process gets one line instead of damaging the first's work.

    The folder is made when it is not there. A killed holder leaves `FOLDER/.lock` but not the lock;
    the file is removed when the next holder leaves. Where there are no file locks a warning is
    logged, and nothing is held.

    Raises:
        UsageError: another process, or this one, holds it.
        SegbenchError: the folder cannot be made or written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        reason = error.strerror or error
        raise SegbenchError(f"{folder}: cannot be written ({reason}); choose another") from error
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile looks again
            os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """An open descriptor that holds the lock; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        log.warning("%s: no file locks on this system; run one evaluation at a time", path.parent)
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise UsageError(_held(path.parent, holder)) from None
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s: no file locks here (%s); run one evaluation at a time", path, error)
            return None
        if _is_at(path, descriptor):
            with contextlib.suppress(OSError):  # the name is a courtesy; a disk may be full
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed the file between our open and our lock


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _held(folder: Path, holder: str) -> str:
    """What to tell the second process; the holder's name is only there once it has written it."""
    who = f" (process {holder})" if holder else ""
    return f"another evaluation{who} is writing {folder}; wait for it or choose another folder"
