"""A whole evaluation with precomputed scores, timed against what it cannot do without.

171 classes, 60 x 80 scores of the kind `close` of `segbench.bench.decode`, 640 x 480 photographs as
JPEG and label maps as PNG, in a folder data set and with a journal, as a user's run has them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segbench.bench.decode import CLASSES, GRID, SIZE, TEXTURE, USUAL
from segbench.datasets.pictures import read_image, read_indices
from segbench.errors import SegbenchError
from segbench.ops.count_argmax import count_argmax
from segbench.protocols.task import Task
from segbench.running.evaluate import evaluate

DISTINCT = 12
"""Photographs, label maps and score maps that are made; images are links to them, in turn."""


class PrecomputedSegmenter:
    """Gives score maps in turn, whatever it is shown."""

    name = "precomputed"

    def __init__(self, scores: Sequence[Tensor]) -> None:
        self._next = cycle(scores)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, 2) of no meaning."""
        return torch.ones(len(prompts), 2)

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:  # noqa: ARG002  # the protocol
        """(K, h, w) of the next image."""
        return next(self._next)


def score_maps() -> list[Tensor]:
    """(C, h, w) float32 of every distinct image."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(DISTINCT, CLASSES, 6, 8, generator=random)
    return [
        F.interpolate(blots[None], GRID, mode="bicubic")[0]
        + TEXTURE[USUAL] * torch.randn(CLASSES, *GRID, generator=random)
        for blots in coarse
    ]


@contextmanager
def picture_folder(images: int) -> Iterator[Path]:
    """A folder data set of blots of a dozen classes an image, 5 % of their pixels ignored."""
    random = torch.Generator().manual_seed(1)
    with TemporaryDirectory() as name:
        root = Path(name)
        photographs, masks = root / "images/val", root / "semantic_masks/val"
        for folder in (photographs, masks):
            folder.mkdir(parents=True)
        rows = [f"{value}\tclass {value}" for value in range(CLASSES)]
        (root / "labels.tsv").write_text("\n".join(["mask_value\tname", *rows]) + "\n")
        for index in range(images):
            photograph, mask = (f / f"{index:05}.{s}" for f, s in _kinds(photographs, masks))
            if index >= DISTINCT:
                photograph.hardlink_to(photographs / f"{index % DISTINCT:05}.jpg")
                mask.hardlink_to(masks / f"{index % DISTINCT:05}.png")
                continue
            coarse = torch.randn(1, 12 + 3, 9, 12, generator=random)
            full = F.interpolate(coarse, SIZE, mode="bicubic")[0]  # (15, H, W)
            labels = torch.randint(0, CLASSES, (12,), generator=random)[full[:12].argmax(dim=0)]
            labels[full[0].abs() < 0.05] = 255
            noise = 8 * torch.randn(3, *SIZE, generator=random)
            colours = (full[12:] * 50 + 128 + noise).clamp(0, 255).permute(1, 2, 0)
            Image.fromarray(colours.numpy().astype(np.uint8)).save(photograph, quality=90)
            Image.fromarray(labels.numpy().astype(np.uint8)).save(mask)
        yield root


def _kinds(photographs: Path, masks: Path) -> tuple[tuple[Path, str], tuple[Path, str]]:
    return (photographs, "jpg"), (masks, "png")


def measure_evaluation(images: int = 500) -> dict[str, float]:
    """Seconds of an evaluation, of its parts alone, and their ratios, on a CPU.

    The parts are timed before and after the evaluation in the same process, and the mean counts.

    Returns:
        evaluation_s, kernel_s (`count_argmax`), png_s and jpeg_s (decoding alone) of all images;
        evaluation_ratio_to_kernel_and_decode: evaluation_s / (kernel_s + png_s);
        evaluation_ratio_to_kernel_and_decode_with_photographs: with jpeg_s in the sum, as a harness
            has to read the photograph for any segmenter that is not precomputed.

    Raises:
        SegbenchError: the evaluation counts otherwise than the parts; not timed.
    """
    task = Task(id="bench@whole", dataset={"kind": "folder", "ignore": [255]})
    scores = score_maps()
    with picture_folder(images) as root:
        evaluate(PrecomputedSegmenter(scores), task, root=root, limit=2)  # compiles
        before, counts = _parts(root, scores)
        start = perf_counter()
        report = evaluate(PrecomputedSegmenter(scores), task, root=root, out=root / "out")
        seconds = perf_counter() - start
        after, _ = _parts(root, scores)
    if not np.array_equal(report.confusion.counts, counts.numpy()):
        raise SegbenchError("the evaluation counts otherwise than the op; not timed")
    parts = {name: (before[name] + after[name]) / 2 for name in before}
    needed = parts["kernel_s"] + parts["png_s"]
    return {
        "images": images,
        "evaluation_s": seconds,
        **parts,
        "evaluation_ratio_to_kernel_and_decode": seconds / needed,
        "evaluation_ratio_to_kernel_and_decode_with_photographs": seconds
        / (needed + parts["jpeg_s"]),
    }


def _parts(root: Path, scores: Sequence[Tensor]) -> tuple[dict[str, float], Tensor]:
    """Seconds of decoding and of the op, and the (K, K) counts of all images."""
    seconds = dict.fromkeys(("kernel_s", "png_s", "jpeg_s"), 0.0)
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    masks = sorted((root / "semantic_masks/val").iterdir())
    for mask, precomputed in zip(masks, cycle(scores), strict=False):
        start = perf_counter()
        values = read_indices(mask)  # (H, W)
        png = perf_counter()
        read_image(root / "images/val" / f"{mask.stem}.jpg")
        jpeg = perf_counter()
        labels = torch.from_numpy(np.where(values == 255, np.int32(-1), values))  # (H, W)
        ready = perf_counter()
        counts += count_argmax(precomputed, labels, CLASSES)[0]
        seconds["kernel_s"] += perf_counter() - ready
        seconds["png_s"] += png - start
        seconds["jpeg_s"] += jpeg - png
    return seconds, counts
