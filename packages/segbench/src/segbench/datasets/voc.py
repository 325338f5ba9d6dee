"""PASCAL VOC 2012: 20 classes, with background (voc21) or without (voc20)."""

from segbench.datasets.benchmark import Benchmark
from segbench.datasets.layout import FileLayout
from segbench.datasets.lookup import identity, zero_reduced

_HOMES = ("VOCdevkit/VOC2012", "VOC2012", "voc/VOCdevkit/VOC2012")
_GET = (
    "download VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC/voc2012 and unpack "
    "it in the root: `tar xf VOCtrainval_11-May-2012.tar`"
)


def _palette(reduced: bool) -> FileLayout:
    return FileLayout(
        name="voc",
        images=("JPEGImages",),
        labels="SegmentationClass",
        label_suffix=".png",
        listing="split",
        splits=("ImageSets/Segmentation/val.txt",),
        make_table=lambda: zero_reduced(20) if reduced else identity(21, 255),
    )


_DETECTRON2 = FileLayout(
    name="detectron2",
    images=("JPEGImages",),
    labels="annotations_detectron2/val",
    label_suffix=".png",
    listing="labels",
    make_table=lambda: identity(20, 255),
)
"""What PixelCLIP's converter writes from SegmentationClassAug: 0..19, and no file for an image
that holds background only, so there are fewer images. A protocol of its own."""

VOC21 = Benchmark(
    name="voc21",
    class_list="voc21",
    expected_images=1449,
    homes=_HOMES,
    layouts=(_palette(reduced=False),),
    subsets={"thing": tuple(range(1, 21))},
    get=_GET,
)

VOC20 = Benchmark(
    name="voc20",
    class_list="voc21",
    foreground_only=True,
    expected_images=1449,
    count_hint="detectron2's converter writes no label where an image is background only",
    homes=_HOMES,
    layouts=(_palette(reduced=True), _DETECTRON2),
    get=_GET,
)

BENCHMARKS = (VOC21, VOC20)
