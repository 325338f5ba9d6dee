"""A step of training against its restatement: losses, noisy assignments, every gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groupvit import GroupViT, ModelConfig, TextConfig, VisionConfig
from groupvit.model.grouping import GroupAssign
from groupvit.model.vision import DROP_STREAM
from groupvit.ops.group_assign.reference import gumbel
from groupvit.ops.uniform import uniform
from groupvit.released.layouts import to_layout
from groupvit.texts import Texts

SMALL = ModelConfig(
    vision=VisionConfig(
        image_px=32, patch_px=8, width=24, heads=2, depths=(2, 1, 1), group_tokens=(6, 4),
        output_groups=(5, 3), drop_path=0.4,
    ),
    text=TextConfig(vocabulary=60, context=77, width=16, layers=2, heads=4),
    embed_dim=12,
    projector_hidden=20,
)  # fmt: skip
"""The parts of the published model; tokens and groups of a stage differ in number."""

DEEP = replace(
    SMALL,
    vision=replace(
        SMALL.vision, heads=3, depths=(1, 0, 2, 1), group_tokens=(7, 4, 3), output_groups=(7, 4, 2)
    ),
)
FLAT = replace(
    SMALL, vision=replace(SMALL.vision, depths=(1, 2), group_tokens=(3,), output_groups=(3,))
)

CANNOT_MATTER = (
    # batch norm takes away what all rows have in common
    "linear_hidden.0.bias", "img_encoder.norm.bias", "text_encoder.ln_final.bias",
    # layer norm takes away what all channels of a token have in common
    "mlp_inter.fc2.bias", "group_projector.1.fc2.bias",
    # softmax takes away what all logits have in common
    "pre_assign_attn.attn.k_proj.bias", "assign.q_proj.bias",
)  # fmt: skip
"""Ends of the names of biases whose gradient is 0 but for rounding."""

Randomise = Callable[[nn.Module], None]


@dataclass
class Step:
    """Forward and backward pass of a batch; gradients and statistics by NVlabs' names."""

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]
    chosen_by: list[Tensor]
    """(B, G, N) noisy softmax of every grouping stage."""


def draw_batch(config: ModelConfig, batch: int, texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W), ids (B, 1 + L, 77) of all lengths from 2 to 77, and noise."""
    random = torch.Generator().manual_seed(batch)
    side, last = config.vision.image_px, config.text.vocabulary - 1
    ids = torch.randint(1, last, (batch * texts, 77), generator=random)
    for i, row in enumerate(ids):
        end = (76, 1, 9, 40, 5)[i % 5]
        row[end], row[end + 1 :] = last, 0
    images = torch.randn(batch, 3, side, side, generator=random)
    return images, ids.view(batch, texts, 77), torch.tensor([12345, 6])


def our_step(model: GroupViT, images: Tensor, ids: Tensor, noise: Tensor) -> Step:
    parts: list[list[Tensor]] = [[] for _ in model.config.vision.group_tokens]

    def keep(module: Any, _inputs: Any, output: Any) -> None:
        parts[module.stream].append(output[1])

    assigns = [module for module in model.modules() if isinstance(module, GroupAssign)]
    hooks = [module.register_forward_hook(keep) for module in assigns]
    losses = model.train()(images, Texts.of(ids), noise)
    for hook in hooks:
        hook.remove()
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    statistics = {name: b for name, b in model.state_dict().items() if ".norm.running" in name}
    statistics |= {name: b for name, b in model.state_dict().items() if "num_batches" in name}
    return Step(
        losses,
        to_layout(gradients, "nvlabs"),
        to_layout(statistics, "nvlabs"),
        [torch.cat(part) for part in parts],
    )


def restated_step(
    restated: SimpleNamespace, model: GroupViT, images: Tensor, ids: Tensor, noise: Tensor
) -> Step:
    """The same of the restatement, in the precision of `images`."""
    dtype, vision = images.dtype, model.config.vision
    w = to_layout(model.state_dict(), "nvlabs")
    w = {name: t.to(dtype) if t.is_floating_point() else t for name, t in w.items()}
    leaves = [t.requires_grad_() for name, t in w.items() if t.is_floating_point()
              and "running" not in name]  # fmt: skip
    given = restated.Noise(*drawn(vision, noise, len(images)))
    heads = (vision.heads, model.config.text.heads)
    losses, seen, statistics = restated.losses(w, images, ids, heads, given)
    total = sum(losses.values())
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    known = zip((name for name, t in w.items() if t.requires_grad), grads, strict=True)
    gradients = {name: grad for name, grad in known if grad is not None}
    return Step(losses, gradients, statistics, seen.chosen_by)


def drawn(vision: VisionConfig, noise: Tensor, batch: int) -> tuple[list[Tensor], Tensor]:
    """The numbers that our model draws: Gumbel noise of every stage, factors of branches."""
    counts = [(vision.image_px // vision.patch_px) ** 2, *vision.output_groups]
    groups = [
        gumbel(noise, stage, torch.Size((batch, g, n)))
        for stage, (n, g) in enumerate(zip(counts, vision.output_groups, strict=False))
    ]
    blocks = sum(vision.depths)
    numbers = uniform(noise, DROP_STREAM, batch, 2 * blocks).view(batch, blocks, 2)
    rates = torch.tensor([vision.drop_path * i / (blocks - 1) for i in range(blocks)])[:, None]
    return groups, (numbers >= rates).float() / (1 - rates)


def figures(got: Step, want: Step) -> dict[str, float]:
    """Largest relative error of losses, assignments, statistics and gradients, tensor by tensor."""

    def error(a: Tensor, b: Tensor) -> float:
        a, b = a.detach().double(), b.detach().double()
        return float((a - b).norm() / b.norm())

    assert got.losses.keys() == want.losses.keys()
    assert got.gradients.keys() == want.gradients.keys()
    assert got.statistics.keys() == want.statistics.keys()
    for ours, theirs in zip(got.chosen_by, want.chosen_by, strict=True):
        assert torch.equal(ours.argmax(dim=1), theirs.argmax(dim=1))
    whole = math.sqrt(sum(float(g.square().sum()) for g in want.gradients.values()))
    silent = {name for name in want.gradients if name.endswith(CANNOT_MATTER)}
    pairs = zip(got.chosen_by, want.chosen_by, strict=True)
    return {
        "losses": max(error(got.losses[k], want.losses[k]) for k in want.losses),
        "assignments": max(error(ours, theirs) for ours, theirs in pairs),
        "statistics": max(error(got.statistics[k], want.statistics[k]) for k in want.statistics),
        "gradients": max(
            error(got.gradients[k], want.gradients[k]) for k in want.gradients.keys() - silent
        ),
        "gradients that are 0, of the whole": max(
            float(step.gradients[k].norm()) / whole for step in (got, want) for k in silent
        ),
    }


def show(found: dict[str, float]) -> None:
    text = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    print(f"\nlargest error: {text}")  # noqa: T201  # shown by -s


@pytest.mark.parametrize("how", ["whole", "in chunks"])
@pytest.mark.parametrize(("batch", "texts"), [(2, 1), (3, 2), (4, 4)])
@pytest.mark.parametrize("config", [SMALL, DEEP, FLAT], ids=["small", "deep", "flat"])
def test_training_step_is_the_restated_one(
    config: ModelConfig,
    batch: int,
    texts: int,
    how: str,
    restated: SimpleNamespace,
    randomise: Randomise,
) -> None:
    model = GroupViT(config)
    randomise(model)
    model.double()
    images, ids, noise = draw_batch(config, batch, texts)
    want = restated_step(restated, model, images.double(), ids, noise)
    if how == "in chunks":
        model.chunk = 2
        model.recompute(wanted=True)
    got = our_step(model, images.double(), ids, noise)
    found = figures(got, want)
    show(found)
    assert max(found.values()) < 1e-9
    assert len(got.gradients) == len(list(model.parameters())) - (texts == 1)
    assert len({*got.chosen_by[0].argmax(dim=1).flatten().tolist()}) > 2


@pytest.mark.slow
def test_training_step_of_the_published_model_is_the_restated_one(
    restated: SimpleNamespace, randomise: Randomise
) -> None:
    """Ours in float32; the restatement in float64."""
    torch.manual_seed(0)
    model = GroupViT(ModelConfig())
    randomise(model)
    images, ids, noise = draw_batch(model.config, 4, 4)
    want = restated_step(restated, model, images.double(), ids, noise)
    got = our_step(model, images, ids, noise)
    found = figures(got, want)
    show(found)
    assert len(got.gradients) == 401 and len(got.statistics) == 6
    assert sum(name.endswith(CANNOT_MATTER) for name in got.gradients) == 11
    assert max(found.values()) < 1e-4
