"""Photographs by number, and which of them have masks."""

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcluster.data.photos import Photos, with_masks
from maskcluster.errors import DataError, UsageError
from maskcluster.masks.mask_set import MaskSet


class Table:
    """A source of masks in memory."""

    def __init__(self, masks: Mapping[str, MaskSet]) -> None:
        self._masks = masks

    def keys(self) -> Sequence[str]:
        return sorted(self._masks)

    def __getitem__(self, key: str) -> MaskSet:
        return self._masks[key]


def folder(at: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (number, 0, 0)).save(at / name)
    return at


def table(*keys: str) -> Table:
    return Table({key: MaskSet.of(4, 6, []) for key in keys})


def test_photographs_are_numbered_by_their_keys(tmp_path: Path) -> None:
    photos = Photos.find(folder(tmp_path, "b.png", "a/x.jpg", "a/c.bmp"))
    assert photos.keys() == ["a/c", "a/x", "b"]
    assert [photos.key(i) for i in range(len(photos))] == photos.keys()
    assert photos.path(2) == tmp_path / "b.png"
    read = photos.read(2)
    assert read.shape == (4, 6, 3) and read.dtype == np.uint8


def test_a_few_are_chosen_and_sent_to_another_process(tmp_path: Path) -> None:
    photos = Photos.find(folder(tmp_path, "a.png", "b.png", "c.png"))
    chosen = pickle.loads(pickle.dumps(photos.select(np.array([0, 2]))))
    assert chosen.keys() == ["a", "c"] and chosen.path(1) == tmp_path / "c.png"


def test_a_photograph_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    at = folder(tmp_path, "a.jpg") / "a.jpg"
    at.write_bytes(at.read_bytes()[:300])
    with pytest.raises(DataError, match=r"a\.jpg: not a picture that can be read") as caught:
        Photos.find(tmp_path).read(0)
    assert "\n" not in str(caught.value)


def test_a_turned_photograph_is_read_as_generators_read_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert Photos.find(tmp_path).read(0).shape == (6, 4, 3)


def test_what_is_not_there_or_double_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photograph there"):
        Photos.find(tmp_path)
    with pytest.raises(UsageError, match="have one key, 'a'"):
        Photos.find(folder(tmp_path, "a.png", "a.jpg"))


def test_the_fingerprint_is_of_keys_and_sizes_not_of_the_place(tmp_path: Path) -> None:
    here = Photos.find(folder(tmp_path / "here", "a.png", "b.png"))
    there = Photos.find(folder(tmp_path / "there", "a.png", "b.png"))
    other = Photos.find(folder(tmp_path / "other", "a.png", "c.png"))
    assert here.fingerprint == there.fingerprint != other.fingerprint
    (tmp_path / "there/a.png").write_bytes(b"longer" * 100)
    assert Photos.find(tmp_path / "there").fingerprint != here.fingerprint
    (tmp_path / "other/c.png").unlink()
    with pytest.raises(DataError, match=r"c\.png: cannot be read"):
        _ = Photos(other._keys, other._paths).fingerprint


def test_photographs_without_masks_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = Photos.find(folder(tmp_path, "a.png", "b.png", "c.png", "d.png"))
    with caplog.at_level(logging.INFO):
        assert with_masks(photos, table("b", "d", "x", "y", "z")).keys() == ["b", "d"]
        assert with_masks(photos, table("a", "b", "c", "d")) is photos
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 photographs with masks; 2 without are left out, the first is 'a'; "
        "3 have masks but no photograph, the first is 'x'",
        "4 photographs with masks",
    ]


def test_keys_that_never_agree_are_an_error_that_shows_both(tmp_path: Path) -> None:
    photos = Photos.find(folder(tmp_path, "train/a.png"))
    with pytest.raises(DataError, match=r"none of 1 .* like 'train/a' here and like 'a' there"):
        with_masks(photos, table("a"))
    with pytest.raises(DataError, match="like '' there"):
        with_masks(photos, table())
