"""Four models behind one protocol: labels, background, maps, and what cannot be loaded."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from groupvit import GroupViTSegmenter, load_model
from integration.demo.errors import InputError
from integration.demo.models import BACKGROUND, DenseModel, Models, class_bank, percent, resized
from integration.demo.picture import Photo
from integration.demo.runs import BASELINE, CURATED, MODELS, PLAIN, TUNED, model_folders
from maskcluster import PixelCLIPSegmenter, load_checkpoint
from segbench import ScenesDataset

CLASSES = (("sky",), ("grass", "lawn"), ("water",))


@pytest.fixture(scope="module")
def models(runs: tuple[Path, Path]) -> Models:
    return Models(model_folders(*runs))


@pytest.fixture(scope="module")
def photo() -> Photo:
    """A picture that is not square."""
    image = ScenesDataset(split="val", count=1, size_px=48)[0].image  # (48, 48, 3)
    return image[:36]


def test_synonyms_are_averaged_and_classes_kept_apart() -> None:
    rows = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}

    class Encoder:
        def encode_classes(self, names: Sequence[str]) -> Tensor:
            return torch.tensor([rows[name] for name in names])

    bank = class_bank(Encoder(), (("a", "b"), ("c",)))
    torch.testing.assert_close(bank, torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))


def test_shares_are_whole_per_cent_and_little_is_not_nothing() -> None:
    assert [percent(share) for share in (1, 0.126, 0.006, 0.004, 0)] == [
        "100%", "13%", "1%", "<1%", "0%",
    ]  # fmt: skip


def test_a_resized_picture_keeps_its_ratio_within_bounds() -> None:
    assert resized(np.zeros((30, 60, 3), np.uint8), 10).shape == (3, 10, 20)
    assert resized(np.zeros((1, 1000, 3), np.uint8), 10).shape == (3, 10, 80)


@pytest.mark.parametrize("name", MODELS)
def test_labels_fit_the_picture_and_the_background_grows(
    models: Models, photo: Photo, name: str
) -> None:
    model = models.get(name)
    everywhere = model.look(photo, CLASSES, 0.0).labels
    assert everywhere.shape == photo.shape[:2]
    assert set(np.unique(everywhere)) <= {0, 1, 2}
    areas = [
        (model.look(photo, CLASSES, limit).labels == BACKGROUND).mean() for limit in (0.2, 0.9)
    ]
    assert 0 <= areas[0] <= areas[1]
    assert models.get(name) is model  # kept


def test_a_group_model_labels_as_its_segmenter_does(
    models: Models, photo: Photo, runs: tuple[Path, Path]
) -> None:
    folder = model_folders(*runs)[CURATED]
    assert folder is not None
    segmenter = GroupViTSegmenter(load_model(folder), precision="float32")
    bank = class_bank(segmenter, CLASSES)
    wanted = segmenter.label(photo, bank, window_px=None, short_px=32)
    seen = models.get(CURATED).look(photo, CLASSES, 0.0)
    assert (seen.labels == wanted.numpy()).all()
    lowest = models.get(CURATED).look(photo, CLASSES, 1e-9)  # a background that nothing falls to
    assert (lowest.labels == seen.labels).all()
    highest = models.get(CURATED).look(photo, CLASSES, 1.0)
    assert BACKGROUND in highest.labels  # all but the best group


def test_groups_share_the_picture_among_them(models: Models, photo: Photo) -> None:
    maps = models.get(BASELINE).look(photo, CLASSES, 0.0).maps
    assert 1 <= len(maps) <= 4
    assert (np.sum([one.weight for one in maps], axis=0) == 1).all()
    areas = [one.weight.mean() for one in maps]
    assert areas == sorted(areas, reverse=True)
    assert maps[0].title.startswith("group ")
    assert f"{areas[0]:.0%} of the picture" in maps[0].title


@pytest.mark.parametrize("name", [TUNED, PLAIN])
def test_classes_share_every_place_among_them(models: Models, photo: Photo, name: str) -> None:
    maps = models.get(name).look(photo, CLASSES, 0.0).maps
    assert {one.title.partition(":")[0] for one in maps} == {"sky", "grass", "water"}
    areas = [one.weight.mean() for one in maps]
    assert areas == sorted(areas, reverse=True)
    np.testing.assert_allclose(np.sum([one.weight for one in maps], axis=0), 1, atol=1e-5)


def test_a_dense_model_is_argmax_with_a_floor_on_the_softmax(
    runs: tuple[Path, Path], photo: Photo
) -> None:
    folder = model_folders(*runs)[TUNED]
    assert folder is not None
    segmenter = PixelCLIPSegmenter(load_checkpoint(folder), precision="float32")
    cosines = segmenter.segment(resized(photo, 32), class_bank(segmenter, CLASSES))
    full = torch.nn.functional.interpolate(cosines[None], photo.shape[:2], mode="bilinear")[0]
    peak = (segmenter.model.clip.logit_scale.exp() * full).softmax(0).amax(0)  # type: ignore[operator]  # a parameter
    limit = float(peak.median())
    labels = DenseModel(segmenter, 32).look(photo, CLASSES, limit).labels
    wanted = full.argmax(0).where(peak >= limit, torch.tensor(BACKGROUND))
    assert (labels == wanted.numpy()).all()
    assert 0.3 < (labels == BACKGROUND).mean() < 0.7


def test_plain_clip_is_not_the_tuned_one(models: Models, photo: Photo) -> None:
    tuned, plain = (
        {
            one.title.partition(":")[0]: one.weight
            for one in models.get(name).look(photo, CLASSES, 0).maps
        }
        for name in (TUNED, PLAIN)
    )
    assert np.abs(tuned["sky"] - plain["sky"]).max() > 0.01


def test_what_is_not_there_is_told_with_its_command(tmp_path: Path) -> None:
    models = Models(model_folders(tmp_path, tmp_path))
    for name, command in ((CURATED, "reproduce cocu"), (TUNED, "reproduce pixelclip")):
        with pytest.raises(InputError, match=f"{name} is not made yet; run .*{command}"):
            models.get(name)
    with pytest.raises(InputError, match="choose one of baseline, CoCu"):
        models.get("../../etc/passwd")


def test_what_cannot_be_loaded_is_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    resnet = next((runs[0] / "stages").glob("clip-*"))
    damaged = tmp_path / "damaged"
    shutil.copytree(next((runs[0] / "stages").glob("train-cocu-*")), damaged)
    for weights in damaged.rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-9])
    models = Models({PLAIN: resnet, CURATED: damaged, TUNED: tmp_path})
    for name in (PLAIN, CURATED, TUNED):
        with pytest.raises(InputError, match=f"^{name} cannot be shown: ") as told:
            models.get(name)
        assert "\n" not in str(told.value)
