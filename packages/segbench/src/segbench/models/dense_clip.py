"""CLIP as a segmenter: the same for every method, which differ in the last block alone."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.models.last_block import LastLayer
from segbench.models.open_clip_model import OpenClip
from segbench.models.vit import ClipViT
from segbench.models.weights import fingerprint_of
from segbench.protocols.inference import resize_image


class DenseClip:
    """Scores places of an image by the cosine of their features and the rows of a text bank.

        f = W ln_post(last layer(x)),       score[k, y, x] = f[y, x] / |f[y, x]| . bank[k]

    Scores are in [-1, 1], without CLIP's logit scale: it is the task that says how scores become
    probabilities, if they do (`background_scale`).

    Args:
        clip: the model.
        last_layer: what is done in place of the last block.
        name: under which results are listed; it names what is not in the weights.
        input_px: squash images to a square of this side first; None takes them as they are.
        feature_px: resize features bilinearly to a square of this side before they are normalised;
            None scores them at their own grid.
        antialias: of position embeddings, see `ClipViT`.
        others: further networks that the last layer uses, for the fingerprint.

    Raises:
        ValueError: the vision tower is no plain ViT, or a size is below 1.
    """

    def __init__(
        self,
        clip: OpenClip,
        last_layer: LastLayer,
        *,
        name: str,
        input_px: int | None = None,
        feature_px: int | None = None,
        antialias: bool = False,
        others: Mapping[str, nn.Module] | None = None,
    ) -> None:
        for key, size in (("input_px", input_px), ("feature_px", feature_px)):
            if size is not None and size < 1:
                raise ValueError(f"{key} must be >= 1, got {size}")
        self.clip = clip
        self.tower = ClipViT(clip.model.visual, clip.mean, clip.std, antialias=antialias)
        self.last_layer = last_layer
        self.name = name
        self.input_px = input_px
        self.feature_px = feature_px
        self.others = dict(others or {})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, computed when first asked for."""
        return fingerprint_of({"clip": self.clip.model, **self.others})

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, (n, D) float32, not normalised; see `Segmenter`."""
        return self.clip.encode_text(prompts)

    @property
    def image_px(self) -> int | None:
        """Side of the squares that CLIP was trained on; None where they are no squares."""
        side = self.clip.model.visual.image_size
        sides = set(side) if isinstance(side, tuple | list) else {int(side)}
        return int(sides.pop()) if len(sides) == 1 else None

    @torch.inference_mode()
    def encode_image(self, image: Tensor) -> Tensor:
        """CLIP's own embedding of the whole image, which no method changes; see `Classifier`.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], of any size.

        Returns:
            (D,) float32 on the device of the image.
        """
        return self.tower.pooled(image.to(self.clip.device)).to(image.device)

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor:
        """Features of places in the space of texts, not normalised.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], of any size.

        Returns:
            (D, h, w) float32 on the device of the model.
        """
        image = image.to(self.clip.device)
        if self.input_px is not None:
            image = resize_image(image, (self.input_px, self.input_px))
        seen = self.tower.before_last(image)
        rows = self.last_layer(self.tower.last, seen)  # (h, w, C)
        features = self.tower.to_joint_space(rows).permute(2, 0, 1)  # (D, h, w)
        if self.feature_px is not None:
            features = resize_image(features, (self.feature_px, self.feature_px))
        return features

    @torch.inference_mode()
    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Cosine of every place with every row of a bank; see `Segmenter`.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], of any size.
            bank: (K, D) float32 unit rows.

        Returns:
            (K, h, w) float32 on the device of the image.
        """
        unit = F.normalize(self.features(image), dim=0)  # (D, h, w)
        scores = torch.einsum("kd,dyx->kyx", bank.to(unit), unit)  # (K, h, w)
        return scores.to(image.device)
