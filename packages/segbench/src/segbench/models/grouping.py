"""Hugging Face's GroupViT under GroupViT's own evaluation protocol."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.models.optional import needed
from segbench.models.vit import patch_grid
from segbench.models.weights import fingerprint_of, one_line, title
from segbench.protocols.inference import resize_image, resize_scores

Normalisation = Literal["imagenet", "clip"]
"""imagenet: as GroupViT was trained and evaluated. clip: what Hugging Face's processor applies."""

_COLOURS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
_TOP = 5
"""Classes that an image may show."""

_SCALE_LIMIT = 100.0


class GroupViTSegmenter:
    """Paints every pixel with the class scores of the group that owns it.

    GroupViT's evaluation (arXiv:2202.11094; NVlabs/GroupViT), with A_1, A_2 the soft assignments of
    the two stages, F the group features, a the image's feature and T the text bank, all unit:

        g(p) = argmax over groups of upsample(A_2 A_1)[:, p]
        Z    = s F T^T,     s = min(exp(logit scale), 100)
        P    = softmax over classes of Z
        M    = softmax over classes of Z, -inf at classes that are not in the top 5 of s a T^T
        score[:, p] = (M * P)[g(p), :]

    The maps are soft although the features are pooled with hard assignments. Scores are
    products of probabilities and not normalised; the task's `threshold` policy makes background of
    them, group by group. Windows are resized bilinearly to whole patches; position embeddings are
    resized bicubically, as the model's own code would.

    Args:
        model: `transformers.GroupViTModel` in evaluation mode.
        tokenizer: n texts -> (n, T) int64 CLIP tokens.
        name: under which results are listed.
        normalisation: of colours.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, normalisation: Normalisation = "imagenet"
    ) -> None:
        if normalisation not in _COLOURS:
            raise ValueError(f"normalisation must be imagenet or clip, got {normalisation!r}")
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.device: torch.device = model.logit_scale.device
        mean, std = (torch.tensor(c, device=self.device) for c in _COLOURS[normalisation])  # (3,)
        self.mean, self.std = mean.view(3, 1, 1), std.view(3, 1, 1)  # (3, 1, 1)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, computed when first asked for."""
        return fingerprint_of({"groupvit": self.model})

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, (n, D) float32 projector outputs, not normalised; see `Segmenter`."""
        tokens = self.tokenizer(list(prompts)).to(self.device)  # (n, T)
        pooled = self.model.text_model(input_ids=tokens).pooler_output  # (n, C)
        rows: Tensor = self.model.text_projection(pooled).float()
        return rows

    @property
    def image_px(self) -> int:
        """Side of the squares that the model was trained on."""
        side: int = self.model.config.vision_config.image_size
        return side

    @torch.inference_mode()
    def encode_image(self, image: Tensor) -> Tensor:
        """Embed the mean of an image's groups; see `Classifier`.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], of any size.

        Returns:
            (D,) float32 on the device of the image.
        """
        features, _ = self.groups(image.to(self.device))  # (G, C)
        embedding: Tensor = self.model.visual_projection(features.mean(dim=0, keepdim=True))[0]
        return embedding.float().to(image.device)

    @torch.inference_mode()
    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Class scores of the group that owns each pixel; see `Segmenter`.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], of any size.
            bank: (K, D) float32 unit rows of classes with a prompt.

        Returns:
            (K, H, W) float32 in [0, 1] on the device of the image.
        """
        groups, maps = self.groups(image.to(self.device))  # (G, C), (G, h, w)
        table = self.class_scores(groups, bank.to(self.device))  # (G, K)
        size = (image.shape[1], image.shape[2])
        owner = resize_scores(maps, size).argmax(dim=0)  # (H, W)
        return table.T[:, owner].to(image.device)

    def groups(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features of groups before the projector, and how much each owns of every patch.

        Returns:
            features: (G, C).
            maps: (G, h, w), sums to 1 over groups.
        """
        tower = self.model.vision_model
        side: int = tower.embeddings.patch_embeddings.projection.stride[0]
        grid = patch_grid(image, (side, side))
        fitted = resize_image(image, (grid[0] * side, grid[1] * side))
        pixels = ((fitted - self.mean) / self.std)[None]  # (1, 3, h p, w p)
        patches = tower.embeddings(pixels, interpolate_pos_encoding=True)  # (1, N, C)
        out = tower.encoder(hidden_states=patches, output_attentions=True, return_dict=True)
        features: Tensor = tower.layernorm(out.last_hidden_state)[0]  # (G, C)
        maps: Tensor = out.attentions[0][0].float()  # (G_1, N)
        for stage in out.attentions[1:]:
            maps = stage[0].float() @ maps  # (G_i, N)
        return features, maps.reshape(-1, *grid)

    def class_scores(self, groups: Tensor, bank: Tensor) -> Tensor:
        """Gated class scores of every group, (G, C) and (K, D) -> (G, K)."""
        tokens = torch.cat([groups, groups.mean(dim=0, keepdim=True)])  # (G + 1, C)
        unit = F.normalize(self.model.visual_projection(tokens).float(), dim=1)  # (G + 1, D)
        scale = self.model.logit_scale.float().exp().clamp(max=_SCALE_LIMIT)
        logits = scale * unit @ bank.T  # (G + 1, K)
        of_groups, of_image = logits[:-1], logits[-1]  # (G, K), (K,)
        shown = torch.zeros_like(of_image, dtype=torch.bool)  # (K,)
        shown[of_image.topk(min(_TOP, len(bank))).indices] = True
        gated = of_groups.masked_fill(~shown, -torch.inf).softmax(dim=1)  # (G, K)
        table: Tensor = gated * of_groups.softmax(dim=1)  # (G, K)
        return table


def groupvit(
    checkpoint: str, *, device: str = "cpu", normalisation: Normalisation = "imagenet"
) -> GroupViTSegmenter:
    """GroupViT from a folder, or a model hub, in Hugging Face's layout.

    Args:
        checkpoint: folder with `config.json` and weights, or a name such as
            "nvidia/groupvit-gcc-yfcc".
        device: where the model is put.
        normalisation: of colours.

    Raises:
        ValueError: nothing there, no GroupViT, or weights are missing.
        ModuleNotFoundError: transformers or open_clip, whose tokenizer is used, is not installed.
    """
    transformers = needed("transformers", "transformers")
    open_clip = needed("open_clip", "open_clip_torch")
    if not Path(checkpoint).is_dir() and (checkpoint.count("/") != 1 or checkpoint[0] in "./~"):
        raise ValueError(f"no checkpoint at {checkpoint!r}")
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        if config.model_type != "groupvit":
            raise ValueError(f"it is a {config.model_type!r}, not a 'groupvit'")
        model, report = transformers.GroupViTModel.from_pretrained(
            checkpoint, config=config, output_loading_info=True
        )
    # of a folder, of a pickle or a safetensors file, of a download: each has errors of its own
    except Exception as error:
        raise ValueError(f"checkpoint {checkpoint!r}: {one_line(error)}") from error
    if report["missing_keys"]:
        some = sorted(report["missing_keys"])
        raise ValueError(f"checkpoint {checkpoint!r} lacks {len(some)} weights, first {some[0]}")
    options = {} if normalisation == "imagenet" else {"normalisation": normalisation}
    return GroupViTSegmenter(
        model.eval().requires_grad_(False).to(device),
        open_clip.SimpleTokenizer(context_length=config.text_config.max_position_embeddings),
        name=title("groupvit", Path(checkpoint).name, options),
        normalisation=normalisation,
    )
