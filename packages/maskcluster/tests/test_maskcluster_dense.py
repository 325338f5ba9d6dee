"""Dense features of the towers against their equations, and against open_clip itself."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskcluster.model.dense import DenseTower

restated = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py"))))


def check_same(got: Tensor, want: Tensor, tolerance: float) -> None:
    """Relative to the size of the features."""
    assert got.shape == want.shape
    assert float((got - want).abs().max() / want.abs().max()) < tolerance


def published(architecture: str) -> Any:
    """The image tower of a published model, with random weights."""
    import open_clip
    from open_clip.model import _build_vision_tower

    sizes = open_clip.get_model_config(architecture)
    quick = sizes.get("quick_gelu", False)
    visual = _build_vision_tower(sizes["embed_dim"], sizes["vision_cfg"], quick).eval()
    restated.roughen(visual)
    return visual


def siglip() -> Any:
    """A small image tower of SigLIP's kind."""
    from open_clip.timm_model import TimmModel
    from timm.models import VisionTransformer

    visual = TimmModel("test_vit", 32, 64, pool="", proj="none")
    visual.trunk = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0,
        class_token=False, global_pool="map",
    )  # fmt: skip
    restated.roughen(visual)
    return visual.double().eval()


def test_vit_b_16_is_the_published_value_path() -> None:
    visual = published("ViT-B-16-quickgelu")
    images = torch.randn(2, 3, 48, 64)  # 3 x 4 patches, not the trained 14 x 14
    with torch.no_grad():
        got = DenseTower(visual)(images)
        want = restated.plain_features(visual, images)
    assert got.shape == (2, 512, 3, 4) and got.dtype == torch.float32
    check_same(got, want, 2e-6)


def test_convnext_base_is_its_trunk_and_head_at_every_place() -> None:
    visual = published("convnext_base_w_320")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got = DenseTower(visual)(images)
        want = restated.plain_features(visual, images)
    assert got.shape == (1, 640, 2, 3)
    check_same(got, want, 2e-6)


@pytest.mark.parametrize("last_block", ["pixelclip", "maskclip", "none"])
@pytest.mark.parametrize("sides", [(32, 32), (40, 16), (64, 72)], ids=str)
def test_every_last_block_is_its_equation(last_block: Any, sides: tuple[int, int]) -> None:
    clip = restated.tiny_clip()
    clip.model.double().eval()
    images = torch.randn(2, 3, *sides, dtype=torch.float64)
    with torch.no_grad():
        got = DenseTower(clip.model.visual, last_block=last_block)(images)
        want = restated.plain_features(clip.model.visual, images, last_block=last_block)
    assert got.shape == (2, 20, sides[0] // 8, sides[1] // 8) and got.dtype == torch.float64
    check_same(got, want, 1e-12)


def test_the_untouched_block_gives_what_open_clip_gives() -> None:
    visual = restated.tiny_clip().model.double().eval().visual
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    visual.output_tokens = True
    with torch.no_grad():
        _, tokens = visual(images)  # (B, N, C) after the final norm
        got = DenseTower(visual, last_block="none")(images)
    want = (tokens @ visual.proj).mT.reshape(2, 20, 4, 4)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_a_picture_of_one_place_gives_convnext_its_own_feature() -> None:
    """With one position, pooling does nothing: the dense feature is the image's."""
    visual = restated.tiny_clip("convnext").model.double().eval().visual
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(DenseTower(visual)(images)[:, :, 0, 0], visual(images))


def test_convnext_is_its_equation() -> None:
    visual = restated.tiny_clip("convnext").model.double().eval().visual
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        check_same(DenseTower(visual)(images), restated.plain_features(visual, images), 1e-12)


def test_value_path_of_siglip_is_that_of_its_pooling_attention() -> None:
    """Where all patches are alike, attention has nothing to choose and gives the value itself."""
    visual = siglip()
    with torch.no_grad():
        visual.trunk.pos_embed.zero_()
        images = torch.randn(2, 3, 16, 16, dtype=torch.float64).tile(1, 1, 4, 4)
        got = DenseTower(visual)(images)
        want = visual(images)  # (2, 32)
    assert got.shape == (2, 32, 4, 4)
    check_same(got, want[:, :, None, None].expand(-1, -1, 4, 4), 1e-12)


def test_siglip_takes_other_sizes_and_names_what_it_does_not_use() -> None:
    visual = siglip()
    tower = DenseTower(visual)
    features = tower(torch.randn(1, 3, 32, 96, dtype=torch.float64))
    assert features.shape == (1, 32, 2, 6)
    features.sin().sum().backward()
    without = {name for name, p in visual.named_parameters() if p.grad is None}
    assert without == set(tower.unused) != set()


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_recomputed_gradients_are_the_same(kind: str) -> None:
    visual = restated.tiny_clip(kind).model.double().eval().visual
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for recompute in (False, True):
        tower = DenseTower(visual)
        tower.recompute = recompute
        visual.zero_grad()
        tower(images).sin().sum().backward()
        named = visual.named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, want in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], want, msg=name)


@pytest.mark.parametrize("last_block", ["pixelclip", "maskclip", "none"])
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_unused_parameters_are_those_without_a_gradient(kind: str, last_block: Any) -> None:
    visual = restated.tiny_clip(kind).model.eval().visual
    tower = DenseTower(visual, last_block=last_block)
    tower(torch.randn(1, 3, 64, 64)).sin().sum().backward()
    without = {name for name, p in visual.named_parameters() if p.grad is None}
    assert without == set(tower.unused)
    assert bool(without) == (kind == "vit" and last_block == "maskclip")


def test_the_tower_is_used_and_not_changed() -> None:
    visual = restated.tiny_clip().model.eval().visual
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    images = torch.randn(1, 3, 32, 32)
    want = visual(images)
    DenseTower(visual)(images)
    assert torch.equal(visual(images), want)
    assert all(torch.equal(visual.state_dict()[name], value) for name, value in before.items())


def test_under_autocast_features_are_float32() -> None:
    visual = restated.tiny_clip().model.eval().visual
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert DenseTower(visual)(torch.randn(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 3, 33, 32), "multiples of the stride 8 x 8, got 33 x 32"),
        ((1, 3, 0, 32), "multiples of the stride 8 x 8, got 0 x 32"),
        ((1, 1, 32, 32), r"images must be \(B, 3, H, W\), got \(1, 1, 32, 32\)"),
        ((3, 32, 32), r"images must be \(B, 3, H, W\), got \(3, 32, 32\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], said: str) -> None:
    tower = DenseTower(restated.tiny_clip().model.visual)
    with pytest.raises(ValueError, match=said):
        tower(torch.zeros(shape))


def test_other_towers_are_refused() -> None:
    with pytest.raises(ValueError, match="must be a ViT or a ConvNeXt, got a Linear"):
        DenseTower(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="last_block must be pixelclip, maskclip or none"):
        DenseTower(restated.tiny_clip().model.visual, last_block="clip")  # type: ignore[arg-type]
