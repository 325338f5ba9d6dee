"""Models that segment what a point shows: a protocol, and SAM and SAM 2 of transformers."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from maskcluster.errors import CheckpointError, DataError, UsageError, reason_of
from maskcluster.files import hash_file
from maskcluster.generators.protocol import Photo

Points = npt.NDArray[np.float64]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels; SAM and SAM 2 use them."""


class PromptableModel(Protocol):
    """Three masks for each point, of an image that is encoded once."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What identifies the model and its weights, as JSON has it."""
        ...

    def encode(self, image: Photo) -> Any:
        """What `predict` and `upsample` need to know of (H, W, 3) uint8 RGB."""
        ...

    def predict(self, encoded: Any, points: Points) -> tuple[Tensor, Tensor]:
        """Ask for the masks of n points, each on its own.

        Args:
            encoded: of the image.
            points: (n, 2) XY in pixels of the image.

        Returns:
            logits: (n, 3, h, w) float, a model's own small size.
            predicted_iou: (n, 3) float.
        """
        ...

    def upsample(self, encoded: Any, logits: Tensor) -> Tensor:
        """(n, H, W) float32 logits of the image's size from (n, h, w) of `predict`."""
        ...


class TransformersSam:
    """SAM or SAM 2 of transformers.

    SAM sees the image with its longest side resized and the rest padded, SAM 2 sees it squashed to
    a square; logits are resized back accordingly. (The processors of transformers, Apache-2.0.)

    Args:
        model: SamModel or Sam2Model; it is put into evaluation mode.
        identity: what identifies its weights.
        device: where it computes.
        autocast: compute in bfloat16; masks differ in a few pixels.

    Raises:
        UsageError: another model.
    """

    def __init__(
        self,
        model: Any,
        identity: Mapping[str, Any],
        *,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> None:
        kind = model.config.model_type.removesuffix("_video")
        if kind not in ("sam", "sam2"):
            raise UsageError(
                f"a model of the kind {kind!r}; SAM ('sam') and SAM 2 ('sam2') are read"
            )
        self.model = model.eval().requires_grad_(False).to(device)
        self.pads = kind == "sam"
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.device = torch.device(device)
        self.autocast = autocast
        self.description: Mapping[str, Any] = {"kind": kind, **identity, "autocast": autocast}

    def _computing(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    @torch.inference_mode()
    def encode(self, image: Photo) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """The image's embeddings, its own size and the size that the model sees it in."""
        height, width = image.shape[:2]
        seen = self._seen_size(height, width)
        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1)[None].float()
        resized = F.interpolate(pixels, seen, mode="bilinear", antialias=True)  # (1, 3, h, w)
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (MEAN, STD))
        normed = (resized.round().clamp(0, 255) / 255 - mean) / std
        padded = F.pad(normed, (0, self.side - seen[1], 0, self.side - seen[0]))
        with self._computing():
            return self.model.get_image_embeddings(padded), (height, width), seen

    @torch.inference_mode()
    def predict(self, encoded: Any, points: Points) -> tuple[Tensor, Tensor]:
        """Three masks for each point."""
        embeddings, (height, width), seen = encoded
        scaled = points * np.array([seen[1] / width, seen[0] / height])  # (n, 2)
        prompts = torch.tensor(scaled, dtype=torch.float32, device=self.device)[None, :, None]
        with self._computing():
            out = self.model(
                image_embeddings=embeddings, input_points=prompts, multimask_output=True
            )
        return out.pred_masks[0].float(), out.iou_scores[0].float()

    @torch.inference_mode()
    def upsample(self, encoded: Any, logits: Tensor) -> Tensor:
        """(n, H, W) float32."""
        _, size, seen = encoded
        full = logits.float()[:, None]  # (n, 1, h, w)
        if self.pads:
            full = F.interpolate(full, (self.side, self.side), mode="bilinear")
            full = full[..., : seen[0], : seen[1]]
        return F.interpolate(full, size, mode="bilinear")[:, 0]

    def _seen_size(self, height: int, width: int) -> tuple[int, int]:
        if not self.pads:
            return self.side, self.side
        scale = self.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def load_sam(
    where: str, *, device: torch.device | str = "cpu", autocast: bool = False
) -> TransformersSam:
    """Load SAM or SAM 2.

    Args:
        where: a folder of transformers' layout, or a name of the hub such as
            `facebook/sam-vit-huge` or `facebook/sam2.1-hiera-large`.
        device: where it computes.
        autocast: compute in bfloat16.

    Raises:
        UsageError: transformers is not installed, or another kind of model.
        DataError: it is not there and cannot be downloaded.
        CheckpointError: weights are missing in the file.
    """
    try:
        from transformers import AutoConfig, Sam2Model, SamModel
    except ImportError as error:
        raise UsageError("SAM needs transformers: pip install transformers") from error
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        kind = SamModel if config.model_type == "sam" else Sam2Model
        if config.model_type not in ("sam", "sam2", "sam2_video"):
            raise UsageError(f"{where}: holds a model of the kind {config.model_type!r}, not SAM")
        model, report = kind.from_pretrained(where, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise DataError(
            f"{where}: cannot be loaded ({reason_of(error)}); give a folder: --sam_model FOLDER"
        ) from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(f"{where}: has no weights for {some}")
    return TransformersSam(model, _identity(where, config), device=device, autocast=autocast)


def _identity(where: str, config: Any) -> Mapping[str, Any]:
    """Checksums of a folder's weights, or a hub's name and commit."""
    folder = Path(where)
    if folder.is_dir():
        weights = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin"})
        return {"weights_sha256": [hash_file(path) for path in weights]}
    return {"model": where, "commit": getattr(config, "_commit_hash", None)}
