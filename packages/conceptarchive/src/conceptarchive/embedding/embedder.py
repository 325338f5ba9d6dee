"""Embedding shards of pairs: one partition a shard, resumable, in one process or several."""

import json
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from conceptarchive.embedding.decode import PreparedBatch, prepare_batches
from conceptarchive.embedding.encoder import Encoder, PixelEncoder
from conceptarchive.embedding.plan import VERSION, partition_name, plan_partitions
from conceptarchive.embedding.processes import rank_from_environment
from conceptarchive.embedding.report import EmbedReport, EmbedTiming, report_partitions
from conceptarchive.errors import DataMissingError, UsageError
from conceptarchive.features.embeddings import RowArray, is_written, write_partition
from conceptarchive.files import sweep
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.pairs import Pair, SkipLog
from conceptarchive.lock import folder_lock
from conceptarchive.progress import progress

__all__ = ["EmbedReport", "embed", "embed_shard", "rank_from_environment"]


def embed(  # noqa: PLR0913  (each is an option of the command)
    shards: Sequence[Path],
    encoder: Encoder,
    out: Path,
    *,
    dataset: str | None = None,
    with_text: bool = True,
    columns: TableColumns | None = None,
    batch_size: int = 256,
    workers: int = 4,
    rank: int = 0,
    world_size: int = 1,
) -> EmbedReport:
    """Embed pairs in clip-retrieval's layout, one partition for each shard.

    A partition that is there already is not made again, so a killed run goes on where it stopped,
    to the same files. Files do not depend on `workers` nor on `world_size`, and on `batch_size`
    only as far as the rows of `encoder` do. `out` may be continued with more shards later.
    Pairs whose image does not decode are left out, and listed in OUT/failed.tsv with all others
    that are. Images are taken as stored: EXIF rotation is not applied, transparency is dropped,
    and an animation gives its first frame.

    Args:
        shards: see `read_pairs`; no two of one name in one data set.
        encoder: what embeds. A `PixelEncoder` has its images preprocessed while it computes.
        out: folder of the embeddings.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        with_text: also embed captions, for language-driven expansion.
        columns: of tables; see `read_pairs`.
        batch_size: pairs read for a batch.
        workers: threads that decode.
        rank: which of several processes this is; it makes every `world_size`-th partition.
        world_size: processes that share the work, all with the same arguments.

    Raises:
        DataMissingError: no usable pair, or a shard is not there.
        FormatError: a damaged shard.
        StaleFolderError: `out` was begun with another encoder or other shards, or one changed.
        UsageError: two shards would give the same ids, a setting is out of range, or another
            process works in `out`.
    """
    if batch_size < 1 or workers < 1 or not 0 <= rank < world_size:
        raise UsageError(
            f"batch_size, workers must be >= 1 and rank in [0, world_size), "
            f"got {batch_size}, {workers}, {rank} of {world_size}"
        )
    if not shards:
        raise DataMissingError("no shard given: no usable pairs")
    missing = [shard for shard in shards if not shard.exists()]
    if missing:  # looked at before the folder is made
        raise DataMissingError(f"{missing[0]}: no such shard; check the path")
    with _hold(out, rank, world_size):
        if world_size == 1:
            sweep(out)
        plan = plan_partitions(
            shards,
            out,
            encoder_id=encoder.id,
            dataset=dataset,
            with_text=with_text,
            columns=columns,
        )
        job = _Job(encoder, out, dataset, with_text, columns, batch_size, workers)
        timing = job.run(plan[rank::world_size])
        report = report_partitions(out, [number for number, _ in plan], timing)
    report.skips.report()
    if report.rows == 0 and report.finished == report.partitions:
        raise DataMissingError(f"{shards[0]}: no usable pairs {report.skips.counts()}")
    return report


def embed_shard(  # noqa: PLR0913  (as embed)
    shard: Path,
    number: int,
    encoder: Encoder,
    out: Path,
    *,
    dataset: str | None = None,
    with_text: bool = True,
    columns: TableColumns | None = None,
    batch_size: int = 256,
    workers: int = 4,
) -> EmbedTiming:
    """Embed one shard to one partition, unless that is there: a unit of work for any scheduler.

    `plan_partitions` gives the numbers, `report_partitions` what came of it. The caller sees to it
    that no two processes make one partition at the same time.

    Args:
        shard: see `read_pairs`.
        number: of the partition.
        encoder: what embeds.
        out: folder of the embeddings.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        with_text: also embed captions.
        columns: of tables; see `read_pairs`.
        batch_size: pairs read for a batch.
        workers: threads that decode.

    Raises:
        FormatError: a damaged shard.
    """
    return _Job(encoder, out, dataset, with_text, columns, batch_size, workers).run(
        [(number, shard)]
    )


@contextmanager
def _hold(out: Path, rank: int, world_size: int) -> Iterator[None]:
    """Keep out processes that are not of the same run, or have the same rank in it."""
    with ExitStack() as locks:
        locks.enter_context(folder_lock(out, shared=world_size > 1))
        if world_size > 1:
            locks.enter_context(folder_lock(out, name=f".lock-{rank}"))
        yield


@dataclass(frozen=True, slots=True)
class _Job:
    """How shards become partitions."""

    encoder: Encoder
    out: Path
    dataset: str | None
    with_text: bool
    columns: TableColumns | None
    batch_size: int
    workers: int

    def run(self, plan: Sequence[tuple[int, Path]]) -> EmbedTiming:
        """Make the partitions of a plan that are not there yet."""
        left = [
            (number, shard)
            for number, shard in plan
            if not is_written(self.out, partition_name(number), with_text=self.with_text)
        ]
        timing = EmbedTiming(self.workers)
        started = time.perf_counter()
        with progress(unit="pair") as bar, warnings.catch_warnings():
            # Pillow's remarks on odd files name no file; what does not decode is listed
            warnings.filterwarnings("ignore", module=r"PIL\.")
            self._make(left, timing, bar)
        timing.seconds["wall"] = time.perf_counter() - started
        return timing

    def _make(self, left: Sequence[tuple[int, Path]], timing: EmbedTiming, bar: tqdm) -> None:
        """Embed batch by batch, and write a partition when its shard ends."""
        files = dict(left)
        partition = _Partition(self.with_text)
        with closing(self._batches(left)) as batches:
            for batch in _timed(batches, timing.seconds):
                with _clocked(timing.seconds, "model"):
                    if batch.pairs:
                        partition.add(batch, *self._encode(batch))
                    partition.failed += batch.failed
                    if batch.skips is not None:
                        partition.settle()
                timing.images += len(batch.pairs)
                bar.update(len(batch.pairs))
                if batch.skips is not None:
                    with _clocked(timing.seconds, "write"):
                        partition.write(self.out, batch.number, files[batch.number], batch.skips)
                    partition = _Partition(self.with_text)

    def _batches(self, left: Sequence[tuple[int, Path]]) -> Generator[PreparedBatch, None, None]:
        """Prepared batches of all shards."""
        return prepare_batches(
            left,
            self.encoder.preprocess if isinstance(self.encoder, PixelEncoder) else None,
            dataset=self.dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            columns=self.columns,
        )

    def _encode(self, batch: PreparedBatch) -> tuple[Tensor, Tensor | None]:
        """Rows of the images, which may still be being computed, and of the captions."""
        if isinstance(batch.images, Tensor):
            assert isinstance(self.encoder, PixelEncoder)
            image = self.encoder.encode_pixels(batch.images)  # (n, D)
        else:
            image = self.encoder.encode_images(batch.images)  # (n, D)
        if not self.with_text:
            return image, None
        return image, self.encoder.encode_texts([pair.caption for pair in batch.pairs])


class _Partition:
    """Rows and pairs of one shard, while it is embedded."""

    def __init__(self, with_text: bool) -> None:
        self._with_text = with_text
        self.failed: list[tuple[str, str]] = []
        self._pairs: list[Pair] = []
        self._images: list[RowArray] = []
        self._texts: list[RowArray] = []
        self._latest: Tensor | None = None

    def add(self, batch: PreparedBatch, image: Tensor, text: Tensor | None) -> None:
        """Add the rows of a batch, waiting only for those of the batch before: a GPU goes on."""
        self.settle()
        self._latest = image
        if text is not None:
            self._texts.append(_to_half(text))
        self._pairs += batch.pairs

    def settle(self) -> None:
        """Fetch the latest rows of images."""
        if self._latest is not None:
            self._images.append(_to_half(self._latest))
            self._latest = None

    def write(self, out: Path, number: int, shard: Path, skips: SkipLog) -> None:
        """Write all of it as one partition."""
        for key, reason in self.failed:
            skips.add(shard, key, reason)
        columns = {
            "image_path": [pair.key for pair in self._pairs],
            "caption": [pair.caption for pair in self._pairs],
            "id": [pair.id for pair in self._pairs],
        }
        rows = {"img_emb": _join(self._images)}
        if self._with_text:
            rows["text_emb"] = _join(self._texts)
        notes = {
            "kind": "embeddings",
            "version": str(VERSION),
            "skips": json.dumps(sorted(skips.entries)),
        }
        write_partition(out, partition_name(number), columns, rows, notes)


def _timed(batches: Iterator[PreparedBatch], clock: dict[str, float]) -> Iterator[PreparedBatch]:
    """The same batches, noting how long each was waited for and what it cost to prepare."""
    while True:
        with _clocked(clock, "wait"):
            batch = next(batches, None)
        if batch is None:
            return
        clock["read"] += batch.read_s
        clock["decode"] += batch.decode_s
        yield batch


@contextmanager
def _clocked(clock: dict[str, float], step: str) -> Iterator[None]:
    """Add the time inside to a step."""
    started = time.perf_counter()
    yield
    clock[step] += time.perf_counter() - started


def _to_half(rows: Tensor) -> RowArray:
    """(n, D) float16 as they are stored, on the CPU."""
    half: RowArray = rows.cpu().numpy().astype(np.float16)
    return half


def _join(parts: list[RowArray]) -> RowArray:
    """(n, D) rows of all batches; (0, 0) of none."""
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float16)
