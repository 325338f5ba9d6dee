"""Batches from worker processes, in an order that goes on where a run was stopped."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from maskcluster.data.order import EndlessBatches
from maskcluster.data.views import View
from maskcluster.errors import DataError, MaskClusterError

log = logging.getLogger(__name__)

NAMED = 10
"""Photographs that cannot be used and are named in a warning each; of more, every thousandth."""
LARGEST_SHARE = 0.01
"""Of drawn photographs that cannot be used; a set with more of them is not what was asked for."""


class Replaced(NamedTuple):
    """A photograph that cannot be used, so that another takes its place."""

    key: str
    reason: str


class Draw(NamedTuple):
    """A photograph as it is drawn in an epoch."""

    view: View
    key: str
    replaced: tuple[Replaced, ...] = ()
    """Photographs before this one that cannot be used: it takes the place of the first."""


class Batch(NamedTuple):
    """Views of B photographs, with all their M masks."""

    weak: Tensor
    """(B, 3, P, P) uint8, for the teacher."""
    strong: Tensor
    """(B, 3, P, P) uint8, for the student."""
    packed: Tensor
    """(M, S, S // 8) uint8, see `maskcluster.masks.packed`."""
    owner: Tensor
    """(M,) int64 in [0, B), the photograph of each mask, not decreasing."""
    keys: tuple[str, ...]
    """B keys."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """Move to a device."""
        parts = (self.weak, self.strong, self.packed, self.owner)
        weak, strong, packed, owner = (p.to(device, non_blocking=non_blocking) for p in parts)
        return Batch(weak, strong, packed, owner, self.keys)


def collate(draws: Sequence[Draw]) -> tuple[Batch, list[Replaced]]:
    """Put photographs together, and what they replace."""
    counts = torch.tensor([len(draw.view.packed) for draw in draws])  # (B,)
    batch = Batch(
        weak=torch.stack([draw.view.weak for draw in draws]),
        strong=torch.stack([draw.view.strong for draw in draws]),
        packed=torch.cat([draw.view.packed for draw in draws]),
        owner=torch.arange(len(draws)).repeat_interleave(counts),
        keys=tuple(draw.key for draw in draws),
    )
    return batch, [one for draw in draws for one in draw.replaced]


class PhotoLoader:
    """Batches in the order of a sampler, from worker processes.

    After k batches, the state of a loader given to a new one makes it go on with batch k.

    Args:
        dataset: gives a `Draw` for (epoch, photograph).
        order: which photographs make a batch.
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
        """Batches.

        Raises:
            DataError: too many photographs cannot be used, or none can.
        """
        try:
            for batch, replaced in self._loader:
                self._losses.add(replaced, len(batch.keys))
                yield batch._replace(
                    keys=tuple(batch.keys)
                )  # some versions of PyTorch pin a tuple as a list
        except MaskClusterError as error:
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
        """Photographs so far that could not be used and were replaced by the next ones."""
        return self._losses.count


class _Losses:
    """Counts photographs that cannot be used, names some, and stops at too many."""

    def __init__(self) -> None:
        self.count = self.drawn = 0

    def add(self, replaced: Sequence[Replaced], drawn: int) -> None:
        """Count those of a batch of `drawn` photographs."""
        self.drawn += drawn
        for one in replaced:
            self.count += 1
            if self.count <= NAMED or self.count % 1000 == 0:
                log.warning(
                    "%r cannot be used: %s; the next photograph takes its place (%d of %d drawn)",
                    one.key, one.reason, self.count, self.drawn,
                )  # fmt: skip
        if self.count > max(NAMED, LARGEST_SHARE * self.drawn):
            raise DataError(
                f"{self.count} of {self.drawn} drawn photographs cannot be used, more than "
                f"{LARGEST_SHARE:.0%}; the last was {replaced[-1].key!r}: {replaced[-1].reason}"
            )


def _last_line(error: MaskClusterError) -> str:
    """The message alone: PyTorch puts a worker's traceback before it, and the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
