"""Signs that label files are not what their names say, each with what mends it."""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from segbench.datasets.benchmark import ROOTS, Benchmark
from segbench.datasets.coco import OBJECT_SUFFIX, STUFF_SUFFIX
from segbench.datasets.layout import FileLayout

COCO_UNUSED = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
"""Values that no stuffthingmaps PNG holds."""

_SUFFIX_OF = {OBJECT_SUFFIX: "coco_object81", STUFF_SUFFIX: "coco_stuff171"}
_ADE_FULL = ("ADE20K_2021_17_01", "ade/ADE20K_2021_17_01", "ADE20K_2016_07_26")

ENOUGH = 10  # label files that must have been read before a value that is absent means something


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a data set."""

    what: str
    """One line."""

    mend: str
    """The one command or sentence that mends it."""


@dataclass(frozen=True, slots=True)
class _Sign:
    """A reason to distrust the values of a layout."""

    layouts: tuple[tuple[str, str], ...]
    """(data set, layout) pairs it is about."""

    shows: Callable[[Set[int], bool], bool]
    """Whether the values, and whether they are of enough files, show it."""

    problem: Problem


_STUFF = (("coco_stuff171", "raw"), ("coco_stuff171", "stuffthingmaps"))
_OBJECT = (("coco_object81", "raw"), ("coco_object81", "stuffthingmaps"))
_CONVERT_COCO = (
    "take the original maps: unzip stuffthingmaps_trainval2017.zip to annotations, they are read "
    "as they are"
)

_SIGNS = (
    _Sign(
        (("cityscapes19", "train_ids"),),
        lambda values, _: bool(values & set(range(19, 34))),
        Problem(
            "labelIds under the name of trainIds: values 19 to 33 occur",
            'set layout = "label_ids" to read *_gtFine_labelIds.png, or make trainIds anew: '
            "`CITYSCAPES_DATASET=ROOT csCreateTrainIdLabelImgs`",
        ),
    ),
    _Sign(
        (("cityscapes19", "label_ids"),),
        lambda values, enough: enough and not values & set(range(19, 34)),
        Problem(
            "looks like trainIds under the name of labelIds: no value from 19 to 33 occurs",
            "take *_gtFine_labelIds.png from gtFine_trainvaltest.zip again",
        ),
    ),
    _Sign(
        (("coco_stuff171", "label_train_ids"),),
        lambda values, enough: enough and max(values - {255}, default=0) <= 80,
        Problem(
            "looks like _instanceTrainIds given as Stuff: no stuff class, 81 to 170, occurs",
            _CONVERT_COCO,
        ),
    ),
    _Sign(
        (("coco_stuff171", "label_train_ids"), ("coco_stuff171", "detectron2")),
        lambda values, _: bool(values & set(range(171, 255))),
        Problem(
            "unconverted ids under the name of train ids: values past 170 occur",
            _CONVERT_COCO,
        ),
    ),
    _Sign(
        (("coco_object81", "instance_train_ids"),),
        lambda values, _: bool(values & set(range(81, 255))),
        Problem(
            "Stuff labels given as _instanceTrainIds: values past 80 occur",
            _CONVERT_COCO,
        ),
    ),
    _Sign(
        (*_STUFF, *_OBJECT),
        lambda values, _: bool(values & COCO_UNUSED),
        Problem(
            "converted ids under the name of the original maps: values occur that COCO-Stuff "
            "leaves out, such as 11",
            _CONVERT_COCO,
        ),
    ),
    _Sign(
        (("ade150", "scene_parsing"),),
        lambda values, _: 255 in values,
        Problem(
            "already converted: 255 occurs, which the release does not hold",
            "take annotations/validation from ADEChallengeData2016.zip again; converted files "
            "belong in annotations_detectron2/validation",
        ),
    ),
    _Sign(
        (("ade150", "detectron2"),),
        lambda values, _: bool(values & set(range(150, 255))),
        Problem(
            "unconverted ids: values past 149 occur",
            'set layout = "scene_parsing" to read annotations/validation as it was downloaded',
        ),
    ),
    _Sign(
        (("context60", "png"), ("context59", "png")),
        lambda values, _: bool(values & set(range(60, 255)) or values & set(range(256, 65536))),
        Problem(
            "unconverted ids of the 459 classes: values past 59 occur",
            'put trainval_merged.json into VOC2010 and set layout = "json", which needs no '
            "conversion",
        ),
    ),
)


def value_problems(dataset: str, layout: str, values: Set[int], sampled: int) -> list[Problem]:
    """What the stored values of some label files say against their layout.

    Args:
        dataset: name of the benchmark.
        layout: name of the layout.
        values: every value that occurs.
        sampled: files that were read.
    """
    enough = sampled >= ENOUGH
    return [
        sign.problem
        for sign in _SIGNS
        if (dataset, layout) in sign.layouts and sign.shows(values, enough)
    ]


def near_misses(benchmark: Benchmark, root: Path) -> Iterator[tuple[Path, Problem]]:
    """Folders that should hold the data set and do not, where no layout of it was found."""
    ade = _ADE_FULL if benchmark.name.startswith("ade") else ()
    homes = [root / place / home for place in ROOTS for home in (*benchmark.homes, *ade, "")]
    for home in filter(Path.is_dir, dict.fromkeys(homes)):
        problem = (
            (_other_release(benchmark, home) if ade else None)
            or _other_labels(benchmark, home)
            or _images_only(benchmark, home)
        )
        if problem:
            yield home, problem


def _other_release(benchmark: Benchmark, home: Path) -> Problem | None:
    """The full release of ADE20K, whose masks are RGB."""
    for folder in ("images/validation", "images/ADE/validation", "annotations/validation"):
        for pattern in ("*_seg.png", "*/*_seg.png", "*/*/*_seg.png"):
            if any(True for _ in (home / folder).glob(pattern)):
                return Problem(
                    f"{home / folder} holds RGB masks *_seg.png: the full release of ADE20K, "
                    f"not what {benchmark.name} is read from",
                    benchmark.get,
                )
    return None


def _other_labels(benchmark: Benchmark, home: Path) -> Problem | None:
    """Label folders whose files have another suffix."""
    for layout in benchmark.layouts:
        held = endings(layout.place(home)) if isinstance(layout, FileLayout) else []
        other = next((end for end in held if end in _SUFFIX_OF), "")
        if other:
            return Problem(
                f"{layout.place(home)} holds *{other}, labels of {_SUFFIX_OF[other]}, and none of "
                f"{benchmark.name}",
                benchmark.get,
            )
        if held:
            return Problem(
                f"wrong suffix: {layout.place(home)} holds {', '.join(f'*{end}' for end in held)}, "
                f"expected {layout.needs}",
                benchmark.get,
            )
    return None


def _images_only(benchmark: Benchmark, home: Path) -> Problem | None:
    """Images without any labels, in a folder that has the name of a home."""
    if home.resolve().name not in {Path(each).name for each in benchmark.homes}:
        return None
    folders = [folder for each in benchmark.layouts for folder in each.images]
    there = [folder for folder in dict.fromkeys(folders) if (home / folder).is_dir()]
    if not there:
        return None
    needs = " or ".join(each.needs for each in benchmark.layouts)
    return Problem(f"images in {home / there[0]}, but no labels: needs {needs}", benchmark.get)


def endings(folder: Path) -> list[str]:
    """How the names of files in a folder, or in the folders in it, end: at most three, sorted."""
    for pattern in ("*", "*/*"):
        files = (path for path in folder.glob(pattern) if path.is_file())
        found = {_ending(path) for path in files if not path.name.startswith(".")}
        if found:
            return sorted(found)[:3]
    return []


def _ending(path: Path) -> str:
    word = path.stem.rpartition("_")[2]
    kind = word.endswith(("Ids", "seg", "color", "polygons"))
    return f"_{word}{path.suffix}" if kind else path.suffix
