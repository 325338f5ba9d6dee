"""`groupvit train --concepts ARCHIVE` on an archive of conceptarchive: they meet by entry point."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptarchive import ArchiveConfig, Embeddings, Vocabulary, build_archive
from groupvit import PairDataset, TrainConfig, TrainResult
from groupvit.cli import main

KEYS = [f"walls/w-0/{n}" for n in range(4)]
CAPTIONS = ["a dog on the grass", "two dogs", "a cat asleep", "a meadow of grass"]
RECIPE = """
[optim]
total_steps = 2
[data]
sets = { walls = "walls/w-{0..0}.tar" }
batch = 4
concepts = 2
source = "archive"
sampling = "top"
templates = "simple"
augment = "none"
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    images = [[0.8, 0.0, 0.6], [0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    pairs = Embeddings.from_arrays(KEYS, CAPTIONS, images)
    build_archive(
        tmp_path / "archive",
        anchors=pairs,
        pool=pairs,
        concept_features=np.eye(3).tolist(),
        vocabulary=Vocabulary(("dog", "cat", "grass")),
        config=ArchiveConfig(neighbours=3),
    )
    return tmp_path / "archive"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A root folder with the shard that the archive knows."""
    (tmp_path / "data" / "walls").mkdir(parents=True)
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 40, 90)).save(picture, "PNG")
    with tarfile.open(tmp_path / "data" / "walls" / "w-0.tar", "w") as tar:
        for key, caption in zip(KEYS, CAPTIONS, strict=True):
            stem = key.rpartition("/")[2]
            for suffix, content in (("png", picture.getvalue()), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{stem}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return tmp_path / "data"


def test_prompts_are_concepts_of_the_archive(
    archive: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PairDataset] = []

    def train(_: TrainConfig, dataset: PairDataset, run: Path, **__: object) -> TrainResult:
        seen.append(dataset)
        return TrainResult(run, run)

    monkeypatch.setattr("groupvit.cli.train_run", train)
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE)
    command = ["train", *map(str, (recipe, data, tmp_path / "run")), "--concepts", str(archive)]
    assert main(command) == 0
    caption, *prompts = seen[0].texts(0, 1)
    assert caption == "two dogs"
    assert sorted(prompts) == ["a photo of a dog.", "a photo of a grass."]  # grass: of neighbours


def test_an_archive_of_other_pairs_is_one_line(
    archive: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE.replace("walls =", "others ="))
    command = ["train", *map(str, (recipe, data, tmp_path / "run")), "--concepts", str(archive)]
    assert main(command) == 3
    said = capsys.readouterr().err
    assert said.startswith("groupvit: others/w-0/0: not in the concept archive")
    assert said.count("\n") == 1
    assert main([*command[:-1], str(data)]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"groupvit: --concepts {data}: ") and said.count("\n") == 1
