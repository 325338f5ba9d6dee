"""The whole system at a tiny scale: twice alike, killed and resumed alike, errors in one line."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from integration.cocu import stages
from integration.reproduce import main

ROOT = Path(__file__).parents[2]
ARMS = ("baseline", "cocu", "upper-bound")

KILLED = """
import os, signal, sys
from integration.reproduce import main

saved = []

def watch(event, arguments):
    new = str(arguments[1]) if event == "os.rename" else ""
    if "train-cocu-0" in new and "checkpoint" in new:
        saved.append(arguments)
        if len(saved) == 3:  # checkpoints of steps 2 and 4 are whole, that of step 6 is not
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
main(sys.argv[1:])
"""


def reproduce(recipe: Path, out: Path, *options: str) -> int:
    return main(["cocu", "--recipe", str(recipe), "--out", str(out), *options])


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text()))


def numbers(out: Path) -> dict[str, Any]:
    """What has to be equal between two runs."""
    return {name: results(out)[name] for name in ("metrics", "losses", "quality", "gap")}


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of all three arms."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert reproduce(tiny, out) == 0
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the unbroken run, to do things to."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_results_have_every_arm_and_metric(whole: Path) -> None:
    found = results(whole)
    assert set(found["metrics"]) == set(ARMS)
    for arm in ARMS:
        values = found["metrics"][arm]
        assert 0 <= values["miou"][0] <= 1
        assert 0 < values["grouping_purity"][0] <= 1
        assert found[f"{arm.replace('-', '_')}_miou"] == values["miou"]
    assert found["seeds"] == [0]
    assert found["recipe"] == "tiny"
    assert found["gap"]["stuff"] < found["gap"]["thing"]
    assert {"cpu", "torch"} <= found["machine"].keys()
    assert "clip" in found["seconds"]


def test_arms_differ_in_what_they_learn(whole: Path) -> None:
    losses = results(whole)["losses"]
    assert len(set(losses.values())) == 3
    assert all(torch.isfinite(torch.tensor(loss)) for loss in losses.values())


def test_checkpoints_on_the_way_are_scored_if_wanted(tiny: Path, copy: Path) -> None:
    assert "Loss and mIoU against steps" not in (copy / "report.html").read_text()
    recipe = copy.parent / "tiny.toml"
    recipe.write_text(tiny.read_text().replace("overlays = 1", "overlays = 1\npoints = 2"))
    assert reproduce(recipe, copy, "--arms", "cocu") == 0
    found = results(copy)
    (curve,) = found["convergence"]["cocu"]
    assert curve["point"] == [4, 8]
    assert all(0 <= miou <= 1 for miou in curve["miou"])
    assert found["speed"]["cocu"]["images_per_s"] > 0
    assert "Loss and mIoU against steps" in (copy / "report.html").read_text()


@pytest.mark.slow
def test_two_runs_in_different_folders_give_equal_numbers(
    tiny: Path, whole: Path, tmp_path: Path
) -> None:
    assert reproduce(tiny, tmp_path / "second") == 0
    assert numbers(tmp_path / "second") == numbers(whole)


def test_a_second_call_does_nothing_again(
    tiny: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (copy / "stages").rglob("*")}
    assert reproduce(tiny, copy) == 0
    assert {p: p.stat().st_mtime_ns for p in (copy / "stages").rglob("*")} == before
    said = capsys.readouterr()
    assert "running" not in said.err
    assert "Zero-shot segmentation" in said.out


@pytest.mark.parametrize("stage", ["_embed", "_curate", "evaluate_arm"])
def test_a_run_that_breaks_in_a_stage_goes_on_to_equal_numbers(
    tiny: Path, whole: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    name = {"_embed": "embed", "_curate": "archive", "evaluate_arm": "evaluate-cocu-0"}[stage]
    work = getattr(stages, stage)

    def broken(*arguments: Any) -> None:
        work(*arguments)  # everything is there, and nobody said so
        if arguments[-1].name.startswith(name):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, stage, broken)
        assert reproduce(tiny, copy, "--from", name) == 4
    assert reproduce(tiny, copy) == 0
    assert numbers(copy) == numbers(whole)


@pytest.mark.slow
def test_a_run_that_was_killed_in_training_goes_on_to_equal_numbers(
    tiny: Path, whole: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["cocu", "--recipe", str(tiny), "--out", str(copy)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *options, "--from", "train-cocu-0"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    (trained,) = (copy / "stages").glob("train-cocu-0-*")
    assert not (trained / "stage.json").exists()
    assert sorted(p.name[-1] for p in trained.glob("checkpoint-*")) == ["2", "4"]
    capsys.readouterr()
    assert reproduce(tiny, copy) == 0
    said = capsys.readouterr().err
    assert "train-baseline-0: up to date" in said
    assert "train-cocu-0: running" in said
    assert numbers(copy) == numbers(whole)
    steps = [json.loads(line)["step"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("stage", "file", "following"),
    [
        ("pairs", "00000.tar", "curator-pairs"),
        ("clip", "open_clip_model.safetensors", "embed"),
        ("embed", "img_emb/img_emb_00000.npy", "archive"),
        ("archive", "archive/archive-00000.arrow", "train-baseline-0"),
        ("train-cocu-0", "checkpoint-00000008/model.safetensors", "evaluate-cocu-0"),
        ("evaluate-cocu-0", "summary.json", "report"),
        ("report", "report.html", None),
    ],
)
def test_a_damaged_file_is_named_before_anything_reads_it(
    tiny: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    file: str,
    following: str | None,
) -> None:
    (path,) = (copy / "stages").glob(f"{stage}-{'[0-9a-f]' * 10}/{file}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert reproduce(tiny, copy, *([] if following is None else ["--from", following])) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"reproduce: {path}: is not as it was written")
    assert said.endswith(f"; run again with --from {stage}\n")
    assert said.count("\n") == 1


def test_a_full_disk_is_one_line_that_says_what_to_do(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stages, "write_pairs", full)
    assert reproduce(tiny, tmp_path / "out") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("reproduce: [Errno 28] No space left on device")
    assert last.endswith("; make room and run the command again")


def test_report_shows_curves_archives_and_overlays(whole: Path) -> None:
    page = (whole / "report.html").read_text(encoding="utf-8")
    tables, rest = page.split("<h2>A concept that captions rarely name</h2>")
    overlays, rest = rest.split("<h2>Archives and their witnesses</h2>")
    archives, curves = rest.split("<h2>Loss at equal steps</h2>")
    assert "<img" not in tables
    assert curves.count("<img") == 1
    assert archives.count('<div class="pair">') == 6
    assert archives.count("<img") > 6  # the pairs and their witnesses
    assert {"✓ right: shown", "✗ wrong: not shown"} & set(
        re.findall(r"[✓✗] \w+: [a-z ]+", archives)
    )
    # two rows of five columns, where the legend takes one place
    assert overlays.count('<div class="grid" style="--columns:5">') in (1, 2, 3)
    assert overlays.count("<img") == 9 * overlays.count('class="legend"')
    sources = re.findall(r'<img src="([^"]{30})', page)
    assert len(sources) == page.count("<img")
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert f"<pre>{results(whole)['command']}</pre>" in page
    environment = page.partition("<h2>Environment</h2>")[2]
    assert f"<tr><td>torch</td><td>{version('torch')}</td></tr>" in environment
    assert "<caption>Seconds per stage.</caption>" in page
    lead = page.partition('<p class="lead">')[2].partition("</p>")[0]
    assert f"random would have {results(whole)['chance_miou']:.3f}." in lead
    assert "One seed says little" in lead
    assert "<script" not in page
    assert "http" not in page.split("</style>")[1]


def test_report_has_the_tables(whole: Path) -> None:
    text = (whole / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# CoCu: recipe tiny\n\nmIoU over ")
    assert "\n\ncocu-mini, a thousand times smaller\n" in text
    for line in ("| arm | mIoU | stuff | things |", "| cocu - baseline |", "| upper-bound |",
                 "| curation | R@1 |", "| caption alone |", "| stage | seconds |"):  # fmt: skip
        assert line in text, line


def test_seeds_and_arms_are_options(tiny: Path, copy: Path, whole: Path) -> None:
    assert reproduce(tiny, copy, "--seeds", "2", "--arms", "baseline,cocu") == 0
    found = results(copy)
    assert found["seeds"] == [0, 1]
    assert set(found["metrics"]) == {"baseline", "cocu"}
    first, second = found["metrics"]["cocu"]["grouping_purity"]
    assert first == results(whole)["metrics"]["cocu"]["grouping_purity"][0]
    assert first != second
    assert "2 seeds, mean ± standard error" in (copy / "report.md").read_text()


@pytest.mark.parametrize(
    "flag", [["--dry-run"], ["--dry-run", "true"], ["--dry-run=true"], ["--dry_run"]]
)
def test_a_dry_run_lists_and_changes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    assert reproduce(tiny, tmp_path / "out", *flag, "--arms", "cocu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [
        "pairs", "curator-pairs", "clip", "embed", "archive",
        "train-cocu-0", "evaluate-cocu-0", "report",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


UNKNOWN_KEY = 'summary = "x"\narm = ["cocu"]\n'


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--recipe", "coco-mini"], 2, "no recipe 'coco-mini'; there are"),
        (["--recipe", "FOLDER/key.toml"], 2, "unknown key 'arm' in key.toml; did you mean 'arms'"),
        (["--recipe", "FOLDER/gone.toml"], 2, "gone.toml': no such file"),
        (
            ["--recipe", "pixelclip-sa1b"],
            2,
            "pixelclip-sa1b is a recipe of the verb pixelclip, not",
        ),
        (["--recpie", "x"], 2, "cocu has no option --recpie; did you mean --recipe?"),
        (["--dryrun"], 2, "did you mean --dry-run?"),
        (["--fro", "clip"], 2, "did you mean --from?"),
        (["--data", "x"], 2, "recipe tiny draws its own pictures: leave --data out"),
        (["--from", "trian"], 2, "no stage is called 'trian'; there are pairs, curator-pairs"),
        (["--arms", "cocu,best"], 2, "unknown arm 'best'"),
        (["--seeds", "0"], 2, "--seeds must be >= 1, got 0"),
        (["--recipe", "cocu-flickr8k"], 2, "say where with --data FOLDER"),
        (["--recipe", "cocu-flickr8k", "--data", "FOLDER"], 3, "captions_train.tsv: not found"),
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
    (tmp_path / "key.toml").write_text(UNKNOWN_KEY)
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert reproduce(tiny, tmp_path / "out", *given) == code  # a later --recipe wins
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("reproduce: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "needs a verb, one of cocu, groupvit, pixelclip"), (["coco"], "no verb 'coco'; there")],
)
def test_a_missing_or_wrong_verb_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
