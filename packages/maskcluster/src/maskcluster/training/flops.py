"""Floating-point operations of a training step (2 for each multiply-add)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskcluster.config import TrainConfig
from maskcluster.model.pixelclip import PixelCLIP, cosines

PEAKS = {
    "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200 NVL": 835.0, "H200": 989.0,
    "B200": 2250.0, "A100": 312.0, "A6000": 155.0, "L40S": 362.0,
}  # fmt: skip
"""Dense bfloat16 TFLOP/s by what the name of a GPU contains, by their maker's data sheets."""


def peak_tflops(gpu: str) -> float:
    """Dense bfloat16 TFLOP/s of a GPU, as its driver calls it; 0 if it is not known."""
    return next((peak for known, peak in PEAKS.items() if known in gpu), 0.0)


def step_flops(model: PixelCLIP, config: TrainConfig) -> int:
    """Of a training step on all ranks, counted while one image goes through the model.

    Matrix products and convolutions alone, as is usual: teacher and student, the gradients that
    are asked for, class prompts and decoder. What is computed again to save memory does not count.
    0 without clustering, where it depends on the number of masks.
    """
    if model.prompts is None:
        return 0
    side = config.views.image_px
    image = model.mean.new_zeros(1, 3, side, side)
    with _keeping_all(model):
        with FlopCounterMode(display=False) as counter:
            rows = model.prompts()  # (K, D)
            _differentiate(rows, model.prompts)
        prompts = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            features = model.tower.forward(image)  # (1, D, h, w)
            teacher = counter.get_total_flops()
            logits = model.decoder.forward(cosines(features, rows.detach()))
            _differentiate(logits, model.tower, model.decoder)
    image_flops = teacher + counter.get_total_flops()
    return int(prompts + config.data.batch * image_flops)


def _differentiate(out: Tensor, *parts: torch.nn.Module) -> None:
    wanted = [p for part in parts for p in part.parameters() if p.requires_grad]
    if wanted:
        torch.autograd.grad(out.sum(), wanted)


@contextmanager
def _keeping_all(model: PixelCLIP) -> Iterator[None]:
    """Without recomputation."""
    before = model.tower.recompute, model.decoder.recompute
    model.tower.recompute = model.decoder.recompute = False
    try:
        yield
    finally:
        model.tower.recompute, model.decoder.recompute = before
