"""ProxyCLIP against its equation, on a backbone of another grid than CLIP's."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from segbench.models import DenseClip, proxyclip
from segbench.models.proxy import PatchBackbone, ProxyClip, load_backbone, proxy_attention

CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with drawn weights."""
    path = tmp_path_factory.mktemp("tiny-clip")
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    state = open_clip.create_model(f"local-dir:{path}", load_weights=False).state_dict()
    draw = torch.Generator().manual_seed(1)
    for name, value in state.items():
        state[name] = value + 0.2 * torch.randn(value.shape, generator=draw) * (value.ndim > 0)
    save_file(state, path / "open_clip_model.safetensors")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> DenseClip:
    return proxyclip(model=f"local-dir:{folder}", backbone="test_vit", backbone_checkpoint="random")


def noise(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(7))


def by_hand(features: Tensor, beta: float, gamma: float) -> Tensor:
    """(L, L) by the equation, place by place."""
    places = len(features)
    cosine = torch.tensor(
        [[float(F.cosine_similarity(a, b, dim=0)) for b in features] for a in features]
    )
    mean = float(cosine.sum()) / places**2
    weights = torch.zeros(places, places)
    for i in range(places):
        for j in range(places):
            logit = gamma * (float(cosine[i, j]) - beta * mean)
            weights[i, j] = torch.tensor(logit).exp() if logit >= 0 else 0
    return weights / weights.sum(1, keepdim=True)


def test_attention_is_the_papers_equation() -> None:
    features = torch.randn(12, 6, generator=torch.Generator().manual_seed(2)) + 0.3
    wanted = by_hand(features, 1.2, 3.0)
    found = proxy_attention(features, 1.2, 3.0)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert 0 < int((found == 0).sum()) < 132  # some are masked


def test_patches_that_all_look_alike_attend_to_themselves() -> None:
    alike = torch.ones(5, 3)
    assert torch.equal(proxy_attention(alike, 1.2, 3.0), torch.eye(5))


def test_features_are_the_papers_equation(model: DenseClip) -> None:
    image = noise(48, 64)  # 6 by 8 patches of CLIP, 3 by 4 of the backbone
    seen, last = model.tower.before_last(image), model.tower.visual.transformer.resblocks[-1]
    backbone: Any = model.others["backbone"]
    coloured = (image - torch.tensor(backbone.pretrained_cfg["mean"])[:, None, None]) / (
        torch.tensor(backbone.pretrained_cfg["std"])[:, None, None]
    )
    with torch.inference_mode():
        tokens = backbone.forward_features(coloured[None])[0]
        attention = by_hand(tokens[backbone.num_prefix_tokens :], 1.2, 3.0)
        normed = last.ln_1(seen.tokens[1:])
        value = normed @ last.attn.in_proj_weight[64:].T + last.attn.in_proj_bias[64:]  # (N, C)
        planes = value.T.reshape(1, 32, 6, 8)
        small = F.interpolate(planes, (3, 4), mode="bilinear", align_corners=False)
        mixed = attention @ small[0].flatten(1).T  # (L, C)
        out = mixed @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        wanted = (model.tower.visual.ln_post(out) @ model.tower.visual.proj).T.reshape(24, 3, 4)
    found = model.features(image)
    assert found.shape == (24, 3, 4)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_register_and_class_tokens_are_no_patches() -> None:
    network = timm.create_model(
        "vit_tiny_patch16_224", depth=1, patch_size=8, reg_tokens=4, num_classes=0,
        img_size=32, dynamic_img_size=True,
    ).eval()  # fmt: skip
    with torch.inference_mode():
        rows, grid = PatchBackbone(network)(noise(35, 26))
    assert grid == (4, 3)
    assert rows.shape == (12, 192)


@pytest.mark.parametrize("size", [(48, 64), (53, 39), (7, 90), (16, 16)])
def test_any_size_gives_finite_scores(model: DenseClip, size: tuple[int, int]) -> None:
    bank = F.normalize(torch.randn(4, 24), dim=1)
    for image in (noise(*size), torch.zeros(3, *size)):
        scores = model.segment(image, bank)
        assert scores.shape == (4, max(size[0] // 16, 1), max(size[1] // 16, 1))
        assert scores.isfinite().all()


@pytest.mark.parametrize("corner", [(16, 64), (64, 16)])
def test_a_bright_square_moves_the_scores_where_it_is(
    model: DenseClip, corner: tuple[int, int]
) -> None:
    bank = F.normalize(torch.randn(4, 24), dim=1)
    top, left = corner
    without = noise(100, 118) * 0.2  # 6 by 7 patches of the backbone
    with_square = without.clone()
    with_square[:, top : top + 32, left : left + 32] = 1
    change = (model.segment(with_square, bank) - model.segment(without, bank)).abs().mean(0)
    place = divmod(int(change.argmax()), change.shape[1])
    y, x = ((place[axis] + 0.5) / change.shape[axis] * (100, 118)[axis] for axis in (0, 1))
    assert top - 8 <= y <= top + 40
    assert left - 8 <= x <= left + 40


def test_the_fingerprint_covers_the_backbone(folder: Path, model: DenseClip) -> None:
    other = proxyclip(
        model=f"local-dir:{folder}", backbone="test_vit3", backbone_checkpoint="random", beta=1
    )
    assert other.fingerprint != model.fingerprint
    assert model.name.endswith("test_vit")
    assert other.name.endswith("test_vit3 beta=1")


def test_a_backbone_is_read_from_a_file(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    loaded = load_backbone("test_vit", str(tmp_path / "a.pth"))
    assert torch.equal(loaded.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)
    for other in ("test_vit2", "vit_tiny_patch16_224"):
        with pytest.raises(ValueError, match=f"backbone '{other}': "):
            load_backbone(other, str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vit_smal_patch16"}, "unknown timm model 'vit_smal_patch16'"),
        ({"backbone_checkpoint": "/nowhere.pth"}, "no backbone checkpoint at '/nowhere.pth'"),
        ({"backbone": "test_efficientnet", "backbone_checkpoint": "random"}, "'test_efficientnet'"),
        ({"backbone": "test_vit", "backbone_checkpoint": "random", "gamma": 0}, "gamma must be"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        proxyclip(model=f"local-dir:{folder}", **options)
    assert "\n" not in str(caught.value)


def test_gamma_and_beta_reach_the_attention(folder: Path, model: DenseClip) -> None:
    assert isinstance(model.last_layer, ProxyClip)
    other = proxyclip(
        model=f"local-dir:{folder}", backbone="test_vit", backbone_checkpoint="random", gamma=9
    )
    assert not torch.allclose(other.features(noise(48, 48)), model.features(noise(48, 48)))
