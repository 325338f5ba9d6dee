"""What every reader hands over before it is judged: the raw pair, and rules they share."""

import json
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
TEXT_SUFFIXES = (".txt", ".text")
JSON_SUFFIX = ".json"
CAPTION_SUFFIXES = frozenset({*TEXT_SUFFIXES, JSON_SUFFIX})
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_IMAGE_BYTES = 1 << 30
MAX_CAPTION_BYTES = 1 << 24

# control characters, backslashes and halves of surrogate pairs; an absolute path; a ".." inside
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|^/|^[A-Za-z]:/|(?:^|/)\.\.(?:/|$)")
_UNTIDY = re.compile(r"(?:^|/)\.?(?:/|$)")  # "./a", "a//b", "a/./b"
_SHOWN = 200  # characters of a name that a message shows


class RawPair(NamedTuple):
    """A pair as it was found, not judged yet.

    None stands for what is missing. The image is b"" when images were not asked for. `fault` says
    what the reader knows to be wrong, whatever else there is.
    """

    key: str
    image: bytes | None
    caption: bytes | str | None
    fault: str | None = None


def is_safe(key: str) -> bool:
    """Whether a key may become part of an id, and one day the name of a member of a tar."""
    return bool(key) and _UNSAFE.search(key) is None


def tidy(name: str) -> str:
    """A relative path without "." and without empty parts; an absolute one stays absolute."""
    if _UNTIDY.search(name) is None:
        return name
    parts = "/".join(part for part in name.split("/") if part not in ("", "."))
    return "/" + parts if name.startswith("/") else parts


def split_suffix(name: str) -> tuple[str, str]:
    """(path without suffix, suffix in lower case); a name that starts with a dot has none."""
    dot = name.rfind(".")
    if dot <= name.rfind("/") + 1:
        return name, ""
    return name[:dot], name[dot:].lower()


def printable(name: str) -> str:
    """A name as it may stand in one line of a log or a terminal."""
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
    if shown.isprintable():
        return shown
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in shown
    )


def json_caption(data: bytes) -> tuple[str | None, str | None]:
    """The field "caption" of img2dataset's KEY.json, or None; and what is wrong with the file."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None, "damaged json"
    caption = fields.get("caption") if isinstance(fields, dict) else None
    return (caption if isinstance(caption, str) else None), None


def read_file(path: Path, kind: str) -> tuple[bytes | None, str | None]:
    """The bytes of a loose file, None when there is none, and why it cannot be used.

    Args:
        path: where the file should be.
        kind: "image" or "caption".
    """
    limit = MAX_IMAGE_BYTES if kind == "image" else MAX_CAPTION_BYTES
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            return None, None
        if status.st_size > limit:
            return None, f"{kind} too large"
        return path.read_bytes(), None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: NUL in the name
        return None, None
    except OSError:
        return None, f"{kind} cannot be read"


def read_image(path: Path, images: bool) -> tuple[bytes | None, str | None]:
    """As `read_file`; when images were not asked for, only whether there is one: b"" or None."""
    if images:
        return read_file(path, "image")
    there = os.path.isfile(path)  # noqa: PTH113  (Path.is_file raises where a folder is closed)
    return (b"" if there else None), None
