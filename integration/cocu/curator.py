"""Train a small CLIP on the gappy captions of other scenes: the curator's foundation model.

CoCu curates with a CLIP whose own training captions had the gap that it is asked to close. Where no
such model can be had, this one stands for it: open_clip's model and loss, trained on image-caption
pairs that nobody trains GroupViT on, whose captions are as incomplete as the others.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from groupvit import (
    IMAGE_MEAN,
    IMAGE_STD,
    Augmentation,
    PairDataset,
    augmentation,
    batches,
    index_shards,
    stream,
)
from integration.errors import DamagedError
from integration.stage import write_text

END_OF_TEXT = 49407
_STATE = "unfinished.pt"
_FULL = r"inline_container|PytorchStreamWriter|unexpected pos|os error (28|122|27)\b"
"""What torch and safetensors say when a disk, a quota or a file is full; they set no errno."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CuratorConfig:
    """A CLIP that is trained in the run."""

    embed_dim: int = 128
    """Dimension of the shared space."""

    vision_cfg: Mapping[str, Any] = field(default_factory=dict)
    """open_clip's description of the image tower; `image_size` is in it."""

    text_cfg: Mapping[str, Any] = field(default_factory=dict)
    """open_clip's description of the text tower."""

    steps: int = 1000
    """Optimizer steps."""

    batch: int = 256
    """Pairs a step."""

    lr: float = 1e-3
    """Peak learning rate, cosine to 0 after 5 % of warm-up."""

    weight_decay: float = 0.1
    """Of tensors that are not one-dimensional."""

    min_crop: float = 1.0
    """Smallest share of a picture's area that random crops keep; 1 takes pictures whole."""

    seed: int = 0
    """Of weights and order."""

    checkpoint_every: int = 500
    """Steps between two states that a killed run goes on from."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if not 0 < self.min_crop <= 1:
            raise ValueError(f"min_crop must be in (0, 1], got {self.min_crop}")


def train_curator(
    shards: list[Path],
    config: CuratorConfig,
    out: Path,
    *,
    device: torch.device,
    workers: int = 0,
) -> Path:
    """Train a CLIP and write it as a folder that open_clip opens as `local-dir:OUT`.

    Args:
        shards: tar shards of image-caption pairs.
        config: model and recipe.
        out: folder; a killed run goes on from the state in it.
        device: where to compute.
        workers: loader processes.

    Returns:
        `out`, with open_clip_config.json and open_clip_model.safetensors.
    """
    out.mkdir(parents=True, exist_ok=True)
    pairs, _ = index_shards(shards, dataset="curator")
    image_px = int(config.vision_cfg["image_size"])
    dataset = PairDataset(
        pairs,
        partial(cropped, augmentation("flip", image_px), config.min_crop),
        concepts=0,
        seed=config.seed,
        keep_decoded=image_px < 128,
    )
    torch.manual_seed(int(stream(config.seed, "curator").integers(2**62)))
    model = open_clip.CLIP(config.embed_dim, dict(config.vision_cfg), dict(config.text_cfg)).to(
        device
    )
    optimizer = _optimizer(model, config)
    start = _resume(out / _STATE, model, optimizer, device)

    loader = batches(dataset, batch=config.batch, workers=workers, start=start, stop=config.steps)
    bar = tqdm(
        loader, total=config.steps, initial=start, desc="curator CLIP", unit="step", disable=None
    )
    for step, (images, texts) in enumerate(bar, start):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, config)
        loss = _step(model, optimizer, images.to(device), texts.padded()[:, 0].to(device))
        if (step + 1) % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % config.checkpoint_every == 0:
            _save_state(out / _STATE, model, optimizer, step + 1)
    _publish(out, model, config)
    (out / _STATE).unlink(missing_ok=True)
    return out


def cropped(
    augment: Augmentation, min_share: float, image: Image.Image, rng: np.random.Generator
) -> Tensor:
    """Crop a random part of a picture, at its own aspect ratio, and augment that.

    Args:
        augment: what follows.
        min_share: smallest share of the area that is kept; 1 keeps all and draws nothing.
        image: the picture.
        rng: of the pair.
    """
    if min_share < 1:
        side = math.sqrt(rng.uniform(min_share, 1))
        width, height = round(image.width * side), round(image.height * side)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        image = image.crop((left, top, left + width, top + height))
    return augment(image, rng)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, tokens: Tensor
) -> Tensor:
    """One step of open_clip's contrastive loss on (B, 3, H, W) images and (B, T) tokens."""
    tokens = _fit(tokens, int(model.context_length))  # type: ignore[arg-type]  # a plain attribute
    with torch.autocast(images.device.type, torch.bfloat16), _attention(images.device):
        image, text, scale = model(images, tokens)[:3]
    loss: Tensor = open_clip.ClipLoss()(image.float(), text.float(), scale.float())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator]  # a parameter
    return loss.detach()


def _attention(device: torch.device) -> AbstractContextManager[object]:
    """Plain attention on a CPU: the fused one's backward pass takes four times as long there."""
    # in bfloat16, 65 tokens, PyTorch 2.15
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _fit(tokens: Tensor, context: int) -> Tensor:
    """(B, T) -> (B, context): padded with zeros, or cut with the end-of-text token kept."""
    fitted = tokens.new_zeros(len(tokens), context)  # (B, context)
    kept = min(context, tokens.shape[1])
    fitted[:, :kept] = tokens[:, :kept]
    cut = (tokens[:, kept:] != 0).any(dim=1)  # (B,)
    fitted[cut, -1] = END_OF_TEXT
    return fitted


def _optimizer(model: nn.Module, config: CuratorConfig) -> torch.optim.AdamW:
    tensors = list(model.parameters())
    groups = [
        {"params": [p for p in tensors if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in tensors if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _rate(step: int, config: CuratorConfig) -> float:
    warm = max(config.steps // 20, 1)
    if step < warm:
        return config.lr * (step + 1) / warm
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(config.steps - warm, 1)))


def _save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    with _replacing(path) as unfinished:
        torch.save(state, unfinished)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name; what is written there takes the place of `path`.

    Raises:
        OSError: it cannot be written, as when the disk is full; what was there is as it was.
    """
    unfinished = path.with_suffix(".tmp")
    try:
        unfinished.touch()  # a folder that refuses says so here, with its errno
        yield unfinished
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        is_writers = isinstance(error, RuntimeError | SafetensorError)
        if not (is_writers and re.search(_FULL, str(error))):
            raise
        reason = shorten(str(error), 200)
        raise OSError(
            f"{path}: cannot be written ({reason}); make room and run the command again to go on"
        ) from error


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        reason = shorten(str(error), 200)
        raise DamagedError(
            f"{path}: cannot be read ({reason}); delete it to train from the start"
        ) from error
    return int(state["step"])


def _publish(out: Path, model: nn.Module, config: CuratorConfig) -> None:
    """Write weights and configuration in open_clip's own layout."""
    weights = out / "open_clip_model.safetensors"
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    with _replacing(weights) as unfinished:
        save_file(tensors, unfinished)
    description = {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "vision_cfg": dict(config.vision_cfg),
            "text_cfg": dict(config.text_cfg),
        },
        "preprocess_cfg": {
            "mean": list(IMAGE_MEAN),
            "std": list(IMAGE_STD),
            "resize_mode": "squash",
        },
    }
    write_text(out / "open_clip_config.json", json.dumps(description, indent=1))
