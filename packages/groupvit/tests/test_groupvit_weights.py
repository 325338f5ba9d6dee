"""Released layouts: ours against Hugging Face's GroupViT both ways, round trips, other sizes."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GroupViTConfig, GroupViTModel

from groupvit import GroupViT, ModelConfig, TextConfig, VisionConfig, roll_up
from groupvit.cli import main
from groupvit.released.layouts import to_layout
from groupvit.released.weights import load_released, save_released
from groupvit.texts import Texts

Randomise = Callable[[nn.Module], None]

TINY = ModelConfig(
    vision=VisionConfig(
        image_px=32, patch_px=8, width=32, heads=2, depths=(2, 1, 1), group_tokens=(5, 3),
        output_groups=(5, 3),
    ),
    text=TextConfig(vocabulary=60, context=12, width=24, layers=2, heads=2),
    embed_dim=16,
    projector_hidden=20,
)  # fmt: skip


def inputs() -> tuple[Tensor, Tensor]:
    """Two images (2, 3, 224, 224) and three texts (3, 9), two of them padded."""
    random = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 224, 224, generator=random)
    tokens = torch.randint(1, 49000, (3, 9), generator=random)  # (3, 9)
    for row, end in enumerate((8, 5, 3)):
        tokens[row, end], tokens[row, end + 1 :] = 49407, 0
    return images, tokens


@torch.no_grad()
def ours_sees(model: GroupViT) -> dict[str, Tensor]:
    images, tokens = inputs()
    whole, parts, seen = model.encode_image(images)
    image = F.normalize(whole, dim=-1)
    text = F.normalize(model.encode_text(Texts.of(tokens)), dim=-1)
    maps = roll_up(seen.assignments).view(2, 8, *seen.grid)  # (B, G, h, w)
    owned = F.interpolate(maps, (224, 224), mode="bilinear", align_corners=False)
    similar = model.scale * F.normalize(parts, dim=-1) @ text.mT  # (B, G, K)
    return {
        "image": image,
        "text": text,
        "logits": model.scale * image @ text.mT,
        "map 1": seen.assignments[0],
        "map 2": seen.assignments[1],
        "groups": seen.groups,
        "group embeddings": parts,
        # of Hugging Face alone: no gate, no background, and the scale once more
        "segmentation": model.scale * torch.einsum("bgk,bghw->bkhw", similar, owned),
    }


@torch.no_grad()
def theirs_sees(model: GroupViTModel) -> dict[str, Tensor]:
    images, tokens = inputs()
    out = model(input_ids=tokens, pixel_values=images, output_segmentation=True)
    vision = out.vision_model_output
    parts = model.visual_projection(vision.last_hidden_state.flatten(0, 1))
    return {
        "image": out.image_embeds,
        "text": out.text_embeds,
        "logits": out.logits_per_image,
        "map 1": vision.attentions[0],
        "map 2": vision.attentions[1],
        "groups": vision.last_hidden_state,
        "group embeddings": parts.view(2, 8, -1),
        "segmentation": out.segmentation_logits,
    }


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """All within 1e-5 of the largest value."""
    size = {name: float(theirs[name].abs().max()) for name in ours}
    worst = {name: float((ours[name] - theirs[name]).abs().max()) for name in ours}
    figures = ", ".join(f"{name} {value:.1e} of {size[name]:.2g}" for name, value in worst.items())
    print(f"\nlargest absolute difference: {figures}")  # noqa: T201  # shown by -s
    for name in ours:
        assert worst[name] <= 1e-5 * size[name], name
    for name in ("map 1", "map 2"):
        assert torch.equal(ours[name].argmax(dim=1), theirs[name].argmax(dim=1))
    owners = set(ours["map 1"].argmax(dim=1).flatten().tolist())
    assert len(owners) > 8  # the maps are not all one group


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Hugging Face's progress bars stay out of the output, and its warnings reach `caplog`."""
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    theirs.enable_propagation()
    yield
    theirs.disable_propagation()
    theirs.enable_progress_bar()


@pytest.fixture(scope="module")
def full(randomise: Randomise) -> GroupViT:
    torch.manual_seed(0)
    model = GroupViT(ModelConfig()).eval()
    randomise(model)
    return model


@pytest.fixture
def tiny(randomise: Randomise) -> GroupViT:
    torch.manual_seed(0)
    model = GroupViT(TINY).eval()
    randomise(model)
    return model


def same_tensors(one: GroupViT, other: GroupViT) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_hugging_face_model_is_the_same_model_in_ours(tmp_path: Path, randomise: Randomise) -> None:
    torch.manual_seed(0)
    theirs = GroupViTModel(GroupViTConfig()).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "hf")
    ours = load_released(tmp_path / "hf")
    assert ours.config == ModelConfig(multi_label_scale=False)
    assert sum(p.numel() for p in ours.parameters()) == 55_726_609
    compare(ours_sees(ours), theirs_sees(theirs))


def test_our_model_is_the_same_model_in_hugging_face(
    full: GroupViT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_released(full, tmp_path / "hf", layout="huggingface")
    assert len(load_file(tmp_path / "hf" / "model.safetensors")) == 502
    theirs, told = GroupViTModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(told.values()) and len(theirs.state_dict()) == 502
    compare(ours_sees(full), theirs_sees(theirs.eval()))
    same_tensors(load_released(tmp_path / "hf"), full)  # the multi-label scale too
    theirs.save_pretrained(tmp_path / "again")
    same_tensors(load_released(tmp_path / "again"), full)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_nvlabs_round_trip_keeps_all_407_tensors(full: GroupViT, tmp_path: Path) -> None:
    assert sum(p.numel() for p in full.parameters()) == 55_726_610
    save_released(full, tmp_path / "model.pth")
    stored = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert len(stored) == 407
    assert stored["img_projector.linear_hidden.0.weight"].shape == (4096, 384, 1)
    assert stored["text_encoder.transformer.resblocks.11.attn.in_proj_weight"].shape == (768, 256)
    again = load_released(tmp_path / "model.pth")
    assert again.config == full.config
    same_tensors(again, full)


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
@pytest.mark.parametrize("with_scale", [True, False])
def test_sizes_come_back_from_the_file(
    layout: Any, with_scale: bool, randomise: Randomise, tmp_path: Path
) -> None:
    tiny = GroupViT(replace(TINY, multi_label_scale=with_scale)).eval()
    randomise(tiny)
    save_released(tiny, tmp_path / "saved", layout=layout)
    again = load_released(tmp_path / "saved")
    assert again.config.vision.depths == (2, 1, 1)
    assert again.config.vision.heads == again.config.text.heads == 2
    same_tensors(again, tiny)
    images, tokens = torch.randn(2, 3, 32, 32), Texts.of(torch.tensor([[3, 4, 59], [5, 59, 0]]))
    torch.testing.assert_close(again.encode_image(images)[1], tiny.encode_image(images)[1])
    torch.testing.assert_close(again.encode_text(tokens), tiny.encode_text(tokens))


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=st.floats(-5, 5, width=32))
def test_multi_label_scale_comes_back_to_the_last_bit(
    tiny: GroupViT, value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert tiny.multi_label_logit_scale is not None
    nn.init.constant_(tiny.multi_label_logit_scale, value)
    folder = tmp_path_factory.mktemp("scale") / "hf"
    save_released(tiny, folder, layout="huggingface")
    found = load_released(folder).multi_label_logit_scale
    assert found is not None and float(found.detach()) == value


def test_convert_goes_round_through_both_layouts(tiny: GroupViT, tmp_path: Path) -> None:
    save_released(tiny, tmp_path / "0.pth")
    steps = ["huggingface", "nvlabs", "huggingface", "nvlabs"]
    paths = [tmp_path / "0.pth", *(tmp_path / f"{i}" for i in range(1, 5))]
    for source, out, layout in zip(paths, paths[1:], steps, strict=False):
        assert main(["convert", str(source), str(out), "--layout", layout]) == 0
        same_tensors(load_released(out), tiny)
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in "13")
    assert first.keys() == last.keys() and all(torch.equal(first[k], last[k]) for k in first)


def test_files_of_2022_load(tiny: GroupViT, tmp_path: Path) -> None:
    """A pickle, with a buffer of positions, and configurations under two names."""
    folder = tmp_path / "hf"
    save_released(tiny, folder, layout="huggingface")
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    told = json.loads((folder / "config.json").read_text())
    told |= {"text_config_dict": told["text_config"], "vision_config_dict": None, "text_config": {}}
    (folder / "config.json").write_text(json.dumps(told))
    again = load_released(folder)
    same_tensors(again, tiny)
    assert again.config == TINY


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_shards_are_one_model(tiny: GroupViT, kind: str, tmp_path: Path) -> None:
    save_released(tiny, tmp_path / "whole", layout="huggingface")
    theirs = GroupViTModel.from_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="100KB")
    index = tmp_path / "hf" / "model.safetensors.index.json"
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    if kind == "pickle":
        for file in (tmp_path / "hf").glob("model-*.safetensors"):
            torch.save(load_file(file), file.with_suffix(".bin"))
            file.unlink()
        text = index.read_text().replace(".safetensors", ".bin")
        index.with_name("pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    same_tensors(load_released(tmp_path / "hf"), tiny)


def test_heads_that_config_does_not_name_are_hugging_faces_default(
    randomise: Randomise, tmp_path: Path
) -> None:
    """Older versions of transformers leave out what is at its default."""
    theirs = GroupViTModel(
        GroupViTConfig(
            text_config={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 1,
                         "vocab_size": 50, "bos_token_id": 48, "eos_token_id": 49},
            vision_config={"hidden_size": 48, "intermediate_size": 192, "depths": [1, 1, 1],
                           "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        )
    ).eval()  # fmt: skip
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "hf")
    told = json.loads((tmp_path / "hf" / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        del told[tower]["num_attention_heads"], told[tower]["hidden_act"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(told))
    ours = load_released(tmp_path / "hf")
    assert (ours.config.vision.heads, ours.config.text.heads) == (6, 4)
    images, ids = torch.randn(2, 3, 32, 32), torch.tensor([[3, 4, 49], [7, 49, 0]])
    with torch.no_grad():
        out = theirs(input_ids=ids, pixel_values=images)
        text = F.normalize(ours.encode_text(Texts.of(ids)), dim=-1)
        image = F.normalize(ours.encode_image(images)[0], dim=-1)
    torch.testing.assert_close(text, out.text_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, out.image_embeds, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
def test_positions_are_resized_for_training_at_another_size(
    tiny: GroupViT, layout: Any, restated: SimpleNamespace, tmp_path: Path
) -> None:
    save_released(tiny, tmp_path / "saved", layout=layout)
    large = load_released(tmp_path / "saved", image_px=56)  # 7 x 7 patches instead of 4 x 4
    assert large.config.vision.image_px == 56
    assert large.vision.patches.positions.shape == (1, 49, 32)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        for got, want in zip(large.encode_image(images), tiny.encode_image(images), strict=True):
            if isinstance(got, Tensor):
                torch.testing.assert_close(got, want)  # evaluation does the same as it goes
    tokens, _ = large.train().vision.patches(images)  # training takes the size
    weights = to_layout(tiny.state_dict(), "nvlabs")
    torch.testing.assert_close(tokens, restated.embed(weights, images)[0], rtol=1e-4, atol=1e-5)
    same_tensors(load_released(tmp_path / "saved", image_px=32), tiny)
    with pytest.raises(ValueError, match="image_px must be a multiple of patch_px, got 60 and 8"):
        load_released(tmp_path / "saved", image_px=60)
