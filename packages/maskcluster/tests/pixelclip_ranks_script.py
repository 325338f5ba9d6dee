"""One rank of a test, or the process alone that ranks are compared with.

    python pixelclip_ranks_script.py RANK WORLD FOLDER

Writes FOLDER/WORLD-RANK.pt: loss (its mean over ranks) and gradients (averaged over ranks) of
rank RANK's part of a batch of four images, with and without clustering.
"""

import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from maskcluster.masks.packed import pack
from maskcluster.model.clustering import assign_masks
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.model.prompts import DirectPrompts

restated = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py"))))

OWNERS = {
    "uneven": [0, 0, 0, 0, 1, 1, 2, 3, 3, 3],
    "one rank without masks": [0, 0, 0, 1, 1],
    "no clustering": [0, 0, 0, 0, 1, 1, 2, 3],
    "no clustering, one rank without masks": [0, 0, 1],
    "no masks": [],
}


def step(case: str, rank: int, world: int, group: ProcessGroup | None) -> dict[str, Tensor]:
    """Loss and gradients of one step, in float64."""
    owner = torch.tensor(OWNERS[case], dtype=torch.int64)
    masks = pack(restated.discs(len(owner), 32))
    torch.manual_seed(1)
    clip = restated.tiny_clip()
    prompts = None if case.startswith("no clustering") else DirectPrompts(torch.randn(5, 20))
    assign = partial(assign_masks, eps=0.1, iterations=3, balance=True)
    model = PixelCLIP(clip, prompts, assign=assign).double().eval()
    weak, strong = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64)
    share = 4 // world
    first = rank * share
    mine = (owner >= first) & (owner < first + share)
    shared = model if group is None else DistributedDataParallel(model, process_group=group)
    model.update_teacher()
    views = (view[first : first + share] for view in (weak, strong))
    out = shared(*views, masks[mine], owner[mine] - first, group=group)
    out.loss.backward()
    loss = out.loss.detach().clone()
    if group is not None:
        dist.all_reduce(loss, group=group)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss / world, **found}


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
        )
    group = dist.group.WORLD if world > 1 else None
    torch.save(
        {case: step(case, rank, world, group) for case in OWNERS}, folder / f"{world}-{rank}.pt"
    )
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
