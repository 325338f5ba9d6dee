"""What has been counted so far, image by image, so that a killed evaluation goes on.

    OUT/journal/PART.jsonl    a line for what is evaluated, then one for every image done

Every process appends to a part of its own and reads all parts when it starts, so it does not
matter how many processes began and how many go on. A line is a CRC-32, a space and JSON; what a
kill left of the last line is passed over, and its image is done again.
"""

import json
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

from segbench.errors import FormatError, UsageError
from segbench.metrics.confusion import IntArray
from segbench.metrics.per_image import sparse

KIND = "segbench-journal"
VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An image that is done: its confusion counts, sparse, or why it was passed over."""

    index: int
    """Place in the data set."""
    id: str
    content: str
    """SHA-256 of the id, the image and its labels; empty if it could not be read."""
    pairs: IntArray
    """(n,) places in the flattened counts that are not 0: true class * K + predicted class."""
    counts: IntArray
    """(n,) pixels of each, >= 1."""
    skipped: str = ""
    """Why the image could not be read; empty if it could."""

    @classmethod
    def of(cls, index: int, name: str, content: str, counts: IntArray) -> Self:
        """From counts of any shape, (K, K) for a confusion matrix."""
        return cls(index, name, content, *sparse(counts))

    @classmethod
    def unreadable(cls, index: int, reason: str) -> Self:
        """Of an image that cannot be decoded."""
        nothing = np.zeros(0, np.int64)
        return cls(index, "", "", nothing, nothing, reason)

    def to_line(self) -> str:
        """One line of a journal, without its end."""
        fields = {name: getattr(self, name) for name in ("index", "id", "content", "skipped")}
        arrays = {"pairs": self.pairs.tolist(), "counts": self.counts.tolist()}
        return _with_crc(json.dumps(fields | arrays))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """From the JSON of a line."""
        arrays = {name: np.array(fields[name], np.int64) for name in ("pairs", "counts")}
        return cls(**{**fields, **arrays})


class Journal:
    """The journal of one evaluation.

    Args:
        folder: of its parts; made when the first image is added.
        identity: what is evaluated on what, as JSON. Another one is refused.

    Raises:
        UsageError: the folder holds the journal of another evaluation.
        FormatError: a part is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(identity))
        self._part: TextIO | None = None
        self.done = self._read()

    def _read(self) -> dict[int, Entry]:
        """Entries of all parts by index."""
        found: dict[int, Entry] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            header, *lines = _lines(path) or [{}]
            if header and header != self._header:
                raise UsageError(
                    f"{self.folder}: of another evaluation ({_difference(header, self._header)}); "
                    "choose another folder, or pass --overwrite true"
                )
            for fields in lines:
                entry = Entry.from_fields(fields)
                if entry.index not in found or not entry.skipped:
                    found[entry.index] = entry
        return found

    @property
    def _header(self) -> dict[str, Any]:
        return {"kind": KIND, "version": VERSION, **self._identity}

    def add(self, entry: Entry) -> None:
        """Note that an image is done."""
        if self._part is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._part = (self.folder / f"{uuid.uuid4().hex}.jsonl").open("x", encoding="utf-8")
            self._part.write(_with_crc(json.dumps(self._header)) + "\n")
        self._part.write(entry.to_line() + "\n")
        self._part.flush()
        self.done[entry.index] = entry

    def close(self) -> None:
        """Close this process's part."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def reload(self) -> None:
        """Take in what other processes have added."""
        self.done = self._read()


def _with_crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON of every whole line of a part.

    Raises:
        FormatError: a line that is not the last is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = list(_whole(lines))
    if len(found) < len(lines) - 1:
        raise FormatError(
            f"{path}: line {len(found) + 1} is damaged; delete the file to do its images again"
        )
    return found


def _whole(lines: list[str]) -> Iterator[dict[str, Any]]:
    """Parsed lines up to the first that is not whole; the last one has no end and never is."""
    for line in lines[:-1]:
        crc, _, text = line.partition(" ")
        if crc != f"{zlib.crc32(text.encode()):08x}":
            return
        yield json.loads(text)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first field in which two headers differ."""
    for key in new:
        if old.get(key) != new[key]:
            return f"its {key} is {old.get(key)!r}, not {new[key]!r}"
    return "it has other fields"
