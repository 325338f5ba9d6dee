"""PixelCLIP once more, from its equations: slow, plain, without a line of `maskcluster.model`.

Text prompts run on all 77 positions, teacher features are upsampled to the masks' grid, the
transport is the alternating one, and the loss is eager on (B, K, S, S) tensors: what a careful
reader of the paper would write first. The benchmark measures against it, and tests compare it with
the package.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# the image towers


def plain_features(visual: Any, images: Tensor, *, last_block: str = "pixelclip") -> Tensor:
    """(B, 3, H, W), normalised -> (B, D, h, w)."""
    if hasattr(visual, "trunk"):
        return plain_convnext(visual, images)
    return plain_vit(visual, images, last_block=last_block)


def plain_vit(visual: Any, images: Tensor, *, last_block: str) -> Tensor:
    """Dense features of open_clip's vision transformer, see `plain_features`."""
    patch = visual.conv1.weight.shape[-1]
    grid = F.conv2d(images, visual.conv1.weight, stride=patch)  # (B, C, h, w)
    batch, width, h, w = grid.shape
    table = visual.positional_embedding
    old = visual.grid_size
    on_grid = table[1:].T.reshape(1, width, *old)
    if old != (h, w):
        on_grid = F.interpolate(on_grid, (h, w), mode="bicubic", align_corners=False)
    patches = (grid + on_grid).flatten(2).transpose(1, 2)  # (B, h w, C)
    start = (visual.class_embedding + table[0]).expand(batch, 1, width)
    x = norm(visual.ln_pre, torch.cat([start, patches], dim=1))
    blocks = list(visual.transformer.resblocks)
    for block in blocks[:-1]:
        x = plain_block(block, x)
    last = blocks[-1]
    if last_block == "none":
        x = plain_block(last, x)
    else:
        weight, bias = last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :]
        value = norm(last.ln_1, x) @ weight.T + bias
        value = value @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        if last_block == "maskclip":
            x = value
        else:
            x = value + x[:, :1]
            x = x + feed_forward(last.mlp, norm(last.ln_2, x))
    rows: Tensor = norm(visual.ln_post, x) @ visual.proj  # (B, 1 + h w, D)
    return rows[:, 1:].transpose(1, 2).reshape(batch, -1, h, w)


def plain_block(block: Any, x: Tensor) -> Any:
    """A transformer block, (B, N, C) -> (B, N, C)."""
    attention = block.attn
    batch, count, width = x.shape
    packed = norm(block.ln_1, x) @ attention.in_proj_weight.T + attention.in_proj_bias
    shape = (batch, count, attention.num_heads, -1)
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in packed.split(width, dim=2))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
    x = x + mixed @ attention.out_proj.weight.T + attention.out_proj.bias
    return x + feed_forward(block.mlp, norm(block.ln_2, x))


def feed_forward(mlp: Any, x: Tensor) -> Any:
    """The two layers of a block."""
    hidden = x @ mlp.c_fc.weight.T + mlp.c_fc.bias
    quick = type(mlp.gelu).__name__ == "QuickGELU"
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden)
    return hidden @ mlp.c_proj.weight.T + mlp.c_proj.bias


def norm(layer: Any, x: Tensor) -> Tensor:
    """Layer norm over the last axis."""
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)


def plain_convnext(visual: Any, images: Tensor) -> Tensor:
    """Dense features of timm's ConvNeXt, see `plain_features`."""
    trunk = visual.trunk
    stem = trunk.stem
    x = channels_norm(stem[1], F.conv2d(images, stem[0].weight, stem[0].bias, stride=4))
    for stage in trunk.stages:
        below: Any = stage.downsample
        if type(below) is nn.Sequential:  # the first stage has none
            smaller: Any = below[1]
            x = F.conv2d(channels_norm(below[0], x), smaller.weight, smaller.bias, stride=2)
        for block in stage.blocks:
            deep = block.conv_dw
            y = F.conv2d(x, deep.weight, deep.bias, padding=3, groups=x.shape[1])
            y = norm(block.norm, y.permute(0, 2, 3, 1))
            tanh = "Tanh" in type(block.mlp.act).__name__
            y = F.gelu(block.mlp.fc1(y), approximate="tanh" if tanh else "none")
            y = block.gamma * block.mlp.fc2(y)
            x = x + y.permute(0, 3, 1, 2)
    rows = norm(trunk.head.norm, x.permute(0, 2, 3, 1))  # (B, h, w, C)
    dense: Tensor = rows @ visual.head.proj.weight.T  # (B, h, w, D)
    return dense.permute(0, 3, 1, 2)


def channels_norm(layer: Any, x: Tensor) -> Tensor:
    """Layer norm over the second axis."""
    return norm(layer, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# the prompts


def plain_prompts(prompts: Any, clip: Any, *, ids: list[int] | None = None) -> Tensor:
    """(K, D) unit rows of "A photo of a {} ... {} in the scene" on all 77 positions."""
    if hasattr(prompts, "rows"):
        return F.normalize(prompts.rows, dim=-1)
    tower = getattr(clip, "text", clip)
    tokens = prompts.tokens  # (K, l, d_e)
    around = ids or [49406, 320, 1125, 539, 320, *[39025] * tokens.shape[1], 530, 518, 3562, 49407]
    row = torch.tensor([*around, *[0] * (77 - len(around))], device=tokens.device)  # (77,)
    x = tower.token_embedding.weight[row].expand(len(tokens), -1, -1).clone()  # (K, 77, d_e)
    x[:, row == 39025] = tokens
    x = tower.transformer(x + tower.positional_embedding, attn_mask=tower.attn_mask)
    ends = tower.ln_final(x)[:, row.argmax()]
    return F.normalize(ends @ tower.text_projection, dim=-1)


# the step


def plain_step(
    model: Any,
    weak: Tensor,
    strong: Tensor,
    masks: Tensor,
    owner: Tensor,
    *,
    eps: float = 0.01,
    iterations: int = 3,
    last_block: str = "pixelclip",
) -> Tensor:
    """The loss of a `PixelCLIP` (arXiv:2409.19846, sec. 3), to go backward from.

    Args:
        model: the package's model: its weights are read, its methods are not called.
        weak: (B, 3, H, W) float in [0, 1].
        strong: (B, 3, H, W) float in [0, 1].
        masks: (M, S, S) bool.
        owner: (M,) int64.
        eps: of the assignment.
        iterations: of Sinkhorn; 0 is plain argmax.
        last_block: of a ViT.
    """
    side = masks.shape[-1]
    weak, strong = ((view - model.mean) / model.std for view in (weak, strong))
    with torch.no_grad():
        features = plain_features(model.teacher.tower.visual, weak, last_block=last_block)
        large = F.interpolate(features, (side, side), mode="bilinear", align_corners=False)
        pooled = plain_pool(large, masks, owner)
    student = plain_features(model.clip.visual, strong, last_block=last_block)
    prompts = plain_prompts(model.prompts, model.clip)  # (K, D)
    with torch.no_grad():
        logits = F.normalize(pooled, dim=-1) @ prompts.T / eps  # (M, K)
        cluster = plain_assign(logits, iterations)
    cosines = torch.einsum("bdhw,kd->bkhw", F.normalize(student, dim=1), prompts)
    maps = plain_decoder(model.decoder, cosines.flatten(0, 1)[:, None])  # (B K, 1, y, x)
    maps = maps.view(*cosines.shape[:2], *maps.shape[2:])
    target = maps.new_zeros(len(weak), len(prompts), side, side)
    for mask, image, which in zip(masks, owner.tolist(), cluster.tolist(), strict=True):
        target[image, which][mask] = 1
    large = F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    losses = F.binary_cross_entropy_with_logits(large, target, reduction="none").mean(dim=1)
    return losses[target.amax(dim=1) > 0].mean()


def plain_pool(large: Tensor, masks: Tensor, owner: Tensor) -> Tensor:
    """(M, D) means of upsampled features (B, D, S, S) under masks."""
    rows = []
    for image in range(len(large)):
        own = masks[owner == image].to(large.dtype)  # (N_b, S, S)
        rows.append(torch.einsum("nyx,dyx->nd", own, large[image]) / own.sum(dim=(1, 2))[:, None])
    return torch.cat(rows)


def plain_assign(logits: Tensor, iterations: int) -> Tensor:
    """(M,) clusters by alternating scaling of the transport plan (M, K), then argmax."""
    plan = logits.softmax(dim=1)
    for _ in range(iterations):
        plan = plan / plan.sum(dim=0, keepdim=True)
        plan = plan / plan.sum(dim=1, keepdim=True)
    return plan.argmax(dim=1)


def plain_decoder(decoder: nn.Module, x: Tensor) -> Tensor:
    """(n, 1, h, w) -> (n, 1, 4 h, 4 w), from the parameters in order."""
    w = iter(decoder.parameters())
    x = F.conv2d(x, next(w), next(w), padding=1)
    for groups in (4, 2):
        x = F.conv_transpose2d(x, next(w), next(w), stride=2)
        for _ in range(2):
            x = F.conv2d(x, next(w), padding=1)
            x = F.group_norm(x, groups, next(w), next(w)).relu()
    return F.conv2d(x, next(w), next(w), padding=1)
