"""What an archive folder holds: names, versions and Arrow schemas of its files; writing them.

    manifest.json         what it was built from, how, and the checksum of every file
    vocabulary.txt        one concept name a line; the id of a concept is its line, from 0
    archive-00000.arrow   pairs with their concepts, best first, and their reference images
    pool-00000.arrow      the pairs that were searched: captions and what they mention
    index.arrow           hashes of all keys, ascending, each with the row of its pair

Every Arrow file is an IPC file of one record batch, without compression, so that it is read through
a memory map. Row r of the archive is row r % shard_rows of shard r // shard_rows; row r of the pool
is row r % POOL_ROWS of pool shard r // POOL_ROWS.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conceptarchive.errors import DataMissingError, FormatError
from conceptarchive.files import replacing

KIND = "conceptarchive"
VERSION = 2
MANIFEST, INDEX, VOCABULARY = "manifest.json", "index.arrow", "vocabulary.txt"

POOL_ROWS = 100_000
"""Rows of a pool shard; the last has fewer."""

SHARD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("concepts", pa.list_(pa.uint32())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("clusters", pa.list_(pa.uint8())),
        pa.field("neighbours", pa.list_(pa.uint64())),
        pa.field("similarity", pa.list_(pa.float32())),
    ]
)
"""A pair: its concepts best first with score and cluster, its reference images nearest first."""

POOL_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("mentions", pa.list_(pa.uint32())),
        pa.field("own", pa.list_(pa.float32())),
    ]
)
"""A pair of the pool: concepts its caption mentions, and its image's response to each of them."""

INDEX_SCHEMA = pa.schema([pa.field("hash", pa.uint64()), pa.field("row", pa.uint64())])
"""Hashes of keys (`keyhash.hash_keys`) in ascending order, with the row each belongs to."""

METADATA = (
    "kind", "version", "fingerprint", "vocabulary_sha256", "encoder", "config", "pool_sha256",
)  # fmt: skip
"""What every Arrow file says of itself in the metadata of its schema."""

FIELDS = {
    "config": dict, "encoder": str, "vocabulary_sha256": str, "merge_plurals": bool,
    "pool_sha256": str, "rows": int, "pool_rows": int, "shard_rows": int, "fingerprint": str,
    "complete": bool, "files": dict,
}  # fmt: skip
"""What a reader needs of the manifest, and of what type."""

NOTES = ("fingerprint", "complete", "files", "search", "sha256")
"""Fields of the manifest that are not part of the description."""


def shard_name(number: int) -> str:
    """File name of an archive shard."""
    return f"archive-{number:05d}.arrow"


def pool_name(number: int) -> str:
    """File name of a pool shard."""
    return f"pool-{number:05d}.arrow"


def shard_count(rows: int, shard_rows: int) -> int:
    """Shards that hold so many rows."""
    return -(-rows // shard_rows)


def file_metadata(description: Mapping[str, Any], fingerprint: str) -> dict[str, str]:
    """What every Arrow file says of itself, from the description of the build.

    Args:
        description: fields of the manifest: kind, version, vocabulary_sha256, encoder, config,
            pool_sha256.
        fingerprint: hash of the description.
    """
    fields = dict(description) | {"fingerprint": fingerprint}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in ((name, fields[name]) for name in METADATA)
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check `manifest.json`.

    Raises:
        DataMissingError: none there.
        FormatError: not an archive's, or of an unknown version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataMissingError(f"{folder}: no {MANIFEST} here; build an archive first")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["kind"], manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the manifest of an archive ({error!r})") from error
    if found != (KIND, VERSION):
        raise FormatError(
            f"{path}: is {found[0]} version {found[1]}, this release reads {KIND} {VERSION}; "
            "build the archive again in a new folder"
        )
    for name, kind in FIELDS.items():
        if type(manifest.get(name)) is not kind:
            raise FormatError(
                f"{path}: {name!r} must be of type {kind.__name__}, got {manifest.get(name)!r}"
            )
    if manifest["shard_rows"] < 1 or manifest["rows"] < 0 or manifest["pool_rows"] < 0:
        raise FormatError(f"{path}: 'rows', 'pool_rows' or 'shard_rows' is out of range")
    return manifest


def fingerprint(description: Mapping[str, Any]) -> str:
    """Hash of what an archive is made of and how; it tells builds apart."""
    text = json.dumps(dict(description), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(
    folder: Path, description: Mapping[str, Any], *, complete: bool, **notes: Any
) -> dict[str, Any]:
    """Write `manifest.json`, with a hash of itself, by rename; what it says comes back.

    Args:
        folder: of the archive.
        description: what it is made of and how; see `fingerprint`.
        complete: whether all files are there.
        notes: `files` {name: {sha256, bytes}} and `search`, where there is something to tell.

    Raises:
        IncompleteError: it cannot be written.
    """
    manifest = dict(description) | {
        "fingerprint": fingerprint(description),
        "complete": complete,
        "files": {},
        "search": {},
    }
    written: dict[str, Any] = json.loads(json.dumps(manifest | notes))  # as it is read: no tuples
    written["sha256"] = manifest_sha256(written)
    with replacing(folder / MANIFEST) as part:
        part.write_text(manifest_text(written), encoding="utf-8")
    return written


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """How a manifest is written, to the byte."""
    return json.dumps(dict(manifest), indent=1) + "\n"


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Hash of a manifest without that hash."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(manifest_text(rest).encode()).hexdigest()


def described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The description in a manifest: all but what was noted about the build itself."""
    return {name: value for name, value in manifest.items() if name not in NOTES}


def lists(offsets: npt.NDArray[np.integer[Any]], values: npt.NDArray[Any]) -> pa.Array:
    """A list column.

    Args:
        offsets: (n + 1,) from 0 to len(values): list i is values[offsets[i] : offsets[i + 1]].
        values: of all lists, one after the other; below 2**31 of them.
    """
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def write_arrow(
    path: Path, schema: pa.Schema, columns: Sequence[pa.Array], metadata: Mapping[str, str]
) -> None:
    """Write one record batch as an Arrow file under a temporary name, then rename it.

    Args:
        path: the finished file; it is whole or not there.
        schema: of this module.
        columns: one array for each field.
        metadata: what the file says of itself; see `file_metadata`.

    Raises:
        IncompleteError: it cannot be written, as when the disk is full; no part is left.
    """
    schema = schema.with_metadata(dict(metadata))
    batch = pa.record_batch(list(columns), schema=schema)
    with (
        replacing(path) as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch)


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
