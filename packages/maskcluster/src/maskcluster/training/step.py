"""One step of training: teacher, forward, backward, clipping, AdamW."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maskcluster.config import OptimConfig
from maskcluster.data.loader import Batch
from maskcluster.model.pixelclip import PixelCLIP, StepOutput
from maskcluster.precision import wants_bfloat16
from maskcluster.training.launch import Ranks


def training_step(
    model: PixelCLIP,
    shared: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    config: OptimConfig,
    ranks: Ranks,
) -> tuple[StepOutput, Tensor]:
    """Do one step of AdamW at the rates that the optimizer has.

    Args:
        model: in training mode; its teacher moves first.
        shared: what `ranks.share(model)` gave.
        optimizer: of the model.
        batch: this rank's part, on the model's device.
        config: precision and clipping.
        ranks: that share the batch.

    Returns:
        out: as of `PixelCLIP.forward`, its loss detached.
        norm: () global gradient norm before clipping.
    """
    model.update_teacher()
    device = batch.weak.device
    half = wants_bfloat16(config.precision, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        views = (batch.weak, batch.strong, batch.packed, batch.owner)
        out: StepOutput = shared(*views, group=ranks.group)
    optimizer.zero_grad(set_to_none=True)
    out.loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
    norm = _clip(optimizer, config.clip_grad_norm)
    optimizer.step()
    return replace(out, loss=out.loss.detach()), norm


def _clip(optimizer: Optimizer, most: float) -> Tensor:
    """Clip the gradients of an optimizer to a global norm, 0 clips none; the norm before."""
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in tensors if p.grad is not None])
    if most:
        nn.utils.clip_grads_with_norm_(tensors, most, norm)
    return norm
