"""Everything that is measured on a GPU, in an order that leaves the most important first."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from groupvit.bench.kernels import kernel_cases, measure
from groupvit.bench.measure import Ceilings, as_dict, peak_bytes, time_calls
from groupvit.bench.peers import HuggingFace
from groupvit.bench.steps import (
    Work,
    largest_batch,
    our_model,
    our_step,
    their_step,
)
from groupvit.flops import peak_tflops

log = logging.getLogger(__name__)

BATCH = 1024

KINDS = (
    ("_group_assign", "group_assign"),
    ("_two_way", "two_way_logsumexp"),
    ("sdpa", "attention"),
    ("cudnn", "attention"),
    ("flash", "attention"),
    ("fmha", "attention"),
    ("nvjet", "matrix products"),
    ("cutlass", "matrix products"),
    ("gemm", "matrix products"),
    ("splitK", "matrix products"),
    ("triton_poi_fused_gelu", "GELU"),
    ("gelu", "GELU"),
    ("layer_norm", "layer norm with what is fused to it"),
    ("sigmoid", "QuickGELU"),
    ("cat", "concatenation"),
    ("multi_tensor", "optimizer and clipping"),
    ("triton_", "other fused element-wise"),
    ("elementwise", "element-wise"),
    ("reduce", "reductions"),
)
"""Part of a kernel's name and what it belongs to; the first that fits."""

Figures = dict[str, Any]


def measure_kernels(device: torch.device, ceilings: Ceilings, *, repeats: int = 15) -> Figures:
    """Every op against its reference, peers and floor."""
    found: Figures = {}
    for build in kernel_cases(device):
        case = build()
        found[case.name] = measure(case, ceilings, device, repeats=repeats)
        log.info("%s: %s", case.name, found[case.name]["times"])
        torch._dynamo.reset()
        torch.cuda.empty_cache()
    return found


def measure_steps(
    device: torch.device, names: Sequence[str], *, batch: int = BATCH, repeats: int = 8
) -> Figures:
    """Training steps of ours and of Hugging Face's model, each alone: together they would not fit.

    Args:
        device: a GPU.
        names: which of `STEPS`.
        batch: pairs a step.
        repeats: steps that are timed.
    """
    work = Work.of(batch, device)
    found: Figures = {
        "batch": batch,
        "tokens_a_text": float(work.texts.lengths.float().mean()),
        "flops_a_pair": work.flops / batch,
    }
    for name in names:
        found[name] = _measure_step(name, work, device, repeats)
        log.info("%s: %s", name, found[name])
        torch._dynamo.reset()
        torch.cuda.empty_cache()
    return found


def _measure_step(name: str, work: Work, device: torch.device, repeats: int) -> Figures:
    try:
        call = STEPS[name](device, work)
        call()
        call()
        peak = peak_bytes(call, device)
        spread = time_calls({name: call}, device, repeats=repeats)[name]
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    rate = 1e3 * len(work.images) / spread.median_ms
    figures: Figures = {**as_dict(spread), "images_per_s": rate, "step_bytes": peak}
    if name.startswith("ours"):
        figures |= _utilisation(device, work.flops / (spread.median_ms / 1e3))
    return figures


def _compiled(device: torch.device) -> HuggingFace:
    model = HuggingFace().to(device)
    model.model.vision_model.compile()
    model.model.text_model.compile()
    return model


STEPS: Mapping[str, Callable[[torch.device, Work], Callable[[], object]]] = {
    "ours compiled": lambda device, work: our_step(our_model(device, compiled=True), work),
    "ours eager": lambda device, work: our_step(our_model(device), work),
    "hugging face eager": lambda device, work: their_step(HuggingFace().to(device), work),
    "hugging face compiled": lambda device, work: their_step(_compiled(device), work),
}
"""Ways to compute a training step."""


def _utilisation(device: torch.device, flops_per_s: float) -> Figures:
    peak = peak_tflops(torch.cuda.get_device_name(device))
    figures: Figures = {"tflops": flops_per_s / 1e12}
    return figures | ({"mfu": flops_per_s / (peak * 1e12)} if peak else {})


def measure_largest(device: torch.device) -> Figures:
    """Largest batches whose step fits, with all activations kept and with blocks run again."""
    return {
        name: largest_batch(device, recompute=recompute)
        for name, recompute in (("all activations", False), ("recomputed", True))
    }


def profile_step(device: torch.device, *, batch: int = BATCH) -> dict[str, float]:
    """Milliseconds of a compiled step of ours by kind of kernel, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    call = our_step(our_model(device, compiled=True), Work.of(batch, device))
    for _ in range(3):
        call()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        call()
        torch.cuda.synchronize(device)
    found: dict[str, float] = {}
    for event in trace.key_averages():
        kind = _kind_of_kernel(event.key)
        found[kind] = found.get(kind, 0.0) + event.self_device_time_total / 1e3
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _kind_of_kernel(name: str) -> str:
    """What a kernel does, from its name."""
    return next((kind for part, kind in KINDS if part in name), name[:40])
