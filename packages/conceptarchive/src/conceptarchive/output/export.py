"""Enriched captions for trainers: sidecar tars, Parquet, webdataset shards, the released layout."""

import io
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from conceptarchive.archive.reader import Concept, ConceptArchive
from conceptarchive.concepts.mentions import MentionFinder
from conceptarchive.errors import DataMissingError, FormatError, StaleFolderError, UsageError
from conceptarchive.files import PART, replacing, sweep, write_json
from conceptarchive.inputs.pairs import Pair, SkipLog, read_shard, shard_prefix
from conceptarchive.inputs.raw import is_safe
from conceptarchive.lock import folder_lock

log = logging.getLogger(__name__)

Format = Literal["sidecar", "parquet", "webdataset", "cocu"]

VERSION = 1
MANIFEST = "export.json"
LOCK = ".lock"
PARQUET_ROWS = 100_000  # pairs of a Parquet file
TEMPLATE = "{caption} {concepts}."
UNKNOWN = "not in the archive"


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class ExportConfig:
    """What is written for each pair."""

    count: int = 3
    """Concepts added to a caption, the best that it does not mention."""

    template: str = TEMPLATE
    """Enriched caption, of `{caption}` and `{concepts}`, which are joined by commas. A caption that
    gains nothing stays as it is."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"count must be >= 1, got {self.count}")
        try:
            self.template.format(caption="", concepts="")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(
                f"template must use {{caption}} and {{concepts}} only, got {self.template!r}"
            ) from error


class Enriched(NamedTuple):
    """A pair with its concepts, best first, those that its caption lacks, and its new caption."""

    caption: str
    concepts: list[Concept]
    new: list[str]
    text: str


class ExportReport(NamedTuple):
    """Pairs written; pairs of the shards that the archive does not hold, and the other way."""

    pairs: int
    not_in_archive: int
    not_in_shards: int


class Enricher:
    """Gives a pair of an archive its concepts and its enriched caption."""

    def __init__(self, archive: ConceptArchive, config: ExportConfig) -> None:
        self.archive, self.config = archive, config

    @cached_property
    def _finder(self) -> MentionFinder:
        return MentionFinder(self.archive.vocabulary)

    def enrich(self, key: str) -> Enriched:
        """Concepts and captions of one pair.

        Raises:
            KeyError: no such pair.
        """
        caption, concepts = self.archive.caption(key), self.archive.concepts(key)
        names = self.archive.vocabulary.names
        named = {names[concept] for concept in self._finder.find(caption)}
        new = [concept.name for concept in concepts if concept.name not in named]
        new = new[: self.config.count]
        text = self.config.template.format(caption=caption, concepts=", ".join(new))
        return Enriched(caption, concepts, new, text.strip() if new else caption)


def export(
    archive: ConceptArchive,
    out: Path,
    layout: Format,
    *,
    shards: Sequence[Path] = (),
    dataset: str | None = None,
    config: ExportConfig | None = None,
) -> ExportReport:
    """Write an archive's concepts in a layout that trainers read.

    | layout | files | content |
    |---|---|---|
    | `sidecar` | DATASET/SHARD.tar | KEY.concepts.json for every pair, no images |
    | `parquet` | part-NNNNN.parquet | id, caption, text, concepts, scores, clusters, new |
    | `webdataset` | DATASET/SHARD.tar | image as it is, KEY.txt enriched, KEY.concepts.json |
    | `cocu` | DATASET/SHARD.tar | image, KEY.txt of three lines: caption, scores, clusters |

    `cocu` is the layout of CoCu's released code: the second line is a JSON object of scores by
    concept in rank order, the third one of such objects by cluster (always empty there). Images
    are copied byte for byte. Finished files are not made again.

    Args:
        archive: what to export.
        out: folder.
        layout: see above.
        shards: the pairs' own shards, of the same data set names as when they were embedded;
            needed for `webdataset` and `cocu`.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        config: how captions are enriched.

    Raises:
        UsageError: a layout with images, and no shards; or another process exports to `out`.
        StaleFolderError: `out` was begun with another archive or other settings.
        DataMissingError: a shard is not there, or no pair of the shards is in the archive.
        FormatError: a shard, or the note of what was begun in `out`, is damaged.
    """
    config = config or ExportConfig()
    if layout in ("webdataset", "cocu") and not shards:
        raise UsageError(f"layout {layout} copies images; name the pairs' shards too")
    for shard in shards:
        if not shard.exists():  # looked at before anything is written
            raise DataMissingError(f"{shard}: no such shard; check the path")
    with folder_lock(out, name=LOCK):
        _begin(archive, out, layout, config)
        sweep(out)
        enricher = Enricher(archive, config)
        if layout == "parquet":
            return _write_tables(enricher, out)
        if layout == "sidecar":
            return _write_sidecars(enricher, out)
        return _write_shards(enricher, out, shards, dataset, is_released=layout == "cocu")


def _begin(archive: ConceptArchive, out: Path, layout: str, config: ExportConfig) -> None:
    """Note what is exported, or check that the folder was begun with the same."""
    plan = {
        "kind": "concept-export",
        "version": VERSION,
        "archive": archive.manifest["sha256"],
        "layout": layout,
    } | asdict(config)
    path = out / MANIFEST
    if path.is_file():
        try:
            begun: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise FormatError(f"{path}: cannot be read ({error}); use a new folder") from error
        differs = [name for name in plan if begun.get(name) != plan[name]]
        if differs:
            raise StaleFolderError(f"{out}: begun with another {differs[0]!r}; use a new folder")
        return
    inside = [path.name for path in out.iterdir()]
    if any(name != LOCK and not name.endswith(PART) for name in inside):
        raise StaleFolderError(f"{out}: holds files of something else; use a new folder")
    write_json(path, plan)


def _write_tables(enricher: Enricher, out: Path) -> ExportReport:
    """One Parquet file for every PARQUET_ROWS pairs."""
    keys = enricher.archive.keys
    for number in tqdm(range(-(-len(keys) // PARQUET_ROWS)), unit="file", disable=None):
        path = out / f"part-{number:05d}.parquet"
        if path.is_file():
            continue
        ids = keys[number * PARQUET_ROWS : (number + 1) * PARQUET_ROWS]
        pairs = [enricher.enrich(key) for key in ids]
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "caption": pa.array([pair.caption for pair in pairs], pa.string()),
                "text": pa.array([pair.text for pair in pairs], pa.string()),
                "concepts": _column(pairs, "name", pa.string()),
                "scores": _column(pairs, "score", pa.float32()),
                "clusters": _column(pairs, "cluster", pa.uint8()),
                "new": pa.array([pair.new for pair in pairs], pa.list_(pa.string())),
            }
        )
        with replacing(path) as part:
            pq.write_table(table, part)
    return ExportReport(len(keys), 0, 0)


def _column(pairs: list[Enriched], name: str, kind: pa.DataType) -> pa.Array:
    """A list column of one field of the concepts."""
    values = [[getattr(concept, name) for concept in pair.concepts] for pair in pairs]
    return pa.array(values, pa.list_(kind))


def _write_sidecars(enricher: Enricher, out: Path) -> ExportReport:
    """One tar of JSON for every shard that the archive's keys name."""
    keys = enricher.archive.keys
    count = 0
    for prefix, names in tqdm(_by_prefix(keys), unit="shard", disable=None):
        count += len(names)
        path = out / f"{prefix}.tar"
        if path.is_file():
            continue
        files = (
            (f"{name}.concepts.json", _concepts_json(enricher.enrich(f"{prefix}/{name}")))
            for name in names
        )
        _write_tar(path, files)
    return ExportReport(count, 0, 0)


def _by_prefix(keys: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs of keys of one DATASET/SHARD, with the rest of each key.

    Raises:
        UsageError: a shard's keys do not lie together.
    """
    prefix, names, seen = "", list[str](), set[str]()
    for key in keys:
        dataset, shard, name = _parts(key)
        if f"{dataset}/{shard}" != prefix:
            if names:
                yield prefix, names
            prefix, names = f"{dataset}/{shard}", []
            if prefix in seen:
                raise UsageError(f"ids of {prefix} do not lie together; use layout parquet")
            seen.add(prefix)
        names.append(name)
    if names:
        yield prefix, names


def _parts(key: str) -> tuple[str, str, str]:
    """Data set, shard and name of an id.

    Raises:
        UsageError: ids of another form, as clip-retrieval's `image_path`.
    """
    parts = key.split("/", 2)
    if len(parts) < 3 or not all(parts) or not is_safe(key):
        raise UsageError(f"id {key!r} names no shard; use layout parquet")
    return parts[0], parts[1], parts[2]


def _write_shards(
    enricher: Enricher,
    out: Path,
    shards: Sequence[Path],
    dataset: str | None,
    *,
    is_released: bool,
) -> ExportReport:
    """One tar for every shard of pairs, with the images as they are."""
    written = missing = 0
    for shard in tqdm(shards, unit="shard", disable=None):
        skips = SkipLog()
        path = out / f"{shard_prefix(shard, dataset)}.tar"
        is_done = path.is_file()
        pairs = read_shard(shard, dataset=dataset, skips=skips, images=not is_done)
        known = _known_pairs(enricher.archive, pairs, skips)
        if is_done:
            written += sum(1 for _ in known)
        else:
            files = _shard_files(enricher, known, is_released=is_released)
            written += _write_tar(path, files) // (2 if is_released else 3)
        missing += skips.counts().get(UNKNOWN, 0)
        skips.report()
    if written == 0:
        raise DataMissingError(
            f"{shards[0]}: none of its pairs is in {enricher.archive.folder}; ids there look like "
            f"{enricher.archive.keys[0]!r}; give the same shards and --dataset as to embed"
        )
    return ExportReport(written, missing, len(enricher.archive) - written)


def _known_pairs(archive: ConceptArchive, pairs: Iterable[Pair], skips: SkipLog) -> Iterator[Pair]:
    """Pairs that the archive holds; the others are counted."""
    for pair in pairs:
        if pair.id in archive:
            yield pair
        else:
            skips.add(pair.id, pair.key, UNKNOWN)


def _shard_files(
    enricher: Enricher, pairs: Iterable[Pair], *, is_released: bool
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of a shard's files."""
    for pair in pairs:
        assert pair.image is not None
        enriched = enricher.enrich(pair.id)
        yield pair.key + image_suffix(pair.image), pair.image
        if is_released:
            yield f"{pair.key}.txt", released_text(enriched).encode()
        else:
            yield f"{pair.key}.txt", enriched.text.encode()
            yield f"{pair.key}.concepts.json", _concepts_json(enriched)


def image_suffix(data: bytes) -> str:
    """Suffix of an image file by its first bytes."""
    if data.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if data[8:12] == b"WEBP" else ".jpg"


def released_text(pair: Enriched) -> str:
    """The three lines of CoCu's released layout: caption, {concept: score}, {cluster: {...}}."""
    clusters: dict[str, dict[str, float]] = {}
    for concept in pair.concepts:
        clusters.setdefault(str(concept.cluster), {})[concept.name] = round(concept.score, 4)
    scores = {concept.name: round(concept.score, 4) for concept in pair.concepts}
    caption = " ".join(pair.caption.split())  # a line break would end the first line
    return "\n".join([caption, json.dumps(scores), json.dumps(clusters)])


def _concepts_json(pair: Enriched) -> bytes:
    """All that is known of a pair."""
    notes: dict[str, Any] = {
        "caption": pair.caption,
        "text": pair.text,
        "concepts": [concept.name for concept in pair.concepts],
        "scores": [round(concept.score, 6) for concept in pair.concepts],
        "clusters": [concept.cluster for concept in pair.concepts],
        "new": pair.new,
    }
    return json.dumps(notes, ensure_ascii=False).encode()


def _write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> int:
    """Write a tar under a temporary name, then rename it; the same files give the same bytes.

    Returns:
        Files in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            count += 1
    return count
