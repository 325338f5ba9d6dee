"""Shards to prepared batches: reading and decoding in threads, while the model computes."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.pairs import Pair, SkipLog, decode_image, read_shard

Preprocess = Callable[[Image.Image], Tensor]

BATCHES_AHEAD = 3  # prepared while the model has one
BYTES_AHEAD = 256 * 2**20  # image files that are read and not decoded
GROUP = 8  # images a task; single ones would spend more on hand-over than on small images
MAX_ASPECT = 1000  # an image of 1 x 60,000 pixels grows to 9 GB when its short side is resized


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """Pairs of one shard, ready for the model.

    A batch holds the good ones among `batch_size` consecutive pairs of its shard, so that what is
    in it depends on nothing but the shard and `batch_size`. Every shard, also an empty one, ends
    with a batch that closes it.

    Attributes:
        number: of the shard.
        pairs: n pairs, without the bytes of their images.
        images: n decoded images, or (n, ...) what `preprocess` made of them.
        failed: (key, reason) of the pairs whose image cannot be used.
        skips: what reading left out of the shard; only in the batch that closes it.
        read_s: seconds that reading took.
        decode_s: seconds that decoding took, of all threads together.
    """

    number: int
    pairs: list[Pair]
    images: Sequence[Image.Image] | Tensor
    failed: list[tuple[str, str]]
    skips: SkipLog | None
    read_s: float
    decode_s: float


def prepare_batches(
    shards: Iterable[tuple[int, Path]],
    preprocess: Preprocess | None,
    *,
    dataset: str | None,
    batch_size: int,
    workers: int,
    columns: TableColumns | None = None,
) -> Generator[PreparedBatch, None, None]:
    """Read and decode shards ahead of the caller, in order.

    One thread reads, `workers` threads decode; both go on over the end of a shard. In memory are
    at most BATCHES_AHEAD batches besides the caller's, and BYTES_AHEAD of undecoded files. Closing
    the generator ends the threads.

    Args:
        shards: (number, shard).
        preprocess: what the model takes instead of an image; run in the threads.
        dataset: see `read_pairs`.
        batch_size: pairs read for a batch.
        workers: threads.
        columns: of tables; see `read_pairs`.

    Raises:
        FormatError: a damaged shard, once the batches before it have been given.
    """
    budget = _ByteBudget(BYTES_AHEAD)
    decoders = ThreadPoolExecutor(workers, "decode")
    fetcher = ThreadPoolExecutor(1, "read")  # one thread: its tasks run in the order given
    reader = _Reader(
        _stream(shards, dataset, columns), preprocess, batch_size, workers, decoders, budget
    )
    pending = deque(fetcher.submit(reader.fetch) for _ in range(BATCHES_AHEAD))
    try:
        while (ready := pending.popleft().result()) is not None:
            pending.append(fetcher.submit(reader.fetch))
            yield ready.result()
    finally:
        fetcher.shutdown(cancel_futures=True)  # first: it may wait for what decoders give back
        decoders.shutdown(cancel_futures=True)


def _stream(
    shards: Iterable[tuple[int, Path]], dataset: str | None, columns: TableColumns | None
) -> Iterator[tuple[int, Pair | SkipLog]]:
    """The pairs of all shards; after each shard, what was left out of it."""
    for number, shard in shards:
        skips = SkipLog()
        for pair in read_shard(shard, dataset=dataset, skips=skips, columns=columns):
            yield number, pair
        yield number, skips


@dataclass(slots=True)
class _Reader:
    """Reads batches from a stream, and has them decoded."""

    stream: Iterator[tuple[int, Pair | SkipLog]]
    preprocess: Preprocess | None
    batch_size: int
    workers: int
    decoders: ThreadPoolExecutor
    budget: "_ByteBudget"
    held: list[tuple[int, Pair | SkipLog]] = field(default_factory=list)
    """The first pair of the next batch: only reading it shows that the shard goes on."""

    def fetch(self) -> Future[PreparedBatch] | None:
        """Read the next batch, decoding what has come; None at the end."""
        started, blocked_s = time.perf_counter(), 0.0
        number, left, skips = -1, self.batch_size, None
        group = max(1, min(GROUP, self.batch_size // self.workers))
        part: list[Pair] = []
        decoding: list[Future[_Decoded]] = []
        for event in itertools.chain(self._take_held(), self.stream):
            number, item = event
            if isinstance(item, SkipLog):
                skips = item
                break
            if left == 0:
                self.held.append(event)
                break
            left -= 1
            part.append(item)
            if len(part) == group or left == 0:
                blocked_s += self.budget.take(part)
                decoding.append(self._decode(part))
                part = []
        if number < 0:
            return None
        if part:
            blocked_s += self.budget.take(part)
            decoding.append(self._decode(part))
        read_s = time.perf_counter() - started - blocked_s
        batch = _Fetched(number, decoding, self.preprocess is not None, skips, read_s)
        # tasks start in order: when this one does, all it waits for are done or running
        return self.decoders.submit(batch.assemble)

    def _take_held(self) -> Iterator[tuple[int, Pair | SkipLog]]:
        if self.held:
            yield self.held.pop()

    def _decode(self, part: list[Pair]) -> "Future[_Decoded]":
        return self.decoders.submit(_decode_group, part, self.preprocess, self.budget)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A few pairs with an image, or the reason why there is none, for each."""

    results: list[tuple[Pair, Image.Image | Tensor | str]]
    seconds: float


def _decode_group(
    pairs: list[Pair], preprocess: Preprocess | None, budget: "_ByteBudget"
) -> _Decoded:
    """Decode a few images, and prepare them for the model if it says how."""
    started = time.perf_counter()
    try:
        results = [
            (Pair(pair.id, pair.key, pair.caption, None), _decode(pair, preprocess))
            for pair in pairs
        ]
    finally:
        budget.give_back(pairs)
    return _Decoded(results, time.perf_counter() - started)


def _decode(pair: Pair, preprocess: Preprocess | None) -> Image.Image | Tensor | str:
    """The image of a pair, or why there is none."""
    assert pair.image is not None
    try:
        image = decode_image(pair.image)
    except ValueError as error:
        is_bomb = isinstance(error.__cause__, Image.DecompressionBombError)
        return "image too large" if is_bomb else "corrupt image"
    if max(image.size) > MAX_ASPECT * min(image.size):
        return "image too thin"
    return image if preprocess is None else preprocess(image)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A batch that is being decoded."""

    number: int
    decoding: list[Future[_Decoded]]
    is_tensor: bool
    skips: SkipLog | None
    read_s: float

    def assemble(self) -> PreparedBatch:
        """Join the decoded groups in the order of their pairs."""
        groups = [future.result() for future in self.decoding]
        started = time.perf_counter()
        pairs: list[Pair] = []
        images: list[Image.Image] = []
        pixels: list[npt.NDArray[Any]] = []
        failed: list[tuple[str, str]] = []
        for pair, result in itertools.chain.from_iterable(group.results for group in groups):
            if isinstance(result, str):
                failed.append((pair.key, result))
                continue
            pairs.append(pair)
            if isinstance(result, Tensor):
                pixels.append(result.numpy())
            else:
                images.append(result)
        # by numpy: torch would start as many threads again for every thread of ours
        stacked = torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0)  # (n, ...)
        decode_s = sum(group.seconds for group in groups) + time.perf_counter() - started
        joined = stacked if self.is_tensor else images
        return PreparedBatch(self.number, pairs, joined, failed, self.skips, self.read_s, decode_s)


class _ByteBudget:
    """Bounds the bytes of files that are read and not decoded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    def take(self, pairs: list[Pair]) -> float:
        """Wait until these fit, or nothing else is held; give the seconds waited."""
        size = _count_bytes(pairs)
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        return time.perf_counter() - started

    def give_back(self, pairs: list[Pair]) -> None:
        """Free the room of pairs taken before."""
        with self._changed:
            self._used -= _count_bytes(pairs)
            self._changed.notify_all()


def _count_bytes(pairs: list[Pair]) -> int:
    return sum(len(pair.image or b"") for pair in pairs)
