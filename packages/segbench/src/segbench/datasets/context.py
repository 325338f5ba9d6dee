"""PASCAL Context on VOC 2010: 59 classes, with background or without, and 459."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segbench.datasets.annotations import group_by_image, image_size, load_json, paint
from segbench.datasets.benchmark import Benchmark
from segbench.datasets.layout import (
    JPEG,
    Entry,
    FileLayout,
    Stock,
    find_split,
    first_folder,
    index_files,
    read_split,
)
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
from segbench.datasets.pictures import Indices, read_label_map
from segbench.errors import FormatError

IMAGES = ("JPEGImages",)
SPLITS = ("ImageSets/SegmentationContext/val.txt", "pascalcontext_val.txt")

_HOMES = ("VOCdevkit/VOC2010", "VOC2010", "pcontext/VOCdevkit/VOC2010")
_COUNT_HINT = "5,104 and 5,105 are both in use: the list decides, so name it beside the number"
_GET = (
    "download VOCtrainval_03-May-2010.tar (host.robots.ox.ac.uk/pascal/VOC/voc2010) and "
    "trainval_merged.json (codalabuser.blob.core.windows.net/public); put the JSON into "
    "VOCdevkit/VOC2010"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedLayout:
    """Label maps painted from `trainval_merged.json`, in the order of the file.

    A later annotation covers an earlier one. What none covers is id 0. The whole file is read to
    list it, some GB of memory for the real one.
    """

    make_table: Callable[[], Table]
    """Makes the look-up table from original ids."""

    name: str = "json"
    """What the option `layout` calls it."""

    images: tuple[str, ...] = IMAGES
    """Folders of the images, relative to the home; the first that exists is taken."""

    annotations: str = "trainval_merged.json"
    """The annotations, relative to the home."""

    @property
    def needs(self) -> str:
        """The file that tells this layout, relative to the home of the data set."""
        return self.annotations

    def place(self, home: Path) -> Path:
        """The annotations."""
        return home / self.annotations

    def is_at(self, home: Path) -> bool:
        """Whether the annotations are there."""
        return self.place(home).is_file()

    def take_stock(self, home: Path, split: str) -> Stock:
        """List the images of the phase "val", or those of `split`."""
        path = self.place(home)
        content = load_json(path, "images", "annos_segmentation")
        described = {Path(str(image.get("file_name"))).stem: image for image in content["images"]}
        if len(described) < len(content["images"]):
            raise FormatError(f"{path}: lists an image more than once")
        validation = [name for name, image in described.items() if image.get("phase") == "val"]
        listed = find_split(home, split, ()) if split else path
        names = sorted(read_split(listed) if split else validation)
        wanted = {described[name].get("image_id") for name in names if name in described}
        grouped = group_by_image(
            [each for each in content["annos_segmentation"] if each.get("image_id") in wanted]
        )
        folder = first_folder(home, self.images)
        files = index_files(folder, JPEG, nested=False)

        def read(entry: Entry) -> Indices:
            image = described[entry.id]
            return paint(grouped.get(image.get("image_id"), []), image_size(image, path), path)

        found = [name for name in names if name in files and name in described]
        return Stock(
            entries=tuple(Entry(name, files[name], path) for name in found),
            no_label=tuple(name for name in names if name not in described),
            no_image=tuple(name for name in names if name not in files),
            images=folder,
            labels=path,
            listed=str(listed),
            table=self.make_table(),
            read=read,
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
        MergedLayout(make_table=lambda: context60(rest=IGNORED)),
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
        MergedLayout(make_table=context59),
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
