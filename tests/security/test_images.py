"""Images: giants, bombs and formats that run programs are refused at every entry, by name."""

import csv
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import groupvit
import maskcluster
import segbench
from conceptarchive import ArchiveConfig, Embeddings, Vocabulary, build_archive, embed, write_page
from segbench import FolderDataset, FormatError, ImageNetDataset, UnreadableImageError, load_task

LittleMemory = Callable[..., AbstractContextManager[None]]
MakeTar = Callable[[Path, Any], Path]

ROOM = 1536 << 20
"""Bytes for entries that start threads, each of which reserves some."""


class Grey:
    """An encoder of one number."""

    id = "grey"

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.ones(len(images), 1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.ones(len(texts), 1)


@pytest.fixture
def shard(
    tmp_path: Path,
    make_tar: MakeTar,
    pair: Callable[[str, bytes], Any],
    photo: bytes,
    hostile_images: Mapping[str, bytes],
) -> Path:
    """A tar of a good pair and of all hostile images."""
    images = {"good": photo, **hostile_images}
    members = [one for key, image in images.items() for one in pair(key, image)]
    return make_tar(tmp_path / "00000.tar", members)


@pytest.mark.parametrize("package", ["groupvit", "maskcluster"])
def test_open_photo_refuses_them_in_one_line(
    package: str,
    hostile_images: Mapping[str, bytes],
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    module = importlib.import_module(package)
    error = {"groupvit": groupvit.GroupViTError, "maskcluster": maskcluster.DataError}[package]
    for name, data in hostile_images.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(data)
        with little_memory(), pytest.raises(error) as caught:
            module.open_photo(path)
        assert str(caught.value).startswith(f"{path}: "), name
        assert "\n" not in str(caught.value), name
    assert not ghostscript.sprung


@pytest.mark.parametrize("package", ["groupvit", "maskcluster"])
def test_data_behind_the_last_pixel_are_not_inflated(
    package: str, long_image: bytes, little_memory: LittleMemory, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(long_image)
    with little_memory():
        photo = importlib.import_module(package).open_photo(tmp_path / "a.png")
    assert photo.shape == (8, 8, 3) and not photo.any()


def test_label_maps_are_refused_in_one_line(
    hostile_images: Mapping[str, bytes],
    long_image: bytes,
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.png"
    for name, data in hostile_images.items():
        path.write_bytes(data)
        with little_memory(), pytest.raises(maskcluster.DataError) as caught:
            maskcluster.read_label_map(path)
        assert str(caught.value).startswith(f"{path}: "), name
        assert "\n" not in str(caught.value), name
    path.write_bytes(long_image)
    with little_memory():
        assert maskcluster.read_label_map(path).areas.tolist() == [64]
    assert not ghostscript.sprung


def test_embedding_lists_them_and_goes_on(
    shard: Path,
    hostile_images: Mapping[str, bytes],
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    with little_memory(ROOM):
        report = embed([shard], Grey(), tmp_path / "emb", dataset="set", workers=1)
    assert report.rows == 1
    with (tmp_path / "emb" / "failed.tsv").open() as file:
        listed = [row for row in csv.reader(file, delimiter="\t") if len(row) > 1]
    assert {key for row in listed for key in row if key in hostile_images} == set(hostile_images)
    assert not ghostscript.sprung


def test_training_leaves_them_out(
    shard: Path,
    hostile_images: Mapping[str, bytes],
    little_memory: LittleMemory,
    ghostscript: Any,
) -> None:
    pairs, _ = groupvit.index_shards([shard], dataset="set")
    with little_memory():
        kept, left_out = groupvit.without_corrupt(pairs)
    assert [pair.id for pair in kept] == ["set/00000/good"]
    assert {one.id.rpartition("/")[2] for one in left_out} == set(hostile_images)
    assert not ghostscript.sprung


def test_mask_generation_names_them_and_goes_on(
    hostile_images: Mapping[str, bytes],
    photo: bytes,
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    (tmp_path / "photos").mkdir()
    for name, data in {"good": photo, **hostile_images}.items():
        (tmp_path / "photos" / f"{name}.png").write_bytes(data)
    with little_memory(ROOM):
        report = maskcluster.generate(tmp_path / "photos", tmp_path / "masks", maskcluster.Slic())
    assert list(report.store) == ["good"]
    assert set(report.store.skipped) == set(hostile_images)
    assert not ghostscript.sprung


def test_a_page_of_an_archive_shows_that_there_is_no_picture(
    hostile_images: Mapping[str, bytes],
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    keys = [f"set/0/{name}" for name in hostile_images]
    rows = np.full((len(keys), 4), 0.5, np.float32)  # all images alike
    pairs = Embeddings.from_arrays(keys, ["a dog"] * len(keys), rows)
    archive = build_archive(
        tmp_path / "archive",
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary(("dog",)),
        concept_features=rows[:1],
        config=ArchiveConfig(neighbours=2),
    )
    page = tmp_path / "page.html"
    with little_memory():
        write_page(archive, keys, page, images=lambda key: hostile_images[key.rpartition("/")[2]])
    text = page.read_text()
    assert text.count("no picture") >= len(keys) and "data:image" not in text
    assert not ghostscript.sprung


def folder_of(root: Path, image: bytes, mask: bytes) -> Path:
    """A data set of one image and one mask."""
    for place, data in {"images/val": image, "semantic_masks/val": mask}.items():
        (root / place).mkdir(parents=True)
        (root / place / "a.png").write_bytes(data)
    (root / "labels.tsv").write_text("mask_value\tname\n0\tsky\n")
    return root


@pytest.fixture(scope="module")
def mask() -> bytes:
    """Labels of `photo`: all sky."""
    buffer = io.BytesIO()
    Image.new("L", (64, 48)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("which", ["image", "mask"])
def test_data_sets_call_them_unreadable(
    which: str,
    hostile_images: Mapping[str, bytes],
    photo: bytes,
    mask: bytes,
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    for name, data in hostile_images.items():
        files = (data, mask) if which == "image" else (photo, data)
        dataset = FolderDataset(folder_of(tmp_path / name, *files))
        with little_memory(), pytest.raises(UnreadableImageError, match="cannot be decoded"):
            dataset[0]
    assert not ghostscript.sprung


def test_saved_predictions_are_refused(
    hostile_images: Mapping[str, bytes],
    photo: bytes,
    mask: bytes,
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    folder_of(tmp_path / "camvid11", photo, mask)
    task = load_task("camvid11@groupvit").with_dataset(
        folder="camvid11", images="images/val", masks="semantic_masks/val", ignore=[]
    )
    (tmp_path / "saved").mkdir()
    for name, data in hostile_images.items():
        (tmp_path / "saved" / "a.png").write_bytes(data)
        with little_memory(ROOM), pytest.raises((FormatError, UnreadableImageError)) as caught:
            segbench.score_folder(tmp_path / "saved", task, root=tmp_path)
        assert "a.png" in str(caught.value), name
    assert not ghostscript.sprung


def test_images_of_imagenet_are_unreadable(
    hostile_images: Mapping[str, bytes],
    little_memory: LittleMemory,
    ghostscript: Any,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "val" / "n01440764"
    folder.mkdir(parents=True)
    for number, data in enumerate(hostile_images.values()):
        (folder / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(data)
    dataset = ImageNetDataset(tmp_path)
    assert len(dataset) == len(hostile_images)
    for index in range(len(dataset)):
        with little_memory(), pytest.raises(UnreadableImageError, match="cannot be decoded"):
            dataset[index]
    assert not ghostscript.sprung
