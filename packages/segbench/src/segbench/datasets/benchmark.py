"""Benchmark data sets as users have them on disk: found by probing, read through tables."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from segbench.datasets.example import Example
from segbench.datasets.layout import Entry, Layout, Stock
from segbench.datasets.lookup import UNKNOWN
from segbench.datasets.pictures import read_image
from segbench.errors import DataMissingError, FormatError, UsageError, unknown
from segbench.words import load_names

log = logging.getLogger(__name__)

ROOTS = ("", "data", "local_data", "datasets")
"""Where mmsegmentation, GroupViT and CoCu, and detectron2 keep data, inside a project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A data set of the literature."""

    name: str
    """Its kind in a task file, such as "voc21"."""

    class_list: str
    """File of `classnames/`."""

    foreground_only: bool = False
    """Whether entry 0 of the class list, the background, is no class of this data set."""

    expected_images: int
    """Images of the validation set."""

    count_hint: str = ""
    """What to know when the number of images differs."""

    homes: tuple[str, ...]
    """Folders that can hold it, relative to a root; a root can also be the home itself."""

    layouts: tuple[Layout, ...]
    """The ways in which it lies on disk."""

    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Label ids of "stuff" and "thing"."""

    get: str
    """One command or sentence that gets the data."""

    @property
    def names(self) -> tuple[str, ...]:
        """K class names by label id."""
        return load_names(self.class_list)[1 if self.foreground_only else 0 :]

    def count_note(self, images: int) -> str:
        """What to say of a number of images: nothing where it is as expected."""
        if images == self.expected_images:
            return ""
        off = images - self.expected_images
        hint = f"; {self.count_hint}" if self.count_hint else ""
        return (
            f"{self.name}: {images:,} images, expected {self.expected_images:,} "
            f"({abs(off):,} {'more' if off > 0 else 'fewer'}){hint}"
        )


@dataclass(frozen=True, slots=True)
class Located:
    """A layout of a data set, and the folder it was found in."""

    layout: Layout
    home: Path


def locate(benchmark: Benchmark, root: Path, folder: str = "", layout: str = "") -> list[Located]:
    """Every place under a root where labels of the data set lie.

    Args:
        benchmark: the data set.
        root: a data root, a project that keeps its data in a folder of it, or the home itself.
        folder: the home, relative to `root`; found by probing when left out.
        layout: name of the only layout to look for.

    Raises:
        DataMissingError: there is no such root.
        UsageError: no such layout.
    """
    if not root.is_dir():
        raise DataMissingError(f"no data root at {root}")
    names = [each.name for each in benchmark.layouts]
    if layout and layout not in names:
        raise UsageError(unknown(f"layout of {benchmark.name}", layout, names))
    found: dict[tuple[str, Path], Located] = {}
    for home in _homes(benchmark, root, folder):
        for each in benchmark.layouts:
            if layout in ("", each.name) and each.is_at(home):
                key = each.name, each.place(home).resolve()  # a link is no second copy
                found.setdefault(key, Located(each, home))
    return list(found.values())


def _homes(benchmark: Benchmark, root: Path, folder: str) -> list[Path]:
    if folder:
        return [root / folder]
    homes = [root / place / home for place in ROOTS for home in (*benchmark.homes, "")]
    return [home for home in dict.fromkeys(homes) if home.is_dir()]


def choose(benchmark: Benchmark, root: Path, folder: str = "", layout: str = "") -> Located:
    """The one layout of a data set that lies under a root.

    Raises:
        DataMissingError: there is none, or no such root.
        UsageError: there are several, or no such layout.
    """
    found = locate(benchmark, root, folder, layout)
    if len(found) == 1:
        return found[0]
    if not found:
        wanted = [each for each in benchmark.layouts if layout in ("", each.name)]
        needs = ", ".join(f"{each.needs} (layout {each.name})" for each in wanted)
        where = root / folder if folder else f"{root} or {', '.join(benchmark.homes)} in it"
        raise DataMissingError(f"no {benchmark.name} under {where}; it needs one of {needs}")
    places = "; ".join(f"{each.layout.name} in {each.layout.place(each.home)}" for each in found)
    layouts = sorted({each.layout.name for each in found})
    if len(layouts) > 1:
        option = "layout = " + " or ".join(f'"{name}"' for name in layouts)
    else:
        homes = [str(each.home.relative_to(root)) for each in found]
        option = "folder = " + " or ".join(f'"{name}"' for name in homes)
    raise UsageError(
        f"{benchmark.name} lies under {root} more than once ({places}); choose with {option}"
    )


class BenchmarkDataset:
    """A benchmark data set, read where it lies.

    Args:
        benchmark: which data set.
        located: where and how it lies.
        split: file with the ids to take, relative to the home or absolute, in place of the
            data set's own list.

    Raises:
        DataMissingError: a folder or the split file is missing, or a listed image has no label or
            a label no image.
        FormatError: two files have one id, or a list contradicts itself.
    """

    def __init__(self, benchmark: Benchmark, located: Located, *, split: str = "") -> None:
        self._benchmark = benchmark
        self._layout = located.layout.name
        self._stock = located.layout.take_stock(located.home, split)
        self._names = benchmark.names
        _require_complete(benchmark.name, self._stock)
        if self.count_note:
            log.warning("%s", self.count_note)

    @property
    def names(self) -> tuple[str, ...]:
        """K class names by label id."""
        return self._names

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        """Label ids of "stuff" and "thing", where the data set tells them apart."""
        return self._benchmark.subsets

    @property
    def layout(self) -> str:
        """How the data set lies on disk."""
        return self._layout

    @property
    def listed(self) -> str:
        """Where the list of images comes from."""
        return self._stock.listed

    @property
    def expected_images(self) -> int:
        """Images of the validation set as it is published."""
        return self._benchmark.expected_images

    @property
    def count_note(self) -> str:
        """How the number of images differs from `expected_images`; empty where it does not."""
        return self._benchmark.count_note(len(self))

    def __len__(self) -> int:
        return len(self._stock.entries)

    def __getitem__(self, index: int) -> Example:
        """Read one image with its labels; images are in the order of their ids.

        Raises:
            UnreadableImageError: the image or the label file cannot be decoded.
            FormatError: the label file holds a value that means nothing in this layout, holds
                colours, or differs in size from the image.
        """
        entry = self._stock.entries[index]
        image = read_image(entry.image)  # (H, W, 3)
        labels = read_labels(self._stock, entry)  # (H, W)
        if labels.shape != image.shape[:2]:
            raise FormatError(
                f"{entry.label}: labels of {entry.id} are {labels.shape}, "
                f"its image is {image.shape[:2]}"
            )
        return Example(entry.id, image, labels)


def read_labels(stock: Stock, entry: Entry) -> npt.NDArray[np.int32]:
    """(H, W) label ids of one entry.

    Raises:
        UnreadableImageError: the label file cannot be decoded.
        FormatError: it holds a value that means nothing in this layout, or no indices.
    """
    values = stock.read(entry)  # (H, W)
    labels = stock.table[values]  # (H, W)
    if (labels == UNKNOWN).any():
        wrong = sorted(set(values[labels == UNKNOWN].tolist()))
        raise FormatError(
            f"{entry.label}: {entry.id} holds the value {wrong[0]}, which means nothing here; "
            "`segbench doctor` says more"
        )
    return labels


def _require_complete(name: str, stock: Stock) -> None:
    for lone, have, lack, place in (
        (stock.no_label, "images", "label", stock.labels),
        (stock.no_image, "labels", "image", stock.images),
    ):
        if lone:
            raise DataMissingError(
                f"{name}: {len(lone)} {have} listed by {stock.listed} have no {lack} in {place}, "
                f"the first is {lone[0]}"
            )
    if not stock.entries:
        raise DataMissingError(f"{name}: no image with a label, listed by {stock.listed}")


def open_benchmark(
    benchmark: Benchmark, root: Path, *, folder: str = "", layout: str = "", split: str = ""
) -> BenchmarkDataset:
    """Find a benchmark data set under a root and open it.

    Args:
        benchmark: which data set.
        root: a data root of mmsegmentation, GroupViT, CoCu or detectron2, a folder of original
            downloads, or the home of the data set itself.
        folder: the home, relative to `root`, where several are there.
        layout: the layout, where several are there.
        split: file with the ids to take, in place of the data set's own list.

    Raises:
        DataMissingError: the data set, a file of it, or the root is missing.
        UsageError: several copies or layouts are there, or no such layout.
        FormatError: the files contradict each other.
    """
    return BenchmarkDataset(benchmark, choose(benchmark, root, folder, layout), split=split)


def find_benchmark(name: str, benchmarks: Sequence[Benchmark]) -> Benchmark:
    """The benchmark of a name.

    Raises:
        UsageError: there is none.
    """
    for benchmark in benchmarks:
        if benchmark.name == name:
            return benchmark
    raise UsageError(unknown("data set", name, [each.name for each in benchmarks]))
