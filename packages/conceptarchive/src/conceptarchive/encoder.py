"""Images and texts to unit rows: the Encoder protocol, and any open_clip model behind it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from conceptarchive.errors import DataMissingError

Precision = Literal["float32", "bfloat16", "float16"]

LOCAL_DIR = "local-dir:"


class Encoder(Protocol):
    """What embeds images and texts in one space.

    Attributes:
        id: names the model and its weights; equal ids give equal rows.
    """

    id: str

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Give (n, D) float32 unit rows, on the CPU."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Give (n, D) float32 unit rows, on the CPU."""
        ...


class OpenClipEncoder:
    """A model of open_clip.

    Args:
        model: an architecture ("ViT-B-16"), or "local-dir:FOLDER" with open_clip_config.json and
            weights beside it.
        pretrained: open_clip's tag of weights to fetch, as "openai".
        checkpoint: file of weights; instead of `pretrained`.
        device: where the model runs.
        precision: float32, or the type that autocast computes in.
        batch_size: images or texts at a time.
        workers: threads that resize images.

    Raises:
        ValueError: not exactly one source of weights.
        DataMissingError: the model or its weights cannot be had.
    """

    def __init__(
        self,
        model: str,
        *,
        pretrained: str | None = None,
        checkpoint: Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        batch_size: int = 256,
        workers: int = 4,
    ) -> None:
        sources = [model.startswith(LOCAL_DIR), pretrained is not None, checkpoint is not None]
        if sum(sources) != 1:
            raise ValueError(
                f"weights of {model!r} come from one of pretrained, checkpoint and local-dir:, "
                f"got pretrained={pretrained!r}, checkpoint={str(checkpoint)!r}"
            )
        if batch_size < 1 or workers < 1:
            raise ValueError(f"batch_size, workers must be >= 1, got {batch_size}, {workers}")
        tag = pretrained if checkpoint is None else str(checkpoint)
        self._model, self._preprocess, self._tokenize = _load(model, tag, device)
        self._device, self._dtype = torch.device(device), getattr(torch, precision)
        self._batch_size, self._workers = batch_size, workers
        self.weights_sha256 = _hash_weights(self._model)
        label = Path(model.removeprefix(LOCAL_DIR)).name
        self.id = f"open_clip/{label}@{self.weights_sha256[:16]}/{precision}"

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, D) float32 unit rows of RGB images, on the CPU."""
        rows = []
        with ThreadPoolExecutor(self._workers) as threads:
            for start in range(0, len(images), self._batch_size):
                part = images[start : start + self._batch_size]
                pixels = torch.stack(list(threads.map(self._preprocess, part)))  # (B, 3, H, W)
                rows.append(self._unit_rows(self._model.encode_image, pixels))
        return torch.cat(rows) if rows else torch.empty(0, 0)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 unit rows of texts, on the CPU."""
        rows = []
        for start in range(0, len(texts), self._batch_size):
            tokens = self._tokenize(list(texts[start : start + self._batch_size]))  # (B, T)
            rows.append(self._unit_rows(self._model.encode_text, tokens))
        return torch.cat(rows) if rows else torch.empty(0, 0)

    def _unit_rows(self, encode: Any, batch: Tensor) -> Tensor:
        is_cast = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=is_cast):
            features = encode(batch.to(self._device))  # (B, D)
        return F.normalize(features.float(), dim=1).cpu()  # (B, D)


def _load(model: str, weights: str | None, device: str) -> tuple[Any, Any, Any]:
    """The model in evaluation mode, its image transform and its tokenizer."""
    import open_clip  # takes seconds, and only encoders need it

    try:
        built, _, preprocess = open_clip.create_model_and_transforms(
            model, pretrained=weights, device=device
        )
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataMissingError(
            f"model {model!r}: {why}; give a checkpoint file or local-dir:FOLDER"
        ) from error
    return built.eval(), preprocess, open_clip.get_tokenizer(model)


def _hash_weights(model: torch.nn.Module) -> str:
    """Hash of all weights by name, so that equal models have equal ids."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
