"""The ops at their real sizes: ours, the reference, the compiled reference, a library's, the floor.

A case whose result is not the reference's is not timed.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.errors import TritonError

from groupvit.bench.measure import Ceilings, as_dict, busy_ms, peak_bytes, time_calls
from groupvit.bench.originals import OriginalAssign, original_multi_label, original_scores
from groupvit.bench.peers import inf_cl_loss
from groupvit.errors import GroupViTError
from groupvit.model.grouping import GroupAssign
from groupvit.model.losses import multi_label_contrastive
from groupvit.ops.group_assign import group_assign
from groupvit.ops.group_assign.reference import assign
from groupvit.ops.multi_label_contrastive.reference import two_way_logsumexp_reference
from groupvit.ops.segment_decode import roll_up, segment_decode
from groupvit.ops.segment_decode.reference import upsample_argmax_reference

WIDTH, DIM = 384, 256
LIBRARIES = ("inf-cl", "hugging face")
"""Ways to compute an op that are not ours; one that does not run here is reported, not raised."""

Run = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One op at one size."""

    name: str
    runs: Mapping[str, Run]
    """Ways to compute it, ours first; each maps `inputs` to a tensor or several."""
    inputs: tuple[Any, ...]
    bytes_moved: float
    """Least, of forward and, if there are gradients, backward."""
    flops: float
    half: bool = True
    """Whether products are in bfloat16."""
    tolerance: float = 1e-2
    """Largest rms(error) / rms(reference) of outputs and gradients, ours against `reference`."""
    checked: tuple[str, str] | None = ("ours", "reference")
    grads: tuple[int, ...] = field(default=())
    """Places of the inputs that get a gradient; none for a forward pass alone."""


def measure(
    case: Case, ceilings: Ceilings, device: torch.device, *, repeats: int
) -> dict[str, Any]:
    """Check a case, then time it.

    Raises:
        GroupViTError: ours is not the reference.
    """
    error = _check(case)
    calls = {name: _call(case, run) for name, run in case.runs.items()}
    peaks: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name, call in list(calls.items()):
        try:
            call()  # compiles
            peaks[name] = peak_bytes(call, device)
        except torch.OutOfMemoryError:
            failed[name] = "out of memory"
        except (RuntimeError, TritonError, TypeError, AttributeError) as error:
            if name not in LIBRARIES:
                raise
            failed[name] = textwrap.shorten(str(error), 100)
        if name in failed:
            del calls[name]
            torch.cuda.empty_cache()
    times = time_calls(calls, device, repeats=repeats)
    busy = {name: busy_ms(call) for name, call in calls.items()} if device.type == "cuda" else {}
    return {
        "error": error,
        "floor_ms": ceilings.floor_ms(case.bytes_moved, case.flops, half=case.half),
        "times": {name: as_dict(spread) for name, spread in times.items()},
        "busy_ms": busy,
        "peak_bytes": peaks,
        "failed": failed,
    }


def _call(case: Case, run: Run) -> Callable[[], object]:
    """Forward alone, or forward and backward where there are gradients."""
    if not case.grads:

        def forward() -> object:
            with torch.no_grad():
                return run(*case.inputs)

        return forward

    def both() -> object:
        return _gradients(case, run)[1]

    return both


def _gradients(case: Case, run: Run) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
    """Outputs and gradients of the inputs, for fixed upstream gradients."""
    leaves = [case.inputs[i] for i in case.grads]
    outputs = run(*case.inputs)
    found = [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if t.requires_grad]
    ups = [_up(t) for t in found]
    return [t.detach() for t in found], torch.autograd.grad(found, leaves, ups, allow_unused=True)


def _up(output: Tensor) -> Tensor:
    """An upstream gradient that is not all ones and costs next to nothing."""
    if not output.ndim:
        return torch.ones_like(output)
    ramp = torch.linspace(0.5, 1.5, output.shape[-1], device=output.device, dtype=output.dtype)
    return ramp.expand_as(output)


def _check(case: Case) -> float | None:
    if case.checked is None:
        return None
    results = []
    for name in case.checked:
        if case.grads:
            outputs, grads = _gradients(case, case.runs[name])
            results.append([*outputs, *(g for g in grads if g is not None)])
        else:
            out = case.runs[name](*case.inputs)
            results.append(list(out) if isinstance(out, tuple) else [out])
    worst = max(_relative(ours, theirs) for ours, theirs in zip(*results, strict=True))
    if not worst <= case.tolerance:
        raise GroupViTError(
            f"{case.name}: ours differs from the reference by {worst:.2e} of its rms, more than "
            f"{case.tolerance:.0e}; not timed"
        )
    return worst


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """rms(error) / rms(reference); for labels the share that differs."""
    if not theirs.is_floating_point():
        return float((ours != theirs).float().mean())
    rms = theirs.float().square().mean().sqrt().clamp(min=1e-20)
    return float((ours.float() - theirs.float()).square().mean().sqrt() / rms)


def assign_case(
    batch: int, groups: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> Case:
    """The op alone, training."""
    random = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device=device)

    query = draw(batch, groups, WIDTH).to(dtype).requires_grad_()
    points = draw(batch, tokens, WIDTH).to(dtype).requires_grad_()
    bias = draw(batch, groups).requires_grad_()
    noise, scale = torch.tensor([1, 0], device=device), WIDTH**-0.5

    def ours(query: Tensor, bias: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        mean, size, _, _ = group_assign(query, bias, points, noise, 0, scale, 1.0)
        return mean, size

    def reference(query: Tensor, bias: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        return assign(query, bias, points, noise, 0, scale, 1.0)[:2]

    runs = {"ours": ours, "reference": reference, "compiled reference": torch.compile(reference)}
    size = dtype.itemsize
    small, large, soft = groups * WIDTH * size, tokens * WIDTH * size, groups * tokens * size
    moved = (2 * small + large + soft) + (4 * small + 2 * large + soft)  # forward, backward
    flops = 10 * groups * tokens * WIDTH  # 2 products forward, 3 and a scatter backward
    return Case(
        f"group_assign {groups} x {tokens}, {'bfloat16' if size == 2 else 'float32'}", runs,
        (query, bias, points), batch * moved, batch * flops, half=size == 2, grads=(0, 1, 2),
    )  # fmt: skip


def assign_layer_case(batch: int, groups: int, tokens: int, device: torch.device) -> Case:
    """The layer with its projections, training, under bfloat16 autocast."""
    torch.manual_seed(0)
    layers: dict[str, torch.nn.Module] = {
        "ours": GroupAssign(WIDTH),
        "original": OriginalAssign(WIDTH),
    }
    layers["compiled original"] = layers["original"]
    noise = torch.tensor([1, 0], device=device)
    for layer in layers.values():
        layer.to(device).train()
    x = torch.randn(batch, groups, WIDTH, device=device, requires_grad=True)
    points = torch.randn(batch, tokens, WIDTH, device=device, requires_grad=True)

    def run(layer: Run, *more: Tensor) -> Run:
        def call(x: Tensor, points: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                out = layer(x, points, *more)
            pooled: Tensor = out[0] if isinstance(out, tuple) else out
            return pooled

        return call

    runs = {
        "ours": run(layers["ours"], noise),
        "compiled ours": run(torch.compile(layers["ours"]), noise),
        "original": run(layers["original"]),
        "compiled original": run(torch.compile(layers["original"])),
    }
    peer = _hugging_face_assign(device)
    if peer is not None:
        runs["hugging face"] = run(peer)
    small, large = groups * WIDTH, tokens * WIDTH
    moved = 3 * (4 * small + 4 * large + 4 * small)  # float32 tokens in, forward and twice back
    flops = 3 * (2 * groups * WIDTH**2 * 4 + 4 * groups * tokens * WIDTH)
    return Case(
        f"assignment layer {groups} x {tokens}", runs, (x, points),
        batch * moved, batch * flops, checked=None, grads=(0, 1),
    )  # fmt: skip


def _hugging_face_assign(device: torch.device) -> Run | None:
    try:
        from transformers import GroupViTVisionConfig
        from transformers.models.groupvit.modeling_groupvit import GroupViTAssignAttention
    except ImportError:
        return None
    layer: Run = GroupViTAssignAttention(GroupViTVisionConfig()).to(device).train()
    return layer


def loss_case(batch: int, labels: int, dtype: torch.dtype, device: torch.device) -> Case:
    """The multi-label loss, or for one label the contrastive one.

    In bfloat16 rows are rounded, as in training under autocast; similarities and sums are float32.
    """
    random = torch.Generator(device).manual_seed(0)

    def unit(*shape: int) -> Tensor:
        rows = torch.randn(*shape, generator=random, device=device)
        return F.normalize(rows, dim=-1).to(dtype).requires_grad_()

    image, texts = unit(batch, DIM), unit(batch, labels, DIM)
    scale = torch.tensor(14.3, device=device, requires_grad=True)

    def reference(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        image, texts = image.float(), texts.float()
        own = scale * (image[:, None] * texts).sum(dim=2)
        over_texts, over_images = two_way_logsumexp_reference(image, texts.flatten(0, 1), scale)
        to_text = (over_texts - own.mean(dim=1)).mean()
        loss: Tensor = (to_text + (over_images - own.flatten()).mean()) / 2
        return loss

    def original(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        return original_multi_label(image.float(), texts.float(), scale)

    runs: dict[str, Run] = {
        "ours": multi_label_contrastive,
        "reference": reference,
        "compiled reference": torch.compile(reference),
        "original": original,
    }
    peer = inf_cl_loss()
    if labels == 1 and peer is not None and device.type == "cuda":

        def both_ways(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
            text = texts[:, 0]
            one = peer(image, text, scale=scale).mean()
            other: Tensor = peer(text, image, scale=scale).mean()
            return (one + other) / 2

        runs["inf-cl"] = both_ways
    columns, half = batch * labels, dtype != torch.float32
    moved = 3 * dtype.itemsize * DIM * (batch + columns)
    return Case(
        f"loss {batch} x {columns}, {'bfloat16' if half else 'float32'} rows", runs,
        (image, texts, scale), moved, 8 * batch * columns * DIM,
        half=half, tolerance=1e-2 if half else 1e-4, grads=(0, 1, 2),
    )  # fmt: skip


def decode_case(batch: int, px: int, classes: int, device: torch.device) -> Case:
    """Labels of crops from the assignments of both stages."""
    random = torch.Generator(device).manual_seed(0)
    side = px // 16

    def soft(*shape: int) -> Tensor:
        return (3 * torch.randn(*shape, generator=random, device=device)).softmax(dim=1)

    first, second = soft(batch, 64, side * side), soft(batch, 8, 64)
    table = torch.rand(batch, 8, classes, generator=random, device=device)
    grid, size = (side, side), (px, px)

    def ours(first: Tensor, second: Tensor, table: Tensor) -> Tensor:
        lookup = table.max(dim=2).indices.int()
        return segment_decode([first, second], lookup, grid, size)

    def reference(first: Tensor, second: Tensor, table: Tensor) -> Tensor:
        maps = roll_up([first, second]).view(batch, 8, *grid)
        return upsample_argmax_reference(maps, table.max(dim=2).indices.int(), *size)

    def original(first: Tensor, second: Tensor, table: Tensor) -> Tensor:
        crops = zip(first, second, table, strict=True)
        scores = [original_scores(a, b, t, grid, size).argmax(dim=0) for a, b, t in crops]
        return torch.stack(scores)

    runs = {
        "ours": ours,
        "reference": reference,
        "compiled reference": torch.compile(reference),
        "original": original,
    }
    moved = batch * (4 * 64 * side * side + 4 * px * px)
    return Case(
        f"segment_decode {batch} x {px} px, {classes} classes", runs, (first, second, table),
        moved, batch * px * px * 8 * 8, half=False, tolerance=1e-3,
    )  # fmt: skip


def kernel_cases(device: torch.device) -> list[Callable[[], Case]]:
    """What is measured on a GPU; built one by one, for memory."""
    half, full = torch.bfloat16, torch.float32
    return [
        lambda: assign_case(1024, 64, 196, half, device),
        lambda: assign_case(1024, 8, 64, half, device),
        lambda: assign_case(1024, 64, 196, full, device),
        lambda: assign_layer_case(1024, 64, 196, device),
        lambda: loss_case(1024, 3, half, device),
        lambda: loss_case(4096, 1, half, device),
        lambda: loss_case(4096, 3, half, device),
        lambda: loss_case(4096, 3, full, device),
        lambda: loss_case(32768, 3, half, device),
        lambda: decode_case(16, 448, 171, device),
    ]
