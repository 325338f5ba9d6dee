"""The order of training: which pairs make the batch of a step."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from groupvit.data.streams import stream
from groupvit.errors import DataError, RecipeError

Place = tuple[int, int]
"""Epoch and number of a pair."""


def check_fills_batch(pairs: int, batch: int) -> None:
    """Refuse a pool smaller than a batch.

    Raises:
        DataError: it is.
    """
    if pairs < batch:
        raise DataError(
            f"a batch of {batch} pairs needs as many, there are {pairs}; lower data.batch or add "
            "shards"
        )


class EndlessBatches(Sampler[list[Place]]):
    """Batches of (epoch, pair) from a given step on, shuffled anew every epoch.

    The order of an epoch is one permutation of the whole pool, drawn from (seed, epoch), and a
    batch a range of it: it depends on the step alone. Rank r of W takes rows [r b, (r + 1) b) of
    the batch, b = batch / W, so that all ranks together see what one would.

    Args:
        pairs: number of pairs.
        batch: pairs of a step over all ranks; what is left over at the end of an epoch is dropped.
        seed: of the order.
        start: first step.
        stop: step after the last.
        rank: of this process, in [0, world).
        world: number of ranks.

    Raises:
        DataError: fewer pairs than a batch.
        RecipeError: `batch` is not a multiple of `world`.
    """

    def __init__(
        self,
        pairs: int,
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
        if batch % world:
            raise RecipeError(f"data.batch must be a multiple of the {world} ranks, got {batch}")
        check_fills_batch(pairs, batch)
        self.pairs, self.batch, self.seed = pairs, batch, seed
        self.start, self.stop = start, stop
        self._first, self._share = rank * (batch // world), batch // world
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)  # (pairs,) of `_epoch`

    def __len__(self) -> int:
        return self.stop - self.start

    def at(self, step: int) -> list[Place]:
        """This rank's part of the batch of a step."""
        epoch, number = divmod(step, self.pairs // self.batch)
        if epoch != self._epoch:
            self._order = stream(self.seed, "order", epoch).permutation(self.pairs)
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
