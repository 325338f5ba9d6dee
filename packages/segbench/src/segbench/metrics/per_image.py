"""Confusion counts of every image, kept sparse: what intervals and comparisons are made from."""

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segbench.errors import FormatError
from segbench.metrics.confusion import AbsentRule, Areas, IntArray

VERSION = 1
KIND = "segbench-per-image"


@dataclass(frozen=True, slots=True, eq=False)
class PerImageCounts:
    """Sparse confusion matrices of I images over K classes.

    Entry j belongs to image i where offsets[i] <= j < offsets[i + 1] and says that `counts[j]`
    pixels of true class `pairs[j] // K` were predicted as class `pairs[j] % K`.
    """

    classes: int
    """K."""
    ids: tuple[str, ...]
    """I image ids."""
    offsets: IntArray
    """(I + 1,)"""
    pairs: IntArray
    """(n,) in [0, K * K)."""
    counts: IntArray
    """(n,) >= 1."""

    @classmethod
    def of_sparse(
        cls, classes: int, images: Iterable[tuple[str, IntArray, IntArray]]
    ) -> "PerImageCounts":
        """Gather (id, pairs, counts) of every image, as `sparse` gives them."""
        rows = list(images)
        empty = np.zeros(0, dtype=np.int64)
        offsets = np.cumsum([0, *(len(pairs) for _, pairs, _ in rows)], dtype=np.int64)  # (I + 1,)
        pairs = np.concatenate([empty, *(pairs for _, pairs, _ in rows)])
        counts = np.concatenate([empty, *(counts for _, _, counts in rows)])
        return cls(classes, tuple(name for name, _, _ in rows), offsets, pairs, counts)

    def total(self) -> IntArray:
        """(K, K) counts of all images."""
        flat = np.zeros(self.classes**2, dtype=np.int64)  # (K * K,)
        np.add.at(flat, self.pairs, self.counts)
        return flat.reshape(self.classes, self.classes)

    def areas(self) -> Areas:
        """Areas of every image and class, (I, K) each."""
        image = np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))  # (n,)
        true, predicted = np.divmod(self.pairs, self.classes)  # (n,), (n,)
        tp, gt, pr = (np.zeros((len(self.ids), self.classes), dtype=np.int64) for _ in range(3))
        np.add.at(gt, (image, true), self.counts)
        np.add.at(pr, (image, predicted), self.counts)
        right = true == predicted
        np.add.at(tp, (image[right], true[right]), self.counts[right])
        return Areas(tp, gt, pr)

    def select(self, ids: Sequence[str]) -> Areas:
        """Areas of these images in this order, (n, K) each.

        Raises:
            KeyError: an id is not here.
        """
        row = {image_id: index for index, image_id in enumerate(self.ids)}
        chosen = [row[image_id] for image_id in ids]
        return Areas(*(area[chosen] for area in self.areas()))

    def miou_image(self, rule: AbsentRule = "union") -> float:
        """Mean over images of the mIoU inside each image; images without a scored pixel are out."""
        areas = self.areas()
        mious = areas.miou(rule)[areas.gt.any(axis=1)]  # (n,)
        return float(mious.mean()) if len(mious) else float("nan")

    def diagnostics(self) -> dict[str, float]:
        """How many classes an image is said to hold, and how many it holds.

        Counted over scored pixels, of images that have any. A segmenter that paints every image
        with one class, or with all of them, shows here before it shows in mIoU.

        Returns:
            distinct_classes: mean number of distinct predicted classes an image.
            distinct_classes_true: mean number of distinct true classes an image.
            present_recall: share of (image, present class) pairs whose class is predicted
                somewhere in the image.
        """
        areas = self.areas()
        scored = areas.gt.any(axis=1)  # (I,)
        present, predicted = areas.gt[scored] > 0, areas.pr[scored] > 0  # (n, K), (n, K)
        if not scored.any():
            return dict.fromkeys(
                ("distinct_classes", "distinct_classes_true", "present_recall"), float("nan")
            )
        return {
            "distinct_classes": float(predicted.sum(axis=1).mean()),
            "distinct_classes_true": float(present.sum(axis=1).mean()),
            "present_recall": float((present & predicted).sum() / present.sum()),
        }

    def to_bytes(self) -> bytes:
        """The contents of `per_image.npz`."""
        arrays = {
            "kind": np.array(KIND),
            "version": np.array(VERSION),
            "classes": np.array(self.classes),
            "ids": np.array(self.ids, dtype=np.str_),
            "offsets": self.offsets,
            "pairs": self.pairs,
            "counts": self.counts,
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, array in arrays.items():
                one = io.BytesIO()
                np.lib.format.write_array(one, array, allow_pickle=False)
                # NumPy's level 6 takes seven times as long for a file that is 7 % smaller
                entry, how = zipfile.ZipInfo(f"{name}.npy"), zipfile.ZIP_DEFLATED
                file.writestr(entry, one.getvalue(), compress_type=how, compresslevel=1)
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> "PerImageCounts":
        """Read `per_image.npz`.

        Raises:
            FormatError: the file is damaged, of another kind or of another version.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path}: cannot be read: {error}") from error
        found = str(arrays.get("kind")), int(arrays.get("version", 0))
        if found != (KIND, VERSION):
            raise FormatError(
                f"{path}: found {found[0]} version {found[1]}, reads {KIND} {VERSION}"
            )
        ids = tuple(str(image_id) for image_id in arrays["ids"])
        return cls(
            int(arrays["classes"]), ids, arrays["offsets"], arrays["pairs"], arrays["counts"]
        )


def sparse(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Places and values of counts that are not 0.

    Args:
        counts: of any shape, (K, K) for a confusion matrix.

    Returns:
        pairs: (n,) places in the flattened counts, ascending: true class * K + predicted class.
        counts: (n,) of each.
    """
    flat = counts.reshape(-1)
    pairs = np.flatnonzero(flat)  # (n,)
    return pairs, flat[pairs]
