"""The order of training: which photographs make the batch of a step."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from maskcluster.data.streams import stream
from maskcluster.errors import DataError, RecipeError

Place = tuple[int, int]
"""Epoch and number of a photograph."""


def check_fills_batch(photos: int, batch: int) -> None:
    """Refuse fewer photographs than a batch has.

    Raises:
        DataError: they are fewer.
    """
    if photos < batch:
        raise DataError(
            f"a batch of {batch} photographs needs as many, there are {photos}; lower data.batch "
            "(--data.batch N) or add photographs"
        )


class EndlessBatches(Sampler[list[Place]]):
    """Batches of (epoch, photograph) from a given step on, shuffled anew every epoch.

    The order of an epoch is one permutation of all photographs, drawn from (seed, epoch), and a
    batch a range of it: it depends on the step alone. Rank r of W takes rows [r b, (r + 1) b) of
    the batch, b = batch / W, so that all ranks together see what one would.

    Args:
        photos: number of photographs.
        batch: photographs of a step over all ranks; what is left over at the end of an epoch is
            not seen in it.
        seed: of the order.
        start: first step.
        stop: step after the last.
        rank: of this process, in [0, world).
        world: number of ranks.

    Raises:
        DataError: fewer photographs than a batch.
        RecipeError: `batch` is not a multiple of `world`.
    """

    def __init__(
        self,
        photos: int,
        batch: int,
        *,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, {world}), got {rank}")
        if not 0 <= start <= stop:
            raise ValueError(f"steps must be 0 <= start <= stop, got {start} and {stop}")
        if batch < 1 or batch % world:
            raise RecipeError(f"data.batch must be a multiple of the {world} ranks, got {batch}")
        check_fills_batch(photos, batch)
        self.photos, self.batch, self.seed = photos, batch, seed
        self.start, self.stop = start, stop
        self._first, self._share = rank * (batch // world), batch // world
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)  # (photos,) of `_epoch`

    def __len__(self) -> int:
        return self.stop - self.start

    def at(self, step: int) -> list[Place]:
        """This rank's part of the batch of a step."""
        epoch, number = divmod(step, self.photos // self.batch)
        if epoch != self._epoch:
            self._order = stream(self.seed, "order", epoch).permutation(self.photos)
            self._epoch = epoch
        first = number * self.batch + self._first
        return [(epoch, index) for index in self._order[first : first + self._share].tolist()]

    def __iter__(self) -> Iterator[list[Place]]:
        """Batches in order."""
        return _Steps(self)


class _Steps(Iterator[list[Place]]):
    """Walks over steps; its state is the next one, to which a resumed run jumps."""

    def __init__(self, batches: EndlessBatches) -> None:
        self._batches = batches
        self.step = batches.start

    def __next__(self) -> list[Place]:
        if self.step >= self._batches.stop:
            raise StopIteration
        self.step += 1
        return self._batches.at(self.step - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])
