"""Learning rates over a run, and the optimizer that takes them."""

import math

from torch.optim import AdamW, Optimizer

from maskcluster.config import OptimConfig
from maskcluster.model.pixelclip import PixelCLIP


def rate_share(step: int, config: OptimConfig) -> float:
    """Share of every learning rate in optimizer step `step`, counted from 0.

    With T = total_steps, W = warmup_steps and e = final_share (PixelCLIP's released code has
    e = 0.5 and W = 0; the paper does not say):

        share = (e + (1 - e) (1 + cos(pi step / T)) / 2) min(1, (step + 1) / (W + 1))

    The cosine is not shifted by the warm-up. Steps from T on have the share e.
    """
    cosine = (1 + math.cos(math.pi * min(step / config.total_steps, 1.0))) / 2
    share = config.final_share + (1 - config.final_share) * cosine
    return share * min(1.0, (step + 1) / (config.warmup_steps + 1))


def build_optimizer(model: PixelCLIP, config: OptimConfig) -> AdamW:
    """AdamW with the groups of `PixelCLIP.parameter_groups`, betas 0.9 and 0.999 (the code)."""
    groups = model.parameter_groups(config)
    return AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_rates(optimizer: Optimizer, share: float) -> dict[str, float]:
    """Give every group its first rate times `share`.

    Returns:
        The rates now: `lr` of the image tower, `prompt_lr` and `decoder_lr`, as far as they train.
    """
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share
        part = group["name"].partition("-")[0]
        rates[{"tower": "lr", "prompts": "prompt_lr", "decoder": "decoder_lr"}[part]] = group["lr"]
    return rates
