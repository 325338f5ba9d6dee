"""The models of the page behind one protocol: a picture and words to a label map and its maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit import GroupViTError, GroupViTSegmenter, load_model
from integration.demo.errors import InputError
from integration.demo.picture import Photo
from integration.demo.runs import BASELINE, CURATED, PLAIN, TUNED, how_to_make
from integration.demo.words import Classes
from integration.wiring import best_device
from maskcluster import (
    MaskClusterError,
    PixelCLIP,
    PixelCLIPSegmenter,
    load_checkpoint,
    load_clip,
    read_config,
)

Labels = npt.NDArray[np.int32]
BACKGROUND = -1
"""Label of pixels that no class takes."""


class Map(NamedTuple):
    """Where one part of a model looks.

    Attributes:
        title: what the map is of.
        weight: (h, w) float32 in [0, 1].
    """

    title: str
    weight: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model makes of a picture."""

    labels: Labels
    """(H, W) of the picture: class by place, or `BACKGROUND`."""

    maps: Sequence[Map]
    """Of each group, or of each class for a model without groups; the largest first."""


class PageModel(Protocol):
    """What the page asks of a model."""

    def look(self, photo: Photo, classes: Classes, threshold: float) -> Seen:
        """Segment a picture.

        Args:
            photo: (H, W, 3) uint8 RGB.
            classes: K classes with their synonyms.
            threshold: in [0, 1]: what scores less is background; 0 for none.
        """
        ...


class Encodes(Protocol):
    """The part of a segmenter that reads words."""

    def encode_classes(self, names: Sequence[str]) -> Tensor:
        """(n, D) unit rows of n names."""
        ...


class GroupModel:
    """GroupViT: a pixel takes the class of the group that owns it.

    Pictures are looked at whole, at the size that the model was trained at.

    Args:
        segmenter: a trained model.
    """

    def __init__(self, segmenter: GroupViTSegmenter) -> None:
        self.segmenter = segmenter

    def look(self, photo: Photo, classes: Classes, threshold: float) -> Seen:
        """See `PageModel`; scores are S of `GroupViTSegmenter.segment`, maps are of groups."""
        side = self.segmenter.model.config.vision.image_px
        bank = class_bank(self.segmenter, classes)  # (K, D)
        labels = self.segmenter.label(
            photo, bank, background=threshold or None, window_px=None, short_px=side
        )  # (H, W), background first if there is one
        shown = labels - 1 if threshold else labels
        names = [words[0] for words in classes]
        return Seen(shown.cpu().numpy(), self._maps(resized(photo, side), bank, names))

    def _maps(self, image: Tensor, bank: Tensor, names: Sequence[str]) -> list[Map]:
        """Groups that own a pixel, with the class that each likes best."""
        groups, scores = self.segmenter.groups(image, bank)  # (h, w), (G, K)
        area = groups.flatten().bincount(minlength=len(scores)) / groups.numel()  # (G,)
        best, liked = scores.max(dim=1)  # (G,), (G,)
        order = [g for g in area.argsort(descending=True, stable=True).tolist() if area[g] > 0]
        return [
            Map(
                f"group {g}: {names[int(liked[g])]} {best[g]:.2f}, "
                f"{percent(float(area[g]))} of the picture",
                (groups == g).float().cpu().numpy(),
            )
            for g in order
        ]


class DenseModel:
    """A CLIP model with dense features: a pixel takes the class that its feature is nearest to.

        p = softmax over classes of (logit scale * cosine),  background where max p < threshold

    Args:
        segmenter: the model; tuned or not.
        short_px: short side at which it looks at pictures.
    """

    def __init__(self, segmenter: PixelCLIPSegmenter, short_px: int) -> None:
        self.segmenter = segmenter
        self.short_px = short_px

    @torch.inference_mode()
    def look(self, photo: Photo, classes: Classes, threshold: float) -> Seen:
        """See `PageModel`; scores are p, maps are of classes."""
        bank = class_bank(self.segmenter, classes)  # (K, D)
        cosines = self.segmenter.segment(resized(photo, self.short_px), bank)  # (K, h, w)
        full = F.interpolate(cosines[None], photo.shape[:2], mode="bilinear")[0]  # (K, H, W)
        clip: Any = self.segmenter.model.clip
        scale = clip.logit_scale.exp().to(full.device)
        share, labels = (scale * full).softmax(dim=0).max(dim=0)  # (H, W), (H, W)
        labels = labels.where(share >= threshold, BACKGROUND)
        coarse = (scale * cosines).softmax(dim=0)  # (K, h, w)
        mean = coarse.mean(dim=(1, 2))  # (K,)
        maps = [
            Map(f"{classes[k][0]}: {percent(float(mean[k]))} on average", coarse[k].cpu().numpy())
            for k in mean.argsort(descending=True, stable=True).tolist()
        ]
        return Seen(labels.int().cpu().numpy(), maps)


def class_bank(segmenter: Encodes, classes: Classes) -> Tensor:
    """(K, D) unit rows: the mean of the rows of each class's synonyms, normalised."""
    rows = segmenter.encode_classes([word for words in classes for word in words])  # (n, D)
    parts = torch.split(rows, [len(words) for words in classes])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)


def resized(photo: Photo, short_px: int) -> Tensor:
    """(3, h, w) float32 in [0, 1] of a picture resized to a short side, its ratio kept."""
    planes = torch.from_numpy(photo).movedim(-1, 0)[None].float() / 255  # (1, 3, H, W)
    height, width = photo.shape[:2]
    scale = short_px / min(height, width)
    longest = 8 * short_px  # of a picture that is a line
    size = [min(max(round(side * scale), 1), longest) for side in (height, width)]
    return F.interpolate(planes, size, mode="bilinear", align_corners=False)[0]


def percent(share: float) -> str:
    """A share in whole per cent, or that it is less than one but not nothing."""
    return f"{share:.0%}" if share == 0 or share >= 0.005 else "<1%"


class Models:
    """Models by name, loaded when they are first asked for and kept.

    Args:
        folders: see `model_folders`.
    """

    def __init__(self, folders: Mapping[str, Path | None]) -> None:
        self.folders = folders
        self._loaded: dict[str, PageModel] = {}

    def get(self, name: str) -> PageModel:
        """The model of a name.

        Raises:
            InputError: no such model, none was made yet, or its files cannot be used.
        """
        if name not in self.folders:
            raise InputError(f"choose one of {', '.join(self.folders)}")
        folder = self.folders[name]
        if folder is None:
            raise InputError(f"{name} is not made yet; {how_to_make(name)}")
        if name not in self._loaded:
            try:
                self._loaded[name] = _LOADERS[name](folder)
            except (GroupViTError, MaskClusterError, ValueError) as error:
                raise InputError(f"{name} cannot be shown: {error}") from error
        return self._loaded[name]


def _load_groupvit(folder: Path) -> PageModel:
    model = load_model(folder).to(best_device())
    return GroupModel(GroupViTSegmenter(model, precision="float32"))


def _load_pixelclip(folder: Path) -> PageModel:
    model = load_checkpoint(folder)
    return _dense(model, read_config(folder).views.image_px)


def _load_clip(folder: Path) -> PageModel:
    """CLIP that nobody tuned, made dense as MaskCLIP does."""
    clip = load_clip(f"local-dir:{folder}")
    visual: Any = clip.model.visual
    trained_at: int | tuple[int, int] = visual.image_size
    side = trained_at if isinstance(trained_at, int) else max(trained_at)
    return _dense(PixelCLIP(clip, None, last_block="maskclip"), side)


def _dense(model: PixelCLIP, short_px: int) -> PageModel:
    device = best_device()
    return DenseModel(PixelCLIPSegmenter(model, precision="float32", device=device), short_px)


_LOADERS: Mapping[str, Callable[[Path], PageModel]] = {
    BASELINE: _load_groupvit,
    CURATED: _load_groupvit,
    TUNED: _load_pixelclip,
    PLAIN: _load_clip,
}
