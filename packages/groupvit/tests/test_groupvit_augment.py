"""From a photograph to a tensor."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from groupvit import IMAGE_MEAN, IMAGE_STD, augmentation, stream
from groupvit.data.augment import normalise


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_normalise_by_hand() -> None:
    image = torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 2, 2)
    want = [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(normalise(image)[:, 1, 0], torch.tensor(want))
    assert (IMAGE_MEAN, IMAGE_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_none_only_resizes() -> None:
    image = picture()
    got = augmentation("none", 32)(image, stream(0))
    resized = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    want = normalise(torch.tensor(resized).permute(2, 0, 1).float() / 255)
    torch.testing.assert_close(got, want)


def test_flip_mirrors_half_of_the_images() -> None:
    image = picture()
    plain = augmentation("none", 32)(image, stream(0))
    flipped = [augmentation("flip", 32)(image, stream(i)) for i in range(60)]
    mirrored = sum(torch.equal(one, plain.flip(2)) for one in flipped)
    assert sum(torch.equal(one, plain) for one in flipped) + mirrored == 60
    assert 18 < mirrored < 42


def test_strong_draws_from_its_stream_alone_and_leaves_the_global_generators() -> None:
    strong, image = augmentation("strong", 32), picture()
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global generator is what is tested
    torch.manual_seed(5)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    first = strong(image, stream(0))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]  # noqa: NPY002
    torch.manual_seed(6)
    assert torch.equal(strong(image, stream(0)), first)
    assert not torch.equal(strong(image, stream(1)), first)
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32


@pytest.mark.parametrize("kind", ["strong", "flip", "none"])
def test_small_and_long_pictures_become_squares(kind: str) -> None:
    for size in ((1, 1), (300, 2), (32, 32)):
        image = Image.new("RGB", size, (255, 0, 0))
        got = augmentation(kind, 16)(image, stream(0))  # type: ignore[arg-type]
        assert got.shape == (3, 16, 16) and bool(got.isfinite().all())
