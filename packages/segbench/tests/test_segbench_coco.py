"""COCO: Stuff PNG by both rules, converted PNG, and instances from run lengths and polygons."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segbench import DataMissingError, FormatError, UsageError, open_dataset
from segbench.datasets import BenchmarkDataset
from segbench.datasets.coco import CROWD as CROWD_ID
from segbench.datasets.coco import INSTANCES, paint_instances
from segbench.datasets.lookup import coco_category

NAME = "000000000139"
MAPPINGS = json.loads(
    (Path(__file__).parents[1] / "src/segbench/classnames/mappings.json").read_text()
)
BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)


def image(home: Path, name: str, size: tuple[int, int], folder: str = "images/val2017") -> None:
    (home / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (1, 2, 3)).save(home / folder / f"{name}.jpg")


def save(path: Path, values: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def opened(root: Path, kind: str, **options: str) -> BenchmarkDataset:
    dataset = open_dataset({"kind": kind, **options}, root)
    assert isinstance(dataset, BenchmarkDataset)
    return dataset


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_value(root: Path, kind: str, suffix: str = ".png", **options: str) -> dict[int, int | None]:
    """Label of each byte, None where it means nothing, read from a picture of one pixel each."""
    home = root / "coco"
    for value in range(256):
        image(home, f"{value:012d}", (1, 1))
        folder = home / options.get("labels", "annotations/val2017")
        save(folder / f"{value:012d}{suffix}", np.full((1, 1), value, np.uint8))
    dataset = opened(root, kind)
    found: dict[int, int | None] = {}
    for value in range(256):
        try:
            found[value] = int(dataset[value].labels[0, 0])
        except FormatError as error:
            assert f"holds the value {value}, which means nothing" in str(error)
            found[value] = None
    return found


def test_every_byte_of_a_stuff_map_as_stuff(tmp_path: Path) -> None:
    to_train = {int(k): v for k, v in MAPPINGS["coco_stuff_png_to_train_id"].items() if k != "255"}
    assert len(to_train) == 171
    found = by_value(tmp_path, "coco_stuff171")
    assert found == {value: to_train.get(value, -1) for value in range(256)}
    assert {v for v in range(182) if found[v] == -1} == {
        *(11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
    }


def test_every_byte_of_a_stuff_map_as_objects(tmp_path: Path) -> None:
    found = by_value(tmp_path, "coco_object81")
    things = {int(k) - 1: v + 1 for k, v in MAPPINGS["coco_category_id_to_contiguous"].items()}
    stuff = dict.fromkeys([*range(91, 182), 255], 0)  # unlabelled is background: GroupViT's rule
    assert found == {value: {**things, **stuff}.get(value) for value in range(256)}
    assert found[0] == 1 and found[89] == 80
    assert -1 not in found.values()


def test_every_byte_of_converted_maps(tmp_path: Path) -> None:
    stuff = by_value(tmp_path / "a", "coco_stuff171", "_labelTrainIds.png")
    assert stuff == {**dict.fromkeys(range(256)), **{v: v for v in range(171)}, 255: -1}
    objects = by_value(tmp_path / "b", "coco_object81", "_instanceTrainIds.png")
    assert objects == {**dict.fromkeys(range(256)), **{v: v for v in range(81)}, 255: -1}


def test_the_two_rules_agree_on_things() -> None:
    stuff, objects = MAPPINGS["coco_stuff_png_to_train_id"], MAPPINGS["coco_object_png_to_label"]
    for value, label in objects.items():
        if value != "255":
            assert label == (stuff[value] + 1 if stuff[value] < 80 else 0)


@pytest.mark.parametrize(
    ("home", "images", "labels", "layout"),
    [
        ("coco_stuff164k", "images/val2017", "annotations/val2017", "raw"),
        ("coco", "val2017", "annotations/val2017", "raw"),
        ("coco-stuff", "images/val2017", "stuffthingmaps/val2017", "stuffthingmaps"),
        ("local_data/coco", "images/val2017", "annotations/val2017", "raw"),
        ("", "val2017", "stuffthingmaps/val2017", "stuffthingmaps"),
    ],
)
def test_layouts_of_the_download(
    tmp_path: Path, home: str, images: str, labels: str, layout: str
) -> None:
    image(tmp_path / home, NAME, (2, 2), images)
    save(tmp_path / home / labels / f"{NAME}.png", np.array([[0, 92], [255, 11]], np.uint8))
    dataset = opened(tmp_path, "coco_stuff171")
    assert (dataset.layout, dataset[0].id) == (layout, NAME)
    assert dataset[0].labels.tolist() == [[0, 81], [-1, -1]]
    assert {k: len(v) for k, v in dataset.subsets.items()} == {"stuff": 91, "thing": 80}


def test_detectron2_png(tmp_path: Path) -> None:
    image(tmp_path / "coco-stuff", NAME, (1, 2))
    labels = tmp_path / "coco-stuff/annotations_detectron2/val2017"
    save(labels / f"{NAME}.png", np.array([[170, 255]], np.uint8))
    assert opened(tmp_path, "coco_stuff171")[0].labels.tolist() == [[170, -1]]


def test_one_folder_holds_three_layouts(tmp_path: Path) -> None:
    """Raw and both converted maps lie side by side; each kind sees its own."""
    home = tmp_path / "coco_stuff164k"
    image(home, NAME, (1, 1))
    for suffix, value in ((".png", 0), ("_labelTrainIds.png", 100), ("_instanceTrainIds.png", 50)):
        save(home / f"annotations/val2017/{NAME}{suffix}", np.full((1, 1), value, np.uint8))
    for kind, layout, other, label in (
        ("coco_stuff171", "label_train_ids", "raw", 100),
        ("coco_object81", "instance_train_ids", "raw", 50),
        ("coco_object81", "raw", "instance_train_ids", 1),
    ):
        with pytest.raises(UsageError) as caught:
            opened(tmp_path, kind)
        names = sorted((layout, other))
        assert one_line(caught).endswith(f'choose with layout = "{names[0]}" or "{names[1]}"')
        assert opened(tmp_path, kind, layout=layout)[0].labels.tolist() == [[label]]


def test_object_maps_are_no_stuff(tmp_path: Path) -> None:
    image(tmp_path / "coco", NAME, (1, 1))
    save(tmp_path / f"coco/annotations/val2017/{NAME}_instanceTrainIds.png", np.ones((1, 1), "u1"))
    with pytest.raises(DataMissingError, match="no coco_stuff171 under") as caught:
        opened(tmp_path, "coco_stuff171")
    one_line(caught)
    assert len(opened(tmp_path, "coco_object81")) == 1


def test_lone_images_and_maps(tmp_path: Path) -> None:
    home = tmp_path / "coco"
    for name in (NAME, "000000000285"):
        image(home, name, (1, 1))
    save(home / f"annotations/val2017/{NAME}.png", np.ones((1, 1), np.uint8))
    with pytest.raises(DataMissingError, match=r"1 images .* no label .*first is 000000000285"):
        opened(tmp_path, "coco_stuff171")
    (home / "images/val2017/000000000285.jpg").rename(home / "images/val2017/000000000999.jpg")
    save(home / "annotations/val2017/000000000999.png", np.ones((1, 1), np.uint8))
    save(home / "annotations/val2017/000000001000.png", np.ones((1, 1), np.uint8))
    with pytest.raises(DataMissingError, match=r"1 labels .* no image .*first is 000000001000"):
        opened(tmp_path, "coco_stuff171")
    with pytest.raises(DataMissingError, match="no label"):  # the list decides
        (home / "list.txt").write_text(f"{NAME}.jpg\n000000000285.jpg\n")
        opened(tmp_path, "coco_stuff171", split="list.txt")
    (home / "list.txt").write_text(f"{NAME}.jpg\n")
    assert len(opened(tmp_path, "coco_stuff171", split="list.txt")) == 1


def test_files_that_macos_leaves_are_no_data(tmp_path: Path) -> None:
    home = tmp_path / "coco"
    image(home, NAME, (1, 1))
    save(home / f"annotations/val2017/{NAME}.png", np.ones((1, 1), np.uint8))
    (home / f"images/val2017/._{NAME}.jpg").write_bytes(b"\0")
    (home / f"annotations/val2017/._{NAME}.png").write_bytes(b"\0")
    assert len(opened(tmp_path, "coco_stuff171")) == 1


# instances


def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def annotation(
    number: int, category: int, segmentation: object, area: float, crowd: int = 0
) -> Any:
    return {
        "id": number,
        "image_id": 139,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
    }


# a 3 x 6 image: a large person (1) under a small toothbrush (90), and a crowd of chairs (62)
PERSON = annotation(1, 1, [box(0, 0, 4, 3)], 12)
BRUSH = annotation(2, 90, {"counts": "31405", "size": [3, 6]}, 2)
CROWD = annotation(3, 62, {"counts": [9, 9], "size": [3, 6]}, 9, crowd=1)


def write(root: Path, annotations: list[Any], **changes: Any) -> Path:
    home = root / "coco"
    image(home, NAME, (3, 6))
    image(home, "000000000285", (3, 6))
    described = {"id": 139, "file_name": f"{NAME}.jpg", "height": 3, "width": 6, **changes}
    empty = {"id": 285, "file_name": "000000000285.jpg", "height": 3, "width": 6}
    (home / "annotations").mkdir(exist_ok=True)
    path = home / "annotations/instances_val2017.json"
    path.write_text(json.dumps({"images": [described, empty], "annotations": annotations}))
    return path


def test_instances_small_over_large_crowds_ignored(tmp_path: Path) -> None:
    write(tmp_path, [BRUSH, CROWD, PERSON])
    dataset = opened(tmp_path, "coco_object81_inst")
    assert (len(dataset), dataset.layout, dataset.expected_images) == (2, "instances", 5000)
    assert dataset[0].labels.tolist() == [
        [1, 80, 1, 1, -1, -1],
        [1, 1, 1, 1, -1, -1],
        [1, 1, 80, 1, -1, -1],
    ]
    assert dataset[1].labels.tolist() == [[0] * 6] * 3  # no annotation: all background


def test_equal_areas_are_painted_in_the_order_of_the_file(tmp_path: Path) -> None:
    first = annotation(1, 1, [box(0, 0, 2, 3)], 6)
    second = annotation(2, 2, [box(1, 0, 3, 3)], 6)
    for order, middle in (([first, second], 2), ([second, first], 1)):
        write(tmp_path, order)
        row = opened(tmp_path, "coco_object81_inst")[0].labels[0].tolist()
        assert row == [1, middle, 2, 0, 0, 0]


def test_every_category_id_through_the_table() -> None:
    want = {int(k): v + 1 for k, v in MAPPINGS["coco_category_id_to_contiguous"].items()}
    labels = coco_category(CROWD_ID)
    got = {value: int(labels[value]) for value in (*range(256), CROWD_ID)}
    assert got == {**dict.fromkeys(range(256), -2), **want, 0: 0, CROWD_ID: -1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_id": 91}, "holds the value 91, which means nothing"),
        ({"area": None}, "annotation 1: area must be a number"),
        ({"segmentation": [[1, 1, 2, 2]]}, "annotation 1: a polygon is 6 or more"),
        ({"segmentation": [[1, 1, 2, 2, 3, float("nan")]]}, "finite numbers"),
        ({"segmentation": [[1, 1, 2, 2, 3, 9e9]]}, "reaches 9e\\+09 pixels"),
        ({"segmentation": [["a"] * 6]}, "a polygon is a list of numbers"),
        ({"segmentation": []}, "polygons or run lengths"),
        ({"segmentation": {"counts": "312", "size": [3, 6]}}, "cover 6 pixels"),
        ({"segmentation": {"counts": "o", "size": [3, 6]}}, "end within a number"),
        ({"segmentation": {"counts": "~", "size": [3, 6]}}, "hold the character '~'"),
        ({"segmentation": {"counts": [20, -2], "size": [3, 6]}}, "cover 18 pixels"),
        ({"segmentation": {"counts": [1.5], "size": [3, 6]}}, "whole numbers"),
    ],
)
def test_damaged_annotations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, [{**PERSON, **changes}])
    with pytest.raises(FormatError, match=message) as caught:
        opened(tmp_path, "coco_object81_inst")[0]
    assert "instances_val2017.json" in one_line(caught)


def test_json_that_contradicts_the_images(tmp_path: Path) -> None:
    write(tmp_path, [PERSON], height=4)
    with pytest.raises(FormatError, match=r"are \(4, 6\), its image is \(3, 6\)"):
        opened(tmp_path, "coco_object81_inst")[0]
    write(tmp_path, [PERSON], height="3")
    with pytest.raises(FormatError, match="height and width must be whole numbers"):
        opened(tmp_path, "coco_object81_inst")[0]
    write(tmp_path, [PERSON], file_name="000000000285.jpg")
    with pytest.raises(FormatError, match="lists an image more than once"):
        opened(tmp_path, "coco_object81_inst")
    write(tmp_path, [PERSON])
    (tmp_path / f"coco/images/val2017/{NAME}.jpg").unlink()
    with pytest.raises(DataMissingError, match=f"1 labels .* the first is {NAME}"):
        opened(tmp_path, "coco_object81_inst")


def test_real_instances_equal_the_masks_that_were_made_from_them(real_data: Path) -> None:
    folder = real_data / "coco_mini"
    if not folder.is_dir():
        pytest.skip(f"no coco_mini in {real_data}")
    layout = replace(
        INSTANCES, images=("images/val",), annotations="annotations/instances_val.json"
    )
    stock = layout.take_stock(folder, "")
    assert (len(stock.entries), stock.no_image, stock.no_label) == (79, (), ())
    labels = coco_category(CROWD_ID)
    for entry in stock.entries:
        with Image.open(folder / f"semantic_masks/val/{entry.id}.png") as picture:
            want = np.asarray(picture).astype(np.int32)
        want[want == 255] = -1
        assert (labels[stock.read(entry)] == want).all(), entry.id


def test_no_annotation_is_no_class() -> None:
    assert paint_instances([], (2, 3), Path("x.json")).tolist() == [[0] * 3] * 2
