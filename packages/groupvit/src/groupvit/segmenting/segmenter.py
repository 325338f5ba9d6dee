"""Zero-shot segmentation: groups take the names of the texts that they resemble."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from groupvit.data.augment import normalise
from groupvit.model.groupvit import GroupViT
from groupvit.model.rollup import roll_up
from groupvit.model.text import trim
from groupvit.data.tokens import tokenize

GATE = 5
"""Classes of an image-level decision that a segment may take."""


class GroupViTSegmenter:
    """A trained GroupViT as a segmenter.

    Args:
        model: the model; it is put in evaluation mode.
        name: what result tables call it.
    """

    def __init__(self, model: GroupViT, *, name: str = "groupvit") -> None:
        self.model = model.eval()
        self._name = name

    @property
    def name(self) -> str:
        """What result tables call it."""
        return self._name

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32 projections of prompts, not normalised."""
        tokens = trim(tokenize(prompts)).to(self._device)
        return self.model.encode_text(tokens).float()

    @torch.inference_mode()
    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Score every pixel for every class (GroupViT, sec. 3.3, as its release decodes).

            g(p) = argmax over groups of the rolled-up soft map, resized to the image
            S    = softmax_K(Z | the 5 best classes of the image) * softmax_K(Z),  Z = s F T^T

        Args:
            image: (3, H, W) float32 RGB in [0, 1].
            bank: (K, D) unit rows T.

        Returns:
            (K, H, W) float32 in [0, 1]: row S[g(p)] of the group that owns pixel p. A background
            rule, if the task has one, is the caller's.
        """
        groups, scores = self.groups(image, bank)
        return scores[groups].permute(2, 0, 1)  # (K, H, W)

    @torch.inference_mode()
    def groups(self, image: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Which group owns a pixel, and how each group scores each class.

        Args:
            image: (3, H, W) float32 RGB in [0, 1].
            bank: (K, D) unit rows.

        Returns:
            groups: (H, W) int64 in [0, G).
            scores: (G, K) float32 S of `segment`.
        """
        batch = normalise(image.to(self._device))[None]  # (1, 3, H, W)
        whole, parts, seen = self.model.encode_image(batch)
        soft = rearrange(roll_up(seen.assignments), "b g (h w) -> b g h w", h=seen.grid[0])
        size = image.shape[1:]
        resized = F.interpolate(soft, size=size, mode="bilinear", align_corners=False)
        scores = class_scores(whole[0], parts[0], bank.to(self._device), self.model.scale)
        return resized[0].argmax(dim=0), scores

    @property
    def _device(self) -> torch.device:
        return self.model.logit_scale.device


def class_scores(image: Tensor, groups: Tensor, bank: Tensor, scale: Tensor) -> Tensor:
    """Score groups for classes, gated by what the whole image shows.

    Args:
        image: (D,) projection of the whole image.
        groups: (G, D) projections of the groups.
        bank: (K, D) unit rows.
        scale: logit scale.

    Returns:
        (G, K) float32: product of the plain softmax and of the softmax over the gated classes, 0
        for a class that is not among the image's best 5.
    """
    logits = scale * F.normalize(groups.float(), dim=-1) @ bank.mT  # (G, K)
    whole = F.normalize(image.float(), dim=-1) @ bank.mT  # (K,)
    best = whole.topk(min(GATE, len(bank))).indices  # (<= 5,)
    closed = torch.full_like(whole, float("-inf")).scatter(0, best, 0.0)  # (K,)
    return (logits + closed).softmax(dim=1) * logits.softmax(dim=1)
