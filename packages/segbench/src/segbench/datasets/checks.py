"""What the files of a data set show when they are looked at and some are read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from segbench.datasets.benchmark import Benchmark
from segbench.datasets.layout import Entry, Stock
from segbench.datasets.lookup import UNKNOWN
from segbench.datasets.pictures import read_image
from segbench.datasets.signs import Problem, endings
from segbench.errors import FormatError, SegbenchError

T = TypeVar("T")


def spread(entries: Sequence[T], count: int) -> list[T]:
    """`count` entries, or all where there are fewer, evenly from first to last."""
    picked = np.linspace(0, len(entries) - 1, min(count, len(entries))).astype(int)
    return [entries[index] for index in picked.tolist()]


@dataclass(frozen=True, slots=True)
class Sample:
    """What some entries hold."""

    values: Mapping[int, int]
    """Pixels by stored value."""

    read: int
    """Label files that could be read."""

    problems: tuple[Problem, ...]
    """What could not."""


def read_sample(benchmark: Benchmark, stock: Stock, entries: Sequence[Entry]) -> Sample:
    """Read images and labels of some entries."""
    values: Counter[int] = Counter()
    failures: dict[str, list[str]] = {"label": [], "image": [], "size": []}
    for entry in entries:
        try:
            stored = stock.read(entry)  # (H, W)
        except SegbenchError as error:
            failures["label"].append(str(error))
            continue
        present, pixels = np.unique(stored, return_counts=True)
        values.update(dict(zip(present.tolist(), pixels.tolist(), strict=True)))
        try:
            shape = read_image(entry.image).shape[:2]
        except FormatError as error:
            failures["image"].append(str(error))
            continue
        if shape != stored.shape:
            failures["size"].append(f"{entry.id} is {shape}, its labels are {stored.shape}")
    return Sample(
        values,
        len(entries) - len(failures["label"]),
        tuple(_read_problems(benchmark, failures, len(entries))),
    )


def _read_problems(
    benchmark: Benchmark, failures: Mapping[str, Sequence[str]], sampled: int
) -> Iterator[Problem]:
    colours = [text for text in failures["label"] if "holds colours" in text]
    if colours:
        yield Problem(
            f"{len(colours)} of {sampled} label files hold colours, not indices (saved as RGB, "
            f"or of another release): {colours[0].partition(': ')[0]}",
            f"take the original label files, which open in mode P or L: {benchmark.get}",
        )
    others = [text for text in failures["label"] if "holds colours" not in text]
    for texts, kind in ((others, "label files"), (failures["image"], "images")):
        if texts:
            yield Problem(
                f"{len(texts)} of {sampled} {kind} cannot be read: {texts[0]}",
                f"take them from the archive again: {benchmark.get}",
            )
    if failures["size"]:
        yield Problem(
            f"{len(failures['size'])} of {sampled} images differ in size from their labels: "
            f"{failures['size'][0]}",
            f"take images and labels of one release: {benchmark.get}",
        )


def unknown_values(
    benchmark: Benchmark, stock: Stock, values: Mapping[int, int]
) -> Iterator[Problem]:
    """Values that the layout gives no meaning."""
    unknown = sorted(value for value in values if stock.table[value] == UNKNOWN)
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        yield Problem(
            f"unconverted ids, or labels of another data set: values {listed} mean nothing here",
            f"take the original label files: {benchmark.get}",
        )


def file_problems(benchmark: Benchmark, stock: Stock) -> Iterator[Problem]:
    """Files that are missing, empty or dead links, and a number that is not the published one."""
    for lone, have, lack, place in (
        (stock.no_label, "images", "label", stock.labels),
        (stock.no_image, "labels", "image", stock.images),
    ):
        if lone:
            held = ", ".join(f"*{ending}" for ending in endings(place))
            holds = f"; {place} holds {held or 'nothing'}" if place.is_dir() else ""
            yield Problem(
                f"{len(lone):,} {have} listed by {stock.listed} have no {lack}, the first is "
                f"{lone[0]}{holds}",
                f"unpack the {lack}s again, or leave these out with the option split: "
                f"{benchmark.get}",
            )
    files = dict.fromkeys(path for entry in stock.entries for path in (entry.image, entry.label))
    dead = [path for path in files if not path.is_file() or path.stat().st_size == 0]
    if dead:
        yield Problem(
            f"{len(dead):,} files are empty or dead links, the first is {dead[0]}",
            f"take them from the archive again: {benchmark.get}",
        )
    note = benchmark.count_note(len(stock.entries))
    if note and not (stock.no_label or stock.no_image):
        mend = "report the number of images with the result" if benchmark.count_hint else ""
        yield Problem(note, mend or f"unpack the whole validation set: {benchmark.get}")
