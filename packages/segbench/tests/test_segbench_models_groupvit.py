"""Hugging Face's GroupViT under GroupViT's protocol, against the protocol pixel by pixel."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, GroupViTConfig, GroupViTModel

from segbench import Classifier
from segbench.models import GroupViTSegmenter, groupvit

SIDE, PATCH = 4, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GroupViT of true architecture, with drawn weights."""
    path = tmp_path_factory.mktemp("tiny-groupvit")
    config = GroupViTConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 49408,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depths": [1, 1, 1],
            "num_hidden_layers": 3,
            "num_group_tokens": [12, 6, 0],
            "num_output_groups": [12, 6, 0],
            "num_attention_heads": 2,
            "image_size": SIDE * PATCH,
            "patch_size": PATCH,
        },
        projection_dim=24,
        projection_intermediate_dim=48,
    )
    torch.manual_seed(0)
    model = GroupViTModel(config)
    draw = torch.Generator().manual_seed(2)  # so that four groups own patches
    for name, value in model.named_parameters():
        if value.ndim:
            sharp = 4 if "assign." in name and "_proj" in name else 1
            value.data += 0.2 * sharp * torch.randn(value.shape, generator=draw)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> GroupViTSegmenter:
    return groupvit(str(folder))


def noise(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(7))


def bank_of(classes: int) -> Tensor:
    return F.normalize(torch.randn(classes, 24, generator=torch.Generator().manual_seed(4)), dim=1)


def protocol(model: Any, image: Tensor, bank: Tensor) -> Tensor:
    """(K, H, W) by the eight steps of GroupViT's decoder, through the model's own `forward`."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((image - mean[:, None, None]) / std[:, None, None])[None]
    with torch.inference_mode():
        seen = model.vision_model(pixels, output_attentions=True)
        first, second = (each[0] for each in seen.attentions)  # (12, N), (6, N)
        owned = (second @ first).reshape(1, len(second), SIDE, SIDE)
        large = F.interpolate(owned, image.shape[1:], mode="bilinear", align_corners=False)[0]
        groups = F.normalize(model.visual_projection(seen.last_hidden_state[0]), dim=-1)
        whole = F.normalize(model.visual_projection(seen.pooler_output), dim=-1)[0]
        scale = min(float(model.logit_scale.exp()), 100.0)
    allowed = sorted(range(len(bank)), key=lambda k: -float(whole @ bank[k]))[:5]
    out = torch.zeros(len(bank), *image.shape[1:])
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            row = torch.exp(scale * (bank @ groups[int(large[:, y, x].argmax())])).double()
            for k in allowed:
                out[k, y, x] = row[k] / row[allowed].sum() * row[k] / row.sum()
    return out


@pytest.mark.parametrize("classes", [3, 9])
def test_scores_are_those_of_the_protocol(model: GroupViTSegmenter, classes: int) -> None:
    image, bank = noise(32, 32), bank_of(classes)
    found, wanted = model.segment(image, bank), protocol(model.model, image, bank)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)
    shown = (found > 0).flatten(1).any(1)
    assert int(shown.sum()) == min(classes, 5)
    assert len({tuple(row) for row in found.flatten(1).T.tolist()}) == 4  # groups


def test_the_logit_scale_is_limited(folder: Path) -> None:
    model = groupvit(str(folder))
    model.model.logit_scale.fill_(9.0)  # exp(9) = 8103
    image, near = noise(32, 32), F.normalize(1 + 0.03 * bank_of(6), dim=1)  # hard to tell apart
    wanted = protocol(model.model, image, near)
    assert torch.allclose(model.segment(image, near), wanted, rtol=1e-3, atol=1e-6)
    assert int((wanted[:, 0, 0] > 1e-3).sum()) > 1


def test_maps_share_out_every_patch(model: GroupViTSegmenter) -> None:
    with torch.inference_mode():
        features, maps = model.groups(noise(50, 41))
    assert features.shape == (6, 32)
    assert maps.shape == (6, 6, 5)
    assert torch.allclose(maps.sum(0), torch.ones(6, 5), atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (37, 61), (80, 24), (5, 9)])
def test_any_size_gives_finite_scores_of_every_pixel(
    model: GroupViTSegmenter, size: tuple[int, int]
) -> None:
    scores = model.segment(noise(*size), bank_of(7))
    assert scores.shape == (7, *size)
    assert scores.isfinite().all()
    assert scores.min() >= 0
    assert scores.max() <= 1


@pytest.mark.parametrize("corner", [(8, 40), (40, 8)])
def test_a_bright_square_is_owned_otherwise_where_it_is(
    model: GroupViTSegmenter, corner: tuple[int, int]
) -> None:
    top, left = corner
    image = noise(67, 66) * 0.05
    image[:, top : top + 16, left : left + 16] = 1
    with torch.inference_mode():
        maps = model.groups(image)[1]  # (G, 8, 8)
    odd = (maps - maps.flatten(1).median(1).values[:, None, None]).abs().sum(0)
    place = divmod(int(odd.argmax()), odd.shape[1])
    y, x = ((place[axis] + 0.5) / odd.shape[axis] * (67, 66)[axis] for axis in (0, 1))
    assert top - 4 <= y <= top + 20
    assert left - 4 <= x <= left + 20


def test_encode_text_is_the_models_and_padding_does_not_matter(model: GroupViTSegmenter) -> None:
    prompts = ["a photo of a cat.", "a photo of a very long-haired dog."]
    rows = model.encode_text(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        tokens = model.tokenizer([prompt])
        ids = tokens[:, : int(tokens.argmax()) + 1]  # no padding at all
        with torch.inference_mode():
            wanted = model.model.get_text_features(input_ids=ids).pooler_output[0]
        assert torch.allclose(row, wanted, atol=1e-5)
    assert rows.shape == (2, 24)


def test_it_says_what_it_is(folder: Path, model: GroupViTSegmenter) -> None:
    other = groupvit(str(folder), normalisation="clip")
    assert other.fingerprint == model.fingerprint
    assert other.name == f"groupvit {folder.name} normalisation=clip"
    assert not torch.equal(
        other.segment(noise(32, 32), bank_of(4)), model.segment(noise(32, 32), bank_of(4))
    )


def test_what_is_wrong_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    CLIPTextModel(CLIPTextConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                 intermediate_size=8, vocab_size=9)).save_pretrained(tmp_path / "clip")  # fmt: skip # noqa: E501
    (tmp_path / "empty").mkdir()
    cases = {
        "/nowhere/at/all": "no checkpoint at '/nowhere/at/all'",
        str(tmp_path / "empty"): "empty': ",
        str(tmp_path / "clip"): "it is a 'clip_text_model', not a 'groupvit'",
    }
    for checkpoint, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            groupvit(checkpoint)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="normalisation must be imagenet or clip, got 'none'"):
        groupvit(str(folder), normalisation="none")  # type: ignore[arg-type]  # what a user may do


def test_missing_weights_are_an_error(folder: Path, tmp_path: Path) -> None:
    peer = GroupViTModel.from_pretrained(folder)
    state = {k: v for k, v in peer.state_dict().items() if "text_projection" not in k}
    peer.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks 9 weights, first text_projection"):
        groupvit(str(tmp_path))


def test_the_embedding_of_an_image_is_the_models(model: GroupViTSegmenter) -> None:
    assert isinstance(model, Classifier)
    assert model.image_px == SIDE * PATCH
    image = noise(32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((image - mean[:, None, None]) / std[:, None, None])[None]
    with torch.inference_mode():
        wanted = model.model.get_image_features(pixel_values=pixels).pooler_output[0]
    assert torch.allclose(model.encode_image(image), wanted, atol=1e-5)
