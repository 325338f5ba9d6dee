"""Data sets by kind: benchmarks of the literature, folders with masks, scenes, and ImageNet."""

from collections.abc import Callable, Mapping
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
    _check_folder(options)
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

    if lacking := [key for key in ("split", "count") if key not in options]:
        raise FormatError(f"scenes: needs dataset.{lacking[0]}")
    try:
        return ScenesDataset(**options)
    except (TypeError, ValueError) as error:
        raise FormatError(f"scenes: {error}") from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list | tuple) and all(map(_is_text, value)))


def _is_mask_value(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 65535


def _is_mask_values(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_mask_value, value))


def _is_groups(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_mask_values, value.values()))


_FOLDER_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "folder": ("text", _is_text),
    "images": ("text or a list of texts", _is_texts),
    "masks": ("text or a list of texts", _is_texts),
    "labels": ("text", _is_text),
    "ignore": ("a list of mask values in [0, 65535]", _is_mask_values),
    "background": ("a mask value in [0, 65535]", _is_mask_value),
    "groups": ("lists of mask values in [0, 65535] by name", _is_groups),
    "rest": ("text", _is_text),
}
"""What each option of a folder must be, in words and as a check."""


def _check_folder(options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        what, is_right = _FOLDER_TYPES[key]
        is_left_out = value is None and key in ("background", "groups")
        if not is_left_out and not is_right(value):
            raise FormatError(f"folder: dataset.{key} must be {what}, got {value!r}")
