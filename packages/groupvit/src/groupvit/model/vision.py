"""The image tower: patches, stages of attention and grouping, a handful of segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from groupvit.config import VisionConfig
from groupvit.model.grouping import GroupingBlock
from groupvit.model.layers import Block, TokenMLP, run
from groupvit.model.noise import drawn_noise
from groupvit.ops.uniform import uniform

DROP_STREAM = 1 << 16
"""Stream of the noise of stochastic depth; assignments have 0, 1, ..."""


@dataclass(frozen=True, slots=True)
class VisionOutput:
    """What the image tower sees."""

    groups: Tensor
    """(B, G, C), one token for each segment of the last stage."""
    pooled: Tensor
    """(B, C), mean of `groups`."""
    assignments: tuple[Tensor, ...]
    """Soft map of every grouping stage, first to last: (B, G_s, N_s) float32; the tokens N_0 of the
    first are patches in row-major order. Empty in training, where assignments carry noise."""
    grid: tuple[int, int]
    """Patches down and across (h, w)."""


class ConvStem(nn.Sequential):
    """Stride-2 convolutions down to the patch grid, then two residual convolutions.

    A patch still sees little beyond its border, so grouping stays local (Xiao et al.,
    arXiv:2106.14881, show that such stems train faster than one linear layer).
    """

    def __init__(self, config: VisionConfig) -> None:
        dim = config.width
        layers: list[nn.Module] = []
        for low, high in pairwise([3, *config.stem_widths]):
            layers += [nn.Conv2d(low, high, 3, stride=2, padding=1), nn.GELU()]
        super().__init__(*layers[:-1], ConvResidual(dim), ConvResidual(dim))


class ConvResidual(nn.Module):
    """x + GELU(conv(norm x)) over a (B, C, h, w) grid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x + F.gelu(self.conv(self.norm(x)))


class PatchEmbed(nn.Module):
    """Cut an image into patches: one linear layer each, layer norm, then positions.

    The layer is kept as a convolution, as in released weights, and computed as a product over
    patches: cuDNN's convolution of this shape took 13 ms of a step that takes 0.5 ms so (H200,
    1,024 images, forward and backward).
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        side, dim = config.image_px // config.patch_px, config.width
        self.grid = (side, side)
        self.projection = (
            ConvStem(config)
            if config.stem == "conv"
            else nn.Conv2d(3, dim, config.patch_px, stride=config.patch_px)
        )
        self.norm = nn.LayerNorm(dim)
        self.positions = nn.Parameter(torch.zeros(1, side * side, dim))  # (1, N, C)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens (B, h * w, C) and (h, w).

        Borders below a patch are dropped; a conv stem pads them to a patch.

        Raises:
            ValueError: training at another size than the model's.
        """
        if isinstance(self.projection, nn.Conv2d):
            x, grid = _project_patches(images, self.projection)  # (B, N, C)
        else:
            stem = self.projection(images)  # (B, C, h, w)
            x, grid = rearrange(stem, "b c h w -> b (h w) c"), (stem.shape[2], stem.shape[3])
        if self.training and grid != self.grid:
            raise ValueError(f"training needs a patch grid of {self.grid}, got {grid}")
        return self.norm(x) + self._positions(grid), grid

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, h * w, C), resized when the grid is not the trained one."""
        return resize_positions(self.positions, self.grid, grid)


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings for another grid of patches, bicubic with half-pixel centres.

    Args:
        positions: (1, h w, C).
        old: the grid (h, w) that they are of.
        new: the grid (h', w').

    Returns:
        (1, h' w', C); `positions` itself if the grids are equal.
    """
    if new == old:
        return positions
    square = rearrange(positions, "1 (h w) c -> 1 c h w", h=old[0])
    resized = F.interpolate(square, size=new, mode="bicubic", align_corners=False)
    return rearrange(resized, "1 c h w -> 1 (h w) c")


def _project_patches(images: Tensor, layer: nn.Conv2d) -> tuple[Tensor, tuple[int, int]]:
    """A convolution whose patches do not overlap: (B, 3, H, W) -> (B, h w, C) and (h, w)."""
    side = layer.stride[0]
    height, width = images.shape[2] // side, images.shape[3] // side
    inside = images[:, :, : height * side, : width * side]
    cut = rearrange(inside, "b c (h y) (w x) -> b (h w) (c y x)", y=side, x=side)
    return F.linear(cut, layer.weight.flatten(1), layer.bias), (height, width)


class Stage(nn.Module):
    """Transformer blocks over segment and group tokens, then grouping (all stages but the last).

    Args:
        config: of the tower.
        index: which stage.
    """

    def __init__(self, config: VisionConfig, index: int) -> None:
        super().__init__()
        dim = config.width
        self.blocks = nn.ModuleList(Block(dim, config.heads) for _ in range(config.depths[index]))
        self.checkpointed = False
        """Whether blocks keep their input alone and are run again in the backward pass."""
        groups = index < len(config.group_tokens)
        count = config.group_tokens[index] if groups else 0
        self.group_token = nn.Parameter(torch.zeros(1, count, dim)) if groups else None  # (1, g, C)
        self.group_projector = (
            nn.Sequential(
                nn.LayerNorm(dim), TokenMLP(config.group_tokens[index - 1], dim // 2, count)
            )
            if groups and index > 0
            else None
        )
        self.grouping = (
            GroupingBlock(
                dim,
                config.heads,
                count,
                config.output_groups[index],
                pre_assign=config.pre_assign,
                stream=index,
            )
            if groups
            else None
        )

    def forward(
        self,
        segments: Tensor,
        previous: Tensor | None,
        noise: Tensor | None,
        keeps: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run the stage.

        Args:
            segments: (B, N, C).
            previous: (B, g', C), group tokens of the stage before, after its blocks.
            noise: as of `VisionTower`.
            keeps: (B, 2) factors of the branches of each block, for stochastic depth.

        Returns:
            segments: (B, G, C) after grouping, (B, N, C) in the last stage.
            groups: (B, g, C) group tokens after the blocks; None in the last stage.
            soft: (B, G, N) assignment; None in the last stage.
        """
        count = segments.shape[1]
        tokens = segments
        if self.group_token is not None:
            groups = self.group_token.expand(len(segments), -1, -1)  # (B, g, C)
            if self.group_projector is not None and previous is not None:
                groups = groups + self.group_projector(previous)
            tokens = torch.cat([segments, groups.to(segments.dtype)], dim=1)  # (B, N + g, C)
        for block, keep in zip(self.blocks, keeps, strict=True):
            tokens = run(block, tokens, keep, checkpointed=self.checkpointed)
        if self.grouping is None:
            return tokens, None, None
        segments, groups = tokens[:, :count], tokens[:, count:]
        merged, soft = self.grouping(groups, segments, noise)
        return merged, groups, soft


class VisionTower(nn.Module):
    """GroupViT's image tower (arXiv:2202.11094, sec. 3.1).

    Args:
        config: sizes; images are (B, 3, H, W) float32, normalised by the caller.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = PatchEmbed(config)
        self.stages = nn.ModuleList(Stage(config, index) for index in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.width)
        self.apply(partial(_init_linear, std=config.init_std))
        nn.init.trunc_normal_(self.patches.positions, std=0.02)
        first = self.stages[0].group_token
        assert isinstance(first, Tensor)
        nn.init.trunc_normal_(first, std=0.02)  # later stages start at 0: a projector feeds them

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VisionOutput:
        """See images.

        Args:
            images: (B, 3, H, W); H and W may differ from training in evaluation mode.
            noise: (2,) int64, the seed of the step and the number of the first image in its batch,
                see `uniform`; read in training only. None draws a seed from PyTorch's generator.
        """
        if not self.training:
            noise = None
        elif noise is None:
            noise = drawn_noise(images.device)
        keeps = self._keeps(noise, len(images))
        tokens, grid = self.patches(images)  # (B, N, C)
        groups: Tensor | None = None
        assignments: list[Tensor] = []
        for stage, depth in zip(self.stages, self.config.depths, strict=True):
            tokens, groups, soft = stage(tokens, groups, noise, keeps[:depth])
            keeps = keeps[depth:]
            if soft is not None and not self.training:
                assignments.append(soft)
        tokens = self.norm(tokens)  # (B, G, C)
        return VisionOutput(tokens, tokens.mean(dim=1), tuple(assignments), grid)

    def _keeps(self, noise: Tensor | None, batch: int) -> list[Tensor | None]:
        """Factors of the branches of every block: 0 with its rate, else 1 / (1 - rate).

        The rate grows linearly from 0 to `drop_path` (stochastic depth, arXiv:1603.09382).
        """
        total = sum(self.config.depths)
        rates = [self.config.drop_path * i / max(total - 1, 1) for i in range(total)]
        if noise is None or not self.config.drop_path:
            return [None] * total
        drawn = uniform(noise, DROP_STREAM, batch, 2 * total).view(batch, total, 2)
        return [
            (drawn[:, i] >= rate).float() / (1 - rate) if rate else None
            for i, rate in enumerate(rates)
        ]


def _init_linear(module: nn.Module, std: float) -> None:
    """Normal weights and zero biases; the patch convolution keeps its default."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)
