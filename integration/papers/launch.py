"""The processes of a run: one, or the ranks that torchrun started.

The first rank leads: it decides what is to be done, does alone what one process must do, and calls
the others for what all of them share (embedding, archives, training, evaluation).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist

from integration.errors import RecipeError
from integration.stage import Stage, run_stages

WAIT = timedelta(days=14)
"""How long a rank waits while the first works alone; torchrun ends all when one has died."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides, prints and writes reports."""
        return self.rank == 0


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other ranks, if torchrun started this process, for as long as the context is open.

    Each takes the GPU of its own number. Tensors on GPUs go through NCCL, all else through gloo.

    Raises:
        RecipeError: more ranks than GPUs on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise RecipeError(
                f"torchrun started more ranks than the {gpus} GPUs of this machine; "
                "lower --nproc_per_node"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=WAIT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # a rank that leaves early takes gloo's connections with it
    finally:
        dist.destroy_process_group()


def run_together(
    stages: Sequence[Stage],
    shared: Sequence[str],
    out: Path,
    ranks: Ranks,
    *,
    stream: TextIO,
    again_from: str | None = None,
    then: Callable[[], None] | None = None,
) -> None:
    """Run what is not done, the stages called `shared` on all ranks.

    Called by every rank with equal stages. An error ends the process of its rank; torchrun then
    ends the others.

    Args:
        stages: every stage after its inputs.
        shared: names of the stages that all ranks run together.
        out: root of all stage folders, seen by all ranks.
        ranks: this process among the others.
        stream: where progress goes, of the first rank.
        again_from: forget the results of this stage and of all after it.
        then: of the first rank; reads what stages left, before another run may work in `out`.
    """
    if not ranks.leads:
        _follow({stage.name: stage for stage in stages}, out)
        return
    led = [replace(s, run=partial(_call_all, s)) if s.name in shared else s for s in stages]
    todo = led if ranks.world > 1 else stages
    run_stages(todo, out, stream=stream, again_from=again_from, then=then)
    if ranks.world > 1:
        dist.broadcast_object_list([None])


def _call_all(stage: Stage, folder: Path) -> None:
    """Have every rank run a stage, this one too."""
    dist.broadcast_object_list([stage.name])
    stage.run(folder)
    dist.barrier()  # nobody reads what another still writes


def _follow(stages: Mapping[str, Stage], out: Path) -> None:
    """Run what the first rank calls for, until there is nothing left."""
    while True:
        called: list[str | None] = [None]
        dist.broadcast_object_list(called)
        if called[0] is None:
            return
        stage = stages[called[0]]
        stage.run(stage.folder(out))
        dist.barrier()
