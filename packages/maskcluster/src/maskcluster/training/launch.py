"""The processes of a run: one, or the ranks that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from maskcluster.device import default_device
from maskcluster.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that share a batch."""

    rank: int = 0
    world: int = 1
    group: ProcessGroup | None = None
    """None for a process alone."""

    @classmethod
    def current(cls) -> "Ranks":
        """Of the default process group, if there is one of several ranks."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all ranks."""
        if self.group is None:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over ranks; alone, the model itself."""
        if self.group is None:
            return model
        return DistributedDataParallel(
            model, process_group=self.group, gradient_as_bucket_view=True, broadcast_buffers=False
        )

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.group is not None:
            dist.barrier(self.group)


@contextmanager
def joined(device: torch.device | None) -> Iterator[torch.device]:
    """Join the other ranks, if torchrun started this process, for as long as the context is open.

    Args:
        device: asked for by the user; of several ranks each takes the GPU of its own number. None
            is a GPU if there is one, else the CPU.

    Yields:
        The device of this process.

    Raises:
        UsageError: more ranks than GPUs on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device or default_device()
        return
    device = _device_of_rank(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        dist.barrier()  # a rank that leaves early takes gloo's connections with it
    finally:
        dist.destroy_process_group()


def _device_of_rank(device: torch.device | None) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = device or default_device()
    if device.type != "cuda":
        return device
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"torchrun started more ranks than the {torch.cuda.device_count()} GPUs of this "
            "machine; lower --nproc_per_node"
        )
    return torch.device("cuda", local)
