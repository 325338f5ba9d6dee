"""Calls of the Sinkhorn kernels at the sizes they are made for, for `tests/hopper.py`."""

import torch

from maskcluster.ops.sinkhorn import LARGEST
from maskcluster.ops.sinkhorn.kernel import balanced_assign_triton, log_mass_triton


def run() -> None:
    """The published batch and number of clusters; many masks; a K that is no power of two."""
    for masks, clusters in ((4800, 64), (50_000, 512), (4800, 100)):
        logits = torch.rand(masks, clusters)
        balanced_assign_triton(logits, 3, LARGEST)
        log_mass_triton(logits, torch.zeros(clusters))


if __name__ == "__main__":
    run()
