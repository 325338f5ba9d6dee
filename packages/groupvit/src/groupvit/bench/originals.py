"""What the original computes, restated from its description: the baselines of the comparisons."""

import torch
import torch.nn.functional as F
from torch import Tensor


def original_contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE with one product a direction; (B, D) unit rows each."""
    own = torch.arange(len(image), device=image.device)
    to_text = F.cross_entropy(scale * image @ text.T, own)
    to_image = F.cross_entropy(scale * text @ image.T, own)
    return (to_text + to_image) / 2


def original_multi_label(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """The multi-label loss with stored logits and one-hot targets, as the original computes it.

    Args:
        image: (B, D) unit rows.
        texts: (B, L, D) unit rows.
        scale: scalar.
    """
    batch, labels, _ = texts.shape
    rows = texts.flatten(0, 1)  # (B L, D)
    own = torch.arange(batch, device=image.device)
    target = F.one_hot(own, batch)[:, :, None].expand(-1, -1, labels).reshape(batch, -1)  # int64
    to_text = scale * image @ rows.T  # (B, B L)
    weight = target.float() / target.float().sum(dim=1, keepdim=True)
    loss = -(weight * to_text.log_softmax(dim=1)).sum(dim=1).mean()
    to_image = scale * rows @ image.T  # (B L, B)
    weight = target.T.float() / target.T.float().sum(dim=1, keepdim=True)
    return (loss - (weight * to_image.log_softmax(dim=1)).sum(dim=1).mean()) / 2


def original_scores(
    first: Tensor,
    second: Tensor,
    table: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    background: float | None = None,
) -> Tensor:
    """Score every class at every pixel.

    The original resizes the maps of both stages, resizes them again to the size that they have,
    turns the last one into a one-hot map over groups, and multiplies it with the table of classes.

    Args:
        first: (G_1, N) soft map of the first stage.
        second: (G, G_1) soft map of the second.
        table: (G, K) scores S of every group.
        grid: patches (h, w).
        size: pixels (H, W).
        background: threshold; None for no background.

    Returns:
        (K, H, W), or (1 + K, H, W) with the background first.
    """
    maps = []
    for soft in (first, second @ first):
        full = F.interpolate(soft.view(1, -1, *grid), size, mode="bilinear", align_corners=False)
        maps.append(F.interpolate(full, size, mode="bilinear", align_corners=False)[0])
    affinity = F.one_hot(maps[1].argmax(dim=0), len(table)).to(table.dtype)  # (H, W, G)
    scores = (affinity.flatten(0, 1) @ table).T.reshape(-1, *size)  # (K, H, W)
    if background is None:
        return scores
    best = scores.amax(dim=0, keepdim=True)  # (1, H, W)
    return torch.cat([(best < min(background, float(table.max()))).to(scores.dtype), scores])


class OriginalAssign(torch.nn.Module):
    """Gumbel assignment and pooling with keys and values for every token, (B, G, C) a call.

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(dim, dim) for _ in range(4))

    def forward(self, groups: Tensor, segments: Tensor) -> Tensor:
        """(B, G, C) and (B, N, C) -> (B, G, C)."""
        logits = self.query(groups) @ self.key(segments).mT * segments.shape[2] ** -0.5
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        soft = logits.softmax(dim=1)  # (B, G, N)
        index = soft.max(dim=1, keepdim=True)[1]
        hard = torch.zeros_like(soft).scatter_(1, index, 1.0)
        assign = hard - soft.detach() + soft
        assign = assign / (assign.sum(dim=2, keepdim=True) + 1.0)
        return self.out(assign @ self.value(segments))  # type: ignore[no-any-return]  # nn.Module
