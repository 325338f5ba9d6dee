"""Naming whole pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2  # type: ignore[import-untyped]  # it has no types

from groupvit import GroupViT, GroupViTSegmenter
from groupvit.data.augment import normalise
from groupvit.data.prompts import TEMPLATES
from groupvit.segmenting import segmenter as segmenter_module
from groupvit.segmenting.classify import centre_crop, rank_classes
from groupvit.segmenting.templates import IMAGENET_TEMPLATES, TEMPLATES_OF


def bank(classes: int) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(classes, 16, generator=random), dim=-1)


@pytest.mark.parametrize("size", [(300, 400), (401, 299), (64, 64), (90, 300)], ids=str)
def test_centre_crop_is_torchvisions(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    resize = v2.Resize(256, antialias=True)
    want = v2.CenterCrop(224)(resize(image))
    torch.testing.assert_close(centre_crop(image, 224), want, rtol=1e-5, atol=1e-5)


def test_bytes_are_resized_as_pillow_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    resized = Image.fromarray(pixels).resize((341, 256), Image.Resampling.BILINEAR)
    want = np.asarray(resized)[16:240, 58:282] / 255  # the middle 224, 58.5 to the even side
    got = centre_crop(pixels, 224).permute(1, 2, 0).numpy()
    assert np.abs(got - want).max() <= 1.01 / 255 and (np.abs(got - want) < 1e-6).mean() > 0.99


def test_crop_of_bytes_and_of_other_sides() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    crop = centre_crop(image, 32)
    assert crop.shape == (3, 32, 32) and crop.dtype == torch.float32
    torch.testing.assert_close(crop, centre_crop(image / 255, 32), rtol=0, atol=1.01 / 255)
    same = torch.rand(3, 37, 37)  # 256/224 of 32: nothing is resized
    torch.testing.assert_close(centre_crop(same, 32), same[:, 2:34, 2:34])


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)], ids=str)
def test_a_thread_of_pixels_is_cut_before_it_is_resized(size: tuple[int, int]) -> None:
    assert centre_crop(torch.ones(3, *size), 224).min() == 1


def test_ranking_by_hand() -> None:
    image = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    ranking = rank_classes(image, rows, torch.tensor(2.0), 2)
    assert ranking.classes.tolist() == [[1, 0], [0, 2]]  # the lower class first
    e = torch.tensor(2.0).exp()
    want = torch.stack([torch.stack([e, torch.ones(())]) / (e + 2), e.expand(2) / (2 * e + 1)])
    torch.testing.assert_close(ranking.probabilities, want)


def test_pictures_are_ranked_by_the_cosine_of_their_vector(
    tiny_model: GroupViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 40 + i, 50, generator=random) for i in range(5)]
    text = bank(9)
    monkeypatch.setattr(segmenter_module, "CROPS", 2)
    classes, probabilities = GroupViTSegmenter(tiny_model, precision="float32").classify(
        images, text, k=4
    )
    assert classes.shape == probabilities.shape == (5, 4)
    for i, image in enumerate(images):
        crop = normalise(centre_crop(image, 32))[None]
        with torch.no_grad():
            vector = tiny_model.image_projector(tiny_model.vision(crop).pooled)[0]
        cosines = F.cosine_similarity(vector[None], text)
        assert classes[i].tolist() == cosines.argsort(descending=True)[:4].tolist()
        want = (cosines * tiny_model.scale.detach()).softmax(dim=0)[classes[i]]
        torch.testing.assert_close(probabilities[i], want, rtol=1e-4, atol=1e-5)


def test_all_classes_when_there_are_few(tiny_model: GroupViT) -> None:
    segmenter = GroupViTSegmenter(tiny_model)
    ranking = segmenter.classify([torch.rand(3, 32, 32)], bank(3))
    assert ranking.classes.shape == (1, 3)
    assert float(ranking.probabilities.sum()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="got 0 images and k = 5"):
        segmenter.classify([], bank(3))
    with pytest.raises(ValueError, match="got 1 images and k = 0"):
        segmenter.classify([torch.rand(3, 9, 9)], bank(3), k=0)


def test_template_sets() -> None:
    assert len(IMAGENET_TEMPLATES) == 7 and set(IMAGENET_TEMPLATES) < set(TEMPLATES)
    assert "a origami {}." in IMAGENET_TEMPLATES and "a photo of a {}." not in IMAGENET_TEMPLATES
    assert {name: len(some) for name, some in TEMPLATES_OF.items()} == {
        "simple": 1,
        "imagenet7": 7,
        "clip80": 80,
    }
