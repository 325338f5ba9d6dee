"""Cityscapes, 19 classes, from labelIds as they are downloaded or from trainIds."""

from segbench.datasets.benchmark import Benchmark
from segbench.datasets.layout import FileLayout
from segbench.datasets.lookup import cityscapes, identity

_IMAGES = ("leftImg8bit/val",)
_IMAGE_SUFFIXES = ("_leftImg8bit.png",)
_LABELS = "gtFine/val"

CITYSCAPES19 = Benchmark(
    name="cityscapes19",
    class_list="cityscapes19",
    expected_images=500,
    homes=("cityscapes", "city", "Cityscapes"),
    layouts=(
        FileLayout(
            name="label_ids",
            images=_IMAGES,
            image_suffixes=_IMAGE_SUFFIXES,
            labels=_LABELS,
            label_suffix="_gtFine_labelIds.png",
            listing="pairs",
            nested=True,
            make_table=cityscapes,
        ),
        FileLayout(
            name="train_ids",
            images=_IMAGES,
            image_suffixes=_IMAGE_SUFFIXES,
            labels=_LABELS,
            label_suffix="_gtFine_labelTrainIds.png",
            listing="pairs",
            nested=True,
            make_table=lambda: identity(19, 255),
        ),
    ),
    subsets={"stuff": tuple(range(11)), "thing": tuple(range(11, 19))},
    get=(
        "download gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip from "
        "cityscapes-dataset.com and unpack both in one folder `cityscapes`"
    ),
)

BENCHMARKS = (CITYSCAPES19,)
