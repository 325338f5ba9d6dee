"""ImageNet-S labels stored as colours, and ImageNet-1K in three layouts."""

import importlib
import io
import json
import sys
import tarfile
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
from segbench.datasets import BenchmarkDataset, ImageNetDataset

CLASSES = Path(__file__).parents[1] / "src/segbench/classnames"
WNIDS = json.loads((CLASSES / "imagenet1k.json").read_text())["wnids"]
NAMES = ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002", "ILSVRC2012_val_00000003")


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ImageNet-S


def colours(ids: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """RGB picture of ids, as LUSSeg/ImageNet-S stores them."""
    return np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)


def imagenet_s(root: Path, classes: int, ids: npt.NDArray[Any], home: str = "ImageNetS") -> Path:
    folder = root / home / f"ImageNetS{classes}"
    wnid = WNIDS[1]
    for part in ("validation", "validation-segmentation"):
        (folder / part / wnid).mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", ids.shape[::-1], (5, 5, 5))
    picture.save(folder / f"validation/{wnid}/{NAMES[0]}.JPEG")
    path = folder / f"validation-segmentation/{wnid}/{NAMES[0]}.png"
    Image.fromarray(colours(ids)).save(path)
    return path


def opened(root: Path, classes: int, **options: str) -> BenchmarkDataset:
    dataset = open_dataset({"kind": f"imagenet_s{classes}", **options}, root)
    assert isinstance(dataset, BenchmarkDataset)
    return dataset


def test_ids_past_one_byte_are_decoded_exactly(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 256], [511, 919, 1000]])
    path = imagenet_s(tmp_path, 919, ids)
    with Image.open(path) as stored:
        assert stored.mode == "RGB"
        assert np.asarray(stored)[1, 1].tolist() == [919 - 3 * 256, 3, 0]
    dataset = opened(tmp_path, 919)
    assert dataset[0].labels.tolist() == [[0, 255, 256], [511, 919, -1]]
    assert dataset[0].labels.dtype == np.int32
    assert (dataset[0].id, len(dataset.names)) == (NAMES[0], 920)


@pytest.mark.parametrize("classes", [50, 300, 919])
def test_every_id_through_each_table(tmp_path: Path, classes: int) -> None:
    path = imagenet_s(tmp_path, classes, np.arange(classes + 1).reshape(1, -1))
    dataset = opened(tmp_path, classes)
    assert dataset[0].labels.tolist() == [list(range(classes + 1))]
    names = load_names(f"imagenet_s{classes}")
    assert (dataset.names, names[0]) == (names, "background")
    for wrong in (classes + 1, 999, 1001, 65535):
        Image.fromarray(colours(np.full((1, classes + 1), wrong))).save(path)
        with pytest.raises(FormatError, match=f"holds the value {wrong}, which means nothing"):
            dataset[0]


@pytest.mark.parametrize("home", ["ImageNetS", "imagenet-s", "", "local_data/ImageNetS"])
def test_homes(tmp_path: Path, home: str) -> None:
    path = imagenet_s(tmp_path, 50, np.zeros((1, 2), int), home)
    assert len(opened(tmp_path, 50)) == 1
    assert len(opened(path.parents[2], 50)) == 1  # the home itself


def test_large_pictures_stay_as_they_are(tmp_path: Path) -> None:
    ids = np.zeros((1001, 1003), int)
    ids[1000, 1002] = 50
    imagenet_s(tmp_path, 50, ids)
    example = opened(tmp_path, 50)[0]
    assert (example.image.shape, example.labels.shape) == ((1001, 1003, 3), (1001, 1003))
    assert example.labels[1000, 1002] == 50


def test_pictures_that_hold_no_ids(tmp_path: Path) -> None:
    path = imagenet_s(tmp_path, 50, np.zeros((1, 2), int))
    dataset = opened(tmp_path, 50)
    Image.new("L", (2, 1), 3).save(path)
    with pytest.raises(FormatError, match=r"must be RGB with id = R \+ 256 G, got mode 'L'"):
        dataset[0]
    Image.new("RGB", (2, 1), (1, 0, 9)).save(path)
    with pytest.raises(FormatError, match=r"blue must be 0 where .*: 9") as caught:
        dataset[0]
    one_line(caught)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UnreadableImageError, match="cannot be decoded"):
        dataset[0]


# ImageNet-1K


def jpeg(shade: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, shade, shade)).save(content, "JPEG")
    return content.getvalue()


def read(dataset: ImageNetDataset) -> list[tuple[str, int, int]]:
    """Id, label and grey of each image."""
    examples = list(dataset)
    assert len(examples) == len(dataset)
    assert all(example.image.shape == (3, 4, 3) for example in examples)
    return [(e.id, e.label, int(e.image[0, 0, 0])) for e in examples]


LABELS = (65, 970, 0)
WANT = [(name, label, 10 * i) for i, (name, label) in enumerate(zip(NAMES, LABELS, strict=True))]


def flat(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(NAMES):
        (root / f"{name}.JPEG").write_bytes(jpeg(10 * index))
    return root


def test_folders_by_wordnet_id(tmp_path: Path) -> None:
    for index, (name, label) in enumerate(zip(NAMES, LABELS, strict=True)):
        folder = tmp_path / "imagenet/val" / WNIDS[label]
        folder.mkdir(parents=True)
        (folder / f"{name}.JPEG").write_bytes(jpeg(10 * index))
    dataset = ImageNetDataset(tmp_path)
    assert (dataset.layout, read(dataset)) == ("folders", WANT)
    assert dataset.names[65] == load_names("imagenet1k")[65]
    assert dataset.expected_images == 50_000
    assert dataset.count_note == "imagenet1k: 3 images, expected 50,000 (49,997 fewer)"
    (tmp_path / "imagenet/val/n00000001").mkdir()
    (tmp_path / "imagenet/val/n00000001/a.JPEG").write_bytes(jpeg(0))
    with pytest.raises(FormatError, match="n00000001 is no class of ImageNet-1K"):
        ImageNetDataset(tmp_path)


def devkit(path: Path) -> None:
    """ILSVRC2012_devkit_t12: ids count in an order of their own, the 1000 classes first."""
    path.mkdir(parents=True)
    order = [*reversed(WNIDS), "n00001740"]  # an inner synset comes after
    synsets = np.zeros((len(order), 1), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    for row, wnid in enumerate(order):
        synsets[row, 0] = (np.array([[row + 1]], np.uint16), wnid)
    importlib.import_module("scipy.io").savemat(path / "meta.mat", {"synsets": synsets})
    lines = [str(1000 - label) for label in LABELS]
    (path / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")


def test_flat_with_the_devkit(tmp_path: Path) -> None:
    flat(tmp_path / "val")
    devkit(tmp_path / "ILSVRC2012_devkit_t12/data")
    dataset = ImageNetDataset(tmp_path)
    assert (dataset.layout, read(dataset)) == ("flat", WANT)
    (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    with pytest.raises(DataMissingError, match=r"no .*meta\.mat: .* order that only") as caught:
        ImageNetDataset(tmp_path)
    one_line(caught)


def test_the_devkit_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tmp_path / "val")
    devkit(tmp_path / "ILSVRC2012_devkit_t12/data")
    monkeypatch.setitem(sys.modules, "scipy.io.matlab", None)
    with pytest.raises(DataMissingError, match="pip install scipy"):
        ImageNetDataset(tmp_path)


TRUTHS = {
    "imagenet_2012_validation_synset_labels.txt": "\n".join(WNIDS[label] for label in LABELS),
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "\n".join(f"{n},{WNIDS[i]} 1 2 3 4 " for n, i in zip(NAMES, LABELS, strict=True)),
    "val.txt": "\n".join(f"{n}.JPEG {i}" for n, i in zip(NAMES, LABELS, strict=True)),
}


@pytest.mark.parametrize("file", TRUTHS)
def test_flat_with_other_lists(tmp_path: Path, file: str) -> None:
    folder = flat(tmp_path / "ILSVRC2012_img_val")
    (tmp_path / file).write_text(TRUTHS[file])
    assert read(ImageNetDataset(tmp_path)) == WANT
    (tmp_path / file).rename(tmp_path / f"own{Path(file).suffix}")
    with pytest.raises(DataMissingError, match="images without classes") as caught:
        ImageNetDataset(tmp_path)
    one_line(caught)
    assert read(ImageNetDataset(tmp_path, truth=f"own{Path(file).suffix}")) == WANT
    with pytest.raises(DataMissingError, match=r"no file of labels none\.txt"):
        ImageNetDataset(tmp_path, truth="none.txt")
    assert folder.is_dir()


def test_several_lists_ask_which(tmp_path: Path) -> None:
    flat(tmp_path / "val")
    for file, text in TRUTHS.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match="several files of labels; choose with truth") as caught:
        ImageNetDataset(tmp_path)
    one_line(caught)
    assert len(ImageNetDataset(tmp_path, truth="val.txt")) == 3


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("val.txt", "", "is empty"),
        ("val.txt", f"{NAMES[0]}.JPEG 1000", r"in \[0, 1000\), got '1000'"),
        ("val.txt", f"{NAMES[0]}.JPEG -1", "got '-1'"),
        ("val.txt", f"{NAMES[0]}.JPEG 3", f"no label of {NAMES[1]}"),
        ("synset_labels.txt", "n01440764\nn99999999\n", "txt:2: 'n99999999' is no class"),
        ("LOC_val_solution.csv", f"ImageId,P\n{NAMES[0]},n99999999 1 2\n", "'n99999999' is no"),
        ("LOC_val_solution.csv", f"ImageId,P\n{NAMES[0]},\n", "'' is no class"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path: Path, file: str, text: str, message: str) -> None:
    flat(tmp_path / "val")
    (tmp_path / file).write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        ImageNetDataset(tmp_path)
    one_line(caught)


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_shards(tmp_path: Path) -> None:
    folder = tmp_path / "local_data/imagenet_shards"
    first = {
        f"{NAMES[0]}.jpg": jpeg(0),
        f"{NAMES[0]}.cls": b"65",
        f"{NAMES[2]}.cls": b"0\n",
        f"{NAMES[2]}.JPEG": jpeg(20),
        f"{NAMES[2]}.json": b"{}",
    }
    shard(folder / "imagenet-val-000000.tar", first)
    shard(
        folder / "imagenet-val-000001.tar",
        {f"{NAMES[1]}.cls": b"970", f"{NAMES[1]}.jpg": jpeg(10)},
    )
    shard(folder / "imagenet-train-000000.tar", {"x.jpg": b"", "x.cls": b"1"})
    shard(tmp_path / "VOCtrainval_11-May-2012.tar", {"a.jpg": b""})  # of another data set
    dataset = ImageNetDataset(tmp_path)
    assert (dataset.layout, read(dataset)) == ("shards", WANT)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x"}, "a has an image or a .cls, but not both"),
        ({"a.cls": b"1"}, "a has an image or a .cls, but not both"),
        ({"a.jpg": b"x", "a.cls": b"1000"}, r"a\.cls: a label must be in \[0, 1000\), got '1000'"),
        ({"a.jpg": b"x", "a.cls": b"n01440764"}, "got 'n01440764'"),
        ({"a.jpg": b"x", "a.cls": b"\xff"}, "got '�'"),
    ],
)
def test_shards_that_contradict_themselves(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    shard(tmp_path / "imagenet-val-000000.tar", members)
    with pytest.raises(FormatError, match=message) as caught:
        ImageNetDataset(tmp_path)
    assert "imagenet-val-000000.tar" in one_line(caught)


def test_shards_that_are_cut_off_or_repeat_an_image(tmp_path: Path) -> None:
    path = tmp_path / "imagenet-val-000000.tar"
    shard(path, {"a.jpg": jpeg(1), "a.cls": b"1"})
    shard(tmp_path / "imagenet-val-000001.tar", {"a.jpg": jpeg(1), "a.cls": b"1"})
    with pytest.raises(FormatError, match="both hold a"):
        ImageNetDataset(tmp_path)
    (tmp_path / "imagenet-val-000001.tar").unlink()
    good = path.read_bytes()
    for keep in (0, 100, 700):
        path.write_bytes(good[:keep])
        with pytest.raises(FormatError, match="no complete tar file"):
            ImageNetDataset(tmp_path)


def test_dead_images_are_skippable_errors(tmp_path: Path) -> None:
    shard(tmp_path / "imagenet-val-000000.tar", {"a.jpg": b"no image", "a.cls": b"1"})
    with pytest.raises(UnreadableImageError, match=r"000000\.tar: a: cannot be decoded"):
        ImageNetDataset(tmp_path)[0]
    folder = flat(tmp_path / "val")
    (tmp_path / "val.txt").write_text(TRUTHS["val.txt"])
    dataset = ImageNetDataset(tmp_path, layout="flat")
    (folder / f"{NAMES[0]}.JPEG").write_bytes(b"")
    (folder / f"{NAMES[1]}.JPEG").unlink()
    with pytest.raises(UnreadableImageError, match=r"00001\.JPEG: cannot be decoded"):
        dataset[0]
    with pytest.raises(UnreadableImageError, match=r"00002\.JPEG: cannot be read"):
        dataset[1]


def test_several_layouts_and_none(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="no imagenet1k under") as caught:
        ImageNetDataset(tmp_path)
    one_line(caught)
    with pytest.raises(DataMissingError, match="no data root at"):
        ImageNetDataset(tmp_path / "nowhere")
    flat(tmp_path / "val")
    (tmp_path / "val.txt").write_text(TRUTHS["val.txt"])
    shard(tmp_path / "imagenet-val-000000.tar", {"a.jpg": jpeg(1), "a.cls": b"1"})
    with pytest.raises(UsageError, match='choose with layout = "flat" or "shards"') as chosen:
        ImageNetDataset(tmp_path)
    one_line(chosen)
    assert len(ImageNetDataset(tmp_path, layout="shards")) == 1
    with pytest.raises(UsageError, match="did you mean 'shards'"):
        ImageNetDataset(tmp_path, layout="shard")
