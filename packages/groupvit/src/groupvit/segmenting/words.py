"""What a person writes on the command line: names of classes, and what counts as background."""

from collections import Counter
from pathlib import Path

from groupvit.errors import DataError, UsageError
from groupvit.segmenting.segmenter import BACKGROUND_THRESHOLDS


def read_names(classes: str) -> list[str]:
    """Names of classes, from a list or a file.

    Args:
        classes: names separated by commas, or the path of a text file with one name a line (empty
            lines are skipped).

    Raises:
        DataError: a path that ends in .txt does not exist, or is no text.
        UsageError: no name, a blank one between commas, or one that comes twice.
    """
    names = _read_lines(Path(classes)) if _is_path(classes) else _split(classes)
    if not names:
        raise UsageError(f"--classes needs at least one name, got {classes!r}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"--classes: a name comes twice: {', '.join(map(repr, twice[:3]))}")
    return names


def read_threshold(background: float | str | None) -> float | None:
    """A background threshold: a number, or the data set whose published one is meant.

    Raises:
        UsageError: neither a number in [0, 1] nor a known name.
    """
    if isinstance(background, str):
        if background.lower() not in BACKGROUND_THRESHOLDS:
            known = ", ".join(BACKGROUND_THRESHOLDS)
            raise UsageError(
                f"--background needs a number in [0, 1] or one of {known}, got {background!r}"
            )
        return BACKGROUND_THRESHOLDS[background.lower()]
    if background is not None and not 0 <= background <= 1:
        raise UsageError(f"--background needs a number in [0, 1], got {background}")
    return background


def _is_path(classes: str) -> bool:
    try:
        return classes.endswith(".txt") or Path(classes).is_file()
    except OSError:  # too long for the name of a file
        return False


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a text file that can be read ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _split(classes: str) -> list[str]:
    """Names between commas; a comma at the end is allowed."""
    names = [name.strip() for name in classes.split(",")]
    names = names[:-1] if not names[-1] else names
    if any(names) and not all(names):
        raise UsageError(f"--classes: a name is blank in {classes!r}")
    return [name for name in names if name]
