"""Calls of the mask kernels at the sizes they are made for, for `hopper.py`."""

import torch

from maskcluster.ops.mask_bce.kernel import mask_bce_triton
from maskcluster.ops.mask_pool.kernel import mask_pool_triton


def run() -> None:
    """Two images of the ViT recipe; features of 40 x 40 too, and 256 clusters."""
    packed = torch.zeros(6, 256, 32, dtype=torch.uint8)
    owner, cluster = torch.tensor([0, 0, 0, 0, 1, 1]), torch.arange(6)
    for side, dtype in ((20, torch.float32), (20, torch.bfloat16), (40, torch.bfloat16)):
        mask_pool_triton(torch.zeros(2, 512, side, side, dtype=dtype), packed, owner)
    for clusters, dtype in ((64, torch.float32), (64, torch.bfloat16), (256, torch.bfloat16)):
        logits = torch.zeros(2, clusters, 80, 80, dtype=dtype)
        mask_bce_triton(logits, packed, owner, cluster, True)
    mask_bce_triton(torch.zeros(2, 64, 80, 80), packed, owner, cluster, False)


if __name__ == "__main__":
    run()
