"""Checkpoints: whole or not at all, refused when damaged or foreign, never lost to a full disk."""

import errno
import hashlib
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from groupvit import CheckpointError, GroupViT, TrainConfig, load_model
from groupvit.training.checkpoint import Checkpoint, find_checkpoints, resume, save_checkpoint
from groupvit.training.schedule import build_optimizer


def test_checkpoint_folder_is_read_again(tiny_recipe: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GroupViT(tiny_recipe.model)
    optimizer = build_optimizer(model, tiny_recipe.optim)
    save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 2)
    older = save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 5)
    last = save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 12)
    assert find_checkpoints(tmp_path) == [older, last]
    assert sorted(p.name for p in last.folder.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "state.pt",
    ]
    for folder in (tmp_path, last.folder):
        again = load_model(folder)
        assert again.config == tiny_recipe.model and not again.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])


@pytest.fixture
def saved(tiny_recipe: TrainConfig, tmp_path: Path) -> Checkpoint:
    """A checkpoint of step 1."""
    model = GroupViT(tiny_recipe.model)
    optimizer = build_optimizer(model, tiny_recipe.optim)
    return save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 1)


def load_both(saved: Checkpoint, config: TrainConfig) -> None:
    load_model(saved.folder)
    model = GroupViT(config.model)
    resume(saved, model, build_optimizer(model, config.optim), config)


def without_checksums(saved: Checkpoint) -> None:
    """Make it a checkpoint of before there were any."""
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    del header["files"]
    path.write_text(json.dumps(header))


def test_checkpoint_holds_the_checksums_of_its_files(saved: Checkpoint) -> None:
    header = json.loads((saved.folder / "checkpoint.json").read_text())
    assert header["files"] == {
        name: hashlib.sha256((saved.folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "state.pt")
    }


def test_checkpoint_without_checksums_is_read(saved: Checkpoint, tiny_recipe: TrainConfig) -> None:
    without_checksums(saved)
    load_both(saved, tiny_recipe)


def test_a_recipe_of_before_a_field_was_there_is_the_same(
    saved: Checkpoint, tiny_recipe: TrainConfig
) -> None:
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    for name in ("sets", "source", "sampling", "sampling_temperature"):
        del header["config"]["data"][name]
    del header["config"]["machine"]
    path.write_text(json.dumps(header))
    load_both(saved, tiny_recipe)
    header["config"]["data"]["colour"] = 3
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"of another version.*unknown field 'data\.colour'"):
        load_both(saved, tiny_recipe)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("left", [None, 0, 100, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_damaged_checkpoint_is_one_line_that_names_the_file(
    saved: Checkpoint, tiny_recipe: TrainConfig, name: str, left: int | None, checked: bool
) -> None:
    path = saved.folder / name
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
    if not checked:
        without_checksums(saved)
    with pytest.raises(CheckpointError) as caught:
        load_both(saved, tiny_recipe)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said and "delete" not in said
    assert ("SHA-256" in said) == (checked and left is not None)


def test_damaged_checkpoint_says_what_there_is_in_its_place(
    saved: Checkpoint, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    model = GroupViT(tiny_recipe.model)
    optimizer = build_optimizer(model, tiny_recipe.optim)
    newest = save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 2)
    (newest.folder / "state.pt").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="delete checkpoint-00000002 to go on from checkpoint-00000001"
    ):
        resume(newest, model, optimizer, tiny_recipe)
    shutil.rmtree(newest.folder)
    resume(saved, model, optimizer, tiny_recipe)


def test_changed_byte_is_found(saved: Checkpoint) -> None:
    path = saved.folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: damaged checkpoint: its SHA-256"
    ):
        load_model(saved.folder)


def test_weights_of_another_model_are_one_line(saved: Checkpoint) -> None:
    without_checksums(saved)
    path = saved.folder / "model.safetensors"
    save_file({"wing": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(.*Missing key") as caught:
        load_model(saved.folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("config", [None, {}, 3])
def test_header_without_a_recipe_is_refused(saved: Checkpoint, config: Any) -> None:
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    header["config"] = config
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: damaged.* no recipe"):
        load_model(saved.folder)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: not a groupvit checkpoint"):
        load_model(saved.folder)


def test_other_names_beside_checkpoints_are_ignored(saved: Checkpoint, tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-9", "checkpoint-00000002.old", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert find_checkpoints(tmp_path) == [saved]


def test_other_folders_and_versions_are_refused(tiny_recipe: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a groupvit checkpoint"):
        load_model(tmp_path)
    model = GroupViT(tiny_recipe.model)
    optimizer = build_optimizer(model, tiny_recipe.optim)
    saved = save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 1)
    header = saved.folder / "checkpoint.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(
        CheckpointError, match="version 9, this reads groupvit-checkpoint version 1"
    ):
        load_model(tmp_path)
    content["config"]["model"]["wings"] = 2
    header.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="unknown field 'wings'"):
        load_model(tmp_path)
    header.write_text("{")
    with pytest.raises(CheckpointError, match="not a groupvit checkpoint"):
        load_model(tmp_path)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100_000, 6_600_000])  # weights have 6.4 MB, the state twice that
def test_full_disk_loses_no_older_checkpoint(
    saved: Checkpoint, tiny_recipe: TrainConfig, tmp_path: Path, size: int
) -> None:
    model = GroupViT(tiny_recipe.model)
    optimizer = build_optimizer(model, tiny_recipe.optim)
    torch.stack([p.sum() for p in model.parameters()]).sum().backward()  # type: ignore[no-untyped-call]  # PyTorch's
    optimizer.step()  # gives the optimizer a state
    before = load_model(tmp_path).state_dict()
    with (
        small_files(size),
        pytest.raises(CheckpointError, match=r"step 2 cannot be written .* older ones are kept"),
    ):
        save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 2)
    assert [p.name for p in tmp_path.iterdir()] == [saved.folder.name]
    after = load_model(tmp_path).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    last = save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 2)
    assert find_checkpoints(tmp_path) == [saved, last]


def test_a_disk_that_fails_at_the_last_moment_is_one_line(
    saved: Checkpoint, tiny_recipe: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("groupvit.training.checkpoint.json.dumps", full)
    model = GroupViT(tiny_recipe.model)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save_checkpoint(tmp_path, model, build_optimizer(model, tiny_recipe.optim), tiny_recipe, 2)
    assert "\n" not in str(caught.value)
    assert find_checkpoints(tmp_path) == [saved]
