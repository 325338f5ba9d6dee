"""What `examine` says of miniature data sets, sound ones and each kind of broken one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segbench import DataMissingError, UsageError, expected_images, how_to_get
from segbench.datasets.benchmarks import BENCHMARKS
from segbench.datasets.doctor import Finding, examine, render

COUNT = 12  # images of a miniature, enough for claims about values that are absent


def save(path: Path, values: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def picture(size: tuple[int, int] = (1, 4)) -> npt.NDArray[np.uint8]:
    return np.full((*size, 3), 40, dtype=np.uint8)


def row(*values: int, dtype: type[np.generic] = np.uint8) -> npt.NDArray[Any]:
    """Labels of one picture, 1 x 4."""
    return np.array([(values * 4)[:4]], dtype=dtype)


def voc(root: Path, labels: npt.NDArray[Any], names: tuple[str, ...] = ("a", "b")) -> Path:
    home = root / "VOCdevkit/VOC2012"
    for name in names:
        save(home / f"JPEGImages/{name}.jpg", picture())
        save(home / f"SegmentationClass/{name}.png", labels)
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    (home / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    return home


def coco(root: Path, labels: npt.NDArray[Any], suffix: str = ".png", count: int = COUNT) -> Path:
    home = root / "coco"
    for index in range(count):
        save(home / f"images/val2017/{index:012d}.jpg", picture())
        save(home / f"annotations/val2017/{index:012d}{suffix}", labels)
    return home


def ade(root: Path, labels: npt.NDArray[Any], folder: str = "annotations") -> Path:
    home = root / "ade/ADEChallengeData2016"
    for name in ("a", "b"):
        save(home / f"images/validation/{name}.jpg", picture())
        save(home / f"{folder}/validation/{name}.png", labels)
    return home


def find(root: Path, dataset: str) -> Finding:
    """The only finding of a data set."""
    (finding,) = [each for each in examine(root) if each.dataset == dataset]
    return finding


def says(finding: Finding, what: str, mend: str) -> None:
    """One problem says `what`, is mended by `mend`, and both are one line."""
    assert any(what in p.what and mend in p.mend for p in finding.problems), finding.problems
    for problem in finding.problems:
        assert problem.what and problem.mend
        assert "\n" not in problem.what + problem.mend


def whats(finding: Finding) -> str:
    return " | ".join(problem.what for problem in finding.problems)


def test_a_sound_data_set_has_its_counts_and_histogram(tmp_path: Path) -> None:
    home = voc(tmp_path, row(0, 0, 15, 255), names=tuple("abcdefgh"))
    finding = find(tmp_path, "voc21")
    assert (finding.layout, finding.place) == ("voc", home / "SegmentationClass")
    assert (finding.images, finding.labels, finding.expected, finding.sampled) == (8, 8, 1449, 8)
    assert finding.histogram == {-1: 8, 0: 16, 15: 8}
    assert whats(finding) == "voc21: 8 images, expected 1,449 (1,441 fewer)"
    assert find(tmp_path, "voc20").histogram == {-1: 24, 14: 8}
    assert {each.dataset for each in examine(tmp_path)} == {"voc21", "voc20"}


def test_a_complete_data_set_has_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voc(tmp_path, row(0, 1, 2, 255))
    mini = [
        type(b)(**{f: getattr(b, f) for f in b.__slots__} | {"expected_images": 2})
        for b in BENCHMARKS
        if b.name == "voc21"
    ]
    monkeypatch.setattr("segbench.datasets.doctor.BENCHMARKS", mini)
    (finding,) = examine(tmp_path)
    assert finding.problems == ()
    assert "1 found, 0 with something wrong" in render([finding], tmp_path)


def test_the_sample_is_spread_and_bounded(tmp_path: Path) -> None:
    home = voc(tmp_path, row(1), names=tuple(f"{i:03d}" for i in range(50)))
    save(home / "SegmentationClass/049.png", row(2))
    finding = find(tmp_path, "voc21")
    assert finding.sampled == 20
    assert finding.histogram == {1: 19 * 4, 2: 4}  # the last is always among them
    (few,) = [f for f in examine(tmp_path, sample=3) if f.dataset == "voc21"]
    assert (few.sampled, few.images) == (3, 50)


def test_palette_saved_as_rgb(tmp_path: Path) -> None:
    home = voc(tmp_path, row(0, 1))
    Image.fromarray(row(0, 1)).convert("RGB").save(home / "SegmentationClass/a.png")
    finding = find(tmp_path, "voc21")
    says(finding, "1 of 2 label files hold colours, not indices (saved as RGB", "mode P or L")
    assert finding.sampled == 1


def test_values_of_another_data_set(tmp_path: Path) -> None:
    voc(tmp_path, row(21, 30, 254, 22))
    says(find(tmp_path, "voc21"), "values 21, 22, 30, 254 mean nothing here", "VOCtrainval")


def test_missing_split(tmp_path: Path) -> None:
    home = voc(tmp_path, row(0))
    (home / "ImageSets/Segmentation/val.txt").unlink()
    finding = find(tmp_path, "voc21")
    says(finding, "no split file ImageSets/Segmentation/val.txt", "name a list with the option spl")
    assert (finding.images, finding.labels, finding.sampled) == (2, 2, 0)


def test_wrong_suffix_of_labels_and_of_images(tmp_path: Path) -> None:
    home = voc(tmp_path / "a", row(0))
    for name in "ab":
        (home / f"SegmentationClass/{name}.png").rename(home / f"SegmentationClass/{name}.tif")
    finding = find(tmp_path / "a", "voc21")
    says(finding, "SegmentationClass holds *.tif, expected SegmentationClass/*.png", "VOCtrainval")
    assert "wrong suffix" in whats(finding) and finding.layout == ""
    home = voc(tmp_path / "b", row(0))
    for name in "ab":
        (home / f"JPEGImages/{name}.jpg").rename(home / f"JPEGImages/{name}.bmp")
    finding = find(tmp_path / "b", "voc21")
    says(finding, "2 labels listed by", "unpack the images again")
    assert "JPEGImages holds *.bmp" in whats(finding)


def test_lone_images_and_labels(tmp_path: Path) -> None:
    home = coco(tmp_path, row(0, 92), count=3)
    (home / "images/val2017/000000000000.jpg").unlink()
    (home / "annotations/val2017/000000000002.png").unlink()
    finding = find(tmp_path, "coco_stuff171")
    says(finding, "1 images listed by", "unpack the labels again")
    says(finding, "1 labels listed by", "unpack the images again")
    assert "000000000002" in whats(finding) and "000000000000" in whats(finding)
    assert (finding.images, finding.labels, finding.sampled) == (2, 2, 1)


@pytest.mark.parametrize("damage", ["empty", "link", "cut"])
@pytest.mark.parametrize("part", ["JPEGImages/a.jpg", "SegmentationClass/a.png"])
def test_dead_and_unreadable_files(tmp_path: Path, damage: str, part: str) -> None:
    path = voc(tmp_path, row(0, 1)) / part
    content = path.read_bytes()
    path.unlink()
    if damage == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(content[:40] if damage == "cut" else b"")
    finding = find(tmp_path, "voc21")
    kind = "images" if "JPEG" in part else "label files"
    says(finding, f"1 of 2 {kind} cannot be read: {path}", "from the archive again")
    if damage != "cut":
        says(finding, f"1 files are empty or dead links, the first is {path}", "from the archive")


def test_images_and_labels_of_different_size(tmp_path: Path) -> None:
    home = voc(tmp_path, row(0))
    save(home / "JPEGImages/a.jpg", picture((2, 2)))
    says(find(tmp_path, "voc21"), "a is (2, 2), its labels are (1, 4)", "of one release")


@pytest.mark.parametrize(("count", "off"), [(5105, "1 more"), (5103, "1 fewer")])
def test_5104_and_5105(tmp_path: Path, count: int, off: str) -> None:
    home = tmp_path / "VOCdevkit/VOC2010"
    save(home / "seed.jpg", picture())
    save(home / "seed.png", row(0, 59))
    names = [f"2008_{index:06d}" for index in range(count)]
    for folder in ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"):
        (home / folder).mkdir(parents=True)
    for name in names:
        (home / f"JPEGImages/{name}.jpg").hardlink_to(home / "seed.jpg")
        (home / f"SegmentationClassContext/{name}.png").hardlink_to(home / "seed.png")
    (home / "ImageSets/SegmentationContext/val.txt").write_text("\n".join(names))
    finding = find(tmp_path, "context60")
    says(finding, f"{count:,} images, expected 5,104 ({off})", "report the number of images")
    assert "5,104 and 5,105 are both in use" in whats(finding)
    assert finding.images == count


def test_images_without_labels_say_what_is_needed(tmp_path: Path) -> None:
    save(tmp_path / "VOCdevkit/VOC2010/JPEGImages/a.jpg", picture())
    finding = find(tmp_path, "pc459")
    says(finding, "no labels: needs trainval/*.mat or annotations_detectron2/pc459_val", "trainval")
    assert {each.dataset for each in examine(tmp_path)} == {"context60", "context59", "pc459"}


def test_the_home_of_one_data_set_says_nothing_of_others(tmp_path: Path) -> None:
    home = voc(tmp_path, row(0, 1))
    assert {each.dataset for each in examine(home)} == {"voc21", "voc20"}


def test_two_layouts_name_the_option(tmp_path: Path) -> None:
    home = ade(tmp_path, row(0, 150))
    ade(tmp_path, row(255, 149), "annotations_detectron2")
    first, second = [each for each in examine(tmp_path) if each.dataset == "ade150"]
    says(first, "lies under", 'layout = "detectron2" or "scene_parsing"')
    assert "lies under" not in whats(second)
    assert second.place == home / "annotations_detectron2/validation"


def test_instances_json(tmp_path: Path) -> None:
    home = coco(tmp_path, row(0, 92), count=1)
    path = home / "annotations/instances_val2017.json"
    described = [{"id": 0, "file_name": "000000000000.jpg", "height": 1, "width": 4}]
    path.write_text(json.dumps({"images": described, "annotations": []}))
    finding = find(tmp_path, "coco_object81_inst")
    assert (finding.layout, finding.histogram) == ("instances", {0: 4})
    path.write_text("{")
    says(find(tmp_path, "coco_object81_inst"), "is not JSON", "annotations_trainval2017.zip")


def imagenet(root: Path) -> Path:
    folder = root / "imagenet/val/n01440764"
    save(folder / "ILSVRC2012_val_00000293.JPEG", picture())
    return folder


def test_imagenet(tmp_path: Path) -> None:
    folder = imagenet(tmp_path)
    finding = find(tmp_path, "imagenet1k")
    assert (finding.layout, finding.images, finding.histogram) == ("folders", 1, {0: 1})
    assert whats(finding) == "imagenet1k: 1 images, expected 50,000 (49,999 fewer)"
    (folder / "ILSVRC2012_val_00000293.JPEG").write_bytes(b"x")
    says(find(tmp_path, "imagenet1k"), "1 of 1 images cannot be read", "archive again")
    folder.rename(folder.with_name("n00000001"))
    says(find(tmp_path, "imagenet1k"), "n00000001 is no class of ImageNet-1K", "devkit")
    save(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG", picture())
    both = [each for each in examine(tmp_path) if each.dataset == "imagenet1k"]
    assert [each.layout for each in both] == ["folders", "flat"]
    says(both[1], "images without classes", "devkit")
    says(both[0], "more than once", 'layout = "folders" or "flat"')


def test_text(tmp_path: Path) -> None:
    voc(tmp_path, row(0, 0, 15, 255), names=tuple("abcd"))
    text = render(examine(tmp_path), tmp_path)
    assert f"voc21  layout voc  {tmp_path / 'VOCdevkit/VOC2012/SegmentationClass'}\n" in text
    assert "  4 images and 4 labels of 1,449 expected\n" in text
    assert (
        "  4 files read: 2 of 21 classes: background 50.0%, person 25.0%, ignored 25.0%\n" in text
    )
    assert "  wrong: voc21: 4 images, expected 1,449 (1,445 fewer)\n  mend:  unpack" in text
    assert text.endswith("2 found, 2 with something wrong\n")


def test_nothing_and_no_root(tmp_path: Path) -> None:
    assert examine(tmp_path) == []
    assert render([], tmp_path).startswith(f"no benchmark under {tmp_path}; looked for VOCdevkit")
    with pytest.raises(DataMissingError, match="no data root at"):
        examine(tmp_path / "nowhere")


Build = Callable[..., Path]


@pytest.mark.parametrize("build", [voc, coco, ade])
def test_nothing_is_written(tmp_path: Path, build: Build) -> None:
    build(tmp_path, row(0, 3))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    examine(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_how_to_get_every_data_set() -> None:
    for kind in ("voc21", "cityscapes19", "imagenet_s300", "imagenet1k"):
        assert "\n" not in how_to_get(kind)
    assert "300 false" in how_to_get("imagenet_s300")
    assert (expected_images("voc20"), expected_images("imagenet1k")) == (1449, 50_000)
    assert "ILSVRC2012_img_val.tar" in how_to_get("imagenet1k")
    with pytest.raises(UsageError, match="unknown data set 'voc22'; did you mean 'voc2"):
        how_to_get("voc22")
