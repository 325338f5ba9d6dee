"""From a photograph to the tensor that the image tower trains on."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet statistics of RGB in [0, 1], GroupViT's normalisation."""

Augmentation = Callable[[Image.Image, np.random.Generator], Tensor]


def normalise(image: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> normalised by the ImageNet statistics."""
    mean = image.new_tensor(MEAN)[:, None, None]  # (3, 1, 1)
    return (image - mean) / image.new_tensor(STD)[:, None, None]


def augmentation(kind: Literal["strong", "flip", "none"], image_px: int) -> Augmentation:
    """Build what turns an image into a (3, image_px, image_px) float32 tensor.

    Args:
        kind: `strong` is the published recipe (random crop of 8-100 % of the area, flip,
            RandAugment m9-mstd0.5-inc1, random erasing 0.25); `flip` resizes to a square and flips
            half of the images; `none` only resizes.
        image_px: side of the result.
    """
    if kind == "strong":
        return _Strong(image_px)
    return _Resize(image_px, flip=kind == "flip")


class _Resize:
    def __init__(self, image_px: int, *, flip: bool) -> None:
        self.image_px, self.flip = image_px, flip

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        if image.size != (self.image_px, self.image_px):
            image = image.resize((self.image_px, self.image_px), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)  # (H, W, 3)
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        chw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return normalise(chw.float() / 255)


class _Strong:
    """timm's training transform; it draws from global generators, which are seeded for the pair.

    Departs from the published recipe: magnitudes, drawn around 9 with deviation 0.5, stop at 9. At
    10 timm posterizes to 0 bits, which current Pillow refuses.
    """

    def __init__(self, image_px: int) -> None:
        from timm.data import create_transform  # seconds, which only training needs

        self._transform = create_transform(
            image_px,
            is_training=True,
            auto_augment="rand-m9-mmax9-mstd0.5-inc1",
            re_prob=0.25,
            re_mode="pixel",
            interpolation="bilinear",
            mean=MEAN,
            std=STD,
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        with _seeded(int(rng.integers(2**31))):
            result: Tensor = self._transform(image)
        return result


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the three global generators that timm draws from, and give them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # timm uses it
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # timm uses it
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` looks for GPUs each time
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002  # timm uses it
