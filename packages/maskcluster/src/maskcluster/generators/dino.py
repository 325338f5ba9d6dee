"""DINO masks: k-means over the features of any timm backbone, one mask a cluster."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskcluster.errors import CheckpointError, DataError, reason_of
from maskcluster.files import hash_file
from maskcluster.generators.protocol import Photo, check_photo, fit_short_side, nearest
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import masks_of_labels

log = logging.getLogger(__name__)

DINO_S16 = "vit_small_patch16_224.dino"
"""The paper's backbone: DINO v1, ViT-S/16."""

CHECK_EVERY = 10
"""Iterations of k-means between two looks whether all images have converged."""


class DenseBackbone(nn.Module):
    """Features of a timm model, one per patch: the output of its last block after its final norm.

    Args:
        model: any of timm whose `forward_features` gives tokens (B, N, D) or a map (B, D, h, w).
        mean: (3,) and
        std: (3,) of the pixels that it was trained on, of values in [0, 1].

    Attributes:
        stride: pixels a patch.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.stride = _stride(model)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Dense features.

        Args:
            images: (B, 3, H, W) float, values in [0, 1]; H and W multiples of the stride.

        Returns:
            (B, h, w, D), not normalised.
        """
        features: Tensor = self.model.forward_features((images - self.mean) / self.std)  # type: ignore[operator]  # timm's
        if features.ndim == 4:
            return features.permute(0, 2, 3, 1)
        if isinstance(getattr(self.model, "norm", None), nn.Identity):
            features = self.model.fc_norm(features)  # type: ignore[operator]  # the final norm of models that average
        patches = features[:, int(self.model.num_prefix_tokens) :]  # type: ignore[arg-type]  # timm's
        h, w = (size // self.stride for size in images.shape[2:])
        return patches.reshape(len(images), h, w, -1)


def load_backbone(
    name: str = DINO_S16, *, weights: Path | None = None, device: torch.device | str = "cpu"
) -> tuple[DenseBackbone, Mapping[str, Any]]:
    """Make a backbone of timm.

    Args:
        name: of timm's registry; its tag names the weights that are downloaded.
        weights: a file to read instead: timm's, DINO's or DINOv2's releases, or safetensors.
        device: where it computes.

    Returns:
        The backbone, and what identifies it.

    Raises:
        DataError: the weights cannot be downloaded.
        CheckpointError: the file cannot be read, or is of another model.
        RuntimeError: timm has no such model.
    """
    import timm

    try:
        model = _create(name, pretrained=weights is None)
    except OSError as error:
        raise DataError(
            f"{name}: weights cannot be downloaded ({reason_of(error)}); give a file: "
            "--dino.weights FILE"
        ) from error
    description: dict[str, Any] = {"backbone": name}
    if weights is not None:
        _load_weights(model, weights)
        description["weights_sha256"] = hash_file(weights)
    config = timm.data.resolve_data_config({}, model=model)
    backbone = DenseBackbone(model, config["mean"], config["std"])
    return backbone.to(device), description


class DinoMasks:
    """Masks of a photograph as clusters of its dense features.

    PixelCLIP (arXiv:2409.19846), DINO masks: k-means per image, Euclidean, over the patches' output
    tokens; each cluster is one mask, be it in one piece or several. Masks tile the photograph.

    Departs from the paper in that it sees the photograph whole, at its own aspect ratio, and not a
    crop of 640 x 640: masks are made once and not at every step.

    Args:
        backbone: see `load_backbone`.
        identity: what `load_backbone` said of it.
        clusters: k.
        short_side: pixels that the photograph's short side is resized to; sizes are rounded to
            the backbone's stride.
        long_side: most pixels of the other side.
        seed: of the first centres.
    """

    def __init__(
        self,
        backbone: DenseBackbone,
        identity: Mapping[str, Any],
        *,
        clusters: int = 16,
        short_side: int = 640,
        long_side: int = 1333,
        seed: int = 0,
    ) -> None:
        if clusters < 1 or short_side < 1 or long_side < short_side:
            raise ValueError(
                f"clusters and short_side must be at least 1 and long_side no less, "
                f"got {clusters}, {short_side}, {long_side}"
            )
        self.backbone = backbone
        self.identity = dict(identity)
        self.clusters, self.seed = clusters, seed
        self.short_side, self.long_side = short_side, long_side

    @property
    def description(self) -> Mapping[str, Any]:
        """Name, backbone and options."""
        options = {name: getattr(self, name) for name in ("clusters", "short_side", "long_side")}
        return {"name": "dino", **self.identity, **options, "seed": self.seed}

    def __call__(self, photo: Photo) -> MaskSet:
        """Masks of (H, W, 3) uint8 RGB."""
        return self.many([photo])[0]

    def many(self, photos: Sequence[Photo]) -> list[MaskSet]:
        """Masks of each photograph; those that are resized to one size are computed together."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for at, photo in enumerate(photos):
            by_size.setdefault(self._size(*check_photo(photo)), []).append(at)
        found: dict[int, MaskSet] = {}
        for size, places in by_size.items():
            images = torch.stack([self._resize(photos[at], size) for at in places])  # (B, 3, H, W)
            labels = self.label(images).cpu().numpy()  # (B, h, w)
            for at, label in zip(places, labels, strict=True):
                found[at] = _of_labels(label, *photos[at].shape[:2])
        return [found[at] for at in range(len(photos))]

    @torch.no_grad()
    def label(self, images: Tensor) -> Tensor:
        """The cluster of each patch.

        Args:
            images: (B, 3, H, W) float, values in [0, 1], on the backbone's device.

        Returns:
            (B, h, w) int64 in [0, clusters).
        """
        features = self.backbone(images)  # (B, h, w, D)
        labels = cluster_tokens(features.flatten(1, 2), clusters=self.clusters, seed=self.seed)
        return labels.view(features.shape[:3])

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The size that a photograph is resized to, in whole patches."""
        stride = self.backbone.stride
        fitted = fit_short_side(height, width, self.short_side, self.long_side)
        tall, wide = (max(1, round(side / stride)) * stride for side in fitted)
        return tall, wide

    def _resize(self, photo: Photo, size: tuple[int, int]) -> Tensor:
        """(3, H, W) float of values in [0, 1], on the backbone's device."""
        device = self.backbone.mean.device
        image = torch.tensor(photo, device=device).permute(2, 0, 1)[None] / 255  # (1, 3, H, W)
        return F.interpolate(image, size, mode="bilinear", antialias=True)[0].clamp(0, 1)


@torch.no_grad()
def cluster_tokens(
    tokens: Tensor,
    *,
    clusters: int = 16,
    seed: int = 0,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> Tensor:
    """Lloyd's k-means of each image on its own, all images at a time.

    The first centres are different tokens, drawn by the seed from their number alone, so that an
    image's result depends on no other. An image stands still once the squared moves of its centres
    add up to at most the tolerance; whether all do is looked at every `CHECK_EVERY` iterations, as
    each look makes a GPU wait. A cluster without tokens keeps its centre. A CPU, which does not
    wait and whose cache holds one image, takes the images in turn.

    Args:
        tokens: (B, N, D) float.
        clusters: k; N if that is less.
        seed: of the first centres.
        max_iterations: most moves of the centres.
        tolerance: in squared units of the tokens.

    Returns:
        (B, N) int64, the nearest centre of each token, the lowest at a tie.
    """
    if tokens.device.type == "cpu" and len(tokens) > 1:
        return torch.cat(
            [
                cluster_tokens(
                    x,
                    clusters=clusters,
                    seed=seed,
                    max_iterations=max_iterations,
                    tolerance=tolerance,
                )
                for x in torch.split(tokens, 1)
            ]
        )
    x = tokens.float()
    count = x.shape[1]
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    centres = x[:, drawn[:clusters].to(x.device)]  # (B, k, D)
    still = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # (B,)
    for iteration in range(max_iterations):
        if iteration % CHECK_EVERY == 0 and bool(still.all()):
            break
        moved = _move_centres(x, centres)
        moved = torch.where(still[:, None, None], centres, moved)
        still = still | ((moved - centres).square().sum(dim=(1, 2)) <= tolerance)
        centres = moved
    return _nearest_centre(x, centres)


def _move_centres(x: Tensor, centres: Tensor) -> Tensor:
    """(B, k, D) means of the tokens that are nearest to each centre."""
    one_hot = F.one_hot(_nearest_centre(x, centres), centres.shape[1]).to(x.dtype)  # (B, N, k)
    size = one_hot.sum(dim=1)[..., None]  # (B, k, 1)
    return torch.where(size > 0, one_hot.mT @ x / size.clamp(min=1), centres)


def _nearest_centre(x: Tensor, centres: Tensor) -> Tensor:
    """(B, N): |x - c|^2 is least where x . c - |c|^2 / 2 is greatest."""
    half = centres.square().sum(dim=2)[:, None] / 2  # (B, 1, k)
    return torch.baddbmm(half, x, centres.mT, beta=-1).argmax(dim=2)


def _of_labels(labels: npt.NDArray[np.int64], height: int, width: int) -> MaskSet:
    """One mask per label, resized to the photograph."""
    rows, columns = nearest(height, labels.shape[0]), nearest(width, labels.shape[1])
    whole = labels[rows[:, None], columns[None]]  # (H, W)
    return MaskSet.of(height, width, masks_of_labels(whole), source="dino")


def _create(name: str, *, pretrained: bool) -> nn.Module:
    """A timm model without head, that takes images of any size."""
    import timm

    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a convolutional network has no such option, and needs none
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return model  # type: ignore[no-any-return]


def _stride(model: nn.Module) -> int:
    embed = getattr(model, "patch_embed", None)
    if embed is not None and hasattr(embed, "patch_size"):
        return int(embed.patch_size[0])
    return int(model.feature_info[-1]["reduction"])  # type: ignore[index]  # timm's


def _load_weights(model: nn.Module, path: Path) -> None:
    """Read timm's file, or a released one of DINO or DINOv2.

    Raises:
        CheckpointError: it cannot be read, or is of another model.
    """
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: weights cannot be read ({reason})") from error
    state = _plain_names(state)
    convert = getattr(
        __import__(type(model).__module__, fromlist=["x"]), "checkpoint_filter_fn", None
    )
    try:
        model.load_state_dict(convert(state, model) if convert else state)
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: weights of another model ({reason_of(error)})") from error


def _plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of the backbone; a training checkpoint of DINO holds a teacher with a head."""
    state = state.get("teacher", state)
    plain = {name.removeprefix("module.").removeprefix("backbone."): state[name] for name in state}
    return {name: value for name, value in plain.items() if not name.startswith("head.")}
