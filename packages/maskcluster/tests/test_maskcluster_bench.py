"""The benchmark: what it times is the same thing twice, and what it writes holds no path."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskcluster.bench import __main__ as command
from maskcluster.bench import ema, loading, masks, sinkhorn, step, timing
from maskcluster.bench.machine import H200, Limits, describe_machine, measure_limits
from maskcluster.bench.table import as_markdown
from maskcluster.config import ClusterConfig, ModelConfig
from maskcluster.errors import MaskClusterError, UsageError
from maskcluster.masks.sa1b import Sa1bFolder
from maskcluster.model.pixelclip import PixelCLIP

restated = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py"))))

CPU = torch.device("cpu")
LIMITS = Limits(1e9, 4e9, 2e9)


def tiny(*_: object, **__: object) -> PixelCLIP:
    model = ModelConfig(architecture="ViT-B-16", pretrained="random")
    clusters = ClusterConfig(clusters=4, tokens=2)
    return PixelCLIP.from_config(model, clusters, clip=restated.tiny_clip())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "build_model", tiny)
    monkeypatch.setattr(ema, "build_model", tiny)
    monkeypatch.setattr(step, "IMAGE_PX", 32)


def test_both_ways_do_the_same_step() -> None:
    batch, shapes = step.build_batch(1, CPU)
    ways = step.CPU_WAYS["ours, float32"], step.CPU_WAYS["plain"]
    models = []
    for way in ways:
        model = tiny()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        step.build_step(way, model, batch, shapes)()
        models.append({name: value - start[name] for name, value in model.state_dict().items()})
    ours, plain = models
    learns = {name: change for name, change in plain.items() if not name.startswith("teacher")}
    moved = {name for name, change in learns.items() if change.abs().max() > 0}
    assert {name.partition(".")[0] for name in moved} == {"clip", "prompts", "decoder"}
    for name in moved:  # AdamW's first step is the sign of the gradient, whatever its size
        same = (ours[name].sign() == plain[name].sign()).float().mean()
        assert same > 0.97, name


def test_what_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    step.check_same_loss(CPU)
    monkeypatch.setattr(step, "plain_step", lambda *_: torch.tensor(1.0))
    with pytest.raises(MaskClusterError, match="losses differ, nothing is timed"):
        step.check_same_loss(CPU)


def test_ratios_are_theirs_to_ours() -> None:
    ways = {
        name: {"median_ms": ms, "peak_bytes": size}
        for name, ms, size in (
            ("ours", 1, 10), ("ours, float32", 2, 20), ("plain", 6, 80), ("plain, bfloat16", 4, 60),
        )
    }  # fmt: skip
    assert step._ratios(ways, "cpu") == {
        "train_step_ratio_to_plain": 3,
        "train_step_memory_ratio_to_plain": 4,
        "train_step_ratio_to_plain_bfloat16": 4,
        "train_step_memory_ratio_to_plain_bfloat16": 6,
        "train_step_ratio_to_plain_at_defaults": 6,
        "train_step_memory_ratio_to_plain_at_defaults": 8,
    }
    failed = dict.fromkeys(step.GPU_WAYS, ways["plain"]) | {"plain": {"failed": "no memory"}}
    assert set(step._ratios(failed, "cuda")) == {
        "train_step_ratio_to_plain_bfloat16",
        "train_step_memory_ratio_to_plain_bfloat16",
    }


def test_a_step_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "REPEATS", 1)
    monkeypatch.setattr(step, "_apart", lambda _, name, images: len(name) * images)
    found = step.measure(CPU, LIMITS)
    assert found["step"]["images"] == 2
    assert set(found["step"]["ways"]) == set(step.CPU_WAYS)
    assert found["step"]["ways"]["plain"]["peak_bytes"] == 10
    assert found["step"]["floor_ms"] > found["step"]["h200_floor_ms"] > 0
    assert found["train_step_ratio_to_plain"] > 0


def test_the_ways_of_parts_agree() -> None:
    model = tiny()
    start = [value.clone() for value in model.teacher.parameters()]
    with torch.no_grad():
        for value in model.tower.parameters():
            value.add_(1)
    found = []
    for move in ema._ema(model).values():
        with torch.no_grad():
            for value, before in zip(model.teacher.parameters(), start, strict=True):
                value.copy_(before)
        move()
        found.append([value.clone() for value in model.teacher.parameters()])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0][0], start[0] + 0.001)
    grads = [call()[0] for call in ema._text(model).values()]  # type: ignore[index]  # a tuple
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-5)
    figures = ema.measure(CPU, LIMITS)
    assert figures["ema"]["bytes_moved"] == 12 * sum(p.numel() for p in model.tower.parameters())
    assert figures["text_ratio_to_77_positions"] > 0


def test_times_are_medians_turn_about() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = timing.time_calls(calls, CPU, repeats=3)
    assert "".join(order) == "ab" * 4
    assert set(found["a"]) == {"median_ms", "p20_ms", "p80_ms"}
    spread = timing.spread([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert spread == {"median_ms": 3.5, "p20_ms": 2.0, "p80_ms": 5.0}
    assert timing.spread([7.0]) == {"median_ms": 7.0, "p20_ms": 7.0, "p80_ms": 7.0}


def test_peak_memory_sees_what_is_freed_again() -> None:
    found = timing.peak_bytes(lambda: torch.ones(2**24).sum(), CPU)
    assert 60e6 < found < 200e6


def test_a_floor_is_the_larger_of_bytes_and_operations() -> None:
    assert LIMITS.floor_ms(1e6, 0) == pytest.approx(1)
    assert LIMITS.floor_ms(1e6, 1e7) == pytest.approx(5)
    assert LIMITS.floor_ms(1e6, 1e7, half=True) == pytest.approx(2.5)
    assert H200.floor_ms(1.06e9, 0) == pytest.approx(0.2465, abs=1e-3)  # the published model's EMA


def test_the_machine_is_described_without_paths() -> None:
    found = describe_machine(CPU)
    assert found["versions"]["torch"] in torch.__version__
    assert "/" not in json.dumps(found)
    assert all(rate > 0 for rate in measure_limits(CPU).as_dict().values())


def test_the_loader_is_measured_on_made_up_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading.made_up(tmp_path, 60, 80, 3)
    assert len(Sa1bFolder(tmp_path)) == 8
    assert all(len(Sa1bFolder(tmp_path)[str(n)]) >= 2 for n in range(8))
    given = loading.measure(photos=tmp_path, masks=tmp_path, workers=(0,), steps=2)
    assert given["loader"]["given"]["0 workers, photographs/s"] > 1
    monkeypatch.setattr(loading, "SIZES", {"small": (60, 80, 3)})
    found = loading.measure(workers=(0,), steps=2)
    assert set(found["loader"]) == {"small"}


FIGURES: dict[str, Any] = {
    "mask_pool": {
        "times_ms": {"ours": [1.0, 2.0, 3.0], "interpolate": [10.0, 20.0, 30.0]},
        "peak_bytes": {"ours": 2**20, "interpolate": 2**22},
        "bytes_moved": 1e6,
        "flops": 1e6,
    },
    "mask_bce": {
        "times_ms": {"ours": [1.0, 2.0, 3.0]},
        "peak_bytes": {"ours": 0},
        "bytes_moved": 0.0,
        "flops": 4e9,
    },
    "mask_pool_ratio_to_interpolate": 10.0,
}


def test_a_run_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = json.loads(json.dumps(FIGURES))
    monkeypatch.setattr(masks, "measure", lambda _: made)
    args = ["--device", "cpu", "--parts", "[masks]", "--out", str(tmp_path)]
    assert command.main(args) == 0
    (stored,) = tmp_path.glob("*-maskcluster-bench-cpu.json")
    text = stored.read_text()
    found = json.loads(text)
    assert found["mask_pool_ratio_to_interpolate"] == 10
    assert found["mask_pool"]["ways"]["ours"] == {
        "median_ms": 2.0, "p20_ms": 1.0, "p80_ms": 3.0, "peak_bytes": 2**20,
    }  # fmt: skip
    assert found["mask_bce"]["h200_floor_ms"] == pytest.approx(4 / 60)
    assert str(tmp_path) not in text
    printed = capsys.readouterr().out
    assert printed.strip() == stored.with_suffix(".md").read_text().strip()
    assert "| mask pooling to upsampled features and einsum | 10.00 |" in printed
    assert "| mask_pool | ours | 2 | 1 | 3 | 1 |" in printed

    assert command.main(args) == 2
    assert "is there; choose another folder, or pass --overwrite true" in capsys.readouterr().err
    monkeypatch.setattr(masks, "measure", lambda _: json.loads(json.dumps(FIGURES)))
    assert command.main([*args, "--overwrite", "true"]) == 0


def test_sinkhorn_is_told_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def measured(_: torch.device) -> dict[str, Any]:
        threads.append(torch.get_num_threads())
        ways = {"ours": timing.spread([1.0]), "reference": timing.spread([3.0, 4.0, 5.0])}
        return {"ways": ways, "sinkhorn_ratio_to_pot": 3.5}

    before = torch.get_num_threads()
    monkeypatch.setattr(sinkhorn, "measure", measured)
    found = command._sinkhorn(CPU, LIMITS)
    assert threads == [1]
    assert torch.get_num_threads() == before
    assert found["sinkhorn_ratio_to_pot"] == 3.5
    assert found["sinkhorn_ratio_to_reference"] == 4
    told = {"median_ms": 4.0, "p20_ms": 3.4, "p80_ms": 4.6}
    assert found["sinkhorn"]["ways"]["reference"] == pytest.approx(told)
    assert found["sinkhorn"]["bytes_moved"] == 4 * (4800 * 64 + 4800)


def test_balanced_assignment_is_timed_with_percentiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn, "MASKS", 64)
    monkeypatch.setattr(sinkhorn, "CLUSTERS", 8)
    monkeypatch.setattr(sinkhorn, "find_spec", lambda _: None)
    found = sinkhorn.measure(CPU)
    assert set(found["ways"]) == {"ours", "reference"}
    for way in found["ways"].values():
        assert 0 < way["p20_ms"] <= way["median_ms"] <= way["p80_ms"]


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--parts knows sinkhorn, masks, .*, got 'stepp'"):
        command.run(parts=["stepp"], out=tmp_path)
    with pytest.raises(UsageError, match="--photos and --masks go together"):
        command.run(photos=tmp_path, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_table_tells_failures_and_masks() -> None:
    figures = {
        "date": "2026-01-01", "command": "bench", "seconds": 3.0,
        "machine": {"device": "GPU", "versions": {"torch": "2", "pot": None}, "commit": "abc",
                    "cpu_cores": 2, "threads": 2},
        "limits": LIMITS.as_dict(),
        "step": {"ways": {"plain": {"failed": "out of memory"}}, "floor_ms": 15.1,
                 "h200_floor_ms": 234.0},
        "generators": {
            "rle_sample": {
                "ways": {"ours": timing.spread([1.0, 2.0]), "plain": timing.spread([9.0])},
                "ratio": 6.0,
            },
            "superpixels": {"ways": {"slic": timing.spread([5.0])}},
        },
        "loader": {"coco": {"0 workers, photographs/s": 31.25}},
    }  # fmt: skip
    lines = as_markdown(figures).splitlines()
    assert "| step | plain | out of memory | | | | 15.1 | 234 |" in lines
    assert "| rle_sample | ours | 1.5 | 1.2 | 1.8 | 6.0 |" in lines
    assert "| rle_sample | plain | 9 | 9 | 9 |  |" in lines
    assert "| superpixels | slic | 5 | 5 | 5 |  |" in lines
    assert "| coco, 0 workers, photographs/s | 31.2 |" in lines
    assert "pot" not in "".join(lines)
