"""A whole step of training against the plain restatement of it.

The published model (ViT-B/16 at 320 px, K = 64, 100 masks of 256 x 256 an image), with random
weights. Both ways move the teacher, compute the loss and its gradients, clip them and do a step of
AdamW, from the same photographs and masks: ours as `maskcluster.training` does, the other as
`maskcluster.bench.plain` writes it.

`train_step_ratio_to_plain` is of equal number formats, float32 on a CPU and TF32, in which the
released code trains, on a GPU; `_at_defaults` is ours as recipes have it (`precision = "auto"`,
compiled on a GPU) against that same restatement. Memory is the peak beyond what is resident before:
weights, teacher and optimizer state are not in it.
"""

import gc
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from maskcluster.bench.machine import H200, Limits
from maskcluster.bench.masks import Work as MaskWork
from maskcluster.bench.plain import plain_step
from maskcluster.bench.timing import Call, peak_bytes, time_calls
from maskcluster.config import (
    ClusterConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from maskcluster.data.loader import Batch
from maskcluster.errors import MaskClusterError
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.precision import Precision, float32_products, wants_bfloat16
from maskcluster.training.flops import step_flops
from maskcluster.training.launch import Ranks
from maskcluster.training.schedule import build_optimizer
from maskcluster.training.step import training_step

MODEL = ModelConfig(pretrained="random")
IMAGE_PX = 320
CPU_IMAGES, GPU_IMAGES = 2, 48
REPEATS = 5

Figures = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    plain: bool
    precision: Precision
    compiled: bool = False


CPU_WAYS: Mapping[str, Way] = {
    "ours": Way(False, "auto"),
    "ours, float32": Way(False, "float32"),
    "plain": Way(True, "float32"),
    "plain, bfloat16": Way(True, "bfloat16"),
}

GPU_WAYS: Mapping[str, Way] = {
    "ours, bfloat16": Way(False, "bfloat16"),
    "ours, tf32": Way(False, "tf32"),
    "plain": Way(True, "tf32"),
    "plain, bfloat16": Way(True, "bfloat16"),
    "ours": Way(False, "bfloat16", compiled=True),
    "ours, tf32, compiled": Way(False, "tf32", compiled=True),
}
"""The slowest to compile come last."""

RATIOS = {
    "train_step": {"cpu": ("ours, float32", "plain"), "cuda": ("ours, tf32", "plain")},
    "train_step_bfloat16": {
        "cpu": ("ours", "plain, bfloat16"),
        "cuda": ("ours, bfloat16", "plain, bfloat16"),
    },
    "train_step_at_defaults": {"cpu": ("ours", "plain"), "cuda": ("ours", "plain")},
}
"""What is divided by what: theirs by ours, above 1 in our favour."""


def measure(device: torch.device, limits: Limits) -> Figures:
    """Measure a step both ways: 2 images on a CPU, 48 on a GPU.

    Args:
        device: where.
        limits: of the machine, for the floor.

    Returns:
        `step` with times, peak memory and the floor, and the ratios of `RATIOS`.

    Raises:
        MaskClusterError: the two losses are not the same to rounding.
    """
    on_gpu = device.type == "cuda"
    images = GPU_IMAGES if on_gpu else CPU_IMAGES
    check_same_loss(device)
    measured = _on_gpu(device, images) if on_gpu else _on_cpu(images)
    step: Figures = {"images": images, "masks": 100 * images, "ways": measured}
    step |= _floor(images, limits, bool(on_gpu or wants_bfloat16("auto", device)))
    return {"step": step} | _ratios(measured, device.type)


def build_model(device: torch.device, *, compiled: bool = False) -> PixelCLIP:
    """The published model, with random weights."""
    model = PixelCLIP.from_config(MODEL, ClusterConfig()).to(device).train()
    if compiled:
        model.compile_parts()
    return model


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


def build_step(way: Way, model: PixelCLIP, batch: Batch, masks: Tensor) -> Call:
    """A step of training one way."""
    if way.plain:
        return plain_training_step(model, batch, masks, way.precision)
    return our_step(model, batch, way.precision)


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
    teacher, student = model.teacher.tower, model.tower
    device = batch.weak.device
    half = wants_bfloat16(precision, device)

    def step() -> object:
        with torch.no_grad():
            for own, its in zip(teacher.parameters(), student.parameters(), strict=True):
                own.mul_(0.999).add_(its, alpha=0.001)
        with float32_products(precision):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = plain_step(model, batch.weak / 255, batch.strong / 255, masks, batch.owner)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
        nn.utils.clip_grad_norm_(weights, config.clip_grad_norm)
        optimizer.step()
        return loss.detach()

    return step


def check_same_loss(device: torch.device) -> None:
    """Refuse to time two things that are not the same.

    A mask that is as near to two prompts may fall to either, so losses agree to 1 % only.

    Raises:
        MaskClusterError: they do not.
    """
    model = build_model(device)
    batch, masks = build_batch(1, device)
    with torch.no_grad(), float32_products("float32"):
        views = batch.weak / 255, batch.strong / 255
        ours = float(model(*views, batch.packed, batch.owner).loss)
        plain = float(plain_step(model, *views, masks, batch.owner))
    if not abs(ours - plain) <= 0.01 * plain:
        raise MaskClusterError(f"losses differ, nothing is timed: {ours} and {plain} (plain)")


def _on_cpu(images: int) -> Figures:
    """Times turn about in this process, peak memory in one of its own each."""
    cpu = torch.device("cpu")
    model, (batch, masks) = build_model(cpu), build_batch(images, cpu)
    calls = {name: build_step(way, model, batch, masks) for name, way in CPU_WAYS.items()}
    times = time_calls(calls, cpu, repeats=REPEATS)
    del model, calls
    return {
        name: times[name] | {"peak_bytes": _apart(peak_on_cpu, name, images)} for name in CPU_WAYS
    }


def _apart(call: Callable[..., int], *arguments: object) -> int:
    """Result of a call in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def peak_on_cpu(name: str, images: int) -> int:
    """Peak memory of the second step of one way; the first loads code and makes AdamW's state."""
    cpu = torch.device("cpu")
    step = build_step(CPU_WAYS[name], build_model(cpu), *build_batch(images, cpu))
    step()
    return peak_bytes(step, cpu)


def _on_gpu(device: torch.device, images: int) -> Figures:
    """One way after the other, each with a model of its own."""
    return {name: _alone(way, device, images) for name, way in GPU_WAYS.items()}


def _alone(way: Way, device: torch.device, images: int) -> Figures:
    try:
        model = build_model(device, compiled=way.compiled)
        step = build_step(way, model, *build_batch(images, device))
        step()
        peak = peak_bytes(step, device)
        times = time_calls({"step": step}, device, repeats=2 * REPEATS)["step"]
        return times | {"peak_bytes": peak}
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _floor(images: int, limits: Limits, half: bool) -> Figures:
    """Operations of a step, and the least time for them here and on an H200."""
    config = TrainConfig(model=MODEL, data=DataConfig(batch=images))
    flops = step_flops(build_model(torch.device("cpu")), config)
    return {
        "flops": float(flops),
        "floor_ms": limits.floor_ms(0, flops, half=half),
        "h200_floor_ms": H200.floor_ms(0, flops, half=True),
    }


def _ratios(measured: Figures, kind: str) -> Figures:
    found: Figures = {}
    for name, pairs in RATIOS.items():
        ours, theirs = (measured[way] for way in pairs[kind])
        if "failed" in ours or "failed" in theirs:
            continue
        suffix = name.removeprefix("train_step")
        found[f"train_step_ratio_to_plain{suffix}"] = theirs["median_ms"] / ours["median_ms"]
        memory = theirs["peak_bytes"] / max(ours["peak_bytes"], 1)
        found[f"train_step_memory_ratio_to_plain{suffix}"] = memory
    return found
