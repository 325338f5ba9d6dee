"""On a GPU the model, its gradients, training and segmentation are those of a CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from groupvit import (
    GroupViT,
    GroupViTSegmenter,
    ModelConfig,
    PairDataset,
    Texts,
    TrainConfig,
    index_shards,
    load_model,
    train,
)
from groupvit.model.noise import step_noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def step(model: GroupViT, device: torch.device, *, half: bool) -> tuple[Tensor, list[Tensor]]:
    """Losses and all gradients of a training step with noise, on a device."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 224, 224, generator=random).to(device)
    ids = torch.randint(1, 49406, (6, 4, 20), generator=random).cumsum(2) % 49406
    ids = ids.masked_fill(
        torch.arange(20) == torch.randint(3, 20, (6, 4, 1), generator=random), 49407
    )
    model = model.to(device).train()
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        losses = model(images, Texts.of(ids).to(device), step_noise(3, 5, device=device))
    sum(losses.values()).backward()
    grads = [p.grad.float().cpu().clone() for p in model.parameters() if p.grad is not None]
    return torch.stack(list(losses.values())).detach().cpu(), grads


def distance(got: list[Tensor], want: list[Tensor]) -> float:
    """Of two lists of gradients, relative to the second."""
    error = sum(float((a - b).square().sum()) for a, b in zip(got, want, strict=True))
    return float((error / sum(float(b.square().sum()) for b in want)) ** 0.5)


def test_a_step_of_the_published_model_is_that_of_a_cpu() -> None:
    torch.manual_seed(0)
    model = GroupViT(ModelConfig())
    want_losses, want = step(model, CPU, half=False)
    losses, grads = step(model, GPU, half=False)
    torch.testing.assert_close(losses, want_losses, rtol=1e-4, atol=1e-4)
    # a change of one part in a million makes a token choose another group here, and moves it 0.011
    assert distance(grads, want) < 0.05
    losses, grads = step(model, GPU, half=True)
    torch.testing.assert_close(losses, want_losses, rtol=0.02, atol=0.02)
    assert distance(grads, want) < 0.3  # tokens near a tie choose other groups


def test_labels_are_those_of_a_cpu(tiny_model: GroupViT) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = []
    for device in (CPU, GPU):
        segmenter = GroupViTSegmenter(tiny_model.to(device), precision="float32")
        bank = segmenter.encode_classes(["dog", "grass", "sky"])
        found.append(segmenter.label(photo, bank, short_px=48, window_px=32, stride_px=16))
    same = [np.asarray(torch.as_tensor(labels).cpu()) for labels in found]
    assert float((same[0] == same[1]).mean()) > 0.99


@pytest.mark.parametrize("workers", [0, 2])
def test_training_runs_and_goes_on(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path, workers: int
) -> None:
    config = replace(
        tiny_recipe,
        optim=replace(tiny_recipe.optim, precision="bfloat16"),
        data=replace(tiny_recipe.data, workers=workers),
        machine=replace(tiny_recipe.machine, chunk=2, recompute=True),
    )
    pairs, _ = index_shards([colour_shard], dataset="toy")
    data = PairDataset.from_config(pairs, config.data, 32)
    first = train(config, data, tmp_path, device=GPU)
    want = load_model(first.checkpoint).state_dict()
    shutil.rmtree(first.checkpoint)
    again = train(config, data, tmp_path, device=GPU)  # goes on after step 6
    assert first == again and first.checkpoint.name == "checkpoint-00000008"
    for name, value in load_model(again.checkpoint).state_dict().items():
        torch.testing.assert_close(value, want[name], rtol=1e-2, atol=1e-3)


def test_stochastic_depth_and_gumbel_noise_are_those_of_a_cpu(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    vision = replace(tiny_config.vision, drop_path=0.5)
    model = GroupViT(replace(tiny_config, vision=vision)).train()
    images = torch.randn(16, 3, 32, 32)
    want = model.vision(images, step_noise(9, device=CPU)).pooled
    got = model.to(GPU).vision(images.to(GPU), step_noise(9, device=GPU)).pooled.cpu()
    agree = ((got - want).abs().amax(dim=1) < 1e-3 * want.abs().max()).float().mean()
    assert float(agree) > 0.9  # an image differs only if a token was at a tie
