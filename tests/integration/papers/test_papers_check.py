"""The check of a data folder and the plan: what is there, what is missing, what it will take."""

import shutil
from pathlib import Path

import pytest

from integration.errors import DataMissingError, RecipeError
from integration.papers.check import Finding, describe, look, needs_of, require
from integration.papers.pairs import count_pairs, find_set
from integration.papers.plan import RATES, Machine, Step, describe_plan, plan_run, task_seconds
from integration.papers.recipe import FOLDER, load_pairs_recipe, train_recipe
from integration.papers.run import Options, room, run_paper
from integration.reproduce import main
from segbench import load_any_task

RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def found(recipe: str, root: Path) -> dict[str, Finding]:
    return {each.name: each for each in look(needs_of(load_pairs_recipe(recipe)), root)}


@pytest.fixture
def copy(bare: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, to do things to."""
    return Path(shutil.copytree(bare, tmp_path / "data"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_checked_and_planned_without_writing(
    name: str, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_paper(name, Options(data=bare, out=out, dry_run=True))
    said = capsys.readouterr().out
    recipe = load_pairs_recipe(name)
    for arm in recipe.arms:
        assert f"train-{arm}-0" in said
        assert f"evaluate-{arm}-0" in said
    assert "missing" not in said
    assert "ESTIMATES" in said
    assert said.count("to run") == said.count("/stages/")
    assert ("archive-" in said) == recipe.curates
    assert not out.exists()


def test_sets_are_counted(bare: Path) -> None:
    union = found("cocu-cc3m-cc12m-yfcc14m", bare)
    assert union["cc3m"].pairs == 32  # of img2dataset's statistics
    assert union["cc12m"].pairs == 32  # of the first shard, and the size of the others
    assert "about" in union["cc12m"].found
    assert "about" not in union["cc3m"].found
    assert union["yfcc14m"].pairs == 16
    assert union["cc3m"].state == "short"
    assert "the published run had 2,751,755 (-100.0%)" in union["cc3m"].found
    assert "QuickGELU" in union["clip-vit-b-16"].found
    assert union["voc21@cocu"].images == 1
    assert "2 images of 50,000, layout folders" in union["imagenet1k@cocu"].found


def test_half_of_a_set_is_every_second_shard(bare: Path) -> None:
    half = load_pairs_recipe("cocu-cc12m-half")
    shards = find_set(half, "cc12m", bare)
    assert [file.name for file in shards.files] == ["cc12m-train-0001.tar"]
    assert count_pairs(shards) == (16, True)
    assert len(find_set(load_pairs_recipe("cocu-cc12m"), "cc12m", bare).files) == 2
    assert found("cocu-cc12m-half", bare)["cc12m"].found.count("4,858,093") == 1


def test_an_empty_folder_lacks_everything_and_is_told_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cocu", "--recipe", "cocu-cc3m", "--data", str(tmp_path)]
    assert main([*command, "--dry-run"]) == 3
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "cocu-cc3m lacks 11 of 11 things" in said.err
    lines = said.out.splitlines()
    for name in ("cc3m", "clip-vit-b-16", "voc21@cocu", "imagenet1k@cocu"):
        place = next(i for i, line in enumerate(lines) if f"missing  {name}" in line)
        assert "get it:" in lines[place + 1]
    assert f"--local-dir {tmp_path}/cc3m" in said.out
    assert "VOCtrainval_11-May-2012.tar" in said.out
    assert "train-cocu-0" in said.out  # the plan counts on the published numbers


def test_one_missing_set_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "cityscapes")
    with pytest.raises(DataMissingError, match=r"lacks 1 of 11 things in .*: cityscapes19@cocu;"):
        run_paper("cocu-cc3m", Options(data=copy, out=copy / "out"))
    run_paper("cocu-cc3m", Options(data=copy, out=copy / "out", tasks="voc21@cocu", dry_run=True))


def test_damaged_shards_and_weights_are_missing(copy: Path) -> None:
    (copy / "cc12m" / "cc12m-train-0000.tar").write_bytes(b"no tar")
    (copy / "clip-vit-b-16" / "open_clip_model.safetensors").unlink()
    seen = found("cocu-cc12m", copy)
    assert seen["cc12m"].state == "missing"
    assert "cc12m-train-0000.tar" in seen["cc12m"].found
    assert "no weights in" in seen["clip-vit-b-16"].found
    (copy / "clip-vit-b-16" / "open_clip_config.json").write_text("{")
    assert (
        "no open_clip_config.json that can be read"
        in found("cocu-cc12m", copy)["clip-vit-b-16"].found
    )


def test_findings_are_lines_and_a_refusal(tmp_path: Path) -> None:
    findings = [
        Finding(name="a", state="ok", found="there"),
        Finding(name="b", state="missing", found="gone", get="fetch it to ROOT/b"),
    ]
    lines = describe(findings, tmp_path)
    assert len(lines) == 4
    assert lines[3].endswith(f"fetch it to {tmp_path}/b")
    require(findings[:1], "run", tmp_path)
    with pytest.raises(DataMissingError, match=r"run lacks 1 of 2 things in .*: b;"):
        require(findings, "run", tmp_path)
    with pytest.raises(DataMissingError, match="no such folder"):
        look([], tmp_path / "gone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(), "say where with --data FOLDER"),
        (Options(seeds=0), "--seeds must be >= 1, got 0"),
        (Options(limit=3), "--limit must be >= 4, got 3"),
        (Options(arms="cocu,best"), "unknown arms 'best'"),
        (Options(pool="coco"), "pool must be one of own, cc3m"),
        (Options(tasks="voc22@cocu"), "voc22@cocu"),
    ],
)
def test_wrong_options_are_one_line(options: Options, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        run_paper("cocu-cc3m", options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_pairs_are_refused_for_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cocu", "--recipe", "cocu-mini", "--limit", "8"]) == 2
    assert "--limit are of recipes on pairs" in capsys.readouterr().err


def steps(recipe: str, machine: Machine, pairs: int) -> dict[str, Step]:
    """The plan of a recipe with so many pairs of each set, and no image to score."""
    chosen = load_pairs_recipe(recipe)
    names = {*chosen.sets, *chosen.embedded, *chosen.tasks}
    findings = [Finding(name=name, state="ok", found="", pairs=pairs) for name in names]
    configs = {arm: train_recipe(chosen, arm, 0) for arm in chosen.arms}
    return {s.name: s for s in plan_run(chosen, configs, findings, [0], machine)}


def test_estimates_are_pairs_by_measured_rates() -> None:
    few, many = Machine(gpus=1, cores=16), Machine(gpus=1, cores=64)
    drawn = 80_610 * 1024
    loaded, computed = RATES["train_load"].value, RATES["train"].value
    slow = steps("cocu-cc3m", few, 2_900_000)["train-cocu-0"]
    assert slow.seconds == pytest.approx(drawn / (16 * loaded))  # 4.8 hours
    assert "loading bounds it" in slow.note
    fast = steps("cocu-cc3m", many, 2_900_000)["train-cocu-0"]
    assert fast.seconds == pytest.approx(drawn / computed)
    assert slow.disk_gb == pytest.approx(2 * 12 * 55_726_610 / 1e9)  # the published model
    assert slow.gpu_gib == pytest.approx(33.7)
    assert steps("groupvit-gcc-yfcc", few, 1)["train-baseline-0"].gpu_gib > 130
    embed = steps("cocu-cc3m", few, 2_900_000)["embed-cc3m"]
    assert embed.seconds == pytest.approx(2_900_000 / 1100)
    assert embed.disk_gb == pytest.approx(2 * 2.9696)  # of images and captions


def test_search_grows_with_the_square_and_says_when_an_index_is_taken() -> None:
    small, large = (steps("cocu-cc12m", Machine(), n) for n in (1_000_000, 100_000_000))
    assert "exact search within a minute" in small["archive-vision-relative"].note
    assert "an index is taken instead" in large["archive-vision-relative"].note
    ratio = large["archive-vision-relative"].seconds / small["archive-vision-relative"].seconds  # type: ignore[operator]  # both are known
    assert ratio > 1000


@pytest.mark.parametrize(
    ("task", "windows"),
    [
        ("voc21@cocu", 2),  # 597 x 448
        ("cityscapes19@cocu", 36),  # 2048 x 1024
        ("ade150@cocu", 24 / 4),  # 683 x 512 in windows of 224, a quarter of the area
        ("imagenet1k@cocu", 1 / 4),
    ],
)
def test_windows_are_those_of_the_protocol(task: str, windows: float) -> None:
    seconds = task_seconds(load_any_task(task), 1000, Machine(gpus=2))
    assert seconds == pytest.approx(1000 * windows / RATES["windows"].value / 2)


def test_a_plan_says_what_was_not_measured_and_every_source() -> None:
    lines = describe_plan(list(steps("cocu-cc3m", Machine(), 1000).values()), Machine())
    assert any("and what was not measured: index, vocabulary" in line for line in lines)
    sources = [rate.source for rate in RATES.values()]
    kinds = ("measured: ", "published: ", "calculated: ")
    assert all(source.startswith(kinds) for source in sources)
    assert sum(line.count("measured: ") > 0 or "published: " in line for line in lines) > 7
    repository = Path(__file__).parents[3]
    for source in sources:
        if "docs/" in source or "packages/" in source:
            assert (repository / source.split("(")[-1].rstrip(")")).exists(), source


def test_a_disk_without_room_is_said_before_the_work(tmp_path: Path) -> None:
    new = tmp_path / "not" / "there"
    assert "NOT ENOUGH" in room([Step(name="a", seconds=None, disk_gb=1e9)], new)
    assert "NOT ENOUGH" not in room([Step(name="a", seconds=None, disk_gb=1e-9)], new)
    assert not new.parent.exists()
