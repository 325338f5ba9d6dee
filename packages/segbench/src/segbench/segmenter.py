"""What a model has to offer to be evaluated."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Segmenter(Protocol):
    """A model that scores every class at every place of an image.

    The protocol (size, windows, prompts, background) belongs to the task and is applied by the
    harness; normalisation of the image belongs to the model and is applied by `segment`.

    It may have an attribute `fingerprint`, a text that tells its weights from others: results are
    then skipped, and evaluations resumed, for the same weights only.
    """

    @property
    def name(self) -> str:
        """Name under which results are listed."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts.

        Args:
            prompts: n full prompts, such as "a photo of a cat.".

        Returns:
            (n, D) float32, raw projector outputs. Not normalised: the order in which rows are
            averaged and normalised is a choice of the task.
        """
        ...

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Score every class of a text bank at every place.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], resized and cropped by the harness.
            bank: (K, D) float32 unit rows.

        Returns:
            (K, h, w) floating point at any resolution that covers the image evenly, finite,
            higher is better.
        """
        ...


@runtime_checkable
class Classifier(Protocol):
    """A model that embeds whole images and prompts into one space.

    The protocol (size, crop, prompts) belongs to the task and is applied by the harness;
    normalisation of the image belongs to the model and is applied by `encode_image`.

    It may have an attribute `fingerprint`, as a Segmenter may, and `image_px`, the side of the
    squares that it was trained on, which some tasks crop images to.
    """

    @property
    def name(self) -> str:
        """Name under which results are listed."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32 raw embeddings of n prompts, as of a `Segmenter`."""
        ...

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed one image.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], resized and cropped by the harness.

        Returns:
            (D,) floating point, finite and not zero; its length does not matter.
        """
        ...


def identity_of(model: Segmenter | Classifier) -> dict[str, Any]:
    """Name of a model, and what tells its weights from others if it says so."""
    fingerprint = getattr(model, "fingerprint", None)
    return {"name": model.name} | ({"fingerprint": fingerprint} if fingerprint else {})
