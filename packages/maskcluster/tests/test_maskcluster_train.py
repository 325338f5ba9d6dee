"""Training: what is learnt, what a killed run does, what is refused and what is said."""

import errno
import json
import logging
import runpy
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maskcluster.config import ClusterConfig
from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    MaskClusterError,
    RecipeError,
    UsageError,
)
from maskcluster.files import folder_lock
from maskcluster.precision import float32_products
from maskcluster.training.checkpoint import find_checkpoints
from maskcluster.training.launch import Ranks
from maskcluster.training.schedule import build_optimizer, rate_share
from maskcluster.training.step import training_step
from maskcluster.training.train import TrainResult, build_model
from maskcluster.training.train import train as train_run

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))

CPU = torch.device("cpu")
CLOCK = {"images_per_s", "masks_per_s", "mfu"}


def train(config: Any, data: MaskedPhotos, run: Path, **options: Any) -> TrainResult:
    return train_run(config, data, run, device=CPU, **{"clip": case.tiny_clip()} | options)


def lines(log: Path) -> list[dict[str, Any]]:
    """Records of a log without what depends on the clock."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in records]


class KilledError(Exception):
    pass


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Raise in place of the step of a given number; None stops doing so."""
    module = import_module("maskcluster.training.train")
    real, count = module.training_step, {"left": -1}

    def step(*args: Any) -> Any:
        if count["left"] == 0:
            raise KilledError
        count["left"] -= 1
        return real(*args)

    monkeypatch.setattr(module, "training_step", step)
    yield lambda number: count.update(left=-1 if number is None else number)


# a run that goes on


@pytest.mark.parametrize("kind", ["vit", "convnext"])
@pytest.mark.parametrize("killed", [1, 4, 7])
def test_a_killed_run_ends_like_an_unbroken_one(
    tmp_path: Path, kill_at: Callable[[int | None], None], killed: int, kind: str
) -> None:
    """Also with stochastic depth, which the ConvNeXt has."""
    config = case.RECIPE
    if kind == "convnext":
        config = case.changed(model={"trainable": "all"}, views={"image_px": 64})
    data = case.dataset(tmp_path, config)
    unbroken = train(config, data, tmp_path / "unbroken", clip=case.tiny_clip(kind=kind))
    kill_at(killed)
    with pytest.raises(KilledError):
        train(config, data, tmp_path / "killed", clip=case.tiny_clip(kind=kind))
    assert [c.step for c in find_checkpoints(tmp_path / "killed")] == list(range(3, killed + 1, 3))
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 9')  # the line that was being written
    kill_at(None)
    resumed = train(config, data, tmp_path / "killed", clip=case.tiny_clip(kind=kind))
    first = load_file(unbroken.checkpoint / "model.safetensors")
    second = load_file(resumed.checkpoint / "model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert lines(resumed.log) == lines(unbroken.log)
    assert [record["step"] for record in lines(resumed.log)] == list(range(1, 9))


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    data = case.dataset(tmp_path)
    first = train(case.RECIPE, data, tmp_path / "run")
    weights = (first.checkpoint / "model.safetensors").read_bytes()
    assert train(case.RECIPE, data, tmp_path / "run") == first
    assert (first.checkpoint / "model.safetensors").read_bytes() == weights
    assert [c.step for c in find_checkpoints(tmp_path / "run")] == [6, 8]
    assert not (tmp_path / "run" / ".lock").exists()


def test_the_seed_decides_what_is_learnt(tmp_path: Path) -> None:
    data = case.dataset(tmp_path)
    short = case.changed(optim={"total_steps": 2})
    losses = [
        lines(train(config, data, tmp_path / name).log)
        for name, config in (
            ("one", short),
            ("same", short),
            ("other", case.changed(short, seed=1)),
        )
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_how_a_step_is_computed_may_change_when_a_run_goes_on(
    tmp_path: Path, kill_at: Callable[[int | None], None]
) -> None:
    data = case.dataset(tmp_path)
    unbroken = train(case.RECIPE, data, tmp_path / "unbroken")
    kill_at(4)
    with pytest.raises(KilledError):
        train(case.RECIPE, data, tmp_path / "run")
    kill_at(None)
    machine = {"decoder_chunk": 3, "recompute_decoder": True, "recompute_tower": True}
    other = case.changed(
        machine=machine | {"peak_tflops": 0.1}, data={"workers": 2}, log_every=2, checkpoints=5
    )
    result = train(other, data, tmp_path / "run")
    last = json.loads(result.log.read_text().splitlines()[-1])
    assert 0 < last["mfu"] < 10
    want = {record["step"]: record["loss"] for record in lines(unbroken.log)}
    for record in lines(result.log):
        assert record["loss"] == pytest.approx(want[record["step"]], rel=1e-4)
    assert [record["step"] for record in lines(result.log)] == [1, 2, 3, 4, 6, 8]


# what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"seed": 7}}, "the recipe has data.seed = 7, the data set 0"),
        ({"views": {"flip": 0.0}}, "the data set ViewConfig"),
        ({"views": {"image_px": 36}}, "image_px must be a multiple of the 8 x 8 patches"),
        ({"model": {"last_block": "wings"}}, "ViT-B-16: last_block"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config = case.changed(**changes)
    same_views = config if "image_px" in str(changes) else case.RECIPE
    with pytest.raises(RecipeError, match=said):
        train(config, case.dataset(tmp_path, same_views), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_photographs_without_masks_and_too_few_of_them_are_refused(tmp_path: Path) -> None:
    data = case.dataset(tmp_path)
    bare = MaskedPhotos(tmp_path / "photos", None, data.views)
    with pytest.raises(RecipeError, match="training needs masks"):
        train(case.RECIPE, bare, tmp_path / "run")
    with pytest.raises(DataError, match="there are 12; lower"):
        train(case.changed(data={"batch": 13}), data, tmp_path / "run")


def test_another_recipe_or_other_photographs_in_the_same_folder_are_refused(
    tmp_path: Path,
) -> None:
    short = case.changed(optim={"total_steps": 1})
    data = case.dataset(tmp_path)
    train(short, data, tmp_path / "run")
    other = case.changed(short, cluster={"eps": 0.5})
    with pytest.raises(CheckpointError, match=r"recipe \(cluster\.eps was 0\.05, is 0\.5\)"):
        train(other, data, tmp_path / "run")
    (tmp_path / "photos" / "000.png").unlink()
    left = {key: masks for key, masks in data.masks.items() if key != "000"}
    fewer = MaskedPhotos(tmp_path / "photos", case.Held(left), data.views)
    with pytest.raises(CheckpointError, match="trained on other photographs or masks"):
        train(short, fewer, tmp_path / "run")


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    data = case.dataset(tmp_path)
    with (
        folder_lock(tmp_path / "run"),
        pytest.raises(UsageError, match="another process writes here"),
    ):
        train(case.RECIPE, data, tmp_path / "run")


# what is said when it goes wrong


@pytest.mark.parametrize("poison", ["loss", "gradient", "weights"])
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    module: Any = import_module("maskcluster.training.train")
    real, seen = module.training_step, {"steps": 0}

    def step(model: Any, *args: Any) -> Any:
        seen["steps"] += 1
        if poison == "weights" and seen["steps"] == 5:
            with torch.no_grad():
                next(model.decoder.parameters()).fill_(torch.nan)
                model.tower.visual.conv1.weight.fill_(torch.nan)
        out, norm = real(model, *args)
        nan = torch.tensor(torch.nan)
        if poison == "loss" and seen["steps"] >= 5:
            out = module.StepOutput(
                loss=nan, terms=out.terms, area=out.area, assignment=out.assignment
            )
        return out, nan if poison == "gradient" and seen["steps"] >= 5 else norm

    monkeypatch.setattr(module, "training_step", step)
    config = case.changed(log_every=100)  # step 6 is saved and not logged
    said = "weights are not finite before step 5" if poison == "weights" else "nan.* at step 6"
    with pytest.raises(DivergedError, match=f"{said}; the last checkpoint is kept in"):
        train(config, case.dataset(tmp_path), tmp_path / "run")
    (kept,) = find_checkpoints(tmp_path / "run")
    assert kept.step == 3
    weights = load_file(kept.folder / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_mistake_of_the_program_is_not_called_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> Any:
        raise ValueError("shapes disagree")

    monkeypatch.setattr(import_module("maskcluster.training.train"), "training_step", step)
    with pytest.raises(ValueError, match="shapes disagree"):
        train(case.RECIPE, case.dataset(tmp_path), tmp_path / "run")


def test_a_full_disk_at_a_line_of_the_log_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = case.dataset(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("maskcluster.training.logs.SummaryWriter.add_scalar", full)
        with pytest.raises(MaskClusterError, match=r"log cannot be written \(No space left on dev"):
            train(case.RECIPE, data, tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(MaskClusterError, match=r"file: cannot be written to"):
        train(case.RECIPE, data, tmp_path / "file")
    assert train(case.RECIPE, data, tmp_path / "run").checkpoint.is_dir()


def test_an_interrupt_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = import_module("maskcluster.training.train")
    real, seen = module.training_step, {"steps": 0}

    def step(*args: Any) -> Any:
        seen["steps"] += 1
        if seen["steps"] == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "training_step", step)
    data = case.dataset(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(case.RECIPE, data, tmp_path / "run")
    assert len(lines(tmp_path / "run" / "log.jsonl")) == 4
    assert train(case.RECIPE, data, tmp_path / "run").checkpoint.name == "checkpoint-00000008"


# masks that are few, or none


def test_few_masks_and_photographs_without_any_are_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, masks, _ = case.shapes(tmp_path / "photos", 8)
    for key in ("000", "001", "002", "003"):
        masks[key] = masks[key].select([])
    config = case.changed(cluster={"clusters": 60}, data={"batch": 8})
    data = MaskedPhotos(folder, masks, config.views)
    with caplog.at_level(logging.WARNING, logger="maskcluster"):
        result = train(config, data, tmp_path / "run")
    said = [r.getMessage() for r in caplog.records if "for 60 clusters" in r.getMessage()]
    assert len(said) == 1 and "step 1: a batch has" in said[0] and "raise data.batch" in said[0]
    records = lines(result.log)
    assert [r["images_without_masks"] for r in records] == [4 * n for n in range(1, 9)]
    assert records[0]["masks_per_image"] == records[0]["masks"] / 8
    assert ["warning" in r for r in records] == [True] + [False] * 7


def test_a_batch_without_masks_is_passed_over(tmp_path: Path) -> None:
    folder, masks, _ = case.shapes(tmp_path / "photos", 4)
    empty = case.Held({key: one.select([]) for key, one in masks.items()})
    config = case.changed(optim={"total_steps": 2})
    result = train(config, MaskedPhotos(folder, empty, config.views), tmp_path / "run")
    assert [r["loss"] for r in lines(result.log)] == [0.0, 0.0]
    assert [r["masks"] for r in lines(result.log)] == [0, 0]
    assert lines(result.log)[1]["images_without_masks"] == 8


# what is learnt


def test_the_log_holds_the_schedule_and_the_clusters(tmp_path: Path) -> None:
    result = train(case.RECIPE, case.dataset(tmp_path), tmp_path / "run")
    optim = case.RECIPE.optim
    for record in lines(result.log):
        share = rate_share(record["step"] - 1, optim)
        assert record["lr"] == optim.lr * share
        assert record["prompt_lr"] == optim.prompt_lr * share
        assert record["decoder_lr"] == optim.decoder_lr * share
        assert record["loss"] > 0 and record["grad_norm"] > 0
        assert sum(record["cluster_counts"]) == record["masks"] > 40
        assert sum(record["cluster_marginals"]) == pytest.approx(1)
        assert record["clusters_used"] == sum(c > 0 for c in record["cluster_counts"])
        assert -1 <= record["cosine_own"] <= 1 and 0 <= record["moved"] <= 1
    assert list((result.log.parent / "tensorboard").iterdir())
    assert (result.log.parent / "clusters.png").is_file()


def test_a_rank_alone_takes_the_steps_that_are_written_here(tmp_path: Path) -> None:
    """The loop once more, in its plain form: teacher, loss, clipping, AdamW."""
    config = case.changed(optim={"total_steps": 3, "clip_grad_norm": 0.05})
    data = case.dataset(tmp_path, config)
    result = train(config, data, tmp_path / "run")
    model = build_model(config, CPU, clip=case.tiny_clip())
    tensors = [p for p in model.parameters() if p.requires_grad]
    groups = model.parameter_groups(config.optim)
    plain = torch.optim.AdamW(groups, betas=(0.9, 0.999), foreach=False)
    losses = []
    loader = batches(data, batch=4, workers=0, start=0, stop=3)
    for step, batch in enumerate(loader):
        for mine, its in zip(
            model.teacher.tower.visual.parameters(), model.tower.visual.parameters(), strict=True
        ):
            mine.data = 0.9 * mine.data + 0.1 * its.data
        loss = model(*batch[:4]).loss
        plain.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in tensors if p.grad is not None]).norm()
        for p in tensors:
            assert p.grad is not None
            p.grad *= min(1.0, 0.05 / float(norm))
        for group in plain.param_groups:
            group["lr"] = group["initial_lr"] * rate_share(step, config.optim)
        plain.step()
        losses.append(float(loss.detach()))
    assert [r["loss"] for r in lines(result.log)] == pytest.approx(losses, rel=1e-4)
    final = load_file(result.checkpoint / "model.safetensors")
    torch.testing.assert_close(final, dict(model.state_dict()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", [0.0, 0.01])
def test_gradients_are_clipped_unless_the_norm_is_zero(tmp_path: Path, most: float) -> None:
    config = case.changed(optim={"clip_grad_norm": most})
    model = build_model(config, CPU, clip=case.tiny_clip())
    batch = next(iter(batches(case.dataset(tmp_path), batch=4, workers=0, start=0, stop=1)))
    optimizer = build_optimizer(model, config.optim)
    _, norm = training_step(model, model, optimizer, batch, config.optim, Ranks())
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    after = float(torch.stack([g.norm() for g in grads]).norm())
    assert float(norm) > 0.02
    assert after == pytest.approx(most or float(norm), rel=1e-3)


def test_bfloat16_autocast_trains_float32_weights(tmp_path: Path) -> None:
    data = case.dataset(tmp_path)
    batch = next(iter(batches(data, batch=4, workers=0, start=0, stop=1)))
    losses = {}
    for precision in ("bfloat16", "float32", "tf32"):
        config = case.changed(optim={"precision": precision}, cluster={"eps": 1.0})
        model = build_model(config, CPU, clip=case.tiny_clip())
        optimizer = build_optimizer(model, config.optim)
        with float32_products(config.optim.precision):
            wanted = "high" if precision == "tf32" else "highest"
            assert torch.get_float32_matmul_precision() == wanted
            assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
            out, _ = training_step(model, model, optimizer, batch, config.optim, Ranks())
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        losses[precision] = float(out.loss)
    assert torch.get_float32_matmul_precision() == "highest" and torch.backends.cudnn.allow_tf32
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]  # autocast was on
    assert losses["tf32"] == losses["float32"]  # on a CPU


ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no clustering": {"cluster": {"targets": "masks"}},
    "no text tower": {"cluster": {"prompts": "direct"}},
    "no class prompt": {"cluster": {"prompts": "frozen"}},
    "names, argmax": {
        "cluster": {
            "prompts": "names", "balance": False, "names": ("cat", "dog", "sky", "grass", "a car")
        }
    },
    "start at names": {
        "cluster": {"start": "names", "names": ("cat", "dog", "sky", "grass", "a car")}
    },
    "no momentum": {"cluster": {"momentum": 0.0}},
    "gamma .99": {"cluster": {"momentum": 0.99}},
    "k 12": {"cluster": {"clusters": 12}},
    "k 1": {"cluster": {"clusters": 1}},
    "l 10": {"cluster": {"tokens": 10}},
    "ensemble": {"cluster": {"templates": "ensemble"}},
    "no balance": {"cluster": {"balance": False}},
    "loss at logits": {"model": {"loss_at": "logits"}},
    "maskclip": {"model": {"last_block": "maskclip"}},
    "whole block": {"model": {"last_block": "none"}},
    "all trains": {"model": {"trainable": "all"}},
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_recipe_that_trains(tmp_path: Path, name: str) -> None:
    config = case.changed(case.changed(optim={"total_steps": 2}), **ABLATIONS[name])
    result = train(config, case.dataset(tmp_path, config, count=4), tmp_path / "run")
    records = lines(result.log)
    assert len(records) == 2 and all(r["loss"] > 0 and r["grad_norm"] > 0 for r in records)
    assert ("clusters_used" in records[0]) == (config.cluster.targets == "clusters")
    first = build_model(config, CPU, clip=case.tiny_clip()).state_dict()
    moved = {
        key.partition(".")[0]
        for key, value in load_file(result.checkpoint / "model.safetensors").items()
        if not torch.equal(value, first[key])
    }
    learns = {"clip", "decoder", "teacher"}
    assert moved == learns | ({"prompts"} if learns_prompts(config.cluster) else set())


def learns_prompts(cluster: ClusterConfig) -> bool:
    return cluster.targets == "clusters" and cluster.prompts in ("learnt", "direct")


def test_class_prompts_may_start_from_given_tokens(tmp_path: Path) -> None:
    config = case.changed(optim={"total_steps": 1, "prompt_lr": 1e-9})
    start = torch.randn(5, 3, 16)
    result = train(config, case.dataset(tmp_path, count=4), tmp_path / "run", start=start)
    weights = load_file(result.checkpoint / "model.safetensors")
    torch.testing.assert_close(weights["prompts.tokens"], start)
    with pytest.raises(RecipeError, match="start must be of 5 clusters, got 4"):
        train(config, case.dataset(tmp_path, count=4), tmp_path / "other", start=start[:4])
