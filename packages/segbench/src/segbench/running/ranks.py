"""The processes of an evaluation: one, or those that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from segbench.errors import SegbenchError, UsageError
from segbench.lock import folder_lock

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
def held(folder: Path | None) -> Iterator[None]:
    """Keep other evaluations out of a folder while the context is open.

    The ranks of one evaluation hold it together: the first one takes the lock (`folder_lock`) and
    tells the others.

    Args:
        folder: of the results; without one there is nothing to hold.

    Raises:
        UsageError: another evaluation holds it; in every rank.
        SegbenchError: it cannot be written; in every rank.
    """
    refusal: list[SegbenchError | None] = [None]
    with ExitStack() as stack:
        if folder is not None and rank_and_world()[0] == 0:
            try:
                stack.enter_context(folder_lock(folder))
            except SegbenchError as error:
                refusal = [error]
        if rank_and_world()[1] > 1:
            dist.broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise refusal[0]
        yield


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
