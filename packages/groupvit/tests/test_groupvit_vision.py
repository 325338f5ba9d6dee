"""The image tower: positions, sizes, initial weights, stages."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupvit import ModelConfig, VisionConfig, roll_up
from groupvit.model.layers import Block
from groupvit.model.noise import step_noise
from groupvit.model.vision import ConvResidual, PatchEmbed, VisionTower

TINY = VisionConfig(
    image_px=32, patch_px=8, width=32, heads=2, depths=(1, 2, 1), group_tokens=(5, 3),
    output_groups=(4, 2),
)  # fmt: skip


@pytest.fixture(scope="module")
def published() -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(VisionConfig())


def test_sizes_of_the_published_tower(published: VisionTower) -> None:
    def size(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    assert size(published) == 28_837_136
    assert [size(stage) for stage in published.stages] == [14_246_656, 8_894_992, 5_323_392]
    assert size(published.patches.projection) + size(published.patches.norm) == 296_064
    assert size(published.stages[1].group_projector) == 14_792


@torch.no_grad()
def test_initial_weights_follow_the_release(published: VisionTower) -> None:
    for name, module in published.named_modules():
        if isinstance(module, nn.Linear):
            if module.weight.numel() > 10_000:
                assert float(module.weight.std()) == pytest.approx(0.02, rel=0.05), name
            assert not module.bias.any()
        elif isinstance(module, nn.LayerNorm):
            assert bool((module.weight == 1).all()) and not module.bias.any()
    convolution: Any = published.patches.projection
    assert float(convolution.weight.std()) == pytest.approx(0.0208, rel=0.02)
    assert float(published.patches.positions.std()) == pytest.approx(0.02, rel=0.02)
    tokens: list[Any] = [stage.group_token for stage in published.stages]
    assert float(tokens[0].std()) == pytest.approx(0.02, rel=0.02)
    assert not tokens[1].any()
    assert tokens[2] is None


def test_drop_path_grows_linearly_over_all_blocks(published: VisionTower) -> None:
    """Branches of block i are dropped with rate 0.1 i / 11, each sample and each branch alone."""
    count = 20_000
    noise = step_noise(1, device=torch.device("cpu"))
    keeps = published._keeps(noise, count)
    assert keeps[0] is None and len(keeps) == 12
    for i, keep in enumerate(keeps[1:], 1):
        assert keep is not None and keep.shape == (count, 2)
        rate = 0.1 * i / 11
        dropped = keep == 0
        for share in dropped.float().mean(dim=0).tolist():
            assert share == pytest.approx(rate, abs=4 * (rate / count) ** 0.5)
        both = float(dropped.all(dim=1).float().mean())
        assert both == pytest.approx(rate**2, abs=4 * rate / count**0.5)
        torch.testing.assert_close(keep[~dropped], torch.full_like(keep, 1 / (1 - rate))[~dropped])
    assert published._keeps(None, 3) == [None] * 12


def test_factors_of_branches_reach_their_blocks() -> None:
    """In training block i gets the i-th factors, counted over all stages; none in evaluation."""
    torch.manual_seed(0)
    tower = VisionTower(TINY).train()
    noise = step_noise(9, 4, device=torch.device("cpu"))
    want = tower._keeps(noise, 5)
    seen: list[Tensor | None] = []
    for module in tower.modules():
        if isinstance(module, Block):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    tower(torch.randn(5, 3, 32, 32), noise)
    assert len(seen) == 4 and seen[0] is want[0] is None
    for got, factors in zip(seen[1:], want[1:], strict=True):
        assert got is not None and factors is not None and torch.equal(got, factors)
    seen.clear()
    tower.eval()(torch.randn(5, 3, 32, 32), noise)
    assert seen == [None] * 4


def test_assignments_are_seen_in_evaluation_only() -> None:
    tower = VisionTower(TINY)
    images = torch.randn(2, 3, 32, 32)
    assert tower.train()(images).assignments == ()
    found = tower.eval()(images).assignments
    assert [tuple(soft.shape) for soft in found] == [(2, 4, 16), (2, 2, 4)]


def test_patches_are_normed_before_positions_are_added() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(TINY)
    nn.init.normal_(embed.positions)
    images = torch.randn(2, 3, 32, 32)
    tokens, grid = embed(images)
    assert grid == (4, 4)
    projection: Any = embed.projection
    patch = images[1, :, 8:16, 24:32]  # row 1, column 3: token 7
    value = (projection.weight * patch).sum(dim=(1, 2, 3)) + projection.bias
    want = F.layer_norm(value, (32,)) + embed.positions[0, 7]
    torch.testing.assert_close(tokens[1, 7], want, rtol=1e-4, atol=1e-4)


def test_positions_are_resized_bicubically_for_other_sizes() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(TINY).eval()
    nn.init.normal_(embed.positions)
    images = torch.randn(1, 3, 24, 61)  # 3 x 7 patches, 5 columns of pixels dropped
    tokens, grid = embed(images)
    assert grid == (3, 7)
    square = embed.positions.view(1, 4, 4, 32).permute(0, 3, 1, 2)
    positions = F.interpolate(square, size=(3, 7), mode="bicubic", align_corners=False)
    bare = embed.norm(embed.projection(images).flatten(2).mT)
    torch.testing.assert_close(tokens, bare + positions.flatten(2).mT)
    assert torch.equal(tokens, embed(images[..., :56])[0])


def test_constant_positions_stay_constant_when_resized() -> None:
    embed = PatchEmbed(TINY).eval()
    nn.init.constant_(embed.positions, 0.7)
    assert torch.allclose(embed._positions((9, 2)), torch.tensor(0.7))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_training_at_another_size_is_an_error(stem: Any) -> None:
    config = VisionConfig(
        image_px=32, patch_px=8, width=32, heads=2, depths=(1, 1), group_tokens=(3,),
        output_groups=(3,), stem=stem,
    )  # fmt: skip
    tower = VisionTower(config)
    with pytest.raises(ValueError, match=r"patch grid of \(4, 4\), got \(5, 4\)"):
        tower.train()(torch.zeros(1, 3, 40, 32))
    assert tower.eval()(torch.zeros(1, 3, 40, 32)).grid == (5, 4)


def test_stages_hand_over_segments_and_group_tokens() -> None:
    """Stage 1 gets its own tokens plus a projection of the tokens after stage 0's blocks."""
    torch.manual_seed(0)
    tower = VisionTower(TINY).eval()
    with torch.no_grad():
        for value in tower.parameters():
            value.add_(0.2 * torch.randn_like(value))
    images = torch.randn(2, 3, 32, 32)
    seen = tower(images)
    stages: list[Any] = list(tower.stages)
    x, _ = tower.patches(images)
    z = stages[0].blocks[0](torch.cat([x, stages[0].group_token.expand(2, -1, -1)], dim=1))
    x, first = stages[0].grouping(z[:, 16:], z[:, :16])
    g = stages[1].group_token + stages[1].group_projector(z[:, 16:])
    z = torch.cat([x, g], dim=1)
    for block in stages[1].blocks:
        z = block(z)
    x, second = stages[1].grouping(z[:, 4:], z[:, :4])
    groups = tower.norm(stages[2].blocks[0](x))
    torch.testing.assert_close(seen.groups, groups)
    torch.testing.assert_close(seen.pooled, groups.mean(dim=1))
    torch.testing.assert_close(seen.assignments, (first, second))
    assert first.shape == (2, 4, 16) and second.shape == (2, 2, 4)
    torch.testing.assert_close(roll_up(seen.assignments).sum(dim=1), torch.ones(2, 16))


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    tower = VisionTower(TINY).train()
    seen = tower(torch.randn(4, 3, 32, 32))
    torch.autograd.backward((seen.groups * torch.randn_like(seen.groups)).sum())
    silent = [name for name, p in tower.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"depths": (1,), "group_tokens": (), "output_groups": ()}, "one entry more"),
        ({"image_px": 225}, "multiple of patch_px, got 225 and 16"),
        ({"stem": "conv", "patch_px": 14}, "got 14"),
        ({"heads": 5}, "multiple of heads, got 384, 5"),
        ({"drop_path": 1.0}, r"in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VisionConfig(**values)


def test_conv_stem_sees_little_beyond_its_patch() -> None:
    torch.manual_seed(0)
    config = VisionConfig(image_px=64, patch_px=4, width=32, heads=2, stem="conv")
    embed: Any = PatchEmbed(config)
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    x = images
    for layer in embed.projection:
        if not isinstance(layer, ConvResidual):  # its norm is over the whole grid
            x = layer(x)
    torch.autograd.backward(x[0, :, 8, 8].sum())  # the patch of rows 32 to 35
    assert images.grad is not None
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (29, 35)
    assert ModelConfig(vision=config).vision.stem == "conv"
