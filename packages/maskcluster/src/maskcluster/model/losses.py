"""Binary cross-entropy of decoded maps against unions of masks, on covered pixels."""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from maskcluster.ops.mask_bce import mask_bce
from maskcluster.precision import wide

LossAt = Literal["masks", "logits"]


def cluster_loss(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor, *, at: LossAt = "masks"
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy of every cluster's map over pixels that some mask covers.

    PixelCLIP (arXiv:2409.19846, sec. 3.2): with T_bi the union of the masks of image b in cluster
    i, and p over the pixels of b under at least one mask,

        total = sum over b, i, p of BCE(logits_bip, T_bip)      pixels = sum over b of |{p}|

    Args:
        logits: (B, K, y, x), of the decoder, in any floating type.
        packed: (M, S, S // 8) uint8, masks as bits.
        owner: (M,) int64, the image of each mask.
        cluster: (M,) int64 in [0, K).
        at: on the grid of the masks, logits upsampled bilinearly (the code); or on that of the
            logits, masks sampled at the nearest pixel (the paper's 80 x 80).

    Returns:
        total: () the sum; its gradient goes to `logits`.
        pixels: () int64; the loss is total / (pixels K), both summed over ranks.
    """
    if at == "masks":
        total, pixels = mask_bce(logits, packed, owner, cluster)
        return total, pixels
    logits = wide(logits)
    batch, clusters, height, width = logits.shape
    masks = sampled(packed, height, width)  # (M, y, x)
    places = owner * clusters + cluster  # (M,)
    hits = logits.new_zeros(batch * clusters, height, width)
    target = hits.index_add(0, places, masks.to(hits.dtype)).clamp(max=1).view_as(logits)
    covered = target.amax(dim=1, keepdim=True)  # (B, 1, y, x)
    losses = F.binary_cross_entropy_with_logits(logits, target, weight=covered, reduction="sum")
    return losses, covered.sum(dtype=torch.int64)


def sampled(packed: Tensor, height: int, width: int) -> Tensor:
    """Masks at the nearest pixels of another grid.

    Args:
        packed: (M, S, S // 8) uint8.
        height: rows.
        width: columns.

    Returns:
        (M, height, width) bool.
    """
    side = packed.shape[1]
    rows = _nearest(side, height, packed.device)  # (y,)
    columns = _nearest(side, width, packed.device)  # (x,)
    taken = packed.index_select(1, rows).index_select(2, columns // 8)  # (M, y, x)
    return (taken >> (columns % 8).to(torch.uint8)) & 1 > 0


def _nearest(side: int, wanted: int, device: torch.device) -> Tensor:
    """Pixel of a row of `side` under the middle of each of `wanted` equal parts."""
    return (2 * torch.arange(wanted, device=device) + 1) * side // (2 * wanted)


def mask_by_mask_loss(
    logits: Tensor, packed: Tensor, counts: list[int], *, at: LossAt = "masks"
) -> tuple[Tensor, Tensor]:
    """The same loss with a map for every mask in place of one for every cluster.

    Args:
        logits: (M, y, x), of mask after mask.
        packed: (M, S, S // 8) uint8.
        counts: masks of each image, in order.
        at: as of `cluster_loss`.

    Returns:
        total: () the sum over images, their masks and their covered pixels.
        terms: () int64, how many are summed; the loss is total / terms, both summed over ranks.
    """
    total = logits.sum() * 0  # a gradient for a batch without masks
    terms = torch.zeros((), dtype=torch.int64, device=logits.device)
    for part, masks in zip(torch.split(logits, counts), torch.split(packed, counts), strict=True):
        if not len(masks):
            continue
        own = torch.arange(len(masks), device=logits.device)
        summed, pixels = cluster_loss(part[None], masks, torch.zeros_like(own), own, at=at)
        total = total + summed
        terms = terms + pixels * len(masks)
    return total, terms


def mean_over_ranks(total: Tensor, terms: Tensor, group: ProcessGroup | None) -> Tensor:
    """A rank's loss whose mean over ranks is the sum of all totals over the sum of all terms.

    Args:
        total: () sum of this rank.
        terms: () int64, how many it sums.
        group: the ranks; None for a process alone.

    Returns:
        () total W / terms of all ranks, 0 where there are none: gradients that are averaged over
        ranks are those of the whole batch on one process.
    """
    ranks = 1
    if group is not None:
        terms = terms.clone()
        dist.all_reduce(terms, group=group)
        ranks = group.size()
    return total * ranks / terms.clamp(min=1)
