"""Segment tokens choose a group; a group becomes the mean of its tokens. Start here.

The paper's idea (GroupViT, arXiv:2202.11094, sec. 3.1): nobody tells the model what a segment is.
Learnt group tokens compete for the tokens of the image, every token goes to exactly one group, and
what a caption says must be found in the groups. The assignment is the segmentation.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from groupvit.model.layers import MLP, CrossAttention, TokenMLP
from groupvit.ops.group_assign import group_assign
from groupvit.precision import wide


class GroupAssign(nn.Module):
    """Assign every segment token to one group and pool each group.

    For group tokens g and segment tokens s (GroupViT, sec. 3.1):

        A  = softmax over groups of (Wq g)(Wk s)^T / sqrt(C) + Gumbel noise
        Â  = onehot(argmax A) + A - stopgrad(A)
        o  = Wo (Â Wv s) / (row sums of Â + damping)

    Departs from the paper, as its code does: with damping 1 a group of c tokens takes c / (c + 1)
    of their mean and an empty group none; with a tiny constant training diverges. Keys and values
    are never made: Wk and Wv move over to the few groups, which is the same (see `group_assign`).

    Args:
        dim: channels C of both token sets.
        stream: of the noise, another one for every assignment of a model.
        damping: added to the size of each group, > 0.
    """

    def __init__(self, dim: int, *, stream: int = 0, damping: float = 1.0) -> None:
        super().__init__()
        if damping <= 0:
            raise ValueError(f"damping must be > 0, got {damping}")
        self.scale = dim**-0.5
        self.stream, self.damping = stream, damping
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, groups: Tensor, segments: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pool N segment tokens into G groups.

        Args:
            groups: (B, G, C).
            segments: (B, N, C), same device.
            noise: (2,) int64, seed and number of the first sample, see `uniform`; None draws
                none, as in evaluation.

        Returns:
            pooled: (B, G, C), zero before `out` for an empty group.
            soft: (B, G, N), softmax over G with the noise; without noise float32, and what a
                segmentation is made of.
        """
        query = self.query(groups)  # (B, G, C)
        bias = (wide(query) * self.key.bias).sum(dim=-1)  # (B, G), query . key bias
        folded = query @ self.key.weight  # (B, G, C)
        mean, size, soft, _ = group_assign(
            folded,
            bias,
            segments.to(folded.dtype),
            noise,
            self.stream,
            self.scale,
            self.damping,
        )
        fill = (1 - self.damping / size)[..., None]  # (B, G, 1), the tokens' share of a mean
        value = F.linear(mean, self.value.weight) + fill * self.value.bias
        return self.out(value), soft


class PreAssign(nn.Module):
    """Let group tokens look at the segment tokens: cross-attention, MLP and a last norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)
        self.norm_post = nn.LayerNorm(dim)

    def forward(self, groups: Tensor, segments: Tensor) -> Tensor:
        """(B, G, C) and (B, N, C) -> (B, G, C)."""
        groups = groups + self.attention(groups, segments)
        groups = groups + self.mlp(self.norm2(groups))
        return self.norm_post(groups)  # type: ignore[no-any-return]  # nn.Module


class GroupingBlock(nn.Module):
    """Turn N segment tokens into G larger segments (GroupViT, Fig. 2b).

    Args:
        dim: channels C.
        heads: of the cross-attention; the assignment itself has one head.
        group_tokens: learnt tokens that come in.
        output_groups: groups G that go out.
        pre_assign: whether groups attend to all segment tokens first.
        stream: of the noise of the assignment.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        group_tokens: int,
        output_groups: int,
        *,
        pre_assign: bool,
        stream: int = 0,
    ) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(dim)
        self.norm_x = nn.LayerNorm(dim)
        self.mix = TokenMLP(group_tokens, dim // 2, output_groups)
        self.norm_post_tokens = nn.LayerNorm(dim)
        self.pre_assign = PreAssign(dim, heads) if pre_assign else None
        self.assign = GroupAssign(dim, stream=stream)
        self.norm_new_x = nn.LayerNorm(dim)
        self.mlp_channels = MLP(dim, 4 * dim)

    def forward(
        self, groups: Tensor, segments: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Group.

        Args:
            groups: (B, group_tokens, C).
            segments: (B, N, C).
            noise: as of `GroupAssign`.

        Returns:
            merged: (B, G, C), one token a group.
            soft: (B, G, N) assignment, columns sum to 1; float32 without noise.
        """
        segments = self.norm_x(segments)
        groups = self.norm_post_tokens(self.mix(self.norm_tokens(groups)))  # (B, G, C)
        if self.pre_assign is not None:
            groups = self.pre_assign(groups, segments)
        pooled, soft = self.assign(groups, segments, noise)
        merged = groups + pooled
        return merged + self.mlp_channels(self.norm_new_x(merged)), soft
