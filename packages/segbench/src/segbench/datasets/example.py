"""What a data set gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image with the label of every pixel."""

    id: str
    """Unique within the data set."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""

    labels: npt.NDArray[np.int32]
    """(H, W) class ids, -1 is ignored."""


class SegmentationDataset(Protocol):
    """Examples by index, with the names of their classes."""

    @property
    def names(self) -> tuple[str, ...]:
        """K class names by label id."""
        ...

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        """Label ids of groups of classes, such as "stuff" and "thing"; may be empty."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
