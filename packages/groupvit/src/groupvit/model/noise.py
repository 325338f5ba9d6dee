"""Where the randomness of a training step comes from: one seed, and numbered samples.

Gumbel noise and stochastic depth of an image depend on the seed of the step and on the number of
the image in its global batch (see `groupvit.ops.uniform`). So they are the same on one GPU and on
eight, when activations are computed twice, and when a batch is cut into parts.
"""

import torch
from torch import Tensor


def step_noise(seed: int, first: int = 0, *, device: torch.device) -> Tensor:
    """The (2,) int64 noise of a step.

    Args:
        seed: of the step, in [0, 2^63).
        first: number, in the global batch, of the first image.
        device: where the model is.
    """
    return torch.tensor([seed, first], device=device)


def drawn_noise(device: torch.device) -> Tensor:
    """Noise whose seed comes from PyTorch's default generator."""
    seed = torch.randint(2**62, (1,), device=device)
    return torch.cat([seed, torch.zeros_like(seed)])


def noise_from(noise: Tensor, start: int) -> Tensor:
    """Noise of the part of a batch that begins at image `start` of it."""
    return noise + noise.new_tensor([0, start])
