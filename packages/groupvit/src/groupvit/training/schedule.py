"""Learning rate per step, and which tensors decay."""

import math

from torch import nn
from torch.optim import AdamW

from groupvit.config import OptimConfig


def learning_rate(step: int, config: OptimConfig) -> float:
    """Rate of optimizer step `step`, counted from 0.

    As in the release: linear warm-up, then a cosine over all steps that is not shifted by the
    warm-up, so the rate drops a little where the two meet; every step uses the value of the step
    before, so the first two use `warmup_lr`.
    """
    t = max(step - 1, 0)
    if t < config.warmup_steps:
        return config.warmup_lr + (config.lr - config.warmup_lr) * t / config.warmup_steps
    if t >= config.total_steps:
        return config.min_lr
    cosine = 0.5 * (1 + math.cos(math.pi * t / config.total_steps))
    return config.min_lr + (config.lr - config.min_lr) * cosine


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW that spares one-dimensional tensors (norms and biases) from weight decay.

    The scalar logit scales and all tokens and positions do decay, as in the release.
    """
    tensors = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in tensors if p.ndim != 1], "weight_decay": config.weight_decay},
        {"params": [p for p in tensors if p.ndim == 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.warmup_lr, betas=(0.9, 0.999), eps=1e-8, fused=True)
