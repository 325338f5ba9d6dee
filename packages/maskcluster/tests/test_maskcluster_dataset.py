"""Photographs with masks: repeatable draws, what is left out, replaced or refused."""

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskcluster.config import ViewConfig
from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.data.loader import Draw
from maskcluster.errors import DataError, RecipeError
from maskcluster.masks.mask_set import MaskRules, MaskSet
from maskcluster.masks.rle import Rle
from maskcluster.masks.sa1b import Sa1bFolder, write_sa1b
from maskcluster.masks.store import MaskStore, MaskStoreWriter, Part

REAL = Path(__file__).parents[4] / "shared/data/coco128_panoptic"
SIZE = (48, 64)
VIEWS = ViewConfig(shortest_px=48, longest_px=64, crop_px=32, image_px=32, mask_px=32)


def masks_of(number: int, size: tuple[int, int] = SIZE) -> MaskSet:
    """As many masks as the number says, and one more of the whole photograph."""
    masks = np.ones((number + 1, *size), np.bool_)
    for at, mask in enumerate(masks[1:]):
        mask[at * 5 :] = False
        mask[:, : 3 * at] = False
    return MaskSet.of(*size, [Rle.from_mask(mask) for mask in masks])


def write_photo(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        write_photo(folder / f"{number}.png", number)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> MaskStore:
    masks = {str(number): masks_of(number) for number in range(9)}
    masks["3"] = MaskSet.of(*SIZE, [])
    writer = MaskStoreWriter(tmp_path / "store", generator={"by": "hand"}, keys=sorted(masks))
    writer.write(0, Part(masks, {}))
    return writer.finish()


def equal(one: Draw, other: Draw) -> bool:
    same = all(torch.equal(a, b) for a, b in zip(one.view, other.view, strict=True))
    return same and one.key == other.key


def test_a_draw_depends_on_seed_epoch_and_key_alone(photos: Path, store: MaskStore) -> None:
    data = MaskedPhotos(photos, store, VIEWS, seed=3)
    first = [data[0, index] for index in range(len(data))]
    again = MaskedPhotos(photos, store, VIEWS, seed=3)
    assert all(equal(again[0, index], first[index]) for index in reversed(range(len(data))))
    (photos / "2.png").unlink()  # numbers change, keys do not
    fewer = MaskedPhotos(photos, store, VIEWS, seed=3)
    assert len(fewer) == 8 and equal(fewer[0, 5], first[6])
    for other in (data[1, 6], MaskedPhotos(photos, store, VIEWS, seed=4)[0, 5]):
        assert other.key == "6" and not torch.equal(other.view.weak, first[6].view.weak)


def test_masks_are_those_of_the_photograph(photos: Path, store: MaskStore) -> None:
    data = MaskedPhotos(photos, store, replace(VIEWS, crop_px=48, cutout=0.0))
    for index in (0, 1, 2, 8):
        packed = data[0, index].view.packed
        assert 1 <= len(packed) <= index + 1 and (packed[0] == 255).all()
    assert data[0, 3].view.packed.shape == (0, 32, 4)  # an entry without masks stays
    assert len({data[0, i].key for i in range(9)}) == 9


def test_views_need_no_masks(photos: Path, store: MaskStore) -> None:
    data = MaskedPhotos(photos, None, VIEWS, seed=3)
    with_masks = MaskedPhotos(photos, store, VIEWS, seed=3)
    for index in range(9):
        view = data[0, index].view
        assert view.packed.shape == (0, 32, 4)
        assert torch.equal(view.strong, with_masks[0, index].view.strong)


def test_it_reads_sa1b_and_says_what_has_no_masks(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "json").mkdir()
    for number in (1, 4):
        write_sa1b(tmp_path / f"json/{number}.json", masks_of(number), file_name=f"{number}.png")
    data = MaskedPhotos(photos, Sa1bFolder(tmp_path / "json"), VIEWS)
    assert data.photos.keys() == ["1", "4"]
    assert [r.getMessage() for r in caplog.records] == [
        "2 photographs with masks; 7 without are left out, the first is '0'"
    ]
    assert len(data[0, 1].view.packed) >= 1


def test_a_photograph_that_cannot_be_used_is_replaced_by_the_next(
    tmp_path: Path, photos: Path
) -> None:
    """Damaged, of another size than its masks, and with a damaged file of masks."""
    (tmp_path / "json").mkdir()
    for number in range(9):
        write_sa1b(tmp_path / f"json/{number}.json", masks_of(number), file_name=f"{number}.png")
    whole = MaskedPhotos(photos, Sa1bFolder(tmp_path / "json"), VIEWS)[0, 4]
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
    write_sa1b(tmp_path / "json/2.json", masks_of(2, (64, 48)), file_name="2.png")
    (tmp_path / "json/3.json").write_text(json.dumps({"image": {}}))
    data = MaskedPhotos(photos, Sa1bFolder(tmp_path / "json"), VIEWS)
    draw = data[0, 1]
    assert equal(draw, whole) and draw.key == "4" and not data[0, 4].replaced
    assert [one.key for one in draw.replaced] == ["1", "2", "3"]
    damaged, size, schema = (one.reason for one in draw.replaced)
    assert "1.png: not a picture that can be read" in damaged
    assert size == (
        "its masks are of 64 x 48, the photograph, upright, is 48 x 64 (height x width)"
    )
    assert "image.height must be a whole number" in schema
    assert data[0, 8].key == "8"
    (photos / "8.png").write_bytes(b"")
    assert data[0, 8].key == "0"  # the next after the last is the first


def test_masks_that_go_while_it_runs_are_said_to_be_gone(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "json").mkdir()
    for number in (1, 4):
        write_sa1b(tmp_path / f"json/{number}.json", masks_of(number), file_name=f"{number}.png")
    data = MaskedPhotos(photos, Sa1bFolder(tmp_path / "json"), VIEWS)
    (tmp_path / "json/1.json").unlink()
    assert data[0, 0].replaced[0].reason == "its masks are gone"


def test_where_none_can_be_used_it_is_an_error(photos: Path) -> None:
    for path in photos.iterdir():
        path.write_text("no picture")
    with pytest.raises(DataError, match=r"'4' and the 8 photographs after it: none can be used \("):
        MaskedPhotos(photos, None, VIEWS)[0, 4]


def test_a_turned_photograph_agrees_with_masks_of_what_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "photos/a.jpg", exif=exif)
    (tmp_path / "json").mkdir()
    write_sa1b(tmp_path / "json/a.json", masks_of(2, (64, 48)), file_name="a.jpg")
    draw = MaskedPhotos(tmp_path / "photos", Sa1bFolder(tmp_path / "json"), VIEWS)[0, 0]
    assert not draw.replaced and len(draw.view.packed) >= 1


def test_the_fingerprint_is_of_photographs_and_masks(photos: Path, store: MaskStore) -> None:
    def fingerprint(masks: MaskStore | None) -> str:
        return MaskedPhotos(photos, masks, VIEWS).fingerprint

    ruled = MaskStore.open(store.folder, rules=MaskRules(min_area=9))
    found = {fingerprint(store), fingerprint(None), fingerprint(ruled)}
    assert len(found) == 3
    assert fingerprint(MaskStore.open(store.folder)) == fingerprint(store)
    other = MaskedPhotos(photos, store, replace(VIEWS, flip=0.0), seed=8)
    assert other.fingerprint == fingerprint(store)  # views and seed are the recipe's
    Image.new("RGB", (64, 48)).save(photos / "5.png")
    assert fingerprint(store) not in found


def test_it_may_be_sent_to_another_process(photos: Path, store: MaskStore) -> None:
    data = MaskedPhotos(photos, store, VIEWS, seed=3)
    assert equal(pickle.loads(pickle.dumps(data))[2, 5], data[2, 5])


def test_fewer_photographs_than_a_batch_are_refused(photos: Path, store: MaskStore) -> None:
    data = MaskedPhotos(photos, store, VIEWS)
    with pytest.raises(DataError, match="a batch of 10 photographs needs as many, there are 9"):
        batches(data, batch=10, workers=0, start=0, stop=1)
    with pytest.raises(RecipeError, match=r"data\.batch must be a multiple of the 2 ranks, got 9"):
        batches(data, batch=9, workers=0, start=0, stop=1, world=2)


@pytest.mark.skipif(not REAL.is_dir(), reason="the coco128_panoptic data are not on this machine")
def test_real_photographs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = MaskedPhotos(REAL / "images", Sa1bFolder(REAL / "sa1b_style"), ViewConfig())
    assert len(data) == 200 and caplog.messages == ["200 photographs with masks"]
    for batch in batches(data, batch=8, workers=0, start=30, stop=32):
        assert batch.weak.shape == batch.strong.shape == (8, 3, 320, 320)
        assert batch.packed.shape[1:] == (256, 32) and len(batch.packed) == len(batch.owner) > 16
        assert batch.weak.float().std(dim=(1, 2, 3)).min() > 5
        assert not torch.equal(batch.weak, batch.strong)
