"""A model of groupvit is scored by segbench's command line; neither package imports the other."""

import json
from pathlib import Path

import pytest
import torch

from groupvit import (
    GroupViT,
    GroupViTSegmenter,
    ModelConfig,
    TextConfig,
    VisionConfig,
    save_released,
)
from segbench import evaluate
from segbench.cli import main

TASK = "scenes@whole"
GROUPVIT = [
    "--option.load=groupvit:load_released",
    "--option.segmenter=groupvit:GroupViTSegmenter",
    "--option.precision=float32",
]


@pytest.fixture(scope="module")
def model() -> GroupViT:
    """A GroupViT that was never trained."""
    torch.manual_seed(0)
    vision = VisionConfig(
        image_px=32, patch_px=8, width=32, heads=2,
        depths=(1, 1, 1), group_tokens=(6, 3), output_groups=(6, 3),
    )  # fmt: skip
    text = TextConfig(width=16, layers=1, heads=2)
    return GroupViT(ModelConfig(embed_dim=16, projector_hidden=32, vision=vision, text=text)).eval()


@pytest.fixture(scope="module")
def checkpoint(model: GroupViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_released(model, path)
    return path


def test_the_command_line_gives_the_number_of_the_segmenter_itself(
    model: GroupViT, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--option.path={checkpoint}", *GROUPVIT]
    command = ["run", "checkpoint", TASK, "--out", str(tmp_path), "--limit", "3", *given]
    assert main(command) == 0
    assert "groupvit tiny.pth precision=float32" in capsys.readouterr().out
    found = json.loads((tmp_path / TASK / "results.json").read_text())
    direct = evaluate(GroupViTSegmenter(model, precision="float32"), TASK, limit=3)
    assert found["metrics"] == direct.metrics
    assert len(found["model"]["fingerprint"]) == 64
    assert main([*command, "--skip_existing", "true"]) == 0  # known by its weights


def test_a_factory_of_ones_own_is_called_with_its_options(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "my_groupvit_models.py").write_text(
        "from groupvit import GroupViTSegmenter, load_released\n\n\n"
        "def make(checkpoint, name):\n"
        "    return GroupViTSegmenter(load_released(checkpoint), name=name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = [f"--option.checkpoint={checkpoint}", "--option.name=mine"]
    assert main(["run", "my_groupvit_models:make", TASK, "--limit", "2", *given]) == 0
    assert "mine" in capsys.readouterr().out


def test_a_checkpoint_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pth").write_bytes(b"no weights")
    given = [f"--option.path={tmp_path / 'a.pth'}", *GROUPVIT]
    assert main(["run", "checkpoint", TASK, "--limit", "1", *given]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "groupvit:load_released: " in told
