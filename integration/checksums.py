"""Whether the files of a folder are still what they were."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

UNFINISHED = (".tmp", ".part")
"""How names end that a killed writer leaves and the next one sweeps."""


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder by its path in it; hidden and unfinished files aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder): path for path in files if path.suffix not in UNFINISHED}
    return {
        name.as_posix(): checksum(path)
        for name, path in named.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def find_damage(folder: Path, noted: Mapping[str, str]) -> str | None:
    """Hold files against `checksums` of before; more files than these are nobody's damage.

    Returns:
        The first file that is not what it was and what is wrong with it; None when all are.
    """
    for name, noted_sum in noted.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: is gone"
        if checksum(path) != noted_sum:
            return f"{path}: is not as it was written ({path.stat().st_size} bytes now)"
    return None


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
