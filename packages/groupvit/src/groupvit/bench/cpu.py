"""Everything that is measured on a CPU: ratios of two things in one run, memory each by itself."""

import multiprocessing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit.bench.measure import as_dict, peak_bytes, time_calls
from groupvit.bench.originals import original_multi_label, original_scores
from groupvit.bench.peers import HuggingFace
from groupvit.bench.steps import (
    Work,
    our_inference,
    our_model,
    our_step,
    their_inference,
    their_step,
)
from groupvit.model.losses import multi_label_contrastive
from groupvit.ops.segment_decode import segment_decode
from groupvit.segmenting.decode import class_scores, with_background

CPU = torch.device("cpu")
BATCH, LOSS_BATCH, LABELS, DIM, CLASSES = 8, 4096, 3, 256, 171

Figures = dict[str, Any]
Call = Callable[[], object]


def step_calls() -> dict[str, Call]:
    """Training steps, by name; the first two do the same work in float32."""
    padded, packed = Work.of(BATCH, CPU, padded=True), Work.of(BATCH, CPU)
    ours, theirs = our_model(CPU), HuggingFace()
    return {
        "ours, same input": our_step(ours, padded, "float32"),
        "hugging face": their_step(theirs, packed, "float32"),
        "ours": our_step(ours, packed),
        "hugging face, bfloat16": their_step(theirs, packed, "bfloat16"),
    }


def inference_calls() -> dict[str, Call]:
    """Image and text vectors, by name; the first two do the same work in float32."""
    padded, packed = Work.of(BATCH, CPU, padded=True), Work.of(BATCH, CPU)
    ours, theirs = our_model(CPU), HuggingFace()
    return {
        "ours, same input": our_inference(ours, padded, "float32"),
        "hugging face": their_inference(theirs, packed),
        "ours": our_inference(ours, packed),
        "hugging face, bfloat16": their_inference(theirs, packed, "bfloat16"),
    }


def loss_calls() -> dict[str, Call]:
    """The multi-label loss of many pairs at once, and its gradients."""
    random = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=random), dim=-1).requires_grad_()

    image, texts = unit(LOSS_BATCH, DIM), unit(LOSS_BATCH, LABELS, DIM)
    leaves = [image, texts, torch.tensor(14.3, requires_grad=True)]
    losses = {"ours": multi_label_contrastive, "original": original_multi_label}
    return {name: partial(_loss_and_gradients, loss, leaves) for name, loss in losses.items()}


def _loss_and_gradients(loss: Callable[..., Tensor], leaves: list[Tensor]) -> object:
    return torch.autograd.grad(loss(*leaves), leaves)


def decode_calls() -> dict[str, Call]:
    """Labels of a 480 x 640 picture among 171 classes and a background, after the image tower."""
    random = torch.Generator().manual_seed(0)
    grid, size = (30, 40), (480, 640)
    coarse = 3 * torch.randn(1, 64, 7, 7, generator=random)
    first = F.interpolate(coarse, grid, mode="bilinear").flatten(2).softmax(dim=1)  # (1, 64, N)
    second = (3 * torch.randn(1, 8, 64, generator=random)).softmax(dim=1)
    image, groups = torch.randn(1, DIM, generator=random), torch.randn(1, 8, DIM, generator=random)
    bank = F.normalize(torch.randn(CLASSES, DIM, generator=random), dim=-1)
    scale = torch.tensor(14.3)

    @torch.inference_mode()
    def ours() -> object:
        table = with_background(class_scores(image, groups, bank, scale), 0.35)  # (1, G, 1 + K)
        return segment_decode([first, second], table.argmax(dim=2).int(), grid, size)

    @torch.inference_mode()
    def original() -> object:
        table = class_scores(image, groups, bank, scale)[0]
        scores = original_scores(first[0], second[0], table, grid, size, background=0.35)
        return scores.softmax(dim=0).argmax(dim=0)

    return {"ours": ours, "original": original}


KINDS: Mapping[str, tuple[Callable[[], dict[str, Call]], int]] = {
    "step": (step_calls, 7),
    "inference": (inference_calls, 9),
    "loss": (loss_calls, 7),
    "decode": (decode_calls, 15),
}
"""What is compared, and how often each is timed."""


def measure_cpu() -> Figures:
    """All comparisons: times in this process, turn about; peak memory in one process each."""
    found: Figures = {}
    for kind, (build, repeats) in KINDS.items():
        calls = build()
        times = {n: as_dict(s) for n, s in time_calls(calls, CPU, repeats=repeats).items()}
        found[kind] = {"times": times, "peak_bytes": {n: _peak_apart(kind, n) for n in calls}}
    return found | _ratios(found)


def _peak_apart(kind: str, name: str) -> int:
    """Peak memory of two calls in a process that does nothing else, over inputs and libraries."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (kind, name))


def _peak(kind: str, name: str) -> int:
    call = KINDS[kind][0]()[name]
    _load_code()

    def twice() -> None:
        call()
        call()

    return peak_bytes(twice, CPU)


def _load_code() -> None:
    """Do a little of all that is compared: PyTorch loads 80 MB of code when it is first needed."""
    rows = torch.rand(8, 2, 512, requires_grad=True)
    multi_label_contrastive(rows[:, 0], rows, rows.mean()).backward()  # type: ignore[no-untyped-call]  # PyTorch's


def _ratios(found: Figures) -> Figures:
    """Their time or memory over ours: above 1 is in our favour."""

    def ratio(kind: str, ours: str, theirs: str, what: str = "times") -> float:
        both = found[kind][what]
        if what == "times":
            return float(both[theirs]["median_ms"] / both[ours]["median_ms"])
        return float(both[theirs] / max(both[ours], 1))

    same = [ratio(kind, "ours, same input", "hugging face") for kind in ("step", "inference")]
    return {
        "train_step_ratio_to_hf": ratio("step", "ours", "hugging face"),
        "inference_ratio_to_hf": ratio("inference", "ours", "hugging face"),
        "same_input_ratio_to_hf": min(same),
        "same_input_memory_ratio_to_hf": min(
            ratio(kind, "ours, same input", "hugging face", "peak_bytes")
            for kind in ("step", "inference")
        ),
        "segment_ratio_to_original": ratio("decode", "ours", "original"),
        "loss_ratio_to_original": ratio("loss", "ours", "original"),
        "loss_memory_ratio_to_original": ratio("loss", "ours", "original", "peak_bytes"),
    }
