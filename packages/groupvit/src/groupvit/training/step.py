"""One step of training: forward, backward, clipping, AdamW."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from groupvit.config import OptimConfig
from groupvit.precision import wants_bfloat16
from groupvit.texts import Texts


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    images: Tensor,
    texts: Texts,
    noise: Tensor,
    config: OptimConfig,
    rate: float,
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Do one step of AdamW.

    Args:
        model: a `GroupViT` in training mode, or one wrapped for several ranks.
        optimizer: of the model.
        images: (B, 3, H, W), this rank's part of the batch, on any device.
        texts: (B, 1 + L).
        noise: as of `GroupViT.forward`, on the model's device.
        config: precision and clipping.
        rate: learning rate of this step.

    Returns:
        losses: detached scalars by name, of this rank's pairs.
        norm: global gradient norm before clipping.
    """
    device = noise.device
    images = images.to(device, non_blocking=True)
    texts = texts.to(device, non_blocking=True)
    half = wants_bfloat16(config.precision, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        losses = model(images, texts, noise)
        loss = torch.stack(list(losses.values())).sum()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}, norm
