"""Training: a killed run goes on as if nothing had happened; what is kept when it fails."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from groupvit import (
    CheckpointError,
    DataConfig,
    DivergedError,
    GroupViT,
    OptimConfig,
    PairDataset,
    RecipeError,
    TrainConfig,
    index_shards,
    load_model,
    train,
)
from groupvit.training.checkpoint import Checkpoint, find_checkpoints, resume, save_checkpoint
from groupvit.training.schedule import build_optimizer, learning_rate
from groupvit.training.train import training_step

CPU = torch.device("cpu")


def pairs_of(shard: Path, config: TrainConfig) -> PairDataset:
    pairs, _ = index_shards([shard], dataset="toy")
    return PairDataset.from_config(pairs, config.data, 32)


def lines(log: Path) -> list[dict[str, float]]:
    """Records of a log without what depends on the clock."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "images_per_s"} for record in records]


class KilledError(Exception):
    pass


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Raise in place of the optimizer step of a given number; None stops doing so."""
    module = import_module("groupvit.training.train")
    real, count = module.training_step, {"left": -1}

    def step(*args: Any) -> Any:
        if count["left"] == 0:
            raise KilledError
        count["left"] -= 1
        return real(*args)

    monkeypatch.setattr(module, "training_step", step)
    yield lambda number: count.update(left=-1 if number is None else number)


@pytest.mark.parametrize("killed", [1, 4, 7])
def test_a_killed_run_ends_like_an_unbroken_one(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    kill_at: Callable[[int | None], None],
    killed: int,
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    unbroken = train(tiny_recipe, data, tmp_path / "unbroken", device=CPU)
    kill_at(killed)
    with pytest.raises(KilledError):
        train(tiny_recipe, data, tmp_path / "killed", device=CPU)
    assert [c.step for c in find_checkpoints(tmp_path / "killed")] == [
        step for step in [killed // 3 * 3] if step
    ]
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 9')  # the line that was being written
    kill_at(None)
    resumed = train(tiny_recipe, data, tmp_path / "killed", device=CPU)
    first = load_file(unbroken.checkpoint / "model.safetensors")
    second = load_file(resumed.checkpoint / "model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert lines(resumed.log) == lines(unbroken.log)
    assert [int(record["step"]) for record in lines(resumed.log)] == list(range(1, 9))


def test_a_finished_run_is_left_alone(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    first = train(tiny_recipe, data, tmp_path / "run", device=CPU)
    weights = (first.checkpoint / "model.safetensors").read_bytes()
    again = train(tiny_recipe, data, tmp_path / "run", device=CPU)
    assert again == first
    assert (first.checkpoint / "model.safetensors").read_bytes() == weights
    assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000008"]


def test_images_per_s_counts_the_steps_since_the_last_line(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: Callable[[int | None], None],
) -> None:
    seconds = iter(range(1000))
    module = import_module("groupvit.training.train")
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))  # a second a reading
    config = replace(tiny_recipe, log_every=5)
    data = pairs_of(colour_shard, config)
    kill_at(4)  # after the checkpoint of step 3
    with pytest.raises(KilledError):
        train(config, data, tmp_path, device=CPU)
    kill_at(None)
    result = train(config, data, tmp_path, device=CPU)
    records = [json.loads(line) for line in result.log.read_text().splitlines()]
    # batches of 4: steps 4 and 5 after the resume, then 6, 7 and 8
    assert [(r["step"], r["images_per_s"]) for r in records] == [(5, 8.0), (8, 12.0)]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("concepts", 1, "data.concepts = 2, the data set 1"),
        ("seed", 7, "data.seed = 0, the data set 7"),
        ("templates", "simple", "data.templates = 'clip80', the data set 'simple'"),
    ],
)
def test_a_data_set_of_another_recipe_is_refused(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    field: str,
    value: Any,
    said: str,
) -> None:
    other = replace(tiny_recipe, data=replace(tiny_recipe.data, **{field: value}))
    with pytest.raises(RecipeError) as caught:
        train(tiny_recipe, pairs_of(colour_shard, other), tmp_path / "run", device=CPU)
    assert str(caught.value) == f"the recipe has {said}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sizes", "got"),
    [({"context": 76}, "76 and 49408"), ({"vocabulary": 49407}, "77 and 49407")],
)
def test_a_text_tower_too_small_for_captions_is_refused(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    sizes: dict[str, int],
    got: str,
) -> None:
    model = replace(tiny_recipe.model, text=replace(tiny_recipe.model.text, **sizes))
    config = replace(tiny_recipe, model=model)
    with pytest.raises(RecipeError, match=f"context >= 77 and vocabulary >= 49408, got {got}"):
        train(config, pairs_of(colour_shard, config), tmp_path, device=CPU)


def test_log_holds_the_schedule_and_the_losses(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    result = train(tiny_recipe, pairs_of(colour_shard, tiny_recipe), tmp_path, device=CPU)
    for record in lines(result.log):
        assert record["lr"] == learning_rate(int(record["step"]) - 1, tiny_recipe.optim)
        assert record["loss"] == pytest.approx(record["caption_loss"] + record["multi_label_loss"])
        assert record["grad_norm"] > 0
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    poison: str,
) -> None:
    module: Any = import_module("groupvit.training.train")
    real, seen = module.training_step, {"steps": 0}

    def step(model: GroupViT, *args: Any) -> Any:
        losses, norm = real(model, *args)
        seen["steps"] += 1
        if seen["steps"] >= 5:
            nan = torch.tensor(float("nan"))
            return ({"caption_loss": nan}, norm) if poison == "loss" else (losses, nan)
        return losses, norm

    monkeypatch.setattr(module, "training_step", step)
    config = replace(tiny_recipe, log_every=100)  # step 6 is saved and not logged
    with pytest.raises(DivergedError, match=r"nan.* at step 6; the last checkpoint is kept"):
        train(config, pairs_of(colour_shard, config), tmp_path, device=CPU)
    assert [c.step for c in find_checkpoints(tmp_path)] == [3]
    assert all(bool(v.isfinite().all()) for v in load_model(tmp_path).state_dict().values())


def test_another_recipe_in_the_same_folder_is_an_error(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    train(tiny_recipe, data, tmp_path, device=CPU)
    other = replace(tiny_recipe, optim=replace(tiny_recipe.optim, lr=1e-3))
    with pytest.raises(CheckpointError, match="trained by another recipe"):
        train(other, data, tmp_path, device=CPU)


def test_loss_falls_on_pairs_that_can_be_learnt(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    config = replace(
        tiny_recipe,
        optim=OptimConfig(total_steps=60, warmup_steps=5, lr=2e-3, precision="float32"),
        data=DataConfig(batch=12, concepts=2, augment="none", workers=0, keep_decoded=True),
        checkpoint_every=100,
    )
    result = train(config, pairs_of(colour_shard, config), tmp_path, device=CPU)
    losses = [record["caption_loss"] for record in lines(result.log)]
    # twelve pairs of four colours: three pairs share each caption, so log(3) is the best there is
    assert losses[0] > 2.4
    assert 1.0 < sum(losses[-5:]) / 5 < 1.5


def test_bfloat16_autocast_trains_float32_weights(
    colour_shard: Path, tiny_recipe: TrainConfig
) -> None:
    config = replace(tiny_recipe, optim=OptimConfig(total_steps=3, precision="bfloat16"))
    torch.manual_seed(0)
    model = GroupViT(config.model).train()
    optimizer = build_optimizer(model, config.optim)
    data = pairs_of(colour_shard, config)
    items = [data[0, i] for i in range(4)]
    images, tokens = torch.stack([i for i, _ in items]), torch.stack([t for _, t in items])
    results = {}
    for precision in ("bfloat16", "float32"):
        torch.manual_seed(1)
        optim = replace(config.optim, precision=precision)
        step = training_step(model, optimizer, images, tokens, replace(config, optim=optim), 0.0)
        results[precision] = float(step[0]["caption_loss"])
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert results["bfloat16"] == pytest.approx(results["float32"], rel=0.03)
    assert results["bfloat16"] != results["float32"]  # autocast was on


def test_gradients_are_clipped_and_the_rate_is_set(tiny_recipe: TrainConfig) -> None:
    torch.manual_seed(0)
    model = GroupViT(tiny_recipe.model).train()
    optimizer = build_optimizer(model, tiny_recipe.optim)
    images, tokens = torch.randn(4, 3, 32, 32), torch.randint(1, 49407, (4, 3, 6))
    config = replace(tiny_recipe, optim=replace(tiny_recipe.optim, clip_grad_norm=0.01))
    _, norm = training_step(model, optimizer, images, tokens, config, 0.123)
    after = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(norm) > 0.01
    assert float(after) == pytest.approx(0.01, rel=1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {0.123}


def test_checkpoint_folder_is_read_again(tiny_recipe: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GroupViT(tiny_recipe.model)
    optimizer = build_optimizer(model, tiny_recipe.optim)
    save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 5)
    last = save_checkpoint(tmp_path, model, optimizer, tiny_recipe, 12)
    assert find_checkpoints(tmp_path) == [last]
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
    assert said.startswith(f"{path}: ") and "\n" not in said
    assert ("SHA-256" in said) == (checked and left is not None)


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
