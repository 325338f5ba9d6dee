"""ImageNet-S: 50, 300 or 919 classes of ImageNet and "other", as RGB PNG of ids."""

from segbench.datasets.benchmark import Benchmark
from segbench.datasets.layout import FileLayout
from segbench.datasets.lookup import Table, identity
from segbench.datasets.pictures import read_colour_ids

_IGNORED_ID = 1000


def _benchmark(classes: int, expected_images: int) -> Benchmark:
    folder = f"ImageNetS{classes}"

    def make_table() -> Table:
        return identity(classes + 1, _IGNORED_ID)

    return Benchmark(
        name=f"imagenet_s{classes}",
        class_list=f"imagenet_s{classes}",
        expected_images=expected_images,
        homes=(
            f"ImageNetS/{folder}",
            f"imagenet-s/{folder}",
            f"ImageNet-S/{folder}",
            folder,
        ),
        layouts=(
            FileLayout(
                name="rgb",
                images=("validation",),
                labels="validation-segmentation",
                label_suffix=".png",
                listing="pairs",
                nested=True,
                make_table=make_table,
                read_file=read_colour_ids,
            ),
        ),
        get=(
            "clone LUSSeg/ImageNet-S and run `bash data_preparation.sh IMAGENET OUT "
            f"{classes} false` in its folder datapreparation"
        ),
    )


BENCHMARKS = (_benchmark(50, 752), _benchmark(300, 4097), _benchmark(919, 12419))
