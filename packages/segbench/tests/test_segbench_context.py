"""PASCAL Context in its four forms: PNG, JSON, MATLAB and TIFF."""

import importlib
import json
import sys
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

NAMES = ("2008_000002", "2008_000003")
SIZE = (2, 4)  # height, width
# original ids: aeroplane 2 -> 1, bag 9 -> 2, wood 458 is the 59th; 1 and 459 are none of the 59
SIXTY = json.loads(
    (Path(__file__).parents[1] / "src/segbench/classnames/mappings.json").read_text()
)["pascal_context_original_id_to_60"]


def build(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    """VOCdevkit/VOC2010 without any labels."""
    home = root / "VOCdevkit/VOC2010"
    (home / "JPEGImages").mkdir(parents=True)
    for name in (*names, "2008_999999"):
        Image.new("RGB", SIZE[::-1]).save(home / f"JPEGImages/{name}.jpg")
    return home


def list_images(home: Path, names: tuple[str, ...] = NAMES, file: str = "mmseg") -> None:
    path = (
        home
        / {
            "mmseg": "ImageSets/SegmentationContext/val.txt",
            "catseg": "pascalcontext_val.txt",
        }[file]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def save(path: Path, values: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_mat(path: Path, values: npt.NDArray[Any], key: str = "LabelMap") -> None:
    matlab = importlib.import_module("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    matlab.savemat(path, {key: values}, do_compression=True)


def opened(root: Path, kind: str, **options: str) -> BenchmarkDataset:
    dataset = open_dataset({"kind": kind, **options}, root)
    assert isinstance(dataset, BenchmarkDataset)
    return dataset


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def every_value(dataset: BenchmarkDataset) -> dict[str, int | None]:
    """Label by image id, None where the value means nothing."""
    found: dict[str, int | None] = {}
    for index in range(len(dataset)):
        name = f"2008_{index:06d}"
        try:
            example = dataset[index]
        except FormatError as error:
            assert f"holds the value {index}" in str(error)
            found[name] = None
        else:
            assert example.id == name
            assert len(np.unique(example.labels)) == 1
            found[name] = int(example.labels[0, 0])
    return found


def test_png_of_mmsegmentation_with_and_without_background(tmp_path: Path) -> None:
    names = tuple(f"2008_{value:06d}" for value in range(256))
    home = build(tmp_path, names)
    list_images(home, names)
    for value, name in enumerate(names):
        save(home / f"SegmentationClassContext/{name}.png", np.full(SIZE, value, np.uint8))
    none = dict.fromkeys(names[60:255])
    sixty = every_value(opened(tmp_path, "context60"))
    assert sixty == {**{n: v for v, n in enumerate(names[:60])}, **none, names[255]: -1}
    rest = every_value(opened(tmp_path, "context59"))
    assert rest == {**{n: v - 1 for v, n in enumerate(names[:60])}, **none, names[255]: -1}
    assert opened(tmp_path, "context59").names == load_names("context60")[1:]


def test_original_ids_of_the_matlab_files(tmp_path: Path) -> None:
    names = tuple(f"2008_{value:06d}" for value in range(461))
    home = build(tmp_path, names)
    list_images(home, names, "catseg")
    for value, name in enumerate(names):
        save_mat(home / f"trainval/{name}.mat", np.full(SIZE, value, np.uint16))
    inside = names[:460]
    sixty = {name: SIXTY.get(str(value), 0) for value, name in enumerate(inside)}
    assert every_value(opened(tmp_path, "context60")) == {**sixty, names[460]: None}
    want59 = {name: label - 1 if label else -1 for name, label in sixty.items()}
    assert every_value(opened(tmp_path, "context59")) == {**want59, names[460]: None}
    want459 = {name: value - 1 for value, name in enumerate(inside)}  # 0 -> -1, ignored
    assert every_value(opened(tmp_path, "pc459")) == {**want459, names[460]: None}


def test_the_id_less_one_is_the_class_of_the_459(tmp_path: Path) -> None:
    long, short = load_names("pc459"), load_names("context60")
    for original, label in SIXTY.items():
        if label:
            assert long[int(original) - 1] == short[label]
    home = build(tmp_path)
    list_images(home)
    values = np.array([[2, 9, 458, 459], [1, 2, 2, 2]], dtype=np.uint16)
    for name in NAMES:
        save_mat(home / f"trainval/{name}.mat", values)
    labels = opened(tmp_path, "context60")[0].labels
    assert labels.tolist() == [[1, 2, 59, 0], [0, 1, 1, 1]]


def test_sixteen_bit_tiff_of_detectron2(tmp_path: Path) -> None:
    home = build(tmp_path)
    values = np.array([[0, 255, 256, 458], [459, 65535, 1, 1]], dtype=np.uint16)
    path = home / f"annotations_detectron2/pc459_val/{NAMES[1]}.tif"
    save(path, values)
    with Image.open(path) as stored:
        assert stored.mode == "I;16"
    dataset = opened(tmp_path, "pc459")
    assert (dataset.layout, len(dataset), dataset[0].id) == ("detectron2", 1, NAMES[1])
    assert dataset[0].labels.tolist() == [[0, 255, 256, 458], [-1, -1, 1, 1]]
    save(path, np.full(SIZE, 460, np.uint16))
    with pytest.raises(FormatError, match="holds the value 460"):
        dataset[0]


def test_converted_png_of_detectron2_serves_the_59_only(tmp_path: Path) -> None:
    home = build(tmp_path)
    values = np.array([[0, 58, 255, 1]] * 2, dtype=np.uint8)
    save(home / f"annotations_detectron2/pc59_val/{NAMES[0]}.png", values)
    assert opened(tmp_path, "context59")[0].labels[0].tolist() == [0, 58, -1, 1]
    with pytest.raises(DataMissingError, match=r"SegmentationClassContext/\*\.png \(layout png\)"):
        opened(tmp_path, "context60")


def rle(rows: list[list[int]]) -> dict[str, Any]:
    """Uncompressed run lengths of a mask, down the columns, outside first."""
    flat = np.array(rows).T.ravel()
    edges = np.flatnonzero(np.diff(np.r_[0, flat, 1 - flat[-1]]))
    return {"counts": np.diff(np.r_[0, edges]).tolist(), "size": [len(rows), len(rows[0])]}


def write_json(home: Path, annotations: list[dict[str, Any]]) -> Path:
    images = [
        {
            "file_name": f"{name}.jpg",
            "image_id": 2008000000 + int(name[-6:]),
            "phase": phase,
            "height": SIZE[0],
            "width": SIZE[1],
        }
        for name, phase in (*((n, "val") for n in NAMES), ("2008_999999", "train"))
    ]
    path = home / "trainval_merged.json"
    path.write_text(json.dumps({"images": images, "annos_segmentation": annotations, "parts": []}))
    return path


ANNOTATIONS = [
    {"id": 1, "image_id": 2008000002, "category_id": 2, "segmentation": rle([[1, 1, 1, 0]] * 2)},
    {"id": 2, "image_id": 2008000002, "category_id": 9, "segmentation": [[1, 0, 3, 0, 3, 1, 1, 1]]},
    {"id": 3, "image_id": 2008000002, "category_id": 1, "segmentation": rle([[1, 0, 0, 0]] * 2)},
    {"id": 4, "image_id": 2008000003, "category_id": 458, "segmentation": rle([[0, 0, 0, 1]] * 2)},
]


def test_json_is_painted_in_the_order_of_the_file(tmp_path: Path) -> None:
    home = build(tmp_path)
    write_json(home, ANNOTATIONS)
    dataset = opened(tmp_path, "context60")
    assert (dataset.layout, [dataset[0].id, dataset[1].id]) == ("json", list(NAMES))
    # 2 under 9 under 1, which is none of the 59 and so ignored; what none covers is background
    assert dataset[0].labels.tolist() == [[-1, 2, 2, 0], [-1, 1, 1, 0]]
    assert dataset[1].labels.tolist() == [[0, 0, 0, 59]] * 2
    assert opened(tmp_path, "context59")[0].labels.tolist() == [[-1, 1, 1, -1], [-1, 0, 0, -1]]
    write_json(home, [ANNOTATIONS[1], ANNOTATIONS[0]])
    assert opened(tmp_path, "context60")[0].labels.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]


def test_json_takes_the_phase_val_or_a_list(tmp_path: Path) -> None:
    home = build(tmp_path)
    write_json(home, ANNOTATIONS)
    assert len(opened(tmp_path, "context60")) == 2
    (home / "own.txt").write_text("2008_999999\n")
    assert opened(tmp_path, "context60", split="own.txt")[0].id == "2008_999999"
    (home / "JPEGImages/2008_000003.jpg").unlink()
    with pytest.raises(DataMissingError, match=r"1 labels listed by .* have no image") as caught:
        opened(tmp_path, "context60")
    one_line(caught)


def change(entry: dict[str, Any], **values: Any) -> list[dict[str, Any]]:
    return [{**entry, **values}]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (change(ANNOTATIONS[0], category_id=-1), r"category_id must be in \[0, 65535\], got -1"),
        (change(ANNOTATIONS[0], category_id="2"), "got '2'"),
        (change(ANNOTATIONS[0], segmentation=None), "polygons or run lengths, got None"),
        (
            change(ANNOTATIONS[0], segmentation={"counts": [3], "size": [2, 4]}),
            "cover 3 pixels, the image has 2 x 4",
        ),
        (
            change(ANNOTATIONS[0], segmentation={"counts": [8], "size": [4, 2]}),
            r"size \[4, 2\], the image is \[2, 4\]",
        ),
    ],
)
def test_annotations_that_cannot_be_read(
    tmp_path: Path, annotations: list[dict[str, Any]], message: str
) -> None:
    write_json(build(tmp_path), annotations)
    with pytest.raises(FormatError, match=message) as caught:
        opened(tmp_path, "context60")[0]
    assert "trainval_merged.json: annotation 1: " in one_line(caught)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ('{"images": []}', "no list 'annos_segmentation'"), ("[]", "no list")],
)
def test_json_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    home = build(tmp_path)
    (home / "trainval_merged.json").write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        opened(tmp_path, "context60")
    one_line(caught)


def test_several_forms_are_one_line_that_says_what_chooses(tmp_path: Path) -> None:
    home = build(tmp_path)
    write_json(home, ANNOTATIONS)
    list_images(home)
    for name in NAMES:
        save(home / f"SegmentationClassContext/{name}.png", np.full(SIZE, 3, np.uint8))
        save_mat(home / f"trainval/{name}.mat", np.full(SIZE, 9, np.uint16))
    with pytest.raises(UsageError) as caught:
        opened(tmp_path, "context60")
    assert one_line(caught).endswith('choose with layout = "json" or "mat" or "png"')
    for layout, label in (("json", -1), ("mat", 2), ("png", 3)):
        assert opened(tmp_path, "context60", layout=layout)[0].labels[0, 0] == label


def test_lists_that_differ_are_refused_and_5104_is_explained(tmp_path: Path) -> None:
    home = build(tmp_path)
    for name in NAMES:
        save(home / f"SegmentationClassContext/{name}.png", np.full(SIZE, 3, np.uint8))
    list_images(home)
    list_images(home, tuple(reversed(NAMES)), "catseg")  # the same list in another order
    dataset = opened(tmp_path, "context60")
    assert (dataset.expected_images, len(dataset)) == (5104, 2)
    assert "5,104 and 5,105 are both in use" in dataset.count_note
    list_images(home, NAMES[:1], "catseg")
    with pytest.raises(FormatError, match="list different images; choose with the option split"):
        opened(tmp_path, "context60")
    assert len(opened(tmp_path, "context60", split="pascalcontext_val.txt")) == 1


def test_matlab_files_that_are_none(tmp_path: Path) -> None:
    home = build(tmp_path)
    list_images(home)
    for name in NAMES:
        save_mat(home / f"trainval/{name}.mat", np.full(SIZE, 9, np.uint16))
    path = home / f"trainval/{NAMES[0]}.mat"
    good = path.read_bytes()
    dataset = opened(tmp_path, "context60")
    for keep in (0, 60, 130, 150, len(good) - 5):
        path.write_bytes(good[:keep])
        with pytest.raises(UnreadableImageError, match=r"2\.mat: cannot be decoded") as caught:
            dataset[0]
        one_line(caught)
    save_mat(path, np.full(SIZE, 9, np.uint16), key="Map")
    with pytest.raises(FormatError, match=r"no matrix LabelMap, found \['Map'\]"):
        dataset[0]
    save_mat(path, np.full(SIZE, 1.5))
    with pytest.raises(FormatError, match="whole numbers"):
        dataset[0]
    save_mat(path, np.full(SIZE, -1.0))
    with pytest.raises(FormatError, match=r"in \[0, 65535\], got -1"):
        dataset[0]


def test_without_scipy_a_mat_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = build(tmp_path)
    list_images(home)
    for name in NAMES:
        save_mat(home / f"trainval/{name}.mat", np.full(SIZE, 9, np.uint16))
    monkeypatch.setitem(sys.modules, "scipy.io.matlab", None)
    with pytest.raises(DataMissingError, match="pip install scipy"):
        opened(tmp_path, "context60")[0]
