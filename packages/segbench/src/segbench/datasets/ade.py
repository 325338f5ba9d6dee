"""ADE20K: the 150 classes of scene parsing, and 847 of the full release."""

from segbench.datasets.benchmark import Benchmark
from segbench.datasets.layout import FileLayout
from segbench.datasets.lookup import identity, zero_reduced

ADE150 = Benchmark(
    name="ade150",
    class_list="ade150",
    expected_images=2000,
    homes=("ade/ADEChallengeData2016", "ADEChallengeData2016"),
    layouts=(
        FileLayout(
            name="scene_parsing",
            images=("images/validation",),
            labels="annotations/validation",
            label_suffix=".png",
            listing="pairs",
            make_table=lambda: zero_reduced(150),
        ),
        FileLayout(
            name="detectron2",
            images=("images/validation",),
            labels="annotations_detectron2/validation",
            label_suffix=".png",
            listing="pairs",
            make_table=lambda: identity(150, 255),
        ),
    ),
    get=(
        "wget http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip && "
        "unzip ADEChallengeData2016.zip"
    ),
)

ADE847 = Benchmark(
    name="ade847",
    class_list="ade847",
    expected_images=2000,
    homes=("ADE20K_2021_17_01", "ade/ADE20K_2021_17_01"),
    layouts=(
        FileLayout(
            name="detectron2",
            images=("images_detectron2/validation",),
            labels="annotations_detectron2/validation",
            label_suffix=".tif",
            listing="pairs",
            make_table=lambda: identity(847, 65535),
        ),
    ),
    get=(
        "unpack ADE20K_2021_17_01 and run CAT-Seg's `python datasets/prepare_ade20k_full.py`, "
        "which writes images_detectron2 and annotations_detectron2 at a short side of 512 at most"
    ),
)

BENCHMARKS = (ADE150, ADE847)
