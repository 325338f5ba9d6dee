"""The decoder that turns similarity maps into mask logits; it is used in training only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CPU_CHUNK = 16
"""Maps that are decoded at a time on a CPU: their activations stay in its cache."""


class MaskDecoder(nn.Module):
    """A small convolutional network, shared by all clusters (PixelCLIP's released code).

    Every similarity map goes through by itself, (1, h, w) -> (1, 4 h, 4 w):

        conv 3 x 3, 1 -> w; transposed conv 2 x 2, w -> w;
        twice: conv 3 x 3, group norm (4 groups), ReLU;
        transposed conv 2 x 2, w -> w / 2;
        twice: conv 3 x 3, group norm (2 groups), ReLU;
        conv 3 x 3, w / 2 -> 1

    118,145 parameters for the published w = 64. It also learns the scale of the logits, for the
    maps are cosines.

    Args:
        width: w, a multiple of 4.
        chunk: maps that are decoded at a time; 0 is what is fast, all of them on a GPU and
            `CPU_CHUNK` on a CPU.
        recompute: keep only the maps of a chunk, and decode it again in the backward pass.

    Raises:
        ValueError: `width` is no positive multiple of 4, or `chunk` is negative.
    """

    def __init__(self, width: int = 64, *, chunk: int = 0, recompute: bool = False) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ValueError(f"width must be a positive multiple of 4, got {width}")
        if chunk < 0:
            raise ValueError(f"chunk must be >= 0, got {chunk}")
        self.chunk = chunk
        self.recompute = recompute
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            *_block(width, groups=4),
            *_block(width, groups=4),
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            *_block(width // 2, groups=2),
            *_block(width // 2, groups=2),
            nn.Conv2d(width // 2, 1, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Decode similarity maps.

        Args:
            maps: (B, K, h, w) cosines.

        Returns:
            (B, K, 4 h, 4 w) logits.
        """
        batch, clusters, height, width = maps.shape
        if not batch * clusters:
            return maps.new_zeros(batch, clusters, 4 * height, 4 * width)
        planes = maps.flatten(0, 1).unsqueeze(1)  # (B K, 1, h, w)
        chunk = self.chunk or (CPU_CHUNK if maps.device.type == "cpu" else len(planes))
        parts = torch.split(planes, chunk)
        logits = torch.cat([self._decode(part) for part in parts])  # (B K, 1, 4 h, 4 w)
        return logits.view(batch, clusters, 4 * height, 4 * width)

    def _decode(self, planes: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            decoded: Tensor = checkpoint(self._run, planes, use_reentrant=False)
            return decoded
        return self._run(planes)

    def _run(self, planes: Tensor) -> Tensor:
        first, *layers = self.layers
        x: Tensor = first(planes)  # (n, width, h, w)
        if x.device.type == "cpu":  # channels last: what its convolutions would convert to
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in layers:
            x = _normalise(layer, x) if isinstance(layer, nn.GroupNorm) else layer(x)
        return x


def _normalise(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group norm in the type of its input; it sums in float32.

    Autocast would store a float32 copy of what comes in and of what goes out, for backward.
    """
    with torch.autocast(x.device.type, enabled=False):
        scale, shift = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
        return F.group_norm(x, layer.num_groups, scale, shift, layer.eps)


def _block(channels: int, *, groups: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return convolution, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)
