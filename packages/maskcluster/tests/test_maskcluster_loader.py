"""Batches from workers: the same for any number, going on in the middle, losses counted."""

import logging
import multiprocessing
import pickle
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskcluster.config import ViewConfig
from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.data.loader import Batch, Draw, PhotoLoader, collate
from maskcluster.data.views import View
from maskcluster.errors import DataError
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.photo_files import Photo
from maskcluster.masks.rle import Rle

VIEWS = ViewConfig(shortest_px=48, longest_px=64, crop_px=32, image_px=32, mask_px=32)


class Table:
    """A source of masks in memory."""

    def __init__(self, masks: Mapping[str, MaskSet]) -> None:
        self.masks = masks

    def keys(self) -> Sequence[str]:
        return sorted(self.masks)

    def __getitem__(self, key: str) -> MaskSet:
        return self.masks[key]


def write_photos(folder: Path, count: int, *, broken: int = 0) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(
            folder / f"{number:03d}.png"
        )
        if number < broken:
            (folder / f"{number:03d}.png").write_text("no picture")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> MaskedPhotos:
    """Ten photographs, of which number i has i masks."""
    rng = np.random.default_rng(1)
    found = {}
    for number in range(10):
        masks = [Rle.from_mask(rng.random((24, 32)) < 0.5) for _ in range(number)]
        found[f"{number:03d}"] = MaskSet.of(24, 32, masks)
    return MaskedPhotos(write_photos(tmp_path / "photos", 10), Table(found), VIEWS, seed=3)


def assert_equal(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    assert len(one) == len(other)
    for batch, more in zip(one, other, strict=True):
        assert batch.keys == more.keys
        for name in ("weak", "strong", "packed", "owner"):
            assert torch.equal(getattr(batch, name), getattr(more, name))


def joined(parts: Sequence[Batch]) -> Batch:
    """Batches of all ranks as one."""
    share = len(parts[0].keys)
    return Batch(
        weak=torch.cat([part.weak for part in parts]),
        strong=torch.cat([part.strong for part in parts]),
        packed=torch.cat([part.packed for part in parts]),
        owner=torch.cat([part.owner + rank * share for rank, part in enumerate(parts)]),
        keys=tuple(key for part in parts for key in part.keys),
    )


def test_masks_of_a_batch_know_their_photograph() -> None:
    def draw(key: str, masks: int) -> Draw:
        views = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        packed = torch.full((masks, 32, 4), masks, dtype=torch.uint8)
        return Draw(View(views[0], views[1], packed), key)

    batch, replaced = collate([draw("a", 2), draw("b", 0), draw("c", 3)])
    assert batch.owner.tolist() == [0, 0, 2, 2, 2] and batch.owner.dtype == torch.int64
    assert batch.packed[:, 0, 0].tolist() == [2, 2, 3, 3, 3]
    assert batch.keys == ("a", "b", "c") and not replaced
    empty, _ = collate([draw("a", 0), draw("b", 0)])
    assert empty.packed.shape == (0, 32, 4)
    assert empty.owner.shape == (0,) and empty.owner.dtype == torch.int64
    assert_equal([batch.to(torch.device("cpu"))], [batch])


def test_workers_change_nothing(data: MaskedPhotos) -> None:
    plain = list(batches(data, batch=5, workers=0, start=1, stop=5))
    assert_equal(plain, list(batches(data, batch=5, workers=2, start=1, stop=5)))
    for batch in plain:
        assert batch.weak.shape == (5, 3, 32, 32) and batch.weak.dtype == torch.uint8
        assert len(batch.packed) == len(batch.owner) == sum(int(key) for key in batch.keys)
    assert {key for batch in plain[1:3] for key in batch.keys} == set(data.photos.keys())


def test_any_step_is_reached_without_what_was_before(
    data: MaskedPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(batches(data, batch=4, workers=0, start=0, stop=9))
    read: list[int] = []
    plain = data.photos.read

    def counted(index: int) -> Photo:
        read.append(index)
        return plain(index)

    monkeypatch.setattr(data.photos, "read", counted)
    assert_equal(list(batches(data, batch=4, workers=0, start=7, stop=9)), whole[7:])
    assert len(read) == 8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_a_state_goes_on_with_the_next_batch(data: MaskedPhotos, workers: int, done: int) -> None:
    def loader() -> PhotoLoader:  # two batches an epoch: the state is of the middle of one
        return batches(data, batch=4, workers=workers, start=1, stop=9)

    whole = list(loader())
    killed = loader()
    seen = list(islice(killed, done))
    state = pickle.loads(pickle.dumps(killed.state_dict()))  # as from a file
    resumed = loader()
    resumed.load_state_dict(state)
    assert len(whole) == len(killed) == 8
    assert_equal([*seen, *resumed], whole)


def test_a_state_is_of_a_number_of_workers(data: MaskedPhotos) -> None:
    state = batches(data, batch=4, workers=0, start=0, stop=2).state_dict()
    with pytest.raises(ValueError, match="state of 0 workers, the loader has 1"):
        batches(data, batch=4, workers=1, start=0, stop=2).load_state_dict(state)


def test_ranks_together_see_what_one_sees(data: MaskedPhotos) -> None:
    whole = list(batches(data, batch=6, workers=0, start=0, stop=3))
    ranks = [
        list(batches(data, batch=6, workers=0, start=0, stop=3, rank=r, world=3)) for r in range(3)
    ]
    assert_equal([joined(parts) for parts in zip(*ranks, strict=True)], whole)


@pytest.fixture
def spawn() -> Iterator[None]:
    """Start processes afresh, as Python does by default elsewhere than on Linux."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.usefixtures("spawn")
def test_a_spawned_worker_gives_the_same(tmp_path: Path) -> None:
    data = MaskedPhotos(write_photos(tmp_path / "photos", 8), None, VIEWS)
    here = list(batches(data, batch=4, workers=0, start=0, stop=2))
    assert_equal(list(batches(data, batch=4, workers=1, start=0, stop=2)), here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_are_in_pinned_memory(data: MaskedPhotos, workers: int) -> None:
    for batch in batches(data, batch=4, workers=workers, start=0, stop=3):
        assert isinstance(batch, Batch) and isinstance(batch.keys, tuple)
        assert batch.weak.is_pinned() and batch.packed.is_pinned()
        there = batch.to(torch.device("cuda"), non_blocking=True)
        assert torch.equal(there.strong.cpu(), batch.strong) and there.keys == batch.keys


def test_photographs_that_cannot_be_used_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = MaskedPhotos(write_photos(tmp_path / "photos", 20, broken=2), None, VIEWS)
    runs = []
    for workers in (0, 2):
        caplog.clear()
        loader = batches(data, batch=5, workers=workers, start=0, stop=8)  # two epochs
        runs.append(list(loader))
        assert loader.replaced >= 4
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == loader.replaced
        assert all(record.levelno == logging.WARNING for record in caplog.records)
        assert lines[0].startswith("'00") and "cannot be used: " in lines[0]
        assert "not a picture that can be read" in lines[0]
        assert lines[0].endswith("the next photograph takes its place (1 of 5 drawn)")
    assert_equal(*runs)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_that_cannot_be_used_are_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    data = MaskedPhotos(write_photos(tmp_path / "photos", 30, broken=15), None, VIEWS)
    said = r"^\d+ of 30 drawn photographs cannot be used, more than 1%"
    with pytest.raises(DataError, match=said):
        list(batches(data, batch=30, workers=workers, start=0, stop=1))
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line(tmp_path: Path, workers: int) -> None:
    data = MaskedPhotos(write_photos(tmp_path / "photos", 4, broken=4), None, VIEWS)
    with pytest.raises(DataError, match=r"^'00\d' and the 3 photographs after it: ") as caught:
        next(iter(batches(data, batch=4, workers=workers, start=0, stop=1)))
    assert "\n" not in str(caught.value)
