import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conceptarchive import ConceptArchive, Embeddings
from conceptarchive.cli import main
from conceptarchive.options import EncoderConfig

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]


@pytest.fixture
def folders(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch,
    tiny_encoder: object,
) -> tuple[Path, Path]:  # fmt: skip
    """Folders of embeddings and of an archive, made by the command."""
    captions = ["a dog on grass", "a dog", "grass and a cat", "a cat", "two dogs", ""]
    files = [
        file
        for n, caption in enumerate(captions)
        for file in ((f"{n}.jpg", jpeg(n)), (f"{n}.txt", caption.encode()))
    ]
    make_tar(tmp_path / "cc" / "0.tar", files)
    monkeypatch.setattr(EncoderConfig, "load", lambda *_: tiny_encoder)
    embeddings, archive = tmp_path / "emb", tmp_path / "archive"
    assert main(["embed", str(tmp_path / "cc"), str(embeddings)]) == 0
    build = ["build", str(embeddings), str(archive), "--vocabulary.min_count", "2"]
    assert main([*build, "--archive.neighbours", "3"]) == 0
    return embeddings, archive


def test_from_pairs_to_concepts(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings, archive = folders
    capsys.readouterr()
    assert main(["embed", str(embeddings.parent / "cc"), str(embeddings)]) == 0  # goes on: all done
    assert capsys.readouterr().out == "rows\t6\npartitions\t1/1\n"
    assert main(["show", str(archive), "cc/0/0", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["cc/0/0", "a dog on grass"]
    assert any(line.split()[1:2] in (["dog"], ["+"]) for line in lines)
    assert main(["check", str(archive)]) == 0
    assert "pairs\t6" in capsys.readouterr().out


def test_quality_against_labels(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, archive = folders
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"cc/0/1": ["dog", "cat"], "zz": ["dog"]}), encoding="utf-8")
    capsys.readouterr()
    plot = tmp_path / "plot.png"
    options = ["--against", str(archive), "--plot", str(plot)]
    assert main(["quality", str(archive), str(truth), *options]) == 0
    lines = dict(line.rsplit("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["archive\tcoverage"] == "1.0000"
    assert lines["archive\tnamed"] == "0.5000"
    assert lines["frequency\trecall@3"] == "1.0000 [1.0000, 1.0000]"
    assert lines["difference\trecall@5"] == "0.0000 [0.0000, 0.0000]"
    assert plot.stat().st_size > 1000
    truth.write_text('{"zz": ["dog"]}', encoding="utf-8")
    assert main(["quality", str(archive), str(truth)]) == 3


def test_exit_codes_and_one_line_errors(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings, archive = folders
    capsys.readouterr()
    cases = {
        3: ["show", str(archive), "nobody"],
        1: ["build", str(embeddings), str(archive), "--vocabulary.min_count", "1"],
        2: ["build", str(embeddings), str(tmp_path / "new"), "--vocabulary.min_count", "99"],
    }
    for code, args in cases.items():
        assert main(args) == code
        error = capsys.readouterr().err
        assert error.startswith("conceptarchive: ")
        assert error.count("\n") == 1
    assert main(["embed", str(tmp_path / "none"), str(tmp_path / "x")]) == 3
    manifest = json.loads((archive / "manifest.json").read_text(encoding="utf-8"))
    (archive / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    assert main(["show", str(archive), "cc/0/0"]) == 4


@pytest.mark.parametrize("args", [["fly"], ["show"], ["build", "a", "b", "--archive.neighbours=0"]])
def test_wrong_usage_is_two(args: list[str]) -> None:
    assert main(args) == 2


@pytest.mark.parametrize(
    "verb", ["embed", "vocabulary", "build", "show", "check", "quality", "export"]
)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"conceptarchive [options] {verb}" in capsys.readouterr().out


def test_features_from_a_file_and_a_recipe(folders: tuple[Path, Path], tmp_path: Path) -> None:
    embeddings, _ = folders
    width = Embeddings.open(embeddings).image.shape[1]
    np.save(tmp_path / "features.npy", 3 * np.eye(2, width))
    (tmp_path / "words.txt").write_text("dog\ncat\n", encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[build]\nembeddings = "{embeddings}"\nout = "{tmp_path / "out"}"\n'
        f'concept_features = "{tmp_path / "features.npy"}"\n'
        f'[build.vocabulary]\nfile = "{tmp_path / "words.txt"}"\n'
        '[build.archive]\nranking = "cosine"\n',
        encoding="utf-8",
    )
    assert main(["--config", str(recipe), "build"]) == 0
    assert main(["check", str(tmp_path / "out")]) == 0
    recipe.write_text("[build]\nunknown = 1\n", encoding="utf-8")
    assert main(["--config", str(recipe), "build"]) == 2


def test_dry_run_writes_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    embeddings, _ = folders
    out = str(tmp_path / "dry")
    assert main(["build", str(embeddings), out, "--dry_run=true", "--vocabulary.min_count=1"]) == 0
    assert main(["embed", str(tmp_path / "cc"), out, "--dry_run=true"]) == 0
    assert not Path(out).exists()


def test_without_weights_the_command_says_what_to_give(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tar(tmp_path / "0.tar", [("a.jpg", jpeg(0)), ("a.txt", b"a dog")])
    embed = ["embed", str(tmp_path / "0.tar"), str(tmp_path / "out")]
    both = ["--encoder.pretrained", "openai", "--encoder.checkpoint", "x.pt"]
    for count, more in (("none", []), ("2", both)):
        assert main([*embed, *more]) == 2
        told = capsys.readouterr().err
        assert "--encoder.pretrained openai (" in told and "--encoder.checkpoint FILE" in told
        assert told.endswith(f"--encoder.model local-dir:FOLDER, got {count} of them\n")
    assert not (tmp_path / "out").exists()


def test_what_the_hub_logs_comes_once() -> None:
    """It has a handler of its own; passed on to the command's, every line would come twice."""
    hub = logging.getLogger("huggingface_hub")
    hub.propagate = True
    assert main(["check", "nowhere"]) == 3
    assert not hub.propagate


def test_vocabulary_is_mined_and_compared(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings, _ = folders
    animals = tmp_path / "animals.txt"
    animals.write_text("dog\ncat, kitten\nzebra\n", encoding="utf-8")
    out = tmp_path / "words.txt"
    capsys.readouterr()
    options = ["--source.min_count", "2", "--class_names", str(tmp_path / "animals.txt")]
    assert main(["vocabulary", str(embeddings), str(out), *options]) == 0
    assert capsys.readouterr().out.splitlines() == ["concepts\t3", f"{animals}\t2/3\t0.67"]
    assert sorted(out.read_text(encoding="utf-8").split()) == ["cat", "dog", "grass"]
    left = ["--source.leave_out", str(tmp_path / "animals.txt")]
    assert main(["vocabulary", str(embeddings), str(out), *options, *left]) == 0
    assert out.read_text(encoding="utf-8").split() == ["grass"]


def test_vocabulary_with_rows_builds_the_same_archive(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    embeddings, archive = folders
    out = tmp_path / "words.txt"
    options = ["--source.min_count", "2", "--encoder.model", "ViT-B-32"]
    assert main(["vocabulary", str(embeddings), str(out), *options]) == 0
    build = ["build", str(embeddings), str(tmp_path / "b"), "--archive.neighbours", "3"]
    rows = ["--vocabulary.file", str(out), "--concept_features", str(out.with_suffix(".npy"))]
    assert main([*build, *rows]) == 0
    first, second = ConceptArchive.open(archive), ConceptArchive.open(tmp_path / "b")
    assert [first.entry(key) for key in first.keys] == [second.entry(key) for key in second.keys]


def test_page_and_export(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, archive = folders
    page = tmp_path / "page.html"
    shown = ["show", str(archive), "cc/0/0", "--html", str(page), "--pairs", str(tmp_path / "cc")]
    assert main(shown) == 0
    assert "data:image/" in page.read_text(encoding="utf-8")
    capsys.readouterr()
    out = ["export", str(archive), str(tmp_path / "out"), "--layout", "cocu"]
    assert main([*out, "--pairs", str(tmp_path / "cc" / "{0..0}.tar")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "pairs\t6"
    assert (tmp_path / "out" / "cc" / "0.tar").is_file()
    assert main(out) == 2  # the layout copies images


def test_pieces_of_a_job_array(folders: tuple[Path, Path], tmp_path: Path) -> None:
    embeddings, archive = folders
    build = ["build", str(embeddings), str(tmp_path / "a"), "--vocabulary.min_count", "2"]
    build += ["--archive.neighbours", "3", "--shard_rows", "2"]
    count = ["--engine.shard_count", "2", "--engine.wait_s", "0"]
    assert main([*build, *count, "--engine.shard_index", "1"]) == 4  # the first has not begun
    codes = [main([*build, *count, "--engine.shard_index", str(n)]) for n in (0, 1, 0, 1, 0)]
    assert codes[-1] == 0
    assert 4 in codes  # they had to wait for each other
    first, second = ConceptArchive.open(archive), ConceptArchive.open(tmp_path / "a")
    assert [first.entry(key) for key in first.keys] == [second.entry(key) for key in second.keys]
