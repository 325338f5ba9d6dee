"""Files that appear whole or not at all, and folders that go."""

import os
import shutil
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename; on failure leave no part behind.

    The file is as readable as one that is written plainly.
    """
    mask = os.umask(0)
    os.umask(mask)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~mask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder and all that is in it, if there is one."""
    if folder.exists():
        shutil.rmtree(folder)
