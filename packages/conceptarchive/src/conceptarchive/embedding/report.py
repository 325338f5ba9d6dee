"""What an embedding run left in its folder, and what bounded its speed."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from conceptarchive.embedding.plan import partition_name
from conceptarchive.errors import FormatError
from conceptarchive.features.embeddings import metadata_path
from conceptarchive.files import replacing
from conceptarchive.inputs.pairs import SkipLog
from conceptarchive.lock import folder_lock

FAILED = "failed.tsv"
ADVICE = {
    "decode": "decode: add --encoder.workers, up to the cores there are",
    "model": "model: use a GPU, more of them (torchrun), bfloat16, or a smaller model",
    "disk": "disk: put the shards, or the output, on a faster disk",
}


@dataclass(slots=True)
class EmbedTiming:
    """Where the time of one process went.

    Attributes:
        workers: threads that decode.
        images: images embedded.
        seconds: by step: "read" and "decode" run beside the model, decode summed over threads;
            "model", "write" and "wait" (for a batch to be ready) together make "wall".
    """

    workers: int
    images: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "decode", "model", "write", "wait"), 0.0)
    )

    @property
    def images_per_s(self) -> float:
        """Images embedded a second, from the first file read to the last written."""
        return self.images / self.seconds["wall"] if self.images else 0.0

    @property
    def bound_by(self) -> str | None:
        """The step that was busy for the largest part of the time; None when nothing was done."""
        if not self.images:
            return None
        busy = {
            "model": self.seconds["model"],
            "decode": self.seconds["decode"] / self.workers,
            "disk": max(self.seconds["read"], self.seconds["write"]),
        }
        return max(busy, key=lambda step: busy[step])


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What is in the folder, and how fast this process added to it.

    Attributes:
        rows: of all finished partitions.
        skips: pairs left out of them, with the reason.
        finished: partitions that are done; with several processes, others may still work.
        partitions: that there will be.
        timing: of this process.
    """

    rows: int
    skips: SkipLog
    finished: int
    partitions: int
    timing: EmbedTiming

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by step, see `EmbedTiming`."""
        return self.timing.seconds

    @property
    def images_per_s(self) -> float:
        """Images that this process embedded a second."""
        return self.timing.images_per_s

    @property
    def bound_by(self) -> str | None:
        """What bounds that: "decode", "model" or "disk"; None when nothing was left to do."""
        return self.timing.bound_by

    @property
    def advice(self) -> str | None:
        """How to go faster, in one line."""
        return None if self.bound_by is None else ADVICE[self.bound_by]


def report_partitions(
    out: Path, numbers: Iterable[int], timing: EmbedTiming | None = None
) -> EmbedReport:
    """Count the finished partitions, and list what was left out of them in OUT/failed.tsv.

    Args:
        out: folder of the embeddings.
        numbers: of all partitions.
        timing: of the process that reports.

    Raises:
        FormatError: a partition is damaged.
    """
    tables = [metadata_path(out, partition_name(number)) for number in sorted(numbers)]
    rows, finished, skips = 0, 0, SkipLog()
    # of several processes the last to come here sees all partitions, and its list stays
    with folder_lock(out, name=".lock-failed", wait=True):
        for table in tables:
            if table.exists():
                count, entries = _read_notes(table)
                rows, finished = rows + count, finished + 1
                skips.entries += entries
        path = out / FAILED
        # names may hold bytes that are no UTF-8: those are written as \udcXX
        with (
            replacing(path) as part,
            part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            lines = csv.writer(file, delimiter="\t", lineterminator="\n")
            lines.writerows([("file", "key", "reason"), *skips.entries])
    return EmbedReport(rows, skips, finished, len(tables), timing or EmbedTiming(workers=1))


def _read_notes(table: Path) -> tuple[int, list[tuple[str, str, str]]]:
    """Rows of a finished partition, and what was left out of it."""
    try:
        notes = pq.read_metadata(table)
        entries = json.loads((notes.metadata or {}).get(b"skips", b"[]"))
        return notes.num_rows, [(file, key, reason) for file, key, reason in entries]
    except (pa.ArrowInvalid, OSError, ValueError, TypeError) as error:
        raise FormatError(
            f"{table}: not a table of embed ({error}); remove it and run embed again"
        ) from error
