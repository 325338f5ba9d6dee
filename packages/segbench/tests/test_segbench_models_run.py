"""Every factory by its name on the command line, evaluated end to end on two scenes."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from transformers import GroupViTConfig, GroupViTModel

from segbench import Segmenter, UsageError, evaluate
from segbench.cli import load_segmenter, main
from segbench.models import ALIASES

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    }
}
CLIP_METHODS = ["clip", "maskclip", "sclip", "clearclip", "naclip", "pixelclip", "proxyclip"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Options of every factory, for small random models."""
    tiny, grouping = (tmp_path_factory.mktemp(name) for name in ("tiny-clip", "tiny-groupvit"))
    (tiny / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    GroupViTModel(
        GroupViTConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "depths": [1, 1, 1],
                "num_hidden_layers": 3,
                "num_group_tokens": [8, 4, 0],
                "num_output_groups": [8, 4, 0],
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
            projection_dim=16,
            projection_intermediate_dim=16,
        )
    ).save_pretrained(grouping)
    made: dict[str, dict[str, Any]] = {
        name: {"model": f"local-dir:{tiny}", "pretrained": "random"} for name in CLIP_METHODS
    }
    made["proxyclip"] |= {"backbone": "test_vit", "backbone_checkpoint": "random"}
    return {**made, "groupvit": {"checkpoint": str(grouping)}}


def test_every_alias_names_a_factory() -> None:
    assert sorted(ALIASES) == sorted([*CLIP_METHODS, "checkpoint", "groupvit", "onnx"])
    for target in ALIASES.values():
        with pytest.raises(UsageError, match=f"segmenter '{target}': "):
            load_segmenter(target, {"no_such_option": 1})


@pytest.mark.parametrize("method", [*CLIP_METHODS, "groupvit"])
def test_a_random_model_is_evaluated(options: dict[str, dict[str, Any]], method: str) -> None:
    model = load_segmenter(ALIASES[method], options[method])
    assert isinstance(model, Segmenter)
    report = evaluate(model, "scenes@whole", limit=2)
    assert report.data["images_scored"] == 2
    assert 0 <= report.metrics["pixel_acc"] <= 1
    assert report.model == {"name": model.name, "fingerprint": vars(model)["fingerprint"]}
    assert model.name.startswith(method)


def test_the_command_runs_and_resumes_a_model(
    options: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--option.{key}={value}" for key, value in options["naclip"].items()]
    command = ["run", "segbench.models:naclip", "scenes@whole", "--limit=2", f"--out={tmp_path}"]
    assert main([*command, *given, "--option.sigma=2"]) == 0
    found = json.loads((tmp_path / "scenes@whole" / "results.json").read_text())
    assert found["model"]["name"].endswith("sigma=2")
    assert main([*command, *given, "--option.sigma=2", "--skip_existing=true"]) == 0
    assert main([*command, *given, "--option.sigma=3", "--skip_existing=true"]) == 2
    assert "segbench: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factory", "given", "message"),
    [
        ("maskclip", ["--option.model=ViT-B-61"], "unknown open_clip model 'ViT-B-61'"),
        ("sclip", ["--option.checkpoint=/nowhere.pt"], "no checkpoint at '/nowhere.pt'"),
        ("clip", ["--option.modle=ViT-B-16"], "unexpected keyword argument 'modle'"),
        ("groupvit", ["--option.checkpoint=/nowhere/here"], "no checkpoint at '/nowhere/here'"),
    ],
)
def test_a_wrong_option_is_one_line_of_the_command(
    factory: str, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", f"segbench.models:{factory}", "scenes@whole", *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("segbench: segmenter 'segbench.models:")
    assert message in line


def test_without_open_clip_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UsageError, match="needs open_clip: pip install open_clip_torch"):
        load_segmenter("segbench.models:clip", {})
    assert open_clip is not None  # the real one is still there for others
