"""The ablation at a tiny scale, and its arithmetic by hand."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from integration import figures
from integration.cocu.ablation.curations import CURATIONS, LADDER
from integration.cocu.ablation.report import (
    about,
    arms_table,
    gain,
    settings_table,
    steps,
    steps_table,
    verdict,
)
from integration.cocu.ablation.stages import POINTS, ablation_stages
from integration.cocu.recipe import Recipe, load_recipe
from integration.cocu.stages import scenes_stages
from integration.progress import Curve, with_points
from integration.reproduce import ABLATION, main
from integration.stage import Stage

ARMS = ("baseline", "model-4", "upper-bound")


def reproduce(recipe: Path, out: Path, *options: str) -> int:
    return main(["cocu", "--ablation", "--recipe", str(recipe), "--out", str(out), *options])


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of three arms."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    assert reproduce(tiny, out, "--arms", ",".join(ARMS)) == 0
    return out


def found(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "ablation.json").read_text()))


def planned(tiny: Path, arms: tuple[str, ...] | None = None) -> dict[str, Stage]:
    return {s.name: s for s in ablation_stages(load_recipe(str(tiny)), arms, (0,), Path("x"))}


@pytest.mark.slow
def test_all_arms_and_all_curations_are_in_the_results(whole: Path) -> None:
    results = found(whole)
    assert tuple(results["metrics"]) == ARMS
    assert results["curations"].keys() == CURATIONS.keys()
    assert [(step["from"], step["to"]) for step in results["steps"]] == [*pairwise(ARMS)]
    for arm in ARMS:
        assert 0 <= results["metrics"][arm]["miou"][0] <= 1
    assert len({results["metrics"][arm]["final_loss"][0] for arm in ARMS}) == 3
    for judged in results["curations"].values():
        low, high = judged["recall_interval"]["3"]
        assert 0 <= low <= judged["recall"]["3"] <= high <= 1
        assert 0 <= judged["draws"]["new"]["mean"] <= judged["draws"]["right"]["mean"] <= 1


@pytest.mark.slow
def test_settings_that_should_differ_do(whole: Path) -> None:
    judged = found(whole)["curations"]
    sizes = [judged[f"neighbours-{n}"]["concepts"] for n in (4, 8, 16, 32)]
    assert sizes == sorted(set(sizes))
    assert judged["model-1"]["recall"] != judged["model-2"]["recall"]
    assert judged["gallery"]["concepts"] < judged["top"]["concepts"]  # classes alone, no other noun
    assert judged["other-pool"]["recall"] != judged["top"]["recall"]
    assert judged["model-3"]["draws"] != judged["model-4"]["draws"]
    assert judged["model-3"]["draws"] == judged["naive-1"]["draws"]


@pytest.mark.slow
def test_all_curations_are_judged_on_the_same_missing_concepts(whole: Path) -> None:
    judged = found(whole)["curations"].values()
    assert len({(each["pairs"], each["pairs_with_missing"], each["named"]) for each in judged}) == 1


@pytest.mark.slow
def test_the_last_checkpoint_scores_what_the_evaluation_does(whole: Path) -> None:
    results = found(whole)
    for arm in ARMS:
        (curve,) = results["convergence"][arm]
        assert curve["point"] == [2, 4, 6, 8] == curve["step"]
        assert curve["miou"][-1] == results["metrics"][arm]["miou"][0]  # on the same few images
    # weights, order and images are shared: what differs is the concepts
    curves = [results["convergence"][arm][0] for arm in ARMS]
    assert len({curve["loss"][-1] for curve in curves}) == 3


@pytest.mark.slow
def test_a_second_call_does_nothing_again(
    tiny: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (whole / "stages").rglob("*")}
    assert reproduce(tiny, whole, "--arms", ",".join(ARMS)) == 0
    assert {p: p.stat().st_mtime_ns for p in (whole / "stages").rglob("*")} == before
    said = capsys.readouterr()
    assert "running" not in said.err
    assert said.out.startswith("# Ablation of CoCu: recipe tiny")


@pytest.mark.slow
def test_reports_lie_where_they_are_looked_for(whole: Path) -> None:
    for name in ABLATION:
        assert (whole / name).stat().st_size > 500
    for name in ("ablation.png", "convergence.png"):
        with Image.open(whole / name) as picture:
            assert picture.width > 500
    text = (whole / "ablation.md").read_text(encoding="utf-8")
    assert "| #4: vision-driven, eqs. 6-8, cluster-guided | " in text
    assert "| baseline to #4 | " in text
    page = (whole / "ablation.html").read_text(encoding="utf-8")
    command = json.loads((whole / "ablation.json").read_text())["command"]
    assert f"<pre>{command}</pre>" in page and "--recipe tiny.toml " in command
    figures, rest = page.split("<h2>Archives and their witnesses</h2>")
    archives, overlays = rest.split("<h2>A concept that captions rarely name")
    assert figures.count("<img") == 2
    assert archives.count('<div class="pair">') > 1
    grids = overlays.count('<div class="grid"')
    assert grids in (1, 2, 3)
    assert overlays.count("<img") == grids * (
        2 * (2 + len(ARMS)) - 1
    )  # picture, truth, arms; one legend
    for part in ("<th>setting</th>", "Seconds per stage.", "<h2>Environment</h2>"):
        assert part in page
    assert not list(whole.glob("*.tmp"))


def test_first_stages_are_those_of_cocu(tiny: Path) -> None:
    usual = {s.name: s for s in scenes_stages(load_recipe(str(tiny)), (0,), Path("x"))}
    ours = planned(tiny)
    for name in ("pairs", "curator-pairs", "clip", "embed", "archive"):
        assert ours[name].fingerprint == usual[name].fingerprint


def test_a_default_that_came_later_leaves_older_results_up_to_date(tiny: Path) -> None:
    recipe = load_recipe(str(tiny))
    plain, cropped = (
        planned_clip(replace(recipe, curator=replace(recipe.curator, min_crop=share)))
        for share in (1.0, 0.5)
    )
    assert "min_crop" not in plain.settings
    assert cropped.settings == {**plain.settings, "min_crop": 0.5}


def planned_clip(recipe: Recipe) -> Stage:
    return next(s for s in scenes_stages(recipe, (0,), Path("x")) if s.name == "clip")


def test_arms_differ_in_the_archive_or_the_draws_alone(tiny: Path) -> None:
    stages = planned(tiny)
    third, fourth = stages["train-model-3-0"], stages["train-model-4-0"]
    assert third.inputs[1] is fourth.inputs[1]
    assert third.settings["train"] == stages["train-baseline-0"].settings["train"]
    assert third.settings["sampling"] != fourth.settings["sampling"]
    assert stages["train-model-1-0"].inputs[1].name == "archive-language-cosine"
    assert [stage.name for stage in stages["train-upper-bound-0"].inputs] == ["pairs"]


def test_seeds_share_archives_and_run_one_after_the_other(tiny: Path) -> None:
    stages = ablation_stages(load_recipe(str(tiny)), None, (0, 1), Path("x"))
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    trained = [name for name in names if name.startswith("train-")]
    assert trained == [f"train-{arm}-{seed}" for seed in (0, 1) for arm in LADDER]
    assert names[-1] == "ablation"


@pytest.mark.parametrize(("total", "every"), [(1200, 200), (8, 2), (7, 2), (3, 1)])
def test_points_are_evenly_spaced_and_all_are_kept(tiny: Path, total: int, every: int) -> None:
    train = load_recipe(str(tiny)).train
    train = replace(train, optim=replace(train.optim, total_steps=total))
    kept = with_points(train, POINTS)
    assert (kept.checkpoint_every, kept.checkpoints) == (every, POINTS)
    assert -(-total // every) <= kept.checkpoints  # the last step's counted
    assert replace(kept, checkpoint_every=2, checkpoints=2) == train


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--arms", "cocu"], 2, "unknown arm 'cocu'; --ablation knows baseline, model-1"),
        (["--recipe", "cocu-flickr8k"], 2, "say where with --data FOLDER"),
        (["--recipe", "cocu-flickr8k", "--arms", "model-4"], 2, "trains nothing: leave --arms out"),
        (["--recipe", "cocu-flickr8k", "--data", "FOLDER"], 3, "captions_train.tsv: not found"),
        (["--from", "report"], 2, "no stage is called 'report'"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    options: list[str],
    code: int,
    message: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert reproduce(tiny, tmp_path / "out", *given) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_and_changes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tiny, tmp_path / "out", "--dry-run", "--arms", "baseline,gallery") == 0
    names = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert names[-7:] == [
        "train-baseline-0", "evaluate-baseline-0", "points-baseline-0",
        "train-gallery-0", "evaluate-gallery-0", "points-gallery-0", "ablation",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_gain_by_hand() -> None:
    # differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt 3, t(2) = 4.303
    found = gain([0.0, 0.0, 0.0], [0.1, 0.2, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 4.303 * 0.1 / 3**0.5)
    assert found.high == pytest.approx(0.2 + 4.303 * 0.1 / 3**0.5)
    assert gain([0.25], [0.75]) == (0.5, None, None)


@pytest.mark.parametrize("seeds", [2, 3, 5, 40])
def test_the_interval_of_a_gain_covers_at_its_level(seeds: int) -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 2.0, (4000, seeds))
    inside = 0
    for draw in draws.tolist():
        found = gain([0.0] * seeds, draw)
        assert found.low is not None and found.high is not None
        inside += found.low <= 1 <= found.high
    assert 0.94 <= inside / 4000 <= (0.96 if seeds < 11 else 0.98)


def test_a_verdict_needs_an_interval_on_one_side_of_0() -> None:
    assert verdict(0.01, 0.2) == "holds"
    assert verdict(-0.2, -0.01) == "reversed"
    assert verdict(-0.01, 0.2) == "not shown"
    assert verdict(0.0, 0.2) == "not shown"
    assert verdict(None, None) == "one seed"


def test_steps_are_between_neighbours_of_the_ladder_that_were_run() -> None:
    metrics = {
        "upper-bound": {"miou": [0.9, 0.9]},
        "top": {"miou": [0.1, 0.1]},
        "baseline": {"miou": [0.1, 0.2]},
        "model-2": {"miou": [0.3, 0.4]},
    }
    first, second = steps(metrics)
    assert (first["from"], first["to"], first["verdict"]) == ("baseline", "model-2", "holds")
    assert first["by_seed"] == pytest.approx([0.2, 0.2])
    assert (second["from"], second["to"]) == ("model-2", "upper-bound")
    assert second["mean"] == pytest.approx(0.55)
    assert second["verdict"] == "not shown"  # two seeds say little


def judged(recall: float) -> dict[str, Any]:
    share = {"mean": 0.5, "error": 0.01}
    return {
        "about": "a setting", "concepts": 7.25, "recall": {"1": 0.1, "3": recall, "5": 0.4},
        "recall_interval": {"1": [0, 0.2], "3": [recall - 0.1, recall + 0.1], "5": [0.3, 0.5]},
        "draws": {"right": share, "new": share, "reach": share},
    }  # fmt: skip


RESULTS: dict[str, Any] = {
    "metrics": {
        arm: {"miou": [0.25, 0.75], "miou_stuff": [0.5, 0.5], "miou_thing": [0.0, 0.0],
              "final_loss": [2.0, 3.0]}
        for arm in ("baseline", "model-1", "model-2", "model-3", "model-4")
    },
    "curations": {f"model-{n}": judged(n / 10) for n in (1, 2, 3, 4)},
    "archive_steps": [
        {"from": "model-1", "to": "model-2", "mean": 0.1, "low": 0.05, "high": 0.15, "same": False},
        {"from": "model-2", "to": "model-3", "mean": -0.1, "low": -0.2, "high": -0.05,
         "same": False},
        {"from": "model-3", "to": "model-4", "mean": 0.0, "low": 0.0, "high": 0.0, "same": True},
    ],
}  # fmt: skip
RESULTS["steps"] = steps(RESULTS["metrics"])


def test_arms_table_by_hand() -> None:
    lines = arms_table(RESULTS).splitlines()
    assert lines[0] == "| arm | R@3 | right | new | mIoU | stuff | things | final loss |"
    assert lines[2].startswith("| baseline |  |  |  | 0.500 ± 0.250 | 0.500 ± 0.000 |")
    assert lines[3] == (
        "| #1: language-driven, eq. 6, naive | 0.100 [0.000, 0.200] | 0.500 ± 0.010 | "
        "0.500 ± 0.010 | 0.500 ± 0.250 | 0.500 ± 0.000 | 0.000 ± 0.000 | 2.500 |"
    )


def test_steps_table_says_what_holds() -> None:
    assert steps_table(RESULTS).splitlines()[2:] == [
        "| baseline to #1 | +0.000 [+0.000, +0.000] | not shown |  |  |",
        "| #1 to #2 | +0.000 [+0.000, +0.000] | not shown | +0.100 [+0.050, +0.150] | holds |",
        "| #2 to #3 | +0.000 [+0.000, +0.000] | not shown | -0.100 [-0.200, -0.050] | reversed |",
        "| #3 to #4 | +0.000 [+0.000, +0.000] | not shown | the same archive |  |",
        "| baseline to #4 | +0.000 [+0.000, +0.000] | not shown |  |  |",
    ]


def test_settings_table_has_a_row_for_every_curation() -> None:
    lines = settings_table(RESULTS).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2] == (
        "| a setting | 7.2 | 0.100 | 0.100 [0.000, 0.200] | 0.400 | 0.500 | 0.500 | 0.500 |"
    )


def test_arms_have_words() -> None:
    assert about("upper-bound") == "upper bound"
    assert about("gallery") == "the best three, closed gallery"


def test_convergence_has_a_line_for_every_seed() -> None:
    curve: Curve = {"step": [1, 2], "loss": [3.0, 2.0], "point": [2], "miou": [0.5]}
    axes = figures.convergence({"baseline": [curve, curve], "model-4": [curve]}).axes
    assert [axis.get_title() for axis in axes] == ["training loss", "mIoU"]
    assert [len(axis.lines) for axis in axes] == [3, 3]
    legend = axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["baseline", "model-4"]
    assert np.asarray(axes[0].lines[0].get_xydata()).tolist() == [[1, 3], [2, 2]]


def test_bars_show_heights_intervals_and_seeds(tmp_path: Path) -> None:
    panel: dict[str, figures.Bar] = {"a": (0.5, 0.4, 0.6, [0.45, 0.55]), "b": (0.2, None, None, [])}
    figure = figures.bars({"mIoU": panel})
    (axis,) = figure.axes
    assert [patch.get_width() for patch in axis.patches] == [0.5, 0.2]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert np.asarray(axis.lines[0].get_xydata()).tolist() == [[0.4, 0], [0.6, 0]]
    assert np.asarray(axis.lines[1].get_xydata()).tolist() == [[0.45, 0], [0.55, 0]]
    figures.save(figure, tmp_path / "bars.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bars.png"]
