"""The decoder of the release, restated, on a small random model."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit import GroupViT, GroupViTSegmenter
from groupvit.data.augment import normalise
from groupvit.segmenting.segmenter import class_scores


def bank(classes: int) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(classes, 16, generator=random), dim=-1)


def varied_image(model: GroupViT, size: tuple[int, int]) -> Tensor:
    """The first of some images of blots (3, H, W) in which more than one group owns pixels."""
    for seed in range(100):
        blots = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).round()
        image = F.interpolate(blots, size)[0]
        groups, _ = GroupViTSegmenter(model).groups(image, bank(1))
        if bool((groups != groups[0, 0]).any()):
            return image
    raise AssertionError("one group owns every image")


@torch.no_grad()
def restated(model: GroupViT, image: Tensor, text: Tensor) -> Tensor:
    """(K, H, W) scores, pixel by pixel, as section 5.3 of the specification says them."""
    _, height, width = image.shape
    seen = model.vision(normalise(image)[None])
    first, second = seen.assignments[0][0], seen.assignments[1][0]  # (64, N), (8, N')
    chain = first.T @ second.T  # (N, G)
    maps = chain.T.reshape(1, -1, *seen.grid)
    upsampled = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0]
    project = model.image_projector
    f = torch.stack([F.normalize(project(g[None]), dim=-1)[0] for g in seen.groups[0]])  # (G, D)
    a = F.normalize(project(seen.pooled), dim=-1)[0]  # (D,)
    s = min(float(model.logit_scale.exp()), 100.0)
    z = s * f @ text.T  # (G, K)
    plain = z.softmax(dim=1)
    best = (s * text @ a).softmax(dim=0).argsort(descending=True)[:5]
    gated = torch.full_like(z, float("-inf"))
    gated[:, best] = z[:, best]
    table = gated.softmax(dim=1) * plain  # (G, K)
    scores = torch.empty(len(text), height, width)
    for row in range(height):
        for column in range(width):
            scores[:, row, column] = table[int(upsampled[:, row, column].argmax())]
    return scores


@pytest.mark.parametrize("classes", [1, 4, 5, 9])
@pytest.mark.parametrize("size", [(32, 32), (40, 53)])
def test_scores_are_what_the_release_decodes(
    tiny_model: GroupViT, classes: int, size: tuple[int, int]
) -> None:
    image, text = varied_image(tiny_model, size), bank(classes)
    got = GroupViTSegmenter(tiny_model).segment(image, text)
    assert got.shape == (classes, *size)
    torch.testing.assert_close(got, restated(tiny_model, image, text), rtol=1e-5, atol=1e-6)


def test_classes_outside_the_gate_score_nothing(tiny_model: GroupViT) -> None:
    text = bank(12)
    image, groups = torch.randn(16), torch.randn(3, 16)
    scores = class_scores(image, groups, text, torch.tensor(5.0))
    best = (text @ image).topk(5).indices
    outside = torch.ones(12, dtype=torch.bool).scatter(0, best, False)
    assert not scores[:, outside].any()
    assert bool((scores[:, best] > 0).all()) and bool((scores <= 1).all())
    # the product is not normalised again: the rows sum to less than 1
    assert bool((scores.sum(dim=1) < 1).all())
    assert GroupViTSegmenter(tiny_model).name == "groupvit"


def test_product_by_hand() -> None:
    axes = torch.eye(2)
    scores = class_scores(torch.tensor([1.0, 0]), axes[:1] * 7, axes, torch.tensor(1.0))
    p = 1 / (1 + torch.e**-1)
    torch.testing.assert_close(scores, torch.tensor([[p**2, (1 - p) ** 2]]))


def test_prompts_are_projected_and_not_normalised(tiny_model: GroupViT) -> None:
    segmenter = GroupViTSegmenter(tiny_model.train(), name="mine")
    assert not tiny_model.training and segmenter.name == "mine"
    both = segmenter.encode_text(["a photo of a cat.", "a photo of a very long red sofa."])
    one = segmenter.encode_text(["a photo of a cat."])
    torch.testing.assert_close(both[:1], one, rtol=1e-5, atol=1e-5)
    assert both.dtype == torch.float32 and not torch.allclose(both.norm(dim=1), torch.ones(2))
