"""Zero-shot use of a tuned model: every place takes the name that its feature is nearest to."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.masks.photo_files import Photo
from maskcluster.model.pixelclip import PixelCLIP, cosines
from maskcluster.model.prompts import TEMPLATES
from maskcluster.precision import Precision, check_precision, float32_products, wants_bfloat16
from maskcluster.segmenting.bank import class_bank, encode_prompts
from maskcluster.segmenting.squares import GRID, best_class, resized, to_square

GRID_OF_FEATURES = 20
"""Side of the published models' features: of 320 pixels for ViT-B/16, of 640 for ConvNeXt."""


class PixelCLIPSegmenter:
    """A tuned CLIP model as a segmenter.

        f = features(image),    score[k, y, x] = bank[k] . f[y, x] / |f[y, x]|

    It takes part in segbench's evaluations as it is: windows of any size go through at the nearest
    multiple of the patch. For segbench's protocol `pixelclip`, which hands in the squashed square,
    and for `segment_photos`, the published path has features resized to 64 x 64 first: `grid`.

    Args:
        model: the model; it is put in evaluation mode. Class prompts, teacher and decoder are not
            used.
        name: what result tables call it.
        precision: of both towers; what follows them is float32. `auto` is bfloat16 where the device
            multiplies bfloat16 matrices in hardware, float32 elsewhere.
        image_px: `segment` squashes what it is given to a square of this side; 0 takes it as it is.
            Use it for models whose square is not that of the protocol: 640 for ConvNeXt.
        grid: `segment` resizes features bilinearly to a square of this side before they are
            normalised, 64 in the published evaluation; 0 scores them at their own grid.
        device: where to compute; by default where the model is.

    Raises:
        ValueError: an unknown precision, or a size that cannot be.
    """

    def __init__(
        self,
        model: PixelCLIP,
        *,
        name: str = "pixelclip",
        precision: Precision = "auto",
        image_px: int = 0,
        grid: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        check_precision(precision)
        if grid < 0:
            raise ValueError(f"grid must be >= 0, got {grid}")
        self.model = (model if device is None else model.to(device)).eval()
        self.name = name
        self.precision = precision
        self.image_px = self._checked_side(image_px) if image_px else 0
        self.grid = grid

    @property
    def square_px(self) -> int:
        """Side of the square that photographs are squashed to, unless another is asked for."""
        return self.image_px or GRID_OF_FEATURES * max(self.model.tower.stride)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the CLIP model's layers and weights, computed when first asked for.

        The prompts, teacher and decoder do not count, for they change no score.
        """
        digest = hashlib.sha256(last_block_of(self.model).encode())
        digest.update(repr(self.model.clip).encode())  # names layers without weights: QuickGELU
        for name, tensor in sorted(self.model.clip.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Project prompts.

        Args:
            prompts: n full prompts, such as "a photo of a cat.".

        Returns:
            (n, D) float32 on the device of the model, not normalised.

        Raises:
            ValueError: no prompt.
        """
        with self._computing():
            return encode_prompts(self.model, prompts)

    def encode_classes(self, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
        """Text bank of classes, (K, D) float32 unit rows; see `class_bank`."""
        return class_bank(self.encode_text, names, templates)

    @torch.inference_mode()
    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Score every class of a text bank at every place.

        Args:
            image: (3, H, W) float32 RGB in [0, 1], of any size. Sides that are no multiples of the
                patch are resized bilinearly to the nearest that are.
            bank: (K, D) unit rows.

        Returns:
            (K, h, w) float32 cosines on the device of the image, at the grid of features or the
            square of side `grid`.

        Raises:
            ValueError: something of another shape, or a model in training mode.
        """
        if image.ndim != 3 or len(image) != 3 or not image.numel():
            raise ValueError(f"an image must be (3, H, W), got {tuple(image.shape)}")
        planes = resized(image.to(self.device, torch.float32), self._size_of(image))
        return self._scores(planes[None], bank, self.grid)[0].to(image.device)

    def segment_photo(self, photo: Photo, names: Sequence[str] | Tensor) -> Tensor:
        """Label every pixel of a photograph; see `segment_photos`.

        Args:
            photo: (H, W, 3) uint8 RGB.
            names: of K classes; or their bank, (K, D).

        Returns:
            (H, W) int32, the class of each pixel in [0, K).
        """
        (labels,) = self.segment_photos([photo], names)
        return labels

    @torch.inference_mode()
    def segment_photos(
        self,
        photos: Iterable[Photo],
        names: Sequence[str] | Tensor,
        *,
        image_px: int = 0,
        grid: int = GRID,
        batch: int = 8,
    ) -> Iterator[Tensor]:
        """Label photographs as in the published evaluation, many at a time.

        Each is resized to a short side of 640 and squashed to a square; there is one pass of the
        image tower, no windows and no background. Features are resized bilinearly to 64 x 64,
        normalised and compared; the cosines are resized to the photograph's own size, and the best
        class wins.

        Args:
            photos: (H, W, 3) uint8 RGB each, of any sizes; taken when they are needed, at most
                `batch` ahead of the labels.
            names: of K classes; or their bank, (K, D) unit rows.
            image_px: side of the square; 0 is `square_px`.
            grid: side that features are resized to; 0 leaves them as they are.
            batch: photographs that the tower sees at once.

        Yields:
            (H, W) int32 of every photograph in order, on the device of the model; the lowest class
            wins a tie.

        Raises:
            ValueError: something of another shape or out of range.
        """
        bank = names if isinstance(names, Tensor) else self.encode_classes(names)
        if batch < 1 or grid < 0:
            raise ValueError(f"needs batch >= 1 and grid >= 0, got {batch} and {grid}")
        coming = iter(photos)
        while some := list(islice(coming, batch)):
            scores = self._scores(self.squares(some, image_px), bank, grid)  # (B, K, y, x)
            for photo, own in zip(some, scores, strict=True):
                yield best_class(own, (photo.shape[0], photo.shape[1]))

    def squares(self, photos: Sequence[Photo], image_px: int = 0) -> Tensor:
        """(B, 3, P, P) float32 on the device of the model: photographs squashed to squares.

        Raises:
            ValueError: a photograph or a side that cannot be.
        """
        side = self._checked_side(image_px or self.square_px)
        return torch.stack([to_square(photo, side) for photo in photos]).to(self.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Dense features of the tuned image tower.

        Args:
            images: (B, 3, H, W) float32 RGB in [0, 1], sides multiples of the stride.

        Returns:
            (B, D, h, w) float32, not normalised.

        Raises:
            ValueError: another shape, or a model in training mode.
        """
        if self.model.training:
            raise ValueError("the model is in training mode; call model.eval() before it segments")
        with self._computing():
            return self.model.features(images)

    def checked_bank(self, bank: Tensor, width: int) -> Tensor:
        """A bank in float32 on the device of the model.

        Raises:
            ValueError: it is not (K, `width`), or has no row.
        """
        if bank.ndim != 2 or not len(bank) or bank.shape[1] != width:
            raise ValueError(f"a bank must be (K, {width}) with K >= 1, got {tuple(bank.shape)}")
        return bank.to(self.device, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.mean.device

    def _scores(self, images: Tensor, bank: Tensor, grid: int) -> Tensor:
        """(B, K, y, x) cosines of (B, 3, H, W) images."""
        features = self.features(images)  # (B, D, h, w)
        if grid:
            features = F.interpolate(features, (grid, grid), mode="bilinear", align_corners=False)
        return cosines(features, self.checked_bank(bank, features.shape[1]))

    def _size_of(self, image: Tensor) -> tuple[int, int]:
        """Size at which the tower sees an image."""
        if self.image_px:
            return self.image_px, self.image_px
        down, across = self.model.tower.stride
        height, width = image.shape[1:]
        return _nearest(height, down), _nearest(width, across)

    def _checked_side(self, side: int) -> int:
        stride = max(self.model.tower.stride)
        if side < 1 or any(side % step for step in self.model.tower.stride):
            raise ValueError(f"image_px must be a multiple of {stride}, got {side}")
        return side

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute towers in the format that was asked for."""
        bfloat16 = wants_bfloat16(self.precision, self.device)
        with (
            float32_products(self.precision),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16),
        ):
            yield


def last_block_of(model: PixelCLIP) -> str:
    """What takes the place of the last block of a model's ViT; "" for other towers."""
    return str(getattr(model.tower._layout, "last_block", ""))


def _nearest(length: int, step: int) -> int:
    """The multiple of `step` that is nearest to a length, at least one; halves go up."""
    return max((2 * length + step) // (2 * step), 1) * step
