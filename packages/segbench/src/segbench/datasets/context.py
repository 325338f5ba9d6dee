"""PASCAL Context on VOC 2010: 59 classes, with background or without, and 459."""

from collections.abc import Callable

from segbench.datasets.benchmark import Benchmark
from segbench.datasets.json_layout import JsonLayout
from segbench.datasets.layout import FileLayout
from segbench.datasets.lookup import (
    IGNORED,
    UNKNOWN,
    Table,
    context59,
    context60,
    identity,
    table,
    zero_reduced,
)
from segbench.datasets.pictures import read_label_map

IMAGES = ("JPEGImages",)
SPLITS = ("ImageSets/SegmentationContext/val.txt", "pascalcontext_val.txt")

_HOMES = ("VOCdevkit/VOC2010", "VOC2010", "pcontext/VOCdevkit/VOC2010")
_COUNT_HINT = "5,104 and 5,105 are both in use: the list decides, so name it beside the number"
_GET = (
    "download VOCtrainval_03-May-2010.tar (host.robots.ox.ac.uk/pascal/VOC/voc2010) and "
    "trainval_merged.json (codalabuser.blob.core.windows.net/public); put the JSON into "
    "VOCdevkit/VOC2010"
)


def _json(make_table: Callable[[], Table]) -> JsonLayout:
    """Painted in the order of the file: a later annotation covers an earlier one.

    What none covers is id 0. The real file takes some GB of memory.
    """
    return JsonLayout(
        name="json",
        images=IMAGES,
        annotations="trainval_merged.json",
        list_key="annos_segmentation",
        id_key="image_id",
        phase="val",
        make_table=make_table,
    )


def _png(make_table: Callable[[], Table]) -> FileLayout:
    return FileLayout(
        name="png",
        images=IMAGES,
        labels="SegmentationClassContext",
        label_suffix=".png",
        listing="split",
        splits=SPLITS,
        make_table=make_table,
    )


def _mat(make_table: Callable[[], Table]) -> FileLayout:
    return FileLayout(
        name="mat",
        images=IMAGES,
        labels="trainval",
        label_suffix=".mat",
        listing="split",
        splits=SPLITS,
        make_table=make_table,
        read_file=read_label_map,
    )


def _detectron2(labels: str, suffix: str, make_table: Callable[[], Table]) -> FileLayout:
    return FileLayout(
        name="detectron2",
        images=IMAGES,
        labels=f"annotations_detectron2/{labels}",
        label_suffix=suffix,
        listing="labels",
        make_table=make_table,
    )


def _within_459(labels: Table) -> Table:
    """The same table where ids past 459, which no LabelMap holds, are unknown."""
    bounded = labels.copy()
    bounded[460:] = UNKNOWN
    return bounded


CONTEXT60 = Benchmark(
    name="context60",
    class_list="context60",
    expected_images=5104,
    count_hint=_COUNT_HINT,
    homes=_HOMES,
    layouts=(
        _png(lambda: identity(60, 255)),
        _json(lambda: context60(rest=IGNORED)),
        # background is what is none of the 59, so the other 400 classes of the .mat belong to it
        _mat(lambda: _within_459(context60(rest=0))),
    ),
    get=_GET,
)

CONTEXT59 = Benchmark(
    name="context59",
    class_list="context60",
    foreground_only=True,
    expected_images=5104,
    count_hint=_COUNT_HINT,
    homes=_HOMES,
    layouts=(
        _png(lambda: zero_reduced(59)),
        _json(context59),
        _mat(lambda: _within_459(context59())),
        _detectron2("pc59_val", ".png", lambda: identity(59, 255)),
    ),
    get=_GET,
)

PC459 = Benchmark(
    name="pc459",
    class_list="pc459",
    expected_images=5104,
    count_hint=_COUNT_HINT,
    homes=_HOMES,
    layouts=(
        _mat(lambda: table({value + 1: value for value in range(459)}, (0,))),
        _detectron2("pc459_val", ".tif", lambda: identity(459, 459, 65535)),
    ),
    get=(
        "download VOCtrainval_03-May-2010.tar and the 459-class labels trainval.tar.gz "
        "(roozbehm.info/pascal-context), unpack the labels to VOCdevkit/VOC2010/trainval and put "
        "CAT-Seg's pascalcontext_val.txt beside that folder"
    ),
)

BENCHMARKS = (CONTEXT60, CONTEXT59, PC459)
