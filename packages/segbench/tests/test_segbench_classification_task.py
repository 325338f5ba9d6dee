"""Tasks that classify: what they pin, mistakes in them, and the crop against torchvision."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segbench import (
    ClassificationTask,
    Classifier,
    FormatError,
    UsageError,
    evaluate,
    load_any_task,
    load_task,
    load_templates,
    score_folder,
    sweep,
)
from segbench.protocols.classification import class_bank, cropped

IMAGENET = '[dataset]\nkind = "imagenet1k"\n'


def task(name: str) -> ClassificationTask:
    loaded = load_any_task(name)
    assert isinstance(loaded, ClassificationTask)
    return loaded


def test_protocols_are_those_of_their_papers_code() -> None:
    for protocol in ("groupvit", "cocu"):
        each = task(f"imagenet1k@{protocol}")
        assert (each.short_px, each.crop_px, each.resampling) == (256, 224, "bilinear")
        assert each.averaging == "mean_then_normalise"
        assert "a bad photo of a {}." in load_templates(each.templates)
        assert not each.sized_by_model
    clip, seven = task("imagenet1k@clip80"), task("imagenet1k@clip7")
    assert (clip.short_px, clip.crop_px, clip.resampling) == (224, 224, "bicubic")
    assert clip.averaging == seven.averaging == "normalise_mean_normalise"
    assert len(load_templates(clip.templates)) == 80
    assert "a bad photo of the {}." in load_templates(seven.templates)  # not GroupViT's 7


def test_the_hash_covers_what_moves_the_number(tmp_path: Path) -> None:
    given = task("imagenet1k@clip80")
    path = tmp_path / "imagenet1k@clip80.toml"
    seen = {given.hash}
    for line in (
        'resampling = "bilinear"', "short_px = 256", "crop_px = 200", "sized_by_model = false",
        'templates = "clip_imagenet_7"', 'averaging = "mean_then_normalise"', "version = 2",
    ):  # fmt: skip
        path.write_text(f"{line}\n{'' if 'sized' in line else 'sized_by_model = true'}\n{IMAGENET}")
        seen.add(task(str(path)).hash)
    assert len(seen) == 8
    path.write_text(f'sized_by_model = true\nsummary = "other words"\n{IMAGENET}')
    assert task(str(path)).hash == given.hash
    assert given.with_dataset(truth="elsewhere/val.txt").hash == given.hash
    assert given.with_dataset(layout="flat").hash != given.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window_px = 448\n" + IMAGENET, r"unknown key 'window_px' in .*x.toml"),
        ("crop_px = 225\n" + IMAGENET, r"crop_px must be in \[1, short_px\], got 225 of 224"),
        ("crop_px = 0\n" + IMAGENET, r"crop_px must be in \[1, short_px\], got 0"),
        ('resampling = "bicubc"\n' + IMAGENET, "did you mean 'bicubic'"),
        ('averaging = "mean"\n' + IMAGENET, "unknown averaging 'mean'"),
        ('short_px = "256"\n' + IMAGENET, "short_px must be int, got '256'"),
        ("sized_by_model = 1\n" + IMAGENET, "sized_by_model must be bool, got 1"),
        (IMAGENET + 'layot = "flat"\n', "did you mean 'dataset.layout'"),
    ],
)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        load_any_task(path)
    assert "\n" not in str(caught.value)


def test_what_segments_refuses_a_task_that_classifies(painted: Any) -> None:
    wrong = "imagenet1k@clip80 classifies images"
    with pytest.raises(UsageError, match=wrong):
        load_task("imagenet1k@clip80")
    with pytest.raises(UsageError, match=wrong):
        evaluate(painted, "imagenet1k@clip80")
    with pytest.raises(UsageError, match=wrong):
        score_folder(Path("saved"), "imagenet1k@clip80")
    with pytest.raises(UsageError, match=wrong):
        sweep(painted, "imagenet1k@clip80", [0.5])
    with pytest.raises(UsageError, match="did you mean 'imagenet1k@clip80'"):
        load_any_task("imagenet@clip80")


@pytest.mark.parametrize("size", [(224, 224), (300, 451), (451, 300), (97, 63), (33, 500), (5, 5)])
@pytest.mark.parametrize("protocol", ["clip80", "groupvit"])
def test_the_crop_is_torchvisions(protocol: str, size: tuple[int, int]) -> None:
    each = task(f"imagenet1k@{protocol}")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    transforms: Any = importlib.import_module("torchvision.transforms")  # which has no types
    mode = getattr(transforms.InterpolationMode, each.resampling.upper())
    peer = transforms.Compose(
        [transforms.Resize(each.short_px, interpolation=mode), transforms.CenterCrop(each.crop_px)]
    )
    wanted = np.asarray(peer(Image.fromarray(image)))
    found = cropped(image, each.short_px, each.crop_px, each.resampling)
    assert found.shape == (each.crop_px, each.crop_px, 3)
    assert np.array_equal(found, wanted)


def test_a_model_of_another_size_is_shown_its_own() -> None:
    clip, groupvit = task("imagenet1k@clip80"), task("imagenet1k@groupvit")
    large: Any = SimpleNamespace(image_px=336)
    silent: Any = SimpleNamespace()
    assert (clip.sizes_for(large), clip.sizes_for(silent)) == ((336, 336), (224, 224))
    assert groupvit.sizes_for(large) == (256, 224)  # the protocol's, whatever the model


class LengthText:
    """Embeds a prompt as the counts of a few letters."""

    name = "lengths"
    fingerprint = ""
    calls = 0

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        self.calls += 1
        return torch.tensor([[1.0 + p.count(c) for c in "aeint"] for p in prompts])

    def encode_image(self, image: Tensor) -> Tensor:
        return image.mean(dim=(1, 2))


def test_the_bank_has_a_unit_row_a_class_and_is_kept(tmp_path: Path) -> None:
    model, each = LengthText(), task("imagenet1k@groupvit")
    assert isinstance(model, Classifier)
    bank = class_bank(model, each)
    assert bank.shape == (1000, 5)
    rows = model.encode_text([text.format("tench") for text in load_templates(each.templates)])
    want = rows.mean(dim=0)
    assert torch.allclose(bank[0], want / want.norm(), atol=1e-6)
    with pytest.raises(UsageError, match="fingerprint"):
        class_bank(model, each, tmp_path)
    model.fingerprint = "a"
    assert torch.equal(class_bank(model, each, tmp_path), bank)
    before = model.calls
    assert torch.equal(class_bank(model, each, tmp_path), bank)
    assert model.calls == before
