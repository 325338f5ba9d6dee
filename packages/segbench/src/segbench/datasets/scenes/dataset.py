"""Scenes by index, as a data set and as image-caption pairs."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from segbench.datasets import Example
from segbench.datasets.scenes.captions import CaptionRates, named_classes, write_caption
from segbench.datasets.scenes.layout import Layout, draw_layout
from segbench.datasets.scenes.render import paint, rasterise
from segbench.datasets.scenes.world import NAMES, STUFF_BY_NAME, SUBSETS

SPLITS = {"train": 0, "val": 1, "curator": 2}
SIZE_RANGE_PX = (32, 448)
VISIBLE = 0.015
"""Share of the picture that a class must cover to count as present."""
_REFERENCE_PX = 64  # presence is judged at this size, so that it does not depend on the drawn one


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene with everything that is known about it."""

    id: str
    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    labels: npt.NDArray[np.int32]
    """(H, W) class ids."""
    instances: npt.NDArray[np.int32]
    """(H, W), 0 is stuff, i + 1 the i-th thing."""
    caption: str
    present: frozenset[str]
    """Names of the classes that cover at least `VISIBLE` of the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenesDataset:
    """A split of the embedded world as a segmentation data set.

    Scene `i` of a split depends on (seed, split, i) alone: any size of data set can be drawn on any
    machine, and a larger one begins with the smaller one.

    Args:
        split: "train", "val" or "curator" (other scenes, for training a foundation model).
        count: number of scenes.
        size_px: side of the square picture, 32 to 448.
        difficulty: in [0, 1]: light, grain, number and size of things.
        seed: of the whole world.
        rates: how complete captions are.

    Raises:
        ValueError: unknown split, or a number out of range.
    """

    split: str
    count: int
    size_px: int = 64
    difficulty: float = 0.3
    seed: int = 0
    rates: CaptionRates = field(default_factory=CaptionRates)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {sorted(SPLITS)}, got {self.split!r}")
        if self.count < 1:
            raise ValueError(f"count must be >= 1, got {self.count}")
        if not SIZE_RANGE_PX[0] <= self.size_px <= SIZE_RANGE_PX[1]:
            raise ValueError(f"size_px must be in {list(SIZE_RANGE_PX)}, got {self.size_px}")
        if not 0 <= self.difficulty <= 1:
            raise ValueError(f"difficulty must be in [0, 1], got {self.difficulty}")

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label id."""
        return NAMES

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        """Label ids of stuff and of things."""
        return SUBSETS

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example]:
        """The `count` scenes in order; more of them can be drawn by their number."""
        return (self[index] for index in range(self.count))

    def __getitem__(self, index: int) -> Example:
        """Scene `index` as an image with labels."""
        layout = self._layout(index)
        labels, _ = rasterise(layout, self.size_px)
        return Example(self._id(index), paint(layout, self.size_px, self.difficulty), labels)

    def scene(self, index: int) -> Scene:
        """Scene `index` with its caption and instances."""
        layout = self._layout(index)
        labels, instances = rasterise(layout, self.size_px)
        return Scene(
            id=self._id(index),
            image=paint(layout, self.size_px, self.difficulty),
            labels=labels,
            instances=instances,
            caption=self.caption(index),
            present=self.present(index),
        )

    def present(self, index: int) -> frozenset[str]:
        """Names of the classes that can be seen in scene `index`, at whatever size."""
        return frozenset(_visible(self._layout(index)))

    def caption(self, index: int) -> str:
        """Caption of scene `index`; a wrong one describes another scene of the split."""
        rng = self._stream("caption", index)
        told = index
        if rng.random() < self.rates.wrong:
            told = int(rng.integers(2**31))
        layout = self._layout(told)
        seen = _visible(layout)
        things = Counter(p.thing.name for p in layout.things if p.thing.name in seen)
        return write_caption(rng, things, sorted(seen & set(STUFF_BY_NAME)), self.rates)

    def _layout(self, index: int) -> Layout:
        return draw_layout(self._stream("layout", index), self.difficulty)

    def _stream(self, purpose: str, index: int) -> np.random.Generator:
        key = [self.seed, SPLITS[self.split], index, *purpose.encode()]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def _id(self, index: int) -> str:
        return f"{self.split}-{index:09d}"


def _visible(layout: Layout) -> set[str]:
    labels, _ = rasterise(layout, _REFERENCE_PX)
    share = np.bincount(labels.ravel(), minlength=len(NAMES)) / labels.size  # (K,)
    return {NAMES[label] for label in np.flatnonzero(share >= VISIBLE)}


@dataclass(frozen=True, slots=True)
class CaptionGap:
    """How much of what can be seen the captions name, as shares of (scene, class) pairs."""

    scenes: int
    stuff: float
    thing: float
    all: float
    false: float
    """Share of the named classes that are not in the picture."""


def caption_gap(dataset: ScenesDataset) -> CaptionGap:
    """State the share of present classes that captions name."""
    seen, told, false, claims = Counter[str](), Counter[str](), 0, 0
    for index in range(len(dataset)):
        present, named = dataset.present(index), named_classes(dataset.caption(index))
        for name in present:
            kind = "stuff" if name in STUFF_BY_NAME else "thing"
            seen[kind] += 1
            told[kind] += name in named
        claims += len(named)
        false += len(named - present)
    return CaptionGap(
        scenes=len(dataset),
        stuff=told["stuff"] / max(seen["stuff"], 1),
        thing=told["thing"] / max(seen["thing"], 1),
        all=told.total() / max(seen.total(), 1),
        false=false / max(claims, 1),
    )


def write_pairs(
    dataset: ScenesDataset,
    folder: Path,
    *,
    shard_size: int = 1000,
    workers: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Write scenes as img2dataset tar shards: `KEY.png`, `KEY.txt` and `KEY.json`.

    The JSON names the classes that can be seen (`present`), which no trainer reads: it is the truth
    against which curation is judged. A shard that is there already is left as it is.

    Args:
        dataset: the scenes.
        folder: where `00000.tar` and its followers go; made when missing.
        shard_size: pairs a shard.
        workers: processes that draw shards side by side, same bytes; 0 draws in this one.
        progress: show a bar.

    Returns:
        Paths of all shards, in order.

    Raises:
        ValueError: `shard_size` is below 1.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be >= 1, got {shard_size}")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(dataset), shard_size)
    paths = [folder / f"{number:05d}.tar" for number in range(len(starts))]
    hidden = None if progress else True  # None: silent when standard error is not a terminal
    bar = tqdm(total=len(dataset), unit="scene", desc=f"{dataset.split} scenes", disable=hidden)
    work = [
        (dataset, path, range(start, min(start + shard_size, len(dataset))))
        for path, start in zip(paths, starts, strict=True)
        if not path.exists()
    ]
    bar.update(len(dataset) - sum(len(indices) for _, _, indices in work))
    for drawn in _each(_write_shard, work, workers):
        bar.update(drawn)
    bar.close()
    return paths


def _each(task: Callable[..., int], work: Sequence[tuple[Any, ...]], workers: int) -> Iterator[int]:
    """Results of the task in order of the work, made here or in other processes."""
    if not workers:
        yield from starmap(task, work)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from (job.result() for job in [pool.submit(task, *one) for one in work])


def _write_shard(dataset: ScenesDataset, path: Path, indices: range) -> int:
    """Write the scenes of one shard; return how many."""
    unfinished = path.with_suffix(".tar.tmp")
    with tarfile.open(unfinished, "w") as tar:
        for index in indices:
            scene = dataset.scene(index)
            png = io.BytesIO()
            Image.fromarray(scene.image).save(png, "PNG")
            truth = {
                "key": f"{index:09d}",
                "caption": scene.caption,
                "present": sorted(scene.present),
            }
            _add(tar, f"{index:09d}.png", png.getvalue())
            _add(tar, f"{index:09d}.txt", scene.caption.encode())
            _add(tar, f"{index:09d}.json", json.dumps(truth).encode())
    unfinished.replace(path)
    return len(indices)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time stamp: the same scenes give the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
