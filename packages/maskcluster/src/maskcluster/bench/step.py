"""A whole step of training against the plain restatement of it.

The published model (ViT-B/16 at 320 px, K = 64, 100 masks of 256 x 256 an image), with random
weights. Both ways move the teacher, compute the loss and its gradients, clip them and do a step of
AdamW, from the same photographs and masks: ours as `maskcluster.training` does, the other as
`maskcluster.bench.plain` writes it.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from maskcluster.bench.masks import Work as MaskWork
from maskcluster.bench.plain import plain_step
from maskcluster.bench.timing import Call
from maskcluster.config import ClusterConfig, MachineConfig, ModelConfig, OptimConfig
from maskcluster.data.loader import Batch
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.precision import Precision, wants_bfloat16
from maskcluster.training.launch import Ranks
from maskcluster.training.schedule import build_optimizer
from maskcluster.training.step import float32_products, training_step

IMAGE_PX = 320


def build_model(device: torch.device, machine: MachineConfig | None = None) -> PixelCLIP:
    """The published model, with random weights."""
    model = PixelCLIP.from_config(ModelConfig(pretrained="random"), ClusterConfig(), machine)
    if machine is not None and machine.compile:
        model.compile_parts()
    return model.to(device).train()


def build_batch(images: int, device: torch.device) -> tuple[Batch, Tensor]:
    """Made-up photographs and ellipses of all sizes.

    Returns:
        The batch, and its masks once more as (M, S, S) bool.
    """
    random = torch.Generator().manual_seed(0)
    shape = (2, images, 3, IMAGE_PX, IMAGE_PX)
    weak, strong = torch.randint(256, shape, generator=random, dtype=torch.uint8).to(device)
    made = MaskWork.of(images, device)
    keys = tuple(str(number) for number in range(images))
    return Batch(weak, strong, made.packed, made.owner, keys), made.masks


def our_step(model: PixelCLIP, batch: Batch, precision: Precision) -> Call:
    """A step as `maskcluster.training.train` does it."""
    config = OptimConfig(precision=precision)
    optimizer, ranks = build_optimizer(model, config), Ranks()

    def step() -> object:
        with float32_products(precision):
            return training_step(model, model, optimizer, batch, config, ranks)

    return step


def plain_training_step(
    model: PixelCLIP, batch: Batch, masks: Tensor, precision: Precision
) -> Call:
    """A step as one would write it from the paper; of the model it reads the weights."""
    config = OptimConfig(precision=precision)
    optimizer = AdamW(model.parameter_groups(config))
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    follow = partial(zip, model.teacher.tower.parameters(), model.tower.parameters(), strict=True)
    half = wants_bfloat16(precision, batch.weak.device)

    def step() -> object:
        with torch.no_grad():
            for own, its in follow():
                own.mul_(0.999).add_(its, alpha=0.001)
        with (
            float32_products(precision),
            torch.autocast(batch.weak.device.type, torch.bfloat16, enabled=half),
        ):
            loss = plain_step(model, batch.weak / 255, batch.strong / 255, masks, batch.owner)
        optimizer.zero_grad()
        with float32_products(precision):
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
        nn.utils.clip_grad_norm_(weights, config.clip_grad_norm)
        optimizer.step()
        return loss.detach()

    return step
