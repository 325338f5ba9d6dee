"""Dense features of CLIP image towers: one row of the joint space for every patch.

Nothing in open_clip is replaced: a `DenseTower` runs the modules of a tower in another order, so
that trained weights go back into any pipeline that uses the tower as it was.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskcluster.config import LastBlock
from maskcluster.model.blocks import run_block
from maskcluster.precision import wide


class _Layout(Protocol):
    """How the modules of one kind of tower are run."""

    stride: tuple[int, int]
    """Pixels of a patch, down and across."""

    unused: tuple[str, ...]
    """Parameters of the tower, by prefix, that dense features do not depend on."""

    def __call__(self, images: Tensor, recompute: bool) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, D)."""
        ...


class DenseTower(nn.Module):
    """The image tower of an open_clip model, without its pooling.

    ViT (PixelCLIP, arXiv:2409.19846, and its released code). With x the tokens before the last
    block and x_0 the class token, that block becomes, at every patch by itself,

        v = W_o W_v ln_1(x) + b      y = v + x_0      z = y + mlp(ln_2(y))      `pixelclip`
        z = v                        (MaskCLIP, arXiv:2112.01071, sec. 3.2)     `maskclip`

    or stays as it was (`none`); then the final norm and the projection. Position embeddings are
    resized bicubically when the grid is not the trained one, the class token's is kept.

    ConvNeXt: the trunk, the norm of its head, and the visual head, at every position. SigLIP's ViT:
    the tokens, then the value path of its pooling attention and its feed-forward network (`none` is
    the same: without pooling nothing of it is left); the paper does not say what it does there.

    Args:
        visual: `open_clip_model.visual`; it is used, not copied.
        last_block: what takes the place of a ViT's last block.

    Raises:
        ValueError: a tower of another kind: a ResNet, attention pooling of CoCa, ...
    """

    recompute: bool = False
    """Keep only the inputs of blocks (stages of a ConvNeXt) and run them again in the backward
    pass."""

    def __init__(self, visual: nn.Module, *, last_block: LastBlock = "pixelclip") -> None:
        super().__init__()
        self.visual = visual
        self._layout = _layout(visual, last_block)

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels of a patch, down and across."""
        return self._layout.stride

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of parameters of `visual` that the features do not depend on."""
        names = (name for name, _ in self.visual.named_parameters())
        return tuple(name for name in names if name.startswith(self._layout.unused))

    def forward(self, images: Tensor) -> Tensor:
        """Compute dense features.

        Args:
            images: (B, 3, H, W), normalised as the model was trained; H and W multiples of the
                stride.

        Returns:
            (B, D, h, w) float32 (float64 of a float64 model), not of unit length.

        Raises:
            ValueError: another shape.
        """
        down, across = self.stride
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if not height or not width or height % down or width % across:
            raise ValueError(
                f"image sides must be multiples of the stride {down} x {across}, "
                f"got {height} x {width}"
            )
        features = self._layout(images, self.recompute and torch.is_grad_enabled())
        return wide(features).movedim(-1, 1)  # (B, D, h, w)


class _ClipViT:
    """open_clip's own vision transformer."""

    def __init__(self, visual: Any, last_block: LastBlock) -> None:
        _check_clip_vit(visual)
        self.visual = visual
        self.last_block = last_block
        patch = visual.conv1.weight.shape  # (C, 3, p, p)
        self.stride = (patch[2], patch[3])
        last = f"transformer.resblocks.{len(visual.transformer.resblocks) - 1}"
        self.unused = (
            tuple(f"{last}.{part}." for part in ("ln_2", "mlp", "ls_2"))
            if last_block == "maskclip"
            else ()
        )

    def __call__(self, images: Tensor, recompute: bool) -> Tensor:
        visual = self.visual
        patches = visual.conv1(images)  # (B, C, h, w)
        batch, _, *grid = patches.shape
        start = visual.class_embedding.to(patches.dtype).expand(batch, 1, -1)  # (B, 1, C)
        tokens = torch.cat([start, patches.flatten(2).mT], dim=1)  # (B, 1 + N, C)
        table = visual.positional_embedding
        tokens = visual.ln_pre(tokens + _positions(table, visual.grid_size, grid).to(tokens.dtype))
        *early, last = visual.transformer.resblocks
        tokens = _run(early, tokens, recompute)
        features = visual.ln_post(self._last(last, tokens))  # (B, N, C)
        if visual.proj is not None:
            features = features @ visual.proj  # (B, N, D)
        return features.unflatten(1, grid)  # type: ignore[no-any-return]  # visual is Any

    def _last(self, block: Any, tokens: Tensor) -> Tensor:
        """(B, 1 + N, C) tokens -> (B, N, C) patches after what replaces the last block."""
        if self.last_block == "none":
            return run_block(block, tokens)[:, 1:]
        values = block.ls_1(_values(block.attn, block.ln_1(tokens[:, 1:])))  # (B, N, C)
        if self.last_block == "maskclip":
            return values  # type: ignore[no-any-return]  # block is Any
        mixed = values + tokens[:, :1]  # (B, N, C), the class token in place of the patch's own
        return mixed + block.ls_2(block.mlp(block.ln_2(mixed)))  # type: ignore[no-any-return]  # Any


class _ConvNeXt:
    """timm's ConvNeXt behind open_clip's adapter."""

    unused: tuple[str, ...] = ()

    def __init__(self, visual: Any) -> None:
        if hasattr(visual.head, "pool"):
            raise ValueError("a tower that pools by attention has no dense features")
        self.visual = visual
        stride = visual.trunk.feature_info[-1]["reduction"]
        self.stride = (stride, stride)

    def __call__(self, images: Tensor, recompute: bool) -> Tensor:
        trunk = self.visual.trunk
        trunk.set_grad_checkpointing(recompute)
        features = trunk.forward_features(images)  # (B, C, h, w)
        norm = getattr(trunk.head, "norm", None)  # of a ConvNeXt that pools before its norm
        if norm is not None:
            features = norm(features)
        return self.visual.head(features.movedim(1, -1))  # type: ignore[no-any-return]  # Any


class _SigLipViT:
    """timm's vision transformer that pools by attention to a learnt query, as SigLIP's."""

    unused: tuple[str, ...] = (
        "trunk.attn_pool.latent",
        "trunk.attn_pool.q.",
        "trunk.attn_pool.k_norm.",
    )

    def __init__(self, visual: Any) -> None:
        trunk = visual.trunk
        if trunk.attn_pool is None or trunk.num_prefix_tokens or trunk.pos_embed is None:
            raise ValueError(
                "a ViT of timm must pool its patches by attention and have no other tokens, "
                "as SigLIP's does"
            )
        self.visual = visual
        self.stride = tuple(trunk.patch_embed.patch_size)

    def __call__(self, images: Tensor, recompute: bool) -> Tensor:
        trunk = self.visual.trunk
        patches = trunk.patch_embed.proj(images)  # (B, C, h, w)
        grid = list(patches.shape[2:])
        table = trunk.pos_embed[0]  # (N, C)
        tokens = trunk.patch_embed.norm(patches.flatten(2).mT)  # (B, N, C)
        tokens = tokens + _resized(table, trunk.patch_embed.grid_size, grid).to(tokens.dtype)
        tokens = _run(trunk.blocks, trunk.norm_pre(tokens), recompute, _call)
        tokens = trunk.norm(tokens)
        pool = trunk.attn_pool
        values = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])  # (B, N, C)
        values = values + pool.mlp(pool.norm(values))
        return self.visual.head(trunk.head(trunk.fc_norm(values))).unflatten(1, grid)  # type: ignore[no-any-return]  # Any


def _layout(visual: Any, last_block: LastBlock) -> _Layout:
    """How to run a tower."""
    if last_block not in ("pixelclip", "maskclip", "none"):
        raise ValueError(f"last_block must be pixelclip, maskclip or none, got {last_block!r}")
    kind = type(visual).__name__
    trunk = type(getattr(visual, "trunk", None)).__name__
    if kind == "VisionTransformer":
        return _ClipViT(visual, last_block)
    if kind == "TimmModel" and trunk == "ConvNeXt":
        return _ConvNeXt(visual)
    if kind == "TimmModel" and trunk == "VisionTransformer":
        return _SigLipViT(visual)
    inside = f" around a {trunk}" if kind == "TimmModel" else ""
    raise ValueError(f"the image tower must be a ViT or a ConvNeXt, got a {kind}{inside}")


def _check_clip_vit(visual: Any) -> None:
    if visual.attn_pool is not None:
        raise ValueError("a tower that pools by attention has no dense features")
    last = visual.transformer.resblocks[-1]
    if not isinstance(last.attn, nn.MultiheadAttention):
        raise ValueError(f"attention must be nn.MultiheadAttention, got {type(last.attn).__name__}")


def _run(
    blocks: Any, tokens: Tensor, recompute: bool, run: Callable[..., Tensor] = run_block
) -> Tensor:
    """Run transformer blocks over (B, N, C) tokens."""
    for block in blocks:
        if recompute:
            tokens = checkpoint(run, block, tokens, use_reentrant=False)
        else:
            tokens = run(block, tokens)
    return tokens


def _call(block: Callable[..., Tensor], tokens: Tensor) -> Tensor:
    return block(tokens)


def _values(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Value and output projections of an attention layer, (..., C) -> (..., C)."""
    assert attention.in_proj_weight is not None
    width = attention.embed_dim
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    values = F.linear(tokens, attention.in_proj_weight[2 * width :], bias)
    return attention.out_proj(values)  # type: ignore[no-any-return]  # nn.Module


def _positions(table: Tensor, trained: tuple[int, int], grid: list[int]) -> Tensor:
    """Position embeddings (1 + N, C) for another grid: the class token's, then the patches'."""
    return torch.cat([table[:1], _resized(table[1:], trained, grid)])


def _resized(table: Tensor, trained: tuple[int, int], grid: list[int]) -> Tensor:
    """Position embeddings of patches (N, C), resized bicubically if the grid is another one."""
    if list(trained) == grid:
        return table
    planes = table.mT.reshape(1, -1, *trained)  # (1, C, h0, w0)
    resized = F.interpolate(planes, tuple(grid), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).mT  # (h w, C)
