"""The published checkpoints' layout: names, round trips, files of others, damaged files."""

import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskcluster.config import ClusterConfig, ModelConfig
from maskcluster.errors import CheckpointError, DataError
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.model.prompts import DirectPrompts, FixedPrompts
from maskcluster.released import weights
from maskcluster.released.layout import to_released
from maskcluster.released.load import convert, load_model
from maskcluster.released.weights import load_released, save_released

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))
PREDICTOR = "sem_seg_head.predictor."


def tiny(kind: str = "vit", **options: Any) -> PixelCLIP:
    """A model whose student has left its teacher behind."""
    trainable: Any = "attention" if kind == "vit" else "all"
    made = PixelCLIP.from_config(
        ModelConfig(architecture="ViT-B-16", pretrained="random", trainable=trainable),
        ClusterConfig(clusters=5, tokens=3, **options),
        clip=restated.tiny_clip(kind),
    )
    with torch.no_grad():
        for value in made.tower.visual.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return made.eval()


def check_equal(found: PixelCLIP, want: PixelCLIP) -> None:
    """All tensors, and what is computed with them, bit for bit."""
    assert found.state_dict().keys() == want.state_dict().keys()
    for name, value in want.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.features(image), want.features(image))
        if want.prompts is not None:
            assert found.prompts is not None
            assert torch.equal(found.prompts(), want.prompts())


@pytest.mark.parametrize("kind", ["vit", "convnext"])
@pytest.mark.parametrize("prompts", ["learnt", "frozen", "direct"])
def test_a_model_comes_back_bit_for_bit(kind: str, prompts: str, tmp_path: Path) -> None:
    model = tiny(kind, prompts=prompts)
    save_released(model, tmp_path / "model.pth")
    found = load_released(tmp_path / "model.pth")
    check_equal(found, model)
    assert type(found.prompts) is type(model.prompts) and not found.training
    trains = [name for name, value in model.named_parameters() if value.requires_grad]
    assert [name for name, value in found.named_parameters() if value.requires_grad] == trains


def test_fixed_prompts_and_none_come_back(tmp_path: Path) -> None:
    fixed = FixedPrompts(torch.randn(4, 20))
    model = PixelCLIP(restated.tiny_clip(), fixed, last_block="maskclip").eval()
    save_released(model, tmp_path / "fixed.pth")
    found = load_released(tmp_path / "fixed.pth")
    check_equal(found, model)
    assert isinstance(found.prompts, FixedPrompts)
    bare = PixelCLIP(restated.tiny_clip(), None).eval()
    save_released(bare, tmp_path / "bare.pth")
    check_equal(load_released(tmp_path / "bare.pth"), bare)


def test_names_are_those_of_the_release(tmp_path: Path) -> None:
    model = tiny()
    save_released(model, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    tensors = content["model"]
    own: Any = model.clip
    prompts: Any = model.prompts
    assert torch.equal(tensors[PREDICTOR + "clip_model.visual.proj"], own.visual.proj)
    assert torch.equal(tensors[PREDICTOR + "clip_model.ln_final.bias"], own.ln_final.bias)
    assert torch.equal(tensors[PREDICTOR + "prompt_tokens"], prompts.tokens)
    teacher: Any = model.teacher.tower.visual
    assert torch.equal(tensors["teacher_encoder.visual.proj"], teacher.proj)
    assert not torch.equal(tensors["teacher_encoder.visual.proj"], own.visual.proj)
    assert not any(name.startswith("teacher_encoder.transformer.") for name in tensors)
    assert "teacher_encoder.token_embedding.weight" in tensors
    size = (tmp_path / "model.pth").stat().st_size
    held = sum(v.numel() * 4 for v in model.state_dict().values())
    assert size < 1.1 * held + 200_000  # what teacher and student share is stored once

    class Double(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.GroupNorm(channels // 16, channels),
                    nn.ReLU(),
                ]
            self.double_conv = nn.Sequential(*layers)

    head: Any = nn.ModuleDict(
        {
            "conv0": nn.Conv2d(1, 64, 3, padding=1),
            "up1": nn.ConvTranspose2d(64, 64, 2, stride=2),
            "conv1": Double(64),
            "up2": nn.ConvTranspose2d(64, 32, 2, stride=2),
            "conv2": Double(32),
            "proj": nn.Conv2d(32, 1, 3, padding=1),
        }
    )
    head.load_state_dict(
        {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}
    )
    maps = torch.rand(2, 1, 5, 5)
    x = head["up1"](head["conv0"](maps))
    x = head["up2"](head["conv1"].double_conv(x))
    want = head["proj"](head["conv2"].double_conv(x))
    torch.testing.assert_close(model.decoder(maps), want)


def as_published(tensors: dict[str, Tensor], path: Path) -> Path:
    """A file as detectron2 writes it, with more than tensors."""
    rest = {"iteration": 9999, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}}
    torch.save({"model": tensors, **rest}, path)
    return path


def test_a_file_of_the_release_says_its_model_by_its_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    tensors = to_released(model.state_dict())
    path = as_published(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"of none of the models.*ViT-B-16-quickgelu"):
        load_released(path)
    asked = []

    def load_clip(architecture: str, pretrained: str) -> Any:
        asked.append((architecture, pretrained))
        return restated.tiny_clip(seed=7)

    monkeypatch.setattr(weights, "load_clip", load_clip)
    monkeypatch.setitem(weights._SHAPES, "tiny", {"visual.proj": (24, 20)})
    check_equal(load_released(path), model)
    check_equal(load_released(path, architecture="another"), model)
    assert asked == [("tiny", "random"), ("another", "random")]


@pytest.mark.parametrize("architecture", sorted(weights._SHAPES))
def test_the_shapes_are_those_of_the_architectures(architecture: str) -> None:
    import open_clip

    config = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    shapes = weights._SHAPES[architecture]
    assert shapes["text_projection"] == (text["width"], config["embed_dim"])
    assert config.get("quick_gelu", False) == architecture.endswith("-quickgelu")
    if "timm_model_name" in vision:
        import timm

        trunk = timm.create_model(vision["timm_model_name"], pretrained=False, num_classes=0)
        stem = trunk.state_dict()["stem.0.weight"]
        assert shapes["visual.trunk.stem.0.weight"] == tuple(stem.shape)
    else:
        patch, width = vision["patch_size"], vision["width"]
        assert shapes["visual.conv1.weight"] == (width, 3, patch, patch)
        grid = vision["image_size"] // patch
        assert shapes["visual.positional_embedding"] == (grid**2 + 1, width)


def test_what_a_file_does_not_have_is_as_at_the_start(tmp_path: Path) -> None:
    model = tiny()
    save_released(model, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    kept = {n: v for n, v in content["model"].items() if n.startswith(PREDICTOR + "clip_model.")}
    torch.save(content | {"model": kept}, tmp_path / "clip.pth")
    found = load_released(tmp_path / "clip.pth")
    assert found.prompts is None
    state = found.state_dict()
    for name, value in model.clip.state_dict().items():
        assert torch.equal(state[f"clip.{name}"], value)
    assert torch.equal(state["teacher.tower.visual.proj"], state["clip.visual.proj"])
    again = load_released(tmp_path / "clip.pth").state_dict()
    assert torch.equal(again["decoder.layers.0.weight"], state["decoder.layers.0.weight"])


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = tiny()
    save_released(model, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    proj = PREDICTOR + "clip_model.visual.proj"
    tensors = dict(content["model"])
    del tensors[proj]
    tensors["head.conv9.weight"] = torch.zeros(2)
    torch.save(content | {"model": tensors}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"of the CLIP model: missing: visual.proj"):
        load_released(tmp_path / "a.pth")
    tensors[proj] = torch.zeros(24, 21)
    torch.save(content | {"model": tensors}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"of another shape: visual.proj"):
        load_released(tmp_path / "a.pth")
    tensors[proj] = content["model"][proj]
    torch.save(content | {"model": tensors}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"of the decoder: unexpected: layers.conv9.weight"):
        load_released(tmp_path / "a.pth")


class Foreign:
    """What a trainer may have put into its file."""

    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_no_code_in_a_file_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny()
    save_released(model, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    torch.save({**content, "trainer": Foreign()}, tmp_path / "foreign.pth")
    check_equal(load_released(tmp_path / "foreign.pth"), model)
    assert capsys.readouterr().out == ""
    assert "objects of builtins.print are not read" in caplog.text


def test_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a PyTorch file that can be read"):
        load_released(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_released(tmp_path / "b.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps({"model": 3}))
    with pytest.raises(CheckpointError, match=r"p.pth: "):
        load_released(tmp_path / "p.pth")
    torch.save([1], tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_released(tmp_path / "c.pth")
    torch.save({"model": {}}, tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match="no table of tensors"):
        load_released(tmp_path / "d.pth")
    torch.save({"model": {"a.b": torch.zeros(1)}}, tmp_path / "e.pth")
    with pytest.raises(CheckpointError, match=r"has no sem_seg_head.predictor.clip_model.*: a.b"):
        load_released(tmp_path / "e.pth")
    with pytest.raises(DataError, match="no such checkpoint"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="not a maskcluster checkpoint"):
        load_model(tmp_path / "empty")


def test_what_the_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="under 8 templates"):
        save_released(tiny(templates="ensemble"), tmp_path / "a.pth")
    save_released(tiny(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="exists; choose another name"):
        save_released(tiny(), tmp_path / "a.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_file_becomes_a_folder_and_a_model_again(tmp_path: Path) -> None:
    model = tiny(prompts="direct")
    save_released(model, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "clip")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", to="released")
    check_equal(load_model(tmp_path / "b.pth"), model)
    assert isinstance(load_model(tmp_path / "a.pth").prompts, DirectPrompts)
    found = load_model(tmp_path / "clip")
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.features(image), model.features(image))
