"""Batches from workers: the same for any number, going on in the middle, losses counted."""

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from groupvit import DataError, PairDataset, RecipeError, augmentation, batches, index_shards
from groupvit.data.loader import PairLoader
from groupvit.texts import Texts

Write = Callable[..., Path]
Batches = Sequence[tuple[Tensor, Texts]]


@pytest.fixture
def data(colour_shard: Path, tmp_path: Path) -> PairDataset:
    pairs, _ = index_shards([colour_shard], dataset="toy", cache=tmp_path / "index")
    return PairDataset(pairs, augmentation("flip", 32), concepts=2, seed=3)


def assert_equal(one: Batches, other: Batches) -> None:
    assert len(one) == len(other)
    for (images, texts), (more_images, more_texts) in zip(one, other, strict=True):
        assert torch.equal(images, more_images)
        assert torch.equal(texts.padded(), more_texts.padded())


def test_workers_and_decoded_images_change_nothing(data: PairDataset) -> None:
    plain = list(batches(data, batch=5, workers=0, start=1, stop=5))
    kept = PairDataset(data.pairs, data.augmentation, concepts=2, seed=3, keep_decoded=True)
    assert_equal(plain, list(batches(data, batch=5, workers=2, start=1, stop=5)))
    assert_equal(plain, list(batches(kept, batch=5, workers=0, start=1, stop=5)))
    for images, texts in plain:
        assert images.shape == (5, 3, 32, 32) and texts.shape == (5, 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_a_state_goes_on_with_the_next_batch(data: PairDataset, workers: int, done: int) -> None:
    def loader() -> PairLoader:  # three batches an epoch: the state is of the middle of one
        return batches(data, batch=4, workers=workers, start=1, stop=9)

    whole = list(loader())
    killed = loader()
    seen = list(islice(killed, done))
    state = pickle.loads(pickle.dumps(killed.state_dict()))  # as from a file
    resumed = loader()
    resumed.load_state_dict(state)
    assert len(whole) == len(killed) == 8
    assert_equal([*seen, *resumed], whole)


def test_a_state_is_of_a_number_of_workers(data: PairDataset) -> None:
    state = batches(data, batch=4, workers=0, start=0, stop=2).state_dict()
    with pytest.raises(ValueError, match="state of 0 workers, the loader has 1"):
        batches(data, batch=4, workers=1, start=0, stop=2).load_state_dict(state)


def test_ranks_together_see_what_one_sees(data: PairDataset) -> None:
    whole = list(batches(data, batch=6, workers=0, start=0, stop=3))
    ranks = [
        list(batches(data, batch=6, workers=0, start=0, stop=3, rank=r, world=3)) for r in range(3)
    ]
    for step, (images, texts) in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([images for images, _ in parts]), images)
        width = texts.padded().shape[-1]
        padded = [torch.nn.functional.pad(t.padded(), (0, width)) for _, t in parts]
        assert torch.equal(torch.cat([one[..., :width] for one in padded]), texts.padded())
    with pytest.raises(RecipeError, match=r"data\.batch must be a multiple of the 4 ranks, got 6"):
        batches(data, batch=6, workers=0, start=0, stop=3, rank=0, world=4)


def test_what_a_worker_is_given_does_not_grow_with_the_pairs(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    def pickled(count: int) -> int:
        members: dict[str, bytes] = {}
        for i in range(count):
            members |= {f"{i:09d}.jpg": jpeg((9, 9, 9)), f"{i:09d}.txt": b"a wall"}
        shard = write_shard(tmp_path / f"{count:04d}.tar", members)
        pairs, _ = index_shards([shard], dataset="toy", cache=tmp_path / "index")
        drawn = PairDataset(pairs, augmentation("flip", 32))
        drawn[0, 0]  # maps the index
        return len(pickle.dumps(drawn))

    assert abs(pickled(1000) - pickled(10)) < 20


@pytest.fixture
def spawn() -> Iterator[None]:
    """Start processes afresh, as Python does by default elsewhere than on Linux."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.usefixtures("spawn")
def test_a_spawned_worker_gives_the_same(data: PairDataset) -> None:
    strong = PairDataset(data.pairs, augmentation("strong", 32), concepts=2, seed=3)
    here = list(batches(strong, batch=4, workers=0, start=0, stop=2))
    assert_equal(list(batches(strong, batch=4, workers=1, start=0, stop=2)), here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_are_in_pinned_memory(data: PairDataset, workers: int) -> None:
    for images, texts in batches(data, batch=4, workers=workers, start=0, stop=3):
        assert images.is_pinned() and all(part.is_pinned() for part in texts)
        there = texts.to(torch.device("cuda"), non_blocking=True)
        assert torch.equal(there.padded().cpu(), texts.padded())


def mostly_broken(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes], bad: int, of: int
) -> PairDataset:
    members: dict[str, bytes] = {}
    for i in range(of):
        members[f"{i:03d}.jpg"] = b"no image" if i < bad else jpeg((i, i, i))
        members[f"{i:03d}.txt"] = b"a wall"
    pairs, _ = index_shards([write_shard(tmp_path / "s.tar", members)], dataset="toy")
    return PairDataset(pairs, augmentation("none", 8), concepts=0)


def test_images_that_do_not_decode_are_counted_and_named(
    tmp_path: Path,
    write_shard: Write,
    jpeg: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = mostly_broken(tmp_path, write_shard, jpeg, 2, 20)
    runs = []
    for workers in (0, 2):
        caplog.clear()
        loader = batches(data, batch=5, workers=workers, start=0, stop=8)  # two epochs
        runs.append(list(loader))
        assert loader.replaced >= 4
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == loader.replaced and all(
            r.levelname == "WARNING" for r in caplog.records
        )
        assert lines[0].startswith("toy/s/00")
        assert lines[-1].endswith("drawn)")
        assert "image cannot be decoded: not an image; the next pair takes its place" in lines[0]
    assert_equal(*runs)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_that_do_not_decode_are_an_error(
    tmp_path: Path,
    write_shard: Write,
    jpeg: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    data = mostly_broken(tmp_path, write_shard, jpeg, 15, 30)
    with pytest.raises(DataError, match=r"^\d+ of 30 drawn images cannot be decoded, more than 1%"):
        list(batches(data, batch=30, workers=workers, start=0, stop=1))
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line(colour_shard: Path, workers: int) -> None:
    pairs, _ = index_shards([colour_shard], dataset="toy")
    colour_shard.unlink()
    data = PairDataset(pairs, augmentation("none", 8))
    loader: Iterator[object] = iter(batches(data, batch=4, workers=workers, start=0, stop=1))
    with pytest.raises(DataError) as caught:
        next(loader)
    said = f"{colour_shard}: cannot be read (No such file or directory)"
    assert str(caught.value) == said
