"""GroupViT once more: plain PyTorch over tensors with NVlabs' names, and nothing of the package.

Every product is written out: keys and values of all tokens, all logits of a batch, one-hot targets,
texts padded to the context. Noise is an argument. Slow, and meant to be checked by eye against the
equations of GroupViT (arXiv:2202.11094) and CoCu (arXiv:2309.13505).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Statistics = dict[str, Tensor]


@dataclass(frozen=True)
class Noise:
    """The randomness of a training step."""

    gumbel: Sequence[Tensor]
    """(B, G, N) Gumbel(0, 1) numbers of every grouping stage."""
    branches: Tensor
    """(B, blocks, 2) factors of the branches of every block: 0, or 1 / (1 - its rate)."""


@dataclass(frozen=True)
class Sight:
    """What the image tower makes of B images."""

    patches: Tensor
    """(B, N, C) patches with positions."""
    merged: list[Tensor]
    """(B, G, C) segments after every grouping."""
    chosen_by: list[Tensor]
    """(B, G, N) softmax that the choice of every grouping was made by, noise included."""
    soft: list[Tensor]
    """(B, G, N) softmax without noise."""
    groups: Tensor
    """(B, G, C) final segments."""
    pooled: Tensor
    """(B, C) their mean."""
    grid: tuple[int, int]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].mT + w[f"{name}.bias"]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.fc2", gelu(linear(w, f"{name}.fc1", x)))


def split(x: Tensor, heads: int) -> Tensor:
    """(B, n, C) -> (B, heads, n, C / heads)."""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Attention of (B, heads, n, d) to (B, heads, m, d); (n, m) hidden is added to logits."""
    logits = q @ k.mT / q.shape[-1] ** 0.5
    if hidden is not None:
        logits = logits + hidden
    mixed: Tensor = logits.softmax(dim=-1) @ v  # (B, heads, n, d)
    return mixed.transpose(1, 2).flatten(2)  # (B, n, C)


def self_attention(qkv: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """(B, n, 3 C) of layout [3, heads, d] -> (B, n, C)."""
    batch, tokens, width = qkv.shape
    parts = qkv.reshape(batch, tokens, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    return attention(parts[0], parts[1], parts[2], hidden)


def block(w: Weights, name: str, z: Tensor, heads: int, keep: Tensor) -> Tensor:
    """Pre-norm block; (B, 2) factors of its branches."""
    first, second = keep[:, 0, None, None], keep[:, 1, None, None]
    qkv = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", z))
    z = z + first * linear(w, f"{name}.attn.proj", self_attention(qkv, heads))
    return z + second * mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", z))


def straight_through(soft: Tensor) -> Tensor:
    """One-hot of the largest, the lowest if several, with the gradient of `soft`."""
    places = torch.arange(soft.shape[1])[:, None]  # (G, 1)
    is_top = soft == soft.amax(dim=1, keepdim=True)
    lowest = torch.where(is_top, places, soft.shape[1]).amin(dim=1, keepdim=True)
    hot = (places == lowest).to(soft.dtype)
    return hot + (soft - soft.detach())


def grouping(
    w: Weights, name: str, x: Tensor, g: Tensor, heads: int, gumbel: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Grouping block: merged (B, G, C), the softmax it chose by, and that without noise."""
    g, x = norm(w, f"{name}.norm_tokens", g), norm(w, f"{name}.norm_x", x)
    p = mlp(w, f"{name}.mlp_inter", g.mT).mT  # (B, G, C), over the token axis, no residual
    p = norm(w, f"{name}.norm_post_tokens", p)

    cross = f"{name}.pre_assign_attn"
    q, k, v = (split(linear(w, f"{cross}.attn.{part}_proj", t), heads)
               for part, t in (("q", p), ("k", x), ("v", x)))  # fmt: skip
    p = p + linear(w, f"{cross}.attn.proj", attention(q, k, v))
    p = p + mlp(w, f"{cross}.mlp", norm(w, f"{cross}.norm2", p))
    p = norm(w, f"{cross}.norm_post", p)

    q, k, v = (linear(w, f"{name}.assign.{part}_proj", t)
               for part, t in (("q", p), ("k", x), ("v", x)))  # fmt: skip
    logits = q @ k.mT * x.shape[-1] ** -0.5  # (B, G, N)
    soft = logits.softmax(dim=1)
    chosen_by = soft if gumbel is None else (logits + gumbel).softmax(dim=1)
    hard = straight_through(chosen_by)
    share = hard / (hard.sum(dim=2, keepdim=True) + 1.0)
    y = linear(w, f"{name}.assign.proj", share @ v) + p
    return y + mlp(w, f"{name}.mlp_channels", norm(w, f"{name}.norm_new_x", y)), chosen_by, soft


def embed(w: Weights, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, 3, H, W) -> (B, h w, C) patches with positions, and (h, w)."""
    kernel = w["img_encoder.patch_embed.proj.weight"]
    x = F.conv2d(images, kernel, w["img_encoder.patch_embed.proj.bias"], stride=kernel.shape[-1])
    grid = (x.shape[2], x.shape[3])
    x = norm(w, "img_encoder.patch_embed.norm", x.flatten(2).mT)
    positions = w["img_encoder.pos_embed"]  # (1, side^2, C)
    side = round(positions.shape[1] ** 0.5)
    if grid != (side, side):
        square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        square = F.interpolate(square, grid, mode="bicubic", align_corners=False)
        positions = square.flatten(2).mT
    return x + positions, grid


def see(w: Weights, images: Tensor, heads: int, noise: Noise | None = None) -> Sight:
    """The image tower; without noise as in evaluation."""
    x, grid = embed(w, images)
    seen = Sight(x, [], [], [], x, x, grid)
    done, g = 0, x
    for stage in count():
        name = f"img_encoder.layers.{stage}"
        grouped = f"{name}.group_token" in w
        length = x.shape[1]
        if grouped:
            tokens = w[f"{name}.group_token"].expand(len(x), -1, -1)
            if stage:
                before = norm(w, f"{name}.group_projector.0", g)
                tokens = tokens + mlp(w, f"{name}.group_projector.1", before.mT).mT
            x = torch.cat([x, tokens], dim=1)
        for j in count():
            if f"{name}.blocks.{j}.norm1.weight" not in w:
                break
            keep = x.new_ones(len(x), 2) if noise is None else noise.branches[:, done].to(x.dtype)
            x = block(w, f"{name}.blocks.{j}", x, heads, keep)
            done += 1
        if not grouped:
            groups = norm(w, "img_encoder.norm", x)
            return Sight(
                seen.patches, seen.merged, seen.chosen_by, seen.soft, groups,
                groups.mean(dim=1), grid,
            )  # fmt: skip
        x, g = x[:, :length], x[:, length:]
        gumbel = None if noise is None else noise.gumbel[stage].to(x.dtype)
        x, chosen_by, soft = grouping(w, f"{name}.downsample", x, g, heads, gumbel)
        seen.merged.append(x)
        seen.chosen_by.append(chosen_by)
        seen.soft.append(soft)
    raise AssertionError


def read(w: Weights, ids: Tensor, heads: int) -> Tensor:
    """The text tower: (n, T) ids, padded with zeros -> (n, C) at the first highest id."""
    x = w["text_encoder.token_embedding.weight"][ids]
    x = x + w["text_encoder.positional_embedding"][: ids.shape[1]]
    later = torch.full((ids.shape[1],) * 2, float("-inf"), dtype=x.dtype).triu(1)
    for j in count():
        name = f"text_encoder.transformer.resblocks.{j}"
        if f"{name}.ln_1.weight" not in w:
            break
        qkv = norm(w, f"{name}.ln_1", x) @ w[f"{name}.attn.in_proj_weight"].mT
        mixed = self_attention(qkv + w[f"{name}.attn.in_proj_bias"], heads, later)
        x = x + linear(w, f"{name}.attn.out_proj", mixed)
        wide = quick_gelu(linear(w, f"{name}.mlp.c_fc", norm(w, f"{name}.ln_2", x)))
        x = x + linear(w, f"{name}.mlp.c_proj", wide)
    x = norm(w, "text_encoder.ln_final", x)
    return torch.stack([x[i, int(row.argmax())] for i, row in enumerate(ids)])


def project(
    w: Weights, name: str, rows: Tensor, *, training: bool = False
) -> tuple[Tensor, Statistics]:
    """Projector of (n, C) rows, and the statistics of its batch norm afterwards."""
    hidden = F.conv1d(
        rows[:, :, None], w[f"{name}.linear_hidden.0.weight"], w[f"{name}.linear_hidden.0.bias"]
    )[..., 0]  # (n, hidden)
    bn = f"{name}.linear_hidden.1"
    mean, variance = w[f"{bn}.running_mean"], w[f"{bn}.running_var"]
    after = {f"{bn}.running_mean": mean, f"{bn}.running_var": variance,
             f"{bn}.num_batches_tracked": w[f"{bn}.num_batches_tracked"]}  # fmt: skip
    if training:
        n, momentum = len(rows), 0.1
        mean = hidden.mean(dim=0)
        variance = (hidden - mean).square().mean(dim=0)
        for key, value in (("running_mean", mean), ("running_var", variance * n / (n - 1))):
            after[f"{bn}.{key}"] = (1 - momentum) * after[f"{bn}.{key}"] + momentum * value.detach()
        after[f"{bn}.num_batches_tracked"] = after[f"{bn}.num_batches_tracked"] + 1
    hidden = (hidden - mean) / (variance + 1e-5).sqrt() * w[f"{bn}.weight"] + w[f"{bn}.bias"]
    hidden = hidden.clamp(min=0)[..., None]
    out = F.conv1d(hidden, w[f"{name}.linear_out.weight"], w[f"{name}.linear_out.bias"])
    return out[..., 0], after


def unit(rows: Tensor) -> Tensor:
    length = rows.square().sum(dim=-1, keepdim=True).sqrt()
    return rows / length.clamp(min=1e-12)


def scale(logarithm: Tensor) -> Tensor:
    return logarithm.exp().clamp(max=100.0)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of -sum target log softmax."""
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def caption_loss(z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Symmetric InfoNCE of (B, D) images and captions."""
    own = torch.eye(len(z), dtype=z.dtype)
    return (cross_entropy(s * z @ t.mT, own) + cross_entropy(s * t @ z.mT, own)) / 2


def multi_label_loss(z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Of (B, D) images and (B, K, D) prompted texts, K to an image."""
    batch, several, _ = t.shape
    columns = t.flatten(0, 1)  # (B K, D), sample by sample
    own = torch.eye(batch, dtype=z.dtype).repeat_interleave(several, dim=1)  # (B, B K)
    to_text = cross_entropy(s * z @ columns.mT, own / several)
    return (to_text + cross_entropy(s * columns @ z.mT, own.mT)) / 2


def losses(
    w: Weights, images: Tensor, ids: Tensor, heads: tuple[int, int], noise: Noise
) -> tuple[dict[str, Tensor], Sight, Statistics]:
    """A training step's losses of (B, 3, H, W) images and (B, 1 + K, T) ids."""
    seen = see(w, images, heads[0], noise)
    image, first = project(w, "img_projector", seen.pooled, training=True)
    words = read(w, ids.flatten(0, 1), heads[1])
    text, second = project(w, "text_projector", words, training=True)
    z, t = unit(image), unit(text).reshape(*ids.shape[:2], -1)
    found = {"caption_loss": caption_loss(z, t[:, 0], scale(w["logit_scale"]))}
    if ids.shape[1] > 1:
        multi = scale(w["multi_label_logit_scale"])
        found["multi_label_loss"] = multi_label_loss(z, t[:, 1:], multi)
    return found, seen, first | second


def maps(soft: Sequence[Tensor], grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(B, G, H, W) probability of every final group at every pixel."""
    chain = soft[0].mT  # (B, N, G)
    for upper in soft[1:]:
        chain = chain @ upper.mT
    square = chain.mT.reshape(len(chain), -1, *grid)
    return F.interpolate(square, size, mode="bilinear", align_corners=False)


def class_table(image: Tensor, groups: Tensor, bank: Tensor, s: Tensor) -> Tensor:
    """(G, K) scores of the groups of one image: plain softmax times that of its 5 best classes."""
    logits = s * unit(groups) @ bank.mT
    best = (s * unit(image) @ bank.mT).softmax(dim=-1).topk(min(5, len(bank))).indices
    gated = torch.full_like(logits, float("-inf"))
    gated[:, best] = logits[:, best]
    return gated.softmax(dim=1) * logits.softmax(dim=1)
