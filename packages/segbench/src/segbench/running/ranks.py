"""The processes of an evaluation: one, or those that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from segbench.errors import UsageError

WAIT = timedelta(days=7)
"""How long a rank waits for the others; torchrun ends all of them when one has died."""


def rank_and_world() -> tuple[int, int]:
    """The number of this process and how many share the work."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def wait_for_all() -> None:
    """Go on when all ranks are here."""
    if rank_and_world()[1] > 1:
        dist.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other ranks, if torchrun started this process, for as long as the context is open.

    Args:
        device: asked for by the user; of several ranks each takes the GPU of its own number.

    Yields:
        The device of this process.

    Raises:
        UsageError: more ranks than GPUs on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # so that "cuda" means it too
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started more ranks than the {torch.cuda.device_count()} GPUs of this "
                "machine; lower --nproc_per_node"
            )
        torch.cuda.set_device(device)
    dist.init_process_group("gloo", timeout=WAIT)  # counts go through files, nothing through NCCL
    try:
        yield device
        dist.barrier()
    finally:
        dist.destroy_process_group()
