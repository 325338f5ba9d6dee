"""Features resized to the masks' grid, and their mean under every mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.ops.mask_pool.bits import unpack_bits


@torch.no_grad()
def mask_pool_reference(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.mask_pool.mask_pool`."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    side = packed.shape[1]
    masks = unpack_bits(packed).to(wide.dtype)  # (M, S, S)
    area = masks.sum(dim=(1, 2))  # (M,)
    total = wide.new_zeros((len(packed), features.shape[1]))  # (M, D)
    for image in range(len(features)):
        own = owner == image
        full = F.interpolate(wide[image][None], (side, side), mode="bilinear", align_corners=False)
        total[own] = torch.einsum("nyx,dyx->nd", masks[own], full[0])
    return total / area.clamp(min=1)[:, None], area
