"""Both towers together: losses, scales, projectors."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit import GroupViT, ModelConfig
from groupvit.data.tokens import tokenize
from groupvit.model.groupvit import Projector
from groupvit.model.losses import contrastive, multi_label_contrastive
from groupvit.model.noise import step_noise
from groupvit.texts import Texts

CPU = torch.device("cpu")


def batch(texts: int = 3) -> tuple[torch.Tensor, Texts]:
    """Three pairs of the tiny model, with so many texts each."""
    torch.manual_seed(1)
    words = [["a cat", "cat", "mat"], ["a dog", "dog", "grass"], ["a tree", "tree", "sky"]]
    ids = torch.stack([tokenize(row[:texts]) for row in words])  # (3, texts, 77)
    return torch.randn(3, 3, 32, 32), Texts.of(ids)


def test_losses_are_of_normalised_projections(tiny_model: GroupViT) -> None:
    images, texts = batch()
    losses = tiny_model(images, texts)
    image = F.normalize(tiny_model.image_projector(tiny_model.vision(images).pooled), dim=-1)
    text = F.normalize(tiny_model.encode_text(texts), dim=-1).view(3, 3, -1)
    want = contrastive(image, text[:, 0], tiny_model.scale)
    torch.testing.assert_close(losses["caption_loss"], want)
    assert tiny_model.multi_label_logit_scale is not None
    scale = tiny_model.multi_label_logit_scale.exp()
    want = multi_label_contrastive(image, text[:, 1:], scale)
    torch.testing.assert_close(losses["multi_label_loss"], want)


def test_losses_are_float32_under_bfloat16_autocast(tiny_model: GroupViT) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = tiny_model(*batch())
    assert {name: value.dtype for name, value in losses.items()} == {
        "caption_loss": torch.float32,
        "multi_label_loss": torch.float32,
    }


def test_autocast_leaves_the_losses_of_unit_rows_alone(tiny_model: GroupViT) -> None:
    torch.manual_seed(0)
    image = F.normalize(torch.randn(5, 16), dim=-1)
    texts = F.normalize(torch.randn(5, 3, 16), dim=-1)
    want = tiny_model._losses(image, texts)
    with torch.autocast("cpu", torch.bfloat16):
        assert (image @ image.mT).dtype == torch.bfloat16  # it is on
        got = tiny_model._losses(image, texts)
    assert got.keys() == want.keys() == {"caption_loss", "multi_label_loss"}
    for name, value in want.items():
        assert float(got[name].detach()) == pytest.approx(float(value.detach()), abs=1e-6), name


def test_caption_alone_has_one_loss(tiny_model: GroupViT) -> None:
    assert list(tiny_model(*batch(texts=1))) == ["caption_loss"]


def test_prompts_need_a_scale_of_their_own(tiny_config: ModelConfig) -> None:
    model = GroupViT(replace(tiny_config, multi_label_scale=False))
    with pytest.raises(ValueError, match="multi_label_scale = true"):
        model(*batch())


def test_noise_decides_a_step_and_evaluation_has_none(tiny_model: GroupViT) -> None:
    images, texts = batch()

    def losses(seed: int | None) -> list[float]:
        noise = None if seed is None else step_noise(seed, device=CPU)
        return [float(value.detach()) for value in tiny_model(images, texts, noise).values()]

    assert losses(1) == losses(2) == losses(None)
    tiny_model.train()
    for module in (tiny_model.image_projector.norm, tiny_model.text_projector.norm):
        module.momentum = 0.0  # type: ignore[union-attr]  # a batch norm
    assert losses(1) == losses(1) != losses(2)
    torch.manual_seed(5)
    drawn = losses(None)
    assert drawn != losses(None)
    torch.manual_seed(5)
    assert drawn == losses(None)


def test_scale_starts_at_one_over_point_07_and_stops_at_100(tiny_config: ModelConfig) -> None:
    model = GroupViT(tiny_config)
    assert float(model.logit_scale.detach()) == pytest.approx(2.65926, abs=1e-5)
    assert float(model.scale.detach()) == pytest.approx(1 / 0.07, rel=1e-6)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100) + 1)
    assert float(model.scale.detach()) == pytest.approx(100)


def test_projector_by_hand() -> None:
    torch.manual_seed(0)
    layer = Projector(4, 6, 3).train()
    rows = torch.randn(5, 4)
    hidden = layer.hidden(rows)
    mean, var = hidden.mean(dim=0), hidden.var(dim=0, unbiased=False)
    want = layer.out(((hidden - mean) / (var + 1e-5).sqrt()).clamp(min=0))
    torch.testing.assert_close(layer(rows), want)
    torch.testing.assert_close(layer.norm.running_mean, 0.1 * mean)


def test_segments_are_projected_each_and_the_image_is_the_projected_mean(
    tiny_model: GroupViT,
) -> None:
    images, _ = batch()
    image, groups, seen = tiny_model.encode_image(images)
    project = tiny_model.image_projector
    torch.testing.assert_close(groups[1, 2], project(seen.groups[1, 2:3])[0])
    torch.testing.assert_close(image, project(seen.groups.mean(dim=1)))
    assert not torch.allclose(image, groups.mean(dim=1))


def test_gradient_reaches_every_parameter(tiny_model: GroupViT) -> None:
    tiny_model.train()
    torch.manual_seed(0)
    sum(tiny_model(*batch()).values()).backward()
    silent = {n for n, p in tiny_model.named_parameters() if p.grad is None or not p.grad.any()}
    # batch norm takes the mean away, so the bias before it cannot matter: rounding only, if at all
    assert silent <= {"image_projector.hidden.bias", "text_projector.hidden.bias"}


def test_gradients_are_the_same_every_time_with_several_threads(tiny_config: ModelConfig) -> None:
    """What a resumed run rests on; a sum over equal indices in any order is not."""
    ids = torch.randint(1, 49406, (16, 4, 20), generator=torch.Generator().manual_seed(0))
    texts = Texts.of(ids.index_fill(2, torch.tensor([19]), 49407))
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        model = GroupViT(tiny_config).train()
        losses = model(images, texts, step_noise(3, device=torch.device("cpu")))
        return list(torch.autograd.grad(sum(losses.values()), list(model.parameters())))

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first = gradients()
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    finally:
        torch.set_num_threads(threads)
