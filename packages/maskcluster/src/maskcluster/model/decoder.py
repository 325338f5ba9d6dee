"""The decoder that turns similarity maps into mask logits; it is used in training only."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class MaskDecoder(nn.Module):
    """A small convolutional network, shared by all clusters (PixelCLIP's released code).

    Every similarity map goes through by itself, (1, h, w) -> (1, 4 h, 4 w):

        conv 3 x 3, 1 -> 64; transposed conv 2 x 2, 64 -> 64;
        twice: conv 3 x 3, group norm (4 groups), ReLU;
        transposed conv 2 x 2, 64 -> 32;
        twice: conv 3 x 3, group norm (2 groups), ReLU;
        conv 3 x 3, 32 -> 1

    118,145 parameters. It also learns the scale of the logits, for the maps are cosines.

    Args:
        chunk: maps that are decoded at a time; 0 takes all at once.
        recompute: keep only the maps of a chunk, and decode it again in the backward pass.

    Raises:
        ValueError: `chunk` is negative.
    """

    def __init__(self, *, chunk: int = 0, recompute: bool = False) -> None:
        super().__init__()
        if chunk < 0:
            raise ValueError(f"chunk must be >= 0, got {chunk}")
        self.chunk = chunk
        self.recompute = recompute
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ConvTranspose2d(64, 64, 2, stride=2),
            *_block(64, groups=4),
            *_block(64, groups=4),
            nn.ConvTranspose2d(64, 32, 2, stride=2),
            *_block(32, groups=2),
            *_block(32, groups=2),
            nn.Conv2d(32, 1, 3, padding=1),
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
        parts = torch.split(planes, self.chunk) if self.chunk else (planes,)
        logits = torch.cat([self._decode(part) for part in parts])  # (B K, 1, 4 h, 4 w)
        return logits.view(batch, clusters, 4 * height, 4 * width)

    def _decode(self, planes: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.layers, planes, use_reentrant=False)  # type: ignore[no-any-return]
        return self.layers(planes)  # type: ignore[no-any-return]  # nn.Module


def _block(channels: int, *, groups: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return convolution, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)
