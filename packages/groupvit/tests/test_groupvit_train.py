"""Training: a killed run goes on as if nothing had happened; what is kept when it fails."""

import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from groupvit import (
    CheckpointError,
    DataConfig,
    DivergedError,
    GroupViT,
    GroupViTError,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    PairDataset,
    RecipeError,
    TrainConfig,
    index_shards,
    load_model,
    train,
)
from groupvit.model.noise import step_noise
from groupvit.texts import Texts
from groupvit.training.checkpoint import find_checkpoints
from groupvit.training.logs import open_log
from groupvit.training.schedule import build_optimizer, learning_rate
from groupvit.training.step import training_step

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
    assert [c.step for c in find_checkpoints(tmp_path / "killed")] == list(range(3, killed + 1, 3))
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


def test_damaged_lines_of_the_log_go_and_are_told(
    tiny_recipe: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_log(tmp_path, 0, tiny_recipe, writes=True) as log:
        for step in range(1, 5):
            log.write(step, {"loss": 1.0})
    path = tmp_path / "log.jsonl"
    damaged = path.read_bytes().splitlines(keepends=True)
    damaged[1] = damaged[1].replace(b"los", b"\xff\xfe\x80")  # still JSON, but of another key
    damaged[2] = b"0\n"
    path.write_bytes(b"".join(damaged))
    with open_log(tmp_path, 4, tiny_recipe, writes=True):
        assert [record["step"] for record in lines(path)] == [1, 4]
    assert caplog.messages == [f"{path}: 2 damaged lines are left out"]


def test_a_finished_run_is_left_alone(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    first = train(tiny_recipe, data, tmp_path / "run", device=CPU)
    weights = (first.checkpoint / "model.safetensors").read_bytes()
    again = train(tiny_recipe, data, tmp_path / "run", device=CPU)
    assert again == first
    assert (first.checkpoint / "model.safetensors").read_bytes() == weights
    assert [c.step for c in find_checkpoints(tmp_path / "run")] == [6, 8]


def test_images_per_s_counts_the_steps_since_the_last_line(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: Callable[[int | None], None],
) -> None:
    seconds = iter(range(1000))
    module = import_module("groupvit.training.logs")
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
        assert 14 < record["logit_scale"] < 15 and 14 < record["multi_label_logit_scale"] < 15
        for stage, groups in ((1, 5), (2, 3)):
            assert 0 < record[f"assignment_entropy_{stage}"] <= 1 + 1e-6
            assert 1 <= record[f"groups_used_{stage}"] <= record[f"groups_alive_{stage}"] <= groups
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

    def step(*args: Any) -> Any:
        losses, norm = real(*args)
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


def test_how_a_step_is_computed_may_change_when_a_run_goes_on(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path, kill_at: Callable[..., None]
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    unbroken = train(tiny_recipe, data, tmp_path / "unbroken", device=CPU)
    kill_at(4)
    with pytest.raises(KilledError):
        train(tiny_recipe, data, tmp_path, device=CPU)
    kill_at(None)
    machine = MachineConfig(chunk=2, recompute=True, peak_tflops=0.1)
    other = replace(tiny_recipe, machine=machine, data=replace(tiny_recipe.data, workers=2))
    result = train(other, data, tmp_path, device=CPU)
    assert result.checkpoint.name == "checkpoint-00000008"
    assert 0 < json.loads(result.log.read_text().splitlines()[-1])["mfu"] < 1
    for got, want in zip(lines(result.log), lines(unbroken.log), strict=True):
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-5)


def test_other_pairs_in_the_same_folder_are_an_error(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    train(tiny_recipe, data, tmp_path, device=CPU)
    fewer = PairDataset.from_config(list(data.pairs)[:-1], tiny_recipe.data, 32)
    with pytest.raises(CheckpointError, match="trained on other pairs"):
        train(tiny_recipe, fewer, tmp_path, device=CPU)


def test_a_full_disk_at_a_line_of_the_log_is_one_line(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = pairs_of(colour_shard, tiny_recipe)
    with monkeypatch.context() as patch:
        patch.setattr("groupvit.training.logs.SummaryWriter.add_scalar", full)
        with pytest.raises(GroupViTError, match=r"log cannot be written \(No space left on dev"):
            train(tiny_recipe, data, tmp_path, device=CPU)
    (tmp_path / "file").touch()
    with pytest.raises(GroupViTError, match=r"file: the log cannot be written \(File exists"):
        train(tiny_recipe, data, tmp_path / "file", device=CPU)
    assert train(tiny_recipe, data, tmp_path, device=CPU).checkpoint.is_dir()


def test_another_recipe_in_the_same_folder_is_an_error(
    colour_shard: Path, tiny_recipe: TrainConfig, tmp_path: Path
) -> None:
    data = pairs_of(colour_shard, tiny_recipe)
    train(tiny_recipe, data, tmp_path, device=CPU)
    other = replace(tiny_recipe, optim=replace(tiny_recipe.optim, lr=1e-3))
    with pytest.raises(
        CheckpointError, match=r"another recipe \(optim\.lr was 0\.0016, is 0\.001\)"
    ):
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


Step = Callable[..., tuple[dict[str, float], float]]


@pytest.fixture
def one_step(tiny_recipe: TrainConfig) -> Step:
    """A step of a new model on fixed images and texts: losses and gradient norm."""

    def step(model: GroupViT | None = None, *, rate: float = 0.0, **optim: Any) -> Any:
        config = replace(tiny_recipe.optim, **optim)
        torch.manual_seed(0)
        model = model or GroupViT(tiny_recipe.model).train()
        optimizer = build_optimizer(model, config)
        ids = torch.randint(1, 49406, (4, 3, 6)).index_fill(2, torch.tensor([5]), 49407)
        noise = step_noise(1, device=CPU)
        images = torch.randn(4, 3, 32, 32)
        losses, norm = training_step(model, optimizer, images, Texts.of(ids), noise, config, rate)
        assert {group["lr"] for group in optimizer.param_groups} == {rate}
        return {name: float(value) for name, value in losses.items()}, float(norm)

    return step


def test_bfloat16_autocast_trains_float32_weights(tiny_recipe: TrainConfig, one_step: Step) -> None:
    model = GroupViT(tiny_recipe.model).train()
    half, exact = (one_step(model, precision=p)[0] for p in ("bfloat16", "float32"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert half["caption_loss"] == pytest.approx(exact["caption_loss"], rel=0.1)
    assert half["caption_loss"] != exact["caption_loss"]  # autocast was on


def test_gradients_are_clipped_and_the_rate_is_set(
    tiny_recipe: TrainConfig, one_step: Step
) -> None:
    model = GroupViT(tiny_recipe.model).train()
    _, norm = one_step(model, rate=0.123, clip_grad_norm=0.01)
    after = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm > 0.01
    assert float(after) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("how", ["chunk", "recompute", "both"])
def test_chunks_and_recomputation_change_no_loss_and_no_gradient(
    tiny_config: ModelConfig, how: str
) -> None:
    """GradCache: the losses see all pairs, the towers two at a time; noise and drop path too."""
    vision = replace(tiny_config.vision, drop_path=0.4, depths=(2, 1, 1))
    ids = torch.randint(1, 49406, (5, 3, 9), generator=torch.Generator().manual_seed(1))
    texts = Texts.of(ids.index_fill(2, torch.tensor([8]), 49407), row=20)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    results = []
    for special in (False, True):
        torch.manual_seed(0)
        model = GroupViT(replace(tiny_config, vision=vision)).double().train()
        model.chunk = 2 if special and how != "recompute" else 0
        model.recompute(wanted=special and how != "chunk")
        losses = model(images, texts, step_noise(3, 100, device=CPU))
        sum(losses.values()).backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        results.append((losses, grads, dict(model.named_buffers())))
    for one, other in zip(*results, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_noise_of_a_step_depends_on_its_seed(tiny_config: ModelConfig) -> None:
    model = GroupViT(tiny_config).train()
    images = torch.randn(3, 3, 32, 32)
    pooled = [model.vision(images, step_noise(seed, device=CPU)).pooled for seed in (1, 1, 2)]
    assert torch.equal(pooled[0], pooled[1])
    assert not torch.equal(pooled[0], pooled[2])
    assert not torch.equal(model.vision(images).pooled, model.vision(images).pooled)
