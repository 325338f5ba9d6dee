"""Photographs and masks for training: views, masks on their grid, order.

Everything that is drawn for a photograph depends on (seed, epoch, key) alone, and the order of an
epoch on (seed, epoch): the same batches come out whatever the number of workers and ranks, and a
run goes on at any step without reading what was before.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

from torch.utils.data import Dataset

from maskcluster.config import ViewConfig
from maskcluster.data.loader import Draw, PhotoLoader, Replaced
from maskcluster.data.order import EndlessBatches, Place
from maskcluster.data.photos import Photos, with_masks
from maskcluster.data.streams import stream
from maskcluster.data.views import make_view
from maskcluster.errors import DataError, FormatError
from maskcluster.files import hash_json
from maskcluster.masks.mask_set import MaskSet, MaskSource
from maskcluster.masks.photo_files import Photo
from maskcluster.masks.rle import Rle

TRIES = 100
"""Photographs that are tried in the place of one that cannot be used."""


class MaskedPhotos(Dataset[Draw]):
    """Views of photographs and their masks, by (epoch, number).

    A photograph that cannot be used (damaged, or with masks of another size or of a damaged file)
    is replaced by the next one that can. This depends on the files alone, so that a resumed run
    sees what a run that was never stopped does, and needs no pass over all files beforehand.

    Args:
        photos: a folder, looked through with all folders inside, or files, or `Photos`.
        masks: of photographs by their keys; what has no entry is left out, with a warning. None
            gives views without masks.
        views: how photographs become views.
        seed: of all draws.

    Raises:
        DataError: no photographs, or none that has masks.
        UsageError: two photographs have one key.
    """

    def __init__(
        self,
        photos: Path | str | Sequence[Path | str] | Photos,
        masks: MaskSource | None,
        views: ViewConfig,
        *,
        seed: int = 0,
    ) -> None:
        found = photos if isinstance(photos, Photos) else Photos.find(photos)
        self.photos = found if masks is None else with_masks(found, masks)
        self.masks = masks
        self.views = views
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is drawn from: runs that differ in it see other photographs or masks.

        Of photographs keys and file sizes; of masks the source's own `fingerprint` and `rules`, as
        far as it has them.
        """
        rules = getattr(self.masks, "rules", None)
        return hash_json(
            {
                "photos": self.photos.fingerprint,
                "masks": getattr(self.masks, "fingerprint", None),
                "rules": asdict(rules) if rules is not None else None,
                "source": None if self.masks is None else type(self.masks).__name__,
            }
        )

    def __getitem__(self, place: Place) -> Draw:
        """A photograph as it is drawn in an epoch.

        Args:
            place: (epoch, number).

        Raises:
            DataError: neither it nor one of the next `TRIES` can be used.
        """
        epoch, index = place
        replaced: list[Replaced] = []
        for _ in range(min(TRIES, len(self))):
            key = self.photos.key(index)
            try:
                photo, masks = self._read(index, key)
            except (DataError, FormatError) as error:
                replaced.append(Replaced(key, str(error)))
                index = (index + 1) % len(self)
                continue
            draws = partial(stream, self.seed, epoch, "view", key)
            return Draw(make_view(photo, masks, self.views, draws), key, tuple(replaced))
        raise DataError(
            f"{replaced[0].key!r} and the {len(replaced) - 1} photographs after it: none can be "
            f"used ({replaced[0].reason})"
        )

    def _read(self, index: int, key: str) -> tuple[Photo, MaskSet | None]:
        photo = self.photos.read(index)
        if self.masks is None:
            return photo, None
        try:
            masks = self.masks[key]
        except KeyError as error:
            raise DataError("its masks are gone") from error
        if (masks.height, masks.width) != photo.shape[:2]:
            raise DataError(
                f"its masks are of {masks.height} x {masks.width}, the photograph, upright, is "
                f"{photo.shape[0]} x {photo.shape[1]} (height x width)"
            )
        return photo, masks


def batches(
    dataset: MaskedPhotos,
    *,
    batch: int,
    workers: int,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
) -> PhotoLoader:
    """Batches of steps `start` to `stop` - 1.

    Args:
        dataset: of all photographs, on every rank.
        batch: photographs of a step, over all ranks.
        workers: loader processes of this rank; 0 loads in this process.
        start: first step.
        stop: step after the last.
        rank: of this process.
        world: number of ranks; together they see what one would, in the same number of batches.

    Returns:
        loader of `Batch`, each of batch / world photographs.

    Raises:
        DataError: fewer photographs than a batch.
        RecipeError: `batch` is not a multiple of `world`.
    """
    order = EndlessBatches(
        len(dataset), batch, seed=dataset.seed, start=start, stop=stop, rank=rank, world=world
    )
    _load_compiled()
    return PhotoLoader(dataset, order, workers)


def _load_compiled() -> None:
    """Load what reads masks, so that forked workers share it."""
    mask = Rle.from_string(2, 2, b"13")
    mask.sample_bits([0], [0])
