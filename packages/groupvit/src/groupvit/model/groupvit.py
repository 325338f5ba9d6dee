"""GroupViT: both towers, the projectors into one space, and the logit scales."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupvit.config import ModelConfig
from groupvit.model.losses import contrastive, multi_label_contrastive
from groupvit.model.text import TextTower
from groupvit.model.vision import VisionOutput, VisionTower

INITIAL_SCALE = math.log(1 / 0.07)
MAX_SCALE = 100.0


class Projector(nn.Module):
    """Linear, batch norm, ReLU, linear over rows (GroupViT, sec. 3.2)."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.out = nn.Linear(hidden, out)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, dim) -> (n, out)."""
        return self.out(F.relu(self.norm(self.hidden(rows))))  # type: ignore[no-any-return]  # nn.Module


class GroupViT(nn.Module):
    """Image and text towers that meet in one space (GroupViT, arXiv:2202.11094).

    Args:
        config: sizes of everything; the default is the published model, 55.7 M parameters.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.text = TextTower(config.text)
        self.image_projector = _projector(config.vision.width, config)
        self.text_projector = _projector(config.text.width, config)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE))
        self.multi_label_logit_scale = (
            nn.Parameter(torch.tensor(INITIAL_SCALE)) if config.multi_label_scale else None
        )

    def forward(self, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Losses of a batch: caption InfoNCE and, with prompts, the multi-label loss.

        Args:
            images: (B, 3, H, W), normalised.
            tokens: (B, 1 + L, T) int64, the caption and L prompted concepts of each pair.

        Returns:
            `caption_loss` and, for L > 0, `multi_label_loss`: scalars to be added.
        """
        image = F.normalize(self.image_projector(self.vision(images).pooled).float(), dim=-1)
        texts = self.encode_text(tokens.flatten(0, 1))  # (B (1 + L), D)
        texts = F.normalize(texts.float(), dim=-1).view(*tokens.shape[:2], -1)  # (B, 1 + L, D)
        return self._losses(image, texts)

    def _losses(self, image: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Float32 losses of (B, D) images and (B, 1 + L, D) texts, unit rows; ignores autocast."""
        with torch.autocast(image.device.type, enabled=False):
            losses = {"caption_loss": contrastive(image, texts[:, 0], self.scale)}
            if texts.shape[1] > 1:
                if self.multi_label_logit_scale is None:
                    raise ValueError("prompted concepts need a model with multi_label_scale = true")
                scale = _clamped(self.multi_label_logit_scale)
                losses["multi_label_loss"] = multi_label_contrastive(image, texts[:, 1:], scale)
        return losses

    @property
    def scale(self) -> Tensor:
        """Factor on cosine similarity, at most 100."""
        return _clamped(self.logit_scale)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(n, T) ids -> (n, D), not normalised."""
        return self.text_projector(self.text(tokens))  # type: ignore[no-any-return]  # nn.Module

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor, VisionOutput]:
        """See images and their segments in the shared space.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            image: (B, D), not normalised.
            groups: (B, G, D), not normalised; the projection of each segment.
            seen: the output of the image tower, with the assignments.
        """
        seen = self.vision(images)
        groups = self.image_projector(seen.groups.flatten(0, 1))  # (B G, D)
        return self.image_projector(seen.pooled), groups.unflatten(0, seen.groups.shape[:2]), seen


def _projector(dim: int, config: ModelConfig) -> nn.Module:
    if config.projector == "linear":
        return nn.Linear(dim, config.embed_dim)
    return Projector(dim, config.projector_hidden, config.embed_dim)


def _clamped(log_scale: Tensor) -> Tensor:
    return log_scale.exp().clamp(max=MAX_SCALE)
