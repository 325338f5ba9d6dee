"""Look-up tables: which stored value means which class."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Table: TypeAlias = npt.NDArray[np.int32]
"""(65536,) label id by stored value; `IGNORED` is not scored, `UNKNOWN` must not occur."""

IGNORED = -1
UNKNOWN = -2


def table(to_label: Mapping[int, int], ignored: Iterable[int] = (), rest: int = UNKNOWN) -> Table:
    """A table from its entries.

    Args:
        to_label: label id by stored value.
        ignored: further stored values that are ignored.
        rest: label of every other value.
    """
    labels = np.full(65536, rest, dtype=np.int32)
    for value, label in to_label.items():
        labels[value] = label
    labels[list(ignored)] = IGNORED
    return labels


def identity(classes: int, *ignored: int) -> Table:
    """Label ids as they are: [0, classes), the values `ignored`, and nothing else."""
    return table({value: value for value in range(classes)}, ignored)


def zero_reduced(classes: int) -> Table:
    """Zero reduction: [1, classes] less 1; 0 and 255 are ignored, so 255 never becomes 254."""
    return table({value + 1: value for value in range(classes)}, (0, 255))


def coco_stuff() -> Table:
    """Value of a stuffthingmaps PNG (category id - 1) -> one of 171; every other is ignored."""
    to_train = _mapping("coco_stuff_png_to_train_id")
    return table({value: train for value, train in to_train.items() if train < 255}, rest=IGNORED)


def coco_object() -> Table:
    """Value of a stuffthingmaps PNG -> thing + 1, or 0 for stuff and for 255 (GroupViT's rule).

    Values that the rule does not name do not occur in COCO, so they are unknown.
    """
    to_label = _mapping("coco_object_png_to_label")
    return table(to_label)


def coco_category(crowd: int) -> Table:
    """COCO category id -> thing + 1; 0 is background and `crowd` is ignored."""
    things = {key: thing + 1 for key, thing in _mapping("coco_category_id_to_contiguous").items()}
    return table({**things, 0: 0}, (crowd,))


def cityscapes() -> Table:
    """Cityscapes labelId -> trainId, 255 ignored. Licence plates, -1, are stored as 255."""
    to_train = _mapping("cityscapes_label_id_to_train_id")
    scored = {value: train for value, train in to_train.items() if 0 <= train < 255}
    return table(scored, ({255} | to_train.keys()) - scored.keys() - {-1})


def context60(rest: int) -> Table:
    """Original id of PASCAL Context (0 is no annotation) -> one of 60; others become `rest`."""
    return table(_mapping("pascal_context_original_id_to_60"), rest=rest)


def context59() -> Table:
    """Original id of PASCAL Context -> one of 59; 0 and ids of no class are ignored."""
    sixty = context60(rest=IGNORED)
    return np.where(sixty > 0, sixty - 1, np.int32(IGNORED))


@cache
def _mapping(name: str) -> dict[int, int]:
    text = (files("segbench") / "classnames" / "mappings.json").read_text(encoding="utf-8")
    return {int(value): label for value, label in json.loads(text)[name].items()}
