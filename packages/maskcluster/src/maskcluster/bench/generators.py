"""Speed of masks: sampling run lengths, and each generator on one machine."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.bench.timing import Call, time_calls
from maskcluster.generators.dino import DINO_S16, DenseBackbone, DinoMasks, cluster_tokens
from maskcluster.generators.protocol import Photo
from maskcluster.generators.sam import SamMasks, SamOptions, stability_of
from maskcluster.generators.superpixels import Felzenszwalb, Slic
from maskcluster.masks.rle import Rle

SA1B_SIZE = 1500, 2250
COCO_SIZE = 480, 640


def measure(device: torch.device) -> dict[str, Any]:
    """Time all that makes or reads masks; weights are random, so no download is needed.

    Args:
        device: of DINO and SAM; sampling and superpixels run on the CPU.

    Returns:
        For each part `ways` with `median_ms`, `p20_ms` and `p80_ms`: `ours` and, where there is a
        plain way, `plain` and the `ratio` of their medians.
    """
    return {
        "rle_sample": _rle_sample(),
        "superpixels": _superpixels(),
        "kmeans": _kmeans(device),
        "dino": _dino(device),
        "sam_candidates": _sam_candidates(device),
    }


def _rle_sample() -> dict[str, Any]:
    """65,536 look-ups in a mask of SA-1B's size, against decoding and indexing."""
    from pycocotools import mask as coco

    height, width = SA1B_SIZE
    y, x = np.mgrid[:height, :width]
    noise = 0.05 * np.random.default_rng(0).normal(size=SA1B_SIZE)
    blob = Rle.from_mask(((y - 700) / 300) ** 2 + ((x - 1000) / 400) ** 2 + noise < 1)
    text = blob.to_string()
    rows, columns = np.linspace(0, height - 1, 256), np.linspace(0, width - 1, 256)
    at = rows.astype(np.int64)[:, None], columns.astype(np.int64)[None]

    def ours() -> object:
        return Rle.from_string(height, width, text).sample(rows, columns)

    def plain() -> object:
        return coco.decode({"size": [height, width], "counts": text})[at].astype(np.bool_)

    return {"runs": len(blob.runs)} | _compare(ours, plain, torch.device("cpu"))


def _superpixels() -> dict[str, Any]:
    photo = _photo(*COCO_SIZE)
    slic, felzenszwalb = Slic(), Felzenszwalb()
    calls: dict[str, Call] = {
        "slic": lambda: slic(photo),
        "felzenszwalb": lambda: felzenszwalb(photo),
    }
    return {"ways": time_calls(calls, torch.device("cpu"), repeats=3)}


def _kmeans(device: torch.device) -> dict[str, Any]:
    """The tokens of a batch of 640 x 640 crops, against one image after the other."""
    x = torch.randn(48 if device.type == "cuda" else 8, 1600, 384, device=device)

    def ours() -> object:
        return cluster_tokens(x)

    def plain() -> object:
        return [cluster_tokens(image[None]) for image in x]

    return {"images": len(x)} | _compare(ours, plain, device, repeats=3)


def _dino(device: torch.device) -> dict[str, Any]:
    """DINO v1's ViT-S/16 on photographs of COCO's size."""
    import timm

    model = timm.create_model(DINO_S16, pretrained=False, num_classes=0, dynamic_img_size=True)
    backbone = DenseBackbone(model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).to(device)
    generator = DinoMasks(backbone, {})
    photos = [_photo(*COCO_SIZE)] * (16 if device.type == "cuda" else 2)
    found = time_calls({"ours": lambda: generator.many(photos)}, device, repeats=3)["ours"]
    each = {name: value / len(photos) for name, value in found.items()}
    return {"photos": len(photos), "ways": {"one photograph": each}}


class _Blobs:
    """A stand-in for SAM that costs nothing: smooth random logits, three in ten of them good."""

    def __init__(self, device: torch.device, points: int) -> None:
        made = torch.Generator().manual_seed(0)
        coarse = 30 * torch.randn(3 * points, 1, 8, 8, generator=made)
        fine = F.interpolate(coarse, (256, 256), mode="bicubic")[:, 0]
        self.logits = fine.view(points, 3, 256, 256).to(device)
        self.iou = torch.rand(points, 3, generator=made).to(device)
        self.description: dict[str, Any] = {}

    def encode(self, image: Photo) -> tuple[int, ...]:
        return image.shape[:2]

    def predict(self, encoded: Any, points: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002  # the protocol's
        return self.logits[: len(points)], self.iou[: len(points)]

    def upsample(self, encoded: tuple[int, ...], logits: Tensor) -> Tensor:
        return F.interpolate(logits[:, None], encoded, mode="bilinear")[:, 0]


def _sam_candidates(device: torch.device) -> dict[str, Any]:
    """Candidates of a photograph of SA-1B's size to run lengths, without the model's own time.

    The plain way resizes all candidates before any is dropped.
    """
    side = 32 if device.type == "cuda" else 6
    model, photo = _Blobs(device, 64), _photo(*SA1B_SIZE)
    options = SamOptions(points_per_side=side, iou_threshold=0.7, stability_threshold=0.9)
    generator = SamMasks(model, options)

    def plain() -> object:
        kept = []
        for start in range(0, side * side, 64):
            logits, iou = model.predict(None, range(start, min(start + 64, side * side)))
            for one, score in zip(logits.flatten(0, 1), iou.flatten(), strict=True):
                full = model.upsample(SA1B_SIZE, one[None])
                stable = stability_of(full, 0.0, 1.0) >= options.stability_threshold
                if bool(stable & (score > options.iou_threshold)):
                    kept.append(Rle.from_mask((full[0] > 0).cpu().numpy()))
        return kept

    found = _compare(lambda: generator(photo), plain, device, repeats=2)
    return {"candidates": 3 * side * side, "device": device.type} | found


def _photo(height: int, width: int) -> Photo:
    """Random colours, smooth over some dozens of pixels."""
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (255 * smooth).byte().permute(1, 2, 0).contiguous().numpy()


def _compare(ours: Call, plain: Call, device: torch.device, *, repeats: int = 20) -> dict[str, Any]:
    ways = time_calls({"ours": ours, "plain": plain}, device, repeats=repeats)
    return {"ways": ways, "ratio": ways["plain"]["median_ms"] / ways["ours"]["median_ms"]}
