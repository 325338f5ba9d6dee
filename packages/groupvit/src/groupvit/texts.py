"""Token ids of a batch of texts, packed into rows without most of their padding."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROW = 128
"""Tokens of a row, if the texts fill one: what an attention kernel takes at a time anyhow."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Several texts to a row, one after the other.

    A text tower with causal attention reads a text from its end-of-text token, so what follows it
    never matters. Leaving it out, and letting tokens attend within their own text only, is exact;
    in a batch of short prompts and a few long captions it saves most of the work.
    """

    tokens: Tensor
    """(R, T) int64 ids, 0 in places that belong to no text."""
    positions: Tensor
    """(R, T) int64: the place of each token in its own text."""
    owners: Tensor
    """(R, T) int64: which text of its row a token belongs to, -1 for none."""
    ends: Tensor
    """(n,) int64: where text i ends, in the rows laid one after the other."""
    longest: int
    """Tokens of the longest text."""
    shape: tuple[int, ...]
    """Shape of the tensor of texts that this was made of, n texts in all."""

    @classmethod
    def of(cls, ids: Tensor, *, row: int = ROW) -> "Texts":
        """Pack padded texts, the longest first, each into the fullest row that has room.

        Args:
            ids: (..., T) integer ids on the CPU, the highest of a text at its end (its first
                place, if several).
            row: tokens of a row; it grows to the longest text, and shrinks to all of them.

        Raises:
            ValueError: no text.
        """
        flat = ids.flatten(0, -2).long()  # (n, T)
        if not len(flat):
            raise ValueError("needs at least one text, got 0")
        lengths = flat.argmax(dim=1) + 1  # (n,)
        total = int(lengths.sum())
        longest = int(lengths.max())
        width = max(longest, min(row, total))
        packed, numbers, rows = _pack(lengths.tolist(), width)
        starts = torch.tensor(packed)  # (n,)
        text = torch.arange(len(flat)).repeat_interleave(lengths)  # (total,)
        within = torch.arange(total) - (lengths.cumsum(0) - lengths)[text]
        place = starts[text] + within
        shape = (rows, width)
        return cls(
            tokens=torch.zeros(rows * width, dtype=torch.int64)
            .scatter_(0, place, flat[text, within])
            .view(shape),
            positions=torch.zeros(rows * width, dtype=torch.int64)
            .scatter_(0, place, within)
            .view(shape),
            owners=torch.full((rows * width,), -1)
            .scatter_(0, place, torch.tensor(numbers)[text])
            .view(shape),
            ends=starts + lengths - 1,
            longest=longest,
            shape=tuple(ids.shape[:-1]),
        )

    @property
    def lengths(self) -> Tensor:
        """(n,) int64: tokens of each text, the end included."""
        return self.positions.flatten()[self.ends] + 1

    def padded(self) -> Tensor:
        """The texts in their order, (*shape, T) int64, filled with 0 up to the longest."""
        lengths = self.lengths
        place = torch.arange(self.longest, device=lengths.device)  # (T,)
        inside = place < lengths[:, None]  # (n, T)
        source = (self.ends - lengths + 1)[:, None] + place  # (n, T)
        ids = self.tokens.flatten()[source.where(inside, 0)].where(inside, 0)
        return ids.view(*self.shape, len(place))

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Texts":
        """The same on a device."""
        return self._moved([t.to(device, non_blocking=non_blocking) for t in self])

    def pin_memory(self) -> "Texts":
        """The same in page-locked memory; `DataLoader` calls it."""
        return self._moved([t.pin_memory() for t in self])

    def _moved(self, tensors: list[Tensor]) -> "Texts":
        tokens, positions, owners, ends = tensors
        return Texts(tokens, positions, owners, ends, self.longest, self.shape)

    def __iter__(self) -> Iterator[Tensor]:
        """All tensors, in the order of the fields."""
        yield from (self.tokens, self.positions, self.owners, self.ends)


def _pack(lengths: list[int], width: int) -> tuple[list[int], list[int], int]:
    """Best fit, longest first: flat start of each text, its number in its row, and the rows."""
    starts, owners = [0] * len(lengths), [0] * len(lengths)
    room: list[tuple[int, int, int]] = []  # tokens left, row, texts in it; ascending
    rows = 0
    for text in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fit = bisect_left(room, (lengths[text], -1, -1))
        if fit == len(room):
            left, row, count = width, rows, 0
            rows += 1
        else:
            left, row, count = room.pop(fit)
        starts[text], owners[text] = row * width + width - left, count
        if left > lengths[text]:
            insort(room, (left - lengths[text], row, count + 1))
    return starts, owners, rows
