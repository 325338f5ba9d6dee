"""ProxyCLIP: attention among the patches of a self-supervised network, over CLIP's values."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.models.open_clip_model import RANDOM
from segbench.models.optional import needed
from segbench.models.vit import LastBlock, Seen, patch_grid
from segbench.models.weights import one_line
from segbench.protocols.inference import resize_image


class PatchBackbone:
    """Patch features of a timm vision transformer, such as DINO, DINOv2 or DINOv3.

    Images are resized bilinearly to whole patches, and position embeddings bicubically with
    anti-aliasing, as timm's `dynamic_img_size` does. The features are the last block's output after
    the final norm, without class and register tokens.

    Args:
        model: the network, in evaluation mode.

    Raises:
        ValueError: it is no vision transformer.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "patch_embed"):
            raise ValueError(f"needs a ViT as backbone, got a {type(model).__name__}")
        self.model = model
        self.patch: tuple[int, int] = tuple(model.patch_embed.patch_size)
        colours = model.pretrained_cfg
        device = next(model.parameters()).device
        self.mean = torch.tensor(colours["mean"], device=device).view(3, 1, 1)  # (3, 1, 1)
        self.std = torch.tensor(colours["std"], device=device).view(3, 1, 1)  # (3, 1, 1)

    def __call__(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Features of an image (3, H, W) in [0, 1]: (h w, C) of its patches, and (h, w)."""
        grid = patch_grid(image, self.patch)
        fitted = resize_image(image, (grid[0] * self.patch[0], grid[1] * self.patch[1]))
        tokens: Tensor = self.model.forward_features(((fitted - self.mean) / self.std)[None])[0]
        return tokens[self.model.num_prefix_tokens :], grid


@dataclass(frozen=True)
class ProxyClip:
    """Proxy attention.

    ProxyCLIP (Lan et al., ECCV 2024, arXiv:2408.04883, sec. 3): with f the unit patch features of
    the backbone, L of them, and v CLIP's values,

        S = f f^T,      A = gamma (S - beta / L^2 * sum of S)
        y = W_o softmax(A where A >= 0, else -inf) v

    without residual and feed-forward network, one attention for all heads, no class token. Where
    the backbone has another grid than CLIP, the values are resized to it bilinearly, and so the
    scores have its grid.

    Departs from the paper: a patch always attends to itself. Where all patches look alike beta
    times the mean passes 1, every entry is masked, and the paper's softmax is 0 / 0.

    Attributes:
        backbone: gives f.
        beta: shift, in units of the mean similarity; good from 1.0 to 1.6 (appendix B).
        gamma: scale, > 0; good from 2.0 to 5.0. Both defaults are those of the released code.
    """

    backbone: PatchBackbone
    beta: float = 1.2
    gamma: float = 3.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be > 0, got {self.gamma}")

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C) at the grid of the backbone; see `LastLayer`."""
        features, grid = self.backbone(seen.image)  # (L, C'), (h, w)
        value = block.project(seen.tokens[1:])[2]  # (heads, N, d)
        planes = value.mT.reshape(*value.mT.shape[:2], *seen.grid)  # (heads, d, h0, w0)
        if grid != seen.grid:
            planes = F.interpolate(planes, grid, mode="bilinear", align_corners=False)
        attention = proxy_attention(features, self.beta, self.gamma)  # (L, L)
        return block.output(attention @ planes.flatten(2).mT).reshape(*grid, -1)


def proxy_attention(features: Tensor, beta: float, gamma: float) -> Tensor:
    """Attention of patches to those that look more alike than most.

    Args:
        features: (L, C).
        beta: shift, in units of the mean similarity.
        gamma: scale.

    Returns:
        (L, L), rows sum to 1.
    """
    unit = F.normalize(features, dim=1)  # (L, C)
    similar = unit @ unit.T  # (L, L)
    logits = gamma * (similar - beta * similar.mean())  # (L, L)
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)  # (L, L)
    return logits.masked_fill((logits < 0) & ~itself, -torch.inf).softmax(dim=1)


def load_backbone(name: str, checkpoint: str | None = None, *, device: str = "cpu") -> Any:
    """Load a vision transformer of timm.

    Args:
        name: of a timm model, such as "vit_base_patch8_224.dino".
        checkpoint: a file of weights in any layout that timm reads for that model; "random" draws
            them from seed 0; timm's own weights when left out.
        device: where the model is put.

    Returns:
        The network, in evaluation mode and without gradients.

    Raises:
        ValueError: no such model or file, no ViT, weights of another one, or a failed download.
        ModuleNotFoundError: timm is not installed.
    """
    timm = needed("timm", "timm")
    if name.partition(".")[0] not in timm.list_models():
        raise ValueError(f"unknown timm model {name!r}; see timm.list_models()")
    if checkpoint not in (None, RANDOM) and not Path(str(checkpoint)).is_file():
        raise ValueError(f"no backbone checkpoint at {checkpoint!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = timm.create_model(
                name, pretrained=checkpoint is None, num_classes=0, dynamic_img_size=True
            )
            if checkpoint not in (None, RANDOM):
                _read(timm, model, str(checkpoint))
        # of a network that is no ViT, of a file, of a download: timm has no errors of its own
        except Exception as error:
            raise ValueError(f"backbone {name!r}: {one_line(error)}") from error
    return model.eval().requires_grad_(False).to(device)


def _read(timm: ModuleType, model: Any, checkpoint: str) -> None:
    """Load a file in any layout that timm turns into this model's; nothing but a head may differ.

    timm itself leaves out what does not fit where a model is made without its head.
    """
    state = timm.models.load_state_dict(checkpoint, weights_only=True)
    layout = importlib.import_module(type(model).__module__)
    if hasattr(layout, "checkpoint_filter_fn"):
        state = layout.checkpoint_filter_fn(state, model)
    wrong = model.load_state_dict(state, strict=False)
    odd = [*wrong.missing_keys, *(k for k in wrong.unexpected_keys if not k.startswith("head"))]
    if odd:
        raise ValueError(f"{checkpoint}: {len(odd)} weights missing or unknown, first {odd[0]}")
