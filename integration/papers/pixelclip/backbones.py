"""The CLIP models that PixelCLIP tunes: where their weights lie, and their sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from integration.wiring import LOCAL
from maskcluster import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """A CLIP model of open_clip."""

    folder: str
    """Of configuration and weights, below --data."""
    title: str
    """For people."""
    hub: str
    """Repository of the model hub that has both."""
    weights: str
    """File of weights there."""
    embed_dim: int
    """Numbers of a row."""
    quick_gelu: bool
    """Whether the weights need QuickGELU."""
    parameters: float
    """Of the whole model, in millions."""
    visual: float
    """Of its image tower, in millions."""
    rate: str
    """Of the plan: work of its image towers for a photograph."""
    tokenizer: tuple[str, ...] = ()
    """Files of its tokenizer there, where open_clip does not come with it."""

    @property
    def get(self) -> str:
        """How to get it, for the data check."""
        files = " ".join(("open_clip_config.json", self.weights, *self.tokenizer))
        return f"hf download {self.hub} {files} --local-dir ROOT/{self.folder}"


BACKBONES: Mapping[str, Backbone] = {
    "ViT-B-16-quickgelu": Backbone(
        folder="clip-vit-b-16",
        title="CLIP ViT-B/16",
        hub="timm/vit_base_patch16_clip_224.openai",
        weights="open_clip_model.safetensors",
        embed_dim=512,
        quick_gelu=True,
        parameters=149.6,
        visual=86.2,
        rate="masks_vit_b",
    ),
    "convnext_base_w_320": Backbone(
        folder="clip-convnext-b",
        title="OpenCLIP ConvNeXt-B",
        hub="laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K",
        weights="open_clip_pytorch_model.bin",
        embed_dim=640,
        quick_gelu=False,
        parameters=179.4,
        visual=88.2,
        rate="masks_convnext_b",
    ),
    "convnext_large_d_320": Backbone(
        folder="clip-convnext-l",
        title="OpenCLIP ConvNeXt-L",
        hub="laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
        weights="open_clip_pytorch_model.bin",
        embed_dim=768,
        quick_gelu=False,
        parameters=351.8,
        visual=199.8,
        rate="masks_convnext_l",
    ),
    "ViT-B-16-SigLIP": Backbone(
        folder="siglip-vit-b-16",
        title="SigLIP ViT-B/16",
        hub="timm/ViT-B-16-SigLIP",
        weights="open_clip_model.safetensors",
        embed_dim=768,
        quick_gelu=False,
        parameters=203.2,
        visual=92.9,
        rate="masks_siglip_b",
        tokenizer=("tokenizer.json", "tokenizer_config.json"),
    ),
}
"""By open_clip's name, as the recipes of maskcluster have it."""


def clip_folder(config: TrainConfig, data: Path) -> Path:
    """Where the weights of a recipe's CLIP lie; a recipe of one's own may name a folder itself."""
    name = config.model.architecture
    if name.startswith(LOCAL):
        return data / name.removeprefix(LOCAL)
    return data / BACKBONES[name].folder
