"""Images and texts to unit rows: the Encoder protocol, and any open_clip model behind it."""

import difflib
import hashlib
import logging
import pickle
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from conceptarchive.errors import DataMissingError, FormatError, UsageError

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16"]

RANDOM = "random"
"""In place of a tag: weights drawn from seed 0, to try the command without any."""

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
ROW_MULTIPLE = 16  # rows a batch on the CPU: kernels sum the rows left over in another order
WHY_LENGTH = 300  # characters of a foreign error message
GIVE = "give --encoder.checkpoint FILE or --encoder.model local-dir:FOLDER"


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


@runtime_checkable
class PixelEncoder(Encoder, Protocol):
    """An encoder whose image preprocessing can run in other threads, while the model computes.

    `encode_pixels` of stacked `preprocess` equals `encode_images`.
    """

    def preprocess(self, image: Image.Image) -> Tensor:
        """Make of an RGB image what `encode_pixels` takes, on the CPU, of one shape for all."""
        ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Give (n, D) float32 unit rows of n >= 1 preprocessed images, on any device.

        They may still be being computed, as a GPU does.
        """
        ...


class OpenClipEncoder:
    """A model of open_clip.

    Images are resized and normalised exactly as open_clip does it. On the CPU, batches are filled
    up to a multiple of ROW_MULTIPLE, so that rows do not depend on how images are split into
    batches. On a GPU they may, in the last bits.

    Args:
        model: an architecture ("ViT-B-16"), "local-dir:FOLDER" with open_clip_config.json and
            weights beside it, or "hf-hub:ORGANISATION/NAME".
        pretrained: open_clip's tag of weights to fetch, as "openai"; "random" draws them from seed
            0, which a warning and the id say.
        checkpoint: file of weights (.pt, .bin, .safetensors; never run as code); instead of
            `pretrained`. OpenAI's own weights need an architecture that ends in "-quickgelu".
        device: where the model runs.
        precision: float32, or the type that autocast computes in.
        batch_size: images or texts at a time.
        workers: threads that resize images for `encode_images`.

    Raises:
        ValueError: not exactly one source of weights.
        UsageError: no such architecture, tag or device.
        DataMissingError: the model or its weights cannot be had.
        FormatError: the checkpoint holds no weights of this architecture.
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
        has_own_weights = model.startswith((LOCAL_DIR, HF_HUB))
        if sum([has_own_weights, pretrained is not None, checkpoint is not None]) != 1:
            raise ValueError(
                f"weights of {model!r} come from one of pretrained, checkpoint and local-dir:, "
                f"got pretrained={pretrained}, checkpoint={checkpoint}"
            )
        if batch_size < 1 or workers < 1:
            raise ValueError(f"batch_size, workers must be >= 1, got {batch_size}, {workers}")
        self._device, self._dtype = _find_device(device), getattr(torch, precision)
        if not has_own_weights:
            _require_known(model, pretrained)
        self._model: Any  # of many classes, which share only encode_image and encode_text
        self._model, transform, self._tokenize = _load(model, pretrained, checkpoint, device)
        self._to_pixels, levels = _split_transform(transform)
        self._levels = None if levels is None else levels.to(self._device)  # (3, 256)
        self._batch_size, self._workers = batch_size, workers
        self.weights_sha256 = _hash_weights(self._model)
        label = Path(model.removeprefix(LOCAL_DIR)).name
        if pretrained == RANDOM:
            label += f"-{RANDOM}"
            log.warning("the weights of %s are random: its rows mean nothing", model)
        self.id = f"open_clip/{label}@{self.weights_sha256[:16]}/{precision}"

    def preprocess(self, image: Image.Image) -> Tensor:
        """(H, W, 3) uint8 of an RGB image, resized and cropped.

        A quarter of the bytes of the normalised image, which `encode_pixels` makes on the device.
        With a transform that is not open_clip's own: what that transform gives.
        """
        return self._to_pixels(image)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(n, D) float32 unit rows of n >= 1 preprocessed images, on the model's device."""
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        rows = [
            self._unit_rows(self._model.encode_image, self._normalise(part))
            for part in torch.split(pixels, self._batch_size)
        ]
        return torch.cat(rows)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, D) float32 unit rows of RGB images, on the CPU."""
        rows = []
        with ThreadPoolExecutor(self._workers) as threads:
            for start in range(0, len(images), self._batch_size):
                part = images[start : start + self._batch_size]
                pixels = torch.stack(list(threads.map(self._to_pixels, part)))  # (B, H, W, 3)
                rows.append(self.encode_pixels(pixels).cpu())
        return torch.cat(rows) if rows else torch.empty(0, 0)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 unit rows of texts, on the CPU; each is cut to the model's length."""
        rows = []
        for start in range(0, len(texts), self._batch_size):
            tokens = self._tokenize(list(texts[start : start + self._batch_size]))  # (B, T)
            rows.append(self._unit_rows(self._model.encode_text, tokens.to(self._device)).cpu())
        return torch.cat(rows) if rows else torch.empty(0, 0)

    def _normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float32 on the device, to the bit what open_clip's transform gives."""
        pixels = pixels.to(self._device, non_blocking=True)
        if self._levels is None:
            return pixels
        channels = [self._levels[c][pixels[..., c].int()] for c in range(3)]  # each (B, H, W)
        return torch.stack(channels, dim=1)

    def _unit_rows(self, encode: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """(B, D) float32 unit rows of a batch that is on the device."""
        size = len(batch)
        missing = -size % ROW_MULTIPLE if self._device.type == "cpu" else 0
        if missing:
            batch = torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])
        is_cast = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=is_cast):
            features = encode(batch)  # (B, D)
        return F.normalize(features.float(), dim=1)[:size]  # (B, D)


def _find_device(name: str) -> torch.device:
    """The device of that name, if it is here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; say cpu, cuda or cuda:0") from error
    count = torch.cuda.device_count() if device.type == "cuda" else None
    if count is not None and (device.index or 0) >= count:
        raise UsageError(f"device {name!r} is not here: this machine shows {count} GPUs; say cpu")
    return device


def _require_known(model: str, pretrained: str | None) -> None:
    """Raise UsageError, with the nearest names, for an architecture or a tag that is not there."""
    import open_clip  # takes seconds, and only encoders need it

    name = model.replace("/", "-")  # as open_clip does
    if name not in open_clip.list_models():
        near = _nearest(name, open_clip.list_models())
        raise UsageError(f"open_clip has no model {model!r}{near}, or say local-dir:FOLDER")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in (None, RANDOM) or Path(str(pretrained)).is_file():
        return
    if pretrained.lower().replace("-", "_") not in {tag.lower().replace("-", "_") for tag in tags}:
        near = _nearest(pretrained, tags) or f"; its tags: {', '.join(tags) or 'none'}"
        raise UsageError(f"open_clip has no weights {pretrained!r} of {model}{near}")


def _nearest(name: str, known: Sequence[str]) -> str:
    """Name a few known ones that look alike."""
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(by_lower[other] for other in near)}?" if near else ""


def _load(
    model: str, pretrained: str | None, checkpoint: Path | None, device: str
) -> tuple[torch.nn.Module, Any, Any]:
    """The model in evaluation mode, its image transform and its tokenizer."""
    import open_clip
    from safetensors import SafetensorError

    if checkpoint is not None and not checkpoint.is_file():
        raise DataMissingError(f"{checkpoint}: no such checkpoint; {GIVE}")
    weights = pretrained if checkpoint is None else str(checkpoint)
    source: dict[str, Any] = {"pretrained": weights, "weights_only": True}
    if pretrained == RANDOM:
        source = {"load_weights": False, "pretrained_text": False}
    unfit = (AttributeError, EOFError, KeyError, TypeError, pickle.UnpicklingError, SafetensorError)
    try:
        with _said_by_us(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built, _, transform = open_clip.create_model_and_transforms(
                model, device=device, **source
            )
            return built.eval(), transform, open_clip.get_tokenizer(model)
    except (OSError, RuntimeError, ValueError, StopIteration, *unfit) as error:
        why = _reason(error)
        if checkpoint is not None:
            raise FormatError(
                f"{checkpoint}: cannot be loaded as weights of {model}: {why}"
            ) from error
        raise DataMissingError(f"model {model!r}: {why}; {GIVE}") from error


@contextmanager
def _said_by_us() -> Iterator[None]:
    """Leave out what open_clip logs and then raises too, and that weights are random."""
    root = logging.getLogger()  # which open_clip logs to
    root.addFilter(_is_news)
    try:
        yield
    finally:
        root.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    repeated = ("Failed to download weights", "No pretrained weights loaded")
    return not record.getMessage().startswith(repeated)


def _reason(error: BaseException) -> str:
    """One line of open_clip's error, cut between words.

    Of weights that do not fit, the first tensor: PyTorch lists every one.
    """
    said = " ".join(str(error).split())
    if "loading state_dict" in said:
        if first := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', said):
            return f"it has {'no' if first[1] == 'Missing' else 'a'} {first[2]}"
        if first := re.search(r"size mismatch for ([^:]+):", said):
            return f"its {first[1]} has another shape"
    return textwrap.shorten(said, WHY_LENGTH, placeholder=" ...") or type(error).__name__


def _split_transform(transform: Any) -> tuple[Callable[[Image.Image], Tensor], Tensor | None]:
    """Divide open_clip's transform into what gives bytes and what those become.

    Returns:
        to_pixels: (H, W, 3) uint8 of an image.
        levels: (3, 256) float32, what every byte of every channel becomes; None when the
            transform is another, and `to_pixels` all of it.
    """
    from open_clip.transform import CenterCrop, Compose, Normalize, Resize, ToTensor

    steps = list(getattr(transform, "transforms", []))
    *to_bytes, to_float, normalise = steps if len(steps) > 1 else [None, None]
    bytewise = all(
        isinstance(step, Resize | CenterCrop) or type(step).__module__ == "open_clip.transform"
        for step in to_bytes
    )
    if not (isinstance(to_float, ToTensor) and isinstance(normalise, Normalize) and bytewise):
        return transform, None
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)  # every byte once
    levels = normalise(to_float(Image.fromarray(grey))).reshape(3, 256)
    resize = Compose(to_bytes)

    def to_pixels(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(resize(image)))  # (H, W, 3)

    return to_pixels, levels


def _hash_weights(model: torch.nn.Module) -> str:
    """Hash of all weights by name, so that equal models have equal ids."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
