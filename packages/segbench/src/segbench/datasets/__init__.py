"""Data sets by kind: benchmarks of the literature, folders with masks, scenes, and ImageNet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbench.datasets.benchmark import BenchmarkDataset, find_benchmark, open_benchmark
from segbench.datasets.benchmarks import BENCHMARKS
from segbench.datasets.example import Example, SegmentationDataset
from segbench.datasets.folder import FolderDataset, find_folder
from segbench.datasets.imagenet import ImageNetDataset, LabelledImage
from segbench.errors import DataMissingError, FormatError, unknown

__all__ = [
    "BENCHMARKS",
    "IMAGE_OPTIONS",
    "OPTIONS",
    "BenchmarkDataset",
    "Example",
    "FolderDataset",
    "ImageNetDataset",
    "LabelledImage",
    "SegmentationDataset",
    "check_spec",
    "open_dataset",
    "open_images",
]

BENCHMARK_OPTIONS = frozenset({"folder", "layout", "split"})

OPTIONS: dict[str, frozenset[str]] = {
    "folder": frozenset(
        {"folder", "images", "masks", "labels", "ignore", "background", "groups", "rest"}
    ),
    "scenes": frozenset({"split", "count", "size_px", "difficulty", "seed"}),
    **{benchmark.name: BENCHMARK_OPTIONS for benchmark in BENCHMARKS},
}
"""Options of each kind, beside `kind` itself."""

IMAGE_OPTIONS: dict[str, frozenset[str]] = {"imagenet1k": frozenset({"layout", "truth"})}
"""The same of data sets whose images have one label each."""


def check_spec(
    spec: Mapping[str, Any], source: str, options: Mapping[str, frozenset[str]] = OPTIONS
) -> None:
    """Refuse a data set description with an unknown kind or option.

    Args:
        spec: `kind` and the options of that kind.
        source: file to name in the error.
        options: by kind, `OPTIONS` or `IMAGE_OPTIONS`.

    Raises:
        FormatError: naming the kind or option, and the nearest one that exists.
    """
    kind = str(spec.get("kind"))
    if kind not in options:
        raise FormatError(unknown("data set kind", kind, options, source))
    for key in spec:
        if key != "kind" and key not in options[kind]:
            raise FormatError(
                unknown("key", f"dataset.{key}", [f"dataset.{k}" for k in options[kind]], source)
            )


def open_dataset(spec: Mapping[str, Any], root: Path | None = None) -> SegmentationDataset:
    """Open the data set that a task describes.

    Args:
        spec: `kind` and the options of that kind (`OPTIONS`).
        root: folder that holds the data set's folder, or that folder itself; not needed by
            procedural kinds.

    Raises:
        FormatError: unknown kind or option, or a file that contradicts itself.
        DataMissingError: a file, or the root itself, is missing.
        UsageError: the root holds a benchmark more than once, or not in the layout asked for.
    """
    check_spec(spec, "the data set description")
    options = {key: value for key, value in spec.items() if key != "kind"}
    if spec["kind"] == "scenes":
        return _open_scenes(options)
    root = _needed(root)
    if spec["kind"] != "folder":
        _check_texts(spec["kind"], options)
        return open_benchmark(find_benchmark(spec["kind"], BENCHMARKS), root, **options)
    folder = find_folder(root, options.pop("folder", ""), options.get("labels", "labels.tsv"))
    return FolderDataset(folder, **options)


def open_images(spec: Mapping[str, Any], root: Path | None = None) -> ImageNetDataset:
    """Open the data set of a task that classifies images.

    Args:
        spec: `kind` and the options of that kind (`IMAGE_OPTIONS`).
        root: a data root, or a folder nearer to the images.

    Raises:
        FormatError, DataMissingError, UsageError: as of `open_dataset`.
    """
    check_spec(spec, "the data set description", IMAGE_OPTIONS)
    options = {key: value for key, value in spec.items() if key != "kind"}
    _check_texts(spec["kind"], options)
    return ImageNetDataset(_needed(root), **options)


def _needed(root: Path | None) -> Path:
    if root is None:
        raise DataMissingError("this task reads files: say where with the data root (--root)")
    return root


def _check_texts(kind: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if not isinstance(value, str):
            raise FormatError(f"{kind}: dataset.{key} must be text, got {value!r}")


def _open_scenes(options: Mapping[str, Any]) -> SegmentationDataset:
    from segbench.datasets.scenes import ScenesDataset  # only where scenes are asked for

    try:
        return ScenesDataset(**options)
    except (TypeError, ValueError) as error:
        raise FormatError(f"scenes: {error}") from error
