"""Checkpoints: whole or not at all, refused when damaged or foreign, never lost to a full disk."""

import errno
import hashlib
import json
import resource
import runpy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskcluster.config import TrainConfig
from maskcluster.errors import CheckpointError
from maskcluster.model.clip import load_clip
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.training.checkpoint import (
    Checkpoint,
    clear_unfinished,
    find_checkpoints,
    is_run,
    load_model,
    read_config,
    resume,
    save_checkpoint,
    starts_as_its_recipe_says,
)
from maskcluster.training.schedule import build_optimizer
from maskcluster.training.train import build_model

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))
RECIPE: TrainConfig = case.RECIPE
Parts = tuple[PixelCLIP, torch.optim.AdamW]


def parts(config: TrainConfig = RECIPE) -> Parts:
    model = build_model(config, torch.device("cpu"), clip=case.tiny_clip())
    return model, build_optimizer(model, config.optim)


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    """A checkpoint of step 1."""
    seen = {"images": 4, "images_without_masks": 1, "masks": 9}
    return save_checkpoint(tmp_path, *parts(), RECIPE, 1, photos="abc", seen=seen)


def load_both(saved: Checkpoint, config: TrainConfig = RECIPE) -> dict[str, int]:
    load_model(saved.folder, clip=case.tiny_clip())
    return resume(saved, *parts(config), config, photos="abc")


def sign_again(saved: Checkpoint) -> None:
    """Make the checksums those of the files as they are."""
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    for name in header["files"]:
        header["files"][name] = hashlib.sha256((saved.folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(header))


def test_checkpoint_folder_is_read_again(tmp_path: Path) -> None:
    model, optimizer = parts()
    for step in (2, 5, 12):
        last = save_checkpoint(tmp_path, model, optimizer, RECIPE, step)
    assert [one.step for one in find_checkpoints(tmp_path)] == [5, 12]  # `checkpoints` is 2
    assert sorted(p.name for p in last.folder.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "state.pt",
    ]
    for folder in (tmp_path, last.folder):
        again = load_model(folder, clip=case.tiny_clip(seed=9))
        assert not again.training and read_config(folder) == RECIPE
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])


def test_checkpoint_says_what_it_is_and_holds_checksums(saved: Checkpoint) -> None:
    header = json.loads((saved.folder / "checkpoint.json").read_text())
    assert (header["kind"], header["version"], header["step"]) == ("maskcluster-checkpoint", 1, 1)
    assert header["photos"] == "abc" and header["config"]["cluster"]["clusters"] == 5
    assert header["clip"]["quick_gelu"] is True
    assert header["clip"]["mean"] == pytest.approx([0.48, 0.46, 0.41])
    for name, digest in header["files"].items():
        assert digest == hashlib.sha256((saved.folder / name).read_bytes()).hexdigest()
    kept = load_file(saved.folder / "model.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"clip", "teacher", "prompts", "decoder"}
    assert "clip.token_embedding.weight" in kept  # frozen, and here all the same
    torch.load(saved.folder / "state.pt", weights_only=True)


def test_a_run_is_told_from_other_folders(saved: Checkpoint, tmp_path: Path) -> None:
    assert is_run(tmp_path) and is_run(saved.folder)
    assert not is_run(tmp_path / "none") and not is_run(saved.folder / "state.pt")
    assert starts_as_its_recipe_says(tmp_path)
    save_checkpoint(tmp_path, *parts(), RECIPE, 2, given=("clip", "start"))
    assert not starts_as_its_recipe_says(tmp_path)


def test_counts_go_on(saved: Checkpoint) -> None:
    assert load_both(saved) == {"images": 4, "images_without_masks": 1, "masks": 9}


@pytest.mark.slow
@pytest.mark.parametrize("quick", [True, False])
def test_nothing_but_the_checkpoint_is_needed(
    tmp_path: Path, quick: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where weights ask for QuickGELU and the recipe's name of the model does not."""
    config = case.changed(model={"architecture": "ViT-B-32"}, cluster={"clusters": 2})
    clip = load_clip("ViT-B-32-quickgelu" if quick else "ViT-B-32", "random", seed=3)
    built = PixelCLIP.from_config(config.model, config.cluster, clip=clip).eval()
    save_checkpoint(tmp_path, built, build_optimizer(built, config.optim), config, 1)
    caplog.clear()
    again = load_model(tmp_path)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]  # of random weights
    activation = type(again.clip.visual.transformer.resblocks[0].mlp.gelu).__name__  # type: ignore[union-attr, index]
    assert activation == ("QuickGELU" if quick else "GELU")
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.features(images), built.features(images))


def test_prompts_of_another_length_than_the_recipes_are_read(tmp_path: Path) -> None:
    start = torch.randn(5, 7, 16)
    model = build_model(RECIPE, torch.device("cpu"), clip=case.tiny_clip(), start=start)
    save_checkpoint(tmp_path, model, build_optimizer(model, RECIPE.optim), RECIPE, 1)
    again = load_model(tmp_path, clip=case.tiny_clip())
    assert torch.equal(again.prompts.tokens, start)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    "cluster",
    [
        {"targets": "masks"},
        {"prompts": "direct"},
        {"prompts": "frozen"},
        {"prompts": "names", "names": ("a", "b", "c", "d", "e")},
    ],
    ids=str,
)
def test_every_kind_of_prompts_is_read_again(tmp_path: Path, cluster: dict[str, Any]) -> None:
    config = case.changed(cluster=cluster)
    model, optimizer = parts(config)
    saved = save_checkpoint(tmp_path, model, optimizer, config, 1)
    again = load_model(saved.folder, clip=case.tiny_clip(seed=9))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_what_does_not_change_what_is_learnt_may_differ(saved: Checkpoint) -> None:
    other = case.changed(
        machine={"decoder_chunk": 5}, data={"workers": 3}, log_every=7, checkpoints=9
    )
    load_both(saved, other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim": {"lr": 1e-3}}, r"optim\.lr was 0\.0001, is 0\.001"),
        ({"cluster": {"momentum": 0.5}}, r"cluster\.momentum was 0\.9, is 0\.5"),
        ({"seed": 4}, "seed was 0, is 4"),
        ({"views": {"blur_sigma": (0.2, 1.0)}}, r"views\.blur_sigma was \(0\.1, 2\.0\)"),
    ],
    ids=str,
)
def test_the_first_field_that_differs_is_named(
    saved: Checkpoint, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"by another recipe \({said}"):
        load_both(saved, case.changed(**changes))


def test_other_photographs_are_refused(saved: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="trained on other photographs or masks"):
        resume(saved, *parts(), RECIPE, photos="abd")


def test_a_recipe_of_before_a_field_was_there_is_the_same(saved: Checkpoint) -> None:
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    del header["config"]["machine"], header["config"]["optim"]["warmup_steps"], header["seen"]
    path.write_text(json.dumps(header))
    assert load_both(saved) == {}
    header["config"]["data"]["wings"] = 3
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"of another version.*unknown field 'data\.wings'"):
        load_both(saved)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("left", [None, 0, 100, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_damaged_checkpoint_is_one_line_that_names_the_file(
    saved: Checkpoint, name: str, left: int | None, signed: bool
) -> None:
    path = saved.folder / name
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
        if signed:
            sign_again(saved)
    with pytest.raises(CheckpointError) as caught:
        load_both(saved)
    said = str(caught.value)
    assert said.startswith(f"{path}: damaged") and "\n" not in said and "delete" not in said
    assert ("SHA-256" in said) == (left is not None and not signed)


def test_changed_byte_is_found(saved: Checkpoint) -> None:
    path = saved.folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged checkpoint: its SHA-256"):
        load_model(saved.folder, clip=case.tiny_clip())


def test_damaged_checkpoint_says_what_there_is_in_its_place(
    saved: Checkpoint, tmp_path: Path
) -> None:
    newest = save_checkpoint(tmp_path, *parts(), RECIPE, 2)
    (newest.folder / "state.pt").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="delete checkpoint-00000002 to go on from checkpoint-00000001"
    ):
        resume(newest, *parts(), RECIPE)
    shutil.rmtree(newest.folder)
    resume(saved, *parts(), RECIPE)


def test_weights_of_another_model_are_one_line(saved: Checkpoint) -> None:
    save_file({"wing": torch.zeros(2)}, saved.folder / "model.safetensors")
    sign_again(saved)
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(.*Missing key") as caught:
        load_model(saved.folder, clip=case.tiny_clip())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_another_clip_model_is_refused(saved: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="of another CLIP model than ViT-B-16"):
        load_model(saved.folder)


@pytest.mark.parametrize("config", [None, 3])
def test_header_without_a_recipe_is_refused(saved: Checkpoint, config: Any) -> None:
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"config": config}))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: damaged.* no recipe"):
        load_model(saved.folder)
    path.write_text(json.dumps(header | {"clip": config}))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: damaged.* no colours"):
        load_model(saved.folder)


def test_other_folders_and_versions_are_refused(saved: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a maskcluster checkpoint, and no run"):
        load_model(tmp_path / "none")
    path = saved.folder / "checkpoint.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"version": 9}))
    with pytest.raises(
        CheckpointError, match="version 9, this reads maskcluster-checkpoint version 1"
    ):
        load_model(tmp_path)
    for text, said in (("{", "damaged checkpoint: .*not JSON"), ("[]", "reads maskcluster-check")):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=said):
            load_model(tmp_path)


def test_what_a_killed_process_left_goes(saved: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-00000002.tmp").mkdir()
    (tmp_path / ".checkpoint-00000002.tmp" / "state.pt").touch()
    (tmp_path / "clusters.png.0123abcd.part").touch()
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [saved.folder]


def test_other_names_beside_checkpoints_are_ignored(saved: Checkpoint, tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-9", "checkpoint-00000002.old", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert find_checkpoints(tmp_path) == [saved]


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("part", ["model.safetensors", "state.pt"])
def test_full_disk_loses_no_older_checkpoint(saved: Checkpoint, tmp_path: Path, part: str) -> None:
    model, optimizer = parts()
    before = load_model(tmp_path, clip=case.tiny_clip()).state_dict()
    if part == "state.pt":  # which has to be the larger of the two
        pad = torch.zeros(2_000_000)
        optimizer.state[model.prompts.tokens]["pad"] = pad  # type: ignore[union-attr, index]
    weights = (saved.folder / "model.safetensors").stat().st_size
    limit = weights + 10_000 if part == "state.pt" else weights // 2
    with (
        small_files(limit),
        pytest.raises(CheckpointError, match=r"step 2 cannot be written .* older ones are kept"),
    ):
        save_checkpoint(tmp_path, model, optimizer, RECIPE, 2)
    assert [p.name for p in tmp_path.iterdir()] == [saved.folder.name]
    after = load_model(tmp_path, clip=case.tiny_clip()).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    last = save_checkpoint(tmp_path, model, optimizer, RECIPE, 2)
    assert find_checkpoints(tmp_path) == [saved, last]


def test_a_disk_that_fails_at_the_last_moment_is_one_line(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("maskcluster.files.json.dumps", full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save_checkpoint(tmp_path, *parts(), RECIPE, 2)
    assert "\n" not in str(caught.value)
    assert find_checkpoints(tmp_path) == [saved]
