"""One rank of a test, or the process alone that two ranks are compared with.

    python sinkhorn_ranks_script.py RANK WORLD FOLDER

Writes FOLDER/WORLD-RANK.pt: for each split of 37 masks (and of none) between two ranks, how those
of RANK are assigned, and how all of them use clusters. Both ranks must refuse what one refuses.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from maskcluster.model.clustering import assign_masks, summarise
from maskcluster.ops.sinkhorn import balanced_assign

MASKS, CLUSTERS = 37, 6
SPLITS = ((MASKS, 0), (MASKS, 20), (MASKS, 1), (MASKS, MASKS), (0, 0))  # masks, those of rank 0


def assigned(pooled: Tensor, prompts: Tensor, group: ProcessGroup | None) -> dict[str, Tensor]:
    found = assign_masks(pooled, prompts, eps=0.01, group=group)
    usage = summarise(found, group=group)
    numbers = [usage.entropy, usage.softness, usage.spread, *usage.marginals.tolist()]
    return {
        "cluster": found.cluster,
        "bias": found.bias,
        "counts": usage.counts.double(),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
    }


def check_refused(rank: int, group: ProcessGroup | None) -> None:
    logits = torch.zeros(4, CLUSTERS)
    if rank == 1:
        logits[2, 3] = float("nan")
    try:
        balanced_assign(logits, group=group)
    except ValueError as error:
        assert ("another rank" in str(error)) == (rank == 0), error
    else:
        raise AssertionError("NaN on rank 1 was not refused")


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    group = None
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
        )
        group = dist.group.WORLD
        check_refused(rank, group)
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(MASKS, 8, generator=random, dtype=torch.float64)
    prompts = torch.randn(CLUSTERS, 8, generator=random, dtype=torch.float64)
    found = {}
    for masks, first in SPLITS:
        part = slice(None) if world == 1 else (slice(first), slice(first, None))[rank]
        for dtype in (torch.float32, torch.float64):
            mine = rows[:masks][part].to(dtype)
            found[f"{masks} {first} {dtype}"] = assigned(mine, prompts.to(dtype), group)
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
