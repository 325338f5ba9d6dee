"""The record of a folder of embeddings, embed.json: which shards, in which partitions."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conceptarchive.errors import DataMissingError, FormatError, StaleFolderError, UsageError
from conceptarchive.features.embeddings import MANIFEST, is_written
from conceptarchive.files import write_json
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.folders import folder_listings
from conceptarchive.inputs.pairs import shard_prefix
from conceptarchive.inputs.raw import IMAGE_SUFFIXES, JSON_SUFFIX, TEXT_SUFFIXES, split_suffix
from conceptarchive.lock import folder_lock

VERSION = 2
ENDS = 64 * 1024  # bytes hashed at each end of a shard
STATS = 16  # shards looked at together; a network disk answers slowly


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard as it was when it was given last before it was embedded.

    Attributes:
        prefix: first two parts of its ids.
        size: its bytes.
        sha256: of its first and last 64 KiB; for a folder, of the names and sizes of its files.
    """

    prefix: str
    size: int
    sha256: str


def plan_partitions(
    shards: Sequence[Path],
    out: Path,
    *,
    encoder_id: str,
    dataset: str | None = None,
    with_text: bool = True,
    columns: TableColumns | None = None,
) -> list[tuple[int, Path]]:
    """Give every shard its partition, and note it in OUT/embed.json.

    A shard keeps its number when `out` is continued with more shards: those come after all that
    are there. One that is not embedded yet, as a damaged one, may have changed meanwhile.
    Processes that plan the same at the same time get the same.

    Args:
        shards: see `read_pairs`; no two of one name in one data set.
        out: folder of the embeddings.
        encoder_id: what embeds.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        with_text: whether captions are embedded.
        columns: of tables; see `read_pairs`.

    Returns:
        (partition, shard) in order of partitions.

    Raises:
        DataMissingError: a shard is not there.
        FormatError: the record is damaged.
        StaleFolderError: `out` was begun with another encoder or other shards, or by an earlier
            version, or a shard has changed since it was embedded.
        UsageError: two shards would give the same ids.
    """
    prefixes = [shard_prefix(shard, dataset) for shard in shards]
    if len(set(prefixes)) < len(prefixes):
        raise UsageError(f"two shards share the name {max(prefixes, key=prefixes.count)!r}")
    with ThreadPoolExecutor(STATS) as threads:
        records = list(threads.map(_look_at, prefixes, shards))
    settings = {
        "kind": "embeddings",
        "version": VERSION,
        "encoder": encoder_id,
        "text": with_text,
        "columns": None if columns is None else asdict(columns),
    }
    path = out / MANIFEST
    with folder_lock(out, name=".lock-plan", wait=True):
        if not path.exists():
            _refuse_foreign_rows(out)
        begun = _read(path, settings) if path.exists() else []
        order = _continue(out, begun, records, with_text=with_text)
        if order != begun or not path.exists():
            rows = [[record.prefix, record.size, record.sha256] for record in order]
            write_json(path, settings | {"shards": rows})
    number = {record.prefix: place for place, record in enumerate(order)}
    return sorted((number[prefix], shard) for prefix, shard in zip(prefixes, shards, strict=True))


def partition_name(number: int) -> str:
    """The number of a partition in file names; of one width, so that more can be added."""
    return f"{number:05d}"


def _read(path: Path, settings: dict[str, Any]) -> list[ShardRecord]:
    """The shards of a folder that was begun with the same settings."""
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        version = begun["version"]
        shards = [ShardRecord(*row) for row in begun["shards"]] if version == VERSION else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a record of embed ({error!r}); use a new folder") from error
    if version != VERSION:
        raise StaleFolderError(
            f"{path}: version {version}, this release continues version {VERSION}; its rows can "
            "be read, but embed more into a new folder"
        )
    differs = [name for name in settings if begun.get(name) != settings[name]]
    if differs:
        name = differs[0]
        raise StaleFolderError(
            f"{path.parent}: begun with another {name!r} ({begun.get(name)!r}, "
            f"now {settings[name]!r}); use a new folder"
        )
    return shards


def _refuse_foreign_rows(out: Path) -> None:
    """Raise StaleFolderError when a folder without our record holds partitions."""
    for name in ("img_emb", "text_emb", "metadata"):
        if any((out / name).glob(f"{name}_*")):
            raise StaleFolderError(
                f"{out}: holds embeddings that nothing is known of, for want of {MANIFEST}; "
                "use a new folder"
            )


def _continue(
    out: Path, begun: Iterable[ShardRecord], records: Iterable[ShardRecord], *, with_text: bool
) -> list[ShardRecord]:
    """Shards of the folder, then the new ones.

    Raises:
        StaleFolderError: one of the folder is not given, or not as it was embedded.
    """
    now = {record.prefix: record for record in records}
    known = []
    for number, old in enumerate(begun):
        if old.prefix not in now:
            raise StaleFolderError(
                f"{out}: begun with another list of shards: {old.prefix!r} is not given now; "
                "give all of them and new ones, or use a new folder"
            )
        new = now.pop(old.prefix)
        if new != old and is_written(out, partition_name(number), with_text=with_text):
            raise StaleFolderError(
                f"{out}: shard {old.prefix!r} has changed since it was embedded "
                f"({old.size} bytes, now {new.size}); use a new folder"
            )
        known.append(new)
    return [*known, *now.values()]


def _look_at(prefix: str, shard: Path) -> ShardRecord:
    """What tells a shard from another, without reading all of it."""
    if shard.is_dir():
        files = list(_list_files(shard))
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        return ShardRecord(prefix, sum(size for _, size in files), digest)
    try:
        with shard.open("rb") as file:
            ends = file.read(ENDS)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - ENDS, 0))
            return ShardRecord(prefix, size, hashlib.sha256(ends + file.read()).hexdigest())
    except FileNotFoundError as error:
        raise DataMissingError(f"{shard}: no such shard; check the path") from error
    except OSError as error:
        raise DataMissingError(
            f"{shard}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def _list_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and size of all images and captions below a folder; -1 for a link to nothing."""
    for inner, names in folder_listings(folder):
        parts = {name: split_suffix(name) for name in names}
        pictured = {stem for stem, suffix in parts.values() if suffix in IMAGE_SUFFIXES}
        for name, (stem, suffix) in parts.items():
            is_sidecar = suffix == JSON_SUFFIX and stem in pictured  # embed.json is none
            if is_sidecar or suffix in {*IMAGE_SUFFIXES, *TEXT_SUFFIXES}:
                path = folder / inner / name
                yield inner + name, path.stat().st_size if path.exists() else -1
