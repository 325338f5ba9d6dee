"""Data sets by kind: benchmarks of the literature, folders of images and masks, and scenes."""

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
    "BenchmarkDataset",
    "Example",
    "FolderDataset",
    "ImageNetDataset",
    "LabelledImage",
    "SegmentationDataset",
    "check_spec",
    "open_dataset",
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


def check_spec(spec: Mapping[str, Any], source: str) -> None:
    """Refuse a data set description with an unknown kind or option.

    Args:
        spec: `kind` and the options of that kind.
        source: file to name in the error.

    Raises:
        FormatError: naming the kind or option, and the nearest one that exists.
    """
    kind = spec.get("kind")
    if kind not in OPTIONS:
        raise FormatError(unknown("data set kind", str(kind), OPTIONS, source))
    for key in spec:
        if key != "kind" and key not in OPTIONS[kind]:
            raise FormatError(
                unknown("key", f"dataset.{key}", [f"dataset.{k}" for k in OPTIONS[kind]], source)
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
    if root is None:
        raise DataMissingError("this task reads files: say where with the data root (--root)")
    if spec["kind"] != "folder":
        return _open_benchmark(spec["kind"], root, options)
    folder = find_folder(root, options.pop("folder", ""), options.get("labels", "labels.tsv"))
    return FolderDataset(folder, **options)


def _open_benchmark(kind: str, root: Path, options: Mapping[str, Any]) -> BenchmarkDataset:
    for key, value in options.items():
        if not isinstance(value, str):
            raise FormatError(f"{kind}: dataset.{key} must be text, got {value!r}")
    return open_benchmark(find_benchmark(kind, BENCHMARKS), root, **options)


def _open_scenes(options: Mapping[str, Any]) -> SegmentationDataset:
    from segbench.datasets.scenes import ScenesDataset  # only where scenes are asked for

    try:
        return ScenesDataset(**options)
    except (TypeError, ValueError) as error:
        raise FormatError(f"scenes: {error}") from error
