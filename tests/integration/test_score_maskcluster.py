"""A model of maskcluster is scored by segbench's command line; neither imports the other."""

import json
from pathlib import Path

import pytest
import torch

from maskcluster.config import ClusterConfig, ModelConfig, TrainConfig
from maskcluster.model.clip import load_clip
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.released.export import export
from maskcluster.released.load import convert
from maskcluster.released.weights import save_released
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.training.checkpoint import save_checkpoint
from segbench import Segmenter, evaluate, load_task
from segbench.cli import main

WHOLE = "scenes@whole"
LOAD = "maskcluster.released.load:load_model"
SEGMENTER = "maskcluster.segmenting.segmenter:PixelCLIPSegmenter"

SCENES = """
version = 1
{protocol}

[dataset]
kind = "scenes"
split = "val"
count = 200
size_px = 64
difficulty = 0.3
seed = 0
"""
PIXELCLIP = """
short_px = 640
long_px = 2560
square_px = 48
templates = "pixelclip_select_8"
averaging = "normalise_mean_normalise"
split_synonyms = true
absent = "gt"
"""
SLIDING = """
short_px = 80
window_px = 44
stride_px = 22
templates = "groupvit_simple"
averaging = "normalise_mean_normalise"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PixelCLIP:
    """A PixelCLIP that was never trained."""
    folder = tmp_path_factory.mktemp("clip")
    sizes = {
        "embed_dim": 20,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 12
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes}))
    clip = load_clip(f"local-dir:{folder}", "random")
    return PixelCLIP.from_config(
        ModelConfig(architecture="ViT-B-16", pretrained="random"),
        ClusterConfig(clusters=3, tokens=2),
        clip=clip,
    ).eval()


@pytest.fixture(scope="module")
def released(model: PixelCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_released(model, path)
    return path


def given(path: Path, **options: object) -> list[str]:
    """Options of a run of segbench."""
    named = {"path": path, "load": LOAD, "segmenter": SEGMENTER, "precision": "float32", **options}
    return [f"--option.{name}={value}" for name, value in named.items()]


def task_file(folder: Path, name: str, protocol: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(SCENES.format(protocol=protocol))
    return path


def results(folder: Path) -> dict[str, object]:
    (path,) = folder.rglob("results.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_it_is_a_segmenter(model: PixelCLIP) -> None:
    assert isinstance(PixelCLIPSegmenter(model), Segmenter)


def test_whole_images_score_as_the_segmenter_itself_does(
    model: PixelCLIP, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "checkpoint", WHOLE, "--out", str(tmp_path), "--limit", "3"]
    assert main([*command, *given(released)]) == 0
    assert "pixelclip tiny.pth precision=float32" in capsys.readouterr().out
    direct = evaluate(PixelCLIPSegmenter(model, precision="float32"), WHOLE, limit=3)
    assert results(tmp_path)["metrics"] == direct.metrics
    assert main([*command, *given(released), "--skip_existing", "true"]) == 0


def test_the_published_protocol_is_the_published_path(
    model: PixelCLIP, released: Path, tmp_path: Path
) -> None:
    task = task_file(tmp_path, "scenes_pixelclip", PIXELCLIP)
    out = tmp_path / "out"
    command = ["run", "checkpoint", str(task), "--out", str(out), "--limit", "3"]
    assert main([*command, *given(released, grid=64)]) == 0
    segmenter = PixelCLIPSegmenter(model, precision="float32", grid=64)
    direct = evaluate(segmenter, load_task(task), limit=3)
    assert results(out)["metrics"] == direct.metrics
    image = torch.rand(3, 48, 48)
    assert segmenter.segment(image, torch.eye(20)[:4]).shape == (4, 64, 64)


def test_windows_of_any_size_are_scored(model: PixelCLIP, released: Path, tmp_path: Path) -> None:
    task = task_file(tmp_path, "scenes_sliding", SLIDING)
    out = tmp_path / "out"
    command = ["run", "checkpoint", str(task), "--out", str(out), "--limit", "2"]
    assert main([*command, *given(released)]) == 0
    direct = evaluate(PixelCLIPSegmenter(model, precision="float32"), load_task(task), limit=2)
    assert results(out)["metrics"] == direct.metrics


def test_a_run_a_folder_and_a_file_of_one_model_score_alike(
    model: PixelCLIP, tmp_path: Path
) -> None:
    export(model, tmp_path / "clip")
    config = TrainConfig(
        model=ModelConfig(architecture=f"local-dir:{tmp_path / 'clip'}", pretrained=""),
        cluster=ClusterConfig(clusters=3, tokens=2),
    )
    tuned = PixelCLIP.from_config(config.model, config.cluster)
    with torch.no_grad():
        for value in tuned.tower.visual.parameters():
            value.add_(0.1 * torch.randn_like(value))
    optimizer = torch.optim.AdamW(tuned.parameter_groups(config.optim))
    save_checkpoint(tmp_path / "run", tuned, optimizer, config, 1)
    convert(tmp_path / "run", tmp_path / "tuned")
    convert(tmp_path / "run", tmp_path / "tuned.pth", to="released")
    found = []
    for number, source in enumerate(("run", "tuned", "tuned.pth")):
        out = tmp_path / f"out{number}"
        command = ["run", "checkpoint", WHOLE, "--out", str(out), "--limit", "2"]
        assert main([*command, *given(tmp_path / source)]) == 0
        found.append(results(out)["metrics"])
    assert found[0] == found[1] == found[2]


def test_a_checkpoint_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pth").write_bytes(b"no weights")
    command = ["run", "checkpoint", WHOLE, "--limit", "1", *given(tmp_path / "a.pth")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{LOAD}: " in told
