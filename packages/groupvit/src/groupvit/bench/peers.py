"""Hugging Face's GroupViT, made to do a training step's and an inference's work."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupvit.bench.originals import original_contrastive, original_multi_label
from groupvit.errors import GroupViTError
from groupvit.model.groupvit import INITIAL_SCALE


class HuggingFace(nn.Module):
    """`transformers.GroupViTModel` of the published sizes, with the losses of the original.

    It has no multi-label loss of its own; the logit scale of that loss is added.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from transformers import GroupViTConfig, GroupViTModel
        except ImportError as error:
            raise GroupViTError("the comparison needs transformers: pip install it") from error
        self.model: Any = GroupViTModel(GroupViTConfig())
        self.multi_label_logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE))

    def encode(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 224, 224) and (n, T) -> unit rows (B, D) and (n, D) in float32."""
        vision = self.model.vision_model(pixel_values=images).pooler_output
        text = self.model.text_model(input_ids=tokens).pooler_output
        image, words = self.model.visual_projection(vision), self.model.text_projection(text)
        return F.normalize(image.float(), dim=-1), F.normalize(words.float(), dim=-1)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Sum of both losses of (B, 3, 224, 224) images and (B, 1 + L, T) tokens."""
        image, words = self.encode(images, tokens.flatten(0, 1))
        with torch.autocast(images.device.type, enabled=False):
            texts = words.view(*tokens.shape[:2], -1)
            scale = self.model.logit_scale.exp().clamp(max=100)
            loss = original_contrastive(image, texts[:, 0], scale)
            own = self.multi_label_logit_scale.exp().clamp(max=100)
            return loss + original_multi_label(image, texts[:, 1:], own)


def inf_cl_loss() -> Callable[..., Tensor] | None:
    """The contrastive loss in one direction of the package inf-cl, if it is installed."""
    try:
        from inf_cl import cal_flash_loss
    except ImportError:
        return None
    loss: Callable[..., Tensor] = cal_flash_loss
    return loss
