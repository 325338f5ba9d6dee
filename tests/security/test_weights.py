"""Files of weights: whatever stands in one, no code of it runs, and the error is one line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

import groupvit
import maskcluster
from conceptarchive import ConceptArchiveError, OpenClipEncoder
from groupvit.training.checkpoint import Checkpoint
from groupvit.training.checkpoint import resume as resume_groupvit
from groupvit.training.checkpoint import save_checkpoint as save_groupvit
from maskcluster.training.checkpoint import Checkpoint as MaskclusterCheckpoint
from maskcluster.training.checkpoint import resume as resume_maskcluster
from maskcluster.training.checkpoint import save_checkpoint as save_maskcluster
from segbench.models import clip, proxyclip
from segbench.models import groupvit as huggingface_groupvit

CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1},
}
NAME = "hostile-tiny"

Load = Callable[[Path, Path], object]
"""Calls a reader with the hostile file and a folder for what it needs beside it."""


@pytest.fixture(scope="module", autouse=True)
def _architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("configs") / f"{NAME}.json"
    path.write_text(json.dumps(CLIP))
    open_clip.add_model_config(path)


def folder_of(file: Path, folder: Path, config: dict[str, Any], *names: str) -> Path:
    """A folder of a configuration and of weights under the names that a reader looks for."""
    folder.mkdir()
    (folder / names[0]).write_text(json.dumps(config))
    (folder / names[1]).write_bytes(file.read_bytes())
    return folder


def open_clip_folder(file: Path, folder: Path) -> str:
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    names = ("open_clip_config.json", "open_clip_pytorch_model.bin")
    return f"local-dir:{folder_of(file, folder / 'clip', config, *names)}"


def huggingface_folder(file: Path, folder: Path, kind: str) -> Path:
    return folder_of(file, folder / "hf", {"model_type": kind}, "config.json", "pytorch_model.bin")


READERS: dict[str, tuple[type[Exception], Load]] = {
    "conceptarchive: checkpoint": (
        ConceptArchiveError, lambda file, _: OpenClipEncoder(NAME, checkpoint=file),
    ),
    "conceptarchive: local-dir": (
        ConceptArchiveError, lambda file, here: OpenClipEncoder(open_clip_folder(file, here)),
    ),
    "groupvit: released": (groupvit.CheckpointError, lambda file, _: groupvit.load_released(file)),
    "groupvit: Hugging Face": (
        groupvit.CheckpointError,
        lambda file, here: groupvit.load_released(huggingface_folder(file, here, "groupvit")),
    ),
    "maskcluster: released": (
        maskcluster.CheckpointError, lambda file, _: maskcluster.load_released(file),
    ),
    "maskcluster: CLIP": (
        maskcluster.DataError, lambda file, _: maskcluster.load_clip(NAME, str(file)),
    ),
    "maskcluster: CLIP in a folder": (
        maskcluster.DataError,
        lambda file, here: maskcluster.load_clip(open_clip_folder(file, here)),
    ),
    "maskcluster: DINO": (
        maskcluster.CheckpointError,
        lambda file, _: maskcluster.load_backbone("test_vit", weights=file),
    ),
    "maskcluster: SAM": (
        maskcluster.MaskClusterError,
        lambda file, here: maskcluster.load_sam(str(huggingface_folder(file, here, "sam"))),
    ),
    "segbench: CLIP": (ValueError, lambda file, _: clip(model=NAME, checkpoint=str(file))),
    "segbench: CLIP in a folder": (
        ValueError, lambda file, here: clip(model=open_clip_folder(file, here)),
    ),
    "segbench: DINO": (
        ValueError,
        lambda file, _: proxyclip(
            model=NAME, pretrained="random", backbone="test_vit", backbone_checkpoint=str(file)
        ),
    ),
    "segbench: GroupViT": (
        ValueError,
        lambda file, here: huggingface_groupvit(str(huggingface_folder(file, here, "groupvit"))),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of libraries, about small models
@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_file_of_weights_does_not_run(reader: str, trap: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    error, load = READERS[reader]
    torch.save({"model": {"a": torch.zeros(2)}, "state_dict": trap, "hook": trap}, file)
    with pytest.raises(error) as caught:
        load(file, tmp_path)
    assert not trap.sprung
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sam", "groupvit"])
def test_code_beside_a_file_of_weights_does_not_run(kind: str, trap: Any, tmp_path: Path) -> None:
    """Hugging Face's `auto_map` names modules of the folder itself."""
    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    folder = huggingface_folder(weights, tmp_path, f"{kind}-of-a-stranger")
    told = {"model_type": f"{kind}-of-a-stranger", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(trap.folder)!r})\n")
    load = maskcluster.load_sam if kind == "sam" else huggingface_groupvit
    with pytest.raises((maskcluster.MaskClusterError, ValueError)):
        load(str(folder))
    assert not trap.sprung


def set_state(folder: Path, state: object) -> None:
    """Put another optimizer state into a checkpoint, with a checksum that holds."""
    torch.save({"optimizer": state}, folder / "state.pt")
    header = json.loads((folder / "checkpoint.json").read_text())
    header["files"]["state.pt"] = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps(header))


def test_groupvit_goes_on_from_no_state_with_code(trap: Any, tmp_path: Path) -> None:
    vision = groupvit.VisionConfig(
        image_px=16, patch_px=8, width=8, heads=1, depths=(0, 0), group_tokens=(2,),
        output_groups=(2,), stem="conv", pre_assign=False,
    )  # fmt: skip
    text = groupvit.TextConfig(width=8, layers=1, heads=1)
    sizes = groupvit.ModelConfig(embed_dim=8, projector="linear", vision=vision, text=text)
    config = groupvit.TrainConfig(model=sizes, optim=groupvit.OptimConfig(total_steps=2))
    model = groupvit.GroupViT(sizes)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = save_groupvit(tmp_path, model, optimizer, config, 1)
    set_state(saved.folder, trap)
    with pytest.raises(groupvit.CheckpointError, match=r"state\.pt"):
        resume_groupvit(Checkpoint(saved.folder, 1), model, optimizer, config)
    assert not trap.sprung


def test_maskcluster_goes_on_from_no_state_with_code(trap: Any, tmp_path: Path) -> None:
    config = maskcluster.TrainConfig(
        model=maskcluster.ModelConfig(architecture=NAME, pretrained="random"),
        cluster=maskcluster.ClusterConfig(clusters=2, tokens=1),
        optim=maskcluster.OptimConfig(total_steps=2),
    )
    tower = maskcluster.load_clip(NAME, "random")
    model = maskcluster.PixelCLIP.from_config(config.model, config.cluster, clip=tower)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = save_maskcluster(tmp_path, model, optimizer, config, 1)
    set_state(saved.folder, trap)
    with pytest.raises(maskcluster.CheckpointError, match=r"state\.pt"):
        resume_maskcluster(MaskclusterCheckpoint(saved.folder, 1), model, optimizer, config)
    assert not trap.sprung
