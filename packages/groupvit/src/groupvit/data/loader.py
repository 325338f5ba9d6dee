"""Batches from worker processes, in an order that goes on where a run was stopped."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from groupvit.data.index import Skipped
from groupvit.data.order import EndlessBatches
from groupvit.errors import DataError, GroupViTError
from groupvit.texts import Texts

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Texts]
"""Images (B, 3, H, W) float32 and texts of shape (B, 1 + L)."""

NAMED = 10
"""Images that do not decode and are named in a warning each; of more, every thousandth."""
LARGEST_SHARE = 0.01
"""Of drawn images that do not decode; a set with more of them is not what was asked for."""


class Draw(NamedTuple):
    """A pair as it is drawn in an epoch."""

    image: Tensor
    """(3, H, W) float32."""
    tokens: Tensor
    """(1 + L, 77) int64: the caption and L prompts."""
    replaced: tuple[Skipped, ...] = ()
    """Pairs before this one whose images do not decode: it takes the place of the first."""


def collate(draws: Sequence[Draw]) -> tuple[Tensor, Texts, list[Skipped]]:
    """Stack pairs: images (B, 3, H, W), texts of shape (B, 1 + L), and what they replace."""
    images = torch.stack([draw.image for draw in draws])
    tokens = torch.stack([draw.tokens for draw in draws])  # (B, 1 + L, 77)
    return images, Texts.of(tokens), [one for draw in draws for one in draw.replaced]


class PairLoader:
    """Batches in the order of a sampler, from worker processes.

    After k batches, the state of a loader given to a new one makes it go on with batch k.

    Args:
        dataset: gives a `Draw` for (epoch, pair).
        order: which pairs make a batch.
        workers: processes that load; 0 loads in this one.
    """

    def __init__(self, dataset: Dataset[Draw], order: EndlessBatches, workers: int) -> None:
        self._length, self._workers = len(order), workers
        self._losses = _Losses()
        with warnings.catch_warnings():
            # torchdata 0.11 calls what later versions of PyTorch have emptied and deprecated
            warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)
            self._loader = StatefulDataLoader(
                dataset,
                batch_sampler=order,
                collate_fn=collate,
                num_workers=workers,
                pin_memory=torch.cuda.is_available(),
            )

    def __len__(self) -> int:
        """Batches from the first step of the order to its last."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Batches: images and texts.

        Raises:
            DataError: a shard cannot be read, too many images do not decode, or a concept archive
                does not know a pair.
        """
        try:
            for images, texts, replaced in self._loader:
                self._losses.add(replaced, len(images))
                yield images, texts
        except GroupViTError as error:
            raise type(error)(_last_line(error)) from error

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands."""
        return {"workers": self._workers, "loader": self._loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: the state is that of a loader with another number of workers.
        """
        if state["workers"] != self._workers:
            raise ValueError(f"state of {state['workers']} workers, the loader has {self._workers}")
        self._loader.load_state_dict(state["loader"])

    @property
    def replaced(self) -> int:
        """Images so far that did not decode and were replaced by the next ones."""
        return self._losses.count


class _Losses:
    """Counts images that do not decode, names some, and stops at too many."""

    def __init__(self) -> None:
        self.count = self.drawn = 0

    def add(self, replaced: Sequence[Skipped], drawn: int) -> None:
        """Count those of a batch of `drawn` pairs."""
        self.drawn += drawn
        for one in replaced:
            self.count += 1
            if self.count <= NAMED or self.count % 1000 == 0:
                log.warning(
                    "%s: %s; the next pair takes its place (%d of %d drawn)",
                    one.id, one.reason, self.count, self.drawn,
                )  # fmt: skip
        if self.count > max(NAMED, LARGEST_SHARE * self.drawn):
            raise DataError(
                f"{self.count} of {self.drawn} drawn images cannot be decoded, more than "
                f"{LARGEST_SHARE:.0%}; the last was {replaced[-1].id}: {replaced[-1].reason}"
            )


def _last_line(error: GroupViTError) -> str:
    """The message alone: PyTorch puts a worker's traceback before it, and the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
