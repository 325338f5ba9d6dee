"""Both normalisers with all logits stored."""

from torch import Tensor


def two_way_logsumexp_reference(
    rows: Tensor, columns: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Same contract as `groupvit.ops.multi_label_contrastive.two_way_logsumexp`; differentiable."""
    logits = scale * (rows.to(scale.dtype) @ columns.to(scale.dtype).mT)  # (m, n)
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0)
