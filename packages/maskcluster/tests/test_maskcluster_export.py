"""Export to open_clip's folders and back; runs as a source; models that cannot be described."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from maskcluster.config import ClusterConfig, ModelConfig, TrainConfig
from maskcluster.errors import CheckpointError, DataError
from maskcluster.model.clip import Clip
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.released import clip_config
from maskcluster.released.export import export, load_exported
from maskcluster.released.load import convert, load_model
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.training.checkpoint import save_checkpoint

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))
TEXTS = ["a cat", "a photo of a dog on the grass."]


def tiny(kind: str = "vit", *, custom_text: bool = False, **options: Any) -> PixelCLIP:
    trainable: Any = "attention" if kind == "vit" else "all"
    clip = restated.tiny_clip(kind, custom_text=custom_text)
    return PixelCLIP(clip, None, trainable=trainable, **options).eval()


@pytest.mark.parametrize("kind", ["vit", "convnext"])
@pytest.mark.parametrize("custom_text", [False, True])
def test_open_clip_loads_the_folder_and_computes_the_same_bits(
    kind: str, custom_text: bool, tmp_path: Path
) -> None:
    import open_clip

    model = tiny(kind, custom_text=custom_text)
    export(model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    loaded.eval()
    own: Any = model.clip
    assert loaded.state_dict().keys() == own.state_dict().keys()
    for name, value in own.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    image, ids = torch.rand(2, 3, *own.visual.image_size), tokenizer(TEXTS)
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(image), own.encode_image(image))
        assert torch.equal(loaded.encode_text(ids), own.encode_text(ids))
    quick = any(type(part).__name__ == "QuickGELU" for part in loaded.modules())
    assert quick == (kind == "vit")
    colours = preprocess.transforms[-1]
    torch.testing.assert_close(torch.tensor(colours.mean), model.mean.flatten(), rtol=0, atol=0)
    torch.testing.assert_close(torch.tensor(colours.std), model.std.flatten(), rtol=0, atol=0)


@pytest.mark.parametrize("last_block", ["pixelclip", "maskclip"])
def test_the_folder_comes_back_as_the_same_segmenter(last_block: str, tmp_path: Path) -> None:
    model = tiny(last_block=last_block)
    export(model, tmp_path / "out")
    found = load_model(tmp_path / "out")
    first, second = (PixelCLIPSegmenter(one, precision="float32") for one in (model, found))
    assert first.fingerprint == second.fingerprint
    image = torch.rand(3, 40, 32)
    bank = first.encode_text(TEXTS)
    assert torch.equal(bank, second.encode_text(TEXTS))
    assert torch.equal(first.segment(image, bank), second.segment(image, bank))
    assert found.prompts is None and not found.training
    export(found, tmp_path / "again")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_stochastic_depth_is_kept_for_those_who_train_on(tmp_path: Path) -> None:
    export(tiny("convnext"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["timm_drop_path"] == 0.1
    visual: Any = load_model(tmp_path / "out").clip.visual
    rates = {part.drop_prob for part in visual.modules() if hasattr(part, "drop_prob")}
    assert max(rates) == pytest.approx(0.1)


def test_a_run_becomes_a_folder(tmp_path: Path) -> None:
    export(tiny(), tmp_path / "first")
    config = TrainConfig(
        model=ModelConfig(architecture=f"local-dir:{tmp_path / 'first'}", pretrained=""),
        cluster=ClusterConfig(clusters=3, tokens=2),
    )
    model = PixelCLIP.from_config(config.model, config.cluster)
    with torch.no_grad():
        for value in model.tower.visual.parameters():
            value.add_(0.1)
    optimizer = torch.optim.AdamW(model.parameter_groups(config.optim))
    save_checkpoint(tmp_path / "run", model, optimizer, config, 4)
    for source in (tmp_path / "run", tmp_path / "run" / "checkpoint-00000004"):
        found = load_model(source)
        for name, value in model.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), name
    convert(tmp_path / "run", tmp_path / "tuned")
    convert(tmp_path / "run", tmp_path / "tuned.pth", to="released")
    for source in (tmp_path / "tuned", tmp_path / "tuned.pth"):
        own = load_model(source).clip.state_dict()
        assert all(torch.equal(own[n], v) for n, v in model.clip.state_dict().items())
    assert load_model(tmp_path / "tuned.pth").prompts is not None


def test_a_model_that_cannot_be_described_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny()
    own: Any = other.clip
    own.visual.ln_post = nn.LayerNorm(24, eps=0.1)  # what no configuration says
    with pytest.raises(CheckpointError, match="computes something else"):
        export(other, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"cannot be described.*Missing|size mismatch"):
        export(tiny(), tmp_path / "out", architecture="ViT-B-32")
    with pytest.raises(CheckpointError, match="open_clip has no model 'ViT-B-61'"):
        export(tiny(), tmp_path / "out", architecture="ViT-B-61")
    odd = tiny()
    odd.clip.__class__ = type("CoCa", (type(odd.clip),), {})
    with pytest.raises(CheckpointError, match="is a CoCa"):
        export(odd, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskcluster.released.export.save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space"):
        export(tiny(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists; choose another name"):
        export(tiny(), tmp_path / "out")


def test_folders_of_others_and_of_other_versions(tmp_path: Path) -> None:
    export(tiny(last_block="maskclip"), tmp_path / "out")
    path = tmp_path / "out" / "open_clip_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"maskcluster": {"version": 2}}))
    with pytest.raises(CheckpointError, match="not of version 1"):
        load_exported(tmp_path / "out")
    del config["maskcluster"]
    path.write_text(json.dumps(config))
    assert load_exported(tmp_path / "out").tower._layout.last_block == "pixelclip"  # type: ignore[attr-defined]
    (tmp_path / "out" / "open_clip_model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        load_exported(tmp_path / "out")


def test_colours_are_the_models_own() -> None:
    clip: Clip = replace(restated.tiny_clip(), mean=(0.5, 0.25, 0.125), std=(1.0, 0.5, 0.25))
    config = clip_config.describe_clip(PixelCLIP(clip, None))
    assert config["preprocess_cfg"]["mean"] == [0.5, 0.25, 0.125]
    built = clip_config.build_clip(config)
    assert built.mean == (0.5, 0.25, 0.125) and built.std == (1.0, 0.5, 0.25)


def test_a_configuration_that_builds_nothing_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(CheckpointError, match="no CLIP model can be built"):
        clip_config.build_clip({"model_cfg": {"embed_dim": 3, "colour": "red"}})
    clip_config.build_clip(clip_config.describe_clip(tiny()))
    assert not any("randomly" in message for message in caplog.messages)
