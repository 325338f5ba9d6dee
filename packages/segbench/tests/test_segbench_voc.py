"""PASCAL VOC 2012 as it lies on disk, and what all benchmark data sets share."""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segbench import (
    DataMissingError,
    FormatError,
    Task,
    UnreadableImageError,
    UsageError,
    load_names,
    open_dataset,
    score_folder,
)
from segbench.datasets import BENCHMARKS, BenchmarkDataset
from segbench.datasets.pictures import read_image

BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)
NAMES = ("2007_000033", "2007_000042")


def save(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def palette(values: npt.NDArray[np.uint8]) -> Image.Image:
    """A palette PNG whose colours are not its indices."""
    picture = Image.fromarray(values)
    picture.putpalette([(7 * v + 3) % 256 for v in range(768)])
    return picture


def build(home: Path, values: npt.NDArray[np.uint8], names: tuple[str, ...] = NAMES) -> Path:
    """VOCdevkit/VOC2012 with some images; two more images than the list."""
    for name in (*names, "2007_999998", "2007_999999"):
        save(home / f"JPEGImages/{name}.jpg", Image.new("RGB", values.shape[::-1], (9, 8, 7)))
    for name in names:
        save(home / f"SegmentationClass/{name}.png", palette(values))
    (home / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (home / "ImageSets/Segmentation/val.txt").write_text("\n".join(reversed(names)) + "\n")
    return home


GOOD = np.array([[0, 1, 20], [255, 5, 0]], dtype=np.uint8)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build(tmp_path / "VOCdevkit/VOC2012", GOOD)


def opened(root: Path, kind: str = "voc21", **options: str) -> BenchmarkDataset:
    dataset = open_dataset({"kind": kind, **options}, root)
    assert isinstance(dataset, BenchmarkDataset)
    return dataset


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_voc21_is_read_as_indices(tmp_path: Path, home: Path) -> None:
    with Image.open(home / f"SegmentationClass/{NAMES[0]}.png") as stored:
        assert stored.mode == "P"
    dataset = opened(tmp_path)
    assert (len(dataset), dataset.layout) == (2, "voc")
    assert [dataset[0].id, dataset[1].id] == list(NAMES)  # sorted, whatever the list's order
    assert dataset[0].labels.tolist() == [[0, 1, 20], [-1, 5, 0]]
    assert dataset[0].labels.dtype == np.int32
    assert dataset[0].image.shape == (2, 3, 3)
    assert dataset.names == load_names("voc21")
    assert dataset.subsets == {"thing": tuple(range(1, 21))}


def test_voc20_ignores_background_and_moves_the_rest(tmp_path: Path, home: Path) -> None:
    dataset = opened(tmp_path, "voc20")
    assert dataset.names == load_names("voc21")[1:]
    assert dataset[0].labels.tolist() == [[-1, 0, 19], [-1, 4, -1]]
    assert home.is_dir()


def test_every_byte_through_both_tables(tmp_path: Path) -> None:
    home = tmp_path / "VOC2012"
    for value in range(256):
        name = f"2007_{value:06d}"
        save(home / f"JPEGImages/{name}.jpg", Image.new("RGB", (1, 1)))
        save(home / f"SegmentationClass/{name}.png", palette(np.full((1, 1), value, np.uint8)))
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    names = [f"2007_{value:06d}" for value in range(256)]
    (home / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    want21 = {**{v: v for v in range(21)}, 255: -1}
    want20 = {0: -1, **{v: v - 1 for v in range(1, 21)}, 255: -1}
    for kind, want in (("voc21", want21), ("voc20", want20)):
        dataset = opened(tmp_path, kind)
        got = {}
        for value in range(256):
            try:
                got[value] = int(dataset[value].labels[0, 0])
            except FormatError as error:
                assert f"holds the value {value}, which means nothing" in str(error)
        assert got == want


@pytest.mark.parametrize("prefix", ["", "data", "local_data", "datasets"])
@pytest.mark.parametrize("place", ["VOCdevkit/VOC2012", "VOC2012", ""])
def test_every_root_is_found(tmp_path: Path, prefix: str, place: str) -> None:
    build(tmp_path / prefix / place, GOOD)
    assert len(opened(tmp_path)) == 2


def test_expected_images_are_recorded_and_a_deviation_is_said(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="segbench"):
        dataset = opened(tmp_path)
    assert dataset.expected_images == 1449
    assert dataset.count_note == "voc21: 2 images, expected 1,449 (1,447 fewer)"
    assert dataset.count_note in caplog.text
    assert dataset.listed == str(home / "ImageSets/Segmentation/val.txt")
    benchmark = next(each for each in BENCHMARKS if each.name == "voc21")
    assert benchmark.count_note(1449) == ""
    assert "(1 more)" in benchmark.count_note(1450)


def test_spec_counts() -> None:
    counts = {benchmark.name: benchmark.expected_images for benchmark in BENCHMARKS}
    assert counts == {
        "voc21": 1449,
        "voc20": 1449,
        "context60": 5104,
        "context59": 5104,
        "pc459": 5104,
        "coco_object81": 5000,
        "coco_object81_inst": 5000,
        "coco_stuff171": 5000,
        "cityscapes19": 500,
        "ade150": 2000,
        "ade847": 2000,
        "imagenet_s50": 752,
        "imagenet_s300": 4097,
        "imagenet_s919": 12419,
    }
    classes = {benchmark.name: len(benchmark.names) for benchmark in BENCHMARKS}
    assert list(classes.values()) == [21, 20, 60, 59, 459, 81, 81, 171, 19, 150, 847, 51, 301, 920]
    for benchmark in BENCHMARKS:
        for layout in benchmark.layouts:
            make = getattr(layout, "make_table", None)
            if make is not None:  # each class of a data set is reached by its table, none beyond
                labels = set(make().tolist()) - {-1, -2}
                assert labels == set(range(classes[benchmark.name])), (benchmark.name, layout.name)
        for ids in benchmark.subsets.values():
            assert set(ids) < set(range(classes[benchmark.name]))


def test_detectron2_labels_take_the_images_that_have_one(tmp_path: Path, home: Path) -> None:
    values = np.array([[0, 19, 255], [3, 3, 3]], dtype=np.uint8)
    save(home / f"annotations_detectron2/val/{NAMES[1]}.png", Image.fromarray(values))
    dataset = opened(tmp_path, "voc20", layout="detectron2")
    assert [dataset[0].id, len(dataset)] == [NAMES[1], 1]
    assert dataset[0].labels.tolist() == [[0, 19, -1], [3, 3, 3]]
    assert "detectron2's converter writes no label" in dataset.count_note


def test_two_layouts_are_one_line_that_says_what_chooses(tmp_path: Path, home: Path) -> None:
    save(home / f"annotations_detectron2/val/{NAMES[1]}.png", Image.fromarray(GOOD))
    with pytest.raises(UsageError) as caught:
        opened(tmp_path, "voc20")
    message = one_line(caught)
    assert message.endswith('choose with layout = "detectron2" or "voc"')
    assert str(home / "SegmentationClass") in message
    assert opened(tmp_path, "voc20", layout="voc")[0].labels[0, 1] == 0
    with pytest.raises(UsageError, match="unknown layout of voc20 'vco'; did you mean 'voc'"):
        opened(tmp_path, "voc20", layout="vco")


def test_two_copies_are_told_apart_by_folder(tmp_path: Path, home: Path) -> None:
    build(tmp_path / "VOC2012", GOOD)
    with pytest.raises(UsageError) as caught:
        opened(tmp_path)
    assert one_line(caught).endswith('choose with folder = "VOCdevkit/VOC2012" or "VOC2012"')
    assert len(opened(tmp_path, folder="VOC2012")) == 2
    assert home.is_dir()


def test_a_link_is_no_second_copy(tmp_path: Path, home: Path) -> None:
    (tmp_path / "VOC2012").symlink_to(home)
    assert len(opened(tmp_path)) == 2


def test_missing_parts_are_one_clear_line(tmp_path: Path, home: Path) -> None:
    with pytest.raises(DataMissingError, match="no data root at") as caught:
        opened(tmp_path / "nowhere")
    one_line(caught)
    with pytest.raises(DataMissingError, match="--root"):
        open_dataset({"kind": "voc21"})
    (home / "ImageSets/Segmentation/val.txt").rename(home / "list.txt")
    with pytest.raises(DataMissingError, match=r"no split file .*val\.txt in .*VOC2012; option"):
        opened(tmp_path)
    assert len(opened(tmp_path, split="list.txt")) == 2
    assert len(opened(tmp_path, split=str(home / "list.txt"))) == 2
    with pytest.raises(DataMissingError, match=r"no split file lists\.txt in"):
        opened(tmp_path, split="lists.txt")
    (home / "SegmentationClass").rename(home / "elsewhere")
    with pytest.raises(DataMissingError) as caught:
        opened(tmp_path)
    assert "it needs one of SegmentationClass/*.png (layout voc)" in one_line(caught)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("SegmentationClass/2007_000033.png", "1 images listed by .* have no label in .*000033"),
        ("JPEGImages/2007_000042.jpg", "1 labels listed by .* have no image in .*000042"),
    ],
)
def test_listed_files_that_are_missing(tmp_path: Path, home: Path, gone: str, message: str) -> None:
    (home / gone).unlink()
    with pytest.raises(DataMissingError, match=message) as caught:
        opened(tmp_path)
    one_line(caught)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "lists no image"), ("a\nb\na\n", "lists a more than once")],
)
def test_split_files_that_contradict_themselves(
    tmp_path: Path, home: Path, text: str, message: str
) -> None:
    (home / "ImageSets/Segmentation/val.txt").write_text(text)
    with pytest.raises(FormatError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("part", ["JPEGImages/{}.jpg", "SegmentationClass/{}.png"])
@pytest.mark.parametrize("keep", [0, 40])
def test_damaged_files_are_skippable_errors(
    tmp_path: Path, home: Path, part: str, keep: int
) -> None:
    path = home / part.format(NAMES[0])
    path.write_bytes(path.read_bytes()[:keep])
    dataset = opened(tmp_path)
    with pytest.raises(UnreadableImageError, match=f"{path.name}: cannot be decoded") as caught:
        dataset[0]
    one_line(caught)
    assert dataset[1].id == NAMES[1]


def test_colours_and_wrong_sizes_are_refused(tmp_path: Path, home: Path) -> None:
    path = home / f"SegmentationClass/{NAMES[0]}.png"
    save(path, palette(GOOD).convert("RGB"))
    with pytest.raises(FormatError, match="holds colours") as caught:
        opened(tmp_path)[0]
    one_line(caught)
    save(path, palette(np.zeros((3, 2), np.uint8)))
    with pytest.raises(FormatError, match=r"are \(3, 2\), its image is \(2, 3\)"):
        opened(tmp_path)[0]


def test_a_task_scores_it(tmp_path: Path, home: Path) -> None:
    task = Task(id="voc21@whole", dataset={"kind": "voc21"})
    dataset = opened(tmp_path)
    predictions = tmp_path / "right"
    for index in range(len(dataset)):
        example = dataset[index]
        save(
            predictions / f"{example.id}.png", Image.fromarray(example.labels.clip(0).astype("u1"))
        )
    report = score_folder(predictions, task, root=tmp_path)
    assert report.metrics["miou"] == 1.0
    assert report.data["images_scored"] == 2
    save(predictions / f"{NAMES[0]}.png", Image.fromarray(np.zeros((2, 3), np.uint8)))
    assert score_folder(predictions, task, root=tmp_path).metrics["miou"] < 1.0
    assert home.is_dir()


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"did you mean 'dataset\.layout'"):
        opened(tmp_path, layuot="voc")
    with pytest.raises(FormatError, match=r"voc21: dataset\.layout must be text, got 3"):
        open_dataset({"kind": "voc21", "layout": 3}, tmp_path)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_images_of_any_colour_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
    Image.new("RGB", (2, 1), (102, 102, 102)).convert(mode).save(path)  # of the web palette
    image = read_image(path)
    assert image.shape == (1, 2, 3)
    assert abs(image.astype(int) - 102).max() <= 2
