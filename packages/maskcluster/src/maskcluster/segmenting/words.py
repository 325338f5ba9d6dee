"""Names of classes as a person writes them on the command line."""

from collections import Counter
from pathlib import Path

from maskcluster.errors import DataError, UsageError


def read_names(names: str) -> tuple[str, ...]:
    """Names of classes, from a list or a file.

    Args:
        names: names separated by commas; or a text file with one class a line, where a comma and a
            space separate synonyms and empty lines are skipped.

    Raises:
        DataError: a path that ends in .txt does not exist, or is no text.
        UsageError: no name, a blank one between commas, or one that comes twice.
    """
    found = _lines(Path(names)) if _is_path(names) else _split(names)
    if not found:
        raise UsageError(f"--names needs at least one name, got {names!r}")
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise UsageError(f"--names: a name comes twice: {', '.join(map(repr, twice[:3]))}")
    return tuple(found)


def _is_path(names: str) -> bool:
    try:
        return names.endswith(".txt") or Path(names).is_file()
    except OSError:  # too long for the name of a file
        return False


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a text file that can be read ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _split(names: str) -> list[str]:
    """Names between commas; a comma at the end is allowed."""
    found = [name.strip() for name in names.split(",")]
    found = found[:-1] if not found[-1] else found
    if any(found) and not all(found):
        raise UsageError(f"--names: a name is blank in {names!r}")
    return [name for name in found if name]
