from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskcluster.errors import CheckpointError, DataError
from maskcluster.generators.dino import DenseBackbone, DinoMasks, cluster_tokens, load_backbone
from maskcluster.generators.protocol import BatchMaskGenerator

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2,
    "num_classes": 0, "dynamic_img_size": True,
}  # fmt: skip
NAMES = {"vit": "vit_small_patch16_224.dino", "regs": "vit_small_patch14_reg4_dinov2.lvd142m"}


def tiny(**changes: Any) -> DenseBackbone:
    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(**(TINY | changes))
    return DenseBackbone(model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def plain_kmeans(x: Tensor, k: int, seed: int, iterations: int = 100) -> Tensor:
    """(N,) of one image, loop by loop."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    centres = x[order[:k]].clone()
    for _ in range(iterations):
        label = torch.cdist(x[None].double(), centres[None].double())[0].argmin(dim=1)
        moved = centres.clone()
        for i in range(len(centres)):
            if (label == i).any():
                moved[i] = x[label == i].mean(dim=0)
        still = (moved - centres).square().sum() <= 1e-4
        centres = moved
        if still:
            break
    return torch.cdist(x[None].double(), centres[None].double())[0].argmin(dim=1)


def test_batched_kmeans_is_that_of_each_image() -> None:
    x = torch.randn(5, 60, 7) + 4 * torch.randn(5, 4, 7).repeat(1, 15, 1)
    found = cluster_tokens(x, clusters=6, seed=3)
    assert found.dtype == torch.int64
    for image, labels in zip(x, found, strict=True):
        assert torch.equal(labels, plain_kmeans(image, 6, 3))


def test_an_image_depends_on_no_other() -> None:
    x = torch.randn(4, 50, 6)
    together = cluster_tokens(x, clusters=5)
    alone = torch.cat([cluster_tokens(image[None], clusters=5) for image in x])
    assert torch.equal(together, alone)


def test_well_separated_blobs_are_found() -> None:
    blob = torch.arange(40) % 2
    x = (torch.randn(1, 40, 2) * 0.1) + 50 * blob[None, :, None]
    label = cluster_tokens(x, clusters=2)[0]
    assert torch.equal(label == label[0], blob == 0)


def test_more_clusters_than_tokens_and_equal_tokens() -> None:
    assert int(cluster_tokens(torch.randn(2, 3, 4), clusters=16).max()) < 3
    same = cluster_tokens(torch.ones(2, 9, 4), clusters=4)
    assert not same.any()
    assert not cluster_tokens(torch.randn(2, 9, 4), clusters=1).any()


def test_the_result_is_a_fixed_point() -> None:
    x = torch.randn(2, 80, 5)
    labels = cluster_tokens(x, clusters=4, max_iterations=100, tolerance=0)
    assert torch.equal(labels, cluster_tokens(x, clusters=4, max_iterations=200, tolerance=0))


@pytest.mark.parametrize("registers", [0, 4])
def test_features_are_the_normed_output_without_prefix_tokens(registers: int) -> None:
    backbone = tiny(reg_tokens=registers)
    images = torch.rand(2, 3, 24, 40)
    found = backbone(images)
    assert backbone.stride == 8
    assert found.shape == (2, 3, 5, 24)
    normed = (images - backbone.mean) / backbone.std
    tokens = backbone.model.forward_features(normed)  # type: ignore[operator]  # timm's
    assert torch.equal(found.flatten(1, 2), tokens[:, 1 + registers :])
    assert torch.allclose(found.mean(dim=3), torch.zeros(2, 3, 5), atol=1e-5)  # after a norm


def test_models_that_average_are_normed_too() -> None:
    backbone = tiny(global_pool="avg", class_token=False, fc_norm=True)
    found = backbone(torch.rand(1, 3, 16, 16))
    assert torch.allclose(found.mean(dim=3), torch.zeros(1, 2, 2), atol=1e-5)


def test_a_convolutional_network_gives_its_last_map() -> None:
    model = timm.create_model("test_convnext", pretrained=False, num_classes=0)
    backbone = DenseBackbone(model, (0.5,) * 3, (0.5,) * 3)
    found = backbone(torch.rand(1, 3, 2 * backbone.stride, 3 * backbone.stride))
    assert found.shape[:3] == (1, 2, 3)


def photo_of(height: int, width: int, seed: int = 0) -> Any:
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return coarse[rows[:, None], columns[None]]


def test_masks_tile_the_photograph() -> None:
    generator = DinoMasks(tiny(), {"backbone": "tiny"}, clusters=5, short_side=48)
    masks = generator(photo_of(60, 90))
    assert 2 <= len(masks) <= 5
    assert (masks.decode().sum(axis=0) == 1).all()
    assert masks.source == "dino"


def test_many_photographs_of_several_sizes_are_as_one_by_one() -> None:
    generator = DinoMasks(tiny(), {"backbone": "tiny"}, clusters=4, short_side=32)
    assert isinstance(generator, BatchMaskGenerator)
    photos = [photo_of(60, 90, 1), photo_of(90, 60, 2), photo_of(61, 90, 3), photo_of(1, 1, 4)]
    for photo, together in zip(photos, generator.many(photos), strict=True):
        alone = generator(photo)
        assert (together.height, together.width) == photo.shape[:2]
        assert together.masks == alone.masks
    assert generator.many([]) == []


def test_labels_of_a_batch_of_crops() -> None:
    generator = DinoMasks(tiny(), {}, clusters=4)
    labels = generator.label(torch.rand(2, 3, 64, 64))
    assert labels.shape == (2, 8, 8)
    assert labels.max() < 4


def test_it_describes_all_that_masks_depend_on() -> None:
    one = DinoMasks(tiny(), {"backbone": "tiny"})
    assert one.description == {
        "name": "dino", "backbone": "tiny", "clusters": 16, "short_side": 640,
        "long_side": 1333, "seed": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="clusters"):
        DinoMasks(tiny(), {}, clusters=0)


@pytest.mark.parametrize("layout", ["plain", "dino", "safetensors"])
def test_weights_are_read_from_a_file(tmp_path: Path, layout: str) -> None:
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    path = tmp_path / f"weights.{'safetensors' if layout == 'safetensors' else 'pth'}"
    if layout == "safetensors":
        save_file(state, path)
    elif layout == "plain":
        torch.save(state, path)
    else:
        teacher = {f"module.backbone.{k}": v for k, v in state.items()}
        torch.save({"teacher": teacher | {"module.head.mlp.0.weight": torch.zeros(2)}}, path)
    backbone, identity = load_backbone("test_vit", weights=path)
    assert identity["backbone"] == "test_vit"
    assert len(identity["weights_sha256"]) == 64
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, state[name])


def test_the_papers_backbone_takes_imagenets_statistics(tmp_path: Path) -> None:
    model = timm.create_model(NAMES["vit"], pretrained=False, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    backbone, _ = load_backbone(weights=tmp_path / "dino.pth")
    assert backbone.stride == 16
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_wrong_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("none")
    for name, reason in (
        ("other", r"another model \(it has no \w+\)"),
        ("text", "cannot be read"),
        ("no", "no such"),
    ):
        with pytest.raises(CheckpointError, match=reason) as caught:
            load_backbone("test_vit", weights=tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_data_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be downloaded .*: --dino\.weights FILE$"):
        load_backbone("test_vit3.r160_in1k")
