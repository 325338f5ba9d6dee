"""Several data sets as one pool: patterns, missing shards, recipes, the command."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from groupvit import DataConfig, DataError, PairDataset, TrainConfig, TrainResult, UsageError
from groupvit.cli import main
from groupvit.data import pool as pool_module
from groupvit.data import shards as shards_module
from groupvit.data.pool import CheckImages, decodable, open_pool
from groupvit.data.shards import find_sets, find_shards

Write = Callable[..., Path]
Jpeg = Callable[..., bytes]

RECIPE = """
[optim]
total_steps = 2
precision = "float32"
[data]
batch = 4
concepts = 1
augment = "none"
workers = 0
SETS
[model.vision]
image_px = 32
"""
SETS = '[data.sets]\nwide = "wide/w-{000..002}.tar"\nnarrow = "deep/*/n.tar"'


@pytest.fixture
def root(tmp_path: Path, write_shard: Write, jpeg: Jpeg) -> Path:
    """Two data sets with the same keys: three shards of two pairs, one of two."""
    root = tmp_path / "data"
    (root / "wide").mkdir(parents=True)
    (root / "deep" / "x").mkdir(parents=True)
    for number, path in enumerate(
        [*(root / "wide" / f"w-00{n}.tar" for n in range(3)), root / "deep" / "x" / "n.tar"]
    ):
        members: dict[str, bytes] = {}
        for key in "ab":
            members |= {f"{key}.jpg": jpeg((number,) * 3), f"{key}.txt": b"a red wall"}
        write_shard(path, members)
    return root


CONFIG = DataConfig(sets={"wide": "wide/w-{000..002}.tar", "narrow": "deep/*/n.tar"})


def run(*argv: object) -> int:
    return main([str(arg) for arg in argv])


def test_patterns_stand_for_shards_in_order(root: Path) -> None:
    def names(pattern: str, **how: str) -> list[str]:
        found = find_shards(str(root / pattern), **how)  # type: ignore[arg-type]  # by name
        return [path.relative_to(root).as_posix() for path in found]

    wide = [f"wide/w-00{n}.tar" for n in range(3)]
    assert names("wide/w-001.tar") == [wide[1]]
    assert names("wide/*.tar") == names("wide") == names("**/w-*.tar") == wide
    assert names("wide/w-{000..002}.tar") == names("wide/w-00{0,1,2}.tar") == wide
    assert names("wide/w-{002,000}.tar") == [wide[2], wide[0]]
    assert names("{deep,wide}/**/*.tar") == ["deep/x/n.tar", *wide]
    assert names("wide/w-{001..009}.tar", missing="skip") == wide[1:]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path, write_shard: Write) -> None:
    for name in ("a{b,c}.tar", "[1]*.tar"):
        path = write_shard(tmp_path / name, {})
        assert find_shards(str(path)) == [path]


def test_the_name_of_the_root_is_no_pattern(root: Path) -> None:
    odd = root.rename(root.with_name("data [1] {a,b}"))
    found = find_sets(CONFIG.sets, odd)
    assert [path.name for path in found["wide"]] == ["w-000.tar", "w-001.tar", "w-002.tar"]
    assert found["narrow"] == [odd / "deep" / "x" / "n.tar"]


def test_missing_shards_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "wide" / "w-001.tar").unlink()
    pattern = "wide/w-{000..004}.tar"
    told = rf"wide: .*: 3 of 5 shards are missing, first {root}/wide/w-001.tar"
    with pytest.raises(DataError, match=told + "; .*--missing_shards skip"):
        find_sets({"wide": pattern}, root)
    found = find_sets({"wide": pattern}, root, missing="skip")
    assert [path.name for path in found["wide"]] == ["w-000.tar", "w-002.tar"]
    assert "goes on although 3 of 5 shards are missing" in caplog.text
    with pytest.raises(DataError, match="2 of 2 shards are missing"):  # nothing to go on with
        find_sets({"none": "none/{0,1}.tar"}, root, missing="skip")
    with pytest.raises(DataError, match=r"none: .*none.tar: no such file"):
        find_sets({"none": "none.tar"}, root)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the program tar")
@pytest.mark.parametrize("name", ["mypics", "my pics"])
def test_a_folder_of_pictures_is_told_how_to_become_a_shard(
    tmp_path: Path, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    (folder / "more").mkdir(parents=True)
    for key in ("a", "more/b"):
        (folder / f"{key}.JPG").write_bytes(jpeg((9, 9, 9)))
        (folder / f"{key}.txt").write_text(f"a picture of {key}")
    with pytest.raises(DataError, match=r"no \.tar file in this folder, but pictures") as caught:
        find_shards(name)
    told = re.search(r"`(tar cf .*)`, and give (.*)$", str(caught.value))
    assert told is not None
    subprocess.run(shlex.split(told[1]), check=True)
    pairs = open_pool(DataConfig(), *shlex.split(told[2]), dataset="mine")
    assert {pair.id: pair.caption for pair in pairs} == {
        f"mine/{name}/{key}": f"a picture of {key}" for key in ("a", "more/b")
    }


def test_what_is_no_pattern_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"braces do not close; write a range as \{0..9\}"):
        find_shards(str(root / "wide/w-{000..002.tar"))
    for pattern in ("s3://bucket/{0..9}.tar", "pipe:cat a.tar"):
        with pytest.raises(DataError, match="not a local path; copy the shards here"):
            find_shards(pattern)
    with pytest.raises(DataError, match=r"nowhere: no such folder; the recipe looks for a, b in"):
        find_sets({"a": "*.tar", "b": "*.tar"}, root / "nowhere")
    monkeypatch.setattr(shards_module, "MOST_NAMES", 50)
    with pytest.raises(UsageError, match="stands for more than 50 names"):
        find_shards(str(root / "{0..50}.tar"))


def test_all_sets_are_one_pool_in_the_order_of_the_recipe(root: Path) -> None:
    pairs = open_pool(CONFIG, str(root))
    assert [pair.id for pair in pairs] == [
        *(f"wide/w-00{n}/{key}" for n in range(3) for key in "ab"),
        "narrow/n/a",
        "narrow/n/b",
    ]
    swapped = DataConfig(sets=dict(reversed(list(CONFIG.sets.items()))))
    assert [pair.id for pair in open_pool(swapped, str(root))][:2] == ["narrow/n/a", "narrow/n/b"]
    assert open_pool(swapped, str(root)).fingerprint != pairs.fingerprint


def test_without_sets_the_shards_are_named(root: Path) -> None:
    def first(dataset: str | None) -> str:
        return open_pool(DataConfig(), str(root / "wide" / "*.tar"), dataset=dataset)[0].id

    assert first(None) == "wide/w-000/a" and first("other") == "other/w-000/a"
    with pytest.raises(UsageError, match="--dataset other: the recipe names its data sets: wide, "):
        open_pool(CONFIG, str(root), dataset="other")


def test_a_small_pool_is_checked_unless_told_otherwise(
    tmp_path: Path, write_shard: Write, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"a.jpg": b"none", "a.txt": b"a", "b.jpg": jpeg(), "b.txt": b"b"}
    write_shard(tmp_path / "s.tar", members)
    pairs = open_pool(DataConfig(), str(tmp_path / "s.tar"))
    checks: tuple[CheckImages, ...] = ("auto", True, False)
    assert [len(decodable(pairs, check)) for check in checks] == [1, 1, 2]
    monkeypatch.setattr(pool_module, "SMALL_POOL", 1)
    assert len(decodable(pairs, "auto")) == 2


def test_the_command_trains_on_the_sets_of_a_recipe(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[list[str]] = []

    def train(_: TrainConfig, dataset: PairDataset, run: Path, **__: object) -> TrainResult:
        seen.append([pair.id for pair in dataset.pairs])
        return TrainResult(run, run)

    monkeypatch.setattr("groupvit.cli.train_run", train)
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE.replace("SETS", SETS))
    assert run("train", recipe, root, tmp_path / "run") == 0
    assert capsys.readouterr().out.startswith("shards\t4\npairs\t8\nsteps\t2\n")
    assert (tmp_path / "run" / "index" / "narrow" / "n.index").is_file()
    (root / "wide" / "w-002.tar").unlink()
    argv = ("train", recipe, root, tmp_path / "run", "--index", tmp_path / "i")
    assert run(*argv) == 3
    said = capsys.readouterr().err
    assert "1 of 3 shards are missing" in said and said.count("\n") == 1
    assert run(*argv, "--missing_shards", "skip") == 0
    assert [len(ids) for ids in seen] == [8, 6]
    assert (tmp_path / "i" / "wide" / "w-000.index").is_file()


def test_a_dry_run_writes_nothing_and_reads_what_is_there(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "r.toml", tmp_path / "run"
    recipe.write_text(RECIPE.replace("SETS", SETS))
    assert run("train", recipe, root, out, "--dry_run", "true") == 0
    assert "pairs\t8" in capsys.readouterr().out and not out.exists()


def test_recipes_of_the_package_are_known_by_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "gcc-yfc", root, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "gcc-yfcc, tiny; did you mean 'gcc-yfcc'?" in said
    assert run("train", "gcc-yfcc", root, tmp_path / "run") == 3
    assert "gcc3m: " in (said := capsys.readouterr().err)
    assert "437 of 437 shards are missing, first" in said


def test_a_recipe_for_archives_does_not_train_without_one(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "cocu-cc3m", root, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "data.source = 'archive' and no concept archive is given" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()
