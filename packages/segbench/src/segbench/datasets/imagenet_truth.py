"""Labels of the flat ImageNet validation set, from the files that give them."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segbench.datasets.pictures import load_matlab
from segbench.errors import DataMissingError, FormatError, UsageError

TRUTHS = (
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "data/ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
"""Where the labels are, beside the images, above them, or in the root."""

_WNID = re.compile(r"n\d{8}")


def find_truth(root: Path, images: Path, truth: str) -> Path:
    """The file of labels: the one asked for, else the only one that is there.

    Raises:
        DataMissingError: none is there.
        UsageError: several are there.
    """
    if truth:
        asked = [path for path in (root / truth, Path(truth)) if path.is_file()]
        if not asked:
            raise DataMissingError(f"no file of labels {truth} in {root}")
        return asked[0]
    folders = dict.fromkeys((images, images.parent, root))
    paths = [folder / name for folder in folders for name in TRUTHS]
    found = {path.resolve(): path for path in paths if path.is_file()}
    if not found:
        raise DataMissingError(
            f"{images} holds images without classes; put {TRUTHS[0]} of the devkit or one of "
            f"{', '.join(TRUTHS[3:])} beside it, or name a file with the option truth"
        )
    if len(found) > 1:
        names = " or ".join(str(path) for path in found.values())
        raise UsageError(f"{images} has several files of labels; choose with truth = {names}")
    return next(iter(found.values()))


def read_truth(path: Path, wnids: Mapping[str, int]) -> dict[str, int]:
    """Label by image name.

    Four forms are told apart by their content: Kaggle's CSV (name, then a WordNet id and boxes);
    lines of a name and a label; one WordNet id a line; one number of the devkit's own order a line,
    which needs the `meta.mat` beside it. In the last two, line i is of image i, from 1.

    Args:
        path: the file.
        wnids: label by WordNet id.

    Raises:
        FormatError: a line is of no such form, or its class is none of ImageNet-1K.
        DataMissingError: `meta.mat` or scipy is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: must be text: {error}") from error
    rows = [row for row in (line.split() for line in lines) if row]
    if not rows:
        raise FormatError(f"{path}: is empty")
    if path.suffix == ".csv":
        return _kaggle(lines, path, wnids)
    if len(rows[0]) == 2:
        return {Path(row[0]).stem: _label(row[-1], path, len(wnids)) for row in rows}
    if _WNID.fullmatch(rows[0][0]):
        return _numbered([row[0] for row in rows], path, lambda word: wnids.get(word))
    by_number = _devkit_labels(path.parent / "meta.mat", wnids)
    return _numbered([row[0] for row in rows], path, lambda word: by_number.get(word))


def _kaggle(lines: Sequence[str], path: Path, wnids: Mapping[str, int]) -> dict[str, int]:
    labels = {}
    for name, *words in csv.reader(lines[1:]):
        wnid = words[0].split()[0] if words and words[0].strip() else ""
        if wnid not in wnids:
            raise FormatError(f"{path}: {name}: {wnid!r} is no class of ImageNet-1K")
        labels[name] = wnids[wnid]
    return labels


def _label(word: str, path: Path, classes: int) -> int:
    if word.isdecimal() and int(word) < classes:
        return int(word)
    raise FormatError(f"{path}: a label must be in [0, {classes}), got {word!r}")


def _numbered(
    words: Sequence[str], path: Path, to_label: Callable[[str], int | None]
) -> dict[str, int]:
    labels = {}
    for number, word in enumerate(words, start=1):
        label = to_label(word)
        if label is None:
            raise FormatError(f"{path}:{number}: {word!r} is no class of ImageNet-1K")
        labels[f"ILSVRC2012_val_{number:08d}"] = label
    return labels


def _devkit_labels(path: Path, wnids: Mapping[str, int]) -> dict[str, int]:
    """Label by ILSVRC2012_ID, written as a word; the devkit's order is not that of the labels."""
    if not path.is_file():
        raise DataMissingError(
            f"no {path}: the ground truth of the devkit counts classes in an order that only this "
            "file tells"
        )
    synsets: Any = load_matlab(path).get("synsets")
    fields = getattr(getattr(synsets, "dtype", None), "names", None) or ()
    if not {"ILSVRC2012_ID", "WNID"} <= set(fields):
        raise FormatError(f"{path}: no synsets with ILSVRC2012_ID and WNID")
    numbers = [int(np.asarray(value).item()) for value in synsets["ILSVRC2012_ID"].ravel()]
    words = [str(np.asarray(value).item()) for value in synsets["WNID"].ravel()]
    pairs = zip(numbers, words, strict=True)
    return {str(number): wnids[word] for number, word in pairs if word in wnids}
