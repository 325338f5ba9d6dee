"""Names and shapes of both layouts, written down once more as a table."""

import re
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groupvit import GroupViT, ModelConfig, TextConfig, VisionConfig
from groupvit.released.layouts import from_layout, their_names, to_layout
from groupvit.released.sizes import infer_config
from groupvit.texts import Texts

Randomise = Callable[[nn.Module], None]
Shapes = dict[str, tuple[int, ...]]

DEPTHS, TOKENS, GROUPS = (6, 3, 3), (64, 8), (64, 8)


def both(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def two_layers(name: str, first: str, second: str, sizes: tuple[int, int, int]) -> Shapes:
    """An MLP from sizes[0] over sizes[1] to sizes[2]."""
    return both(f"{name}.{first}", *sizes[1::-1]) | both(f"{name}.{second}", *sizes[:0:-1])


def nvlabs_shapes() -> Shapes:
    """The published file: 401 parameters and 6 entries of batch norm."""
    image, text = "img_encoder", "text_encoder"
    found: Shapes = {
        "logit_scale": (), "multi_label_logit_scale": (), f"{image}.pos_embed": (1, 196, 384),
        f"{text}.token_embedding.weight": (49408, 256), f"{text}.positional_embedding": (77, 256),
    }  # fmt: skip
    found |= both(f"{image}.patch_embed.proj", 384, 3, 16, 16) | both(f"{image}.norm", 384)
    found |= both(f"{image}.patch_embed.norm", 384) | both(f"{text}.ln_final", 256)
    for stage, depth in enumerate(DEPTHS):
        for j in range(depth):
            block = f"{image}.layers.{stage}.blocks.{j}"
            found |= both(f"{block}.norm1", 384) | both(f"{block}.norm2", 384)
            found |= both(f"{block}.attn.qkv", 1152, 384) | both(f"{block}.attn.proj", 384, 384)
            found |= two_layers(f"{block}.mlp", "fc1", "fc2", (384, 1536, 384))
    for stage, (tokens, groups) in enumerate(zip(TOKENS, GROUPS, strict=True)):
        found[f"{image}.layers.{stage}.group_token"] = (1, tokens, 384)
        down = f"{image}.layers.{stage}.downsample"
        for name in ("norm_tokens", "norm_post_tokens", "norm_x", "norm_new_x"):
            found |= both(f"{down}.{name}", 384)
        found |= two_layers(f"{down}.mlp_inter", "fc1", "fc2", (tokens, 192, groups))
        found |= two_layers(f"{down}.mlp_channels", "fc1", "fc2", (384, 1536, 384))
        cross = f"{down}.pre_assign_attn"
        found |= both(f"{cross}.norm2", 384) | both(f"{cross}.norm_post", 384)
        found |= two_layers(f"{cross}.mlp", "fc1", "fc2", (384, 1536, 384))
        for where, name in product((f"{cross}.attn", f"{down}.assign"), "qkv"):
            found |= both(f"{where}.{name}_proj", 384, 384)
        found |= both(f"{cross}.attn.proj", 384, 384) | both(f"{down}.assign.proj", 384, 384)
    projector = f"{image}.layers.1.group_projector"
    found |= both(f"{projector}.0", 384)
    found |= two_layers(f"{projector}.1", "fc1", "fc2", (64, 192, 8))
    for layer in range(12):
        block = f"{text}.transformer.resblocks.{layer}"
        found |= {f"{block}.attn.in_proj_weight": (768, 256), f"{block}.attn.in_proj_bias": (768,)}
        found |= both(f"{block}.attn.out_proj", 256, 256)
        found |= both(f"{block}.ln_1", 256) | both(f"{block}.ln_2", 256)
        found |= two_layers(f"{block}.mlp", "c_fc", "c_proj", (256, 1024, 256))
    for name, width in (("img_projector", 384), ("text_projector", 256)):
        found |= both(f"{name}.linear_hidden.0", 4096, width, 1)
        found |= both(f"{name}.linear_hidden.1", 4096) | both(f"{name}.linear_out", 256, 4096, 1)
        found |= {f"{name}.linear_hidden.1.running_{part}": (4096,) for part in ("mean", "var")}
        found[f"{name}.linear_hidden.1.num_batches_tracked"] = ()
    return found


@pytest.fixture(scope="module")
def published() -> GroupViT:
    return GroupViT(ModelConfig())


def test_our_tensors_have_the_names_and_shapes_of_the_table(published: GroupViT) -> None:
    want = nvlabs_shapes()
    assert len(want) == 407
    got = {name: tuple(t.shape) for name, t in to_layout(published.state_dict(), "nvlabs").items()}
    assert got == want
    parameters = [torch.Size(s).numel() for name, s in want.items() if "running" not in name]
    assert sum(parameters) - 2 == 55_726_610  # without the two counts of batches


def test_sizes_of_the_published_model_follow_from_its_shapes() -> None:
    tensors = {name: torch.zeros(()).expand(s) for name, s in nvlabs_shapes().items()}
    assert infer_config(tensors, "nvlabs", {}) == ModelConfig()


def test_tensors_made_from_the_table_run_as_restated(restated: SimpleNamespace) -> None:
    """A file that our code has not written: its names mean what the restatement takes them for."""
    random = torch.Generator().manual_seed(0)
    stored: dict[str, Tensor] = {}
    for name, shape in nvlabs_shapes().items():
        value = 0.05 * torch.randn(shape, generator=random)
        spread = 20 if re.search("group_token|pos_embed", name) else 1
        stored[name] = value * spread + (1 if re.search(r"norm|ln_|running_var", name) else 0)
    for name in ("img_projector", "text_projector"):
        stored[f"{name}.linear_hidden.1.running_var"].abs_()
        stored[f"{name}.linear_hidden.1.num_batches_tracked"] = torch.tensor(7)
    model = GroupViT(infer_config(stored, "nvlabs", {})).eval()
    model.load_state_dict(from_layout(stored, model.state_dict(), "nvlabs"))
    assert int(model.state_dict()["image_projector.norm.num_batches_tracked"]) == 7

    images = torch.randn(1, 3, 224, 224, generator=random)
    ids = torch.tensor([[49406, 320, 2368, 49407]])
    with torch.no_grad():
        image, _, seen = model.encode_image(images)
        text = model.encode_text(Texts.of(ids))
        want = restated.see(stored, images, 6)
        whole, _ = restated.project(stored, "img_projector", want.pooled)
        words, _ = restated.project(stored, "text_projector", restated.read(stored, ids, 4))
    torch.testing.assert_close(seen.assignments, tuple(want.soft), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(text, words, rtol=1e-4, atol=1e-4)
    assert len(set(want.soft[0].argmax(dim=1).flatten().tolist())) > 4


def test_every_tensor_has_one_name_in_hugging_faces_layout(published: GroupViT) -> None:
    names = {ours: their_names(ours, "huggingface") for ours in published.state_dict()}
    flat = [name for theirs in names.values() for name in theirs]
    assert len(flat) == len(set(flat)) == 503  # theirs, and the multi-label scale
    assert names["vision.stages.1.blocks.2.attention.qkv.bias"] == [
        f"vision_model.encoder.stages.1.layers.2.self_attn.{part}_proj.bias" for part in "qkv"
    ]
    where = "vision_model.encoder.stages.0.downsample"
    ours = "vision.stages.0.grouping"
    assert names[f"{ours}.pre_assign.attention.out.weight"] == [
        f"{where}.pre_assign_attn.attn.out_proj.weight"
    ]
    assert names[f"{ours}.assign.out.weight"] == [f"{where}.assign.proj.weight"]


def test_unknown_names_and_layouts_are_errors() -> None:
    for name in ("vision.patches.projection.0.net.weight.extra"[7:], "vision.stages.x.group_token"):
        with pytest.raises(KeyError):
            their_names(name, "nvlabs")
    unknown: Any = "keras"
    with pytest.raises(ValueError, match="one of nvlabs, huggingface, got 'keras'"):
        their_names("logit_scale", unknown)


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
def test_layouts_give_back_what_they_took(layout: Any, randomise: Randomise) -> None:
    vision = VisionConfig(
        image_px=32, patch_px=8, width=16, heads=2, depths=(2, 1, 0, 1), group_tokens=(5, 4, 3),
        output_groups=(5, 4, 2),
    )  # fmt: skip
    text = TextConfig(vocabulary=11, context=6, width=12, layers=1, heads=3)
    model = GroupViT(ModelConfig(vision=vision, text=text, embed_dim=7, projector_hidden=9))
    randomise(model)
    state = model.state_dict()
    theirs = to_layout(state, layout)
    again = from_layout(theirs, state, layout)
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(again[name], value) and again[name].dtype == value.dtype, name
    for one in theirs.values():
        assert one.is_contiguous() and one.untyped_storage().nbytes() == one.nbytes  # safetensors
