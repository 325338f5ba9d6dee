"""ADE20K with 150 and 847 classes, and Cityscapes from labelIds and trainIds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segbench import (
    DataMissingError,
    FormatError,
    UnreadableImageError,
    UsageError,
    load_names,
    open_dataset,
)
from segbench.datasets import BenchmarkDataset

MAPPINGS = json.loads(
    (Path(__file__).parents[1] / "src/segbench/classnames/mappings.json").read_text()
)


def save(path: Path, values: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def opened(root: Path, kind: str, **options: str) -> BenchmarkDataset:
    dataset = open_dataset({"kind": kind, **options}, root)
    assert isinstance(dataset, BenchmarkDataset)
    return dataset


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_value(dataset: BenchmarkDataset, count: int) -> dict[int, int | None]:
    """Label of each value, None where it means nothing; image i holds the value i."""
    assert len(dataset) == count
    found: dict[int, int | None] = {}
    for value in range(count):
        try:
            found[value] = int(dataset[value].labels[0, 0])
        except FormatError as error:
            assert f"holds the value {value}, which means nothing" in str(error)
            found[value] = None
    return found


# ADE20K


def ade(home: Path, values: dict[str, npt.NDArray[Any]], labels: str, suffix: str = ".png") -> Path:
    images = "images_detectron2" if suffix == ".tif" else "images"
    for name, each in values.items():
        save(home / f"{images}/validation/{name}.jpg", np.zeros((*each.shape, 3), np.uint8))
        save(home / f"{labels}/validation/{name}{suffix}", each)
    return home


def pixels(count: int, dtype: type[np.generic] = np.uint8) -> dict[str, npt.NDArray[Any]]:
    return {f"ADE_val_{v:08d}": np.full((1, 1), v, dtype) for v in range(count)}


def test_every_byte_of_ade_is_zero_reduced(tmp_path: Path) -> None:
    ade(tmp_path / "ade/ADEChallengeData2016", pixels(256), "annotations")
    found = by_value(opened(tmp_path, "ade150"), 256)
    nothing = dict.fromkeys(range(151, 255))
    assert found == {0: -1, **{v: v - 1 for v in range(1, 151)}, **nothing, 255: -1}
    assert 254 not in found.values()


def test_every_byte_of_detectron2_is_kept(tmp_path: Path) -> None:
    ade(tmp_path / "ADEChallengeData2016", pixels(256), "annotations_detectron2")
    found = by_value(opened(tmp_path, "ade150"), 256)
    assert found == {**dict.fromkeys(range(256)), **{v: v for v in range(150)}, 255: -1}


def test_original_beside_converted_asks_which(tmp_path: Path) -> None:
    home = tmp_path / "ADEChallengeData2016"
    ade(home, {"a": np.array([[0, 1]], np.uint8)}, "annotations")
    ade(home, {"a": np.array([[255, 0]], np.uint8)}, "annotations_detectron2")
    with pytest.raises(UsageError, match=r'layout = "detectron2" or "scene_parsing"$') as caught:
        opened(tmp_path, "ade150")
    one_line(caught)
    for layout in ("detectron2", "scene_parsing"):
        assert opened(tmp_path, "ade150", layout=layout)[0].labels.tolist() == [[-1, 0]]


def test_sixteen_bit_tiff_of_847_classes(tmp_path: Path) -> None:
    values = np.array([[0, 254, 255, 256], [511, 846, 65535, 846]], dtype=np.uint16)
    home = ade(tmp_path / "ADE20K_2021_17_01", {"a": values}, "annotations_detectron2", ".tif")
    path = home / "annotations_detectron2/validation/a.tif"
    with Image.open(path) as stored:
        assert stored.mode == "I;16"
    dataset = opened(tmp_path, "ade847")
    assert dataset[0].labels.tolist() == [[0, 254, 255, 256], [511, 846, -1, 846]]
    assert (dataset.names[0], len(dataset.names)) == ("wall", 847)
    save(path, np.full((2, 4), 847, np.uint16))
    with pytest.raises(FormatError, match="holds the value 847"):
        dataset[0]
    path.unlink()
    with pytest.raises(DataMissingError, match="no ade847"):
        opened(tmp_path, "ade847")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's, before its error
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_files_that_are_cut_off(tmp_path: Path, compression: str | None) -> None:
    values = np.arange(600, dtype=np.uint16).reshape(20, 30)
    home = ade(tmp_path / "ADE20K_2021_17_01", {"a": values}, "annotations_detectron2", ".tif")
    path = home / "annotations_detectron2/validation/a.tif"
    Image.fromarray(values).save(path, compression=compression)
    dataset = opened(tmp_path, "ade847")
    assert (dataset[0].labels == values).all()
    good = path.read_bytes()
    for keep in (0, 4, 8, 20, len(good) // 2):
        path.write_bytes(good[:keep])
        with pytest.raises(UnreadableImageError, match=r"a\.tif: cannot be decoded") as caught:
            dataset[0]
        one_line(caught)


def test_the_two_ade_sets_do_not_take_each_other(tmp_path: Path) -> None:
    values = {"a": np.ones((1, 1), np.uint16)}
    ade(tmp_path / "ADE20K_2021_17_01", values, "annotations_detectron2", ".tif")
    with pytest.raises(DataMissingError, match="no ade150"):
        opened(tmp_path, "ade150")
    assert len(opened(tmp_path, "ade847")) == 1


def test_colour_masks_of_the_other_release_are_refused(tmp_path: Path) -> None:
    home = ade(tmp_path / "ADEChallengeData2016", pixels(1), "annotations")
    save(home / "annotations/validation/ADE_val_00000000.png", np.full((1, 1, 3), 120, np.uint8))
    with pytest.raises(FormatError, match=r"holds colours \(mode 'RGB'\)") as caught:
        opened(tmp_path, "ade150")[0]
    one_line(caught)


def test_real_ade_samples(real_data: Path, tmp_path: Path) -> None:
    """Real pictures in the layout of the release: labels are mask value - 1, names fit."""
    samples = real_data / "ade20k_samples"
    if not samples.is_dir():
        pytest.skip(f"no ade20k_samples in {real_data}")
    home = tmp_path / "ADEChallengeData2016"
    (home / "images").mkdir(parents=True)
    (home / "annotations").mkdir()
    (home / "images/validation").symlink_to(samples / "images")
    (home / "annotations/validation").symlink_to(samples / "masks")
    dataset = opened(tmp_path, "ade150")
    assert [dataset[i].id for i in range(len(dataset))] == [
        f"ADE_val_0000000{n}" for n in (1, 2, 3)
    ]
    assert load_names("ade150")[0] == "wall"
    for index in range(3):
        example = dataset[index]
        with Image.open(samples / f"masks/{example.id}.png") as picture:
            stored = np.asarray(picture).astype(int)
        assert (example.labels == stored - 1).all()  # 0 becomes -1, ignored
        assert example.image.shape == (*stored.shape, 3)


# Cityscapes

FRAMES = ("frankfurt_000000_000294", "munster_000001_000019")


def cityscapes(root: Path, values: dict[str, npt.NDArray[Any]], suffix: str) -> Path:
    for frame, each in values.items():
        city = frame.split("_")[0]
        image = np.zeros((*each.shape, 3), np.uint8)
        save(root / f"leftImg8bit/val/{city}/{frame}_leftImg8bit.png", image)
        save(root / f"gtFine/val/{city}/{frame}_gtFine_{suffix}.png", each)
        save(root / f"gtFine/val/{city}/{frame}_gtFine_instanceIds.png", each)
        save(root / f"gtFine/val/{city}/{frame}_gtFine_color.png", image)
    return root


def frames(count: int) -> dict[str, npt.NDArray[Any]]:
    return {f"lindau_{v:06d}_000019": np.full((1, 1), v, np.uint8) for v in range(count)}


def test_every_byte_of_label_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path / "cityscapes", frames(256), "labelIds")
    dataset = opened(tmp_path, "cityscapes19")
    assert dataset.layout == "label_ids"
    table = {int(k): v for k, v in MAPPINGS["cityscapes_label_id_to_train_id"].items()}
    assert len(table) == 35
    want = {v: -1 if table[v] == 255 else table[v] for v in range(34)}
    assert by_value(dataset, 256) == {**dict.fromkeys(range(256)), **want, 255: -1}
    assert (want[7], want[11], want[33], want[16]) == (0, 2, 18, -1)
    assert dataset.names == load_names("cityscapes19")
    assert [dataset.names[i] for i in dataset.subsets["thing"]] == [
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]


def test_every_byte_of_train_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path / "city", frames(256), "labelTrainIds")
    found = by_value(opened(tmp_path, "cityscapes19"), 256)
    assert found == {**dict.fromkeys(range(256)), **{v: v for v in range(19)}, 255: -1}


def test_frames_of_all_cities_by_name(tmp_path: Path) -> None:
    values = np.array([[7, 26], [0, 8]], dtype=np.uint8)
    cityscapes(tmp_path, dict.fromkeys(reversed(FRAMES), values), "labelIds")
    dataset = opened(tmp_path, "cityscapes19")
    assert [dataset[0].id, dataset[1].id] == list(FRAMES)
    assert dataset[1].labels.tolist() == [[0, 13], [-1, 1]]


def test_both_kinds_of_ids_ask_which(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    cityscapes(root, {FRAMES[0]: np.full((1, 1), 26, np.uint8)}, "labelIds")
    cityscapes(root, {FRAMES[0]: np.full((1, 1), 13, np.uint8)}, "labelTrainIds")
    with pytest.raises(UsageError, match=r'layout = "label_ids" or "train_ids"$') as caught:
        opened(tmp_path, "cityscapes19")
    one_line(caught)
    for layout in ("label_ids", "train_ids"):
        assert opened(tmp_path, "cityscapes19", layout=layout)[0].labels.tolist() == [[13]]


def test_a_frame_in_two_cities_is_refused(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, {FRAMES[0]: np.zeros((1, 1), np.uint8)}, "labelIds")
    (root / "leftImg8bit/val/bonn").mkdir()
    (root / f"leftImg8bit/val/bonn/{FRAMES[0]}_leftImg8bit.png").write_bytes(b"")
    with pytest.raises(FormatError, match=f"have the same id '{FRAMES[0]}'"):
        opened(tmp_path, "cityscapes19")


def test_a_frame_without_its_picture(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, dict.fromkeys(FRAMES, np.zeros((1, 1), np.uint8)), "labelIds")
    (root / f"leftImg8bit/val/munster/{FRAMES[1]}_leftImg8bit.png").unlink()
    with pytest.raises(DataMissingError, match=rf"1 labels .* no image .*is {FRAMES[1]}"):
        opened(tmp_path, "cityscapes19")
    (root / "leftImg8bit").rename(root / "left")
    with pytest.raises(DataMissingError, match="no folder leftImg8bit/val in"):
        opened(tmp_path, "cityscapes19")
