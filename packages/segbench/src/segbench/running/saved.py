"""Label maps that another program has saved: pictures, arrays, or run lengths in one JSON file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from segbench.datasets import Example
from segbench.datasets.annotations import decode_mask
from segbench.datasets.pictures import DECODE_ERRORS, FORMATS, read_colour_ids, read_indices
from segbench.errors import DataMissingError, FormatError

SUFFIXES = frozenset({".npy", ".png"})

NOTHING = -1
"""Label of a pixel that no segment of a JSON file covers: an error where it is scored."""


class SavedMaps:
    """Label maps of many images, read one by one.

    Args:
        path: a folder, see `read_prediction`; or a JSON file as detectron2's semantic evaluator
            writes it, a list of {"file_name": ..., "category_id": label id, "segmentation":
            {"size": [H, W], "counts": run lengths}}, several to an image.

    Raises:
        DataMissingError: there is no such folder or file.
        FormatError: the file is no such list.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataMissingError(f"no predictions at {path}")
        self._path = path
        self._segments = _by_image(path) if path.is_file() else None

    def __call__(self, example: Example) -> Tensor:
        """(H, W) int64 label map of an example, at the resolution of its labels.

        Raises:
            DataMissingError: there is none.
            FormatError: it cannot be read, or has another size.
        """
        if self._segments is None:
            return read_prediction(self._path, example)
        return _painted(self._path, self._segments, example)

    def strays(self, ids: Iterable[str]) -> list[str]:
        """Names of maps of none of these images, sorted."""
        if self._segments is None:
            files = (path.relative_to(self._path) for path in self._path.rglob("[!.]*"))
            held = {path.with_suffix("").as_posix() for path in files if path.suffix in SUFFIXES}
            return sorted(held.difference(ids))
        return sorted(self._segments.keys() - {PurePosixPath(each).name for each in ids})


def read_prediction(folder: Path, example: Example) -> Tensor:
    """Read the saved label map of an image.

    Args:
        folder: holds `<image id>.npy`, or `<image id>.png` with 8 or 16 bits, or with colours as
            ImageNet-S has them: label = red + 256 green.
        example: whose.

    Returns:
        (H, W) int64 at the resolution of the labels.

    Raises:
        DataMissingError: there is none.
        FormatError: it cannot be read, or has another size.
    """
    stem = folder / example.id
    npy, png = stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}.png")
    if not (npy.is_file() or png.is_file()):
        raise DataMissingError(f"no prediction {png.name} or {npy.name} in {folder}")
    path = npy if npy.is_file() else png
    try:
        with np.errstate(over="raise"):  # of a shape that no file can have
            # mapped: what a header claims is held against the file before memory is asked for
            found = np.load(path, mmap_mode="r") if path is npy else _read_indices(path)
    except (*DECODE_ERRORS, ArithmeticError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, np.ndarray):
        raise FormatError(f"{path}: holds no single array")
    if found.dtype.kind not in "iu":
        raise FormatError(f"{path}: a label map must hold integers, got {found.dtype}")
    if found.shape != example.labels.shape:
        raise FormatError(f"{path}: is {found.shape}, its labels are {example.labels.shape}")
    return torch.tensor(found.astype(np.int64))  # (H, W)


def _read_indices(path: Path) -> npt.NDArray[np.integer]:
    """(H, W) ids of a picture that holds indices, or colours as ImageNet-S has them."""
    with Image.open(path, formats=FORMATS) as picture:
        is_coloured = picture.mode == "RGB"
    return read_colour_ids(path) if is_coloured else read_indices(path)


def _by_image(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Segments of a JSON file by the stem of their image's file name."""
    try:
        content = json.loads(path.read_bytes())
        found: dict[str, list[Mapping[str, Any]]] = {}
        for segment in content:
            found.setdefault(segment["file_name"], []).append(segment)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: is no list of segments with file_name: {error}") from error
    stems = {name: PurePosixPath(name).stem.removesuffix("_leftImg8bit") for name in found}
    if len(set(stems.values())) < len(stems):
        raise FormatError(f"{path}: two images have file names that differ in their folder alone")
    return {stems[name]: segments for name, segments in found.items()}


def _painted(
    path: Path, segments: Mapping[str, Sequence[Mapping[str, Any]]], example: Example
) -> Tensor:
    """(H, W) int64 label map of the segments of an image."""
    own = segments.get(PurePosixPath(example.id).name)
    if own is None:
        raise DataMissingError(f"{path}: no segment of image {example.id}")
    height, width = example.labels.shape
    labels = np.full((height, width), NOTHING, np.int64)
    for segment in own:
        try:
            if type(segment["category_id"]) is not int:
                raise ValueError(f"category_id must be an integer: {segment['category_id']!r}")
            labels[decode_mask(segment["segmentation"], height, width)] = segment["category_id"]
        except KeyError as error:
            raise FormatError(f"{path}: image {example.id}: a segment has no {error}") from error
        except (TypeError, ValueError) as error:
            raise FormatError(f"{path}: image {example.id}: {error}") from error
    return torch.from_numpy(labels)
