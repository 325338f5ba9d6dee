"""Group maxima with all products stored."""

import torch
from torch import Tensor


def group_max(anchors: Tensor, pool: Tensor, drop: Tensor, group: int) -> Tensor:
    """Give (A, ceil(P / group)) maxima of float32 products, without the dropped rows.

    Args:
        anchors: (A, D).
        pool: (P, D).
        drop: (A,) row of the pool left out, outside 0..P-1 for none.
        group: consecutive pool rows of a group.
    """
    products = anchors.float() @ pool.float().mT  # (A, P)
    row = torch.arange(len(pool), device=pool.device)
    products = products.masked_fill(drop[:, None] == row, -torch.inf)
    groups = -(-len(pool) // group)
    missing = groups * group - len(pool)
    padded = torch.nn.functional.pad(products, (0, missing), value=-torch.inf)
    return padded.view(len(anchors), groups, group).amax(dim=2) if groups else padded
