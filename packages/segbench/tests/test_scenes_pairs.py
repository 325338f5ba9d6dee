"""Scenes as image-caption pairs on disk, and as a task."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segbench import ScenesDataset, evaluate, load_task, write_pairs

SCENES = ScenesDataset(split="train", count=5, size_px=32)


class Oracle:
    """Knows every scene of a data set by its bytes."""

    name = "oracle"

    def __init__(self, scenes: ScenesDataset) -> None:
        examples = [scenes[index] for index in range(len(scenes))]
        self._labels = {example.image.tobytes(): example.labels for example in examples}

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), 4)

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous()
        labels = torch.from_numpy(self._labels[pixels.numpy().tobytes()]).long()  # (H, W)
        return torch.nn.functional.one_hot(labels, len(bank)).permute(2, 0, 1).float()


def test_an_oracle_scores_one_on_scenes_whole() -> None:
    task = load_task("scenes@whole").with_dataset(count=6, size_px=48)
    scenes = ScenesDataset(split="val", count=6, size_px=48)
    report = evaluate(Oracle(scenes), task)
    assert report.miou == 1
    assert report.metrics["pixel_acc"] == 1
    assert report.metrics["miou_stuff"] == report.metrics["miou_thing"] == 1


def test_shards_hold_image_caption_and_truth(tmp_path: Path) -> None:
    paths = write_pairs(SCENES, tmp_path, shard_size=2, progress=False)
    assert [path.name for path in paths] == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(paths[1]) as tar:
        names = tar.getnames()
        png, txt, note = (tar.extractfile(name) for name in names[:3])
        assert png is not None
        assert txt is not None
        assert note is not None
        image = np.asarray(Image.open(io.BytesIO(png.read())))
        caption, truth = txt.read().decode(), json.loads(note.read())
    assert names == [f"00000000{i}.{end}" for i in (2, 3) for end in ("png", "txt", "json")]
    scene = SCENES.scene(2)
    assert np.array_equal(image, scene.image)
    assert caption == scene.caption
    assert truth == {"key": "000000002", "caption": caption, "present": sorted(scene.present)}
    with tarfile.open(paths[2]) as tar:
        assert len(tar.getnames()) == 3  # the fifth pair


def test_shards_written_twice_are_equal_bytes(tmp_path: Path) -> None:
    first, second = (
        write_pairs(SCENES, tmp_path / name, shard_size=3, progress=False) for name in "ab"
    )
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(tmp_path: Path) -> None:
    here = write_pairs(SCENES, tmp_path / "here", shard_size=2, progress=False)
    away = write_pairs(SCENES, tmp_path / "away", shard_size=2, workers=2, progress=False)
    assert [p.read_bytes() for p in away] == [p.read_bytes() for p in here]


def test_an_existing_shard_is_left_and_an_unfinished_one_is_replaced(tmp_path: Path) -> None:
    whole = write_pairs(SCENES, tmp_path / "whole", shard_size=2, progress=False)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "00000.tar").write_bytes(b"mine")
    (broken / "00001.tar.tmp").write_bytes(b"killed while writing")
    paths = write_pairs(SCENES, broken, shard_size=2, progress=False)
    assert paths[0].read_bytes() == b"mine"
    assert [p.read_bytes() for p in paths[1:]] == [p.read_bytes() for p in whole[1:]]
    assert sorted(p.name for p in broken.iterdir()) == [p.name for p in paths]


def test_a_larger_set_begins_with_the_shards_of_the_smaller(tmp_path: Path) -> None:
    few = write_pairs(replace(SCENES, count=2), tmp_path / "few", shard_size=2, progress=False)
    many = write_pairs(SCENES, tmp_path / "many", shard_size=2, progress=False)
    assert few[0].read_bytes() == many[0].read_bytes()


@pytest.mark.parametrize("shard_size", [0, -1])
def test_a_shard_holds_at_least_one_pair(tmp_path: Path, shard_size: int) -> None:
    with pytest.raises(ValueError, match=f"shard_size must be >= 1, got {shard_size}"):
        write_pairs(SCENES, tmp_path / "no", shard_size=shard_size)
    assert not (tmp_path / "no").exists()


def test_the_bar_is_silent_when_nobody_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(SCENES, tmp_path)
    assert capsys.readouterr() == ("", "")
