"""COCO 2017: objects (80 and background), objects from instances, and Stuff (171)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segbench.datasets.annotations import paint
from segbench.datasets.benchmark import Benchmark
from segbench.datasets.json_layout import JsonLayout
from segbench.datasets.layout import FileLayout
from segbench.datasets.lookup import Table, coco_category, coco_object, coco_stuff, identity
from segbench.datasets.pictures import Indices
from segbench.errors import FormatError

IMAGES = ("images/val2017", "val2017")
STUFF_SUFFIX = "_labelTrainIds.png"
OBJECT_SUFFIX = "_instanceTrainIds.png"
CROWD = 65535  # stands for a crowd in a map of category ids, which end at 90

_HOMES = ("coco_stuff164k", "coco", "coco-stuff", "COCO")
_THINGS = tuple(range(1, 81))
_GET = (
    "download val2017.zip from images.cocodataset.org/zips and stuffthingmaps_trainval2017.zip "
    "from calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset; unpack them to "
    "images/val2017 and annotations/val2017 of one folder `coco`"
)


def _maps(name: str, labels: str, make_table: Callable[[], Table], suffix: str) -> FileLayout:
    others = (STUFF_SUFFIX, OBJECT_SUFFIX) if suffix == ".png" else ()
    return FileLayout(
        name=name,
        images=IMAGES,
        labels=labels,
        label_suffix=suffix,
        other_suffixes=others,
        listing="pairs",
        make_table=make_table,
    )


def _raw(make_table: Callable[[], Table]) -> tuple[FileLayout, FileLayout]:
    """COCO-Stuff as it is downloaded, in the two folders people unpack it to."""
    return (
        _maps("raw", "annotations/val2017", make_table, ".png"),
        _maps("stuffthingmaps", "stuffthingmaps/val2017", make_table, ".png"),
    )


def paint_instances(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], path: Path
) -> Indices:
    """(H, W) category ids of one image.

    Instances are painted from the largest area to the smallest, equal ones in the order of the
    file, so that a small one is not lost under a large one. A pixel that only crowds cover is
    `CROWD`, which is ignored; what no annotation covers is 0, background.

    Raises:
        FormatError: naming the annotation that cannot be read.
    """
    instances = [each for each in annotations if not each.get("iscrowd")]
    crowds = [each for each in annotations if each.get("iscrowd")]
    for each in instances:
        if not isinstance(each.get("area"), int | float):
            raise FormatError(f"{path}: annotation {each.get('id')}: area must be a number")
    below = [{**each, "category_id": CROWD} for each in crowds]
    ordered = sorted(instances, key=lambda each: -float(each["area"]))
    return paint([*below, *ordered], size, path)  # (H, W)


INSTANCES = JsonLayout(
    name="instances",
    images=IMAGES,
    annotations="annotations/instances_val2017.json",
    make_table=lambda: coco_category(CROWD),
    paint=paint_instances,
)

COCO_OBJECT81 = Benchmark(
    name="coco_object81",
    class_list="coco_object81",
    expected_images=5000,
    homes=_HOMES,
    layouts=(
        *_raw(coco_object),
        _maps(
            "instance_train_ids",
            "annotations/val2017",
            lambda: identity(81, 255),
            OBJECT_SUFFIX,
        ),
    ),
    subsets={"thing": _THINGS},
    get=_GET,
)

COCO_OBJECT81_INST = Benchmark(
    name="coco_object81_inst",
    class_list="coco_object81",
    expected_images=5000,
    homes=_HOMES,
    layouts=(INSTANCES,),
    subsets={"thing": _THINGS},
    get=(
        "download val2017.zip and annotations_trainval2017.zip from images.cocodataset.org; unpack "
        "them to images/val2017 and annotations of one folder `coco`"
    ),
)

COCO_STUFF171 = Benchmark(
    name="coco_stuff171",
    class_list="coco_stuff171",
    expected_images=5000,
    homes=_HOMES,
    layouts=(
        *_raw(coco_stuff),
        _maps("label_train_ids", "annotations/val2017", lambda: identity(171, 255), STUFF_SUFFIX),
        _maps(
            "detectron2",
            "annotations_detectron2/val2017",
            lambda: identity(171, 255),
            ".png",
        ),
    ),
    subsets={"stuff": tuple(range(80, 171)), "thing": tuple(range(80))},
    get=_GET,
)

BENCHMARKS = (COCO_OBJECT81, COCO_OBJECT81_INST, COCO_STUFF171)
