"""Label maps that another program has saved."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from segbench.datasets import Example
from segbench.errors import DataMissingError, FormatError


def read_prediction(folder: Path, example: Example) -> Tensor:
    """Read the saved label map of an image.

    Args:
        folder: holds `<image id>.png` (8 or 16 bit) or `<image id>.npy`.
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
        found = np.load(path, allow_pickle=False) if path is npy else _read_indices(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error
    if found.shape != example.labels.shape:
        raise FormatError(f"{path}: is {found.shape}, its labels are {example.labels.shape}")
    return torch.tensor(found.astype(np.int64))  # (H, W)


def _read_indices(path: Path) -> npt.NDArray[np.integer]:
    with Image.open(path) as picture:
        return np.asarray(picture)  # (H, W) where the picture holds indices
