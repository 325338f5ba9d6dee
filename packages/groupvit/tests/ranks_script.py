"""One rank of a test, or the process alone that ranks are compared with.

    python ranks_script.py RANK WORLD FOLDER

Writes FOLDER/WORLD-RANK.pt: losses (means over ranks), gradients and buffers, for two ways to
compute a step, of rank RANK's part of a batch of eight pairs.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from groupvit import GroupViT, ModelConfig, TextConfig, Texts, VisionConfig
from groupvit.model.noise import step_noise
from groupvit.training.launch import Ranks

PAIRS = 8
CONFIG = ModelConfig(
    vision=VisionConfig(
        image_px=32, patch_px=8, width=32, heads=2, depths=(2, 1, 1),
        group_tokens=(5, 3), output_groups=(5, 3), drop_path=0.3,
    ),
    text=TextConfig(vocabulary=500, width=32, layers=2, heads=2),
    embed_dim=16,
    projector_hidden=24,
)  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    """Images, and ids of texts of 2 to 20 tokens."""
    random = torch.Generator().manual_seed(1)
    images = torch.randn(PAIRS, 3, 32, 32, generator=random).double()
    lengths = torch.randint(2, 21, (PAIRS, 4, 1), generator=random)
    ids = torch.randint(1, 499, (PAIRS, 4, 20), generator=random)
    place = torch.arange(20)
    return images, ids.where(place < lengths, 0).masked_fill(place == lengths - 1, 499)


def step(ranks: Ranks, *, chunk: int) -> dict[str, dict[str, Tensor]]:
    """Losses, gradients and batch norm statistics of one training step, in float64."""
    torch.manual_seed(0)
    model = GroupViT(CONFIG).double().train()
    model.distribute(ranks.group)
    model.chunk = chunk
    shared = DistributedDataParallel(model) if ranks.group is not None else model
    share = PAIRS // ranks.world
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    images, ids = batch()
    noise = step_noise(7, mine.start, device=torch.device("cpu"))
    losses = shared(images[mine], Texts.of(ids[mine]), noise)
    sum(losses.values()).backward()
    return {
        "losses": {name: ranks.mean(value.detach()) for name, value in losses.items()},
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "buffers": dict(model.named_buffers()),
    }


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
        )
    ranks = Ranks.current()
    found = {"whole": step(ranks, chunk=0), "chunks of 1": step(ranks, chunk=1)}
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
