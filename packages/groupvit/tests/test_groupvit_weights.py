"""Released layouts: ours against Hugging Face's GroupViT, both ways, and what is refused."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GroupViTConfig, GroupViTModel

from groupvit import CheckpointError, GroupViT, ModelConfig, TextConfig, VisionConfig
from groupvit.released.layouts import their_names
from groupvit.released.weights import load_released, save_released

TINY = ModelConfig(
    vision=VisionConfig(
        image_px=32, patch_px=8, width=32, heads=2, depths=(2, 1, 1), group_tokens=(5, 3),
        output_groups=(5, 3),
    ),
    text=TextConfig(vocabulary=60, context=12, width=24, layers=2, heads=2),
    embed_dim=16,
    projector_hidden=20,
)  # fmt: skip


def randomise(model: nn.Module) -> None:
    """Make every tensor, batch norm statistics too, differ from its neighbours."""
    random = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
        elif name.endswith("logit_scale"):
            value.fill_(2.5)
        elif value.is_floating_point():
            # far from the small initial values, so that the assignments are not all alike
            spread = 1.0 if "group_token" in name or "position" in name else 0.05
            value.add_(spread * torch.randn(value.shape, generator=random))


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
    image = nn.functional.normalize(whole, dim=-1)
    text = nn.functional.normalize(model.encode_text(tokens), dim=-1)
    return {
        "image": image,
        "text": text,
        "logits": model.scale * image @ text.mT,
        "map 1": seen.assignments[0],
        "map 2": seen.assignments[1],
        "groups": seen.groups,
        "group embeddings": parts,
    }


@torch.no_grad()
def theirs_sees(model: GroupViTModel) -> dict[str, Tensor]:
    images, tokens = inputs()
    out = model(input_ids=tokens, pixel_values=images, output_attentions=True)
    vision = out.vision_model_output
    return {
        "image": out.image_embeds,
        "text": out.text_embeds,
        "logits": out.logits_per_image,
        "map 1": vision.attentions[0],
        "map 2": vision.attentions[1],
        "groups": vision.last_hidden_state,
        "group embeddings": model.visual_projection(vision.last_hidden_state.flatten(0, 1)).view(
            2, 8, -1
        ),
    }


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    worst = {name: float((ours[name] - theirs[name]).abs().max()) for name in ours}
    figures = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    print(f"\nlargest absolute difference: {figures}")  # noqa: T201  # shown by -s
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)
    assert (
        len(set(ours["map 1"].argmax(dim=1).flatten().tolist())) > 8
    )  # the maps are not all one group


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Hugging Face's progress bars stay out of the output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def full() -> GroupViT:
    torch.manual_seed(0)
    model = GroupViT(ModelConfig()).eval()
    randomise(model)
    return model


def test_hugging_face_model_is_the_same_model_in_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = GroupViTModel(GroupViTConfig()).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "hf")
    ours = load_released(tmp_path / "hf")
    assert ours.config == ModelConfig(multi_label_scale=False)
    assert sum(p.numel() for p in ours.parameters()) == 55_726_609
    compare(ours_sees(ours), theirs_sees(theirs))


def test_our_model_is_the_same_model_in_hugging_face(full: GroupViT, tmp_path: Path) -> None:
    save_released(full, tmp_path / "hf", layout="huggingface")
    theirs, told = GroupViTModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert len(theirs.state_dict()) == 502
    compare(ours_sees(full), theirs_sees(theirs.eval()))


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


def same_tensors(one: GroupViT, other: GroupViT) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.fixture
def tiny() -> GroupViT:
    torch.manual_seed(0)
    model = GroupViT(TINY).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
def test_sizes_come_back_from_the_file(tiny: GroupViT, layout: Any, tmp_path: Path) -> None:
    save_released(tiny, tmp_path / "saved", layout=layout)
    again = load_released(tmp_path / "saved")
    assert again.config.vision.depths == (2, 1, 1)
    assert again.config.vision.heads == again.config.text.heads == 2
    if layout == "huggingface":  # drops the multi-label scale, and the rate of drop path
        assert not again.config.multi_label_scale
        tiny.multi_label_logit_scale = None
    same_tensors(again, tiny)
    images, tokens = torch.randn(2, 3, 32, 32), torch.tensor([[3, 4, 59], [5, 59, 0]])
    torch.testing.assert_close(again.encode_image(images)[1], tiny.encode_image(images)[1])
    torch.testing.assert_close(again.encode_text(tokens), tiny.encode_text(tokens))


def test_every_tensor_has_one_name_in_each_layout(full: GroupViT) -> None:
    names = {ours: their_names(ours, "huggingface") for ours in full.state_dict()}
    flat = [name for theirs in names.values() for name in theirs]
    assert len(flat) == len(set(flat)) == 502
    assert names["multi_label_logit_scale"] == []
    assert names["vision.stages.1.blocks.2.attention.qkv.bias"] == [
        f"vision_model.encoder.stages.1.layers.2.self_attn.{part}_proj.bias" for part in "qkv"
    ]
    where = "vision_model.encoder.stages.0.downsample"
    ours = "vision.stages.0.grouping"
    assert names[f"{ours}.pre_assign.attention.out.weight"] == [
        f"{where}.pre_assign_attn.attn.out_proj.weight"
    ]
    assert names[f"{ours}.assign.out.weight"] == [f"{where}.assign.proj.weight"]
    with pytest.raises(KeyError):
        their_names("vision.patches.projection.0.net.weight.extra"[7:], "nvlabs")


def test_files_of_2022_with_position_ids_load(tiny: GroupViT, tmp_path: Path) -> None:
    save_released(tiny, tmp_path / "hf", layout="huggingface")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "hf" / "pytorch_model.bin")
    again = load_released(tmp_path / "hf")
    tiny.multi_label_logit_scale = None
    same_tensors(again, tiny)


class Ran:
    """Stands for an object in a foreign checkpoint whose code must not run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (create, ("ran",))


def create(name: str) -> str:
    Path(os.environ["GROUPVIT_TEST_FOLDER"], name).touch()
    return name


class Settings:
    """Stands for a configuration object: a class with state, of a library that is not here."""

    def __init__(self) -> None:
        self.content = {"depth": [1, 2]}


def test_foreign_objects_are_not_loaded(
    tiny: GroupViT,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GROUPVIT_TEST_FOLDER", str(tmp_path))
    save_released(tiny, tmp_path / "plain.pth")
    stored = torch.load(tmp_path / "plain.pth", weights_only=True)
    stored |= {"config": Settings(), "hook": Ran(), "metrics": defaultdict(list, {"miou": [52.3]})}
    torch.save(stored, tmp_path / "training.pth")
    same_tensors(load_released(tmp_path / "training.pth"), tiny)
    assert not (tmp_path / "ran").exists()
    assert "are not read" in caplog.text and "Settings" in caplog.text
    torch.load(tmp_path / "training.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # the trap works


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_wrong_tensors_are_named(tiny: GroupViT, layout: Any, change: str, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    save_released(tiny, path, layout=layout)
    file = path / "model.safetensors"
    stored: dict[str, Any] = (
        torch.load(path, weights_only=True) if layout == "nvlabs" else {"model": load_file(file)}
    )
    name = their_names("text.blocks.0.mlp.fc1.bias", layout)[0]
    if change == "missing":
        del stored["model"][name]
    elif change == "unexpected":
        name = "stray.weight"
        stored["model"][name] = torch.zeros(2)
    else:
        stored["model"][name] = torch.zeros(3)
    if layout == "nvlabs":
        torch.save(stored, path)
    else:
        save_file(stored["model"], file)
    with pytest.raises(CheckpointError, match=f"{change}.*{name}|{name}.*{change}") as caught:
        load_released(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_checkpoint_is_refused(tiny: GroupViT, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"a": "b"}}, tmp_path / "words.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{")
    for name, said in (
        ("text.pth", "not a PyTorch file"),
        ("other.pth", "neither NVlabs' nor Hugging Face's names"),
        ("list.pth", "holds a list"),
        ("words.pth", "no table of tensors"),
        ("folder", "not a checkpoint"),
        ("nothing", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_released(tmp_path / name)
    save_released(tiny, tmp_path / "there.pth")
    with pytest.raises(CheckpointError, match="exists"):
        save_released(tiny, tmp_path / "there.pth")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("vision.stem", {"vision": VisionConfig(stem="conv", width=384)}),
        ("vision.pre_assign", {"vision": VisionConfig(pre_assign=False)}),
        ("projector", {"projector": "linear"}),
    ],
)
def test_other_models_have_no_released_layout(
    field: str, values: dict[str, Any], tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = GroupViT(ModelConfig(**values))
    with pytest.raises(CheckpointError, match=field):
        save_released(model, tmp_path / "model.pth")


def test_heads_that_cannot_be_known_are_an_error(tiny: GroupViT, tmp_path: Path) -> None:
    save_released(tiny, tmp_path / "hf", layout="huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    del config["vision_config"]["num_attention_heads"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="attention heads is not known: vision width 32"):
        load_released(tmp_path / "hf")
