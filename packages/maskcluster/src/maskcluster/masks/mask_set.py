"""The masks of one photograph, and where masks come from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from maskcluster.errors import FormatError
from maskcluster.masks.rle import BoolArray, ByteArray, IntArray, Rle, sample_all

FloatArray = npt.NDArray[np.float32]

EMPTY, DUPLICATE = "empty", "duplicate"
"""Reasons for which masks are dropped."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MaskSet:
    """Masks of one photograph; they may overlap.

    What a source does not tell of a mask is filled in: scores of 1, its box's middle as the point,
    the whole photograph as the crop.

    Attributes:
        height: H of the photograph.
        width: W of the photograph.
        masks: M masks of that size.
        predicted_iou: (M,) float32, the generator's own estimate of quality.
        stability: (M,) float32, how little a mask changes with its threshold.
        points: (M, 2) float32 XY, the prompt that a mask was found by.
        crops: (M, 4) int64 half-open XYXY, the part of the photograph it was found in.
        source: what made the masks.
        dropped: how many masks are not here, by the reason.

    Raises:
        FormatError: a mask is of another size.
        ValueError: arrays of another length.
    """

    height: int
    width: int
    masks: tuple[Rle, ...]
    predicted_iou: FloatArray
    stability: FloatArray
    points: FloatArray
    crops: IntArray
    source: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for at, mask in enumerate(self.masks):
            if (mask.height, mask.width) != (self.height, self.width):
                raise FormatError(
                    f"mask {at} is {mask.height} x {mask.width}, "
                    f"the photograph {self.height} x {self.width} (height x width)"
                )
        count = len(self.masks)
        for name, shape in _SHAPES.items():
            found = getattr(self, name).shape
            if found != (count, *shape):
                raise ValueError(f"{name} must be {(count, *shape)}, got {found}")

    @classmethod
    def of(
        cls,
        height: int,
        width: int,
        masks: Iterable[Rle],
        *,
        predicted_iou: npt.ArrayLike | None = None,
        stability: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        crops: npt.ArrayLike | None = None,
        source: str = "",
    ) -> "MaskSet":
        """Make a set; what is not given is filled in."""
        found = tuple(masks)
        count = len(found)
        if points is None:
            boxes = boxes_of(found).astype(np.float32)  # (M, 4)
            points = (boxes[:, :2] + boxes[:, 2:]) / 2
        whole = (0, 0, width, height)
        return cls(
            height=height,
            width=width,
            masks=found,
            predicted_iou=_floats(np.ones(count) if predicted_iou is None else predicted_iou),
            stability=_floats(np.ones(count) if stability is None else stability),
            points=_floats(points).reshape(count, 2),
            crops=np.asarray([whole] * count if crops is None else crops, np.int64).reshape(-1, 4),
            source=source,
        )

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def areas(self) -> IntArray:
        """(M,) int64, pixels of each mask."""
        return np.array([mask.area for mask in self.masks], np.int64)

    @property
    def boxes(self) -> IntArray:
        """(M, 4) int64, half-open XYXY; zeros for an empty mask."""
        return boxes_of(self.masks)

    def decode(self) -> BoolArray:
        """(M, H, W) bool."""
        whole = np.zeros((len(self), self.height, self.width), np.bool_)
        for mask, out in zip(self.masks, whole, strict=True):
            out[:] = mask.to_mask()
        return whole

    def sample_bits(self, rows: npt.ArrayLike, columns: npt.ArrayLike) -> ByteArray:
        """All masks at some pixels, as packed masks of the training grid.

        Args:
            rows: (S,) source row of each row of the grid, in [0, H).
            columns: (S,) source column of each column, in [0, W).

        Returns:
            (M, S, S // 8) uint8; bit b of byte i of a row is column 8 i + b.
        """
        return sample_all(self.masks, rows, columns)

    def select(self, index: Sequence[int] | IntArray, reason: str = "") -> "MaskSet":
        """Some of the masks, in the order given; the others count as dropped for the reason."""
        at = np.asarray(index, np.int64).reshape(-1)
        gone = Counter(self.dropped)
        if reason and len(self) > len(at):
            gone[reason] += len(self) - len(at)
        return replace(
            self,
            masks=tuple(self.masks[i] for i in at.tolist()),
            dropped=dict(gone),
            **{name: getattr(self, name)[at] for name in _SHAPES},
        )

    def describe(self) -> str:
        """One line: how many masks, how many of them full, and what was dropped and why."""
        full = sum(mask.area == self.height * self.width for mask in self.masks)
        parts = [f"{len(self)} masks"]
        if full:
            parts.append(f"{full} of the whole photograph")
        if self.dropped:
            parts.append("dropped: " + count_reasons(self.dropped))
        return "; ".join(parts)


_SHAPES: dict[str, tuple[int, ...]] = {
    "predicted_iou": (), "stability": (), "points": (2,), "crops": (4,),
}  # fmt: skip


@runtime_checkable
class MaskSource(Protocol):
    """Masks by the key of their photograph: a folder of SA-1B JSON, a store, or anything alike."""

    def keys(self) -> Sequence[str]:
        """All keys, ascending."""
        ...

    def __getitem__(self, key: str) -> MaskSet:
        """The masks of a photograph; KeyError where there is no such key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRules:
    """Which masks of a photograph are kept.

    The paper takes all, so only what teaches nothing is dropped by default. Nothing is dropped in
    silence: `MaskSet.dropped` counts by reason.
    """

    min_area: int = 1
    """Pixels; with 1 only empty masks are dropped."""

    max_coverage: float = 1.0
    """Part of the photograph; with 1 full masks are kept. SA-1B was made with 0.95."""

    max_masks: int = 1024
    """Of more masks in a photograph the largest are kept, by their pixels in the photograph. It
    bounds what is stored and read; how many of them a step is trained on, out of a crop, is
    `ViewConfig.max_masks`."""

    unique: bool = True
    """Of equal masks the one with the highest predicted IoU is kept, the first at a tie."""

    def __post_init__(self) -> None:
        if self.min_area < 1 or self.max_masks < 1:
            raise ValueError(
                "min_area and max_masks must be at least 1, "
                f"got {self.min_area} and {self.max_masks}"
            )
        if not 0 < self.max_coverage <= 1:
            raise ValueError(f"max_coverage must be in (0, 1], got {self.max_coverage}")


def apply_rules(masks: MaskSet, rules: MaskRules) -> MaskSet:
    """Keep what the rules keep, in the order it was in; the others are counted by reason."""
    masks = masks.select(np.flatnonzero(masks.areas > 0), EMPTY)
    masks = masks.select(
        np.flatnonzero(masks.areas >= rules.min_area), f"under {rules.min_area} px"
    )
    limit = rules.max_coverage * masks.height * masks.width
    over = f"over {rules.max_coverage:.0%} of the photograph"
    masks = masks.select(np.flatnonzero(masks.areas <= limit), over)
    if rules.unique:
        masks = masks.select(_unique(masks), DUPLICATE)
    if len(masks) > rules.max_masks:
        largest = np.argsort(-masks.areas, kind="stable")[: rules.max_masks]
        masks = masks.select(np.sort(largest), f"smaller than the {rules.max_masks} largest")
    return masks


def _unique(masks: MaskSet) -> list[int]:
    best: dict[Rle, int] = {}
    for at, mask in enumerate(masks.masks):
        held = best.setdefault(mask, at)
        if masks.predicted_iou[at] > masks.predicted_iou[held]:
            best[mask] = at
    return sorted(best.values())


def boxes_of(masks: Sequence[Rle]) -> IntArray:
    """(M, 4) int64 half-open XYXY; zeros for an empty mask."""
    return np.array([mask.box for mask in masks], np.int64).reshape(len(masks), 4)


def count_reasons(dropped: Mapping[str, int]) -> str:
    """`3 empty, 1 duplicate`, by falling count."""
    by_count = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in by_count)


def _floats(values: npt.ArrayLike) -> FloatArray:
    return np.asarray(values, np.float32)
