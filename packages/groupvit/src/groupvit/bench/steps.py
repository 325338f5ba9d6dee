"""Whole training steps and inferences: ours against Hugging Face's, at the same work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groupvit.bench.peers import HuggingFace
from groupvit.bench.texts import all_padded, made_up_ids
from groupvit.config import ModelConfig, OptimConfig
from groupvit.flops import step_flops
from groupvit.model.groupvit import GroupViT
from groupvit.model.noise import step_noise
from groupvit.precision import Precision, wants_bfloat16
from groupvit.texts import Texts
from groupvit.training.schedule import build_optimizer
from groupvit.training.step import training_step

CONCEPTS = 3
OPTIM = OptimConfig(total_steps=100)


@dataclass(frozen=True)
class Work:
    """What a step or an inference sees, on its device."""

    images: Tensor
    """(B, 3, 224, 224)."""
    texts: Texts
    """(B, 4), packed as we train, or with all padding."""
    ids: Tensor
    """(B, 4, T), as Hugging Face's model takes them."""
    flops: int
    """Of a training step, padding not counted."""

    @classmethod
    def of(cls, batch: int, device: torch.device, *, padded: bool = False) -> "Work":
        """Made-up images and texts.

        Args:
            batch: B.
            device: where.
            padded: give us all padding, too.
        """
        random = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, 224, 224, generator=random)
        ids = made_up_ids(batch, CONCEPTS)
        packed = Texts.of(ids)
        texts = all_padded(ids) if padded else packed
        flops = step_flops(ModelConfig(), batch, packed)
        return cls(images.to(device), texts.to(device), ids.to(device), flops)


def our_model(device: torch.device, *, compiled: bool = False) -> GroupViT:
    """The published model with initial weights."""
    torch.manual_seed(0)
    model = GroupViT(ModelConfig()).to(device)
    if compiled:
        model.compile_towers()
    return model


def our_step(model: GroupViT, work: Work, precision: Precision = "auto") -> Callable[[], object]:
    """A step of training, as `groupvit.train` does it."""
    config = OptimConfig(total_steps=100, precision=precision)
    optimizer = build_optimizer(model.train(), config)
    noise = step_noise(1, device=work.images.device)
    return lambda: training_step(model, optimizer, work.images, work.texts, noise, config, 1e-4)


def their_step(
    model: HuggingFace, work: Work, precision: Precision = "auto"
) -> Callable[[], object]:
    """The same of Hugging Face's model: losses, clipping, AdamW."""
    device = work.images.device
    optimizer = build_optimizer(model.train(), OPTIM)
    half = wants_bfloat16(precision, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = model(work.images, work.ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_grad_norm)
        optimizer.step()

    return step


def our_inference(
    model: GroupViT, work: Work, precision: Precision = "auto"
) -> Callable[[], object]:
    """Image and text vectors."""
    half = wants_bfloat16(precision, work.images.device)

    @torch.inference_mode()
    def infer() -> object:
        with torch.autocast(work.images.device.type, torch.bfloat16, enabled=half):
            pooled = model.vision(work.images).pooled
            return model.image_projector(pooled), model.encode_text(work.texts)

    model.eval()
    return infer


def their_inference(
    model: HuggingFace, work: Work, precision: Precision = "float32"
) -> Callable[[], object]:
    """The same of Hugging Face's model."""
    half = wants_bfloat16(precision, work.images.device)

    @torch.inference_mode()
    def infer() -> object:
        with torch.autocast(work.images.device.type, torch.bfloat16, enabled=half):
            return model.encode(work.images, work.ids.flatten(0, 1))

    model.eval()
    return infer


def largest_batch(
    device: torch.device, *, recompute: bool, start: int = 1024, limit: int = 1 << 16
) -> dict[str, Any]:
    """Largest power-of-two batch whose step fits, tried upwards, and its peak memory."""
    fitted, peak, batch = 0, 0, start
    while batch <= limit:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        model = our_model(device)
        model.recompute(wanted=recompute)
        try:
            our_step(model, Work.of(batch, device))()
        except torch.OutOfMemoryError:
            break
        fitted, peak = batch, torch.cuda.max_memory_allocated(device)
        batch *= 2
    return {"batch": fitted, "peak_bytes": peak, "tried_and_failed": batch if batch <= limit else 0}
