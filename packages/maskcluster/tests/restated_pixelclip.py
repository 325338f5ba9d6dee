"""Models that are small enough to be compared with `maskcluster.bench.plain`, and masks."""

import torch
from torch import Tensor, nn

from maskcluster.bench.plain import (
    plain_assign,
    plain_decoder,
    plain_features,
    plain_pool,
    plain_prompts,
    plain_step,
)
from maskcluster.model.clip import Clip

__all__ = [
    "discs",
    "plain_assign",
    "plain_decoder",
    "plain_features",
    "plain_pool",
    "plain_prompts",
    "plain_step",
    "roughen",
    "tiny_clip",
]

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {
    "vit": {"image_size": 32, "layers": 3, "width": 24, "patch_size": 8, "head_width": 12},
    "convnext": {
        "timm_model_name": "test_convnext",
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop_path": 0.1,
        "image_size": 64,
    },
}


def tiny_clip(kind: str = "vit", *, seed: int = 0, custom_text: bool = False) -> Clip:
    """A CLIP of a few hundred thousand weights, all of them far from 0 and 1; joint width 20."""
    import open_clip
    from open_clip.model import CLIP, CustomTextCLIP

    torch.manual_seed(seed)
    build = CustomTextCLIP if custom_text else CLIP
    model = build(20, VISION[kind], TEXT, quick_gelu=kind == "vit")
    roughen(model)
    return Clip(
        model=model,
        tokenizer=open_clip.get_tokenizer("ViT-B-16"),
        mean=(0.48, 0.46, 0.41),
        std=(0.27, 0.26, 0.28),
    )


@torch.no_grad()
def roughen(model: nn.Module) -> None:
    """Move every parameter away from its first value, so that each of them matters."""
    for name, value in model.named_parameters():
        if name.endswith("gamma"):  # layer scale, 1e-6 at first
            value.uniform_(0.3, 1.0)
        elif "embedding" in name:
            value.normal_(std=0.3)
        elif value.ndim == 1:
            value.add_(0.2 * torch.randn_like(value))


def discs(count: int, side: int, *, seed: int = 0) -> Tensor:
    """(M, S, S) bool: overlapping discs, some of which reach over the edge."""
    random = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 2, 1, 1, generator=random) * side
    radius = (0.1 + 0.3 * torch.rand(count, 1, 1, generator=random)) * side
    rows, columns = torch.arange(side).view(-1, 1), torch.arange(side)
    return (rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2 <= radius**2
