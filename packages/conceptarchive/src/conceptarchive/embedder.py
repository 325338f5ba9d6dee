"""Embedding shards of pairs: one partition a shard, resumable."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from conceptarchive.embeddings import MANIFEST, RowArray, metadata_path, write_partition
from conceptarchive.encoder import Encoder
from conceptarchive.errors import DataMissingError, StaleFolderError, UsageError
from conceptarchive.pairs import Pair, SkipLog, decode_image, read_shard, shard_prefix

VERSION = 1
DECODERS = 4  # threads


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What `embed` left in its folder: rows, and pairs left out with the reason."""

    rows: int
    skips: SkipLog


def embed(
    shards: Sequence[Path],
    encoder: Encoder,
    out: Path,
    *,
    dataset: str | None = None,
    with_text: bool = True,
    batch_size: int = 256,
) -> EmbedReport:
    """Embed pairs in clip-retrieval's layout, one partition for each shard.

    A partition that is there already is not made again, so a killed run goes on where it stopped.
    Pairs whose image does not decode are left out and listed.

    Args:
        shards: see `read_pairs`; no two of one name in one data set.
        encoder: what embeds.
        out: folder of the embeddings.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        with_text: also embed captions, for language-driven expansion.
        batch_size: pairs decoded at a time.

    Raises:
        DataMissingError: no usable pair.
        FormatError: a damaged shard.
        StaleFolderError: `out` was begun with another encoder or other shards.
        UsageError: two shards would give the same ids.
    """
    prefixes = [shard_prefix(shard, dataset) for shard in shards]
    if len(set(prefixes)) < len(prefixes):
        raise UsageError(f"two shards share the name {max(prefixes, key=prefixes.count)!r}")
    _begin(out, encoder, prefixes, shards, with_text)
    report = EmbedReport(0, SkipLog())
    width = len(str(max(len(shards) - 1, 0)))
    with tqdm(unit="pair", disable=None) as progress:
        for number, shard in enumerate(shards):
            partition = f"{number:0{width}d}"
            progress.set_description(f"embed {number + 1}/{len(shards)}")
            if not metadata_path(out, partition).exists():
                job = _ShardJob(shard, encoder, dataset, with_text, batch_size)
                job.write(out, partition, progress)
            report = _add(report, metadata_path(out, partition))
    report.skips.report()
    if report.rows == 0:
        where = shards[0] if shards else "no shard given"
        raise DataMissingError(f"{where}: no usable pairs {report.skips.counts()}")
    return report


def _begin(
    out: Path, encoder: Encoder, prefixes: list[str], shards: Sequence[Path], with_text: bool
) -> None:
    """Note what is to be embedded, or check that the folder was begun with the same."""
    missing = [shard for shard in shards if not shard.exists()]
    if missing:
        raise DataMissingError(f"{missing[0]}: no such shard; check the path")
    sizes = [shard.stat().st_size if shard.is_file() else None for shard in shards]
    plan = {
        "kind": "embeddings",
        "version": VERSION,
        "encoder": encoder.id,
        "text": with_text,
        "shards": [list(pair) for pair in zip(prefixes, sizes, strict=True)],
    }
    path = out / MANIFEST
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        differs = [name for name in plan if begun.get(name) != plan[name]]
        if differs:
            raise StaleFolderError(f"{out}: begun with another {differs[0]!r}; use a new folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    part.replace(path)


@dataclass(frozen=True, slots=True)
class _ShardJob:
    """One shard to embed."""

    shard: Path
    encoder: Encoder
    dataset: str | None
    with_text: bool
    batch_size: int

    def write(self, out: Path, partition: str, progress: tqdm) -> None:
        """Embed the shard and write its partition."""
        skips = SkipLog()
        kept: list[Pair] = []
        images: list[RowArray] = []
        texts: list[RowArray] = []
        for pairs, decoded in self._batches(skips):
            images.append(self.encoder.encode_images(decoded).numpy())  # (B, D)
            if self.with_text:
                texts.append(self.encoder.encode_texts([pair.caption for pair in pairs]).numpy())
            kept += [Pair(pair.id, pair.key, pair.caption, None) for pair in pairs]
            progress.update(len(pairs))
        columns = {
            "image_path": [pair.key for pair in kept],
            "caption": [pair.caption for pair in kept],
            "id": [pair.id for pair in kept],
        }
        rows = {"img_emb": _join(images)} | ({"text_emb": _join(texts)} if self.with_text else {})
        notes = {
            "kind": "embeddings",
            "version": str(VERSION),
            "skips": json.dumps(sorted(skips.entries)),
        }
        write_partition(out, partition, columns, rows, notes)

    def _batches(self, skips: SkipLog) -> Iterator[tuple[list[Pair], list[Image.Image]]]:
        """Yield pairs with their decoded images, at most `batch_size` at a time."""
        pairs = read_shard(self.shard, dataset=self.dataset, skips=skips)
        with ThreadPoolExecutor(DECODERS) as threads:
            for batch in _chunk(pairs, self.batch_size):
                good = []
                for pair, result in zip(batch, threads.map(_try_decode, batch), strict=True):
                    if isinstance(result, str):
                        skips.add(self.shard, pair.key, "corrupt image")
                    else:
                        good.append((pair, result))
                if good:
                    yield [pair for pair, _ in good], [image for _, image in good]


def _try_decode(pair: Pair) -> Image.Image | str:
    """The image of a pair, or why there is none."""
    assert pair.image is not None
    try:
        return decode_image(pair.image)
    except ValueError as error:
        return str(error)


def _chunk(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """Cut into lists of at most `size`."""
    source = iter(pairs)
    while batch := list(itertools.islice(source, size)):
        yield batch


def _join(parts: list[RowArray]) -> RowArray:
    """(n, D) rows of all batches; (0, 0) of none."""
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _add(report: EmbedReport, table: Path) -> EmbedReport:
    """Count a finished partition, made in this run or in one before."""
    notes = pq.read_metadata(table)
    for file, key, reason in json.loads((notes.metadata or {}).get(b"skips", b"[]")):
        report.skips.add(file, key, reason)
    return EmbedReport(report.rows + notes.num_rows, report.skips)
