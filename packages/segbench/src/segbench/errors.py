"""Errors that a user can act on, each with the exit code of the command line."""

import difflib
from collections.abc import Iterable


class SegbenchError(Exception):
    """Something that the user can mend; its message is one line."""

    exit_code = 1


class FormatError(SegbenchError):
    """A file says something that it must not."""


class UnreadableImageError(FormatError):
    """One image or mask cannot be decoded; evaluation skips it and counts the skip."""


class ModelError(SegbenchError, ValueError):
    """A model gave scores or embeddings that no protocol can use."""


class UsageError(SegbenchError):
    """A name or an option that does not exist."""

    exit_code = 2


class DataMissingError(SegbenchError):
    """A file or folder that a task needs is not there."""

    exit_code = 3


class IncompleteError(SegbenchError):
    """Results were written, but not of every image."""

    exit_code = 4


def unknown(kind: str, word: str, known: Iterable[str], source: str = "") -> str:
    """Say that `word` is not known, and which known word is nearest.

    Args:
        kind: what `word` should have named, such as "key" or "task".
        word: what was received.
        known: every accepted word.
        source: file in which `word` stood.

    Returns:
        One line, such as `unknown key 'window_pxx' in a.toml; did you mean 'window_px'?`
    """
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    place = f" in {source}" if source else ""
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(words)}"
    return f"unknown {kind} {word!r}{place}; {hint}"
